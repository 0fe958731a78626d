//! The PostgreSQL sink for the conformance suite.

use crate::support::{
    conformance::{Received, Target},
    servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER},
};
use temporal_eventstore::Event;
use tokio_postgres::{Client, Config, NoTls};

pub struct PostgresTarget {
    server: Server,
}

/// A client of the server's owner.
pub async fn client(server: &Server) -> Client {
    let (client, connection) = Config::new()
        .host("127.0.0.1")
        .port(server.port())
        .user(USER)
        .password(PASSWORD)
        .dbname(DATABASE)
        .connect(NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

impl PostgresTarget {
    pub async fn client(&self) -> Client {
        client(&self.server).await
    }

    fn url_with(&self, password: &str) -> String {
        let port = self.server.port();
        format!("postgres://{USER}:{password}@127.0.0.1:{port}/{DATABASE}?table=workflow_events")
    }
}

impl Target for PostgresTarget {
    const DEDUPES: bool = true;
    const SECRETS: &'static [&'static str] = &[PASSWORD, PASSWORD_IN_URL, "hunter2"];

    async fn begin() -> Self {
        Self {
            server: Server::postgres(),
        }
    }

    fn url(&self) -> String {
        self.url_with(PASSWORD_IN_URL)
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        Some(self.url_with("hunter2"))
    }

    async fn received(&self) -> Vec<Received> {
        self.client()
            .await
            .query(
                "SELECT event_id::text, event_key FROM workflow_events ORDER BY seq",
                &[],
            )
            .await
            .unwrap()
            .iter()
            .map(|row| Received {
                event_id: row.get(0),
                key: row.get(1),
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

    async fn refuse_all(&mut self, refuses: bool) -> bool {
        // As a migration may do that went wrong.
        let change = match refuses {
            true => "ADD CONSTRAINT nobody CHECK (false) NOT VALID",
            false => "DROP CONSTRAINT nobody",
        };
        let change = format!("ALTER TABLE workflow_events {change}");
        self.client().await.batch_execute(&change).await.unwrap();
        true
    }

    fn poison() -> Option<Event> {
        // PostgreSQL keeps no NUL characters.
        Some(Event::new("poison").data(serde_json::json!({ "text": "a\0b" })))
    }

    fn oversize() -> Option<usize> {
        None
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("postgres:///db", "host"),
            ("postgres://u:hunter2@h", "database"),
            ("postgres://u:hunter2@h/", "database"),
            ("postgres://u:hunter2@h/a/b", "database"),
            ("postgres://h/db", "user"),
            ("postgres://u:hunter2@h:123456/db", "port"),
            ("postgres://u:hun/ter2@h/db", "percent-encoded"),
            ("postgres://u:hunter2@h/db?tables=x", "unknown parameter"),
            ("postgres://u:hunter2@h/db?table=a;b", "table"),
            ("postgres://u:hunter2@h/db?table=", "table"),
            ("postgres://u:hunter2@h/db?sslmode=maybe", "sslmode"),
            (
                "postgresql://u:hunter2@h/db?sslrootcert=/does/not/exist",
                "/does/not/exist",
            ),
            ("postgres://u:hunter2@h/db#x", "#"),
        ]
    }
}
