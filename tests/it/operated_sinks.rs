//! What an operator does to real servers: a failover, a right that is taken and given back, a new password.

use crate::support::{
    conformance::Received,
    kafka_broker::free_port,
    servers::{DATABASE, PASSWORD, Server, USER},
};
use redis::{
    ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, aio::MultiplexedConnection,
    streams::StreamRangeReply,
};
use std::{path::PathBuf, sync::Arc};
use temporal_eventstore::{
    sink::{self, Sink},
    testing::conformance::OperatedSink,
};
use tokio_postgres::{Client, NoTls};

mod postgres {
    temporal_eventstore::sink_conformance!(operated super::Postgres);
}

mod redis_streams {
    temporal_eventstore::sink_conformance!(operated super::Redis);
}

mod nats {
    temporal_eventstore::sink_conformance!(operated super::Nats);
}

/// The user of the sinks, and his passwords.
const WRITER: &str = "writer";
const FIRST: &str = "the first one";
const SECOND: &str = "the second one";

/// A file with the writer's password.
struct PasswordFile(tempfile::TempDir);

impl PasswordFile {
    fn new() -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        file.write(FIRST);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("password")
    }

    fn write(&self, password: &str) {
        std::fs::write(self.path(), password).unwrap();
    }
}

fn at(servers: &[Server]) -> String {
    let hosts = servers.iter();
    let hosts: Vec<_> = hosts
        .map(|server| format!("127.0.0.1:{}", server.port()))
        .collect();
    hosts.join(",")
}

/// A primary and a standby that follows it.
struct Postgres {
    servers: Vec<Server>,
    password: PasswordFile,
    hosts: String,
}

impl Postgres {
    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.servers[0].port())
            .user(USER)
            .password(PASSWORD)
            .dbname(DATABASE)
            .connect(NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    async fn run(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.unwrap();
    }
}

impl OperatedSink for Postgres {
    const DEDUPES: bool = true;

    async fn begin() -> Self {
        let primary = Server::postgres();
        let standby = Server::postgres_standby_of(&primary);
        let servers = vec![primary, standby];
        let this = Self {
            hosts: at(&servers),
            servers,
            password: PasswordFile::new(),
        };
        this.run(&format!(
            "CREATE ROLE {WRITER} LOGIN PASSWORD '{FIRST}'; GRANT CREATE ON SCHEMA public TO {WRITER}"
        ))
        .await;
        this
    }

    fn open(&self) -> Arc<dyn Sink> {
        let (hosts, file) = (&self.hosts, self.password.path());
        let file = file.display();
        let url = format!("postgres://{WRITER}@{hosts}/{DATABASE}?password_file={file}");
        sink::open(&url).unwrap()
    }

    async fn received(&self) -> Vec<Received> {
        let query = "SELECT event_id::text, event_key FROM events ORDER BY seq";
        let rows = self.client().await.query(query, &[]).await.unwrap();
        let received = rows.iter().map(|row| Received {
            event_id: row.get(0),
            key: row.get(1),
        });
        received.collect()
    }

    async fn fail_over(&mut self) {
        // It ends when the standby has everything.
        self.servers[0].stop();
        self.servers.remove(0);
        self.run("SELECT pg_promote()").await;
    }

    async fn permit(&mut self, permits: bool) {
        self.run(&match permits {
            true => format!("GRANT INSERT ON events TO {WRITER}"),
            false => format!("REVOKE INSERT ON events FROM {WRITER}"),
        })
        .await;
    }

    async fn rotate_credential(&mut self) {
        self.password.write(SECOND);
        self.run(&format!(
            "ALTER ROLE {WRITER} PASSWORD '{SECOND}'; \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{WRITER}'"
        ))
        .await;
    }
}

const STREAM: &str = "orders";

/// A primary and its replica.
struct Redis {
    servers: Vec<Server>,
    password: PasswordFile,
    hosts: String,
}

impl Redis {
    async fn client(server: &Server) -> MultiplexedConnection {
        let login = RedisConnectionInfo::default().set_password(PASSWORD);
        let address = ConnectionAddr::Tcp("127.0.0.1".into(), server.port())
            .into_connection_info()
            .unwrap()
            .set_redis_settings(login);
        let client = redis::Client::open(address).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Tells every server.
    async fn tell(&self, command: &[&str]) {
        for server in &self.servers {
            redis::cmd(command[0])
                .arg(&command[1..])
                .query_async::<redis::Value>(&mut Self::client(server).await)
                .await
                .unwrap();
        }
    }
}

impl OperatedSink for Redis {
    const DEDUPES: bool = true;

