//! The store in memory, for journals without a file and while a file is damaged; and the backlog of changes that
//! the log could not write. Both are bounded: the oldest user events go first, then the oldest lifecycle events.

use super::{
    JournalError, MAX_READ_BYTES, Store,
    record::{Applied, Change, Held, HoldKey, Note},
    removed::{RemovedUntil, seconds},
    status::Counters,
};
use crate::event::{DeadLetter, EventId, StoredEvent};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::{Instant, SystemTime},
};
use uuid::Uuid;

/// A store that lives as long as its process.
#[derive(Debug)]
pub(super) struct MemoryLog {
    // Each with the time at which it was stored.
    events: VecDeque<(i64, StoredEvent)>,
    ids: HashSet<EventId>,
    held: Vec<(HoldKey, String, Vec<StoredEvent>)>,
    cursors: HashMap<String, u64>,
    dead_letters: Vec<DeadLetter>,
    // The cursors of the sinks. Events that all of them have are removed.
    sinks: Vec<String>,
    // The ids of such events, for a while: whether it is a lifecycle event, and when it was stored.
    delivered_ids: VecDeque<(EventId, bool, i64)>,
    removed_until: RemovedUntil,
    // The wall clock when it was opened, and a clock that never jumps.
    opened: (SystemTime, Instant),
    next_position: u64,
    capacity: usize,
}

impl MemoryLog {
    pub(super) fn new(capacity: usize, sinks: Vec<String>) -> Self {
        Self {
            events: VecDeque::new(),
            ids: HashSet::new(),
            held: Vec::new(),
            cursors: HashMap::new(),
            dead_letters: Vec::new(),
            sinks,
            delivered_ids: VecDeque::new(),
            removed_until: RemovedUntil::default(),
            opened: (SystemTime::now(), Instant::now()),
            next_position: 1,
            capacity: capacity.max(1),
        }
    }

    /// Makes positions continue after `newest`.
    #[cfg(feature = "sqlite")]
    pub(super) fn go_on_after(mut self, newest: u64) -> Self {
        self.next_position = newest + 1;
        self
    }

    /// Applies changes and counts their effect. Returns how many events had to make room, for whoever calls to
    /// say when no lock is held.
    #[must_use]
    pub(super) fn write(&mut self, changes: Vec<Change>, counters: &Counters) -> MadeRoom {
        let applied = self.apply(changes);
        counters.count(applied);
        counters.remove_until(self.removed_until);
        counters.depth.store(self.depth(), Relaxed);
        counters.reach(self.newest());
        MadeRoom(applied.removed)
    }

    fn apply(&mut self, changes: Vec<Change>) -> Applied {
        let mut applied = Applied::default();
        for change in changes {
            match change {
                Change::Insert(events) => self.insert(events, &mut applied),
                Change::Hold(key, evidence, events) => {
                    let known = self.held.iter_mut().find(|(held, ..)| *held == key);
                    if let Some((_, known, held)) = known {
                        *known = evidence;
                        held.extend(events);
                    } else if !events.is_empty() {
                        self.held.push((key, evidence, events));
                        applied.held += 1;
                    }
                }
                Change::Release(key) => {
                    if let Some(events) = self.take_held(&key, &mut applied) {
                        self.insert(events, &mut applied);
                    }
                }
                Change::Replace(key, events) => {
                    if self.take_held(&key, &mut applied).is_some() {
                        self.insert(events, &mut applied);
                    }
                }
                Change::Discard(key) => {
                    self.take_held(&key, &mut applied);
                }
            }
        }
        applied
    }

    /// Keeps notes about delivery.
    pub(super) fn note(&mut self, notes: Vec<Note>, counters: &Counters) {
        for note in notes {
            match note {
                Note::MoveCursor(name, position) => {
                    self.cursors.insert(name, position);
                    self.forget_delivered();
                }
                Note::Refuse(letters) => {
                    self.dead_letters.extend(letters);
                    // In the order of positions, whichever sink noted them first.
                    self.dead_letters.sort_by_key(|letter| letter.position);
                    // Bounded as the events are.
                    let surplus = self.dead_letters.len().saturating_sub(self.capacity);
                    self.dead_letters.drain(..surplus);
                }
                Note::RemoveDeadLetter(sink, position) => {
                    self.dead_letters
                        .retain(|letter| letter.sink != sink || letter.position != position);
                }
            }
        }
        counters.remove_until(self.removed_until);
        counters.depth.store(self.depth(), Relaxed);
    }

