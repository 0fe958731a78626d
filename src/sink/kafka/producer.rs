//! The producer: how it is made, what it sends, and what its reports mean.

use super::{address::TopicAddress, doubt, token};
use crate::{
    event::EventError,
    sink::{
        SinkError, SinkEvent,
        shared::{
            attributes::{Attributes, HeaderNames},
            template::NONE,
        },
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
    borrow::Cow,
    collections::{HashMap, HashSet},
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    /// The broker refuses whatever is for its topic, which was made from the event.
    TopicRefused(String),
}

impl Failure {
    /// For an event that was not even tried.
    pub(super) fn unsent() -> Self {
        Self::Now(SinkError::new("an event before it was not sent"))
    }
}

/// What is sent: an event, to a topic, with its key.
pub(super) struct Message<'a> {
    pub(super) event: &'a SinkEvent,
    pub(super) topic: Cow<'a, str>,
    pub(super) key: Option<Cow<'a, str>>,
}

/// Topics that the broker refuses for good, each with its reason.
pub(super) type RefusedTopics = HashMap<String, String>;

/// A producer.
pub(super) struct Producer {
    producer: FutureProducer<Context>,
    address: Arc<TopicAddress>,
    said: LastError,
    /// The topics that are there.
    topics: Mutex<HashSet<String>>,
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
    /// Makes a producer. Connects to nothing yet.
    pub(super) async fn new(address: Arc<TopicAddress>) -> Result<Arc<Self>, SinkError> {
        // The client's calls wait where they are called; making and ending it, too.
        blocking(move || {
            let context = Context::of(&address);
            let producer: FutureProducer<Context> = address
                .config()?
                .create_with_context(context.clone())
                .map_err(|error| SinkError::caused_by("no Kafka client", error))?;
            Ok(Arc::new(Self {
                producer,
                address,
                said: context.said.clone(),
                topics: Mutex::default(),
                is_doubtful: AtomicBool::new(false),
            }))
        })
        .await
    }

