//! Delivering a batch in parts: a part that is refused is halved until the event that is to blame
//! stands alone. In order, so that an answer always speaks of the beginning of the batch.

use super::attempt::{outcome, within};
use crate::sink::{Delivered, Rejection, SinkError, SinkEvent};
use std::{future::Future, ops::Range, time::Duration};

/// How long the delivery of one batch may take with all its requests, unless a receiver says less; what is not done by
/// then is handed out again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(18);

/// After so many events in a row that a receiver refuses, the rest is not tried now: who answers alike to all of them
/// may be away in a way of its own.
const ENOUGH_REFUSED: usize = 10;

/// Why a receiver refused a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sink) struct Refusal {
    /// For people, and for the log.
    pub(in crate::sink) reason: String,
    /// What it said, which may quote the event.
    pub(in crate::sink) answer: Option<String>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self {
            reason,
            answer: None,
        }
    }
}

/// What became of one part.
#[derive(Debug)]
pub(in crate::sink) enum Part {
    /// All of it is with the receiver.
    Taken,
    /// None of it was for the receiver, and nothing was sent.
    PassedOver,
    /// The receiver refused it.
    Refused(Refusal),
    /// It cannot be sent as it is, and why.
    Unsendable(String),
}

/// Whoever takes parts of a batch.
pub(in crate::sink) trait Receiver: Sync {
    /// How many events one part holds at most.
    fn most(&self) -> usize;

    /// Whether two events that follow each other may be in one part.
    fn is_together(&self, one: &SinkEvent, next: &SinkEvent) -> bool {
        let _ = (one, next);
        true
    }

    /// How long the delivery of one batch may take.
    fn timeout(&self) -> Duration {
        DELIVERY_TIMEOUT
    }

    /// Sends one part, which is never empty.
    fn send(&self, part: &[SinkEvent]) -> impl Future<Output = Result<Part, SinkError>> + Send;
}

/// Delivers a batch to a receiver, in order.
pub(in crate::sink) async fn deliver(
    receiver: &impl Receiver,
    batch: &[SinkEvent],
) -> Result<Delivered, SinkError> {
    let mut done = Delivered::default();
    let sending = send_all(receiver, batch, &mut done);
    let end = within(receiver.timeout(), "the batch was not delivered", sending).await;
    outcome(done, end)
}

async fn send_all(
    receiver: &impl Receiver,
    batch: &[SinkEvent],
    done: &mut Delivered,
) -> Result<(), SinkError> {
    // What is still to be sent, the next part last.
    let mut waiting: Vec<Range<usize>> = runs(receiver, batch)
        .into_iter()
        .flat_map(|run| parts(run, receiver.most()))
        .collect();
    waiting.reverse();
    let mut refused_in_a_row = 0;
    while let Some(range) = waiting.pop() {
        let Some(part) = batch.get(range.clone()) else {
            break;
        };
        let rejection = match receiver.send(part).await? {
            Part::Taken => {
                refused_in_a_row = 0;
                done.taken = range.end;
                continue;
            }
            Part::PassedOver => {
                done.taken = range.end;
                continue;
            }
            Part::Refused(_) | Part::Unsendable(_) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
                continue;
            }
            Part::Refused(Refusal { reason, answer }) => {
                refused_in_a_row += 1;
                Rejection::refused(range.start, reason).with_answer(answer)
            }
            Part::Unsendable(reason) => Rejection::new(range.start, reason),
        };
        done.rejected.push(rejection);
        done.taken = range.end;
        if refused_in_a_row >= ENOUGH_REFUSED {
            break;
        }
    }
    Ok(())
}

/// The rows of events that may be in one part.
fn runs(receiver: &impl Receiver, batch: &[SinkEvent]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for (index, pair) in batch.windows(2).enumerate() {
        if let [one, next] = pair
            && !receiver.is_together(one, next)
        {
            runs.push(start..index + 1);
            start = index + 1;
        }
    }
    runs.push(start..batch.len());
    runs
}

