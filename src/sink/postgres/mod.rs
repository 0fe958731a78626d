//! Events as rows of a PostgreSQL table. The event id is the primary key: an event that comes again
//! changes nothing. Documented in `docs/sinks/postgres.md`.

mod address;
mod connection;
mod pass_file;
mod password;
mod reading;
mod refusal;
mod rows;
mod schema;
mod service;

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        attempt::within,
        hosts::LastThatWorked,
        parts::{self, Part, Receiver, Refusal},
    },
};
use crate::event::EventError;
pub(crate) use reading::{Asked, PostgresTable};

use address::TableAddress;
use async_trait::async_trait;
use connection::Connection;
use refusal::{failed, is_about_one_table, is_refusal, refusal};
use rows::{Columns, insert_statement};
use schema::Key;
use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_postgres::types::Type;
use tracing::info;

/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);

/// The sink for `postgres://`.
struct Postgres {
    name: String,
    address: TableAddress,
    last_that_worked: LastThatWorked,
    /// Kept after a success or a refused row alone: after anything else the server may be the wrong one by now.
    kept: Mutex<Option<Connection>>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("table", &self.address.table.shown())
            .finish_non_exhaustive()
    }
}

/// The sink of a `postgres:` or `postgresql:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = TableAddress::parse(url)?;
    Ok(Arc::new(Postgres {
        name: format!("postgres {}", address.table.shown()),
        address,
        last_that_worked: LastThatWorked::default(),
        kept: Mutex::default(),
    }))
}

impl Postgres {
    fn kept(&self) -> MutexGuard<'_, Option<Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Connection, SinkError> {
        Connection::open(&self.address, &self.last_that_worked).await
    }

    /// The connection that was kept, if it is still good, or a new one.
    async fn connection(&self) -> Result<Connection, SinkError> {
        let kept = self.kept().take();
        match kept.filter(|kept| kept.is_good(self.address.max_lifetime)) {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// The key of a table, which is made if it is not there.
    async fn key(&self, connection: &mut Connection, table: &str) -> Result<Key, Problem> {
        if let Some(key) = connection.keys.get(table) {
            return Ok(*key);
        }
        // Asked first, for a user that may write the table and not create one.
        let found = schema::key(connection, table)
            .await
            .map_err(|error| self.problem("PostgreSQL", error))?;
        let key = match found {
            Some(key) => key,
            None => {
                schema::create(connection, table, !self.address.table.is_fixed())
                    .await
                    .map_err(|error| {
                        self.problem(&format!("the table {table} cannot be created"), error)
                    })?;
                info!(table, "created the table of events");
                Key::EventId
            }
        };
        connection.keys.insert(table.to_owned(), key);
        Ok(key)
    }

    /// What an error means. Where tables are made from events, one that is about a table is about its events.
    fn problem(&self, what: &str, error: tokio_postgres::Error) -> Problem {
        let is_about_events = !self.address.table.is_fixed() && is_about_one_table(&error);
        let error = failed(what, error);
        match is_about_events {
            true => Problem::Refused(Refusal::from(error.reason().to_owned())),
            false => Problem::Now(error),
        }
    }

    /// Inserts the events of each table in a statement, all of them or none.
    async fn insert(
        &self,
        connection: &mut Connection,
        groups: &[Group<'_>],
    ) -> Result<(), Problem> {
        let is_one_of_many = !self.address.table.is_fixed();
        let notify = self.address.notify.as_ref();
        let mut statements = Vec::with_capacity(groups.len());
        for Group { table, events } in groups {
            let key = self.key(connection, table).await?;
            let statement = insert_statement(table, key, notify.is_some(), is_one_of_many);
            statements.push((statement, Columns::of(events)));
        }
        let failed = |error| match is_refusal(&error) {
            true => Problem::Refused(refusal(&error)),
            false => self.problem("PostgreSQL", error),
        };
        if let [(statement, columns)] = statements.as_slice() {
            let mut parameters = columns.parameters();
            parameters.extend(notify.map(|channel| (channel as _, Type::TEXT)));
            let inserting = connection.client.execute_typed(statement, &parameters);
            return inserting.await.map(drop).map_err(failed);
        }
        let transaction = connection.client.transaction().await.map_err(failed)?;
        for (statement, columns) in &statements {
            let mut parameters = columns.parameters();
            parameters.extend(notify.map(|channel| (channel as _, Type::TEXT)));
            let inserting = transaction.execute_typed(statement, &parameters);
            inserting.await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The events of each table, in order.
    fn groups<'a>(&'a self, part: &'a [SinkEvent]) -> Result<Vec<Group<'a>>, EventError> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut places = HashMap::new();
        for event in part {
            let table = self.address.table.target(event)?;
            let place = *places.entry(table.clone()).or_insert(groups.len());
            match groups.get_mut(place) {
                Some(group) => group.events.push(event),
                None => groups.push(Group {
                    table,
                    events: vec![event],
                }),
            }
        }
        // Two programs that insert into the same tables in different orders could wait for each other.
        groups.sort_unstable_by(|one, other| one.table.cmp(&other.table));
        Ok(groups)
    }
}

/// The events of one table.
struct Group<'a> {
    table: Cow<'a, str>,
    events: Vec<&'a SinkEvent>,
}

/// Why events were not inserted.
enum Problem {
    Refused(Refusal),
    Now(SinkError),
}

impl Receiver for Postgres {
    fn most(&self) -> usize {
        usize::MAX
    }

    fn timeout(&self) -> Duration {
        CALL_LIMIT
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let groups = match self.groups(part) {
            Ok(groups) => groups,
            Err(error) => return Ok(Part::Unsendable(error.to_string())),
        };
        let mut connection = self.connection().await?;
        let answer = match self.insert(&mut connection, &groups).await {
            Ok(()) => Part::Taken,
            Err(Problem::Refused(refusal)) => Part::Refused(refusal),
            Err(Problem::Now(error)) => return Err(error),
        };
        *self.kept() = Some(connection);
        Ok(answer)
    }
}

#[async_trait]
impl Sink for Postgres {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let batch = self.address.table.admitted(batch)?;
        parts::deliver(self, batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        // A connection of its own, which asks for all that deliveries need.
        let ask = async { self.connect().await.map(drop) };
        within(CALL_LIMIT, "PostgreSQL does not answer", ask).await
    }
}