    async fn begin() -> Self {
        let servers = vec![Server::redis(), Server::redis()];
        let this = Self {
            hosts: at(&servers),
            servers,
            password: PasswordFile::new(),
        };
        let password = format!(">{FIRST}");
        this.tell(&[
            "ACL", "SETUSER", WRITER, "on", &password, "~orders", "+@all",
        ])
        .await;
        let port = this.servers[0].port().to_string();
        let mut replica = Self::client(&this.servers[1]).await;
        redis::cmd("REPLICAOF")
            .arg(&["127.0.0.1", &port])
            .query_async::<()>(&mut replica)
            .await
            .unwrap();
        loop {
            let info: String = redis::cmd("INFO")
                .arg("replication")
                .query_async(&mut replica)
                .await
                .unwrap();
            if info.contains("master_link_status:up") {
                return this;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn open(&self) -> Arc<dyn Sink> {
        let (hosts, file) = (&self.hosts, self.password.path());
        let url = format!(
            "redis://{WRITER}@{hosts}/{STREAM}?password_file={}",
            file.display()
        );
        sink::open(&url).unwrap()
    }

    async fn received(&self) -> Vec<Received> {
        let entries: StreamRangeReply = redis::cmd("XRANGE")
            .arg(&[STREAM, "-", "+"])
            .query_async(&mut Self::client(&self.servers[0]).await)
            .await
            .unwrap();
        let received = entries.ids.iter().map(|entry| Received {
            event_id: entry.get("id").unwrap(),
            key: entry.get("key"),
        });
        received.collect()
    }

    async fn fail_over(&mut self) {
        // It ends when its replica has everything.
        self.servers[0].stop();
        self.servers.remove(0);
        self.tell(&["REPLICAOF", "NO", "ONE"]).await;
    }

    async fn permit(&mut self, permits: bool) {
        let right = if permits { "+xadd" } else { "-xadd" };
        self.tell(&["ACL", "SETUSER", WRITER, right]).await;
    }

    async fn rotate_credential(&mut self) {
        self.password.write(SECOND);
        let password = format!(">{SECOND}");
        self.tell(&["ACL", "SETUSER", WRITER, "resetpass", &password])
            .await;
        self.tell(&["CLIENT", "KILL", "USER", WRITER]).await;
    }
}

/// Three servers that replicate what they have.
struct Nats {
    servers: Vec<Server>,
    routes: Vec<u16>,
    password: PasswordFile,
    hosts: String,
}

impl Nats {
    fn configuration(routes: &[u16], index: usize, password: &str, permits: bool) -> String {
        let urls: Vec<_> = routes
            .iter()
            .map(|port| format!("nats-route://127.0.0.1:{port}"))
            .collect();
        let forbidden = if permits { "" } else { "\"orders\"" };
        format!(
            "server_name: n{index}\njetstream {{ store_dir: \"DIRECTORY/jetstream\" }}\n\
             cluster {{ name: orders, listen: \"127.0.0.1:{}\", routes: [{}] }}\n\
             authorization {{ users: [\n\
             {{ user: {USER}, password: \"{PASSWORD}\" }}\n\
             {{ user: {WRITER}, password: \"{password}\", \
             permissions: {{ publish: {{ deny: [{forbidden}] }} }} }}\n] }}\n",
            routes[index],
            urls.join(", ")
        )
    }

    fn reconfigure(&mut self, password: &str, permits: bool) {
        for (index, server) in self.servers.iter_mut().enumerate() {
            let text = Self::configuration(&self.routes, index, password, permits);
            server.reconfigure(&text);
        }
        // Servers read it when they get to it.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

impl OperatedSink for Nats {
    const DEDUPES: bool = true;

    async fn begin() -> Self {
        let routes = vec![free_port(), free_port(), free_port()];
        let servers: Vec<_> = (0..3)
            .map(|index| Server::nats_of(&Self::configuration(&routes, index, FIRST, true)))
            .collect();
        Self {
            hosts: at(&servers),
            servers,
            routes,
            password: PasswordFile::new(),
        }
    }

    fn open(&self) -> Arc<dyn Sink> {
        let (hosts, file) = (&self.hosts, self.password.path());
        let url = format!(
            "nats://{WRITER}@{hosts}/orders?replicas=3&password_file={}",
            file.display()
        );
        sink::open(&url).unwrap()
    }

    async fn received(&self) -> Vec<Received> {
        let client =
            async_nats::ConnectOptions::with_user_and_password(USER.into(), PASSWORD.into())
                .connect(format!("127.0.0.1:{}", self.servers[0].port()))
                .await
                .unwrap();
        let stream = async_nats::jetstream::new(client)
            .get_stream("orders")
            .await;
        let stream = stream.unwrap();
        let mut received = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let header = |name: &str| message.headers.get(name).map(ToString::to_string);
            received.push(Received {
                event_id: header("Nats-Msg-Id").unwrap(),
                key: header("ce-partitionkey"),
            });
        }
        received
    }

    async fn fail_over(&mut self) {
        self.servers[0].stop();
        self.servers.remove(0);
    }

    async fn permit(&mut self, permits: bool) {
        self.reconfigure(FIRST, permits);
    }

    async fn rotate_credential(&mut self) {
        self.password.write(SECOND);
        self.reconfigure(SECOND, true);
    }
}