fn parts(run: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let most = most.max(1);
    let end = run.end;
    run.step_by(most)
        .map(move |start| start..(start.saturating_add(most)).min(end))
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

    /// Refuses every part that holds the event at position 3, and takes the others.
    struct Picky(Mutex<Vec<u64>>);

    impl Receiver for Picky {
        fn most(&self) -> usize {
            5
        }

        async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
            let positions: Vec<u64> = part.iter().map(|event| event.position).collect();
            if positions.contains(&3) {
                return Ok(Part::Refused("it is 3".to_owned().into()));
            }
            if positions.contains(&8) {
                return Err(SinkError::new("away"));
            }
            self.0.lock().unwrap().extend(positions);
            Ok(Part::Taken)
        }
    }

    fn numbered(count: u64) -> Vec<SinkEvent> {
        (0..count)
            .map(|position| SinkEvent {
                position,
                ..event()
            })
            .collect()
    }

    #[tokio::test]
    async fn the_event_that_is_to_blame_is_rejected_alone_and_the_order_kept() {
        let batch = numbered(9);
        let receiver = Picky(Mutex::default());
        let delivered = deliver(&receiver, &batch[3..4]).await;
        let rejection = |index| vec![Rejection::refused(index, "it is 3")];
        assert_eq!(delivered, Ok(Delivered::up_to(1, rejection(0))));
        // What came before the failure counts; the failure shows again with the rest.
        let delivered = deliver(&receiver, &batch).await;
        assert_eq!(delivered, Ok(Delivered::up_to(5, rejection(3))));
        assert_eq!(*receiver.0.lock().unwrap(), [0, 1, 2, 4]);
        let rest = deliver(&receiver, &batch[5..]).await;
        assert_eq!(rest, Err(SinkError::new("away")));
    }

    /// Refuses everything, and counts.
    struct Stubborn(Mutex<usize>);

    impl Receiver for Stubborn {
        fn most(&self) -> usize {
            usize::MAX
        }

        async fn send(&self, _part: &[SinkEvent]) -> Result<Part, SinkError> {
            *self.0.lock().unwrap() += 1;
            Ok(Part::Refused("no".to_owned().into()))
        }
    }

    #[tokio::test]
    async fn who_refuses_all_is_not_asked_about_each() {
        let receiver = Stubborn(Mutex::default());
        let delivered = deliver(&receiver, &numbered(500)).await.unwrap();
        assert_eq!(delivered.taken, ENOUGH_REFUSED);
        assert_eq!(delivered.rejected.len(), ENOUGH_REFUSED);
        assert!(*receiver.0.lock().unwrap() < 40);
    }

    #[test]
    fn parts_cover_the_batch_in_order() {
        let all = |run, most| parts(run, most).collect::<Vec<_>>();
        assert_eq!(all(0..5, 2), [0..2, 2..4, 4..5]);
        assert_eq!(all(3..5, 0), [3..4, 4..5]);
        assert_eq!(all(1..5, usize::MAX).first(), Some(&(1..5)));
        assert!(all(0..0, 3).is_empty());
    }

    /// Takes two events together if both are below 3, or neither.
    struct Sorting(Mutex<Vec<Vec<u64>>>);

    impl Receiver for Sorting {
        fn most(&self) -> usize {
            2
        }

        fn is_together(&self, one: &SinkEvent, next: &SinkEvent) -> bool {
            (one.position < 3) == (next.position < 3)
        }

        async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
            let positions = part.iter().map(|event| event.position);
            self.0.lock().unwrap().push(positions.collect());
            Ok(Part::Taken)
        }
    }

    #[tokio::test]
    async fn what_does_not_belong_together_is_in_different_parts() {
        let receiver = Sorting(Mutex::default());
        let batch = numbered(6);
        assert_eq!(deliver(&receiver, &batch).await, Ok(Delivered::all(&batch)));
        let parts = receiver.0.lock().unwrap();
        assert_eq!(*parts, [vec![0, 1], vec![2], vec![3, 4], vec![5]]);
    }
}
