//! What the program asks a store besides its events: questions in SQL, and how it stands.

#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use super::{EventReader, ReadError, Source};
use serde::Serialize;
use serde_json::Value;

/// What a question in SQL found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// What the store says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Condition {
    /// Why its structure is damaged, if it is.
    pub(crate) damage: Option<String>,
    pub(crate) events: u64,
    pub(crate) newest_at: Option<String>,
    pub(crate) held: u64,
    pub(crate) oldest_held: Option<String>,
    /// How many bytes of the log beside the file may not be in it yet.
    pub(crate) log_bytes: Option<u64>,
}

impl EventReader {
    /// Runs one statement that changes nothing, and returns at most `limit` rows.
    pub(crate) async fn sql(&self, statement: &str, limit: usize) -> Result<Rows, ReadError> {
        match &self.source {
            Source::Sqlite(file) => file.sql(statement.to_owned(), limit).await,
            #[cfg(feature = "postgres")]
            Source::Postgres(table) => table.sql(statement, limit).await,
        }
    }

    /// Returns what the store says about itself. Reads all of it if `thoroughly`.
    pub(crate) async fn condition(&self, thoroughly: bool) -> Result<Condition, ReadError> {
        match &self.source {
            Source::Sqlite(file) => file.condition(thoroughly).await,
            #[cfg(feature = "postgres")]
            Source::Postgres(table) => table.condition().await,
        }
    }
}
