//! Questions to a store's SQLite file.

use super::{Condition, Rows};
use crate::reader::{ReadError, sqlite::File};
use chrono::{DateTime, SecondsFormat};
use rusqlite::{Connection, OptionalExtension as _, types::ValueRef};
use serde_json::Value;
use std::path::Path;

impl File {
    pub(super) async fn sql(&self, statement: String, limit: usize) -> Result<Rows, ReadError> {
        if !is_question(&statement) {
            return Err(ReadError::InvalidQuery {
                what: "sql",
                value: statement,
                allowed: "one statement that begins with SELECT, WITH, VALUES, EXPLAIN or PRAGMA",
            });
        }
        self.ask(move |connection| rows(connection, &statement, limit))
            .await
    }

    pub(super) async fn condition(&self, thoroughly: bool) -> Result<Condition, ReadError> {
        let path = self.path.clone();
        self.ask(move |connection| {
            let mut condition = condition(connection, thoroughly)?;
            condition.log_bytes = log_bytes(&path);
            Ok(condition)
        })
        .await
    }
}

fn condition(connection: &Connection, thoroughly: bool) -> rusqlite::Result<Condition> {
    let damage: Option<String> = if thoroughly {
        let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        (check != "ok").then_some(check)
    } else {
        None
    };
    let (held, oldest_held) = connection.query_row(
        "SELECT COUNT(DISTINCT hold_id), MIN(created_at) FROM held",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let stored_at: Option<i64> = connection
        .query_row(
            "SELECT stored_at FROM events ORDER BY seq DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .optional()?;
    let newest_at = stored_at.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    Ok(Condition {
        damage,
        events: connection.query_row("SELECT COUNT(*) FROM events", [], |row| row.get(0))?,
        newest_at: newest_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)),
        held,
        oldest_held,
        log_bytes: None,
    })
}

/// Returns the size of the log's files beside the store.
fn log_bytes(path: &Path) -> Option<u64> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let prefix = format!("{}.log.", path.file_name()?.to_string_lossy());
    let entries = std::fs::read_dir(directory.unwrap_or(Path::new("."))).ok()?;
    let sizes = entries.filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name();
        let number = name.to_string_lossy().strip_prefix(&prefix)?.to_owned();
        let is_log = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_log.then(|| entry.metadata().map_or(0, |metadata| metadata.len()))
    });
    Some(sizes.sum())
}

/// Whether a statement asks and does not change. The connection can change nothing in the file, but could write others.
fn is_question(statement: &str) -> bool {
    let word: String = statement
        .trim_start()
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    ["select", "with", "values", "explain", "pragma"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

fn rows(connection: &Connection, statement: &str, limit: usize) -> rusqlite::Result<Rows> {
    let mut statement = connection.prepare(statement)?;
    let names = statement.column_names();
    let columns: Vec<String> = names.map(str::to_owned).collect();
    let mut rows = Vec::new();
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if rows.len() >= limit {
            break;
        }
        let values = (0..columns.len()).map(|column| row.get_ref(column).map(value));
        rows.push(values.collect::<rusqlite::Result<_>>()?);
    }
    Ok(Rows { columns, rows })
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            digits.into()
        }
    }
}
