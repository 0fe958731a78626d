//! The events that a receiver refused and that are not judged yet, and what is remembered from one attempt to the next.
//! Knows no sink and no journal.

use super::judgement::{Judgement, LOOK_AHEAD, MANY, Row, judge};
use crate::event::DeadLetter;
use std::time::{Duration, Instant};

/// While a place seems to be at fault, it is looked for events that it takes for a hundredth of the time at most: should
/// it recover just then, those that it refused a moment ago would be at fault.
const LOOK_EVERY: u32 = 100;

/// An event that may become a dead letter, with the reason as it may be logged.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) letter: DeadLetter,
    /// When the event happened.
    pub(super) created_at: String,
    pub(super) reason: String,
}

/// The suspects of one sink, in order.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    waiting: Vec<Suspect>,
    /// When the first of them was refused, this time.
    since: Option<Instant>,
    known: Option<Known>,
    given_up: usize,
    outage: Option<Outage>,
}

/// What is remembered of a row of refused events, also while they are handed over again.
#[derive(Clone, Copy, Debug)]
struct Known {
    first: u64,
    has_taken: bool,
    hearings: u32,
}

/// The place seems to be at fault.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// When it is looked again for an event that it takes.
    look_at: Instant,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns how many of them were refused.
    pub(super) fn refused(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn first(&self) -> Option<&Suspect> {
        self.waiting.first()
    }

    /// Whether the next attempt begins with a single event.
    pub(super) fn is_outage(&self) -> bool {
        self.outage.is_some()
    }

    /// Adds an event that was refused, by a receiver that ever took one before, or never did.
    pub(super) fn refuse(&mut self, suspect: Suspect, has_taken: bool) {
        if self.waiting.is_empty() {
            let first = suspect.letter.position;
            self.since = Some(Instant::now());
            self.known = self
                .known
                .filter(|known| known.first == first)
                .or(Some(Known {
                    first,
                    has_taken,
                    hearings: 0,
                }));
        }
        self.waiting.push(suspect);
    }

    /// Notes that the receiver took an event. Those before it are at fault.
    pub(super) fn taken(&mut self) -> Vec<Suspect> {
        let at_fault = self.clear();
        self.known = None;
        self.outage = None;
        self.given_up = 0;
        at_fault
    }

    /// Judges them, before anything is taken behind them.
    pub(super) fn judge(&mut self, has_more: bool) -> Judgement {
        let Some(known) = &mut self.known else {
            return Judgement::LookFurther;
        };
        if !has_more {
            known.hearings = known.hearings.saturating_add(1);
        }
        judge(Row {
            refused: self.waiting.len(),
            given_up: self.given_up,
            has_taken: known.has_taken,
            is_taken_behind: false,
            has_more,
            look_ahead: match self.outage {
                None => MANY,
                Some(Outage { look_at }) if look_at <= Instant::now() => LOOK_AHEAD,
                Some(_) => 1,
            },
            hearings: known.hearings,
        })
    }

    /// Gives them up, with nothing taken behind them.
    pub(super) fn give_up(&mut self) -> Vec<Suspect> {
        self.given_up = self.given_up.saturating_add(self.waiting.len());
        self.known = None;
        self.clear()
    }

    /// Takes the first of them out, which is given up for another reason.
    pub(super) fn take_first(&mut self) -> Option<Suspect> {
        match self.waiting.is_empty() {
            true => None,
            false => Some(self.waiting.remove(0)),
        }
    }

    /// Notes that the place is at fault.
    pub(super) fn blame_place(&mut self) {
        let now = Instant::now();
        let took = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.outage = Some(match self.outage {
            // Soon, after the first event was refused once more.
            None => Outage { look_at: now },
            Some(Outage { look_at }) if look_at <= now => Outage {
                look_at: now + took.saturating_mul(LOOK_EVERY).min(MOST_PAUSE),
            },
            Some(outage) => outage,
        });
    }

    /// Forgets them, since they are handed over again. Returns the position after which that begins.
    pub(super) fn rewind(&mut self) -> Option<u64> {
        let first = self.waiting.first()?.letter.position;
        self.clear();
        Some(first.saturating_sub(1))
    }

    /// Forgets what is remembered of the row that is handed over again: how often it was heard, and what was taken
    /// before it.
    pub(super) fn forget_hearings(&mut self) {
        self.known = None;
    }

    fn clear(&mut self) -> Vec<Suspect> {
        self.since = None;
        std::mem::take(&mut self.waiting)
    }
}

