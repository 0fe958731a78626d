//! What is asked of the file, as SQL. Changes nothing.

use super::{SqliteLog, Trouble};
use crate::{
    event::{DeadLetter, EventError, EventId, Execution, StoredEvent},
    journal::{
        MAX_READ_BYTES,
        record::{Held, HoldKey},
        removed::seconds,
    },
};
use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, params, types::Type};
use std::time::SystemTime;
use uuid::Uuid;

/// The columns of an event, without its position.
pub(crate) const COLUMNS: &str = "event_id, event_type, event_name, workflow_type, workflow_id, \
     workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, stored_at, \
     event";

impl SqliteLog {
    /// Returns the position of the newest event; 0 if there is none.
    pub(in crate::journal) fn newest(&self) -> u64 {
        self.connection
            .prepare_cached("SELECT MAX(seq) FROM events")
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, Option<u64>>(0)))
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Returns dead letters in the order of their positions: at most `limit`, and then the rest of those that
    /// share the last position.
    pub(in crate::journal) fn dead_letters(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Trouble> {
        let of_sink = match sink {
            // Mentions `?1` so that both forms have the same parameters.
            None => "?1 IS NULL",
            Some(_) => "sink = ?1",
        };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT sink, seq, event_id, reason, event FROM dead_letters \
             WHERE {of_sink} AND seq > ?2 AND seq <= (SELECT MAX(seq) FROM \
             (SELECT seq FROM dead_letters WHERE {of_sink} AND seq > ?2 ORDER BY seq LIMIT ?3)) \
             ORDER BY seq, sink"
        ))?;
        let mut rows = statement.query(params![
            sink,
            i64::try_from(after).unwrap_or(i64::MAX),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ])?;
        let mut letters = Vec::new();
        while let Some(row) = rows.next()? {
            letters.push(DeadLetter {
                sink: row.get(0)?,
                position: row.get(1)?,
                event_id: uuid_at(row, 2)?,
                reason: row.get(3)?,
                event: row.get(4)?,
            });
        }
        Ok(letters)
    }

    /// Returns how many bytes of the file are in use.
    pub(in crate::journal) fn live_bytes(&self) -> Result<u64, Trouble> {
        let pages: u64 = self
            .connection
            .query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let free: u64 = self
            .connection
            .query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        let size: u64 = self
            .connection
            .query_row("PRAGMA page_size", [], |row| row.get(0))?;
        Ok(pages.saturating_sub(free) * size)
    }

    /// Returns the number of events, and the number of keys under which something is held.
    pub(in crate::journal) fn counts(&self) -> Result<(u64, u64), Trouble> {
        Ok(self.connection.query_row(
            "SELECT (SELECT COUNT(*) FROM events), \
             (SELECT COUNT(DISTINCT hold_id) FROM held)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    /// Returns when the oldest of what is held happened.
    pub(in crate::journal) fn oldest_held(&self) -> Result<Option<DateTime<Utc>>, Trouble> {
        let oldest: Option<String> = self
            .connection
            .prepare_cached("SELECT MIN(created_at) FROM held")?
            .query_row([], |row| row.get(0))?;
        let oldest = oldest.and_then(|at| DateTime::parse_from_rfc3339(&at).ok());
        Ok(oldest.map(|at| at.with_timezone(&Utc)))
    }

    pub(in crate::journal) fn held(&self) -> Result<Vec<Held>, Trouble> {
        let mut statement = self.connection.prepare(
            "SELECT namespace, held_workflow, held_run, hold_id, evidence, event FROM held \
             ORDER BY namespace, held_workflow, held_run, hold_id, position",
        )?;
        let mut rows = statement.query([])?;
        let mut runs: Vec<Held> = Vec::new();
        while let Some(row) = rows.next()? {
            let hold_id: String = row.get(3)?;
            let key = HoldKey {
                execution: Execution {
                    namespace: row.get(0)?,
                    workflow_id: row.get(1)?,
                    run_id: row.get(2)?,
                },
                hold_id: Uuid::parse_str(&hold_id)
                    .map_err(|error| Trouble::Damaged(error.to_string()))?,
            };
            let json = row.get(5)?;
            match runs.last_mut() {
                Some(run) if run.key == key => run.records.push(json),
                _ => runs.push(Held {
                    key,
                    evidence: row.get(4)?,
                    records: vec![json],
                }),
            }
        }
        Ok(runs)
    }

    pub(in crate::journal) fn missing(
        &self,
        mut ids: Vec<EventId>,
    ) -> Result<Vec<EventId>, Trouble> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM events WHERE event_id = ?1")?;
        let mut trouble = None;
        ids.retain(|id| match statement.exists([id.to_string()]) {
            Ok(found) => !found,
            Err(error) => {
                trouble = Some(error);
                true
            }
        });
        match trouble {
            Some(error) => Err(error.into()),
            None => Ok(ids),
        }
    }

    pub(in crate::journal) fn find(&self, ids: &[EventId]) -> Result<Vec<String>, Trouble> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT event FROM events WHERE event_id = ?1")?;
        let mut found = Vec::new();
        for id in ids {
            let event = statement.query_row([id.to_string()], |row| row.get(0));
            found.extend(event.optional()?);
        }
        Ok(found)
    }

    /// Returns the position of the last event that was stored before `time`, or of the newest one; 0 if there is none.
    pub(in crate::journal) fn position_before(
        &self,
        time: Option<SystemTime>,
    ) -> Result<u64, Trouble> {
        let Some(time) = time.map(seconds) else {
            return Ok(self.newest());
        };
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, stored_at FROM events WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1",
        )?;
        last_before(
            time,
            i64::try_from(self.newest()).unwrap_or(i64::MAX),
            |seq| {
                let found = statement.query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)));
                Ok(found.optional()?)
            },
        )
    }

    pub(in crate::journal) fn cursor(&self, name: &str) -> Result<Option<u64>, Trouble> {
        Ok(self
            .connection
            .prepare_cached("SELECT seq FROM cursors WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?)
    }

    pub(in crate::journal) fn read(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, Trouble> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT seq, {COLUMNS} FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2"
        ))?;
        let mut rows = statement.query(params![
            i64::try_from(after).unwrap_or(i64::MAX),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ])?;
        let mut stored = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let event = stored_event(row)?;
            bytes += event.json.len();
            stored.push(event);
            if bytes > MAX_READ_BYTES {
                break;
            }
        }
        Ok(stored)
    }
}

