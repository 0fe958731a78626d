//! Questions to PostgreSQL.

use super::{Condition, Rows};
use crate::reader::{
    ReadError,
    postgres::{COLUMNS, Table},
};
use serde_json::Value;
use tokio_postgres::{SimpleQueryMessage, types::Type};

impl Table {
    pub(super) async fn sql(&self, statement: &str, limit: usize) -> Result<Rows, ReadError> {
        let asked = self.asked().await?;
        let client = asked.client();
        let failed = |error| self.failed(error);
        // Only a single statement can be prepared; then it cannot leave the transaction and go on.
        let prepared = client.prepare(statement).await.map_err(failed)?;
        let columns = prepared.columns();
        let names = columns
            .iter()
            .map(|column| column.name().to_owned())
            .collect();
        let begin = "BEGIN READ ONLY; SET LOCAL statement_timeout = 0";
        client.batch_execute(begin).await.map_err(failed)?;
        let messages = client.simple_query(statement).await;
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        asked.give_back();
        let rows = messages.map_err(failed)?.into_iter().filter_map(|message| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            let values = columns.iter().enumerate().map(|(index, column)| {
                row.try_get(index)
                    .ok()
                    .flatten()
                    .map_or(Value::Null, |text| value(text, column.type_()))
            });
            Some(values.collect())
        });
        Ok(Rows {
            columns: names,
            rows: rows.take(limit).collect(),
        })
    }

    pub(super) async fn condition(&self) -> Result<Condition, ReadError> {
        let table = self.table.quoted();
        let count = self
            .number(&format!("SELECT count(*) FROM {table}"))
            .await?;
        let sql = format!("SELECT {COLUMNS} FROM {table} ORDER BY seq DESC LIMIT 1");
        let newest = self.query(&sql, &[]).await?;
        let newest_at = match newest.first() {
            Some(row) => row.try_get(2).map_err(|error| self.failed(error))?,
            None => None,
        };
        Ok(Condition {
            events: u64::try_from(count).unwrap_or_default(),
            newest_at,
            ..Condition::default()
        })
    }
}

/// A value that PostgreSQL gave as text, as JSON.
fn value(text: &str, kind: &Type) -> Value {
    match *kind {
        Type::BOOL => Value::Bool(text == "t"),
        Type::INT2
        | Type::INT4
        | Type::INT8
        | Type::FLOAT4
        | Type::FLOAT8
        | Type::JSON
        | Type::JSONB => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_their_types_say() {
        assert_eq!(value("t", &Type::BOOL), true);
        assert_eq!(value("7", &Type::INT8), 7);
        assert_eq!(value("007", &Type::TEXT), "007");
        assert_eq!(value(r#"{"a": 1}"#, &Type::JSONB)["a"], 1);
        assert_eq!(value("NaN", &Type::FLOAT8), "NaN");
    }
}