    fn take_held(&mut self, key: &HoldKey, applied: &mut Applied) -> Option<Vec<StoredEvent>> {
        let index = self.held.iter().position(|(held, ..)| held == key)?;
        applied.held -= 1;
        Some(self.held.remove(index).2)
    }

    fn insert(&mut self, events: Vec<StoredEvent>, applied: &mut Applied) {
        let (wall, monotonic) = self.opened;
        let stored_at = seconds(wall + monotonic.elapsed());
        for mut event in events {
            if !self.ids.insert(event.event_id) {
                applied.duplicates += 1;
                continue;
            }
            applied.inserted += 1;
            event.position = self.next_position;
            self.events.push_back((stored_at, event));
            self.next_position += 1;
        }
        if self.events.len() > self.capacity {
            applied.removed += self.make_room();
        }
    }

    /// Removes events down to a tenth below the capacity, so that not every event has to make room: user events
    /// first. Never removes the newest one, for whose position readers wait.
    fn make_room(&mut self) -> u64 {
        let goal = self.capacity - self.capacity / 10;
        let mut surplus = self.events.len().saturating_sub(goal);
        let before = self.events.len();
        let newest = self.newest();
        let ids = &mut self.ids;
        let removed_until = &mut self.removed_until;
        self.events.retain(|(stored_at, event)| {
            let goes = surplus > 0 && !event.is_lifecycle() && event.position < newest;
            if goes {
                surplus -= 1;
                ids.remove(&event.event_id);
                removed_until.raise(false, *stored_at);
            }
            !goes
        });
        for _ in 0..surplus.min(self.events.len().saturating_sub(1)) {
            if let Some((stored_at, event)) = self.events.pop_front() {
                self.ids.remove(&event.event_id);
                self.removed_until.raise(event.is_lifecycle(), stored_at);
            }
        }
        (before - self.events.len()) as u64
    }

    pub(super) fn depth(&self) -> u64 {
        self.events.len() as u64
    }

    /// Removes events that every sink has. Their ids are remembered for a while.
    fn forget_delivered(&mut self) {
        let Some(delivered) = self
            .sinks
            .iter()
            .map(|sink| self.cursors.get(sink).copied().unwrap_or_default())
            .min()
        else {
            return;
        };
        while self
            .events
            .front()
            .is_some_and(|(_, event)| event.position <= delivered)
            && let Some((stored_at, event)) = self.events.pop_front()
        {
            self.delivered_ids
                .push_back((event.event_id, event.is_lifecycle(), stored_at));
        }
        while self.delivered_ids.len() > self.capacity
            && let Some((id, is_lifecycle, stored_at)) = self.delivered_ids.pop_front()
        {
            self.removed_until.raise(is_lifecycle, stored_at);
            self.ids.remove(&id);
        }
    }

    pub(super) fn newest(&self) -> u64 {
        self.next_position - 1
    }
}

/// How many events had to make room for others.
pub(super) struct MadeRoom(u64);

impl MadeRoom {
    /// Counts and logs them.
    pub(super) fn say(self, counters: &Counters) {
        if self.0 > 0 {
            counters.lose(
                self.0,
                "memory has no more room for events: the oldest were removed",
            );
        }
    }
}

impl Store for MemoryLog {
    fn durable(&self) -> Result<(), JournalError> {
        Ok(())
    }

    fn id(&self) -> Result<Option<Uuid>, JournalError> {
        Ok(None)
    }

    fn held(&self) -> Result<Vec<Held>, JournalError> {
        let held = self.held.iter().map(|(key, evidence, events)| Held {
            key: key.clone(),
            evidence: evidence.clone(),
            records: events.iter().map(|event| event.json.clone()).collect(),
        });
        Ok(held.collect())
    }

    fn missing(&self, mut ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError> {
        ids.retain(|id| !self.ids.contains(id));
        Ok(ids)
    }

    fn find(&self, ids: &[EventId]) -> Result<Vec<String>, JournalError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let events = self.events.iter().map(|(_, event)| event);
        Ok(events
            .filter(|event| ids.contains(&event.event_id))
            .map(|event| event.json.clone())
            .collect())
    }

    fn position_before(&self, time: Option<SystemTime>) -> Result<u64, JournalError> {
        let Some(time) = time.map(seconds) else {
            return Ok(self.newest());
        };
        let mut before = self
            .events
            .iter()
            .rev()
            .skip_while(|(stored_at, _)| *stored_at >= time);
        Ok(before.next().map_or(0, |(_, event)| event.position))
    }

