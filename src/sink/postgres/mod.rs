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
        parts::{self, Part, Receiver},
    },
};
pub(crate) use reading::{Asked, PostgresTable};

use address::TableAddress;
use async_trait::async_trait;
use connection::Connection;
use refusal::{failed, is_refusal, refusal};
use rows::{Columns, insert_statement};
use schema::Key;
use std::{
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
            .field("table", &self.address.table)
            .finish_non_exhaustive()
    }
}

/// The sink of a `postgres:` or `postgresql:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = TableAddress::parse(url)?;
    Ok(Arc::new(Postgres {
        name: format!("postgres {}", address.table),
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

    /// The key of the table, which is made if it is not there.
    async fn key(&self, connection: &mut Connection) -> Result<Key, SinkError> {
        if let Some(key) = connection.key {
            return Ok(key);
        }
        let table = &self.address.table;
        // Asked first, for a user that may write the table and not create one.
        let found = schema::key(connection, table)
            .await
            .map_err(|error| failed("PostgreSQL", error))?;
        let key = match found {
            Some(key) => key,
            None => {
                schema::create(connection, table).await.map_err(|error| {
                    failed(&format!("the table {table} cannot be created"), error)
                })?;
                info!(table, "created the table of events");
                Key::EventId
            }
        };
        connection.key = Some(key);
        Ok(key)
    }
}

impl Receiver for Postgres {
    fn most(&self) -> usize {
        usize::MAX
    }

    fn timeout(&self) -> Duration {
        CALL_LIMIT
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let mut connection = self.connection().await?;
        let key = self.key(&mut connection).await?;
        let TableAddress { table, notify, .. } = &self.address;
        let statement = insert_statement(table, key, notify.is_some());
        let columns = Columns::of(part);
        let mut parameters = columns.parameters();
        if let Some(channel) = notify {
            parameters.push((channel, Type::TEXT));
        }
        let answer = match connection
            .client
            .execute_typed(&statement, &parameters)
            .await
        {
            Ok(_) => Part::Taken,
            Err(error) if is_refusal(&error) => Part::Refused(refusal(&error)),
            Err(error) => return Err(failed("PostgreSQL", error)),
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
        parts::deliver(self, batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        // A connection of its own, which asks for all that deliveries need.
        let ask = async { self.connect().await.map(drop) };
        within(CALL_LIMIT, "PostgreSQL does not answer", ask).await
    }
}
