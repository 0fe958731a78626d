//! Sends requests to the server at the configured rate, and retries those that fail for a temporary reason. Knows
//! nothing of what the requests ask.

use super::{ReconcileError, Reconciler};
use crate::temporal::request_error::RequestError;
use backon::{ExponentialBuilder, Retryable as _};
use std::future::Future;
use tokio::time::MissedTickBehavior;

/// How often a request is tried that fails for a reason that may pass.
const REQUEST_RETRIES: usize = 5;

impl Reconciler {
    /// One request at the agreed rate, tried again when its failure may pass.
    pub(super) async fn request<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<T, RequestError> {
        let paced = || async {
            self.pace().await;
            request().await
        };
        paced
            .retry(
                ExponentialBuilder::default()
                    .with_jitter()
                    .with_max_times(REQUEST_RETRIES),
            )
            .when(RequestError::may_pass)
            .await
    }

    async fn pace(&self) {
        let mut pace = self.shared.pace.lock().await;
        pace.get_or_insert_with(|| {
            let mut interval = tokio::time::interval(self.shared.options.pause_between_requests());
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        })
        .tick()
        .await;
    }
}

pub(super) fn server_error(error: RequestError) -> ReconcileError {
    ReconcileError::Server(Box::new(error))
}
