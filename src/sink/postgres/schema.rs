//! The table of events: how it is made, and what of one that is there matters. Knows nothing of what is in an event.

use super::connection::Connection;
use crate::sink::shared::encoding::MARK_OF_SINK;
use tokio_postgres::types::Type;

/// The longest name of a table: PostgreSQL cuts names at 63 bytes, and those of the indexes are
/// longer than the table's.
pub(super) const MAX_TABLE_NAME: usize = 48;

/// What makes a row unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    EventId,
    /// A table that is partitioned by time has to have the time in its key. An event that comes again has the time that
    /// it had before.
    EventIdAndTime,
}

impl Key {
    /// The columns, as SQL.
    pub(super) fn columns(self) -> &'static str {
        match self {
            Self::EventId => "event_id",
            Self::EventIdAndTime => "event_id, created_at",
        }
    }
}

/// The key of the table that is there; none if there is no such table.
pub(super) async fn key(
    connection: &Connection,
    table: &str,
) -> Result<Option<Key>, tokio_postgres::Error> {
    // For each key, the names of its columns in the order of the alphabet.
    const KEYS: &str = "SELECT t.oid IS NOT NULL, (\
             SELECT string_agg(a.attname::text, ',' ORDER BY a.attname::text) FROM pg_attribute a \
             WHERE a.attrelid = i.indrelid \
             AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) \
         FROM (SELECT to_regclass($1) AS oid) t LEFT JOIN pg_index i ON i.indrelid = t.oid \
         AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL \
         AND i.indexprs IS NULL";
    let rows = connection
        .client
        // In quotes, or capitals would be none.
        .query_typed(KEYS, &[(&quoted(table), Type::TEXT)])
        .await?;
    let mut is_there = false;
    let mut keys = Vec::new();
    for row in rows {
        is_there |= row.try_get::<_, bool>(0)?;
        keys.extend(row.try_get::<_, Option<String>>(1)?);
    }
    let has = |wanted: &str| keys.iter().any(|key| key == wanted);
    // Of a table without either, such as a view, the server says what is missing.
    Ok(is_there.then(|| {
        if !has("event_id") && has("created_at,event_id") {
            Key::EventIdAndTime
        } else {
            Key::EventId
        }
    }))
}

/// Creates the table and its indexes. Of a table that is made from an event, `is_one_of_many`.
pub(super) async fn create(
    connection: &mut Connection,
    table: &str,
    is_one_of_many: bool,
) -> Result<(), tokio_postgres::Error> {
    let transaction = connection.client.transaction().await?;
    // `IF NOT EXISTS` alone fails when two create the same table at once.
    transaction
        .query_typed(
            "SELECT pg_advisory_xact_lock(hashtext($1))",
            &[(&format!("temporal-eventstore {table}"), Type::TEXT)],
        )
        .await?;
    transaction
        .batch_execute(&schema(table, is_one_of_many))
        .await?;
    transaction.commit().await
}

pub(super) fn is_table_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    parts.len() <= 2
        && parts.iter().all(|part| {
            part.len() <= MAX_TABLE_NAME
                && part.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
}

/// The table's name as SQL: in quotes, since `user` or `order` would be keywords.
pub(super) fn quoted(table: &str) -> String {
    format!("\"{}\"", table.replace('.', "\".\""))
}

fn schema(table: &str, is_one_of_many: bool) -> String {
    let index = table.rsplit('.').next().unwrap_or(table);
    // Names of indexes and sequences are among those of tables: `e_order_seq` may be the table of a type. What none is
    // made to tells them apart.
    let (index, key, sequence) = match is_one_of_many {
        false => (index.to_owned(), String::new(), String::new()),
        true => {
            let mark = format!("{index}_x{}", char::from(MARK_OF_SINK));
            let sequence = quoted(&format!(
                "{}{mark}_number",
                table.strip_suffix(index).unwrap_or_default()
            ));
            (
                mark.clone(),
                format!(r#"CONSTRAINT "{mark}_key" "#),
                format!(" (SEQUENCE NAME {sequence})"),
            )
        }
    };
    let table = quoted(table);
    format!(
        r#"
CREATE TABLE IF NOT EXISTS {table} (
    event_id uuid {key}PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY{sequence},
    position bigint NOT NULL,
    event_type text NOT NULL,
    event_name text NOT NULL,
    event_key text,
    workflow_type text,
    workflow_id text,
    workflow_run_id text,
    workflow_state text,
    activity_type text,
    activity_id text,
    attempt bigint,
    created_at timestamptz NOT NULL,
    event jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS "{index}_seq" ON {table} (seq);
CREATE INDEX IF NOT EXISTS "{index}_workflow" ON {table} (workflow_id, seq);
CREATE INDEX IF NOT EXISTS "{index}_name_time" ON {table} (event_name, created_at);
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn table_names_are_plain() {
        for name in ["events", "audit.events", "_e1"] {
            assert!(is_table_name(name), "{name}");
        }
        for name in [
            "",
            "1e",
            "a.b.c",
            "a\"b",
            "a b",
            ".a",
            "Events",
            &"a".repeat(49),
        ] {
            assert!(!is_table_name(name), "{name}");
        }
        assert_eq!(quoted("audit.order"), r#""audit"."order""#);
    }
}
