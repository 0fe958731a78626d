//! The store in a SQLite file. Knows SQL and the file; does not decide what is written when.

mod changes;
mod connect;
mod place;
mod queries;
mod reading;
mod rescue;
mod room;
#[cfg(test)]
mod tests;

pub(super) use place::Lock;
pub(crate) use queries::{COLUMNS, stored_event};
pub(crate) use reading::{open_to_mend, open_to_read};
pub(super) use room::Removed;

use super::{
    JournalError, JournalOptions, Retention,
    record::{Applied, Change, Note},
    removed::{RemovedUntil, seconds},
};
use crate::crash_point::crash_point;
use changes::{
    forget, hold, insert, move_cursor, refuse, release, remember, remove_dead_letter, reserve,
    unreserve,
};
use connect::{ConnectFailure, connect};
use place::identities_beside;
#[cfg(feature = "cli")]
pub(crate) use place::lock;
#[cfg(not(feature = "cli"))]
use place::lock;
pub(super) use place::{FileIdentity, identity, identity_of};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior, params};
use std::{
    cell::Cell,
    collections::HashMap,
    path::Path,
    time::{Instant, SystemTime},
};
use uuid::Uuid;

/// The keys in `meta` for the id of the store, and for the number of the last frame of the log that is in it.
const STORE_ID: &str = "store_id";
const LOG_POSITION: &str = "log_position";
/// The prefix of the names of sinks' cursors, which are positions in the store. Other cursors, such as the
/// reconciler's, count something else.
const OF_SINKS: &str = "sink ";

/// Why the file cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Another program has it locked for a moment.
    Busy,
    /// No room, no access, or a failing disk. May pass.
    Passing(String),
    /// The file is damaged.
    Damaged(String),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            // A column that does not hold what this code writes there.
            None if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Passing(error.to_string()),
        }
    }
}

/// Why a file was not opened: it is damaged (it stays locked), or it must not be used.
pub(super) enum OpenFailure {
    Damaged(String, Lock),
    Refused(JournalError),
}

/// The open store.
pub(super) struct SqliteLog {
    connection: Connection,
    lock: Lock,
    max_bytes: Option<u64>,
    retention: Retention,
    dead_letter_retention: Retention,
    sinks: Vec<String>,
    is_store: bool,
    // The events that each sink has in hand: after the first position, up to the second.
    handed_out: HashMap<String, (u64, u64)>,
    // The highest position that any event is known to have had. New events get higher ones, so that sinks
    // do not take them for delivered.
    highest: u64,
    // Set while the table's highest position is lower than `highest`, which SQLite does not know.
    begin_after: Option<u64>,
    identity: Option<FileIdentity>,
    // The files that SQLite keeps beside it. They may stay behind when the file itself is moved.
    beside: Cell<[Option<FileIdentity>; 2]>,
    // Up to when stored events were removed, as the file remembers it.
    removed_until: Cell<RemovedUntil>,
    looked_for_user_events: room::Looked,
    // The wall clock when the file was opened, and a clock that never jumps: together the time by which
    // events age.
    opened: (SystemTime, Instant),
}

