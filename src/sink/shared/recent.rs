//! The events that a sink knows to be in its stream, for a receiver that cannot tell duplicates.

use crate::event::EventId;
use std::collections::{HashSet, VecDeque};

/// How many events are remembered: more than a batch that comes again holds.
const CAPACITY: usize = 16 * 1024;

/// Ids, the oldest of which are forgotten.
#[derive(Default)]
pub(in crate::sink) struct Recent {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Recent {
    pub(in crate::sink) fn contains(&self, id: EventId) -> bool {
        self.ids.contains(&id)
    }

    /// Adds an id. Forgets nothing yet: what was found in the stream may be more than the capacity,
    /// and the batch in doubt is not the last of it.
    pub(in crate::sink) fn insert(&mut self, id: EventId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
    }

    /// Forgets the oldest, down to the capacity.
    pub(in crate::sink) fn forget_oldest(&mut self) {
        while self.order.len() > CAPACITY {
            if let Some(id) = self.order.pop_front() {
                self.ids.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_when_told_so() {
        let ids: Vec<_> = (0..CAPACITY + 2).map(|_| EventId::new()).collect();
        let mut recent = Recent::default();
        for id in ids.iter().chain(&ids) {
            recent.insert(*id);
        }
        assert!(recent.contains(ids[0]));
        recent.forget_oldest();
        assert!(!recent.contains(ids[0]) && !recent.contains(ids[1]));
        assert!(ids[2..].iter().all(|id| recent.contains(*id)));
        assert_eq!(recent.ids.len(), CAPACITY);
    }
}
