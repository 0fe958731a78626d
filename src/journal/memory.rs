//! The log in memory: for tests, and while a file cannot be written. Bounded: the oldest goes first,
//! what applications published before what the interceptors did.

use super::{
    MAX_READ_BYTES,
    record::{Applied, Change, Held, Record, Refused, RunKey, Stored},
    removed::{RemovedUntil, seconds},
    status::Counters,
};
use crate::event::EventId;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::{Instant, SystemTime},
};

/// A log that lives as long as its process.
#[derive(Debug)]
pub(super) struct MemoryLog {
    // Each with its position and the time at which it was stored.
    events: VecDeque<(u64, i64, Record)>,
    ids: HashSet<EventId>,
    held: Vec<(RunKey, String, Vec<Record>)>,
    cursors: HashMap<String, u64>,
    refused: Vec<Refused>,
    // Who must have an event before it may go.
    sinks: Vec<String>,
    // With the kind of event, and the time at which it was stored.
    delivered_ids: VecDeque<(EventId, bool, i64)>,
    removed_until: RemovedUntil,
    // As a file's log has it: a clock that does not jump.
    opened: (SystemTime, Instant),
    next_seq: u64,
    capacity: usize,
}

impl MemoryLog {
    pub(super) fn new(capacity: usize, sinks: Vec<String>) -> Self {
        Self {
            events: VecDeque::new(),
            ids: HashSet::new(),
            held: Vec::new(),
            cursors: HashMap::new(),
            refused: Vec::new(),
            sinks,
            delivered_ids: VecDeque::new(),
            removed_until: RemovedUntil::default(),
            opened: (SystemTime::now(), Instant::now()),
            next_seq: 1,
            capacity: capacity.max(1),
        }
    }

    /// The same, with positions behind `newest`.
    #[cfg(feature = "sqlite")]
    pub(super) fn go_on_after(mut self, newest: u64) -> Self {
        self.next_seq = newest + 1;
        self
    }

    /// Applies changes, counts what they did, and says what there was no room for.
    pub(super) fn write(&mut self, changes: &[Change], counters: &Counters) {
        let applied = self.apply(changes);
        counters.count(applied);
        if applied.removed > 0 {
            counters.lose(
                applied.removed,
                "memory has no more room for events: the oldest were removed",
            );
        }
        counters.remove_until(self.removed_until);
        counters.depth.store(self.depth(), Relaxed);
        counters.reach(self.newest());
    }

    pub(super) fn apply(&mut self, changes: &[Change]) -> Applied {
        let mut applied = Applied::default();
        for change in changes {
            match change {
                Change::Insert(records) => self.insert(records, &mut applied),
                Change::Hold(key, evidence, records) => {
                    let known = self.held.iter_mut().find(|(held, ..)| held == key);
                    if let Some((_, known, held)) = known {
                        known.clone_from(evidence);
                        held.extend(records.iter().cloned());
                    } else if !records.is_empty() {
                        let held = (key.clone(), evidence.clone(), records.clone());
                        self.held.push(held);
                        applied.held += 1;
                    }
                }
                Change::Release(key) => {
                    if let Some(records) = self.take_held(key, &mut applied) {
                        self.insert(&records, &mut applied);
                    }
                }
                Change::Replace(key, records) => {
                    if self.take_held(key, &mut applied).is_some() {
                        self.insert(records, &mut applied);
                    }
                }
                Change::Discard(key) => {
                    self.take_held(key, &mut applied);
                }
                Change::MoveCursor(name, position) => {
                    self.cursors.insert(name.clone(), *position);
                    applied.removed_delivered += self.forget_delivered();
                }
                Change::Refuse(refused) => {
                    self.refused.extend(refused.iter().cloned());
                    // In the order of the events, whichever sink was first.
                    self.refused.sort_by_key(|refused| refused.seq);
                    // As bounded as the events themselves.
                    let surplus = self.refused.len().saturating_sub(self.capacity);
                    self.refused.drain(..surplus);
                }
                Change::Bury(sink, position) => {
                    self.refused
                        .retain(|refused| refused.sink != *sink || refused.seq != *position);
                }
            }
        }
        applied
    }

    fn take_held(&mut self, key: &RunKey, applied: &mut Applied) -> Option<Vec<Record>> {
        let index = self.held.iter().position(|(held, ..)| held == key)?;
        applied.held -= 1;
        Some(self.held.remove(index).2)
    }

    fn insert(&mut self, records: &[Record], applied: &mut Applied) {
        let (wall, monotonic) = self.opened;
        let stored_at = seconds(wall + monotonic.elapsed());
        for record in records {
            if !self.ids.insert(record.event_id) {
                applied.duplicates += 1;
                continue;
            }
            applied.inserted += 1;
            self.events
                .push_back((self.next_seq, stored_at, record.clone()));
            self.next_seq += 1;
        }
        if self.events.len() > self.capacity {
            applied.removed += self.make_room();
        }
    }

    /// Down to the capacity, user events first, and never the newest: whoever reads waits for it. A
    /// tenth more goes at once where the log is large, so that not every event has to make room.
    fn make_room(&mut self) -> u64 {
        let goal = self.capacity - self.capacity / 10;
        let mut surplus = self.events.len().saturating_sub(goal);
        let before = self.events.len();
        let newest = self.newest();
        let ids = &mut self.ids;
        let removed_until = &mut self.removed_until;
        self.events.retain(|(seq, stored_at, record)| {
            let goes = surplus > 0 && !record.is_lifecycle() && *seq < newest;
            if goes {
                surplus -= 1;
                ids.remove(&record.event_id);
                removed_until.raise(false, *stored_at);
            }
            !goes
        });
        for _ in 0..surplus.min(self.events.len().saturating_sub(1)) {
            if let Some((_, stored_at, record)) = self.events.pop_front() {
                self.ids.remove(&record.event_id);
                self.removed_until.raise(record.is_lifecycle(), stored_at);
            }
        }
        (before - self.events.len()) as u64
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.held
            .iter()
            .map(|(key, evidence, records)| Held {
                key: key.clone(),
                evidence: evidence.clone(),
                records: records.iter().map(|record| record.json.clone()).collect(),
            })
            .collect()
    }

