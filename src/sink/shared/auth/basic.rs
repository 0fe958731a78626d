//! User name and password, as a sink's URL holds them.

use super::{AuthHeader, AuthProvider};
use crate::sink::SinkError;
use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// One user name and password that never change (RFC 7617).
#[derive(Debug)]
pub(in crate::sink) struct Basic {
    header: AuthHeader,
}

impl Basic {
    /// Sends this user name and password.
    pub(in crate::sink) fn new(user: &str, password: &str) -> Self {
        Self {
            header: basic(user, password),
        }
    }

    /// What `url` holds; none if it holds neither.
    pub(in crate::sink) fn of(url: &url::Url) -> Option<Self> {
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let (user, password) = (url.username(), url.password());
        (!user.is_empty() || password.is_some())
            .then(|| Self::new(&decoded(user), &decoded(password.unwrap_or_default())))
    }
}

/// The header of a user name and a password.
pub(super) fn basic(user: &str, password: &str) -> AuthHeader {
    let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
    AuthHeader::new("Authorization", format!("Basic {pair}"))
}

#[async_trait]
impl AuthProvider for Basic {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        Ok(vec![self.header.clone()])
    }
}
