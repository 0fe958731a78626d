//! Events as messages of a JetStream stream. The event id is the message id: within the stream's
//! duplicate window, an event that comes again is acknowledged and not stored again.

use super::{
    Delivered, Rejection, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        address::Address,
        attempt::{outcome, within},
        headers::cloud_event_headers,
        tls,
    },
};
use async_nats::{
    Auth, AuthError, ConnectOptions, HeaderMap, ServerAddr,
    connection::State,
    jetstream::{
        self, ErrorCode,
        context::{PublishAckFuture, PublishError, PublishErrorKind},
        message::PublishMessage,
        stream,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Mutex;
use tracing::info;

const ALLOWED: &str = "`nats://user:password@host:port/subject` or \
     `nats://token@host:port/subject`, `nats+tls://` for TLS, with the parameters `stream=NAME`, `tls_ca=FILE`";

/// How long connecting, and how long one answer may take.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// How many messages wait for their acknowledgement at once. The client lets 5000 be on their way, and
/// who publishes more without looking waits for ever.
const UNACKNOWLEDGED: usize = 1000;
/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);
const NO_ANSWER: &str = "NATS does not answer";
/// For how long a stream that the sink creates remembers message ids. The server's own two minutes
/// are short for an outage; each id that is remembered takes memory of the server.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// How the sink says who it is.
#[derive(Clone)]
enum Credentials {
    None,
    Token(SecretString),
    Password {
        user: String,
        password: SecretString,
    },
}

impl Credentials {
    fn auth(&self) -> Auth {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::Token(token) => auth.token = Some(token.expose_secret().to_owned()),
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.expose_secret().to_owned());
            }
        }
        auth
    }
}

/// The sink for `nats://` and `nats+tls://`.
struct Nats {
    name: String,
    server: ServerAddr,
    tls: rustls::ClientConfig,
    credentials: Credentials,
    subject: String,
    stream: Option<String>,
    connection: Mutex<Option<Connection>>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("subject", &self.subject)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// A connection, and the stream that takes the subject.
struct Connection {
    context: jetstream::Context,
    stream: String,
}

/// The sink of a `nats:` or `nats+tls:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    Ok(Arc::new(Nats::new(url)?))
}

impl Nats {
    fn new(url: &str) -> Result<Self, SinkUrlError> {
        let address = Address::parse(url, ALLOWED)?;
        let parameters = address.parameters(&["stream", "tls_ca"])?;
        let subject = match address.path()?.as_slice() {
            [subject] => subject.clone(),
            [] => return Err(address.wrong("it names no subject")),
            _ => {
                return Err(address
                    .wrong("its path is more than a subject, whose parts are separated by `.`"));
            }
        };
        if !is_subject(&subject) {
            return Err(address.wrong(
                "the subject is none to publish to: parts separated by `.`, none of them empty, \
                 without spaces, `*` and `>`",
            ));
        }
        let stream = parameters.text("stream").map(str::to_owned);
        if stream.as_deref().is_some_and(|name| !is_stream_name(name)) {
            return Err(address.wrong("`stream` has characters besides letters, digits, `_`, `-`"));
        }
        let credentials = match (address.user()?, address.password()?) {
            (None, None) => Credentials::None,
            (None, Some(_)) => return Err(address.wrong("it has a password and no user name")),
            (Some(token), None) => Credentials::Token(SecretString::from(token)),
            (Some(user), Some(password)) => Credentials::Password { user, password },
        };
        let scheme = if address.scheme() == "nats+tls" {
            "tls"
        } else {
            "nats"
        };
        let server = format!(
            "{scheme}://{}:{}",
            address.authority(),
            address.port_or(4222)
        )
        .parse()
        .map_err(|_| address.wrong("its host is not usable"))?;
        Ok(Self {
            name: format!("nats {subject}"),
            server,
            // Given even without TLS in the URL: the server may demand it.
            tls: tls::client_config(parameters.text("tls_ca").map(Path::new))
                .map_err(|reason| address.wrong(reason))?,
            credentials,
            subject,
            stream,
            connection: Mutex::new(None),
        })
    }

    async fn connect(&self) -> Result<Connection, SinkError> {
        let credentials = self.credentials.clone();
        let connected = Arc::new(AtomicBool::new(false));
        // The client would reconnect by itself and send what it still has, though what it sent last
        // may be lost: later events would be stored before earlier ones. So it may connect once, and
        // what was not acknowledged is published again in order on a new connection.
        let options = ConnectOptions::with_auth_callback(move |_| {
            let auth = if connected.swap(true, Ordering::Relaxed) {
                Err(AuthError::new("the sink connects anew instead"))
            } else {
                Ok(credentials.auth())
            };
            async move { auth }
        })
        .max_reconnects(1)
        .name(env!("CARGO_PKG_NAME"))
        .connection_timeout(STEP_LIMIT)
        .request_timeout(Some(STEP_LIMIT))
        .tls_client_config(self.tls.clone());
        let client = options
            .connect(self.server.clone())
            .await
            .map_err(|error| SinkError::caused_by("NATS cannot be reached", error))?;
        let mut context = jetstream::new(client);
        context.set_timeout(STEP_LIMIT);
        let stream = self.find_or_create_stream(&context).await?;
        Ok(Connection { context, stream })
    }

