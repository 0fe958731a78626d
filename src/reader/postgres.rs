//! Reads the table that the sink `postgres:` writes. Positions are its column `seq`.

use super::{
    EventQuery, Page, ReadError,
    query::{Dialect, Parameter, conditions},
};
use crate::{
    event::{Event, StoredEvent},
    sink::postgres::{Asked, PostgresTable},
};
use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

/// How long a missing number is waited for: longer than a statement of the sink may take.
const LONGEST_GAP: Duration = Duration::from_secs(12);
/// How long at least: a number is given a moment before its transaction is known.
const SHORTEST_GAP: Duration = Duration::from_secs(1);

const DIALECT: Dialect = Dialect {
    parameter: "$",
    position: "seq",
    metadata: ("event #>> '{metadata,", "}'"),
    time: ("(", "::text)::timestamptz"),
};

/// The columns of an event, with its position first.
pub(super) const COLUMNS: &str = "seq, event::text, \
     to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// A table of events.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) table: Arc<PostgresTable>,
    shown: Arc<str>,
}

/// Numbers that are missing, and may come.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// What is missing up to this number stays missing.
    over_up_to: i64,
    waiting: Option<Waiting>,
}

/// What is waited for.
#[derive(Debug)]
struct Waiting {
    /// The highest number that was there: every one before it was given already.
    up_to: i64,
    seen: Instant,
    /// Transactions from this one on began after the gap was seen.
    next_transaction: i64,
}

impl Table {
    pub(super) async fn open(url: &str) -> Result<Self, ReadError> {
        let table = PostgresTable::open(url).map_err(|error| ReadError::InvalidUrl {
            url: error.url,
            reason: error.reason,
            allowed: error.allowed,
        })?;
        let table = Self {
            table: Arc::new(table),
            shown: crate::sink::redacted(url).into(),
        };
        let known = table
            .query(
                "SELECT to_regclass($1) IS NOT NULL",
                &[text(&table.table.quoted())],
            )
            .await?;
        match known.first().map(|row| row.try_get(0)) {
            Some(Ok(true)) => Ok(table),
            Some(Ok(false)) => Err(table.says(format!(
                "the database has no table {}; a worker creates it at its first delivery (or name \
                 another one with the parameter `table`)",
                table.table.name()
            ))),
            _ => Err(table.says("it does not say which tables it has".to_owned())),
        }
    }

    fn says(&self, reason: String) -> ReadError {
        ReadError::Failed {
            url: self.shown.to_string(),
            reason,
            source: None,
        }
    }

    pub(super) fn failed(&self, error: tokio_postgres::Error) -> ReadError {
        let answer = error.as_db_error();
        let reason = match answer {
            Some(answer) => format!("{} ({})", answer.message(), answer.code().code()),
            None => match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        };
        ReadError::Failed {
            url: self.shown.to_string(),
            reason,
            source: Some(Arc::new(error)),
        }
    }

    pub(super) async fn asked(&self) -> Result<Asked<'_>, ReadError> {
        let asked = self.table.ask().await;
        asked.map_err(|error| self.says(error.reason().to_owned()))
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Row>, ReadError> {
        let values: Vec<(Box<dyn ToSql + Sync + Send>, Type)> = parameters
            .iter()
            .map(|parameter| match parameter {
                Parameter::Position(position) => {
                    let position = i64::try_from(*position).unwrap_or(i64::MAX);
                    (
                        Box::new(position) as Box<dyn ToSql + Sync + Send>,
                        Type::INT8,
                    )
                }
                Parameter::Text(text) => (Box::new(text.clone()) as _, Type::TEXT),
            })
            .collect();
        let values: Vec<(&(dyn ToSql + Sync), Type)> = values
            .iter()
            .map(|(value, kind)| (value.as_ref() as &(dyn ToSql + Sync), kind.clone()))
            .collect();
        let asked = self.asked().await?;
        let rows = asked.client().query_typed(sql, &values).await;
        if rows.is_ok() {
            asked.give_back();
        }
        rows.map_err(|error| self.failed(error))
    }

    pub(super) async fn read(&self, query: &EventQuery) -> Result<Page, ReadError> {
        let (conditions, parameters) = conditions(query, &DIALECT);
        let table = self.table.quoted();
        let limit = query.limit;
        let sql =
            format!("SELECT {COLUMNS} FROM {table} WHERE {conditions} ORDER BY seq LIMIT {limit}");
        let rows = self.query(&sql, &parameters).await?;
        let is_last = rows.len() < limit;
        let events: Result<Vec<StoredEvent>, ReadError> =
            rows.iter().map(|row| self.event(row)).collect();
        Ok(Page {
            events: events?,
            is_last,
        })
    }

