//! A connection: how it is made, and how long it is good. Knows nothing of events.

use super::{
    address::{STEP_LIMIT, TableAddress},
    refusal::failed,
    schema::Key,
};
use crate::sink::{SinkError, shared::hosts::LastThatWorked};
use secrecy::ExposeSecret as _;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

/// A connection to a server that takes writes. Ends when dropped, in the middle of whatever it does.
pub(super) struct Connection {
    pub(super) client: Client,
    /// Of the tables on this server, once they were looked for.
    pub(super) keys: HashMap<String, Key>,
    driver: AbortHandle,
    since: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Otherwise it would wait for the answer to what it was asked last.
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to the first server that takes writes.
    pub(super) async fn open(
        address: &TableAddress,
        last: &LastThatWorked,
    ) -> Result<Self, SinkError> {
        last.connect(&address.names, STEP_LIMIT, |index| Self::to(address, index))
            .await
            .map_err(|error| {
                SinkError::new(format!("PostgreSQL cannot be reached: {}", error.reason()))
                    .with_source(error)
            })
    }

    async fn to(address: &TableAddress, index: usize) -> Result<Self, SinkError> {
        let mut config = address.servers.get(index).cloned().unwrap_or_default();
        if let Some(password) = &address.password
            && let Some(password) = password.read(&config).await?
        {
            config.password(password.expose_secret());
        }
        let (client, driver) = match &address.tls {
            Some(tls) => {
                let tls = MakeRustlsConnect::new(tls.config().await?);
                connect(&config, tls).await
            }
            None => connect(&config, NoTls).await,
        }
        .map_err(|error| failed("it does not let us in", error))?;
        let connection = Self {
            client,
            keys: HashMap::new(),
            driver,
            since: Instant::now(),
        };
        // A statement and not a startup option: connection poolers refuse those.
        let greeting = format!(
            "SET statement_timeout = {}; SHOW transaction_read_only",
            STEP_LIMIT.as_millis()
        );
        let answer = connection
            .client
            .simple_query(&greeting)
            .await
            .map_err(|error| failed("it does not answer a first question", error))?;
        let is_read_only = answer.iter().any(
            |message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("on")),
        );
        if is_read_only && address.has_to_take_writes {
            return Err(SinkError::new(
                "it takes no writes: it is a standby, or its `default_transaction_read_only` is on",
            ));
        }
        Ok(connection)
    }

    /// Whether it may be used once more.
    pub(super) fn is_good(&self, max_lifetime: Duration) -> bool {
        !self.client.is_closed() && self.since.elapsed() < max_lifetime
    }
}

async fn connect<T>(config: &Config, tls: T) -> Result<(Client, AbortHandle), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to PostgreSQL ended");
        }
    });
    Ok((client, driver.abort_handle()))
}
