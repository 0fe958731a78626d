//! The log in a SQLite file. Knows SQL and the file; decides nothing about what is written when.

use super::{
    JournalError, JournalOptions, Retention, Synchronous,
    record::{Applied, Change, HeldRun, Record, Refused, RunKey, Stored},
};
use crate::crash_point::crash_point;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params,
};
use std::{
    cell::Cell,
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// "TEVS" as the file's SQLite `application_id`, so that no other database is taken for a journal.
const APPLICATION_ID: i32 = 0x5445_5653;
/// The newest schema that this code knows.
const SCHEMA_VERSION: u32 = 1;
/// How long SQLite itself waits for a lock; longer waits are the writer's business.
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);
/// Pages in the WAL after which SQLite writes them back. Four times its default: pages that change
/// with each transaction are then written back less often.
const CHECKPOINT_PAGES: u32 = 4000;
/// How long aged events are removed at a stretch.
const MAKE_ROOM_FOR: Duration = Duration::from_millis(100);
/// How many bytes of events are read at once, and one event more.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// How many old events go at once when there is no room.
const REMOVE_AT_ONCE: u32 = 256;

/// Why the file cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody else has it locked for a moment.
    Busy,
    /// No room, no access, or a failing disk: may pass.
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
            _ => Self::Passing(error.to_string()),
        }
    }
}

/// A file that is found damaged when it is opened, or one that is not to be used.
pub(super) enum OpenFailure {
    Damaged(String, Lock),
    Refused(JournalError),
}

/// Holds the file for this store; given back when dropped, and by the system when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// The open log.
pub(super) struct SqliteLog {
    connection: Connection,
    lock: Lock,
    max_bytes: Option<u64>,
    retention: Retention,
    sinks: Vec<String>,
    is_store: bool,
    // What each sink has in hand: after the first position, up to the second.
    handed_out: HashMap<String, (u64, u64)>,
    identity: Option<FileIdentity>,
    // The files that SQLite keeps beside it: they may stay where they are when it goes.
    beside: Cell<[Option<FileIdentity>; 2]>,
    // The wall clock when the log was opened, and how long ago that is by a clock that never jumps:
    // together the time by which events age.
    opened: (SystemTime, Instant),
}

/// What making room removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    /// Events that are elsewhere, or as old as they may get.
    pub(super) kept: u64,
    /// Events that are gone.
    pub(super) lost: u64,
}

/// What stays the same while a file is the same file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> FileIdentity {
    use std::os::unix::fs::MetadataExt as _;
    FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

// Elsewhere a file that is open cannot be deleted.
#[cfg(not(unix))]
fn identity(_metadata: &std::fs::Metadata) -> FileIdentity {
    FileIdentity {
        device: 0,
        inode: 0,
    }
}

fn identity_of(path: &Path) -> Option<FileIdentity> {
    std::fs::metadata(path).ok().as_ref().map(identity)
}

/// The WAL and its index; <https://www.sqlite.org/walformat.html>.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn identities_beside(path: &Path) -> [Option<FileIdentity>; 2] {
    BESIDE.map(|suffix| identity_of(&beside(path, suffix)))
}

fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Takes the file for this store.
fn lock(path: &Path) -> Result<Lock, JournalError> {
    let open_error = |error: std::io::Error| {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let reason = match parent {
            Some(parent) if !parent.exists() => {
                format!(
                    "the directory {} does not exist; create it",
                    parent.display()
                )
            }
            _ if path.is_dir() => "it is a directory; name a file".to_owned(),
            _ => format!("{error}; the directory must be writable"),
        };
        JournalError::Open {
            path: path.to_owned(),
            reason,
            source: Some(Arc::new(error)),
        }
    };
    if path.is_dir() {
        return Err(open_error(std::io::ErrorKind::IsADirectory.into()));
    }
    let file = private_file(&lock_path(path)).map_err(open_error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(JournalError::InUse {
                path: path.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(open_error(error)),
    }
    // Created here for its permissions; SQLite gives its side files those of the main file.
    private_file(path).map_err(open_error)?;
    Ok(Lock { file })
}

impl SqliteLog {
    pub(super) fn open(path: &Path, options: &JournalOptions) -> Result<Self, OpenFailure> {
        let held = lock(path).map_err(OpenFailure::Refused)?;
        match connect(path, options.synchronous) {
            Ok(connection) => Ok(Self {
                connection,
                lock: held,
                max_bytes: options.max_bytes,
                retention: options.retention,
                sinks: options.sinks.clone(),
                is_store: options.is_store,
                handed_out: HashMap::new(),
                identity: identity_of(path),
                beside: Cell::new(identities_beside(path)),
                opened: (SystemTime::now(), Instant::now()),
            }),
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

    /// Applies changes in one transaction: all of them, or none.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Result<Applied, Trouble> {
        let mut applied = Applied::default();
        let stored_at = seconds(self.now());
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            match change {
                Change::Insert(records) => {
                    insert(&transaction, records, stored_at, &mut applied)?;
                }
                Change::Hold(key, records) => hold(&transaction, key, records, &mut applied)?,
                Change::Release(key) => release(&transaction, key, stored_at, &mut applied)?,
                Change::Replace(key, records) => {
                    if forget(&transaction, key, &mut applied)? > 0 {
                        insert(&transaction, records, stored_at, &mut applied)?;
                    }
                }
                Change::Discard(key) => {
                    forget(&transaction, key, &mut applied)?;
                }
                Change::MoveCursor(name, position) => move_cursor(&transaction, name, *position)?,
                Change::Refuse(refused) => refuse(&transaction, refused, stored_at)?,
                Change::Bury(sink, event_id) => bury(&transaction, sink, event_id)?,
            }
        }
        crash_point("inside-group-commit");
        transaction.commit()?;
        crash_point("after-group-commit");
        Ok(applied)
    }

    /// The time by which events age: a clock that is set forward while the store is open removes
    /// nothing.
    fn now(&self) -> SystemTime {
        let (wall, monotonic) = self.opened;
        wall + monotonic.elapsed()
    }

    /// Whether `path` still names this log's file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let is_at = self.identity == identity_of(path);
        if is_at {
            self.beside.set(identities_beside(path));
        }
        is_at
    }

    /// Copies everything into the file that is at `path` now, or into a new one, and goes on there.
    /// The log's own file was deleted or replaced, and is only reachable through this connection.
    pub(super) fn move_to(
        &mut self,
        path: &Path,
        synchronous: Synchronous,
    ) -> Result<(), OpenFailure> {
        // The lock goes with its file.
        let is_ours = self
            .lock
            .file
            .metadata()
            .is_ok_and(|ours| identity_of(&lock_path(path)) == Some(identity(&ours)));
        if is_ours {
            private_file(path).map_err(|error| OpenFailure::Refused(unusable(path, &error)))?;
        } else {
            self.lock = lock(path).map_err(OpenFailure::Refused)?;
        }
        let refused = |error: rusqlite::Error| OpenFailure::Refused(unusable(path, &error));
        let Some(name) = path.to_str() else {
            return Err(OpenFailure::Refused(unusable(
                path,
                &"its name is no UTF-8",
            )));
        };
        // This log's own side files would be taken for those of the new file. Their contents stay
        // reachable through the open connection; side files that somebody brought along stay.
        for (suffix, ours) in BESIDE.into_iter().zip(self.beside.get()) {
            let side = beside(path, suffix);
            if ours.is_some() && identity_of(&side) == ours {
                std::fs::remove_file(&side)
                    .map_err(|error| OpenFailure::Refused(unusable(&side, &error)))?;
            }
        }
        drop(connect(path, synchronous).map_err(|failure| match failure {
            ConnectFailure::Refused(error) => OpenFailure::Refused(error),
            ConnectFailure::Sqlite(error) => refused(error),
        })?);
        self.connection
            .execute("ATTACH DATABASE ?1 AS fresh", [name])
            .map_err(refused)?;
        let copied = copy_to_attached(&mut self.connection);
        self.connection
            .execute("DETACH DATABASE fresh", [])
            .map_err(refused)?;
        copied.map_err(refused)?;
        self.connection = connect(path, synchronous).map_err(|failure| match failure {
            ConnectFailure::Refused(error) => OpenFailure::Refused(error),
            ConnectFailure::Sqlite(error) => refused(error),
        })?;
        self.identity = identity_of(path);
        self.beside.set(identities_beside(path));
        Ok(())
    }

    /// Makes room: what is older than the retention and has been delivered; and over the size cap the
    /// oldest events, first what was delivered, then what applications published, then what the
    /// interceptors did.
    pub(super) fn make_room(&mut self) -> Result<Removed, Trouble> {
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

    /// Notes that a sink has the events after one position up to another in hand.
    pub(super) fn hand_out(&mut self, reader: String, after: u64, last: u64) {
        self.handed_out.insert(reader, (after, last));
    }

    /// The position of the newest event; 0 when there is none.
    pub(super) fn newest(&self) -> u64 {
        self.connection
            .prepare_cached("SELECT MAX(seq) FROM events")
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, Option<u64>>(0)))
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// What sinks refused for good.
    pub(super) fn refused(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Refused>, Trouble> {
        let mut statement = self.connection.prepare_cached(
            "SELECT sink, seq, event_id, reason, event FROM dead_letters \
             WHERE (?1 IS NULL OR sink = ?1) AND seq > ?2 ORDER BY seq, sink LIMIT ?3",
        )?;
        let mut rows = statement.query(params![
            sink,
            i64::try_from(after).unwrap_or(i64::MAX),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ])?;
        let mut refused = Vec::new();
        while let Some(row) = rows.next()? {
            refused.push(Refused {
                sink: row.get(0)?,
                seq: row.get(1)?,
                event_id: uuid_at(row, 2)?,
                reason: row.get(3)?,
                json: row.get(4)?,
            });
        }
        Ok(refused)
    }

    /// The bytes of the file that hold data.
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

    /// How many events and how many held runs there are.
    pub(super) fn counts(&self) -> Result<(u64, u64), Trouble> {
        Ok(self.connection.query_row(
            "SELECT (SELECT COUNT(*) FROM events), \
             (SELECT COUNT(DISTINCT hold_id) FROM held)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }

    pub(super) fn held(&self) -> Result<Vec<HeldRun>, Trouble> {
        let mut statement = self.connection.prepare(
            "SELECT namespace, held_workflow, held_run, hold_id, event FROM held \
             ORDER BY namespace, held_workflow, held_run, position",
        )?;
        let mut rows = statement.query([])?;
        let mut runs: Vec<HeldRun> = Vec::new();
        while let Some(row) = rows.next()? {
            let hold_id: String = row.get(3)?;
            let key = RunKey {
                namespace: row.get(0)?,
                workflow_id: row.get(1)?,
                run_id: row.get(2)?,
                hold_id: Uuid::parse_str(&hold_id)
                    .map_err(|error| Trouble::Damaged(error.to_string()))?,
            };
            let json = row.get(4)?;
            match runs.last_mut() {
                Some(run) if run.key == key => run.records.push(json),
                _ => runs.push(HeldRun {
                    key,
                    records: vec![json],
                }),
            }
        }
        Ok(runs)
    }

    pub(super) fn missing(&self, mut ids: Vec<Uuid>) -> Result<Vec<Uuid>, Trouble> {
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

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, Trouble> {
        Ok(self
            .connection
            .prepare_cached("SELECT seq FROM cursors WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?)
    }

    pub(super) fn read(&self, after: u64, limit: usize) -> Result<Vec<Stored>, Trouble> {
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
            let event_type: String = row.get(2)?;
            let json: String = row.get(13)?;
            bytes += json.len();
            stored.push(Stored {
                seq: row.get(0)?,
                record: Record {
                    event_id: uuid_at(row, 1)?,
                    lifecycle: event_type == "application_events",
                    event_type,
                    event_name: row.get(3)?,
                    workflow_type: row.get(4)?,
                    workflow_id: row.get(5)?,
                    workflow_run_id: row.get(6)?,
                    workflow_state: row.get(7)?,
                    activity_type: row.get(8)?,
                    activity_id: row.get(9)?,
                    attempt: row.get(10)?,
                    created_at: row.get(11)?,
                    json,
                },
            });
            if bytes > MAX_READ_BYTES {
                break;
            }
        }
        Ok(stored)
    }

    /// Writes the WAL back into the file, as far as no reader stands in the way.
    pub(super) fn checkpoint(&self) {
        let result: rusqlite::Result<i64> =
            self.connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        if let Err(error) = result {
            tracing::debug!(%error, "the journal's WAL stays for the next start");
        }
    }

    /// For tests: at most this many pages, as on a full disk.
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

/// The columns of an event, but its position.
const COLUMNS: &str = "event_id, event_type, event_name, workflow_type, workflow_id, \
     workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, stored_at, \
     event";

/// Copies everything into the attached file. This log's positions stay, so that cursors mean the same
/// to whoever has them in hand; what the other file held comes behind.
fn copy_to_attached(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(&format!(
        "CREATE TEMP TABLE others AS SELECT * FROM fresh.events ORDER BY seq; \
         DELETE FROM fresh.events; \
         INSERT INTO fresh.events (seq, {COLUMNS}) \
         SELECT seq, {COLUMNS} FROM main.events ORDER BY seq; \
         INSERT OR IGNORE INTO fresh.events ({COLUMNS}) \
         SELECT {COLUMNS} FROM temp.others ORDER BY seq; \
         DROP TABLE temp.others; \
         INSERT OR IGNORE INTO fresh.held SELECT * FROM main.held; \
         INSERT OR REPLACE INTO fresh.cursors SELECT * FROM main.cursors; \
         INSERT OR IGNORE INTO fresh.dead_letters SELECT * FROM main.dead_letters"
    ))?;
    transaction.commit()
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
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

fn connect(path: &Path, synchronous: Synchronous) -> Result<Connection, ConnectFailure> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
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
        // Only possible before the first table is made.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    connection.query_row("PRAGMA journal_mode = WAL", [], |row| {
        row.get::<_, String>(0)
    })?;
    connection.execute_batch(match synchronous {
        Synchronous::Normal => "PRAGMA synchronous = NORMAL",
        Synchronous::Full => "PRAGMA synchronous = FULL",
    })?;
    connection.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA journal_size_limit = 67108864; \
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"
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
    // All of it or nothing, also when the power goes.
    connection.execute_batch(concat!(
        "BEGIN IMMEDIATE;\n",
        include_str!("schema.sql"),
        "\nCOMMIT;"
    ))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn insert(
    transaction: &Transaction<'_>,
    records: &[Record],
    stored_at: i64,
    applied: &mut Applied,
) -> Result<(), Trouble> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO events (event_id, event_type, event_name, workflow_type, workflow_id, \
         workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, \
         stored_at, event) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
         ON CONFLICT (event_id) DO NOTHING",
    )?;
    for record in records {
        let mut buffer = Uuid::encode_buffer();
        let inserted = statement.execute(params![
            &*record.event_id.hyphenated().encode_lower(&mut buffer),
            record.event_type,
            record.event_name,
            record.workflow_type,
            record.workflow_id,
            record.workflow_run_id,
            record.workflow_state,
            record.activity_type,
            record.activity_id,
            record.attempt,
            record.created_at,
            stored_at,
            record.json,
        ])?;
        if inserted == 1 {
            applied.inserted += 1;
        } else {
            applied.duplicates += 1;
        }
    }
    Ok(())
}

fn hold(
    transaction: &Transaction<'_>,
    key: &RunKey,
    records: &[Record],
    applied: &mut Applied,
) -> Result<(), Trouble> {
    let replaced = transaction
        .prepare_cached(
            "DELETE FROM held WHERE namespace = ?1 AND held_workflow = ?2 AND held_run = ?3",
        )?
        .execute(params![key.namespace, key.workflow_id, key.run_id])?;
    if replaced > 0 {
        applied.held -= 1;
    }
    if !records.is_empty() {
        applied.held += 1;
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO held (namespace, held_workflow, held_run, hold_id, position, event_id, \
         event_type, event_name, workflow_type, workflow_id, workflow_run_id, workflow_state, \
         activity_type, activity_id, attempt, created_at, event) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    for (position, record) in (0_i64..).zip(records) {
        statement.execute(params![
            key.namespace,
            key.workflow_id,
            key.run_id,
            key.hold_id.to_string(),
            position,
            record.event_id.to_string(),
            record.event_type,
            record.event_name,
            record.workflow_type,
            record.workflow_id,
            record.workflow_run_id,
            record.workflow_state,
            record.activity_type,
            record.activity_id,
            record.attempt,
            record.created_at,
            record.json,
        ])?;
    }
    Ok(())
}

fn move_cursor(transaction: &Transaction<'_>, name: &str, position: u64) -> Result<(), Trouble> {
    transaction
        .prepare_cached(
            "INSERT INTO cursors (name, seq) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET seq = excluded.seq",
        )?
        .execute(params![name, i64::try_from(position).unwrap_or(i64::MAX)])?;
    Ok(())
}

fn refuse(
    transaction: &Transaction<'_>,
    refused: &[Refused],
    refused_at: i64,
) -> Result<(), Trouble> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO dead_letters (sink, seq, event_id, reason, refused_at, event) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sink, seq) DO UPDATE SET \
         reason = excluded.reason, refused_at = excluded.refused_at",
    )?;
    for refused in refused {
        statement.execute(params![
            refused.sink,
            i64::try_from(refused.seq).unwrap_or(i64::MAX),
            refused.event_id.to_string(),
            refused.reason,
            refused_at,
            refused.json,
        ])?;
    }
    Ok(())
}

fn bury(transaction: &Transaction<'_>, sink: &str, event_id: &Uuid) -> Result<(), Trouble> {
    transaction
        .prepare_cached("DELETE FROM dead_letters WHERE sink = ?1 AND event_id = ?2")?
        .execute(params![sink, event_id.to_string()])?;
    Ok(())
}

fn uuid_at(row: &rusqlite::Row<'_>, index: usize) -> Result<Uuid, Trouble> {
    let text: String = row.get(index)?;
    Uuid::parse_str(&text).map_err(|error| Trouble::Damaged(error.to_string()))
}

/// The condition that picks what is held under one key.
const UNDER_KEY: &str = "namespace = ?1 AND held_workflow = ?2 AND held_run = ?3 AND hold_id = ?4";

fn release(
    transaction: &Transaction<'_>,
    key: &RunKey,
    stored_at: i64,
    applied: &mut Applied,
) -> Result<(), Trouble> {
    let inserted = transaction
        .prepare_cached(&format!(
            "INSERT INTO events (event_id, event_type, event_name, workflow_type, workflow_id, \
             workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, \
             stored_at, event) SELECT event_id, event_type, event_name, workflow_type, workflow_id, \
             workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, \
             ?5, event FROM held WHERE {UNDER_KEY} ORDER BY position \
             ON CONFLICT (event_id) DO NOTHING"
        ))?
        .execute(params![
            key.namespace,
            key.workflow_id,
            key.run_id,
            key.hold_id.to_string(),
            stored_at,
        ])? as u64;
    let held = forget(transaction, key, applied)?;
    applied.inserted += inserted;
    applied.duplicates += held.saturating_sub(inserted);
    Ok(())
}

fn forget(
    transaction: &Transaction<'_>,
    key: &RunKey,
    applied: &mut Applied,
) -> Result<u64, Trouble> {
    let forgotten = transaction
        .prepare_cached(&format!("DELETE FROM held WHERE {UNDER_KEY}"))?
        .execute(params![
            key.namespace,
            key.workflow_id,
            key.run_id,
            key.hold_id.to_string()
        ])? as u64;
    if forgotten > 0 {
        applied.held -= 1;
    }
    Ok(forgotten)
}
