//! A header that is made of a secret, which may change.

use super::{AuthHeader, AuthProvider, basic::basic, secret::SecretFile};
use crate::sink::{SinkError, shared::http_client::is_header_value};
use async_trait::async_trait;
use secrecy::ExposeSecret as _;

/// What the secret is.
#[derive(Clone, Copy, Debug)]
pub(in crate::sink) enum Scheme {
    /// A bearer token.
    Bearer,
    /// A user name without a password.
    User,
}

/// The header that a file's secret makes.
#[derive(Debug)]
pub(in crate::sink) struct FromFile {
    file: SecretFile,
    scheme: Scheme,
}

impl FromFile {
    pub(in crate::sink) fn new(file: SecretFile, scheme: Scheme) -> Self {
        Self { file, scheme }
    }
}

#[async_trait]
impl AuthProvider for FromFile {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        let secret = self.file.read().await?;
        let header = match self.scheme {
            Scheme::Bearer => AuthHeader::bearer(secret.expose_secret()),
            Scheme::User => basic(secret.expose_secret(), ""),
        };
        match is_header_value(header.secret_value()) {
            true => Ok(vec![header]),
            false => Err(SinkError::new(format!(
                "what {:?} holds does not fit into a header",
                self.file
            ))),
        }
    }
}
