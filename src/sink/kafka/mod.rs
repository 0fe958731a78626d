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
        recent::Recent,
    },
};
use address::TopicAddress;
use async_trait::async_trait;
use doubt::Doubt;
use producer::{Failure, Producer, blocking};
use std::{
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
        name: format!("kafka {}", address.topic),
        address: Arc::new(address),
        producer: Mutex::new(None),
        arrived: std::sync::Mutex::default(),
        origin: Origin::default(),
        doubt: Arc::default(),
    }))
}

impl KafkaSink {
    async fn producer(&self) -> Result<Arc<Producer>, SinkError> {
        let mut kept = self.producer.lock().await;
        if let Some(producer) = kept.as_ref().filter(|producer| producer.is_usable()) {
            if !producer.is_doubtful() {
                return Ok(producer.clone());
            }
            match producer.has_topic().await {
                Ok(true) => return Ok(producer.clone()),
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
        let producer = Arc::new(Producer::connect(self.address.clone()).await?);
        *kept = Some(producer.clone());
        Ok(producer)
    }

    /// Sends events, and remembers those that arrived.
    async fn send(&self, events: &[&SinkEvent]) -> Result<Vec<Result<(), Failure>>, SinkError> {
        let producer = self.producer().await?;
        let results = producer.send(events, self.origin.journal()).await;
        let mut arrived = self.arrived();
        for (event, result) in events.iter().zip(&results) {
            if result.is_ok() {
                arrived.insert(event.event_id);
            }
        }
        arrived.forget_oldest();
        Ok(results)
    }

    fn arrived(&self) -> MutexGuard<'_, Recent> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the topic has of events in doubt.
    async fn look(
        &self,
        mut doubt: OwnedMutexGuard<Doubt>,
        batch: &[SinkEvent],
    ) -> Result<OwnedMutexGuard<Doubt>, SinkError> {
        // Makes the topic, too, where there is none.
        self.producer().await?.settle().await?;
        let (address, reach) = (self.address.clone(), Reach::of(batch, &self.origin));
        // The client's calls wait where they are called.
        blocking(move || {
            doubt.look(&address, &reach)?;
            Ok(doubt)
        })
        .await
    }

    /// Which events of a batch are still to be sent. What arrived behind one that did not, in another
    /// partition, is not sent again; but behind one of the same key it is, for the sake of the order.
    fn is_missing(&self, batch: &[SinkEvent], doubt: &Doubt) -> Vec<bool> {
        let arrived = self.arrived();
        let mut keys = HashSet::new();
        let is_missing = batch.iter().map(|event| {
            let is_behind = event.key().is_some_and(|key| keys.contains(key));
            let id = event.event_id;
            let is_there = arrived.contains(id) || doubt.found().contains(id);
            let is_missing = is_behind || !is_there;
            if let Some(key) = event.key().filter(|_| is_missing) {
                keys.insert(key);
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
        let mut doubt = self.doubt.clone().lock_owned().await;
        if doubt.asks_for_a_look() {
            doubt = self.look(doubt, batch).await?;
        }
        doubt.begin(batch);
        self.deliver_missing(batch, &doubt, done).await?;
        doubt.end();
        Ok(())
    }

    async fn deliver_missing(
        &self,
        batch: &[SinkEvent],
        doubt: &Doubt,
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let is_missing = self.is_missing(batch, doubt);
        let missing: Vec<&SinkEvent> = batch
            .iter()
            .zip(&is_missing)
            .filter_map(|(event, is_missing)| is_missing.then_some(event))
            .collect();
        let mut sent = self.send(&missing).await?.into_iter();
        let mut results = Vec::with_capacity(batch.len());
        for is_missing in is_missing {
            results.push(match is_missing {
                true => sent.next().unwrap_or_else(|| Err(Failure::unsent())),
                false => Ok(()),
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
                Err(_) if is_set_refused => return self.deliver_each(batch, doubt, done).await,
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
        batch: &[SinkEvent],
        doubt: &Doubt,
        done: &mut Delivered,
    ) -> Result<(), SinkError> {
        let is_missing = self.is_missing(batch, doubt);
        while let Some(event) = batch.get(done.taken) {
            if is_missing.get(done.taken) == Some(&true) {
                match self.send(&[event]).await?.pop() {
                    Some(Ok(())) => {}
                    Some(Err(Failure::Unsendable(reason))) => {
                        done.rejected.push(Rejection::new(done.taken, reason));
                    }
                    Some(Err(Failure::SetRefused(reason))) => {
                        done.rejected.push(Rejection::refused(done.taken, reason));
                    }
                    Some(Err(Failure::Now(error))) => return Err(error),
                    None => return Err(SinkError::new("the event was not sent")),
                }
            }
            done.taken += 1;
        }
        Ok(())
    }
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
        let mut done = Delivered::default();
        let call = self.deliver_all(batch, &mut done);
        let end = within(DELIVERY_TIMEOUT, "the batch was not delivered", call).await;
        outcome(done, end)
    }

    async fn check(&self) -> Result<(), SinkError> {
        match self.producer().await?.has_topic().await? {
            true => Ok(()),
            false => Err(SinkError::new(format!(
                "there is no topic {}",
                self.address.topic
            ))),
        }
    }
}
