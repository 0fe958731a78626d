//! A connection to the server that takes the writes of a stream: how it is found, and what it says of itself. Knows
//! nothing of events.

use super::{
    REDIS, STEP_LIMIT,
    address::{Sentinel, Server, StreamAddress},
    failed,
};
use crate::sink::{
    SinkError,
    shared::{auth::secret::Secret, hosts::LastThatWorked, template::NONE},
};
use ::redis::{
    AsyncConnectionConfig, RedisConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use std::sync::Arc;
use tokio::{net::TcpStream, task::AbortHandle};
use tokio_rustls::TlsConnector;

const UNREACHABLE: &str = "Redis cannot be reached";
/// The longest string that Redis takes, unless configured otherwise.
const DEFAULT_MAX_STRING: usize = 512 * 1024 * 1024;
/// How often the servers of a cluster may name another one before that is an error.
const MOST_REDIRECTIONS: usize = 3;

/// A connection to a server that takes writes. Ends when dropped.
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    pub(super) peer: Option<Peer>,
    pub(super) max_string: usize,
    driver: AbortHandle,
}

/// A connection as the server sees it. The address tells it from one that has the same number after a
/// restart of the server.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) address: String,
}

/// What a server is to others.
pub(super) enum Role {
    /// Takes writes: how much it has written, and each replica.
    Primary {
        offset: i64,
        replicas: Vec<i64>,
    },
    Replica,
    /// The user may not ask.
    Unknown,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Otherwise it would wait for the answers of a server that is gone.
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to the first server that takes writes.
    pub(super) async fn open(
        address: &StreamAddress,
        last: &LastThatWorked,
    ) -> Result<Self, SinkError> {
        last.connect(&address.names, STEP_LIMIT, |index| Self::to(address, index))
            .await
            .map_err(|error| {
                SinkError::new(format!("{UNREACHABLE}: {}", error.reason())).with_source(error)
            })
    }

    async fn to(address: &StreamAddress, index: usize) -> Result<Self, SinkError> {
        let named = address
            .servers
            .get(index)
            .ok_or_else(|| SinkError::new("there is no such server"))?;
        let mut server = match &address.sentinel {
            None => named.clone(),
            Some(sentinel) => primary(address, sentinel, named).await?,
        };
        // In a cluster all of them are on one server, or a batch is refused.
        let any_stream = address.stream.with_each(NONE);
        for _ in 0..MOST_REDIRECTIONS {
            let mut connection = Self::to_server(address, &server).await?;
            match connection.redirection(&any_stream).await? {
                None => {
                    connection.require_primary().await?;
                    connection.ask_limits().await;
                    return Ok(connection);
                }
                // A server that does not know its own name means the one that was asked.
                Some((host, port)) if host.is_empty() => server.port = port,
                Some((host, port)) => server = Server { host, port },
            }
        }
        Err(SinkError::new("the cluster sends us from server to server"))
    }

    async fn to_server(address: &StreamAddress, server: &Server) -> Result<Self, SinkError> {
        let mut login = RedisConnectionInfo::default().set_db(address.database);
        if let Some(user) = &address.user {
            login = login.set_username(user);
        }
        connect(address, server, login, address.password.as_ref()).await
    }

    /// The server of a cluster that has the stream; none if this one has.
    async fn redirection(&mut self, stream: &str) -> Result<Option<(String, u16)>, SinkError> {
        // Reads nothing, with a right that the user needs anyway.
        let asked = ::redis::cmd("XRANGE")
            .arg(&[stream, "-", "+", "COUNT", "0"])
            .query_async::<Value>(&mut self.redis)
            .await;
        match asked {
            Err(error) if is_broken(&error) => Err(failed(REDIS, error)),
            Err(error) => Ok(error
                .redirect_node()
                .and_then(|(node, _)| node.rsplit_once(':'))
                .and_then(|(host, port)| {
                    let host = host.trim_start_matches('[').trim_end_matches(']');
                    Some((host.to_owned(), port.parse().ok()?))
                })),
            Ok(_) => Ok(None),
        }
    }

