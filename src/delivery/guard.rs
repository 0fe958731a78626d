//! Calls of sinks, bounded in time, and safe against panics.

use crate::sink::SinkError;
use futures_util::FutureExt as _;
use std::{panic::AssertUnwindSafe, time::Duration};

/// A call that takes longer counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

/// Returns what a sink answers; an error if it panics or does not answer in time.
pub(super) async fn call<T>(
    sink: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    let sink = AssertUnwindSafe(sink).catch_unwind();
    match tokio::time::timeout(CALL_TIMEOUT, sink).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(SinkError::new("it panicked")),
        Err(_) => Err(SinkError::new(format!(
            "it did not answer within {CALL_TIMEOUT:?}"
        ))),
    }
}
