//! A Kafka topic: the CloudEvents Kafka binding in binary mode, from an idempotent producer.
//! Documented in `docs/sinks/kafka.md`.

mod address;
mod doubt;
mod producer;
mod properties;
mod token;

use super::{
    Delivered, Rejection, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        attempt::{outcome, within},
        doubt::{Origin, Reach},
        encoding::Encoding,
        recent::Recent,
    },
};
use crate::event::EventError;
use address::TopicAddress;
use async_trait::async_trait;
use doubt::Doubt;
use producer::{Failure, Message, Producer, RefusedTopics, blocking};
use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
};

/// How long one delivery may take with everything around it, such as looking for the topic.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(18);

/// Delivers to a Kafka topic.
struct KafkaSink {
    name: String,
    address: Arc<TopicAddress>,
    /// Made at the first delivery, and again after an error that a producer does not survive.
    producer: Mutex<Option<Arc<Producer>>>,
    /// What the broker confirmed.
    arrived: std::sync::Mutex<Recent>,
    origin: Origin,
    /// One delivery at a time.
    doubt: Arc<Mutex<Doubt>>,
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The sink of a `kafka:` or `kafka+tls:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = TopicAddress::parse(url)?;
    Ok(Arc::new(KafkaSink {
        name: format!("kafka {}", address.topic.shown()),
        address: Arc::new(address),
        producer: Mutex::new(None),
        arrived: std::sync::Mutex::default(),
        origin: Origin::default(),
        doubt: Arc::default(),
    }))
}

impl KafkaSink {
    /// A producer, and which of the topics the broker refuses.
    async fn producer(&self, topics: &[&str]) -> Result<(Arc<Producer>, RefusedTopics), SinkError> {
        let mut kept = self.producer.lock().await;
        if let Some(producer) = kept.as_ref().filter(|producer| producer.is_usable()) {
            let is_as_it_was = match producer.is_doubtful() {
                true => producer.has(topics).await,
                false => Ok(true),
            };
            match is_as_it_was {
                Ok(true) => {
                    let refused = producer.prepare(topics).await?;
                    return Ok((producer.clone(), refused));
                }
                // Made again below, by a producer that knows nothing of the old one.
                Ok(false) => {}
                Err(error) => {
                    if self.address.reads_files() {
                        end(kept.take());
                    }
                    return Err(error);
                }
            }
        }
        end(kept.take());
        let producer = Producer::new(self.address.clone()).await?;
        match producer.prepare(topics).await {
            Ok(refused) => {
                *kept = Some(producer.clone());
                Ok((producer, refused))
            }
            Err(error) => {
                end(Some(producer));
                Err(error)
            }
        }
    }

    /// Sends messages, and remembers those that arrived.
    async fn send(&self, messages: &[&Message<'_>]) -> Result<Vec<Result<(), Failure>>, SinkError> {
        let topics = topics_of(messages.iter().copied());
        let (producer, refused) = self.producer(&topics).await?;
        let reason = |message: &Message<'_>| refused.get(&*message.topic).cloned();
        let sent: Vec<&Message<'_>> = messages
            .iter()
            .copied()
            .filter(|message| reason(message).is_none())
            .collect();
        let mut results = producer
            .send(&sent, self.origin.journal())
            .await
            .into_iter();
        let results: Vec<_> = messages
            .iter()
            .map(|message| match reason(message) {
                Some(reason) => Err(Failure::TopicRefused(reason)),
                None => results.next().unwrap_or_else(|| Err(Failure::unsent())),
            })
            .collect();
        let mut arrived = self.arrived();
        for (message, result) in messages.iter().zip(&results) {
            if result.is_ok() {
                arrived.insert(message.event.event_id);
            }
        }
        arrived.forget_oldest();
        Ok(results)
    }

    fn arrived(&self) -> MutexGuard<'_, Recent> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is sent of each event.
    fn messages<'a>(&'a self, batch: &'a [SinkEvent]) -> Vec<Result<Message<'a>, EventError>> {
        let message = |event: &'a SinkEvent| {
            Ok(Message {
                event,
                topic: self.address.topic.target(event)?,
                key: match &self.address.key {
                    None => event.key().map(Cow::Borrowed),
                    Some(key) => Some(key.render(event, Encoding::PLAIN)?),
                },
            })
        };
        batch.iter().map(message).collect()
    }

    /// Reads what topics have of events in doubt, as many of them as there is time for.
    async fn look(
        &self,
        mut doubt: OwnedMutexGuard<Doubt>,
        topics: &[&str],
        batch: &[SinkEvent],
    ) -> Result<(OwnedMutexGuard<Doubt>, RefusedTopics), SinkError> {
        // Makes a topic, too, where there is none.
        let (producer, refused) = self.producer(topics).await?;
        producer.settle().await?;
        let (address, reach) = (self.address.clone(), Reach::of(batch, &self.origin));
        let topics = topics
            .iter()
            .filter(|topic| doubt.asks_for_a_look_at(topic) && !refused.contains_key(**topic));
        let topics: Vec<String> = topics.map(|topic| (*topic).to_owned()).collect();
        // The client's calls wait where they are called.
        let doubt = blocking(move || {
            doubt.look(&address, &topics, &reach)?;
            Ok(doubt)
        });
        Ok((doubt.await?, refused))
    }

    /// Which messages are still to be sent. What arrived behind one that did not, in another
    /// partition, is not sent again; but behind one of the same key it is, for the sake of the order.
    fn is_missing(&self, messages: &[Result<Message<'_>, EventError>], doubt: &Doubt) -> Vec<bool> {
        let arrived = self.arrived();
        let mut keys = HashSet::new();
        let is_missing = messages.iter().map(|message| {
            let Ok(Message { event, topic, key }) = message else {
                return false;
            };
            let place = key.as_deref().map(|key| (&**topic, key));
            let is_behind = place.is_some_and(|place| keys.contains(&place));
            let id = event.event_id;
            let is_there = arrived.contains(id) || doubt.found(topic, id);
            let is_missing = is_behind || !is_there;
            if let Some(place) = place.filter(|_| is_missing) {
                keys.insert(place);
            }
            is_missing
        });
        is_missing.collect()
    }

    /// Delivers a batch; `done` says how much of it also when the call is cut off.
    async fn deliver_all(
        &self,
        batch: &[SinkEvent],
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let mut messages = self.messages(batch);
        let mut topics = topics_of(messages.iter().flatten());
        let mut doubt = self.doubt.clone().lock_owned().await;
        if topics.iter().any(|topic| doubt.asks_for_a_look_at(topic)) {
            let refused;
            (doubt, refused) = self.look(doubt, &topics, batch).await?;
            // What is for topics that there was no time for waits, with what is behind it.
            let is_open = |message: &Result<Message<'_>, _>| match message {
                Ok(Message { topic, .. }) => {
                    doubt.asks_for_a_look_at(topic) && !refused.contains_key(&**topic)
                }
                Err(_) => false,
            };
            if let Some(first) = messages.iter().position(is_open) {
                messages.truncate(first);
            }
            topics = topics_of(messages.iter().flatten());
        }
        doubt.begin(&topics, batch);
        self.deliver_missing(&messages, &doubt, done).await?;
        doubt.end(&topics);
        Ok(())
    }

    async fn deliver_missing(
        &self,
        messages: &[Result<Message<'_>, EventError>],
        doubt: &Doubt,
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let is_missing = self.is_missing(messages, doubt);
        let missing: Vec<&Message<'_>> = messages
            .iter()
            .zip(&is_missing)
            .filter_map(|(message, is_missing)| message.as_ref().ok().filter(|_| *is_missing))
            .collect();
        let mut sent = self.send(&missing).await?.into_iter();
        let mut results = Vec::with_capacity(messages.len());
        for (message, is_missing) in messages.iter().zip(&is_missing) {
            results.push(match (message, is_missing) {
                (Err(error), _) => Err(Failure::Unsendable(error.to_string())),
                (Ok(_), true) => sent.next().unwrap_or_else(|| Err(Failure::unsent())),
                (Ok(_), false) => Ok(()),
            });
        }
        // Where the broker refuses a set of messages, the client fails others without their fault.
        let is_set_refused = results
            .iter()
            .any(|result| matches!(result, Err(Failure::SetRefused(_))));
        for result in results {
            match result {
                Ok(()) => {}
                Err(Failure::Unsendable(reason)) => {
                    done.rejected.push(Rejection::new(done.taken, reason));
                }
                Err(_) if is_set_refused => return self.deliver_each(messages, doubt, done).await,
                Err(Failure::TopicRefused(reason)) => {
                    done.rejected.push(Rejection::refused(done.taken, reason));
                }
                Err(Failure::SetRefused(reason)) => return Err(SinkError::new(reason)),
                Err(Failure::Now(error)) => return Err(error),
            }
            done.taken += 1;
        }
        Ok(())
    }

    /// Delivers what is left one by one, so that only what the broker refuses by itself is rejected.
    async fn deliver_each(
        &self,
        messages: &[Result<Message<'_>, EventError>],
        doubt: &Doubt,
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let is_missing = self.is_missing(messages, doubt);
        while let Some(message) = messages.get(done.taken) {
            let is_missing = is_missing.get(done.taken) == Some(&true);
            let result = match message {
                Err(error) => Err(Failure::Unsendable(error.to_string())),
                Ok(_) if !is_missing => Ok(()),
                Ok(message) => match self.send(&[message]).await?.pop() {
                    Some(result) => result,
                    None => return Err(SinkError::new("the event was not sent")),
                },
            };
            match result {
                Ok(()) => {}
                Err(Failure::Unsendable(reason)) => {
                    done.rejected.push(Rejection::new(done.taken, reason));
                }
                Err(Failure::SetRefused(reason) | Failure::TopicRefused(reason)) => {
                    done.rejected.push(Rejection::refused(done.taken, reason));
                }
                Err(Failure::Now(error)) => return Err(error),
            }
            done.taken += 1;
        }
        Ok(())
    }
}

/// The topics of messages, each once, in the order in which they come.
fn topics_of<'m>(messages: impl IntoIterator<Item = &'m Message<'m>>) -> Vec<&'m str> {
    let mut seen = HashSet::new();
    let topics = messages.into_iter().map(|message| &*message.topic);
    topics.filter(|topic| seen.insert(*topic)).collect()
}

/// Ends a producer. It joins its threads, which no thread of the runtime should wait for.
fn end(producer: Option<Arc<Producer>>) {
    if let Some(producer) = producer {
        spawn_blocking(move || drop(producer));
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        // Ending a producer joins its threads, which no thread of a runtime should wait for.
        if let Some(producer) = self.producer.get_mut().take() {
            std::thread::Builder::new()
                .name("kafka-sink-end".to_owned())
                .spawn(move || drop(producer))
                .ok();
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn comes_from(&self, journal: &str) {
        self.origin.set(journal);
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let batch = self.address.topic.admitted(batch)?;
        let mut done = Delivered::default();
        let call = self.deliver_all(batch, &mut done);
        let end = within(DELIVERY_TIMEOUT, "the batch was not delivered", call).await;
        outcome(done, end)
    }

    async fn check(&self) -> Result<(), SinkError> {
        let topic = self.address.topic.shown();
        let topics: &[&str] = match self.address.topic.is_fixed() {
            true => &[topic],
            false => &[],
        };
        let (producer, _) = self.producer(topics).await?;
        match producer.check().await? {
            true => Ok(()),
            false => Err(SinkError::new(format!("there is no topic {topic}"))),
        }
    }
}