impl SqliteLog {
    pub(super) fn open(path: &Path, options: &JournalOptions) -> Result<Self, OpenFailure> {
        let held = lock(path).map_err(OpenFailure::Refused)?;
        match connect(path, options.synchronous) {
            Ok(connection) => {
                let mut log = Self {
                    // If it cannot be read, the next write will fail and report why.
                    removed_until: Cell::new(room::removed_until(&connection).unwrap_or_default()),
                    looked_for_user_events: room::Looked::default(),
                    connection,
                    lock: held,
                    max_bytes: options.max_bytes,
                    retention: options.retention,
                    dead_letter_retention: options.dead_letter_retention,
                    sinks: options.sinks.clone(),
                    is_store: options.is_store,
                    handed_out: HashMap::new(),
                    highest: 0,
                    begin_after: None,
                    identity: identity_of(path),
                    beside: Cell::new(identities_beside(path)),
                    opened: (SystemTime::now(), Instant::now()),
                };
                log.go_on_after_cursors(path);
                Ok(log)
            }
            Err(ConnectFailure::Refused(error)) => Err(OpenFailure::Refused(error)),
            Err(ConnectFailure::Sqlite(error)) => match Trouble::from(error) {
                Trouble::Damaged(reason) => Err(OpenFailure::Damaged(reason, held)),
                Trouble::Busy => Err(OpenFailure::Refused(JournalError::Open {
                    path: path.to_owned(),
                    reason: "another program holds a lock on it; end that program".to_owned(),
                    source: None,
                })),
                Trouble::Passing(reason) => Err(OpenFailure::Refused(JournalError::Open {
                    path: path.to_owned(),
                    reason,
                    source: None,
                })),
            },
        }
    }

    /// Returns the store's id, which the files of its log have, too.
    pub(super) fn store_id(&self) -> Result<Uuid, Trouble> {
        let id: Option<String> = meta(&self.connection, STORE_ID)?;
        Ok(id.and_then(|id| id.parse().ok()).unwrap_or_default())
    }

    /// Returns the number of the last frame of the log that is in the store.
    pub(super) fn log_position(&self) -> Result<u64, Trouble> {
        let position: Option<String> = meta(&self.connection, LOG_POSITION)?;
        Ok(position.and_then(|it| it.parse().ok()).unwrap_or_default())
    }

    /// Takes over the id of the log that was found beside a new file.
    pub(super) fn adopt(&self, store_id: Uuid) -> Result<(), Trouble> {
        Ok(remember(&self.connection, STORE_ID, &store_id.to_string())?)
    }

    /// Applies changes and notes in one transaction, together with the number of their last frame.
    pub(super) fn apply(
        &mut self,
        changes: &[Change],
        notes: &[Note],
        position: Option<u64>,
    ) -> Result<Applied, Trouble> {
        if let Some(applied) = self.try_to_apply(changes, notes, position)? {
            return Ok(applied);
        }
        // Another program emptied the table meanwhile, and SQLite counts from the beginning again.
        let highest = self.highest;
        self.go_on_after(highest);
        tracing::warn!(
            position = highest,
            "events were removed from the journal by another program; positions go on where they were"
        );
        let applied = self.try_to_apply(changes, notes, position)?;
        Ok(applied.unwrap_or_default())
    }

    /// Applies changes; none, and no change, if an event got a position that is not higher than all before.
    fn try_to_apply(
        &mut self,
        changes: &[Change],
        notes: &[Note],
        position: Option<u64>,
    ) -> Result<Option<Applied>, Trouble> {
        let mut applied = Applied::default();
        let stored_at = seconds(self.now());
        crash_point("before-group-commit");
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(position) = self.begin_after {
            reserve(&transaction, position)?;
        }
        for change in changes {
            match change {
                Change::Insert(events) => {
                    insert(&transaction, events, stored_at, &mut applied)?;
                }
                Change::Hold(key, evidence, events) => {
                    hold(&transaction, key, evidence, events, &mut applied)?;
                }
                Change::Release(key) => release(&transaction, key, stored_at, &mut applied)?,
                Change::Replace(key, events) => {
                    if forget(&transaction, key, &mut applied)? > 0 {
                        insert(&transaction, events, stored_at, &mut applied)?;
                    }
                }
                Change::Discard(key) => {
                    forget(&transaction, key, &mut applied)?;
                }
            }
        }
        for note in notes {
            match note {
                Note::MoveCursor(name, position) => move_cursor(&transaction, name, *position)?,
                Note::Refuse(letters) => refuse(&transaction, letters, stored_at)?,
                Note::RemoveDeadLetter(sink, position) => {
                    remove_dead_letter(&transaction, sink, *position)?;
                }
            }
        }
        if let Some(position) = position {
            remember(&transaction, LOG_POSITION, &position.to_string())?;
        }
        if let Some(position) = self.begin_after {
            unreserve(&transaction, position)?;
        }
        if applied.inserted > 0 && applied.newest <= self.highest && self.begin_after.is_none() {
            // Dropping the transaction undoes it.
            return Ok(None);
        }
        crash_point("inside-group-commit");
        transaction.commit()?;
        crash_point("after-group-commit");
        if applied.inserted > 0 {
            self.begin_after = None;
            self.highest = self.highest.max(applied.newest);
        }
        for note in notes {
            if let Note::MoveCursor(name, position) = note
                && let Some((after, _)) = self.handed_out.get_mut(name)
            {
                *after = (*after).max(*position);
            }
        }
        Ok(Some(applied))
    }

