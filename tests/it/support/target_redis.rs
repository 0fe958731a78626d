//! The Redis sink for the conformance suite.

use crate::support::{
    conformance::{Received, Target},
    servers::{PASSWORD, PASSWORD_IN_URL, REDIS_MAX_STRING, Server},
};
use redis::{
    ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, aio::MultiplexedConnection,
    streams::StreamRangeReply,
};
use temporal_eventstore::Event;

const STREAM: &str = "orders:events";
const DATABASE: i64 = 3;

pub struct RedisTarget {
    server: Server,
}

impl RedisTarget {
    pub async fn client(&self) -> MultiplexedConnection {
        let login = RedisConnectionInfo::default()
            .set_db(DATABASE)
            .set_password(PASSWORD);
        let address = ConnectionAddr::Tcp("127.0.0.1".into(), self.server.port())
            .into_connection_info()
            .unwrap()
            .set_redis_settings(login);
        redis::Client::open(address)
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap()
    }

    fn url_with(&self, password: &str) -> String {
        let port = self.server.port();
        format!("redis://default:{password}@127.0.0.1:{port}/{DATABASE}/{STREAM}")
    }
}

impl Target for RedisTarget {
    const DEDUPES: bool = true;
    const SECRETS: &'static [&'static str] = &[PASSWORD, PASSWORD_IN_URL, "hunter2"];

    async fn begin() -> Self {
        Self {
            server: Server::redis(),
        }
    }

    fn url(&self) -> String {
        self.url_with(PASSWORD_IN_URL)
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        Some(self.url_with("hunter2"))
    }

    async fn received(&self) -> Vec<Received> {
        let entries: StreamRangeReply = redis::cmd("XRANGE")
            .arg(&[STREAM, "-", "+"])
            .query_async(&mut self.client().await)
            .await
            .unwrap();
        entries
            .ids
            .iter()
            .map(|entry| {
                let id: String = entry.get("id").unwrap();
                let event = Event::from_json(&entry.get::<String>("event").unwrap()).unwrap();
                assert_eq!(
                    event.metadata.event_id.map(|id| id.to_string()).as_ref(),
                    Some(&id)
                );
                Received {
                    event_id: id,
                    key: entry.get("key"),
                }
            })
            .collect()
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
        Some(REDIS_MAX_STRING)
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("redis:///events", "host"),
            ("redis://u:hunter2@h", "stream"),
            ("redis://u:hunter2@h/", "stream"),
            ("redis://u:hunter2@h/1/", "stream"),
            ("redis://u:hunter2@h/a/b", "number"),
            ("redis://u:hunter2@h/1/b/c", "path"),
            ("redis://hunter2@h/a", "password"),
            ("redis://u:hunter2@h:123456/a", "port"),
            ("redis://u:hunter2@h/a?max=1", "unknown parameter"),
            ("redis://u:hunter2@h/a?maxlen=many", "maxlen"),
            ("redis://u:hunter2@h/a?maxlen=0", "maxlen"),
            ("redis://u:hunter2@h/a?tls_ca=f", "rediss"),
            ("rediss://u:hunter2@h/a?tls_ca=/no/file", "/no/file"),
            ("rediss://u:hunter2@h/a#x", "#"),
        ]
    }
}