    /// Who the server sees and how long a string it takes. Neither is needed by a user that may do nothing but add to
    /// a stream.
    async fn ask_limits(&mut self) {
        let client = ::redis::cmd("CLIENT")
            .arg("INFO")
            .query_async::<String>(&mut self.redis)
            .await;
        self.peer = client.ok().as_deref().and_then(peer);
        let limit = ::redis::cmd("CONFIG")
            .arg(&["GET", "proto-max-bulk-len"])
            .query_async::<(String, usize)>(&mut self.redis)
            .await;
        self.max_string = limit.map_or(DEFAULT_MAX_STRING, |(_, bytes)| bytes);
    }

    /// That the server takes writes, as far as the user may ask.
    pub(super) async fn require_primary(&mut self) -> Result<(), SinkError> {
        match self.role().await? {
            Role::Replica => Err(SinkError::new("it is a replica, which takes no writes")),
            Role::Primary { .. } | Role::Unknown => Ok(()),
        }
    }

    pub(super) async fn role(&mut self) -> Result<Role, SinkError> {
        let asked = ::redis::cmd("ROLE")
            .query_async::<Value>(&mut self.redis)
            .await;
        match asked {
            Ok(answer) => Ok(role(&answer)),
            Err(error) if is_broken(&error) => Err(failed(REDIS, error)),
            Err(_) => Ok(Role::Unknown),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.driver.is_finished()
    }
}

/// Asks a Sentinel for the server that takes the writes.
async fn primary(
    address: &StreamAddress,
    sentinel: &Sentinel,
    server: &Server,
) -> Result<Server, SinkError> {
    let login = RedisConnectionInfo::default();
    let mut connection = connect(address, server, login, sentinel.password.as_ref()).await?;
    let answer = ::redis::cmd("SENTINEL")
        .arg(&["GET-MASTER-ADDR-BY-NAME", &sentinel.primary])
        .query_async::<Option<(String, u16)>>(&mut connection.redis)
        .await
        .map_err(|error| failed("the Sentinel", error))?;
    answer
        .map(|(host, port)| Server { host, port })
        .ok_or_else(|| SinkError::new(format!("the Sentinel knows no {}", sentinel.primary)))
}

async fn connect(
    address: &StreamAddress,
    server: &Server,
    mut login: RedisConnectionInfo,
    password: Option<&Secret>,
) -> Result<Connection, SinkError> {
    if let Some(password) = password {
        login = login.set_password(password.read().await?.expose_secret());
    }
    let unreachable = |error| SinkError::caused_by("no connection", error);
    let stream = TcpStream::connect((server.host.as_str(), server.port))
        .await
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    // The handshake is here and not left to the client library, which takes the provider of
    // cryptography from the process and panics where there are two.
    match &address.tls {
        None => greet(login, stream).await,
        Some(tls) => {
            let name = ServerName::try_from(server.host.clone())
                .map_err(|error| SinkError::caused_by("no name of a server", error))?;
            let stream = TlsConnector::from(Arc::new(tls.config().await?))
                .connect(name, stream)
                .await
                .map_err(unreachable)?;
            greet(login, stream).await
        }
    }
    .map_err(|error| failed("it does not let us in", error))
}

async fn greet<S>(login: RedisConnectionInfo, stream: S) -> RedisResult<Connection>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(STEP_LIMIT));
    let (redis, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
    Ok(Connection {
        redis,
        peer: None,
        max_string: DEFAULT_MAX_STRING,
        driver: tokio::spawn(driver).abort_handle(),
    })
}

/// Whether there was no answer, as opposed to one that is an error.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

/// The answer to `ROLE`: `master`, the offset, and for each replica its address, port and offset; or `slave` or
/// `sentinel` and more.
fn role(answer: &Value) -> Role {
    let Value::Array(parts) = answer else {
        return Role::Unknown;
    };
    match parts.as_slice() {
        [Value::BulkString(name), rest @ ..] if name == b"master" => Role::Primary {
            offset: match rest.first() {
                Some(Value::Int(offset)) => *offset,
                _ => 0,
            },
            replicas: match rest.get(1) {
                Some(Value::Array(replicas)) => replicas.iter().filter_map(offset).collect(),
                _ => Vec::new(),
            },
        },
        [Value::BulkString(_), ..] => Role::Replica,
        _ => Role::Unknown,
    }
}

fn offset(replica: &Value) -> Option<i64> {
    match replica {
        Value::Array(parts) => match parts.last()? {
            Value::BulkString(offset) => std::str::from_utf8(offset).ok()?.parse().ok(),
            Value::Int(offset) => Some(*offset),
            _ => None,
        },
        _ => None,
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
