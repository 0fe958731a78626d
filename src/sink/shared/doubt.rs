//! What a receiver may already have of events whose delivery nobody confirmed: how far back it is read, and what was
//! found. Knows no receiver.
//!
//! An event carries its journal and its position there. Positions grow from event to event, so that what a receiver got
//! from the same journal with a lower position was there before the events in doubt.

use crate::{event::EventId, sink::SinkEvent};
use std::{
    collections::HashMap,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

/// How many messages are read for one doubt, at most: more than others write while a program starts again.
pub(in crate::sink) const MOST_READ: u64 = 100_000;

/// How many calls may be cut off while they read for one doubt. What a call does not finish goes on in the next one, but
/// must not keep a sink from delivering for ever.
pub(in crate::sink) const MOST_CALLS: u32 = 3;

/// How far the clocks of a program and of its receiver may be apart. Within that, and what it takes to deliver, no event
/// is with the receiver before it happened.
const CLOCKS_APART: Duration = Duration::from_secs(10 * 60);

/// The id of the journal that the events come from, once the sink was told.
#[derive(Debug, Default)]
pub(in crate::sink) struct Origin(OnceLock<String>);

impl Origin {
    pub(in crate::sink) fn set(&self, journal: &str) {
        // Told again, it is the same.
        self.0.set(journal.to_owned()).ok();
    }

    pub(in crate::sink) fn journal(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// What a receiver holds for an event, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sink) struct Seen<'a> {
    pub(in crate::sink) id: Option<&'a str>,
    pub(in crate::sink) journal: Option<&'a str>,
    pub(in crate::sink) position: Option<&'a str>,
    /// When the receiver got it.
    pub(in crate::sink) at: Option<SystemTime>,
}

/// How far back a receiver is read for a batch.
#[derive(Debug)]
pub(in crate::sink) struct Reach {
    journal: Option<String>,
    first: u64,
    since: Option<SystemTime>,
}

impl Reach {
    pub(in crate::sink) fn of(batch: &[SinkEvent], origin: &Origin) -> Self {
        let first = batch.iter().map(|event| event.position).min();
        // RFC 3339 in UTC: as text in the order of time.
        let oldest = batch.iter().map(|event| &event.created_at).min();
        let oldest = oldest.and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        Self {
            journal: origin.journal().map(str::to_owned),
            first: first.unwrap_or_default(),
            since: oldest.and_then(|time| SystemTime::from(time).checked_sub(CLOCKS_APART)),
        }
    }

    /// Whether it is not known where events come from. Then nothing outlives the process, and a look at its start, when
    /// somebody delivers by other means, is no longer than it has to be.
    pub(in crate::sink) fn is_unknown(&self) -> bool {
        self.journal.is_none()
    }

    /// Whether what the receiver got before this is of no interest.
    pub(in crate::sink) fn ends_at(&self, seen: Seen<'_>) -> bool {
        let is_own = self.journal.is_some() && seen.journal == self.journal.as_deref();
        let is_before = position(seen).is_some_and(|position| position < self.first);
        let is_older = self
            .since
            .zip(seen.at)
            .is_some_and(|(since, at)| at < since);
        is_own && is_before || is_older
    }

    /// Whether it may be an event that is handed over now or later.
    fn concerns(&self, seen: Seen<'_>) -> bool {
        let is_foreign = seen.journal.is_some() && seen.journal != self.journal.as_deref();
        !is_foreign && position(seen).is_none_or(|position| position >= self.first)
    }
}

fn position(seen: Seen<'_>) -> Option<u64> {
    seen.position?.parse().ok()
}

/// Events that a receiver was found to have, until events behind them are handed over.
#[derive(Debug, Default)]
pub(in crate::sink) struct Found(HashMap<EventId, Option<u64>>);

impl Found {
    pub(in crate::sink) fn contains(&self, id: EventId) -> bool {
        self.0.contains_key(&id)
    }

    /// Notes what the receiver has, if it may be handed over.
    pub(in crate::sink) fn note(&mut self, seen: Seen<'_>, reach: &Reach) {
        if reach.concerns(seen)
            && let Some(id) = seen.id.and_then(|id| id.parse().ok())
        {
            self.0.insert(id, position(seen));
        }
    }

    /// Forgets what stands before this batch. Without a position, an event is remembered while the others are.
    pub(in crate::sink) fn pass(&mut self, batch: &[SinkEvent]) {
        if self.0.is_empty() {
            return;
        }
        let first = batch.iter().map(|event| event.position).min();
        let first = first.unwrap_or_default();
        self.0
            .retain(|_, position| position.is_none_or(|position| position >= first));
        if self.0.values().all(Option::is_none)
            && !batch.iter().any(|it| self.contains(it.event_id))
        {
            self.0.clear();
        }
    }

    /// Adds what was found elsewhere.
    pub(in crate::sink) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(in crate::sink) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn event(position: u64) -> SinkEvent {
        let mut event = Event::new("data.processed");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        SinkEvent::new(position, &event).unwrap()
    }

    #[test]
    fn a_receiver_is_read_back_to_what_was_there_before() {
        let origin = Origin::default();
        let batch = [event(8), event(7)];
        let now = SystemTime::now();
        let seen = |journal, position, at| Seen {
            id: None,
            journal,
            position,
            at: Some(at),
        };
        // Who does not know where events come from knows no positions.
        let reach = Reach::of(&batch, &origin);
        assert!(!reach.ends_at(seen(None, Some("1"), now)));
        origin.set("a");
        origin.set("b");
        let reach = Reach::of(&batch, &origin);
        assert!(reach.ends_at(seen(Some("a"), Some("6"), now)));
        assert!(!reach.ends_at(seen(Some("a"), Some("7"), now)));
        assert!(!reach.ends_at(seen(Some("b"), Some("6"), now)));
        assert!(!reach.ends_at(seen(Some("a"), Some("x"), now)));
        assert!(reach.ends_at(seen(Some("b"), None, now - 2 * CLOCKS_APART)));
        assert!(!reach.ends_at(seen(None, None, now - CLOCKS_APART / 2)));
    }

    #[test]
    fn what_was_found_is_known_until_it_is_passed() {
        let origin = Origin::default();
        origin.set("a");
        let events: Vec<SinkEvent> = (5..9).map(event).collect();
        let reach = Reach::of(&events, &origin);
        let mut found = Found::default();
        let ids: Vec<String> = events.iter().map(|it| it.event_id.to_string()).collect();
        let other = EventId::new().to_string();
        let mut note = |id: &str, journal, position| {
            let seen = Seen {
                id: Some(id),
                journal,
                position,
                at: None,
            };
            found.note(seen, &reach);
        };
        note(&ids[0], Some("a"), Some("5"));
        note(&ids[2], Some("a"), Some("7"));
        // Of an earlier version of the crate.
        note(&ids[3], None, None);
        note(&other, Some("b"), Some("6"));
        note("x", Some("a"), Some("6"));
        let known = |found: &Found| {
            let ids = events.iter().map(|event| found.contains(event.event_id));
            ids.collect::<Vec<_>>()
        };
        assert_eq!(found.0.len(), 3);
        assert_eq!(known(&found), [true, false, true, true]);
        found.pass(&events[1..]);
        assert_eq!(known(&found), [false, false, true, true]);
        found.pass(&events[3..]);
        assert_eq!(known(&found), [false, false, false, true]);
        found.pass(&[event(9)]);
        assert!(found.0.is_empty());
    }
}
