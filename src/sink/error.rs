//! What can go wrong with a sink.

use std::time::Duration;

/// A batch did not arrive, or it is not known whether it did. It is delivered again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct SinkError {
    /// What went wrong, in words for people, without secrets.
    pub reason: String,
    /// How long the receiver asks to be left alone (HTTP's `Retry-After`).
    pub retry_after: Option<Duration>,
}

impl SinkError {
    /// A failure that may pass.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
        }
    }

    /// Sets how long to wait at least before the batch is delivered again.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
}

/// A sink's URL is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store URL {url:?} is not usable: {reason}; allowed: {allowed}")]
#[non_exhaustive]
pub struct SinkUrlError {
    /// The URL without user name, password and parameters.
    pub url: String,
    /// What is wrong with it.
    pub reason: String,
    /// What is allowed.
    pub allowed: String,
}

impl SinkUrlError {
    #[cfg(feature = "http-client")]
    /// What is wrong with `url`, of which only what may be shown is kept.
    pub(crate) fn new(url: &str, reason: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self {
            url: super::redacted(url),
            reason: reason.into(),
            allowed: allowed.into(),
        }
    }
}
