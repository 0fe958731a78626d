//! The Kafka sink for the conformance suite, with two brokers of different make.

use crate::support::{
    conformance::{Received, Target},
    kafka_broker::{Broker, Kind, free_port, read},
    proxy::Proxy,
};
use std::marker::PhantomData;
use temporal_eventstore::Event;

const TOPIC: &str = "orders.events";

pub trait Make {
    const KIND: Kind;
}

pub struct Noida;
pub struct Tansu;

impl Make for Noida {
    const KIND: Kind = Kind::Noida;
}

impl Make for Tansu {
    const KIND: Kind = Kind::Tansu;
}

pub struct KafkaTarget<M> {
    broker: Broker,
    make: PhantomData<M>,
}

impl<M: Make> Target for KafkaTarget<M> {
    // An idempotent producer tells its own repetitions, and not a batch that is handed in again:
    // consumers do, by `ce_id`.
    const DEDUPES: bool = false;
    const SECRETS: &'static [&'static str] = &["hunter2"];

    async fn begin() -> Self {
        Self {
            broker: Broker::start(M::KIND),
            make: PhantomData,
        }
    }

    fn url(&self) -> String {
        format!(
            "kafka://{}/{TOPIC}?partitions=3&replication=1&timeout=4s",
            self.broker.address()
        )
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        match M::KIND {
            // Takes everybody for whoever they say they are.
            Kind::Noida => None,
            // Knows no user.
            Kind::Tansu => Some(self.url().replace("://", "://u:hunter2@")),
        }
    }

    async fn received(&self) -> Vec<Received> {
        let address = self.broker.address();
        let records = tokio::task::spawn_blocking(move || read(&address, TOPIC))
            .await
            .unwrap();
        records
            .iter()
            .map(|record| {
                let event = Event::from_json(&record.payload).unwrap();
                let id = event.metadata.event_id.unwrap().to_string();
                assert_eq!(record.header("ce_id"), Some(&*id));
                assert_eq!(record.key, event.metadata.workflow_id);
                Received {
                    event_id: id,
                    key: record.key.clone(),
                }
            })
            .collect()
    }

    async fn stop(&mut self) {
        match M::KIND {
            Kind::Noida => self.broker.stop_in_peace(),
            // It would forget everything; for a client it is as much away.
            Kind::Tansu => self.broker.pause(),
        }
    }

    async fn start(&mut self) {
        match M::KIND {
            Kind::Noida => self.broker.start_again(),
            Kind::Tansu => self.broker.resume(),
        }
    }

    async fn begin_behind_network() -> (Self, Proxy) {
        let port = free_port();
        let network = Proxy::to(port).await;
        let broker = Broker::start_behind(M::KIND, port, network.port());
        let make = PhantomData;
        (Self { broker, make }, network)
    }

    async fn pause(&mut self) {
        self.broker.pause();
    }

    async fn resume(&mut self) {
        self.broker.resume();
    }

    fn poison() -> Option<Event> {
        None
    }

    fn oversize() -> Option<usize> {
        Some(1_000_000)
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("kafka://", "host"),
            ("kafka://u:hunter2@h", "topic"),
            ("kafka://u:hunter2@h/t?acks=0", "unknown parameter"),
        ]
    }
}
