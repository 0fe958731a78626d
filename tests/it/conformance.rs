//! Every sink against its real server: the same promises for all of them.

use crate::support::conformance::Target as _;
use crate::support::{
    conformance, servers, target_nats, target_objects, target_postgres, target_redis,
};
use std::time::Duration;
use temporal_eventstore::sink::Delivered;

conformance::conformance!(nats, target_nats::NatsTarget);
// Its server ends each connection after one request.
conformance::conformance!(objects, target_objects::ObjectsTarget, without_network);
conformance::conformance!(postgres, target_postgres::PostgresTarget);
conformance::conformance!(redis, target_redis::RedisTarget);

/// The client lets 5000 messages be on their way, and then waits.
#[tokio::test]
async fn nats_takes_more_at_once_than_its_client_leaves_unacknowledged() {
    let target = target_nats::NatsTarget::begin().await;
    let events = conformance::batch(1, 6000);
    let sink = target.open();
    let delivered = tokio::time::timeout(Duration::from_secs(15), sink.deliver(&events));
    assert_eq!(delivered.await.unwrap().unwrap(), Delivered::all(&events));
    let stream = target.stream().await;
    assert_eq!(stream.cached_info().state.messages, events.len() as u64);
}

#[tokio::test]
#[ignore = "run by the one below, as a child process with an environment of its own"]
async fn checks_the_sink_of_its_environment() {
    let url = std::env::var("SINK_URL").unwrap();
    let sink = temporal_eventstore::sink::open(&url).unwrap();
    sink.check().await.unwrap();
}

#[test]
fn postgres_takes_its_password_from_the_environment() {
    let server = servers::Server::postgres();
    let reaches = |login: &str, password: &str| {
        let (port, database) = (server.port(), servers::DATABASE);
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "conformance::checks_the_sink_of_its_environment",
            ])
            .env(
                "SINK_URL",
                format!("postgres://{login}@127.0.0.1:{port}/{database}"),
            )
            .env("PGPASSWORD", password)
            .output()
            .unwrap()
            .status
            .success()
    };
    let (user, password) = (servers::USER, servers::PASSWORD_IN_URL);
    assert!(reaches(user, servers::PASSWORD));
    assert!(!reaches(user, "wrong"));
    // The URL's own password wins.
    assert!(reaches(&format!("{user}:{password}"), "wrong"));
}