    async fn find_or_create_stream(
        &self,
        context: &jetstream::Context,
    ) -> Result<String, SinkError> {
        let name = match &self.stream {
            Some(name) => name.clone(),
            None => match context.stream_by_subject(self.subject.as_str()).await {
                Ok(name) => return Ok(name),
                Err(error) => match error.kind() {
                    jetstream::context::GetStreamByNameErrorKind::NotFound => {
                        self.subject.replace('.', "_")
                    }
                    _ => return Err(SinkError::caused_by("NATS JetStream", error)),
                },
            },
        };
        // The stream that is there is taken as it is, whatever its settings.
        let stream = context
            .get_or_create_stream(stream::Config {
                name: name.clone(),
                subjects: vec![self.subject.clone(), format!("{}.>", self.subject)],
                duplicate_window: DUPLICATE_WINDOW,
                ..stream::Config::default()
            })
            .await
            .map_err(|error| {
                let problem = format!("the NATS stream {name} is not there and cannot be created");
                SinkError::caused_by(problem, error)
            })?;
        info!(
            stream = name,
            messages = stream.cached_info().state.messages,
            "publishing to the stream"
        );
        Ok(name)
    }

    /// Delivers over a connection that is kept only if all went well: what is dropped, also with this
    /// call, takes what is on its way with it.
    async fn publish_all(
        &self,
        batch: &[SinkEvent],
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let mut kept = self.connection.lock().await;
        let connection = self.connection(&mut kept).await?;
        for part in batch.chunks(UNACKNOWLEDGED) {
            self.publish_part(&connection, part, done).await?;
        }
        *kept = Some(connection);
        Ok(())
    }

    async fn publish_part(
        &self,
        connection: &Connection,
        part: &[SinkEvent],
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let mut published = Vec::with_capacity(part.len());
        let mut failure = None;
        for event in part {
            match self.publish(connection, event).await {
                Ok(publication) => published.push(publication),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        for publication in published {
            let reason = match publication {
                Publication::Rejected(reason) => reason,
                Publication::Sent(answer) => match (*answer).await {
                    Ok(_) => {
                        done.taken += 1;
                        continue;
                    }
                    Err(error) => match refusal(&error) {
                        Some(reason) => reason,
                        None => return Err(publish_error(error)),
                    },
                },
            };
            done.rejected.push(Rejection::new(done.taken, reason));
            done.taken += 1;
        }
        failure.map_or(Ok(()), Err)
    }

    /// The connection that was kept, if it still is one, or a new one.
    async fn connection(&self, kept: &mut Option<Connection>) -> Result<Connection, SinkError> {
        match kept.take() {
            Some(connection)
                if connection.context.client().connection_state() == State::Connected =>
            {
                Ok(connection)
            }
            _ => self.connect().await,
        }
    }

    async fn publish(
        &self,
        connection: &Connection,
        event: &SinkEvent,
    ) -> Result<Publication, SinkError> {
        let mut headers = HeaderMap::new();
        match cloud_event_headers(event) {
            Ok(values) => {
                for (name, value) in values {
                    headers.insert(name, value);
                }
            }
            Err(error) => return Ok(Publication::Rejected(error.to_string())),
        }
        let message = PublishMessage::build()
            .headers(headers)
            .message_id(event.event_id.to_string())
            // An acknowledgement of another stream would be none of this one.
            .expected_stream(&connection.stream)
            .payload(Bytes::copy_from_slice(event.json.as_bytes()));
        match connection
            .context
            .send_publish(self.subject.clone(), message)
            .await
        {
            Ok(answer) => Ok(Publication::Sent(Box::new(answer))),
            Err(error) => match refusal(&error) {
                Some(reason) => Ok(Publication::Rejected(reason)),
                None => Err(publish_error(error)),
            },
        }
    }
}

/// What became of an event when it was published.
enum Publication {
    Sent(Box<PublishAckFuture>),
    Rejected(String),
}

/// Why the server will never take the message; none if it may, later.
fn refusal(error: &PublishError) -> Option<String> {
    if error.kind() == PublishErrorKind::MaxPayloadExceeded {
        return Some(format!("NATS refuses it: {error}"));
    }
    let answer = std::error::Error::source(error)?.downcast_ref::<jetstream::Error>()?;
    [
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM,
        ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
    ]
    .contains(&answer.error_code())
    .then(|| format!("NATS refuses it: {answer}"))
}

fn publish_error(error: PublishError) -> SinkError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => {
            SinkError::new("NATS: no stream takes the subject").with_source(error)
        }
        _ => SinkError::caused_by("NATS", error),
    }
}

#[async_trait]
impl Sink for Nats {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut done = Delivered::default();
        let end = within(CALL_LIMIT, NO_ANSWER, self.publish_all(batch, &mut done)).await;
        outcome(done, end)
    }

    async fn check(&self) -> Result<(), SinkError> {
        let ask = async {
            let mut kept = self.connection.lock().await;
            let connection = self.connection(&mut kept).await?;
            connection
                .context
                .query_account()
                .await
                .map_err(|error| SinkError::caused_by("NATS JetStream", error))?;
            *kept = Some(connection);
            Ok(())
        };
        within(CALL_LIMIT, NO_ANSWER, ask).await
    }
}

fn is_subject(text: &str) -> bool {
    text.split('.').all(|part| {
        !part.is_empty()
            && !part
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
    })
}

fn is_stream_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_those_that_can_be_published_to() {
        for subject in ["events", "orders.events", "a-b_c.d"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", ".", "a.", "a..b", "a.*", "a.>", "a b", "a\n"] {
            assert!(!is_subject(subject), "{subject}");
        }
    }
}
