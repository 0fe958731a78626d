//! What the topics have of events that nobody confirmed, perhaps of an earlier run of the program: their partitions are read
//! back from their ends. Only committed messages count. The doubt is about each topic by itself, and stays until the topic has
//! events again.

use super::{address::TopicAddress, producer::Context};
use crate::{
    event::EventId,
    sink::{
        SinkError, SinkEvent,
        shared::doubt::{Found, MOST_READ, Reach, Seen},
    },
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tracing::warn;

/// The header with the id of the journal that the event comes from.
pub(super) const JOURNAL: &str = "eventstore_journal";
/// The header with the event's position in that journal.
pub(super) const POSITION: &str = "eventstore_position";

/// How many messages of a partition are looked at before it is asked whether that was far enough. More than somebody sends
/// again by hand while a batch is in doubt: such a message has a low position and stands behind higher ones.
const FIRST_PAGE: i64 = 256;
/// How much longer each further page is, up to the largest.
const GROWTH: i64 = 4;
const LARGEST_PAGE: i64 = 16 * 1024;
/// How long a partition that seems to have ended is waited for, if its end was further before: behind it, a transaction is
/// open, whose messages do not count.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long a look may take, at all topics together; one is looked at in any case. The delivery that follows it needs its own time.
const LOOK_LIMIT: Duration = Duration::from_secs(8);
const POLL_LIMIT: Duration = Duration::from_millis(200);
/// How long one answer may take.
const STEP_LIMIT: Duration = Duration::from_secs(4);

/// What is in doubt, and what is known of it.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Whether the user may read at all, as far as is known.
    may_read: bool,
    /// Those that the sink had events for.
    topics: HashMap<String, Topic>,
}

/// What is known of one topic.
#[derive(Debug)]
struct Topic {
    /// Events may be in the topic that nobody has confirmed: of an earlier run of the program, at the start.
    is_in_doubt: bool,
    /// Whether the user may read the topic, as far as is known.
    may_read: bool,
    found: Found,
    /// Where the partitions ended when they were last looked at: everything before is known.
    seen: HashMap<i32, i64>,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            may_read: true,
            topics: HashMap::new(),
        }
    }
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            is_in_doubt: true,
            may_read: true,
            found: Found::default(),
            seen: HashMap::new(),
        }
    }
}

/// Why a look failed.
enum Problem {
    /// The user may not read.
    Forbidden(KafkaError),
    Passing(SinkError),
}

/// A part of a partition that is still to be read, backwards.
struct Part {
    partition: i32,
    floor: i64,
    end: i64,
}

impl Doubt {
    /// Whether the topic has to be looked at before anything is sent to it.
    pub(super) fn asks_for_a_look_at(&self, topic: &str) -> bool {
        let topic = self.topics.get(topic);
        self.may_read && topic.is_none_or(|topic| topic.is_in_doubt && topic.may_read)
    }

    pub(super) fn found(&self, topic: &str, id: EventId) -> bool {
        let topic = self.topics.get(topic);
        topic.is_some_and(|topic| topic.found.contains(id))
    }

    /// From now on, what is sent to these topics is in doubt.
    pub(super) fn begin(&mut self, topics: &[&str], batch: &[SinkEvent]) {
        for name in topics {
            let topic = self.topics.entry((*name).to_owned()).or_default();
            topic.found.pass(batch);
            topic.is_in_doubt = true;
        }
    }

    /// It is known of each event for these topics what became of it.
    pub(super) fn end(&mut self, topics: &[&str]) {
        for name in topics {
            if let Some(topic) = self.topics.get_mut(*name) {
                topic.is_in_doubt = false;
            }
        }
    }

