//! How sinks that speak HTTP prove who they are: a provider gives headers, and is told when a
//! receiver refused them. Knows nothing of events or of what is sent.

mod basic;
mod client_credentials;
mod from_secret;
pub(in crate::sink) mod secret;
mod signature;
mod variables;

pub(in crate::sink) use basic::Basic;
pub use client_credentials::ClientCredentials;
pub(in crate::sink) use from_secret::{FromFile, Scheme};
pub(in crate::sink) use secret::SecretFile;
pub(in crate::sink) use signature::Signer;
pub(in crate::sink) use variables::{AUTH, Place, check_together, from_environment, signer};

use crate::sink::SinkError;
use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use std::fmt;

/// A header with credentials. `Debug` does not show its value.
#[derive(Clone)]
pub struct AuthHeader {
    name: String,
    value: SecretString,
}

impl AuthHeader {
    /// Creates a header with this name and value.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: SecretString::from(value.into()),
        }
    }

    /// `Authorization: Bearer TOKEN`.
    pub fn bearer(token: &str) -> Self {
        Self::new("Authorization", format!("Bearer {token}"))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value: a secret, not to be logged.
    pub fn secret_value(&self) -> &str {
        self.value.expose_secret()
    }
}

impl fmt::Debug for AuthHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthHeader")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Provides the headers with credentials for requests.
///
/// ```
/// use async_trait::async_trait;
/// use temporal_eventstore::sink::{AuthHeader, AuthProvider, SinkError};
///
/// #[derive(Debug)]
/// struct ApiKey;
///
/// #[async_trait]
/// impl AuthProvider for ApiKey {
///     async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
///         Ok(vec![AuthHeader::new("x-api-key", "from your vault")])
///     }
/// }
/// ```
#[async_trait]
pub trait AuthProvider: Send + Sync + fmt::Debug + 'static {
    /// Returns the headers of the next request. Called for each request: cache what takes long to get.
    ///
    /// # Errors
    /// [`SinkError`] if it cannot get any now: the batch is delivered again later. The text is logged and must not
    /// contain a secret.
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError>;

    /// Called when a receiver answered 401 to `refused`, which [`headers`](Self::headers) had returned. The next call of
    /// `headers`, which follows at once, should return new ones. Several requests may report the same headers.
    async fn renew(&self, refused: &[AuthHeader]) {
        let _ = refused;
    }
}

/// One bearer token that never changes.
#[derive(Clone, Debug)]
pub struct StaticBearer {
    header: AuthHeader,
}

impl StaticBearer {
    /// Sends this token.
    pub fn new(token: impl AsRef<str>) -> Self {
        Self {
            header: AuthHeader::bearer(token.as_ref()),
        }
    }
}

#[async_trait]
impl AuthProvider for StaticBearer {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        Ok(vec![self.header.clone()])
    }
}