/// Returns the last position up to `newest` whose event was stored before `time`; 0 if there is none. `at_most` returns the
/// last event up to a position, with its time; it is asked about 64 times at most.
///
/// Times grow with positions while one process has the file open, and an index by them is not worth its writes. Where the
/// clock was set back between two processes, there are several such places, and one of them is returned: the event behind
/// it, if there is one, was stored at `time` or later.
fn last_before<E>(
    time: i64,
    newest: i64,
    mut at_most: impl FnMut(i64) -> Result<Option<(i64, i64)>, E>,
) -> Result<u64, E> {
    // The last event up to `low` was stored before, if there is one; the first event behind `high` was not.
    let (mut low, mut high) = (0, newest);
    while low < high {
        let middle = high - (high - low) / 2;
        match at_most(middle)? {
            Some((seq, stored_at)) if stored_at >= time => high = seq - 1,
            _ => low = middle,
        }
    }
    // Positions may be missing.
    let found = at_most(low)?.map_or(0, |(seq, _)| seq);
    Ok(u64::try_from(found).unwrap_or_default())
}

/// Returns the event of a row that has `seq` and [`COLUMNS`], in this order.
pub(crate) fn stored_event(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredEvent> {
    let event_id: String = row.get(1)?;
    let event_id = event_id.parse::<EventId>().map_err(|error: EventError| {
        rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error))
    })?;
    Ok(StoredEvent {
        position: row.get(0)?,
        event_id,
        event_type: row.get(2)?,
        event_name: row.get(3)?,
        workflow_type: row.get(4)?,
        workflow_id: row.get(5)?,
        workflow_run_id: row.get(6)?,
        workflow_state: row.get(7)?,
        activity_type: row.get(8)?,
        activity_id: row.get(9)?,
        attempt: row.get(10)?,
        created_at: row.get(11)?,
        json: row.get(13)?,
    })
}

fn uuid_at(row: &rusqlite::Row<'_>, index: usize) -> Result<EventId, Trouble> {
    let text: String = row.get(index)?;
    text.parse()
        .map_err(|error: EventError| Trouble::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands before a time, by looking at each event.
    fn by_looking(time: i64, events: &[(i64, i64)]) -> u64 {
        let before = events.iter().rev().find(|(_, stored_at)| *stored_at < time);
        before.map_or(0, |(seq, _)| *seq as u64)
    }

    #[test]
    fn where_a_time_begins_is_found_in_a_few_steps() {
        // With gaps, and many events of one second.
        let events: Vec<(i64, i64)> = (1..2000_i64)
            .filter(|seq| seq % 7 != 3 && !(600..900).contains(seq))
            .map(|seq| (seq * 1_000_003, 100 + seq / 40))
            .collect();
        let newest = events[events.len() - 1].0;
        for time in 90..170 {
            let mut asked = 0;
            let found = last_before(time, newest, |seq| {
                asked += 1;
                let end = events.partition_point(|(other, _)| *other <= seq);
                Ok::<_, ()>(end.checked_sub(1).map(|last| events[last]))
            });
            assert_eq!(found, Ok(by_looking(time, &events)), "{time}");
            assert!(asked <= 64, "{asked} questions");
        }
        let empty = last_before(100, 0, |_| Ok::<_, ()>(None));
        assert_eq!(empty, Ok(0));
    }

    #[test]
    fn where_a_clock_was_set_back_one_of_the_places_is_found() {
        let events: Vec<(i64, i64)> = (1..=300)
            .map(|seq| (seq, if seq <= 150 { 1000 + seq } else { 900 + seq }))
            .collect();
        for time in [1000, 1100, 1160, 1180, 1201] {
            let found = last_before(time, 300, |seq| {
                Ok::<_, ()>(usize::try_from(seq - 1).ok().map(|index| events[index]))
            });
            let found = found.unwrap() as usize;
            assert!(found == 0 || events[found - 1].1 < time, "{time}: {found}");
            assert!(found == 300 || events[found].1 >= time, "{time}: {found}");
        }
    }
}
