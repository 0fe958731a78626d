//! A batch as rows: the statement that inserts them, and its parameters. Knows no connection.

use super::schema::{Key, quoted};
use crate::sink::SinkEvent;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// The columns of which an event may have no value.
pub(super) const MAY_BE_NULL: [&str; 8] = [
    "event_key",
    "workflow_type",
    "workflow_id",
    "workflow_run_id",
    "workflow_state",
    "activity_type",
    "activity_id",
    "attempt",
];

/// The statement that inserts the rows that are not there yet, and tells the channel of its last parameter of them.
/// `is_one_of_many` if the channel has to be told of which table they are.
pub(super) fn insert_statement(
    table: &str,
    key: Key,
    notify: bool,
    is_one_of_many: bool,
) -> String {
    // Nothing in a table's name ends a text.
    let which = match is_one_of_many {
        true => format!("'{table} ' || "),
        false => String::new(),
    };
    let table = quoted(table);
    let key = key.columns();
    let insert = format!(
        "INSERT INTO {table} (event_id, position, event_type, event_name, event_key, workflow_type, \
         workflow_id, workflow_run_id, workflow_state, activity_type, activity_id, attempt, \
         created_at, event) \
         SELECT e.event_id, e.position, e.event_type, e.event_name, e.event_key, e.workflow_type, \
         e.workflow_id, e.workflow_run_id, e.workflow_state, e.activity_type, e.activity_id, \
         e.attempt, e.created_at::timestamptz, e.event::jsonb \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         AS e(event_id, position, event_type, event_name, event_key, workflow_type, workflow_id, \
         workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, event) \
         ON CONFLICT ({key}) DO NOTHING"
    );
    match notify {
        false => insert,
        true => format!(
            "WITH added AS ({insert} RETURNING seq) \
             SELECT pg_notify($15, {which}max(seq)::text) FROM added HAVING count(*) > 0"
        ),
    }
}

/// A batch turned into columns.
pub(super) struct Columns<'a> {
    event_id: Vec<Uuid>,
    position: Vec<i64>,
    event_type: Vec<&'a str>,
    event_name: Vec<&'a str>,
    event_key: Vec<Option<&'a str>>,
    workflow_type: Vec<Option<&'a str>>,
    workflow_id: Vec<Option<&'a str>>,
    workflow_run_id: Vec<Option<&'a str>>,
    workflow_state: Vec<Option<&'a str>>,
    activity_type: Vec<Option<&'a str>>,
    activity_id: Vec<Option<&'a str>>,
    attempt: Vec<Option<i64>>,
    created_at: Vec<&'a str>,
    event: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &[&'a SinkEvent]) -> Self {
        fn column<'a, T>(batch: &[&'a SinkEvent], value: impl Fn(&'a SinkEvent) -> T) -> Vec<T> {
            batch.iter().copied().map(value).collect()
        }
        Self {
            event_id: column(batch, |event| *event.event_id.as_uuid()),
            position: column(batch, |event| {
                i64::try_from(event.position).unwrap_or(i64::MAX)
            }),
            event_type: column(batch, |event| event.event_type.as_str()),
            event_name: column(batch, |event| event.event_name.as_str()),
            event_key: column(batch, SinkEvent::key),
            workflow_type: column(batch, |event| event.workflow_type.as_deref()),
            workflow_id: column(batch, |event| event.workflow_id.as_deref()),
            workflow_run_id: column(batch, |event| event.workflow_run_id.as_deref()),
            workflow_state: column(batch, |event| event.workflow_state.as_deref()),
            activity_type: column(batch, |event| event.activity_type.as_deref()),
            activity_id: column(batch, |event| event.activity_id.as_deref()),
            attempt: column(batch, |event| event.attempt.map(i64::from)),
            created_at: column(batch, |event| event.created_at.as_str()),
            event: column(batch, |event| event.json.as_str()),
        }
    }

    /// In the order of the statement. The types are given and not asked for: one round trip instead
    /// of two, and nothing prepared that a connection pooler would have to keep.
    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        vec![
            (&self.event_id, Type::UUID_ARRAY),
            (&self.position, Type::INT8_ARRAY),
            (&self.event_type, Type::TEXT_ARRAY),
            (&self.event_name, Type::TEXT_ARRAY),
            (&self.event_key, Type::TEXT_ARRAY),
            (&self.workflow_type, Type::TEXT_ARRAY),
            (&self.workflow_id, Type::TEXT_ARRAY),
            (&self.workflow_run_id, Type::TEXT_ARRAY),
            (&self.workflow_state, Type::TEXT_ARRAY),
            (&self.activity_type, Type::TEXT_ARRAY),
            (&self.activity_id, Type::TEXT_ARRAY),
            (&self.attempt, Type::INT8_ARRAY),
            (&self.created_at, Type::TEXT_ARRAY),
            (&self.event, Type::TEXT_ARRAY),
        ]
    }
}
