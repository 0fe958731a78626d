//! The NATS sink for the conformance suite.

use crate::support::{
    conformance::{Received, Target},
    servers::{NATS_MAX_PAYLOAD, PASSWORD, PASSWORD_IN_URL, Server, USER},
};
use async_nats::{ConnectOptions, jetstream};
use std::time::Duration;
use temporal_eventstore::Event;

const SUBJECT: &str = "orders.events";

pub struct NatsTarget {
    server: Server,
}

impl NatsTarget {
    pub async fn stream(&self) -> jetstream::stream::Stream {
        let context = self.context().await;
        context.get_stream("orders_events").await.unwrap()
    }

    /// Makes the stream, which then forgets message ids after `window`.
    pub async fn make_stream(&self, window: Duration) {
        let config = jetstream::stream::Config {
            name: "orders_events".to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            duplicate_window: window,
            ..Default::default()
        };
        self.context().await.create_stream(config).await.unwrap();
    }

    pub async fn context(&self) -> jetstream::Context {
        let client = ConnectOptions::with_user_and_password(USER.into(), PASSWORD.into())
            .connect(format!("nats://127.0.0.1:{}", self.server.port()))
            .await
            .unwrap();
        jetstream::new(client)
    }

    fn url_with(&self, password: &str) -> String {
        let port = self.server.port();
        format!("nats://{USER}:{password}@127.0.0.1:{port}/{SUBJECT}")
    }
}

impl Target for NatsTarget {
    const DEDUPES: bool = true;
    const SECRETS: &'static [&'static str] = &[PASSWORD, PASSWORD_IN_URL, "hunter2"];

    async fn begin() -> Self {
        Self {
            server: Server::nats(),
        }
    }

    fn url(&self) -> String {
        self.url_with(PASSWORD_IN_URL)
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        Some(self.url_with("hunter2"))
    }

    async fn received(&self) -> Vec<Received> {
        let stream = self.stream().await;
        let last = stream.cached_info().state.last_sequence;
        let mut received = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            assert_eq!(message.subject.as_str(), SUBJECT);
            let event = Event::from_json(std::str::from_utf8(&message.payload).unwrap()).unwrap();
            let header = |name: &str| message.headers.get(name).map(ToString::to_string);
            assert_eq!(header("ce-id"), header("Nats-Msg-Id"));
            assert_eq!(header("ce-specversion").as_deref(), Some("1.0"));
            assert_eq!(
                header("ce-id"),
                event.metadata.event_id.map(|id| id.to_string())
            );
            received.push(Received {
                event_id: header("Nats-Msg-Id").unwrap(),
                key: header("ce-partitionkey"),
            });
        }
        received
    }

    async fn stop(&mut self) {
        self.server.stop();
    }

    async fn start(&mut self) {
        self.server.start();
    }

    async fn pause(&mut self) {
        self.server.pause();
    }

    async fn resume(&mut self) {
        self.server.resume();
    }

    fn poison() -> Option<Event> {
        None
    }

    fn oversize() -> Option<usize> {
        Some(NATS_MAX_PAYLOAD)
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("nats:///events", "host"),
            ("nats://u:hunter2@h", "subject"),
            ("nats://u:hunter2@h/", "subject"),
            ("nats://u:hunter2@h/a/b", "subject"),
            ("nats://u:hunter2@h/a.>", "subject"),
            ("nats://u:hunter2@h/a..b", "subject"),
            ("nats://:hunter2@h/a", "user name"),
            ("nats://hunter2@h:123456/a", "port"),
            ("nats://u:hunter2@h/a?streams=x", "unknown parameter"),
            ("nats://u:hunter2@h/a?stream=a.b", "stream"),
            ("nats://u:hunter2@h/a?stream=", "stream"),
            ("nats+tls://u:hunter2@h/a?tls_ca=/no/file", "/no/file"),
            ("nats+tls://u:hunter2@h/a#x", "#"),
        ]
    }
}
