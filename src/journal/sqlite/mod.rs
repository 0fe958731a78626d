//! The store in a SQLite file. Knows SQL and the file; does not decide what is written when.

mod changes;
mod place;
mod reading;
mod rescue;
mod room;

pub(super) use place::Lock;
pub(crate) use reading::{COLUMNS, open_to_mend, open_to_read, stored_event};
pub(super) use room::Removed;

use super::{
    JournalError, JournalOptions, MAX_READ_BYTES, Retention, Synchronous,
    record::{Applied, Change, Held, HoldKey, Note},
    removed::{RemovedUntil, seconds},
};
use crate::{
    crash_point::crash_point,
    event::{DeadLetter, EventError, EventId, Execution, StoredEvent},
};
use changes::{
    forget, hold, insert, move_cursor, refuse, release, remember, remove_dead_letter, reserve,
    unreserve,
};
pub(super) use place::{FileIdentity, identity, identity_of};
use place::{identities_beside, lock};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior,
    config::DbConfig, params,
};
use std::{
    cell::Cell,
    collections::HashMap,
    path::Path,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// The file's SQLite `application_id` ("TEVS"), by which a journal is told from other databases.
const APPLICATION_ID: i32 = 0x5445_5653;
/// The keys in `meta` for the id of the store, and for the number of the last frame of the log that is in it.
const STORE_ID: &str = "store_id";
const LOG_POSITION: &str = "log_position";
/// The newest schema that this code knows.
const SCHEMA_VERSION: u32 = 2;
/// How long SQLite waits for a lock. The journal's thread tries again after that.
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);
/// The size of a page of a new file. Twice SQLite's default: an event takes a tenth of it, so that less of a page
/// stays empty, and fewer pages are written.
const PAGE_BYTES: u32 = 8192;
/// After this many pages in the WAL, SQLite writes them back into the file: 16 MiB, four times its default, so
/// that pages that every transaction changes are written back less often.
const CHECKPOINT_PAGES: u32 = 2000;
/// How much memory SQLite's pages may take. What one transaction changes fits, so that nothing is written before
/// its end, and read again.
const CACHE_KIB: u32 = 8192;
/// How many compiled statements are cached: more than there are.
const STATEMENTS: usize = 64;
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

    /// Returns the position of the newest event; 0 if there is none.
    pub(super) fn newest(&self) -> u64 {
        self.connection
            .prepare_cached("SELECT MAX(seq) FROM events")
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, Option<u64>>(0)))
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Returns dead letters in the order of their positions: at most `limit`, and then the rest of those that
    /// share the last position.
    pub(super) fn dead_letters(
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
    pub(super) fn live_bytes(&self) -> Result<u64, Trouble> {
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
    pub(super) fn counts(&self) -> Result<(u64, u64), Trouble> {
        Ok(self.connection.query_row(
            "SELECT (SELECT COUNT(*) FROM events), \
             (SELECT COUNT(DISTINCT hold_id) FROM held)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    pub(super) fn held(&self) -> Result<Vec<Held>, Trouble> {
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

    pub(super) fn missing(&self, mut ids: Vec<EventId>) -> Result<Vec<EventId>, Trouble> {
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

    pub(super) fn find(&self, ids: &[EventId]) -> Result<Vec<String>, Trouble> {
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

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, Trouble> {
        Ok(self
            .connection
            .prepare_cached("SELECT seq FROM cursors WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?)
    }

    pub(super) fn read(&self, after: u64, limit: usize) -> Result<Vec<StoredEvent>, Trouble> {
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

fn unusable(path: &Path, error: &impl ToString) -> JournalError {
    JournalError::Open {
        path: path.to_owned(),
        reason: error.to_string(),
        source: None,
    }
}

enum ConnectFailure {
    Sqlite(rusqlite::Error),
    Refused(JournalError),
}

impl From<rusqlite::Error> for ConnectFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// SQLite's flags: the path is a file name, not a URI.
fn flags() -> OpenFlags {
    OpenFlags::default() & !OpenFlags::SQLITE_OPEN_URI
}

fn connect(path: &Path, synchronous: Synchronous) -> Result<Connection, ConnectFailure> {
    set_up(
        Connection::open_with_flags(path, flags())?,
        path,
        synchronous,
    )
}

/// Sets up a connection, and makes the file a journal if it is new.
fn set_up(
    connection: Connection,
    path: &Path,
    synchronous: Synchronous,
) -> Result<Connection, ConnectFailure> {
    connection.busy_timeout(Duration::from_secs(5))?;
    // Otherwise SQLite recompiles some statements each time a value is bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let application_id: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT COUNT(*) FROM sqlite_master", [], |row| row.get(0))?;
    if application_id != APPLICATION_ID && (application_id != 0 || tables > 0) {
        return Err(ConnectFailure::Refused(JournalError::NotAJournal {
            path: path.to_owned(),
        }));
    }
    if tables == 0 {
        // Only possible before the first table is created.
        connection.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL"
        ))?;
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    // Without shared memory SQLite keeps the mode that it had, and reports no error.
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(ConnectFailure::Refused(JournalError::Open {
            path: path.to_owned(),
            reason: format!(
                "SQLite's WAL mode cannot be switched on there (the mode stays {mode:?}), as on some \
                 network and FUSE file systems; put it on a local disk"
            ),
            source: None,
        }));
    }
    connection.execute_batch(match synchronous {
        Synchronous::Normal => "PRAGMA synchronous = NORMAL",
        Synchronous::Full => "PRAGMA synchronous = FULL",
    })?;
    connection.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA journal_size_limit = 67108864; \
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA cache_size = -{CACHE_KIB}"
    ))?;
    let found: Option<String> = if tables == 0 {
        None
    } else {
        connection
            .query_row(
                "SELECT value FROM meta WHERE key = 'schema_version'",
                [],
                |row| row.get(0),
            )
            .optional()?
    };
    let found = found.and_then(|text| text.parse::<u32>().ok());
    if let Some(found) = found.filter(|found| *found > SCHEMA_VERSION) {
        return Err(ConnectFailure::Refused(JournalError::NewerSchema {
            path: path.to_owned(),
            found,
            supported: SCHEMA_VERSION,
        }));
    }
    if let Some(found) = found.filter(|found| *found < SCHEMA_VERSION) {
        return Err(ConnectFailure::Refused(JournalError::OlderSchema {
            path: path.to_owned(),
            found,
            supported: SCHEMA_VERSION,
        }));
    }
    // In one transaction, so that a power cut leaves no half of a schema.
    connection.execute_batch(concat!(
        "BEGIN IMMEDIATE;\n",
        include_str!("../schema.sql"),
        "\nCOMMIT;"
    ))?;
    if meta(&connection, STORE_ID)?.is_none() {
        remember(&connection, STORE_ID, &Uuid::new_v4().to_string())?;
    }
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Returns the value of a key in `meta`.
fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn uuid_at(row: &rusqlite::Row<'_>, index: usize) -> Result<EventId, Trouble> {
    let text: String = row.get(index)?;
    text.parse()
        .map_err(|error: EventError| Trouble::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Target;
    use std::path::PathBuf;

    fn options(path: &Path) -> JournalOptions {
        JournalOptions {
            target: Target::Sqlite(path.to_owned()),
            queue_size: 100,
            max_queued_bytes: usize::MAX,
            batch_size: 10,
            linger: Duration::ZERO,
            synchronous: Synchronous::Normal,
            max_bytes: None,
            retention: Retention::Keep,
            sinks: Vec::new(),
            appends_inline: true,
            is_store: true,
        }
    }

    fn open(path: &Path) -> SqliteLog {
        SqliteLog::open(path, &options(path)).ok().unwrap()
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        (directory, path)
    }

    fn insert(number: u128) -> Change {
        let mut event = crate::event::Event::new("user");
        event.metadata.event_id = Some(Uuid::from_u128(number).into());
        event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
        Change::Insert(vec![StoredEvent::new(0, &event).unwrap()])
    }

    fn dead_letter(position: u64) -> Note {
        let Change::Insert(mut events) = insert(1) else {
            unreachable!()
        };
        events[0].position = position;
        Note::Refuse(vec![DeadLetter::new(
            "s",
            &events[0],
            "on purpose".to_owned(),
        )])
    }

    fn apply(log: &mut SqliteLog, changes: &[Change]) -> Applied {
        log.apply(changes, &[], None).ok().unwrap()
    }

    fn note(log: &mut SqliteLog, notes: &[Note]) {
        log.apply(&[], notes, None).ok().unwrap();
    }

    /// What another program does to it.
    fn execute(path: &Path, sql: &str) {
        Connection::open(path).unwrap().execute_batch(sql).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_place_without_wal_is_refused_with_what_to_do() {
        let (_directory, path) = file();
        // It has no shared memory, like a file system that cannot map files.
        let without = Connection::open_with_flags_and_vfs(&path, flags(), "unix-dotfile").unwrap();
        let failure = set_up(without, &path, Synchronous::Normal).err().unwrap();
        let ConnectFailure::Refused(error) = failure else {
            panic!("not refused")
        };
        let text = error.to_string();
        for words in ["events.db", "WAL", "delete", "put it on a local disk"] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn who_asks_for_a_workflow_id_never_reads_all_events() {
        let (_directory, path) = file();
        let mut log = open(&path);
        for number in 1..=3 {
            apply(&mut log, &[insert(number)]);
        }
        drop(log);
        // What SQLite counts in a small file says that blocks are not few against events.
        execute(&path, "ANALYZE");
        drop(open(&path));
        let other = Connection::open(&path).unwrap();
        for rest in [
            "",
            "ORDER BY seq",
            "ORDER BY seq DESC LIMIT 1",
            "AND workflow_run_id = 'r' ORDER BY seq",
            "AND event_name = 'workflow_end' AND created_at > '2026' ORDER BY created_at",
        ] {
            let sql = format!(
                "EXPLAIN QUERY PLAN SELECT event FROM events WHERE workflow_id = 'w' {rest}"
            );
            let plan: String = other.query_row(&sql, [], |row| row.get(3)).unwrap();
            assert!(plan.contains("events_by_workflow"), "{rest}: {plan}");
        }
    }

    #[test]
    fn positions_go_on_behind_the_cursors_of_a_file_that_was_emptied() {
        for (sql, after) in [
            ("DELETE FROM events", 7),
            // Others than sinks keep something else there.
            (
                "DELETE FROM events; DELETE FROM cursors WHERE name = 'sink s'",
                5,
            ),
            (
                "DELETE FROM events WHERE seq > 2; DELETE FROM dead_letters",
                7,
            ),
            (
                "DELETE FROM events WHERE seq > 2; DELETE FROM cursors; DELETE FROM dead_letters",
                2,
            ),
        ] {
            let (_directory, path) = file();
            let mut log = open(&path);
            for number in 1..=7 {
                apply(&mut log, &[insert(number)]);
            }
            let notes = [
                Note::MoveCursor("sink s".to_owned(), 7),
                Note::MoveCursor("closed runs default".to_owned(), 1_795_419_036_000_000),
                dead_letter(5),
            ];
            note(&mut log, &notes);
            drop(log);
            execute(&path, sql);
            let mut log = open(&path);
            // As when a file can be written again.
            log.go_on_after(0);
            note(&mut log, &[dead_letter(5)]);
            let applied = apply(&mut log, &[insert(8)]);
            assert_eq!(applied.newest, after + 1, "{sql}");
            assert_eq!(apply(&mut log, &[insert(9)]).newest, after + 2);
            let read = log.read(after, 10).ok().unwrap();
            assert_eq!(read.len(), 2, "{sql}");
        }
    }

    #[test]
    fn positions_go_on_behind_the_cursors_also_in_the_file_that_takes_the_place_of_one() {
        let (directory, path) = file();
        let mut log = open(&path);
        for number in 1..=3 {
            apply(&mut log, &[insert(number)]);
        }
        note(&mut log, &[Note::MoveCursor("sink s".to_owned(), 3)]);
        drop(log);
        execute(&path, "DELETE FROM events");
        let mut log = open(&path);
        let other = directory.path().join("other.db");
        for number in 4..=6 {
            apply(&mut open(&other), &[insert(number)]);
        }
        std::fs::rename(&other, &path).unwrap();
        assert!(!log.is_at(&path));
        log.move_to(&path, Synchronous::Normal).ok().unwrap();
        assert_eq!(apply(&mut log, &[insert(7)]).newest, 7);
        let stored = log.read(3, 10).ok().unwrap();
        let positions: Vec<u64> = stored.iter().map(|stored| stored.position).collect();
        assert_eq!(positions, [4, 5, 6, 7]);
    }

    #[test]
    fn positions_go_on_where_they_were_in_a_file_that_is_emptied_while_it_is_open() {
        let (_directory, path) = file();
        let mut log = open(&path);
        for number in 1..=3 {
            apply(&mut log, &[insert(number)]);
        }
        execute(&path, "DELETE FROM events");
        let applied = apply(&mut log, &[insert(4), insert(5)]);
        assert_eq!((applied.inserted, applied.newest), (2, 5));
        assert_eq!(log.read(0, 10).ok().unwrap().len(), 2);
        execute(&path, "DELETE FROM events WHERE seq = 5");
        assert_eq!(apply(&mut log, &[insert(6)]).newest, 6);
    }
}