    /// Returns up to when stored events have been removed.
    pub(super) fn removed_until(&self) -> RemovedUntil {
        self.removed_until.get()
    }

    /// Makes sure that new events get higher positions than this one.
    pub(super) fn go_on_after(&mut self, position: u64) {
        let newest = self.newest();
        self.highest = self.highest.max(position).max(newest);
        self.begin_after = Some(self.highest).filter(|highest| newest < *highest);
    }

    /// Makes sure that new events get higher positions than sinks' cursors and dead letters have: a sink never
    /// gets an event at a position that it has passed. They differ only if another program removed events.
    fn go_on_after_cursors(&mut self, path: &Path) {
        // If they cannot be read, the next read or write will report why.
        let known = self.furthest_cursor().unwrap_or_default();
        self.go_on_after(known);
        if self.begin_after.is_some() {
            tracing::warn!(
                path = %path.display(),
                position = known,
                "the journal's newest events were removed by another program: sinks have been further; \
                 new events get positions behind that"
            );
        }
    }

    /// Returns the highest position that a sink's cursor or dead letter has.
    fn furthest_cursor(&self) -> Result<u64, Trouble> {
        let furthest: i64 = self.connection.query_row(
            "SELECT MAX((SELECT COALESCE(MAX(seq), 0) FROM cursors WHERE substr(name, 1, ?2) = ?1), \
             (SELECT COALESCE(MAX(seq), 0) FROM dead_letters))",
            params![OF_SINKS, OF_SINKS.len()],
            |row| row.get(0),
        )?;
        Ok(u64::try_from(furthest).unwrap_or_default())
    }

    /// Returns the time by which events age. Setting the clock forward while the store is open does not change
    /// it, and so removes nothing.
    fn now(&self) -> SystemTime {
        let (wall, monotonic) = self.opened;
        wall + monotonic.elapsed()
    }

    /// Notes that a sink has the events after one position up to another in hand, until its cursor passes
    /// them. If they follow those that it has, it has both.
    pub(super) fn hand_out(&mut self, reader: &str, after: u64, last: u64) {
        let range = self
            .handed_out
            .entry(reader.to_owned())
            .or_insert((after, last));
        *range = match *range {
            (first, end) if end == after => (first, last),
            _ => (after, last),
        };
    }

    /// Tries to write to the file, and undoes what it wrote.
    pub(super) fn try_to_write(&mut self) -> Result<(), Trouble> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        remember(&transaction, "written", "again")?;
        transaction.execute("DELETE FROM meta WHERE key = 'written'", [])?;
        Ok(transaction.commit()?)
    }

    /// Writes the WAL back into the file, as far as readers allow.
    pub(super) fn checkpoint(&self) {
        let result: rusqlite::Result<i64> =
            self.connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        if let Err(error) = result {
            tracing::debug!(%error, "the journal's WAL stays for the next start");
        }
    }

    /// For tests: limits the file to this many pages, as on a full disk.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap();
    }
}

/// Returns the value of a key in `meta`.
fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}
