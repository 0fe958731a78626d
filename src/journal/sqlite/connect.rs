//! Opening a file: SQLite's settings, the schema, and what is refused. Knows nothing of what is in it.

use super::{STORE_ID, changes::remember, meta};
use crate::journal::{JournalError, Synchronous};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, config::DbConfig};
use std::{path::Path, time::Duration};
use uuid::Uuid;

/// The file's SQLite `application_id` ("TEVS"), by which a journal is told from other databases.
pub(super) const APPLICATION_ID: i32 = 0x5445_5653;
/// The newest schema that this code knows.
pub(super) const SCHEMA_VERSION: u32 = 2;
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
pub(super) enum ConnectFailure {
    Sqlite(rusqlite::Error),
    Refused(JournalError),
}

impl From<rusqlite::Error> for ConnectFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// SQLite's flags: the path is a file name, not a URI.
pub(super) fn flags() -> OpenFlags {
    OpenFlags::default() & !OpenFlags::SQLITE_OPEN_URI
}

pub(super) fn connect(path: &Path, synchronous: Synchronous) -> Result<Connection, ConnectFailure> {
    set_up(
        Connection::open_with_flags(path, flags())?,
        path,
        synchronous,
    )
}

/// Sets up a connection, and makes the file a journal if it is new.
pub(super) fn set_up(
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

pub(super) fn unusable(path: &Path, error: &impl ToString) -> JournalError {
    JournalError::Open {
        path: path.to_owned(),
        reason: error.to_string(),
        source: None,
    }
}
