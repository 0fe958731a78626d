//! Delivering a batch in parts: a part that is refused is halved until the event that is to blame
//! stands alone. In order, so that an answer always speaks of the beginning of the batch.

use super::attempt::{outcome, within};
use crate::sink::{Delivered, Rejection, SinkError, SinkEvent};
use std::{
    future::Future,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How long the delivery of one batch may take with all its requests, unless a receiver says less; what is not done by
/// then is handed out again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(18);

/// After so many events that a receiver refuses, and none that it ever took, the rest is not tried.
const ENOUGH_REFUSED: usize = 100;

/// What became of one part.
#[derive(Debug)]
pub(in crate::sink) enum Part {
    /// All of it is with the receiver.
    Taken,
    /// None of it was for the receiver, and nothing was sent.
    PassedOver,
    /// The receiver will never take it as it is, and why.
    Refused(String),
    /// It cannot be sent as it is, and why.
    Unsendable(String),
}

/// Whoever takes parts of a batch.
pub(in crate::sink) trait Receiver: Sync {
    /// How many events one part holds at most.
    fn most(&self) -> usize;

    /// How long the delivery of one batch may take.
    fn timeout(&self) -> Duration {
        DELIVERY_TIMEOUT
    }

    /// Whether it ever took anything. Until then its refusals may be about the place: to give up events
    /// for a wrong URL would empty the journal into nothing. True from the start for a receiver whose
    /// refusals are about events alone.
    fn has_taken(&self) -> &AtomicBool;

    /// Sends one part, which is never empty.
    fn send(&self, part: &[SinkEvent]) -> impl Future<Output = Result<Part, SinkError>> + Send;
}

/// Delivers a batch to a receiver, in order.
pub(in crate::sink) async fn deliver(
    receiver: &impl Receiver,
    batch: &[SinkEvent],
) -> Result<Delivered, SinkError> {
    let mut progress = Progress::default();
    let sending = send_all(receiver, batch, &mut progress);
    let end = within(receiver.timeout(), "the batch was not delivered", sending).await;
    let Progress { done, refused } = progress;
    match done.rejected.first() {
        Some(first) if refused > 0 && !receiver.has_taken().load(Ordering::Relaxed) => {
            Err(SinkError::new(format!(
                "{}; it never took an event yet, so that the place may be wrong",
                first.reason
            )))
        }
        _ => outcome(done, end),
    }
}

/// How far a delivery came.
#[derive(Default)]
struct Progress {
    done: Delivered,
    /// How many of the rejected events the receiver refused.
    refused: usize,
}

impl Progress {
    fn reject(&mut self, index: usize, reason: String) {
        self.done.rejected.push(Rejection::new(index, reason));
        self.done.taken = index + 1;
    }
}

async fn send_all(
    receiver: &impl Receiver,
    batch: &[SinkEvent],
    progress: &mut Progress,
) -> Result<(), SinkError> {
    // What is still to be sent, the next part last.
    let mut waiting = parts(batch.len(), receiver.most());
    while let Some(range) = waiting.pop() {
        let Some(part) = batch.get(range.clone()) else {
            break;
        };
        match receiver.send(part).await? {
            Part::Taken => {
                receiver.has_taken().store(true, Ordering::Relaxed);
                progress.done.taken = range.end;
            }
            Part::PassedOver => progress.done.taken = range.end,
            Part::Refused(reason) if range.len() <= 1 => {
                progress.refused += 1;
                progress.reject(range.start, reason);
                if progress.refused >= ENOUGH_REFUSED
                    && !receiver.has_taken().load(Ordering::Relaxed)
                {
                    break;
                }
            }
            Part::Unsendable(reason) if range.len() <= 1 => progress.reject(range.start, reason),
            Part::Refused(_) | Part::Unsendable(_) => {
                let middle = range.start + range.len() / 2;
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
            }
        }
    }
    Ok(())
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
    use std::sync::Mutex;

    fn event() -> SinkEvent {
        let mut event = Event::new("data.processed");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        SinkEvent::new(1, &event).unwrap()
    }

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
        let batch = vec![event(); 3];
        let receiver = WrongPlace(AtomicBool::new(false), AtomicBool::new(false));
        let delivered = deliver(&receiver, &batch).await;
        assert_eq!(delivered, Ok(Delivered::all(&batch)));
        let error = deliver(&receiver, &batch).await.unwrap_err();
        assert!(error.reason().contains("never took"), "{error}");
    }

    /// Refuses every part that holds the event at position 3, and takes the others.
    struct Picky(AtomicBool, Mutex<Vec<u64>>);

    impl Receiver for Picky {
        fn most(&self) -> usize {
            5
        }

        fn has_taken(&self) -> &AtomicBool {
            &self.0
        }

        async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
            let positions: Vec<u64> = part.iter().map(|event| event.position).collect();
            if positions.contains(&3) {
                return Ok(Part::Refused("it is 3".to_owned()));
            }
            if positions.contains(&8) {
                return Err(SinkError::new("away"));
            }
            self.1.lock().unwrap().extend(positions);
            Ok(Part::Taken)
        }
    }

    #[tokio::test]
    async fn the_event_that_is_to_blame_is_rejected_alone_and_the_order_kept() {
        let batch: Vec<_> = (0..9)
            .map(|position| SinkEvent {
                position,
                ..event()
            })
            .collect();
        // Trusted from the start: a refusal counts before anything was taken.
        let receiver = Picky(AtomicBool::new(true), Mutex::default());
        let delivered = deliver(&receiver, &batch[3..4]).await;
        let rejection = |index| vec![Rejection::new(index, "it is 3")];
        assert_eq!(delivered, Ok(Delivered::up_to(1, rejection(0))));
        // What came before the failure counts; the failure shows again with the rest.
        let delivered = deliver(&receiver, &batch).await;
        assert_eq!(delivered, Ok(Delivered::up_to(5, rejection(3))));
        assert_eq!(*receiver.1.lock().unwrap(), [0, 1, 2, 4]);
        let rest = deliver(&receiver, &batch[5..]).await;
        assert_eq!(rest, Err(SinkError::new("away")));
    }

    #[test]
    fn parts_cover_the_batch_and_the_first_comes_last() {
        assert_eq!(parts(5, 2), [4..5, 2..4, 0..2]);
        assert_eq!(parts(2, 0), [1..2, 0..1]);
        assert!(parts(0, 3).is_empty());
    }
}
