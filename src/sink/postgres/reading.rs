//! For readers: the table that a URL names, and connections to its database. Knows nothing of events.

use super::{address::TableAddress, connection::Connection, schema};
use crate::sink::{SinkError, SinkUrlError, shared::hosts::LastThatWorked};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_postgres::Client;

/// The table of a `postgres:` or `postgresql:` URL.
pub(crate) struct PostgresTable {
    table: String,
    address: TableAddress,
    last_that_worked: LastThatWorked,
    kept: Mutex<Option<Connection>>,
}

/// A connection that somebody asks. It ends when dropped, unless it was given back.
pub(crate) struct Asked<'a> {
    table: &'a PostgresTable,
    connection: Connection,
}

impl PostgresTable {
    /// Reads the URL. Connects to nothing.
    pub(crate) fn open(url: &str) -> Result<Self, SinkUrlError> {
        let mut address = TableAddress::parse_for_reader(url)?;
        // A standby can be read, too.
        address.has_to_take_writes = false;
        let table = address.table.shown().to_owned();
        if !address.table.is_fixed() {
            return Err(SinkUrlError::new(
                url,
                "`table` has a field of the event in it, and so names many tables",
                "the name of one of them, as it is in the database",
            ));
        }
        Ok(Self {
            table,
            address,
            last_that_worked: LastThatWorked::default(),
            kept: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.table
    }

    /// Returns the name as SQL.
    pub(crate) fn quoted(&self) -> String {
        schema::quoted(&self.table)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection that was given back, if it is still good, or a new one.
    pub(crate) async fn ask(&self) -> Result<Asked<'_>, SinkError> {
        let kept = self.kept().take();
        let connection = match kept.filter(|kept| kept.is_good(self.address.max_lifetime)) {
            Some(connection) => connection,
            None => Connection::open(&self.address, &self.last_that_worked).await?,
        };
        Ok(Asked {
            table: self,
            connection,
        })
    }
}

impl Asked<'_> {
    pub(crate) fn client(&self) -> &Client {
        &self.connection.client
    }

    /// Gives the connection back, once everything that it was asked is answered.
    pub(crate) fn give_back(self) {
        *self.table.kept() = Some(self.connection);
    }
}