/// It is looked at least that often.
const MOST_PAUSE: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    fn suspect(position: u64) -> Suspect {
        Suspect {
            letter: DeadLetter {
                sink: "s".to_owned(),
                event_id: EventId::new(),
                position,
                reason: "no".to_owned(),
                event: "{}".to_owned(),
            },
            created_at: String::new(),
            reason: "no".to_owned(),
        }
    }

    #[test]
    fn one_alone_is_heard_three_times_and_then_given_up() {
        let mut suspects = Suspects::default();
        for hearing in 1..=3 {
            suspects.refuse(suspect(7), true);
            let judgement = suspects.judge(false);
            if hearing < 3 {
                assert_eq!(judgement, Judgement::AskAgain, "{hearing}");
                assert_eq!(suspects.rewind(), Some(6));
            } else {
                assert_eq!(judgement, Judgement::EventsAtFault);
            }
        }
        assert_eq!(suspects.give_up().len(), 1);
        assert!(suspects.is_empty() && suspects.rewind().is_none());
    }

    #[test]
    fn nothing_that_was_heard_before_a_failure_counts_after_it() {
        let mut suspects = Suspects::default();
        for failures in 0..2 {
            for _ in 1..3 {
                suspects.refuse(suspect(7), true);
                assert_eq!(suspects.judge(false), Judgement::AskAgain, "{failures}");
                suspects.rewind();
            }
            suspects.forget_hearings();
        }
    }

    #[test]
    fn ten_alone_in_a_row_are_an_outage_until_one_is_taken() {
        let mut suspects = Suspects::default();
        let mut given_up = 0;
        let mut hear = |suspects: &mut Suspects, position| {
            for _ in 0..3 {
                suspects.refuse(suspect(position), true);
                match suspects.judge(false) {
                    Judgement::EventsAtFault => {
                        given_up += suspects.give_up().len();
                        return true;
                    }
                    Judgement::PlaceAtFault => {
                        suspects.blame_place();
                        suspects.rewind();
                        return false;
                    }
                    _ => suspects.rewind(),
                };
            }
            panic!("no judgement");
        };
        for position in 1..10 {
            assert!(hear(&mut suspects, position), "{position}");
        }
        assert!(!hear(&mut suspects, 10));
        assert!(suspects.is_outage());
        assert!(suspects.taken().is_empty());
        assert!(hear(&mut suspects, 12));
        assert_eq!(given_up, 10);
    }

    #[test]
    fn in_an_outage_it_is_looked_further_now_and_then() {
        let mut suspects = Suspects::default();
        for position in 1..=10 {
            suspects.refuse(suspect(position), true);
        }
        assert_eq!(suspects.judge(true), Judgement::PlaceAtFault);
        suspects.blame_place();
        assert_eq!(suspects.rewind(), Some(0));
        // At once, and far.
        for position in 1..=10 {
            suspects.refuse(suspect(position), true);
            assert_eq!(suspects.judge(true), Judgement::LookFurther);
        }
        std::thread::sleep(Duration::from_millis(5));
        suspects.blame_place();
        suspects.rewind();
        // Not again so soon.
        suspects.refuse(suspect(1), true);
        assert_eq!(suspects.judge(true), Judgement::PlaceAtFault);
        assert_eq!(suspects.taken().len(), 1);
        assert!(!suspects.is_outage());
    }
}
