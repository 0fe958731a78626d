//! Delivering a batch in parts: a part that is refused is halved until the event that is to blame
//! stands alone. In order, so that an answer always speaks of the beginning of the batch.

use super::{Delivered, Rejection, SinkError, SinkEvent};
use std::{
    future::Future,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// How long the delivery of one batch may take with all its requests; what is not done by then is
/// handed out again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(18);

/// After so many events that a receiver refuses, and none that it ever took, the rest is not tried.
const ENOUGH_REFUSED: usize = 100;

/// What became of one part.
#[derive(Debug)]
pub(super) enum Part {
    /// All of it is with the receiver.
    Taken,
    /// None of it was for the receiver, and nothing was sent.
    #[cfg_attr(not(any(feature = "dapr", feature = "segment")), allow(dead_code))]
    PassedOver,
    /// The receiver will never take it as it is, and why.
    Refused(String),
    /// It cannot be sent as it is, and why.
    Unfit(String),
}

/// Whoever takes parts of a batch.
pub(super) trait Receiver: Sync {
    /// How many events one part holds at most.
    fn most(&self) -> usize;

    /// Whether it ever took anything. Until then its refusals may be about the place: to give up events
    /// for a wrong URL would empty the journal into nothing.
    fn has_taken(&self) -> &AtomicBool;

    /// Sends one part, which is never empty.
    fn send(&self, part: &[SinkEvent]) -> impl Future<Output = Result<Part, SinkError>> + Send;
}

/// Delivers a batch to a receiver, in order.
pub(super) async fn deliver(
    receiver: &impl Receiver,
    batch: &[SinkEvent],
) -> Result<Delivered, SinkError> {
    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    let mut taken = 0;
    let mut rejected = Vec::new();
    let mut refused = 0;
    // What is still to be sent, the next part last.
    let mut waiting = parts(batch.len(), receiver.most());
    while let Some(range) = waiting.pop() {
        let Some(part) = batch.get(range.clone()) else {
            break;
        };
        let answer = match timeout_at(deadline, receiver.send(part)).await {
            Ok(answer) => answer,
            Err(_) => Err(SinkError::new(format!(
                "the batch took longer than {DELIVERY_TIMEOUT:?}"
            ))),
        };
        match answer {
            Ok(Part::Taken) => {
                receiver.has_taken().store(true, Ordering::Relaxed);
                taken = range.end;
            }
            Ok(Part::PassedOver) => taken = range.end,
            Ok(Part::Refused(reason)) if range.len() <= 1 => {
                refused += 1;
                if refused >= ENOUGH_REFUSED && !receiver.has_taken().load(Ordering::Relaxed) {
                    return Err(takes_nothing(&reason));
                }
                rejected.push(Rejection {
                    index: range.start,
                    reason,
                });
                taken = range.end;
            }
            Ok(Part::Unfit(reason)) if range.len() <= 1 => {
                rejected.push(Rejection {
                    index: range.start,
                    reason,
                });
                taken = range.end;
            }
            Ok(Part::Refused(_) | Part::Unfit(_)) => {
                let middle = range.start + range.len() / 2;
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
            }
            // What is done is done; the failure shows again with what is left.
            Err(_) if taken > 0 => break,
            Err(error) => return Err(error),
        }
    }
    match rejected.first() {
        Some(first) if refused > 0 && !receiver.has_taken().load(Ordering::Relaxed) => {
            Err(takes_nothing(&first.reason))
        }
        _ => Ok(Delivered::up_to(taken, rejected)),
    }
}

fn takes_nothing(reason: &str) -> SinkError {
    SinkError::new(format!(
        "{reason}; it never took an event yet, so that the place may be wrong"
    ))
}

fn parts(length: usize, most: usize) -> Vec<Range<usize>> {
    let most = most.max(1);
    (0..length)
        .step_by(most)
        .rev()
        .map(|start| start..(start + most).min(length))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId};

    /// Knows nobody at first, and then refuses everything.
    struct WrongPlace(AtomicBool, AtomicBool);

    impl Receiver for WrongPlace {
        fn most(&self) -> usize {
            usize::MAX
        }

        fn has_taken(&self) -> &AtomicBool {
            &self.0
        }

        async fn send(&self, _part: &[SinkEvent]) -> Result<Part, SinkError> {
            Ok(match self.1.swap(true, Ordering::Relaxed) {
                false => Part::PassedOver,
                true => Part::Refused("no".to_owned()),
            })
        }
    }

    #[tokio::test]
    async fn what_was_passed_over_does_not_clear_a_wrong_place() {
        let mut event = Event::new("data.processed");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        let batch = vec![SinkEvent::new(1, &event).unwrap(); 3];
        let receiver = WrongPlace(AtomicBool::new(false), AtomicBool::new(false));
        let delivered = deliver(&receiver, &batch).await;
        assert_eq!(delivered, Ok(Delivered::all(&batch)));
        let error = deliver(&receiver, &batch).await.unwrap_err();
        assert!(error.reason.contains("never took"), "{error}");
    }

    #[test]
    fn parts_cover_the_batch_and_the_first_comes_last() {
        assert_eq!(parts(5, 2), [4..5, 2..4, 0..2]);
        assert_eq!(parts(2, 0), [1..2, 0..1]);
        assert!(parts(0, 3).is_empty());
    }
}
