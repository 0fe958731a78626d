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
use connection::Connection;
use doubt::Doubt;
use std::{fmt, sync::Arc, time::Duration};
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
            .field("subject", &self.address.subject)
            .field("stream", &self.address.stream)
            .finish_non_exhaustive()
    }
}

/// The sink of a `nats:` or `nats+tls:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = SubjectAddress::parse(url)?;
    Ok(Arc::new(Nats {
        name: format!("nats {}", address.subject),
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
        let mut connection = self.connection(kept).await?;
        if doubt.asks_for_a_look() {
            let look = doubt.look(&connection, &self.address.subject, batch, &self.origin);
            match connection.unless_it_objects(look).await {
                Ok(()) => {}
                Err(error) if doubt.gives_up(&error, &connection.stream) => {
                    // What the server objected to stays with the connection.
                    connection = self.connection(kept).await?;
                }
                Err(error) => return Err(error),
            }
        }
        doubt.begin(batch);
        let publishing = async {
            let mut last = None;
            for part in batch.chunks(UNACKNOWLEDGED) {
                let stored = self.publish_part(&connection, part, doubt, done).await?;
                last = last.max(stored);
            }
            Ok(last)
        };
        let last = connection.unless_it_objects(publishing).await?;
        doubt.end(last);
        *kept = Some(connection);
        Ok(())
    }

    /// Returns the last message of the stream that holds an event of the part.
    async fn publish_part(
        &self,
        connection: &Connection,
        part: &[SinkEvent],
        doubt: &Doubt,
        done: &mut Delivered,
    ) -> Result<Option<u64>, SinkError> {
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
        let mut last = None;
        for publication in published {
            let rejection = match publication {
                Publication::Found => {
                    done.taken += 1;
                    continue;
                }
                Publication::Rejected(reason) => Rejection::new(done.taken, reason),
                Publication::Sent(answer) => match (*answer).await {
                    Ok(stored) => {
                        last = last.max(Some(stored.sequence));
                        done.taken += 1;
                        continue;
                    }
                    Err(error) => match refusal(&error) {
                        Some(reason) => Rejection::refused(done.taken, reason),
                        None => return Err(publish_error(error)),
                    },
                },
            };
            done.rejected.push(rejection);
            done.taken += 1;
        }
        failure.map_or(Ok(last), Err)
    }

    /// The connection that was kept, if it still is one, or a new one.
    async fn connection(&self, kept: &mut Option<Connection>) -> Result<Connection, SinkError> {
        match kept.take() {
            Some(connection) if connection.is_alive() => Ok(connection),
            _ => Connection::open(&self.address, &self.last_that_worked).await,
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
        if let Some(journal) = self.origin.journal() {
            headers.insert(doubt::JOURNAL, journal);
            headers.insert(doubt::POSITION, event.position.to_string());
        }
        let message = PublishMessage::build()
            .headers(headers)
            .message_id(event.event_id.to_string())
            // An acknowledgement of another stream would be none of this one.
            .expected_stream(&connection.stream)
            .payload(Bytes::copy_from_slice(event.json.as_bytes()));
        match connection
            .context
            .send_publish(self.address.subject.clone(), message)
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
    /// It was there already.
    Found,
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
