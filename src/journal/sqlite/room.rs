//! Making room: what goes when it is old enough, and what goes first when there is no room.

use super::{SqliteLog, Trouble, seconds};
use crate::journal::Retention;
use rusqlite::params;
use std::time::{Duration, Instant};

/// How long aged events are removed at a stretch.
const MAKE_ROOM_FOR: Duration = Duration::from_millis(100);
/// How many old events go at once when there is no room.
const REMOVE_AT_ONCE: u32 = 256;

/// What making room removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::journal) struct Removed {
    /// Events that are elsewhere, or as old as they may get.
    pub(in crate::journal) kept: u64,
    /// Events that are gone.
    pub(in crate::journal) lost: u64,
}

impl SqliteLog {
    /// Makes room: what is older than the retention and has been delivered; and over the size cap the
    /// oldest events, first what was delivered, then what applications published, then what the
    /// interceptors did.
    pub(in crate::journal) fn make_room(&mut self) -> Result<Removed, Trouble> {
        let delivered = self.delivered()?;
        let mut removed = Removed::default();
        if let Retention::For(age) = self.retention
            && let Some(oldest) = self.now().checked_sub(age)
        {
            let oldest = seconds(oldest);
            // Positions follow time, so that looking at the first rows is enough; and within a bound,
            // since others wait to write.
            let began = Instant::now();
            loop {
                let aged = self.connection.execute(
                    "DELETE FROM events WHERE seq IN (SELECT seq FROM \
                     (SELECT seq, stored_at FROM events \
                     WHERE seq < (SELECT MAX(seq) FROM events) AND seq <= ?3 \
                     ORDER BY seq LIMIT ?2) \
                     WHERE stored_at < ?1)",
                    params![oldest, REMOVE_AT_ONCE * 4, delivered],
                )? as u64;
                removed.kept += aged;
                if aged < u64::from(REMOVE_AT_ONCE * 4) || began.elapsed() > MAKE_ROOM_FOR {
                    break;
                }
            }
        }
        if let Some(max_bytes) = self.max_bytes
            && self.live_bytes()? > max_bytes
        {
            // A tenth below the cap, so that not every write has to make room.
            let goal = max_bytes - max_bytes / 10;
            while self.live_bytes()? > goal {
                if !self.remove_some(delivered, &mut removed)? {
                    break;
                }
            }
        }
        if removed != Removed::default() {
            self.connection.execute_batch("PRAGMA incremental_vacuum")?;
        }
        Ok(removed)
    }

    /// Removes some events for lack of room; false when none is left that may go.
    fn remove_some(&self, delivered: i64, removed: &mut Removed) -> Result<bool, Trouble> {
        // What a sink has in hand it may yet take: it would be counted as lost, and then arrive.
        let not_in_hand: String = self
            .handed_out
            .values()
            .map(|(after, last)| format!(" AND NOT (seq > {after} AND seq <= {last})"))
            .collect();
        let user = "event_type <> 'application_events' AND ?2 IS NOT NULL";
        let conditions = [
            (!self.is_store).then_some(("seq <= ?2".to_owned(), true)),
            Some((format!("{user}{not_in_hand}"), false)),
            Some((user.to_owned(), false)),
            Some(("?2 IS NOT NULL".to_owned(), false)),
        ];
        for (condition, is_kept) in conditions.into_iter().flatten() {
            let count = self.connection.execute(
                &format!(
                    "DELETE FROM events WHERE seq IN (SELECT seq FROM events \
                     WHERE seq < (SELECT MAX(seq) FROM events) AND {condition} \
                     ORDER BY seq LIMIT ?1)"
                ),
                params![REMOVE_AT_ONCE, delivered],
            )? as u64;
            if count > 0 {
                if is_kept {
                    removed.kept += count;
                } else {
                    removed.lost += count;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Up to where every sink has what is in the log; everything, where there is no sink.
    fn delivered(&self) -> Result<i64, Trouble> {
        let mut delivered = i64::MAX;
        for sink in &self.sinks {
            let position = self.cursor(sink)?.unwrap_or_default();
            delivered = delivered.min(i64::try_from(position).unwrap_or(i64::MAX));
        }
        // A log that only feeds sinks; without any it is the store, where nothing is delivered.
        Ok(delivered)
    }
}
