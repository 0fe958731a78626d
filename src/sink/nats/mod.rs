//! Events as messages of a JetStream stream. The event id is the message id: within the stream's
//! duplicate window, an event that comes again is acknowledged and not stored again. Beyond it, the sink
//! looks at the stream before it sends again what nobody confirmed. Documented in `docs/sinks/nats.md`.

mod address;
mod connection;
mod credentials;
mod doubt;

use super::{
    Delivered, Rejection, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        attempt::{outcome, within},
        doubt::Origin,
        headers::cloud_event_headers,
        hosts::LastThatWorked,
    },
};
use address::SubjectAddress;
use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::{PublishAckFuture, PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use connection::{Connection, is_unbound};
use doubt::Doubt;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// How long connecting, and how long one answer may take.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// How many messages wait for their acknowledgement at once. The client lets 5000 be on their way, and
/// who publishes more without looking waits for ever.
const UNACKNOWLEDGED: usize = 1000;
/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);
const NO_ANSWER: &str = "NATS does not answer";

/// The sink for `nats://` and `nats+tls://`.
struct Nats {
    name: String,
    address: SubjectAddress,
    last_that_worked: LastThatWorked,
    origin: Origin,
    state: Mutex<State>,
}

/// What is kept from call to call.
#[derive(Default)]
struct State {
    connection: Option<Connection>,
    doubt: Doubt,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("subject", &self.address.subject.shown())
            .field("stream", &self.address.stream)
            .finish_non_exhaustive()
    }
}

/// The sink of a `nats:` or `nats+tls:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = SubjectAddress::parse(url)?;
    Ok(Arc::new(Nats {
        name: format!("nats {}", address.subject.shown()),
        address,
        last_that_worked: LastThatWorked::default(),
        origin: Origin::default(),
        state: Mutex::default(),
    }))
}

impl Nats {
    /// Delivers over a connection that is kept only if all went well: what is dropped, also with this
    /// call, takes what is on its way with it.
    async fn publish_all(
        &self,
        batch: &[SinkEvent],
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let mut state = self.state.lock().await;
        let State {
            connection: kept,
            doubt,
        } = &mut *state;
        if !kept.as_ref().is_some_and(Connection::is_alive) {
            doubt.begin_anew();
        }
        let mut connection = self.connection(kept).await?;
        while doubt.asks_for_a_look() {
            let look = doubt.look(&connection, &self.address, batch, &self.origin);
            match connection.unless_it_objects(look).await {
                Ok(()) => break,
                Err(error) if doubt.gives_up(&error) => {
                    // What the server objected to stays with the connection.
                    connection = self.connection(kept).await?;
                }
                Err(error) => return Err(error),
            }
        }
        doubt.begin(batch);
        let publishing = async {
            let mut last = HashMap::new();
            for part in batch.chunks(UNACKNOWLEDGED) {
                self.publish_part(&connection, part, doubt, &mut last, done)
                    .await?;
            }
            Ok(last)
        };
        let last = connection.unless_it_objects(publishing).await?;
        doubt.end(last);
        *kept = Some(connection);
        Ok(())
    }

