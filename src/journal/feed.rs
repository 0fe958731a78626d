//! Condenses the changes that one batch of frames brings to the store: what is held and settled within the
//! batch never touches the table `held`. Pure functions; knows neither the log's files nor the store's.

use super::record::Change;
use crate::event::StoredEvent;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// The ids of the holds that the store has.
#[derive(Debug, Default)]
pub(super) struct HeldKeys(HashSet<Uuid>);

/// What a batch does to [`HeldKeys`] once the store has it: for each hold, whether it is held afterwards.
#[derive(Debug, Default)]
pub(super) struct HeldDelta(HashMap<Uuid, bool>);

impl HeldKeys {
    pub(super) fn new(hold_ids: impl IntoIterator<Item = Uuid>) -> Self {
        Self(hold_ids.into_iter().collect())
    }

    pub(super) fn apply(&mut self, delta: &HeldDelta) {
        for (hold_id, is_held) in &delta.0 {
            if *is_held {
                self.0.insert(*hold_id);
            } else {
                self.0.remove(hold_id);
            }
        }
    }

    /// Returns fewer changes to the same effect, and what they do to the held keys.
    pub(super) fn condense(&self, changes: Vec<Change>) -> (Vec<Change>, HeldDelta) {
        // For each hold of which the store has nothing, the places of its events in `condensed`.
        let mut here: HashMap<Uuid, Vec<usize>> = HashMap::new();
        let mut delta = HeldDelta::default();
        let mut condensed: Vec<Change> = Vec::with_capacity(changes.len());
        for change in changes {
            let settled = match &change {
                Change::Release(key) | Change::Replace(key, _) | Change::Discard(key) => {
                    key.hold_id
                }
                Change::Insert(_) => {
                    condensed.push(change);
                    continue;
                }
                Change::Hold(key, ..) => {
                    let known = delta.0.get(&key.hold_id).copied();
                    if !known.unwrap_or_else(|| self.0.contains(&key.hold_id)) {
                        here.entry(key.hold_id).or_default().push(condensed.len());
                    }
                    condensed.push(change);
                    continue;
                }
            };
            // The store may hold it even if it is not among our keys: a file that was put in the place of
            // this one brought its own holds.
            let Some(places) = here.remove(&settled) else {
                delta.0.insert(settled, false);
                condensed.push(change);
                continue;
            };
            let held = take_events(&mut condensed, &places);
            match change {
                Change::Release(_) => condensed.push(Change::Insert(held)),
                // If nothing was held, nothing is replaced.
                Change::Replace(_, events) if !held.is_empty() => {
                    condensed.push(Change::Insert(events));
                }
                _ => {}
            }
        }
        delta
            .0
            .extend(here.into_keys().map(|hold_id| (hold_id, true)));
        (joined(condensed), delta)
    }
}

/// Takes held events out of their places and leaves empty inserts there.
fn take_events(changes: &mut [Change], places: &[usize]) -> Vec<StoredEvent> {
    let mut taken = Vec::new();
    for place in places {
        if let Some(change) = changes.get_mut(*place)
            && let Change::Hold(_, _, events) =
                std::mem::replace(change, Change::Insert(Vec::new()))
        {
            taken.extend(events);
        }
    }
    taken
}

/// Joins inserts that follow each other.
fn joined(changes: Vec<Change>) -> Vec<Change> {
    let mut joined: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        match (joined.last_mut(), change) {
            (_, Change::Insert(events)) if events.is_empty() => {}
            (Some(Change::Insert(last)), Change::Insert(mut events)) => last.append(&mut events),
            (_, change) => joined.push(change),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Execution;
    use crate::journal::{Store as _, memory::MemoryLog, record::HoldKey, status::Counters};
    use proptest::prelude::*;

    fn event(number: u128) -> StoredEvent {
        let mut event = crate::event::Event::new("test.event");
        event.metadata.event_id = Some(Uuid::from_u128(number).into());
        event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
        StoredEvent::new(0, &event).unwrap()
    }

    fn key(hold: u128) -> HoldKey {
        HoldKey {
            execution: Execution {
                namespace: "default".to_owned(),
                workflow_id: "w".to_owned(),
                run_id: "r".to_owned(),
            },
            hold_id: Uuid::from_u128(hold),
        }
    }

    fn hold(hold: u128, number: u128) -> Change {
        Change::Hold(key(hold), "then".to_owned(), vec![event(number)])
    }

    #[test]
    fn what_is_held_and_settled_at_once_is_never_held() {
        let (changes, delta) = HeldKeys::default().condense(vec![
            Change::Insert(vec![event(1)]),
            hold(1, 2),
            hold(2, 3),
            hold(3, 4),
            Change::Insert(vec![event(5)]),
            Change::Release(key(1)),
            Change::Discard(key(2)),
            Change::Replace(key(3), vec![event(6)]),
        ]);
        let ids = |numbers: &[u128]| Change::Insert(numbers.iter().map(|it| event(*it)).collect());
        assert_eq!(changes, [ids(&[1, 5, 2, 6])]);
        assert!(delta.0.is_empty());
    }

    #[test]
    fn what_the_store_holds_already_is_settled_there() {
        let held = HeldKeys::new([Uuid::from_u128(1)]);
        let changes = vec![hold(1, 2), Change::Release(key(1))];
        let (condensed, delta) = held.condense(changes.clone());
        assert_eq!(condensed, changes);
        assert_eq!(delta.0, HashMap::from([(Uuid::from_u128(1), false)]));
    }

    /// A change with small numbers, so that they meet.
    fn change() -> impl Strategy<Value = Change> {
        (0_u8..6, 1_u128..4, 1_u128..30).prop_map(|(kind, name, number)| match kind {
            0 => Change::Insert(vec![event(number)]),
            1 | 2 => hold(name, number),
            3 => Change::Release(key(name)),
            4 => Change::Replace(key(name), vec![event(number)]),
            _ => Change::Discard(key(name)),
        })
    }

    proptest! {
        /// Whatever is in a batch, and wherever batches end, the store has the same in the end.
        #[test]
        fn condensed_or_not_comes_to_the_same(batches in prop::collection::vec(prop::collection::vec(change(), 0..12), 1..5)) {
            let counters = Counters::default();
            let mut plain = MemoryLog::new(1_000, Vec::new());
            let mut fed = MemoryLog::new(1_000, Vec::new());
            let mut held = HeldKeys::default();
            for batch in batches {
                plain.write(batch.clone(), &counters).say(&counters);
                let (condensed, delta) = held.condense(batch);
                fed.write(condensed, &counters).say(&counters);
                held.apply(&delta);
            }
            let ids = |log: &mut MemoryLog| -> Vec<_> {
                log.read(None, 0, 1_000).unwrap().iter().map(|event| event.event_id).collect()
            };
            prop_assert_eq!(ids(&mut plain), ids(&mut fed));
            let sorted = |log: &MemoryLog| {
                let mut held = log.held().unwrap();
                held.sort_by_key(|held| held.key.hold_id);
                held
            };
            prop_assert_eq!(sorted(&plain), sorted(&fed));
        }
    }
}
