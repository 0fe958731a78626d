//! Opening the file beside the store that writes it: to read it, and to mend what people may mend by hand. Takes no
//! lock of a store, creates nothing, and changes no schema.

use super::{
    connect::{APPLICATION_ID, SCHEMA_VERSION},
    meta,
    place::beside,
};
use crate::journal::JournalError;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::{path::Path, sync::Arc, time::Duration};

/// How long a reader waits for a lock. Only another program's lock on the whole file makes it wait.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a store's file to read it. A store may have it open and write meanwhile.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, JournalError> {
    let opened = open(path, path.as_os_str(), OpenFlags::SQLITE_OPEN_READ_ONLY);
    match opened {
        // In a directory that cannot be written, SQLite has no place for the WAL's index. A file without a WAL
        // can be read without.
        Err(OpenError::Sqlite(error))
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
                && !beside(path, "-wal").exists() =>
        {
            let absolute = std::path::absolute(path).ok();
            let uri = absolute.and_then(|path| url::Url::from_file_path(path).ok());
            let Some(mut uri) = uri else {
                return Err(failed(path, error));
            };
            uri.set_query(Some("immutable=1"));
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            open(path, uri.as_str().as_ref(), flags)
        }
        opened => opened,
    }
    .map_err(|error| error.of(path))
}

/// Opens a store's file for a small change by hand, such as the removal of a dead letter. A store may have it open and
/// write meanwhile.
pub(crate) fn open_to_mend(path: &Path) -> Result<Connection, JournalError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    open(path, path.as_os_str(), flags).map_err(|error| error.of(path))
}

enum OpenError {
    Sqlite(rusqlite::Error),
    Refused(JournalError),
}

impl OpenError {
    fn of(self, path: &Path) -> JournalError {
        match self {
            Self::Sqlite(error) => failed(path, error),
            Self::Refused(error) => error,
        }
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn failed(path: &Path, error: rusqlite::Error) -> JournalError {
    if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
        return JournalError::NotAJournal {
            path: path.to_owned(),
        };
    }
    JournalError::Open {
        path: path.to_owned(),
        reason: error.to_string(),
        source: Some(Arc::new(error)),
    }
}

fn open(path: &Path, name: &std::ffi::OsStr, flags: OpenFlags) -> Result<Connection, OpenError> {
    // What is not there is not created, and said in plain words.
    if !path.is_file() {
        let reason = match path.is_dir() {
            true => "it is a directory; name a file",
            false => "there is no such file; a worker creates it when it starts",
        };
        return Err(OpenError::Refused(JournalError::Open {
            path: path.to_owned(),
            reason: reason.to_owned(),
            source: None,
        }));
    }
    let connection = Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    let id: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if id != APPLICATION_ID {
        return Err(OpenError::Refused(JournalError::NotAJournal {
            path: path.to_owned(),
        }));
    }
    let version: Option<String> = meta(&connection, "schema_version")?;
    let found = version.and_then(|text| text.parse().ok()).unwrap_or(0);
    let path = path.to_owned();
    match found {
        SCHEMA_VERSION => Ok(connection),
        found if found > SCHEMA_VERSION => Err(OpenError::Refused(JournalError::NewerSchema {
            path,
            found,
            supported: SCHEMA_VERSION,
        })),
        found => Err(OpenError::Refused(JournalError::OlderSchema {
            path,
            found,
            supported: SCHEMA_VERSION,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_store_is_named_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let text = open_to_read(&path).unwrap_err().to_string();
        assert!(text.contains("no such file"), "{text}");
        assert!(!path.exists());
        let text = open_to_read(directory.path()).unwrap_err().to_string();
        assert!(text.contains("directory"), "{text}");
        std::fs::write(
            &path,
            "this is no database, and longer than a header of one",
        )
        .unwrap();
        assert!(matches!(
            open_to_read(&path),
            Err(JournalError::NotAJournal { .. })
        ));
        let other = directory.path().join("other.db");
        let connection = Connection::open(&other).unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        drop(connection);
        assert!(matches!(
            open_to_read(&other),
            Err(JournalError::NotAJournal { .. })
        ));
    }
}