    /// Looks for topics, and makes those that are not there, as far as the broker lets it.
    ///
    /// # Errors
    /// [`SinkError`] if there is no answer, and where every event has the same topic, also if the broker refuses it.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        topics: &[&str],
    ) -> Result<RefusedTopics, SinkError> {
        let missing: Vec<String> = {
            let known = self.topics();
            let topics = topics.iter().filter(|topic| !known.contains(**topic));
            topics.map(|topic| (*topic).to_owned()).collect()
        };
        if missing.is_empty() {
            return Ok(RefusedTopics::new());
        }
        let this = self.clone();
        blocking(move || {
            let mut refused = RefusedTopics::new();
            let mut to_make = Vec::new();
            for topic in missing {
                match this.is_there(&topic) {
                    Ok(false) => to_make.push(topic),
                    found => this.note(&topic, found.map(drop), &mut refused)?,
                }
            }
            for (topic, made) in this.make(&to_make)? {
                this.note(&topic, made, &mut refused)?;
            }
            Ok(refused)
        })
        .await
    }

    /// Notes that a topic is there, or that the broker refuses it.
    fn note(
        &self,
        topic: &str,
        found: Result<(), TopicProblem>,
        refused: &mut RefusedTopics,
    ) -> Result<(), SinkError> {
        match found {
            Ok(()) => {
                self.topics().insert(topic.to_owned());
            }
            Err(TopicProblem::Refused(error)) if !self.address.topic.is_fixed() => {
                refused.insert(topic.to_owned(), error.reason().to_owned());
            }
            Err(problem) => return Err(problem.into_error()),
        }
        Ok(())
    }

    /// Whether the broker can be reached and still has those of the topics that were there.
    pub(super) async fn has(self: &Arc<Self>, topics: &[&str]) -> Result<bool, SinkError> {
        let known: Vec<String> = {
            let known = self.topics();
            let topics = topics.iter().filter(|topic| known.contains(**topic));
            topics.map(|topic| (*topic).to_owned()).collect()
        };
        let this = self.clone();
        blocking(move || {
            let mut are_there = true;
            for topic in known {
                are_there &= this.is_there(&topic).map_err(TopicProblem::into_error)?;
            }
            this.is_doubtful.store(!are_there, Ordering::Relaxed);
            Ok(are_there)
        })
        .await
    }

    /// Whether the broker can be reached, and has the topic, if every event has the same.
    pub(super) async fn check(self: &Arc<Self>) -> Result<bool, SinkError> {
        let this = self.clone();
        blocking(move || {
            let topic = this.address.topic.with_each(NONE);
            let is_fixed = this.address.topic.is_fixed();
            match this.is_there(&topic) {
                Ok(is_there) => Ok(is_there || !is_fixed),
                // An answer, of a topic that may be none of the events'.
                Err(TopicProblem::Refused(_)) if !is_fixed => Ok(true),
                Err(problem) => Err(problem.into_error()),
            }
        })
        .await
    }

    fn topics(&self) -> MutexGuard<'_, HashSet<String>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
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
        messages: &[&Message<'_>],
        journal: Option<&str>,
    ) -> Vec<Result<(), Failure>> {
        self.forget();
        let mut waiting = Vec::with_capacity(messages.len());
        // What follows a message that was not even queued is not queued either: it would overtake.
        let mut stopped = false;
        for message in messages {
            let queued = if stopped {
                Err(Failure::unsent())
            } else {
                self.queue(message, journal)
            };
            stopped |= matches!(queued, Err(Failure::Now(_)));
            waiting.push(queued);
        }
        let mut results = Vec::with_capacity(waiting.len());
        for (queued, message) in waiting.into_iter().zip(messages) {
            let result = match queued {
                Ok(report) => match report.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err((error, _))) => Err(self.failure(&error)),
                    Err(_) => Err(Failure::Now(SinkError::new("the Kafka client ended"))),
                },
                Err(failure) => Err(failure),
            };
            if matches!(result, Err(Failure::TopicRefused(_))) {
                self.topics().remove(&*message.topic);
            }
            results.push(result);
        }
        if results
            .iter()
            .any(|result| matches!(result, Err(Failure::Now(_))))
        {
            self.is_doubtful.store(true, Ordering::Relaxed);
        }
        results
    }

    fn queue(
        &self,
        message: &Message<'_>,
        journal: Option<&str>,
    ) -> Result<DeliveryFuture, Failure> {
        let Message { event, topic, key } = message;
        let headers =
            headers(event, journal).map_err(|error| Failure::Unsendable(error.to_string()))?;
        let mut record = FutureRecord::to(topic)
            .payload(&event.json)
            .headers(headers);
        if let Some(key) = key.as_deref() {
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
            Some(code) if is_refusal(code) && !self.address.topic.is_fixed() => {
                Failure::TopicRefused(format!("the broker refuses its topic: {error}"))
            }
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
    fn is_there(&self, name: &str) -> Result<bool, TopicProblem> {
        let patience = METADATA_TIMEOUT.min(self.address.timeout);
        let metadata = self
            .client()
            .fetch_metadata(Some(name), patience)
            .map_err(|error| {
                TopicProblem::Now(self.error("no answer from the broker: ", &error))
            })?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        match topic.map(|topic| topic.error().map(RDKafkaErrorCode::from)) {
            Some(None) => Ok(true),
            // It is being made.
            Some(Some(RDKafkaErrorCode::LeaderNotAvailable)) => Ok(true),
            Some(Some(
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
            ))
            | None => Ok(false),
            Some(Some(code)) => Err(TopicProblem::of(
                code,
                SinkError::new(format!("the topic {name}: {code}")),
            )),
        }
    }

    /// Makes topics, and says of each whether it is there now.
    fn make(&self, names: &[String]) -> Result<Vec<Made>, SinkError> {
        let failed = |name: &str, error: &dyn std::fmt::Display| {
            SinkError::new(format!(
                "there is no topic {name}, and it cannot be made: {error}"
            ))
        };
        let Some(first) = names.first() else {
            return Ok(Vec::new());
        };
        if self.address.token().is_some() {
            let refused = names.iter().map(|name| {
                let error = failed(name, &"with OAUTHBEARER the sink makes none");
                (name.clone(), Err(TopicProblem::Refused(error)))
            });
            return Ok(refused.collect());
        }
        let context = Context {
            said: self.said.clone(),
            address: self.address.clone(),
        };
        let admin: AdminClient<Context> = self
            .address
            .config()?
            .create_with_context(context)
            .map_err(|error| failed(first, &error))?;
        let topics = names.iter().map(|name| {
            NewTopic::new(
                name,
                self.address.partitions,
                TopicReplication::Fixed(self.address.replication),
            )
        });
        let topics: Vec<_> = topics.collect();
        let options = AdminOptions::new()
            .request_timeout(Some(METADATA_TIMEOUT))
            .operation_timeout(Some(METADATA_TIMEOUT));
        let made = Handle::current().block_on(admin.create_topics(&topics, &options));
        let made = made.map_err(|error| failed(first, &error))?;
        let results = made.into_iter().map(|result| match result {
            Ok(name) | Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => (name, Ok(())),
            Err((name, code)) => {
                let problem = TopicProblem::of(code, failed(&name, &code));
                (name, Err(problem))
            }
        });
        Ok(results.collect())
    }
}

/// What became of a topic that was to be made.
type Made = (String, Result<(), TopicProblem>);

/// Why there is no topic.
enum TopicProblem {
    /// The broker will have none of that name from this sink.
    Refused(SinkError),
    Now(SinkError),
}

impl TopicProblem {
    fn of(code: RDKafkaErrorCode, error: SinkError) -> Self {
        match is_refusal(code) {
            true => Self::Refused(error),
            false => Self::Now(error),
        }
    }

    fn into_error(self) -> SinkError {
        match self {
            Self::Refused(error) | Self::Now(error) => error,
        }
    }
}

/// Whether a broker means a topic itself: its name, or the user's right to it.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
    )
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
