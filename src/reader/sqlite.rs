//! Reads a store's SQLite file on a connection of its own, on tokio's blocking threads.

use super::{
    EventQuery, Page, ReadError, SinkPosition,
    query::{Dialect, Parameter, conditions},
};
use crate::{
    event::{DeadLetter, EventError, EventId},
    journal::{COLUMNS, open_to_mend, open_to_read, stored_event},
};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A read ends with the event that exceeds this many bytes.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// The prefix of the names of sinks' cursors.
const OF_SINKS: &str = "sink ";
/// The prefix of the names of what stands among the cursors as 1 while a sink is paused.
const PAUSED: &str = "paused ";
/// By how many seconds a clock may be behind when an event is stored.
const CLOCK_SKEW: i64 = 60;

const DIALECT: Dialect = Dialect {
    parameter: "?",
    position: "seq",
    metadata: ("event ->> '$.metadata.", "'"),
    time: ("", ""),
};

/// A store's file.
#[derive(Clone)]
pub(super) struct File {
    pub(super) path: Arc<Path>,
    connection: Arc<Mutex<Connection>>,
}

impl File {
    pub(super) async fn open(url: &str) -> Result<Self, ReadError> {
        let rest = url.strip_prefix("sqlite:").unwrap_or(url);
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() {
            return Err(ReadError::invalid_url(url, "it names no file"));
        }
        if path.contains('?') || path.starts_with(":memory:") || path.starts_with("file:") {
            let reason = "`sqlite:` takes the path of a file, and no parameters";
            return Err(ReadError::invalid_url(url, reason));
        }
        Self::at(PathBuf::from(path)).await
    }

    pub(super) async fn at(path: PathBuf) -> Result<Self, ReadError> {
        let opened = path.clone();
        let connection = blocking(move || Ok(open_to_read(&opened)?)).await?;
        Ok(Self {
            path: path.into(),
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Asks on a blocking thread.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let file = self.clone();
        blocking(move || {
            let connection = file.connection.lock();
            // A question that panicked left the connection as it was: nothing is written.
            let connection = connection.unwrap_or_else(PoisonError::into_inner);
            question(&connection).map_err(|error| file.failed(error))
        })
        .await
    }

    fn failed(&self, error: rusqlite::Error) -> ReadError {
        ReadError::Failed {
            url: format!("sqlite:{}", self.path.display()),
            reason: error.to_string(),
            source: Some(Arc::new(error)),
        }
    }

    pub(super) async fn read(&self, query: EventQuery) -> Result<Page, ReadError> {
        self.ask(move |connection| read(connection, query)).await
    }

    pub(super) async fn newest(&self) -> Result<u64, ReadError> {
        self.ask(|connection| {
            let newest: Option<u64> = connection
                .prepare_cached("SELECT MAX(seq) FROM events")?
                .query_row([], |row| row.get(0))?;
            Ok(newest.unwrap_or_default())
        })
        .await
    }

    pub(super) async fn sinks(&self) -> Result<Vec<SinkPosition>, ReadError> {
        self.ask(sinks).await
    }

    pub(super) async fn dead_letters(
        &self,
        sink: Option<String>,
        position: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        self.ask(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sink, seq, event_id, reason, event FROM dead_letters \
                 WHERE (?1 IS NULL OR sink = ?1) AND seq > ?2 AND seq <= (SELECT MAX(seq) FROM \
                 (SELECT seq FROM dead_letters WHERE (?1 IS NULL OR sink = ?1) AND seq > ?2 \
                 ORDER BY seq LIMIT ?3)) ORDER BY seq, sink",
            )?;
            let rows =
                statement.query_map(params![sink, signed(position), signed(limit)], |row| {
                    let id: String = row.get(2)?;
                    Ok(DeadLetter {
                        sink: row.get(0)?,
                        position: row.get(1)?,
                        event_id: event_id(&id)?,
                        reason: row.get(3)?,
                        event: row.get(4)?,
                    })
                })?;
            rows.collect()
        })
        .await
    }

