//! Making room: removes events that are older than the retention, and the oldest ones over the size cap.

use super::{SqliteLog, Trouble, remember, seconds};
use crate::journal::{Retention, removed::RemovedUntil};
use rusqlite::{Connection, Params, params};
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// How long one round of removal may take: feeding waits meanwhile.
const MAKE_ROOM_FOR: Duration = Duration::from_millis(100);
/// How many events that are older than the retention are removed in one transaction.
const AGED_AT_ONCE: u32 = 1024;
/// How many events are removed in one transaction when the file is over its size cap.
const REMOVE_AT_ONCE: u32 = 256;
/// How many pages are returned to the file system in one round: 4 MiB.
const GIVE_BACK_AT_ONCE: u32 = 512;

/// The keys in `meta` for the times up to which events were removed.
const USER_UNTIL: &str = "removed_user_until";
const LIFECYCLE_UNTIL: &str = "removed_lifecycle_until";

/// Returns up to when events were removed from a file.
pub(super) fn removed_until(connection: &Connection) -> rusqlite::Result<RemovedUntil> {
    let mut statement =
        connection.prepare("SELECT key, value FROM meta WHERE key LIKE 'removed_%'")?;
    let mut rows = statement.query([])?;
    let mut until = RemovedUntil::default();
    while let Some(row) = rows.next()? {
        let (key, value): (String, String) = (row.get(0)?, row.get(1)?);
        let seconds = value.parse().unwrap_or_default();
        match key.as_str() {
            USER_UNTIL => until.raise(false, seconds),
            LIFECYCLE_UNTIL => until.raise(true, seconds),
            _ => {}
        }
    }
    Ok(until)
}

/// How far a file was looked through for user events: those up to there are removed. In memory alone, since looking again
/// costs a second for millions of events, and an index of them would cost each event.
#[derive(Debug, Default)]
pub(super) struct Looked {
    not_in_hand: Cell<i64>,
    any: Cell<i64>,
}

/// What one round removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::journal) struct Removed {
    /// Events that every sink has, or that are older than the retention: no loss.
    pub(in crate::journal) kept: u64,
    /// Events that are lost.
    pub(in crate::journal) lost: u64,
    /// Dead letters that are lost.
    pub(in crate::journal) dead_letters: u64,
    /// There is more to remove than one round allows.
    pub(in crate::journal) is_unfinished: bool,
}

impl SqliteLog {
    /// Removes events that are older than the retention and that every sink has. Over the size cap, removes the
    /// oldest: first events that every sink has (unless the journal is itself a store), then dead letters, then
    /// user events, then lifecycle events.
    /// Returns what was removed even if it fails.
    pub(in crate::journal) fn make_room(&mut self) -> (Removed, Result<(), Trouble>) {
        let mut removed = Removed::default();
        let until = Instant::now() + MAKE_ROOM_FOR;
        let result = self.make_room_until(until, &mut removed);
        (removed, result)
    }

    /// Whether the file holds a quarter more than its cap allows.
    pub(in crate::journal) fn is_far_over_its_cap(&self) -> bool {
        self.max_bytes.is_some_and(|max_bytes| {
            let far = max_bytes.saturating_add(max_bytes / 4);
            self.live_bytes().is_ok_and(|bytes| bytes > far)
        })
    }

    fn make_room_until(&self, until: Instant, removed: &mut Removed) -> Result<(), Trouble> {
        let delivered = self.delivered()?;
        self.remove_aged(delivered, until, removed)?;
        if let Some(max_bytes) = self.max_bytes
            && self.live_bytes()? > max_bytes
        {
            // Down to a tenth below the cap, so that not every write has to make room.
            let goal = max_bytes - max_bytes / 10;
            while self.live_bytes()? > goal && self.remove_some(delivered, removed)? {
                if Instant::now() > until {
                    removed.is_unfinished = true;
                    break;
                }
            }
        }
        self.give_back()
    }

    fn remove_aged(
        &self,
        delivered: i64,
        until: Instant,
        removed: &mut Removed,
    ) -> Result<(), Trouble> {
        let Retention::For(age) = self.retention else {
            return Ok(());
        };
        let Some(oldest) = self.now().checked_sub(age) else {
            return Ok(());
        };
        // Events are in the order of time, so that it is enough to look at the first rows.
        loop {
            let aged = self.remove(
                "SELECT seq FROM (SELECT seq, stored_at FROM events \
                 WHERE seq < (SELECT MAX(seq) FROM events) AND seq <= ?3 \
                 ORDER BY seq LIMIT ?2) \
                 WHERE stored_at < ?1",
                params![seconds(oldest), AGED_AT_ONCE, delivered],
            )?;
            removed.kept += aged;
            if aged < u64::from(AGED_AT_ONCE) {
                return Ok(());
            }
            if Instant::now() > until {
                removed.is_unfinished = true;
                return Ok(());
            }
        }
    }

