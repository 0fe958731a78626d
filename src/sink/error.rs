//! What can go wrong with a sink.

use super::{causes::with_causes, redacted};
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// A batch did not arrive, or it is not known whether it did. It is delivered again.
///
/// Two errors are equal if they say the same, whatever their sources.
#[derive(Clone)]
pub struct SinkError {
    reason: String,
    retry_after: Option<Duration>,
    is_absent: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl SinkError {
    /// Returns a failure that may pass. `reason` is for people and is logged: it must not contain a secret.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
            is_absent: false,
            source: None,
        }
    }

    /// Returns a failure of a receiver that is not there, and perhaps never was, such as an optional component that
    /// nobody configured. A sink that never took an event passes its events over then; for one that ever did, the receiver
    /// is away, as with any other failure.
    pub fn absent(reason: impl Into<String>) -> Self {
        Self {
            is_absent: true,
            ..Self::new(reason)
        }
    }

    /// Returns a failure that `source` caused. The reason is `what`, followed by the source and its own causes, none
    /// of which may contain a secret.
    pub fn caused_by(what: impl fmt::Display, source: impl Error + Send + Sync + 'static) -> Self {
        Self::new(format!("{what}: {}", with_causes(&source))).with_source(source)
    }

    /// Sets the error that caused this one. The reason stays as it is.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Sets how long to wait at least before the batch is delivered again. Without a value, the delivery decides.
    #[must_use]
    pub fn with_retry_after(mut self, pause: impl Into<Option<Duration>>) -> Self {
        self.retry_after = pause.into();
        self
    }

    /// Returns what went wrong, in words for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns whether it is made by [`absent`](Self::absent).
    pub fn is_absent(&self) -> bool {
        self.is_absent
    }

    /// Returns how long the receiver asks to be left alone (HTTP's `Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

// Without the source: what a library's error shows of itself this way may be more than its text.
impl fmt::Debug for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkError")
            .field("reason", &self.reason)
            .field("retry_after", &self.retry_after)
            .field("is_absent", &self.is_absent)
            .finish_non_exhaustive()
    }
}

impl Error for SinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source: &(dyn Error + 'static) = self.source.as_deref()?;
        Some(source)
    }
}

impl PartialEq for SinkError {
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason
            && self.retry_after == other.retry_after
            && self.is_absent == other.is_absent
    }
}

impl Eq for SinkError {}

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
    /// What is wrong with `url`, of which only what may be shown is kept.
    pub(crate) fn new(url: &str, reason: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self {
            url: redacted(url),
            reason: reason.into(),
            allowed: allowed.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_keeps_what_caused_it() {
        let error = SinkError::caused_by("the receiver", io::Error::other("it is away"))
            .with_retry_after(Duration::from_secs(3));
        assert_eq!(error.to_string(), "the receiver: it is away");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        let source = error.source().unwrap().downcast_ref::<io::Error>();
        assert_eq!(source.unwrap().to_string(), "it is away");
        let same = SinkError::new(error.reason()).with_retry_after(error.retry_after());
        assert_eq!(same, error);
    }

    #[test]
    fn debug_shows_nothing_of_the_source_but_the_reason() {
        let error = SinkError::new("away").with_source(io::Error::other("hunter2"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
