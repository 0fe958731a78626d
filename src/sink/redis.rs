//! Events as entries of a Redis stream, each batch in one transaction. Redis gives entries ids of its
//! own and keeps no event twice only if it is not sent twice: after an answer that was lost, the
//! sink makes sure that the old connection can write no more and looks at what it wrote.

use super::{
    Delivered, Rejection, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        address::Address,
        attempt::{outcome, within},
        recent::Recent,
        tls,
    },
};
use crate::event::EventId;
use ::redis::{
    AsyncConnectionConfig, RedisConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection, streams::StreamRangeReply,
};
use async_trait::async_trait;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use std::{fmt, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::Mutex, task::AbortHandle};
use tokio_rustls::TlsConnector;
use tracing::warn;

const ALLOWED: &str = "`redis://user:password@host:port/stream` or \
     `redis://host:port/database-number/stream`, `rediss://` for TLS, with the \
     parameters `maxlen=N`, `tls_ca=FILE`";

/// How long connecting, and how long one answer may take.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);
const NO_ANSWER: &str = "Redis does not answer";
/// What errors of the server begin with.
const REDIS: &str = "Redis";
/// How many entries are read at once.
const PAGE: usize = 100;
/// How many pages are read after the last entry that the sink knows of. More than others write there
/// while a batch is in doubt.
const MAX_PAGES: usize = 1000;
/// How many of the last entries are looked at first, or twice the batch if that is more.
const FIRST_LOOK: usize = 1000;
/// The longest string that Redis takes, unless configured otherwise.
const DEFAULT_MAX_STRING: usize = 512 * 1024 * 1024;

/// The sink for `redis://` and `rediss://`.
struct Redis {
    name: String,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    user: Option<String>,
    password: Option<SecretString>,
    database: i64,
    stream: String,
    max_length: Option<u64>,
    state: Mutex<State>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("stream", &self.stream)
            .field("max_length", &self.max_length)
            .finish_non_exhaustive()
    }
}

/// What the sink knows of the stream between calls.
struct State {
    connection: Option<Connection>,
    /// The last entry that this sink has written, or seen.
    last_entry: Option<String>,
    /// A batch may have been written that nobody has acknowledged: by an earlier run of the program,
    /// at the start.
    in_doubt: bool,
    /// The connection that the batch in doubt was sent over.
    doubtful: Option<Peer>,
    /// Events that are in the stream: acknowledged, or found there when a doubt was resolved.
    known: Recent,
}

/// A connection as the server sees it. The address tells it from one that has the same number after a
/// restart of the server.
#[derive(Clone)]
struct Peer {
    id: String,
    address: String,
}

struct Connection {
    redis: MultiplexedConnection,
    peer: Option<Peer>,
    max_string: usize,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Otherwise it would wait for the answers of a server that is gone.
        self.driver.abort();
    }
}

/// The sink of a `redis:` or `rediss:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    Ok(Arc::new(Redis::new(url)?))
}

impl Redis {
    fn new(url: &str) -> Result<Self, SinkUrlError> {
        let address = Address::parse(url, ALLOWED)?;
        let parameters = address.parameters(&["maxlen", "tls_ca"])?;
        let (database, stream) = match address.path()?.as_slice() {
            [stream] => (0, stream.clone()),
            [database, stream] => {
                let number = database.parse::<u16>().map_err(|_| {
                    address.wrong("of two parts of the path, the first has to be a number")
                })?;
                (i64::from(number), stream.clone())
            }
            [] => return Err(address.wrong("it names no stream")),
            _ => return Err(address.wrong("its path is more than a database and a stream")),
        };
        if stream.is_empty() {
            return Err(address.wrong("it names no stream"));
        }
        let max_length = parameters.read("maxlen", "a number")?;
        if max_length == Some(0) {
            return Err(address.wrong("`maxlen` is 0: the stream would keep nothing"));
        }
        let (user, password) = (address.user()?, address.password()?);
        if user.is_some() && password.is_none() {
            return Err(address.wrong("it has a user name and no password"));
        }
        let roots = parameters.text("tls_ca").map(Path::new);
        let tls = if address.scheme() == "rediss" {
            let config = tls::client_config(roots).map_err(|reason| address.wrong(reason))?;
            Some(TlsConnector::from(Arc::new(config)))
        } else if roots.is_some() {
            return Err(address.wrong("`tls_ca` needs `rediss://`"));
        } else {
            None
        };
        Ok(Self {
            name: format!("redis {stream}"),
            host: address.host(),
            port: address.port_or(6379),
            tls,
            user,
            password,
            database,
            stream,
            max_length,
            state: Mutex::new(State {
                connection: None,
                last_entry: None,
                in_doubt: true,
                doubtful: None,
                known: Recent::default(),
            }),
        })
    }

