//! Events as entries of a Redis stream, each batch in one transaction. Redis gives entries ids of its
//! own and keeps no event twice only if it is not sent twice: after an answer that was lost, the
//! sink makes sure that the old connection can write no more and looks at what it wrote. Documented in
//! `docs/sinks/redis.md`.

mod address;
mod connection;
mod doubt;
mod replicas;

use super::{
    Delivered, Rejection, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        attempt::{outcome, within},
        doubt::Origin,
        hosts::LastThatWorked,
    },
};
use ::redis::{Cmd, RedisError};
use address::{StreamAddress, Trim};
use async_trait::async_trait;
use connection::Connection;
use doubt::State;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Mutex;

/// How long connecting, and how long one answer may take.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);
const NO_ANSWER: &str = "Redis does not answer";
/// What errors of the server begin with.
const REDIS: &str = "Redis";

/// The sink for `redis://` and `rediss://`.
struct Redis {
    name: String,
    address: StreamAddress,
    last_that_worked: LastThatWorked,
    origin: Origin,
    state: Mutex<State>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("stream", &self.address.stream)
            .field("trim", &self.address.trim)
            .finish_non_exhaustive()
    }
}

/// The sink of a `redis:` or `rediss:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = StreamAddress::parse(url)?;
    Ok(Arc::new(Redis {
        name: format!("redis {}", address.stream),
        address,
        last_that_worked: LastThatWorked::default(),
        origin: Origin::default(),
        state: Mutex::default(),
    }))
}

impl Redis {
    async fn connect(&self) -> Result<Connection, SinkError> {
        Connection::open(&self.address, &self.last_that_worked).await
    }

    async fn add_all(&self, batch: &[SinkEvent], done: &mut Delivered) -> Result<(), SinkError> {
        let mut state = self.state.lock().await;
        // Kept again only if all goes well: what is dropped, also with this call, is not used again.
        let mut connection = match state.connection.take() {
            Some(connection) if connection.is_alive() => connection,
            _ => self.connect().await?,
        };
        let attempt = state
            .begin(&self.address, &mut connection, batch, &self.origin)
            .await?;
        let mut rejected = Vec::new();
        let mut transaction = ::redis::pipe();
        transaction.atomic();
        let mut there = Vec::with_capacity(batch.len());
        let mut is_added = false;
        for (index, event) in batch.iter().enumerate() {
            if event.json.len() > connection.max_string {
                let reason = format!(
                    "Redis refuses it: {} bytes are more than the {} of `proto-max-bulk-len`",
                    event.json.len(),
                    connection.max_string
                );
                rejected.push(Rejection::new(index, reason));
                continue;
            }
            there.push(event.event_id);
            if !state.knows(event.event_id) && !attempt.found(event.event_id) {
                transaction.add_command(self.add(event));
                is_added = true;
            }
        }
        let mut last_entry = None;
        if is_added {
            state.writes_over(&connection);
            let entries = transaction
                .query_async::<Vec<String>>(&mut connection.redis)
                .await
                .map_err(|error| failed(REDIS, error))?;
            last_entry = entries.into_iter().next_back();
        }
        if let Some(wait) = self.address.wait {
            if is_added {
                replicas::wait(&mut connection, wait).await?;
            } else if attempt.has_looked() {
                replicas::wait_for_what_was_there(&mut connection, wait).await?;
            }
        }
        state.end(attempt, batch, there, last_entry);
        state.connection = Some(connection);
        *done = Delivered::up_to(batch.len(), rejected);
        Ok(())
    }

    fn add(&self, event: &SinkEvent) -> Cmd {
        let mut command = ::redis::cmd("XADD");
        command.arg(&self.address.stream);
        match self.address.trim {
            None => {}
            Some(Trim::Length(length)) => {
                command.arg("MAXLEN").arg("~").arg(length);
            }
            Some(Trim::Age(age)) => {
                command.arg("MINID").arg("~").arg(milliseconds_before(age));
            }
        }
        command
            .arg("*")
            .arg("id")
            .arg(event.event_id.to_string())
            .arg("type")
            .arg(&event.event_type)
            .arg("name")
            .arg(&event.event_name);
        if let Some(key) = event.key() {
            command.arg("key").arg(key);
        }
        if let Some(journal) = self.origin.journal() {
            command.arg(doubt::JOURNAL).arg(journal);
            command.arg(doubt::POSITION).arg(event.position);
        }
        command.arg("event").arg(&event.json);
        command
    }
}

/// The time that long ago, as the ids of entries begin with it.
fn milliseconds_before(age: Duration) -> u64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.saturating_sub(age).as_millis()).unwrap_or(0)
}

#[async_trait]
impl Sink for Redis {
    fn name(&self) -> &str {
        &self.name
    }

    fn comes_from(&self, journal: &str) {
        self.origin.set(journal);
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut done = Delivered::default();
        let end = within(CALL_LIMIT, NO_ANSWER, self.add_all(batch, &mut done)).await;
        outcome(done, end)
    }

    async fn check(&self) -> Result<(), SinkError> {
        // A connection of its own: the other one may be waiting for an answer.
        let ask = async {
            let mut connection = self.connect().await?;
            ::redis::cmd("PING")
                .query_async::<()>(&mut connection.redis)
                .await
                .map_err(|error| failed(REDIS, error))
        };
        within(CALL_LIMIT, NO_ANSWER, ask).await
    }
}

fn failed(what: &str, error: RedisError) -> SinkError {
    SinkError::new(format!("{what}: {}", text_of(&error))).with_source(error)
}

/// An error with the words of the server, which quote no values.
fn text_of(error: &RedisError) -> String {
    // Of a transaction that was aborted there is one for each of its commands, mostly the same.
    if let Some(errors) = error.clone().into_server_errors()
        && let Some((_, first)) = errors.first()
    {
        return first.to_string();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}