    /// Finds out which events in doubt are in these topics, in this order, and stops when it took long. Waits where it is
    /// called. Nothing of an earlier call may be under way.
    pub(super) fn look(
        &mut self,
        address: &Arc<TopicAddress>,
        topics: &[String],
        reach: &Reach,
    ) -> Result<(), SinkError> {
        // A token is fetched by a client that is asked for messages, and not by one that is asked for what there is.
        if address.token().is_some() {
            self.may_read = false;
            return Ok(());
        }
        let until = Instant::now() + LOOK_LIMIT;
        let consumer = match consumer(address) {
            Ok(consumer) => consumer,
            Err(Problem::Passing(error)) => return Err(error),
            Err(Problem::Forbidden(error)) => return self.may_not_read(&error),
        };
        for name in topics {
            let topic = self.topics.entry(name.clone()).or_default();
            match topic.read_back(name, &consumer, reach, until) {
                Ok(()) => topic.is_in_doubt = false,
                Err(Problem::Passing(error)) => return Err(error),
                Err(Problem::Forbidden(error)) if is_about_the_topic(&error) => {
                    topic.may_read = false;
                    warn!(
                        topic = name,
                        %error,
                        "the topic may not be read: after a crash or an outage, events may come twice"
                    );
                }
                Err(Problem::Forbidden(error)) => return self.may_not_read(&error),
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }

    fn may_not_read(&mut self, error: &KafkaError) -> Result<(), SinkError> {
        self.may_read = false;
        warn!(%error, "no topic may be read: after a crash or an outage, events may come twice");
        Ok(())
    }
}

fn consumer(address: &Arc<TopicAddress>) -> Result<BaseConsumer<Context>, Problem> {
    let mut config = address.config().map_err(Problem::Passing)?;
    config
        // Nothing is committed for a group, but a client that reads has to name one.
        .set("group.id", env!("CARGO_PKG_NAME"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        // A page is read, and not all that follows it.
        .set("queued.min.messages", "1000");
    config
        .create_with_context(Context::of(address))
        .map_err(problem)
}

impl Topic {
    fn read_back(
        &mut self,
        name: &str,
        consumer: &BaseConsumer<Context>,
        reach: &Reach,
        until: Instant,
    ) -> Result<(), Problem> {
        let mut parts = self.parts(name, consumer)?;
        let ends: HashMap<i32, i64> = parts.iter().map(|it| (it.partition, it.end)).collect();
        if parts.iter().any(|it| {
            self.seen
                .get(&it.partition)
                .is_some_and(|seen| *seen > it.end)
        }) {
            // Another topic of the same name: what was found is gone.
            self.found.clear();
            self.seen.clear();
            parts = self.parts(name, consumer)?;
        }
        let (mut page, mut read) = (FIRST_PAGE, 0);
        parts.retain(|part| part.floor < part.end);
        while !parts.is_empty() {
            if read >= MOST_READ || Instant::now() >= until {
                warn!(
                    topic = name,
                    "others wrote so much to the topic that it was not read to the end of the doubt: events may come twice"
                );
                break;
            }
            let mut over = HashSet::new();
            read_page(name, consumer, &parts, page, until, |message| {
                let seen = Header::of(message);
                self.found.note(seen.seen(), reach);
                if reach.ends_at(seen.seen()) {
                    over.insert(message.partition());
                }
                read += 1;
            })?;
            for part in &mut parts {
                part.end = part.begin(page);
            }
            parts.retain(|part| part.floor < part.end && !over.contains(&part.partition));
            if self.seen.is_empty() && reach.is_unknown() {
                break;
            }
            page = page.saturating_mul(GROWTH).min(LARGEST_PAGE);
        }
        self.seen = ends;
        Ok(())
    }

    /// What there is to read: of each partition the part behind what is known.
    fn parts(&self, name: &str, consumer: &BaseConsumer<Context>) -> Result<Vec<Part>, Problem> {
        let metadata = consumer
            .fetch_metadata(Some(name), STEP_LIMIT)
            .map_err(problem)?;
        let mut parts = Vec::new();
        for topic in metadata.topics() {
            for partition in topic.partitions().iter().map(|partition| partition.id()) {
                let (low, high) = consumer
                    .fetch_watermarks(name, partition, STEP_LIMIT)
                    .map_err(problem)?;
                let seen = self.seen.get(&partition).copied();
                parts.push(Part {
                    partition,
                    floor: seen.unwrap_or(low).max(low),
                    end: high,
                });
            }
        }
        Ok(parts)
    }
}

impl Part {
    fn begin(&self, page: i64) -> i64 {
        self.end.saturating_sub(page).max(self.floor)
    }
}

/// Reads the last page of each part.
fn read_page(
    topic: &str,
    consumer: &BaseConsumer<Context>,
    parts: &[Part],
    page: i64,
    until: Instant,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> Result<(), Problem> {
    let mut list = TopicPartitionList::new();
    let mut waiting = HashMap::new();
    for part in parts {
        let begin = Offset::Offset(part.begin(page));
        list.add_partition_offset(topic, part.partition, begin)
            .map_err(problem)?;
        waiting.insert(part.partition, part.end);
    }
    consumer.assign(&list).map_err(problem)?;
    let mut ended: HashMap<i32, Instant> = HashMap::new();
    let mut begun = HashSet::new();
    let mut answered = Instant::now();
    while !waiting.is_empty() && Instant::now() < until {
        let polled = consumer.poll(POLL_LIMIT);
        if polled.is_some() {
            answered = Instant::now();
        }
        match polled {
            None if ended.is_empty() && answered.elapsed() > STEP_LIMIT => {
                return Err(Problem::Passing(SinkError::new(
                    "the Kafka topic is not read in time",
                )));
            }
            None => waiting.retain(|partition, _| {
                ended
                    .get(partition)
                    .is_none_or(|at| at.elapsed() < END_LIMIT)
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // Before the page has begun, this may be about the page before it, and so may the position.
                let read_to = match begun.contains(&partition) {
                    true => position(consumer, topic, partition),
                    false => Some(0),
                };
                match waiting.get(&partition) {
                    Some(end) if read_to.is_some_and(|read_to| read_to < *end) => {
                        ended.entry(partition).or_insert_with(Instant::now);
                    }
                    _ => drop(waiting.remove(&partition)),
                }
            }
            Some(Err(error)) => return Err(problem(error)),
            Some(Ok(message)) => {
                let Some(end) = waiting.get(&message.partition()).copied() else {
                    continue;
                };
                ended.remove(&message.partition());
                if message.offset() < end {
                    begun.insert(message.partition());
                    take(&message);
                }
                // One from behind the page that comes first may have been fetched for the page before it.
                if message.offset() + 1 >= end && begun.contains(&message.partition()) {
                    waiting.remove(&message.partition());
                }
            }
        }
    }
    Ok(())
}

/// The offset that would be read next.
fn position(consumer: &BaseConsumer<Context>, topic: &str, partition: i32) -> Option<i64> {
    let positions = consumer.position().ok()?;
    let position = positions.find_partition(topic, partition)?;
    position.offset().to_raw()
}

fn is_about_the_topic(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

fn problem(error: KafkaError) -> Problem {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ) => Problem::Forbidden(error),
        _ => Problem::Passing(SinkError::caused_by(
            "the Kafka topic cannot be read",
            error,
        )),
    }
}

/// Of a message, what tells which event it is.
struct Header<'a> {
    id: Option<&'a str>,
    journal: Option<&'a str>,
    position: Option<&'a str>,
    at: Option<SystemTime>,
}

impl<'a> Header<'a> {
    fn of(message: &'a BorrowedMessage<'_>) -> Self {
        let text = |name: &str| {
            let mut headers = message.headers()?.iter();
            let header = headers.find(|header| header.key == name)?;
            std::str::from_utf8(header.value?).ok()
        };
        let at = message.timestamp().to_millis();
        let at = at.and_then(|at| u64::try_from(at).ok());
        Self {
            id: text("ce_id"),
            journal: text(JOURNAL),
            position: text(POSITION),
            at: at.and_then(|at| UNIX_EPOCH.checked_add(Duration::from_millis(at))),
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            id: self.id,
            journal: self.journal,
            position: self.position,
            at: self.at,
        }
    }
}