    fn keep_for(&mut self, cursor: String) {
        // Memory that is the store itself, and so has none, keeps what is delivered.
        if !self.sinks.is_empty() && !self.sinks.contains(&cursor) {
            self.sinks.push(cursor);
        }
    }

    fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        Ok(self.cursors.get(name).copied())
    }

    fn dead_letters(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        let found: Vec<&DeadLetter> = self
            .dead_letters
            .iter()
            .filter(|letter| letter.position > after)
            .filter(|letter| sink.is_none_or(|sink| letter.sink == sink))
            .collect();
        let last = limit.checked_sub(1).and_then(|last| found.get(last));
        // With all of the last position, so that a reader who goes on after it misses none.
        let last = last.map_or(u64::MAX, |last| last.position);
        let is_in = |letter: &&&DeadLetter| limit > 0 && letter.position <= last;
        Ok(found.iter().filter(is_in).copied().cloned().collect())
    }

    fn read(
        &mut self,
        _reader: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError> {
        // Positions ascend, with gaps.
        let from = self
            .events
            .partition_point(|(_, event)| event.position <= after);
        let mut bytes = 0;
        let events = self.events.range(from..).take(limit);
        Ok(events
            .take_while(|(_, event)| {
                let goes = bytes <= MAX_READ_BYTES;
                bytes += event.json.len();
                goes
            })
            .map(|(_, event)| event.clone())
            .collect())
    }
}

#[cfg(feature = "sqlite")]
use super::record::bytes_of;

/// Changes that the log could not write yet, in order. Bounded by their weight (see [`Change::weight`]) and by
/// their bytes.
#[cfg(feature = "sqlite")]
#[derive(Debug)]
pub(super) struct Backlog {
    changes: VecDeque<Change>,
    weight: usize,
    capacity: usize,
    bytes: usize,
    max_bytes: usize,
}

#[cfg(feature = "sqlite")]
impl Backlog {
    pub(super) fn new(capacity: usize, max_bytes: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            weight: 0,
            capacity: capacity.max(1),
            bytes: 0,
            max_bytes,
        }
    }

    /// Keeps changes for later. Returns how many events were dropped to make room.
    pub(super) fn keep(&mut self, changes: Vec<Change>) -> u64 {
        for change in changes {
            self.weight += change.weight();
            self.bytes += change.bytes();
            self.changes.push_back(change);
        }
        if self.weight > self.capacity || self.bytes > self.max_bytes {
            self.make_room()
        } else {
            0
        }
    }

    /// Drops events down to a tenth below both bounds, so that not every change has to make room: user events
    /// first, then the oldest events. Changes that settle something held are never dropped.
    fn make_room(&mut self) -> u64 {
        let goal = self.capacity - self.capacity / 10;
        let goal_bytes = self.max_bytes - self.max_bytes / 10;
        let mut surplus = self.weight.saturating_sub(goal);
        let mut surplus_bytes = self.bytes.saturating_sub(goal_bytes);
        let mut lost = 0;
        for spares_lifecycle in [true, false] {
            self.changes.retain_mut(|change| {
                if (surplus == 0 && surplus_bytes == 0) || change.settles() {
                    return true;
                }
                let (Change::Insert(events) | Change::Hold(_, _, events)) = change else {
                    return true;
                };
                let before = events.len();
                events.retain(|event| {
                    let is_too_much = surplus > 0 || surplus_bytes > 0;
                    let goes = is_too_much && !(spares_lifecycle && event.is_lifecycle());
                    if goes {
                        surplus = surplus.saturating_sub(1);
                        surplus_bytes = surplus_bytes.saturating_sub(bytes_of(event));
                    }
                    !goes
                });
                lost += before - events.len();
                !events.is_empty()
            });
        }
        self.weight = self.changes.iter().map(Change::weight).sum();
        self.bytes = self.changes.iter().map(Change::bytes).sum();
        lost as u64
    }

    /// Takes all changes, in order.
    pub(super) fn take(&mut self) -> Vec<Change> {
        self.weight = 0;
        self.bytes = 0;
        std::mem::take(&mut self.changes).into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn events(&self) -> usize {
        self.changes
            .iter()
            .map(|change| change.events().len())
            .sum()
    }
}