    pub(super) fn missing(&self, mut ids: Vec<EventId>) -> Vec<EventId> {
        ids.retain(|id| !self.ids.contains(id));
        ids
    }

    pub(super) fn find(&self, ids: &[EventId]) -> Vec<String> {
        if ids.is_empty() {
            return Vec::new();
        }
        let found = self.events.iter().map(|(_, _, record)| record);
        found
            .filter(|record| ids.contains(&record.event_id))
            .map(|record| record.json.clone())
            .collect()
    }

    pub(super) fn cursor(&self, name: &str) -> Option<u64> {
        self.cursors.get(name).copied()
    }

    pub(super) fn depth(&self) -> u64 {
        self.events.len() as u64
    }

    /// What every sink is done with makes room for what comes; its ids are still remembered.
    fn forget_delivered(&mut self) -> u64 {
        let Some(delivered) = self
            .sinks
            .iter()
            .map(|sink| self.cursors.get(sink).copied().unwrap_or_default())
            .min()
        else {
            return 0;
        };
        let before = self.events.len();
        while self
            .events
            .front()
            .is_some_and(|(seq, ..)| *seq <= delivered)
            && let Some((_, stored_at, record)) = self.events.pop_front()
        {
            self.delivered_ids
                .push_back((record.event_id, record.is_lifecycle(), stored_at));
        }
        while self.delivered_ids.len() > self.capacity
            && let Some((id, is_lifecycle, stored_at)) = self.delivered_ids.pop_front()
        {
            self.removed_until.raise(is_lifecycle, stored_at);
            self.ids.remove(&id);
        }
        (before - self.events.len()) as u64
    }

    pub(super) fn refused(&self, sink: Option<&str>, after: u64, limit: usize) -> Vec<Refused> {
        let found: Vec<&Refused> = self
            .refused
            .iter()
            .filter(|refused| refused.seq > after)
            .filter(|refused| sink.is_none_or(|sink| refused.sink == sink))
            .collect();
        let last = limit.checked_sub(1).and_then(|last| found.get(last));
        // All that there are of the last event, so that who goes on behind it misses none.
        let last = last.map_or(u64::MAX, |last| last.seq);
        let is_in = |refused: &&&Refused| limit > 0 && refused.seq <= last;
        found.iter().filter(is_in).copied().cloned().collect()
    }

    pub(super) fn newest(&self) -> u64 {
        self.next_seq - 1
    }

    pub(super) fn read(&self, after: u64, limit: usize) -> Vec<Stored> {
        // Positions ascend, though there are gaps.
        let from = self.events.partition_point(|(seq, ..)| *seq <= after);
        let mut bytes = 0;
        self.events
            .range(from..)
            .take(limit)
            .take_while(|(.., record)| {
                let goes = bytes <= MAX_READ_BYTES;
                bytes += record.json.len();
                goes
            })
            .map(|(seq, _, record)| Stored {
                seq: *seq,
                record: record.clone(),
            })
            .collect()
    }
}

/// Changes that could not be written yet, in order. Bounded by their weight: the number of their
/// events, and one for a change without.
#[cfg(feature = "sqlite")]
#[derive(Debug)]
pub(super) struct Backlog {
    changes: VecDeque<Change>,
    weight: usize,
    capacity: usize,
}

#[cfg(feature = "sqlite")]
impl Backlog {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            weight: 0,
            capacity: capacity.max(1),
        }
    }

    /// Keeps changes for later; gives back how many events had to go to make room.
    pub(super) fn keep(&mut self, changes: Vec<Change>) -> u64 {
        for change in changes {
            if let Change::MoveCursor(name, position) = &change
                && let Some(known) = self.cursor_mut(name)
            {
                *known = *position;
                continue;
            }
            self.weight += change.weight();
            self.changes.push_back(change);
        }
        if self.weight > self.capacity {
            self.make_room()
        } else {
            0
        }
    }

    fn cursor_mut(&mut self, of: &str) -> Option<&mut u64> {
        self.changes.iter_mut().find_map(|change| match change {
            Change::MoveCursor(name, position) if name == of => Some(position),
            _ => None,
        })
    }

    /// Down to a tenth below the capacity, so that not every change has to make room: user events
    /// first, then the oldest changes.
    fn make_room(&mut self) -> u64 {
        let goal = self.capacity - self.capacity / 10;
        let mut surplus = self.weight.saturating_sub(goal);
        let mut lost = 0;
        self.changes.retain_mut(|change| {
            if surplus > 0
                && let Change::Insert(records) = change
            {
                let before = records.len();
                records.retain(|record| record.is_lifecycle());
                let removed = before - records.len();
                lost += removed;
                surplus = surplus.saturating_sub(removed);
                return !records.is_empty();
            }
            true
        });
        self.weight = self.changes.iter().map(Change::weight).sum();
        while self.weight > goal
            && let Some(change) = self.changes.pop_front()
        {
            self.weight -= change.weight();
            lost += change.contents();
        }
        lost as u64
    }

    /// The changes, in order; the backlog is empty afterwards.
    pub(super) fn take(&mut self) -> Vec<Change> {
        self.weight = 0;
        std::mem::take(&mut self.changes).into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn events(&self) -> usize {
        self.changes
            .iter()
            .map(|change| change.records().len())
            .sum()
    }
}