    /// Removes some events or dead letters for lack of room. Returns false if nothing is left that may be removed.
    fn remove_some(&self, delivered: i64, removed: &mut Removed) -> Result<bool, Trouble> {
        if !self.is_store {
            let count = self.remove_first(&format!("seq <= {delivered}"))?;
            if count > 0 {
                removed.kept += count;
                return Ok(true);
            }
        }
        // Dead letters are copies; they go before events that are still to be delivered.
        let dead_letters = self
            .connection
            .prepare_cached(
                "DELETE FROM dead_letters WHERE seq <= (SELECT MAX(seq) FROM \
                 (SELECT seq FROM dead_letters ORDER BY seq LIMIT ?1))",
            )?
            .execute([REMOVE_AT_ONCE])? as u64;
        if dead_letters > 0 {
            removed.dead_letters += dead_letters;
            return Ok(true);
        }
        // A sink may yet take what it has in hand: it would be counted as lost, and then arrive.
        let not_in_hand: String = self
            .handed_out
            .values()
            .map(|(after, last)| format!(" AND NOT (seq > {after} AND seq <= {last})"))
            .collect();
        let looked = &self.looked_for_user_events;
        for (looked, condition) in [(&looked.not_in_hand, &*not_in_hand), (&looked.any, "")] {
            if let Some(count) = self.remove_user_events(looked, condition)? {
                removed.lost += count;
                return Ok(true);
            }
        }
        let count = self.remove_first("TRUE")?;
        removed.lost += count;
        Ok(count > 0)
    }

    /// Removes the user events among the next few events, but never the newest event. Returns how many; none if there
    /// are no more events to look at.
    fn remove_user_events(
        &self,
        looked: &Cell<i64>,
        condition: &str,
    ) -> Result<Option<u64>, Trouble> {
        let after = looked.get();
        let last: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT MAX(seq) FROM (SELECT seq FROM events WHERE seq > ?1 \
                 AND seq < (SELECT MAX(seq) FROM events) ORDER BY seq LIMIT ?2)",
            )?
            .query_row(params![after, REMOVE_AT_ONCE], |row| row.get(0))?;
        let Some(last) = last else {
            return Ok(None);
        };
        let count = self.remove(
            &format!(
                "SELECT seq FROM events WHERE seq > ?1 AND seq <= ?2 \
                 AND event_type <> 'application_events'{condition}"
            ),
            params![after, last],
        )?;
        looked.set(last);
        Ok(Some(count))
    }

    /// Removes the first events for which a condition holds, but never the newest event.
    fn remove_first(&self, condition: &str) -> Result<u64, Trouble> {
        self.remove(
            &format!(
                "SELECT seq FROM events \
                 WHERE seq < (SELECT MAX(seq) FROM events) AND {condition} ORDER BY seq LIMIT ?1"
            ),
            [REMOVE_AT_ONCE],
        )
    }

    /// Removes the events at the positions that a query returns, and notes in the same transaction up to when
    /// events were removed.
    fn remove(&self, positions: &str, parameters: impl Params) -> Result<u64, Trouble> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut until = self.removed_until.get();
        let mut count = 0;
        {
            let mut statement = transaction.prepare(&format!(
                "DELETE FROM events WHERE seq IN ({positions}) \
                 RETURNING event_type = 'application_events' AND event_name NOT IN \
                 ('application_start', 'application_end', 'token_refresh'), stored_at"
            ))?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                until.raise(row.get(0)?, row.get(1)?);
                count += 1;
            }
        }
        if until != self.removed_until.get() {
            remember(&transaction, USER_UNTIL, &until.user.to_string())?;
            remember(&transaction, LIFECYCLE_UNTIL, &until.lifecycle.to_string())?;
        }
        transaction.commit()?;
        self.removed_until.set(until);
        Ok(count)
    }

    /// Returns free pages to the file system, a few at a time, if they are a quarter of the file or more, as
    /// after an outage. In normal operation new events use free pages again.
    fn give_back(&self) -> Result<(), Trouble> {
        let [pages, free] = ["page_count", "freelist_count"].map(|name| {
            self.connection
                .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u64>(0))
        });
        let free = free?;
        if free < u64::from(GIVE_BACK_AT_ONCE) || free < pages? / 4 {
            return Ok(());
        }
        let mut statement = self
            .connection
            .prepare(&format!("PRAGMA incremental_vacuum({GIVE_BACK_AT_ONCE})"))?;
        // A step is a page.
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// From now on, keeps events that the sink with this cursor has not.
    pub(in crate::journal) fn keep_for(&mut self, cursor: &str) {
        if !self.sinks.iter().any(|sink| sink == cursor) {
            self.sinks.push(cursor.to_owned());
        }
    }

    /// Returns the position up to which every sink has all events; the highest possible one without sinks.
    fn delivered(&self) -> Result<i64, Trouble> {
        let mut delivered = i64::MAX;
        for sink in &self.sinks {
            let position = self.cursor(sink)?.unwrap_or_default();
            delivered = delivered.min(i64::try_from(position).unwrap_or(i64::MAX));
        }
        // Without sinks nothing waits to be delivered.
        Ok(delivered)
    }
}
