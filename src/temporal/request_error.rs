//! Why the server gave no answer. Knows the clients' errors, and nothing of what was asked.

use std::time::Duration;
use temporalio_client::{
    errors::ClientConnectError,
    tonic::{self, Code},
};

/// One question may take this long; then the server counts as unreachable.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(
        "no connection to the server is known; connect with Client::connect, or give the plugin one"
    )]
    NotConnected,
    #[error("the server cannot be reached: {0}")]
    Connect(#[from] ClientConnectError),
    #[error("the server did not answer within {REQUEST_TIMEOUT:?}")]
    TimedOut,
    #[error("the server does not know the run any more")]
    Gone,
    #[error("the server refused: {0}")]
    Refused(#[from] tonic::Status),
}

impl RequestError {
    /// Whether asking again can help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NotConnected | Self::Gone => false,
            Self::Connect(_) | Self::TimedOut => true,
            // Keys and certificates are renewed while a worker runs.
            Self::Refused(_) if self.is_about_credentials() => true,
            Self::Refused(status) => matches!(
                status.code(),
                Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unknown
                    | Code::Cancelled
            ),
        }
    }

    /// Whether other credentials can help.
    pub(super) fn is_about_credentials(&self) -> bool {
        let (Self::Refused(status)
        | Self::Connect(ClientConnectError::SystemInfoCallError(status))) = self
        else {
            return false;
        };
        matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied
        )
    }
}
