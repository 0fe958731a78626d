//! The producer: how it is made, what it sends, and what its reports mean.

use super::{address::TopicAddress, doubt, token};
use crate::{
    event::EventError,
    sink::{
        SinkError, SinkEvent,
        shared::attributes::{Attributes, HeaderNames},
    },
};
use rdkafka::{
    ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::{Client, OAuthToken},
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{
        DeliveryFuture, FutureProducer, FutureRecord, Producer as _,
        future_producer::FutureProducerContext,
    },
};
use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, task::spawn_blocking};

/// How long a broker may take to say what it knows of the topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for messages of a call that was given up.
const SETTLING_TIMEOUT: Duration = Duration::from_secs(8);

const NAMES: HeaderNames = [
    "content-type",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_sequence",
    "ce_partitionkey",
    "ce_traceparent",
];

/// Why a message did not arrive.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may next time.
    Now(SinkError),
    /// It cannot be sent as it is.
    Unsendable(String),
    /// The broker refused the set of messages that it was in, for its size or for one of them.
    SetRefused(String),
}

impl Failure {
    /// For an event that was not even tried.
    pub(super) fn unsent() -> Self {
        Self::Now(SinkError::new("an event before it was not sent"))
    }
}

/// A producer for one topic.
pub(super) struct Producer {
    producer: FutureProducer<Context>,
    address: Arc<TopicAddress>,
    said: LastError,
    /// Something did not arrive: the topic may be gone, with what the client knows of it.
    is_doubtful: AtomicBool,
}

/// What the client said last: a report says only that a message timed out, and not, for instance,
/// that the password is wrong.
type LastError = Arc<Mutex<Option<String>>>;

/// What a client tells, and asks for.
#[derive(Clone)]
pub(super) struct Context {
    said: LastError,
    address: Arc<TopicAddress>,
}

impl Context {
    pub(super) fn of(address: &Arc<TopicAddress>) -> Self {
        Self {
            said: LastError::default(),
            address: address.clone(),
        }
    }
}

impl ConsumerContext for Context {}

impl ClientContext for Context {
    // Of use for OAUTHBEARER alone.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        token::of(self.address.token())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "{reason}");
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // Comes behind the reason for which they are.
        let is_about_all = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if said.is_none() || !is_about_all {
            *said = Some(reason.to_owned());
        }
    }
}

impl Producer {
    /// Makes a producer and looks for the topic, which is made if it is not there and the broker
    /// lets it.
    pub(super) async fn connect(address: Arc<TopicAddress>) -> Result<Self, SinkError> {
        // The client's calls wait where they are called; making and ending it, too.
        blocking(move || {
            let context = Context::of(&address);
            let producer: FutureProducer<Context> = address
                .config()?
                .create_with_context(context.clone())
                .map_err(|error| SinkError::caused_by("no Kafka client", error))?;
            let made = Self {
                producer,
                address,
                said: context.said.clone(),
                is_doubtful: AtomicBool::new(false),
            };
            if !made.topic_is_there()? {
                made.make_topic(context)?;
            }
            Ok(made)
        })
        .await
    }

    /// Whether the broker can be reached and has the topic.
    pub(super) async fn has_topic(self: &Arc<Self>) -> Result<bool, SinkError> {
        let this = self.clone();
        blocking(move || {
            let is_there = this.topic_is_there()?;
            this.is_doubtful.store(!is_there, Ordering::Relaxed);
            Ok(is_there)
        })
        .await
    }