    pub(super) async fn delete_dead_letters(
        &self,
        letters: Vec<(String, u64)>,
    ) -> Result<u64, ReadError> {
        let file = self.clone();
        blocking(move || {
            let mut connection = open_to_mend(&file.path)?;
            let mut delete = || {
                let transaction = connection.transaction()?;
                let mut deleted = 0;
                for (sink, position) in &letters {
                    let sql = "DELETE FROM dead_letters WHERE sink = ?1 AND seq = ?2";
                    deleted += transaction.execute(sql, params![sink, signed(*position)])?;
                }
                transaction.commit()?;
                Ok(deleted as u64)
            };
            delete().map_err(|error| file.failed(error))
        })
        .await
    }
}

/// Runs what waits for a disk on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ReadError::Failed {
            url: "sqlite:".to_owned(),
            reason: format!("the reading thread ended: {error}"),
            source: None,
        }),
    }
}

/// A number as SQLite has it.
fn signed<N: TryInto<i64>>(number: N) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn event_id(text: &str) -> rusqlite::Result<EventId> {
    text.parse().map_err(|error: EventError| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn select(query: &EventQuery) -> (String, Vec<Parameter>) {
    let dialect = Dialect {
        // With the sign SQLite does not walk along the positions, but asks the index for the workflow's.
        position: if query.is_of_one_workflow() {
            "+seq"
        } else {
            "seq"
        },
        ..DIALECT
    };
    let (conditions, parameters) = conditions(query, &dialect);
    let sql = format!("SELECT seq, {COLUMNS} FROM events WHERE {conditions} ORDER BY seq LIMIT ");
    (format!("{sql}{}", query.limit), parameters)
}

fn read(connection: &Connection, mut query: EventQuery) -> rusqlite::Result<Page> {
    if let Some(since) = query.since
        && !query.is_of_one_workflow()
    {
        query.after = query.after.max(stored_before(connection, since)?);
    }
    let (sql, parameters) = select(&query);
    let mut statement = connection.prepare_cached(&sql)?;
    let parameters: Vec<Box<dyn ToSql>> = parameters
        .into_iter()
        .map(|parameter| match parameter {
            Parameter::Position(position) => Box::new(signed(position)) as Box<dyn ToSql>,
            Parameter::Text(text) => Box::new(text),
        })
        .collect();
    let mut found = statement.query(rusqlite::params_from_iter(parameters))?;
    let mut page = Page {
        events: Vec::new(),
        is_last: true,
    };
    let mut bytes = 0;
    while let Some(row) = found.next()? {
        let event = stored_event(row)?;
        bytes += event.json.len();
        page.events.push(event);
        if bytes > MAX_READ_BYTES || page.events.len() >= query.limit {
            page.is_last = false;
            break;
        }
    }
    Ok(page)
}

/// Returns a position up to which every event was stored before that time, and so happened before it. Looks at a few
/// events only: the time of storing grows with the position.
fn stored_before(connection: &Connection, time: DateTime<Utc>) -> rusqlite::Result<u64> {
    let bound = time.timestamp().saturating_sub(CLOCK_SKEW);
    let ends: (Option<i64>, Option<i64>) =
        connection.query_row("SELECT MIN(seq), MAX(seq) FROM events", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (Some(mut low), Some(mut high)) = ends else {
        return Ok(0);
    };
    let mut statement = connection
        .prepare_cached("SELECT seq, stored_at FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
    // Events before `low` were stored too early; the one that is looked for is not behind `high`.
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, i64)> = statement
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            Some((seq, stored_at)) if stored_at < bound => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(u64::try_from(low - 1).unwrap_or_default())
}

fn sinks(connection: &Connection) -> rusqlite::Result<Vec<SinkPosition>> {
    // A sink that has rejected events, and none else, has no cursor.
    let mut statement = connection.prepare_cached(
        "SELECT name, MAX(seq), SUM(letters) FROM ( \
           SELECT substr(name, ?2 + 1) AS name, seq, 0 AS letters FROM cursors \
             WHERE substr(name, 1, ?2) = ?1 \
           UNION ALL SELECT sink, 0, COUNT(*) FROM dead_letters GROUP BY sink) \
         GROUP BY name ORDER BY name",
    )?;
    let rows = statement.query_map(params![OF_SINKS, OF_SINKS.len()], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    let mut sinks = Vec::new();
    for row in rows {
        let (name, position, dead_letters): (String, i64, u64) = row?;
        let behind = connection
            .prepare_cached("SELECT COUNT(*) FROM events WHERE seq > ?1")?
            .query_row([position], |row| row.get(0))?;
        let oldest = connection
            .prepare_cached("SELECT created_at FROM events WHERE seq > ?1 ORDER BY seq LIMIT 1")?
            .query_row([position], |row| row.get(0))
            .optional()?;
        let is_paused = connection
            .prepare_cached("SELECT 1 FROM cursors WHERE name = ?1 AND seq = 1")?
            .exists([format!("{PAUSED}{name}")])?;
        sinks.push(SinkPosition {
            is_paused,
            name,
            position: u64::try_from(position).unwrap_or_default(),
            behind,
            oldest,
            dead_letters,
        });
    }
    Ok(sinks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Event, StoredEvent},
        journal::{Journal, JournalOptions, Target},
        reader::EventReader,
    };
    use futures_util::{StreamExt as _, TryStreamExt as _};
    use std::time::Duration;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// An empty store that is closed.
    async fn store() -> (tempfile::TempDir, PathBuf, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let options = JournalOptions::small(Target::Sqlite(path.clone()));
        Journal::open(options).unwrap().close().await.unwrap();
        let url = format!("sqlite:{}", path.display());
        (directory, path, url)
    }

    /// Adds an event of a workflow that happened so many seconds after 1970.
    fn add(path: &Path, event_type: &str, workflow_id: &str, at: i64) {
        let mut event = Event::new(event_type).name(event_type);
        event.metadata.event_id = Some(EventId::new());
        event.metadata.workflow_id = Some(workflow_id.to_owned());
        event.metadata.created_at = DateTime::from_timestamp(at, 0);
        let event = StoredEvent::new(1, &event).unwrap();
        let sql = "INSERT INTO events (event_id, event_type, event_name, workflow_id, created_at, \
                   stored_at, event) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let id = event.event_id.to_string();
        let values = params![
            id,
            event_type,
            event_type,
            workflow_id,
            event.created_at,
            at,
            event.json
        ];
        open_to_mend(path).unwrap().execute(sql, values).unwrap();
    }

    #[tokio::test]
    async fn what_is_stored_is_read_and_followed() {
        let (_directory, path, url) = store().await;
        for number in 0..5 {
            add(&path, "order.packed", &format!("w-{}", number % 2), number);
        }
        let reader = EventReader::open(&url).await.unwrap();
        let of_one = reader.read(&EventQuery::new().workflow_id("w-1")).await;
        let positions: Vec<u64> = of_one.unwrap().iter().map(|it| it.position).collect();
        assert_eq!(positions, [2, 4]);
        let pages = reader.stream(EventQuery::new().limit(2));
        let all: Vec<_> = pages.try_collect().await.unwrap();
        assert_eq!(all.len(), 5);
        let newest = reader.newest().await.unwrap();
        let query = EventQuery::new().after(newest - 1).only("order.*").unwrap();
        let mut live = std::pin::pin!(reader.follow(query));
        assert_eq!(live.next().await.unwrap().unwrap().position, newest);
        add(&path, "other", "w-8", 8);
        add(&path, "order.packed", "w-9", 9);
        let next = tokio::time::timeout(TIMEOUT, live.next()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().workflow_id.as_deref(), Some("w-9"));
    }

    #[tokio::test]
    async fn sinks_are_told_with_what_they_lack() {
        let (_directory, path, url) = store().await;
        for number in 1..=3 {
            add(&path, "order.packed", "w", number);
        }
        let sql = "INSERT INTO cursors VALUES ('sink a', 2), ('taken a', 1), ('paused a', 1), ('sink b', 3), \
                   ('paused b', 0), ('closed runs default', 9); \
                   INSERT INTO dead_letters SELECT 'b', seq, event_id, 'why', 0, event FROM events WHERE seq = 1";
        open_to_mend(&path).unwrap().execute_batch(sql).unwrap();
        let reader = EventReader::open(&url).await.unwrap();
        let sinks = reader.sinks().await.unwrap();
        let known: Vec<_> = sinks
            .iter()
            .map(|it| {
                (
                    it.name.as_str(),
                    it.position,
                    it.behind,
                    it.dead_letters,
                    it.is_paused,
                )
            })
            .collect();
        assert_eq!(known, [("a", 2, 1, 0, true), ("b", 3, 0, 1, false)]);
        let oldest = sinks[0].oldest.as_deref();
        assert_eq!(oldest, Some("1970-01-01T00:00:03.000000Z"));
    }

    #[tokio::test]
    async fn who_asks_for_a_workflow_never_walks_along_all_positions() {
        let (_directory, path, url) = store().await;
        add(&path, "order.packed", "w", 1);
        let file = File::open(&url).await.unwrap();
        let query = EventQuery::new().workflow_id("w").after(1).only("user");
        let plan = file.ask(move |connection| {
            let (sql, _) = select(&query.unwrap());
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            connection.query_row(&sql, params![0, "w"], |row| row.get::<_, String>(3))
        });
        let plan = plan.await.unwrap();
        assert!(plan.contains("events_by_workflow"), "{plan}");
    }

    #[tokio::test]
    async fn a_time_is_found_by_when_events_were_stored() {
        let (_directory, path, url) = store().await;
        for number in 1..=100 {
            add(&path, "order.packed", "w", number * 1000);
        }
        let connection = open_to_read(&path).unwrap();
        // The newest is looked at in any case.
        let known = [(0, 0), (10_000, 9), (10_061, 10), (1_000_000, 99)];
        for (seconds, position) in known {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            assert_eq!(
                stored_before(&connection, time).unwrap(),
                position,
                "{seconds}"
            );
        }
        let reader = EventReader::open(&url).await.unwrap();
        let since = EventQuery::new().since(DateTime::from_timestamp(99_000, 0).unwrap());
        assert_eq!(reader.read(&since).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_file_is_read_where_no_index_of_the_wal_can_be_made() {
        let (_directory, path, url) = store().await;
        add(&path, "order.packed", "w", 1);
        // As in a directory without the right to write, which does not keep root off.
        let index = format!("{}-shm", path.display());
        std::fs::remove_file(&index).ok();
        std::fs::create_dir(&index).unwrap();
        let reader = EventReader::open(&url).await.unwrap();
        assert_eq!(reader.newest().await.unwrap(), 1);
    }

    #[cfg(feature = "cli")]
    #[tokio::test]
    async fn statements_that_change_something_are_refused() {
        let (directory, path, url) = store().await;
        add(&path, "order.packed", "w", 1);
        let reader = EventReader::open(&url).await.unwrap();
        let rows = reader.sql(" select seq, 1.5, NULL, 'x' FROM events", 10);
        let rows = rows.await.unwrap();
        assert_eq!(rows.columns, ["seq", "1.5", "NULL", "'x'"]);
        let expected = serde_json::json!([[1, 1.5, null, "x"]]);
        assert_eq!(serde_json::json!(rows.rows), expected);
        let copy = directory.path().join("copy.db");
        for statement in [
            "DELETE FROM events",
            &format!("VACUUM INTO '{}'", copy.display()),
            "WITH a AS (SELECT 1) DELETE FROM events",
            "SELECT 1; DELETE FROM events",
        ] {
            assert!(reader.sql(statement, 1).await.is_err(), "{statement}");
        }
        assert!(!copy.exists());
        assert_eq!(reader.newest().await.unwrap(), 1);
    }
}