    async fn connect(&self) -> Result<Connection, SinkError> {
        const UNREACHABLE: &str = "Redis cannot be reached";
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| SinkError::caused_by(UNREACHABLE, error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| SinkError::caused_by(UNREACHABLE, error))?;
        // The handshake is here and not left to the client library, which takes the provider of
        // cryptography from the process and panics where there are two.
        match &self.tls {
            None => self.greet(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|error| SinkError::caused_by(UNREACHABLE, error))?;
                let stream = tls
                    .connect(name, stream)
                    .await
                    .map_err(|error| SinkError::caused_by(UNREACHABLE, error))?;
                self.greet(stream).await
            }
        }
        .map_err(|error| failed(UNREACHABLE, error))
    }

    async fn greet<S>(&self, stream: S) -> RedisResult<Connection>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut login = RedisConnectionInfo::default().set_db(self.database);
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password.expose_secret());
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(STEP_LIMIT));
        let (mut redis, driver) =
            MultiplexedConnection::new_with_config(&login, stream, config).await?;
        let driver = tokio::spawn(driver).abort_handle();
        // Neither is needed by a user that may do nothing but add to a stream.
        let client = ::redis::cmd("CLIENT")
            .arg("INFO")
            .query_async::<String>(&mut redis)
            .await;
        let limit = ::redis::cmd("CONFIG")
            .arg(&["GET", "proto-max-bulk-len"])
            .query_async::<(String, usize)>(&mut redis)
            .await;
        Ok(Connection {
            redis,
            peer: client.ok().as_deref().and_then(peer),
            max_string: limit.map_or(DEFAULT_MAX_STRING, |(_, bytes)| bytes),
            driver,
        })
    }

    /// Finds out which events of a batch in doubt are in the stream.
    async fn resolve(
        &self,
        state: &mut State,
        connection: &mut Connection,
        batch: &[SinkEvent],
    ) -> Result<(), SinkError> {
        if let Some(peer) = &state.doubtful {
            // What the server has not read yet of the old connection would come after the look.
            let killed = ::redis::cmd("CLIENT")
                .arg(&["KILL", "ID", &peer.id, "ADDR", &peer.address])
                .query_async::<u64>(&mut connection.redis)
                .await;
            if let Err(error) = killed {
                if error.is_io_error() || error.is_timeout() {
                    return Err(failed(REDIS, error));
                }
                warn!(
                    stream = self.stream,
                    error = text_of(&error),
                    "the old connection cannot be ended by CLIENT KILL; an event may come twice"
                );
            }
            state.doubtful = None;
        }
        match state.last_entry.clone() {
            None => {
                let wanted = FIRST_LOOK.max(2 * batch.len());
                let mut newest = None;
                let mut from = "+".to_owned();
                for _ in 0..wanted.div_ceil(PAGE) {
                    let page = ::redis::cmd("XREVRANGE")
                        .arg(&[&self.stream, &from, "-", "COUNT"])
                        .arg(PAGE)
                        .query_async::<StreamRangeReply>(&mut connection.redis)
                        .await
                        .map_err(|error| failed(REDIS, error))?;
                    state.note(&page);
                    newest = newest.or_else(|| page.ids.first().map(|entry| entry.id.clone()));
                    match page.ids.last() {
                        Some(entry) if page.ids.len() == PAGE => from = format!("({}", entry.id),
                        _ => break,
                    }
                }
                state.last_entry = newest;
            }
            Some(mut last) => {
                for _ in 0..MAX_PAGES {
                    let page = ::redis::cmd("XRANGE")
                        .arg(&self.stream)
                        .arg(format!("({last}"))
                        .arg(&["+", "COUNT"])
                        .arg(PAGE)
                        .query_async::<StreamRangeReply>(&mut connection.redis)
                        .await
                        .map_err(|error| failed(REDIS, error))?;
                    state.note(&page);
                    match page.ids.last() {
                        Some(entry) if page.ids.len() == PAGE => {
                            last.clone_from(&entry.id);
                            // Noted: who looks again need not begin anew.
                            state.last_entry = Some(last.clone());
                        }
                        _ => break,
                    }
                }
            }
        }
        state.in_doubt = false;
        Ok(())
    }

    async fn add_all(&self, batch: &[SinkEvent], done: &mut Delivered) -> Result<(), SinkError> {
        let mut state = self.state.lock().await;
        // Kept again only if all goes well: what is dropped, also with this call, is not used again.
        let mut connection = match state.connection.take() {
            Some(connection) if !connection.driver.is_finished() => connection,
            _ => self.connect().await?,
        };
        if state.in_doubt {
            self.resolve(&mut state, &mut connection, batch).await?;
        }
        let mut rejected = Vec::new();
        let mut transaction = ::redis::pipe();
        transaction.atomic();
        let mut added = Vec::with_capacity(batch.len());
        for (index, event) in batch.iter().enumerate() {
            if event.json.len() > connection.max_string {
                let reason = format!(
                    "Redis refuses it: {} bytes are more than the {} of `proto-max-bulk-len`",
                    event.json.len(),
                    connection.max_string
                );
                rejected.push(Rejection::new(index, reason));
            } else if !state.known.contains(event.event_id) {
                transaction.add_command(self.add(event));
                added.push(event.event_id);
            }
        }
        if !added.is_empty() {
            state.in_doubt = true;
            state.doubtful = connection.peer.clone();
            let entries = transaction
                .query_async::<Vec<String>>(&mut connection.redis)
                .await
                .map_err(|error| failed(REDIS, error))?;
            state.in_doubt = false;
            state.doubtful = None;
            state.last_entry = entries.into_iter().next_back().or(state.last_entry.take());
        }
        for id in added {
            state.known.insert(id);
        }
        state.known.forget_oldest();
        state.connection = Some(connection);
        *done = Delivered::up_to(batch.len(), rejected);
        Ok(())
    }

    fn add(&self, event: &SinkEvent) -> ::redis::Cmd {
        let mut command = ::redis::cmd("XADD");
        command.arg(&self.stream);
        if let Some(max_length) = self.max_length {
            command.arg("MAXLEN").arg("~").arg(max_length);
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
        command.arg("event").arg(&event.json);
        command
    }
}

impl State {
    fn note(&mut self, page: &StreamRangeReply) {
        for entry in &page.ids {
            let id = entry.get::<String>("id");
            if let Some(Ok(id)) = id.map(|id| id.parse::<EventId>()) {
                self.known.insert(id);
            }
        }
    }
}

#[async_trait]
impl Sink for Redis {
    fn name(&self) -> &str {
        &self.name
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
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Who the server says we are: `id=3 addr=127.0.0.1:5000 …`.
fn peer(client: &str) -> Option<Peer> {
    let field = |name: &str| {
        client
            .split_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    };
    Some(Peer {
        id: field("id")?,
        address: field("addr")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_knows_who_it_is() {
        let peer = peer("id=12 addr=[::1]:40000 laddr=[::1]:6379 fd=8 name= age=0").unwrap();
        assert_eq!(peer.id, "12");
        assert_eq!(peer.address, "[::1]:40000");
        assert!(super::peer("ERR").is_none());
    }
}