    /// Notes for each stream the `last` message that holds an event of the part.
    async fn publish_part(
        &self,
        connection: &Connection,
        part: &[SinkEvent],
        doubt: &Doubt,
        last: &mut HashMap<String, u64>,
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let mut published = Vec::with_capacity(part.len());
        let mut failure = None;
        for event in part {
            if doubt.found().contains(event.event_id) {
                published.push(Publication::Found);
                continue;
            }
            match self.publish(connection, event).await {
                Ok(publication) => published.push(publication),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let mut unbound = HashSet::new();
        for publication in published {
            let rejection = match publication {
                Publication::Found => {
                    done.taken += 1;
                    continue;
                }
                Publication::Rejected(reason) => Rejection::new(done.taken, reason),
                Publication::Sent { answer, subject } => match (*answer).await {
                    Ok(stored) => {
                        let last = last.entry(stored.stream).or_default();
                        *last = stored.sequence.max(*last);
                        done.taken += 1;
                        continue;
                    }
                    Err(error) => match refusal(&error) {
                        Some(reason) => Rejection::refused(done.taken, reason),
                        None => match self
                            .no_stream(connection, &error, subject, &mut unbound)
                            .await
                        {
                            Some(reason) => Rejection::refused(done.taken, reason),
                            None => return Err(publish_error(error)),
                        },
                    },
                },
            };
            done.rejected.push(rejection);
            done.taken += 1;
        }
        failure.map_or(Ok(()), Err)
    }

    /// The connection that was kept, if it still is one, or a new one.
    async fn connection(&self, kept: &mut Option<Connection>) -> Result<Connection, SinkError> {
        match kept.take() {
            Some(connection) if connection.is_alive() => Ok(connection),
            _ => Connection::open(&self.address, &self.last_that_worked).await,
        }
    }

    /// Why no stream of this sink ever takes a subject that was made from an event; none if one may, later. `unbound`
    /// has those that are known already.
    async fn no_stream(
        &self,
        connection: &Connection,
        error: &PublishError,
        subject: String,
        unbound: &mut HashSet<String>,
    ) -> Option<String> {
        if self.address.subject.is_fixed() {
            return None;
        }
        // Of the subject, nothing is shown that the event holds.
        let reason = match code_of(error) {
            Some(ErrorCode::STREAM_NOT_MATCH) => "another stream than `stream` takes its subject",
            _ => "no stream takes its subject",
        };
        let is_refused = code_of(error) == Some(ErrorCode::STREAM_NOT_MATCH)
            || (error.kind() == PublishErrorKind::StreamNotFound
                && (unbound.contains(&subject) || is_unbound(connection, &subject).await));
        if is_refused {
            unbound.insert(subject);
        }
        is_refused.then(|| format!("NATS refuses it: {reason}"))
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
        if let Some(journal) = self.origin.journal() {
            headers.insert(doubt::JOURNAL, journal);
            headers.insert(doubt::POSITION, event.position.to_string());
        }
        let subject = match self.address.subject.target(event) {
            Ok(subject) => subject.into_owned(),
            Err(error) => return Ok(Publication::Rejected(error.to_string())),
        };
        let mut message = PublishMessage::build()
            .headers(headers)
            .message_id(event.event_id.to_string())
            .payload(Bytes::copy_from_slice(event.json.as_bytes()));
        if let Some(stream) = &connection.stream {
            // An acknowledgement of another stream would be none of this one.
            message = message.expected_stream(stream);
        }
        match connection
            .context
            .send_publish(subject.clone(), message)
            .await
        {
            Ok(answer) => Ok(Publication::Sent {
                answer: Box::new(answer),
                subject,
            }),
            Err(error) => match refusal(&error) {
                Some(reason) => Ok(Publication::Rejected(reason)),
                None => Err(publish_error(error)),
            },
        }
    }
}

/// What became of an event when it was published.
enum Publication {
    /// It was there already.
    Found,
    Sent {
        answer: Box<PublishAckFuture>,
        subject: String,
    },
    Rejected(String),
}

/// What the server says is wrong.
fn code_of(error: &PublishError) -> Option<ErrorCode> {
    let answer = std::error::Error::source(error)?.downcast_ref::<jetstream::Error>()?;
    Some(answer.error_code())
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

    fn comes_from(&self, journal: &str) {
        self.origin.set(journal);
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut done = Delivered::default();
        let end = within(CALL_LIMIT, NO_ANSWER, self.publish_all(batch, &mut done)).await;
        outcome(done, end)
    }

    async fn check(&self) -> Result<(), SinkError> {
        let ask = async {
            let mut state = self.state.lock().await;
            let connection = self.connection(&mut state.connection).await?;
            let asking = async {
                let account = connection.context.query_account().await;
                account.map_err(|error| SinkError::caused_by("NATS JetStream", error))
            };
            connection.unless_it_objects(asking).await?;
            state.connection = Some(connection);
            Ok(())
        };
        within(CALL_LIMIT, NO_ANSWER, ask).await
    }
}
