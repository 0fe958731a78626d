//! A Kafka topic: the CloudEvents Kafka binding in binary mode, from an idempotent producer.
//! Documented in `docs/sinks/kafka.md`.

mod address;
mod producer;

use super::{Delivered, Rejection, Sink, SinkError, SinkEvent, SinkUrlError};
use address::Target;
use async_trait::async_trait;
use producer::{Failure, Producer};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::timeout};

/// How long one delivery may take with everything around it, such as looking for the topic.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(18);

/// Delivers to a Kafka topic.
struct KafkaSink {
    name: String,
    target: Arc<Target>,
    /// Made at the first delivery, and again after an error that a producer does not survive.
    producer: Mutex<Option<Arc<Producer>>>,
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
    let target = Target::parse(url)?;
    Ok(Arc::new(KafkaSink {
        name: format!("kafka {}", target.topic),
        target: Arc::new(target),
        producer: Mutex::new(None),
    }))
}

impl KafkaSink {
    async fn producer(&self) -> Result<Arc<Producer>, SinkError> {
        let mut kept = self.producer.lock().await;
        if let Some(producer) = kept.as_ref().filter(|producer| producer.is_usable()) {
            return Ok(producer.clone());
        }
        let producer = Arc::new(Producer::connect(self.target.clone()).await?);
        *kept = Some(producer.clone());
        Ok(producer)
    }

    async fn deliver_all(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut rejected = Vec::new();
        let mut index = 0;
        let results = self.producer().await?.send(batch).await;
        for result in results {
            match result {
                Ok(()) => {}
                Err(Failure::Never(reason)) => rejected.push(Rejection { index, reason }),
                // The broker refused a set of messages, not each of them.
                Err(Failure::SetRefused(_)) => {
                    return self.deliver_each(batch, index, rejected).await;
                }
                Err(Failure::Now(_)) if index > 0 => break,
                Err(Failure::Now(error)) => return Err(error),
            }
            index += 1;
        }
        Ok(Delivered::up_to(index, rejected))
    }

    /// Delivers what comes from `index` on one by one, so that only what is refused by itself is
    /// rejected.
    async fn deliver_each(
        &self,
        batch: &[SinkEvent],
        mut index: usize,
        mut rejected: Vec<Rejection>,
    ) -> Result<Delivered, SinkError> {
        while let Some(event) = batch.get(index..=index) {
            let result = match self.producer().await {
                Ok(producer) => producer.send(event).await.pop(),
                Err(error) => Some(Err(Failure::Now(error))),
            };
            match result {
                Some(Ok(())) => {}
                Some(Err(Failure::Never(reason) | Failure::SetRefused(reason))) => {
                    rejected.push(Rejection { index, reason });
                }
                Some(Err(Failure::Now(error))) if index == 0 => return Err(error),
                Some(Err(Failure::Now(_))) | None => break,
            }
            index += 1;
        }
        Ok(Delivered::up_to(index, rejected))
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

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        timeout(DELIVERY_TIMEOUT, self.deliver_all(batch))
            .await
            .unwrap_or_else(|_| {
                Err(SinkError::new(format!(
                    "the batch took longer than {DELIVERY_TIMEOUT:?}"
                )))
            })
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.producer().await?.check().await
    }
}