    /// Whether something did not arrive, and nobody has asked for the topic since.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful.load(Ordering::Relaxed)
    }

    /// Whether it still sends: after some errors a producer never does again.
    pub(super) fn is_usable(&self) -> bool {
        self.client().fatal_error().is_none()
    }

    /// Waits until it is known what became of each message of earlier calls.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), SinkError> {
        let this = self.clone();
        blocking(move || {
            let flushed = this
                .producer
                .flush(SETTLING_TIMEOUT.min(this.address.timeout));
            flushed.map_err(|error| this.error("an earlier batch is under way: ", &error))
        })
        .await
    }

    /// Sends events in order, and gives what became of each, in the same order.
    pub(super) async fn send(
        &self,
        events: &[&SinkEvent],
        journal: Option<&str>,
    ) -> Vec<Result<(), Failure>> {
        self.forget();
        let mut waiting = Vec::with_capacity(events.len());
        // What follows a message that was not even queued is not queued either: it would overtake.
        let mut stopped = false;
        for event in events {
            let queued = if stopped {
                Err(Failure::unsent())
            } else {
                self.queue(event, journal)
            };
            stopped |= matches!(queued, Err(Failure::Now(_)));
            waiting.push(queued);
        }
        let mut results = Vec::with_capacity(waiting.len());
        for queued in waiting {
            results.push(match queued {
                Ok(report) => match report.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err((error, _))) => Err(self.failure(&error)),
                    Err(_) => Err(Failure::Now(SinkError::new("the Kafka client ended"))),
                },
                Err(failure) => Err(failure),
            });
        }
        if results
            .iter()
            .any(|result| matches!(result, Err(Failure::Now(_))))
        {
            self.is_doubtful.store(true, Ordering::Relaxed);
        }
        results
    }

    fn queue(&self, event: &SinkEvent, journal: Option<&str>) -> Result<DeliveryFuture, Failure> {
        let headers =
            headers(event, journal).map_err(|error| Failure::Unsendable(error.to_string()))?;
        let mut record = FutureRecord::to(&self.address.topic)
            .payload(&event.json)
            .headers(headers);
        if let Some(key) = event.key() {
            record = record.key(key);
        }
        self.producer.send_result(record).map_err(|(error, _)| {
            match error.rdkafka_error_code() {
                // Told by the client, of this message alone.
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    Failure::Unsendable(format!("{} bytes: {error}", event.json.len()))
                }
                _ => self.failure(&error),
            }
        })
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidRecord
                // Another one of its set was.
                | RDKafkaErrorCode::InvalidDifferentRecord,
            ) => Failure::SetRefused(format!("the broker refuses it: {error}")),
            _ => Failure::Now(self.error("", error)),
        }
    }

    fn error(&self, what: &str, error: &KafkaError) -> SinkError {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = match &*said {
            Some(said) => format!("{what}{error} ({said})"),
            None => format!("{what}{error}"),
        };
        SinkError::new(reason).with_source(error.clone())
    }

    fn forget(&self) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn client(&self) -> &Client<FutureProducerContext<Context>> {
        self.producer.client()
    }

    /// Asks the broker.
    fn topic_is_there(&self) -> Result<bool, SinkError> {
        let patience = METADATA_TIMEOUT.min(self.address.timeout);
        let metadata = self
            .client()
            .fetch_metadata(Some(&self.address.topic), patience)
            .map_err(|error| self.error("no answer from the broker: ", &error))?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.address.topic);
        match topic.map(|topic| topic.error().map(RDKafkaErrorCode::from)) {
            Some(None) => Ok(true),
            // It is being made.
            Some(Some(RDKafkaErrorCode::LeaderNotAvailable)) => Ok(true),
            Some(Some(
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
            ))
            | None => Ok(false),
            Some(Some(code)) => Err(SinkError::new(format!(
                "the topic {}: {code}",
                self.address.topic
            ))),
        }
    }

    fn make_topic(&self, context: Context) -> Result<(), SinkError> {
        let failed = |error: &dyn std::fmt::Display| {
            SinkError::new(format!(
                "there is no topic {}, and it cannot be made: {error}",
                self.address.topic
            ))
        };
        if self.address.token().is_some() {
            return Err(failed(&"with OAUTHBEARER the sink makes none"));
        }
        let admin: AdminClient<Context> = self
            .address
            .config()?
            .create_with_context(context)
            .map_err(|error| failed(&error))?;
        let topic = NewTopic::new(
            &self.address.topic,
            self.address.partitions,
            TopicReplication::Fixed(self.address.replication),
        );
        let options = AdminOptions::new()
            .request_timeout(Some(METADATA_TIMEOUT))
            .operation_timeout(Some(METADATA_TIMEOUT));
        let made = Handle::current().block_on(admin.create_topics([&topic], &options));
        for result in made.map_err(|error| failed(&error))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(failed(&code)),
            }
        }
        Ok(())
    }
}

/// The CloudEvents attributes as the Kafka binding has them: `ce_` and the name, in UTF-8. Behind them, where the event
/// comes from.
fn headers(event: &SinkEvent, journal: Option<&str>) -> Result<OwnedHeaders, EventError> {
    let attributes = Attributes::of(event)?;
    let headers = OwnedHeaders::new_with_capacity(NAMES.len() + 2);
    let headers = attributes
        .headers(&NAMES)
        .fold(headers, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        });
    let Some(journal) = journal else {
        return Ok(headers);
    };
    let position = event.position.to_string();
    let origin = [(doubt::JOURNAL, journal), (doubt::POSITION, &position)];
    Ok(origin.into_iter().fold(headers, |headers, (key, value)| {
        headers.insert(Header {
            key,
            value: Some(value),
        })
    }))
}

pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    spawn_blocking(call)
        .await
        .unwrap_or_else(|_| Err(SinkError::new("the Kafka client ended")))
}