    fn event(&self, row: &Row) -> Result<StoredEvent, ReadError> {
        let column = |error| self.failed(error);
        let position: i64 = row.try_get(0).map_err(column)?;
        let json: String = row.try_get(1).map_err(column)?;
        let position = u64::try_from(position).unwrap_or_default();
        // `jsonb` has an order and spaces of its own; written again it is as it was delivered.
        Event::from_json(&json)
            .and_then(|event| StoredEvent::new(position, &event))
            .map_err(|error| {
                self.says(format!(
                    "the row with seq {position} holds no event: {error}"
                ))
            })
    }

    pub(super) async fn number(&self, sql: &str) -> Result<i64, ReadError> {
        let rows = self.query(sql, &[]).await?;
        let number: Option<i64> = match rows.first() {
            Some(row) => row.try_get(0).map_err(|error| self.failed(error))?,
            None => None,
        };
        Ok(number.unwrap_or_default())
    }

    pub(super) async fn newest(&self) -> Result<u64, ReadError> {
        let sql = format!("SELECT max(seq) FROM {}", self.table.quoted());
        Ok(u64::try_from(self.number(&sql).await?).unwrap_or_default())
    }

    /// Returns the number up to which, from `after` on, no row can come any more.
    pub(super) async fn settled(&self, after: u64, gaps: &mut Gaps) -> Result<u64, ReadError> {
        let table = self.table.quoted();
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let sql = format!(
            "SELECT seq, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, \
             pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (SELECT max(seq) FROM {table}) \
             FROM {table} WHERE seq > {after} ORDER BY seq LIMIT 5000"
        );
        let rows = self.query(&sql, &[]).await?;
        let mut settled = after;
        for row in &rows {
            let column = |index| {
                row.try_get::<_, i64>(index)
                    .map_err(|error| self.failed(error))
            };
            let (seq, oldest, next, newest) = (column(0)?, column(1)?, column(2)?, column(3)?);
            if seq > settled + 1 && !gaps.pass(seq - 1, newest, oldest, next) {
                break;
            }
            settled = seq;
        }
        Ok(u64::try_from(settled).unwrap_or_default())
    }
}

impl Gaps {
    /// Whether a gap that ends with the number `last` is known to stay one.
    fn pass(&mut self, last: i64, newest: i64, oldest: i64, next: i64) -> bool {
        if last <= self.over_up_to {
            return true;
        }
        match &self.waiting {
            Some(waiting) if last <= waiting.up_to => {
                let age = waiting.seen.elapsed();
                let is_over = oldest >= waiting.next_transaction && age >= SHORTEST_GAP;
                let passes = is_over || age >= LONGEST_GAP;
                if passes {
                    self.over_up_to = waiting.up_to;
                    self.waiting = None;
                }
                passes
            }
            _ => {
                self.waiting = Some(Waiting {
                    up_to: newest,
                    seen: Instant::now(),
                    next_transaction: next,
                });
                false
            }
        }
    }
}

fn text(text: &str) -> Parameter {
    Parameter::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_passed_once_nobody_can_fill_it() {
        let mut gaps = Gaps::default();
        assert!(!gaps.pass(4, 9, 10, 12));
        // Somebody who began before the gap was seen is still there.
        assert!(!gaps.pass(4, 9, 11, 13));
        assert!(!gaps.pass(4, 9, 12, 13), "too early");
        let earlier = |gaps: &mut Gaps, by| {
            let waiting = gaps.waiting.as_mut().unwrap();
            waiting.seen = waiting.seen.checked_sub(by).unwrap();
        };
        earlier(&mut gaps, SHORTEST_GAP);
        assert!(!gaps.pass(4, 9, 11, 13));
        assert!(gaps.pass(4, 9, 12, 13));
        assert!(gaps.waiting.is_none());
        assert!(gaps.pass(8, 20, 1, 14), "it was there at the same time");
        assert!(!gaps.pass(12, 20, 1, 14));
        earlier(&mut gaps, LONGEST_GAP);
        assert!(
            gaps.pass(12, 20, 1, 20),
            "a transaction that stays for ever"
        );
    }
}
