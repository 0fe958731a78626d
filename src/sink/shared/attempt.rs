//! One attempt to deliver a batch: its end in time, and what became of the batch if it was cut off. Does not know how
//! a batch is delivered.

use crate::sink::{Delivered, SinkError};
use std::{future::Future, time::Duration};

/// Waits for a call, but no longer than `limit`: then `problem` is what the error says.
pub(in crate::sink) async fn within<T>(
    limit: Duration,
    problem: &str,
    call: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(SinkError::new(format!("{problem} within {limit:?}"))))
}

/// Returns what became of a batch of which the attempt did `done`, however it ended. What is done is not handed out
/// again; an error that lasts shows again with what is left.
pub(in crate::sink) fn outcome(
    done: Delivered,
    end: Result<(), SinkError>,
) -> Result<Delivered, SinkError> {
    match end {
        Err(error) if done.taken == 0 => Err(error),
        Err(_) | Ok(()) => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_ends_in_time_and_what_it_did_counts() {
        let limit = Duration::from_millis(1);
        let late = within::<()>(limit, "no answer", std::future::pending()).await;
        let error = SinkError::new("no answer within 1ms");
        assert_eq!(late, Err(error.clone()));
        assert_eq!(outcome(Delivered::default(), late.clone()), Err(error));
        let some = Delivered::up_to(2, Vec::new());
        assert_eq!(outcome(some.clone(), late), Ok(some));
    }
}
