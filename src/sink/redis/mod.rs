//! Events as entries of a Redis stream, each batch in one transaction. Redis gives entries ids of its
//! own and keeps no event twice only if it is not sent twice: after an answer that was lost, the
//! sink makes sure that the old connection can write no more and looks at what it wrote. Documented in
//! `docs/sinks/redis.md`.

mod address;
mod connection;
mod doubt;
mod replicas;

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        attempt::within,
        doubt::Origin,
        hosts::LastThatWorked,
        parts::{self, Part, Receiver, Refusal},
    },
};
use ::redis::{Cmd, RedisError};
use address::{StreamAddress, Trim};
use async_trait::async_trait;
use connection::Connection;
use doubt::State;
use std::{
    collections::HashMap,
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
            .field("stream", &self.address.stream.shown())
            .field("trim", &self.address.trim)
            .finish_non_exhaustive()
    }
}

/// The sink of a `redis:` or `rediss:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = StreamAddress::parse(url)?;
    Ok(Arc::new(Redis {
        name: format!("redis {}", address.stream.shown()),
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

    /// Adds events in one transaction, each to its stream.
    async fn add_all(&self, batch: &[SinkEvent]) -> Result<Part, SinkError> {
        let mut targets = Vec::with_capacity(batch.len());
        for event in batch {
            match self.address.stream.target(event) {
                Ok(stream) => targets.push(stream),
                Err(error) => return Ok(Part::Unsendable(error.to_string())),
            }
        }
        let mut streams: Vec<&str> = targets.iter().map(|stream| &**stream).collect();
        streams.sort_unstable();
        streams.dedup();
        let mut state = self.state.lock().await;
        // Kept again only if all goes well: what is dropped, also with this call, is not used again.
        let mut connection = match state.connection.take() {
            Some(connection) if connection.is_alive() => connection,
            _ => {
                state.begin_anew();
                self.connect().await?
            }
        };
        if let Some(event) = batch
            .iter()
            .find(|event| event.json.len() > connection.max_string)
        {
            let reason = format!(
                "Redis refuses it: {} bytes are more than the {} of `proto-max-bulk-len`",
                event.json.len(),
                connection.max_string
            );
            state.connection = Some(connection);
            return Ok(Part::Unsendable(reason));
        }
        let begun = state
            .begin(&streams, &mut connection, batch, &self.origin)
            .await;
        let attempt = match begun {
            Ok(attempt) => attempt,
            Err(error) => return self.refused(error),
        };
        let mut transaction = ::redis::pipe();
        transaction.atomic();
        let mut added = Vec::with_capacity(batch.len());
        for (event, stream) in batch.iter().zip(&targets) {
            if !state.knows(stream, event.event_id) && !attempt.found(stream, event.event_id) {
                transaction.add_command(self.add(event, stream));
                added.push(&**stream);
            }
        }
        let mut last_entries = HashMap::with_capacity(streams.len());
        if !added.is_empty() {
            state.writes_over(&connection);
            let answer = transaction
                .query_async::<Vec<String>>(&mut connection.redis)
                .await;
            let entries = match answer {
                Ok(entries) => entries,
                Err(error) => return self.refused(failed(REDIS, error)),
            };
            last_entries.extend(added.iter().copied().zip(entries));
        }
        if let Some(wait) = self.address.wait {
            if !added.is_empty() {
                replicas::wait(&mut connection, wait).await?;
            } else if attempt.has_looked() {
                replicas::wait_for_what_was_there(&mut connection, wait).await?;
            }
        }
        state.end(attempt, batch, &last_entries);
        state.connection = Some(connection);
        Ok(Part::Taken)
    }

    /// What an error means where streams are made from events: a key that the user may not write, or that holds something
    /// else, is about those events. What a refused transaction wrote all the same is found by the next look.
    fn refused(&self, error: SinkError) -> Result<Part, SinkError> {
        let source = std::error::Error::source(&error);
        let answer = source.and_then(|source| source.downcast_ref::<RedisError>());
        let is_about_the_key = answer.is_some_and(|answer| {
            code_of(answer).is_some_and(|code| matches!(&*code, "NOPERM" | "WRONGTYPE"))
        });
        match is_about_the_key && !self.address.stream.is_fixed() {
            true => Ok(Part::Refused(Refusal::from(error.reason().to_owned()))),
            false => Err(error),
        }
    }

    fn add(&self, event: &SinkEvent, stream: &str) -> Cmd {
        let mut command = ::redis::cmd("XADD");
        command.arg(stream);
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

impl Receiver for Redis {
    fn most(&self) -> usize {
        usize::MAX
    }

    fn timeout(&self) -> Duration {
        CALL_LIMIT
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        self.add_all(part).await
    }
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
        let batch = self.address.stream.admitted(batch)?;
        parts::deliver(self, batch).await
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

/// The code of the server's answer; of a transaction, of the first command that it refused.
fn code_of(error: &RedisError) -> Option<String> {
    if let Some(errors) = error.clone().into_server_errors()
        && let Some((_, first)) = errors.first()
    {
        return Some(first.code().to_owned());
    }
    error.code().map(str::to_owned)
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
