//! All sinks from end to end: one worker delivers to a real server of each at once (or, where none can be had, to a
//! stand-in that speaks the API) and each sink's own client counts what arrived; and an outage of half a minute under
//! load.

use crate::support::conformance::{Received, Target};
use crate::support::{
    Ground, Program, compare::compare, example, histories, target_dapr, target_http, target_kafka,
    target_nats, target_postgres, target_redis, target_segment,
};
use futures::future::join_all;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use temporal_eventstore::{Event, EventStore, event::lifecycle};

/// What a sink's server is here, besides.
#[allow(async_fn_in_trait, reason = "only the tests call it")]
trait EndToEnd: Target {
    /// What the URL needs besides.
    fn whole_url(&self) -> String {
        Target::url(self)
    }

    /// Takes the server away while events come in.
    async fn leave(&mut self) {
        self.stop().await;
    }

    async fn come_back(&mut self) {
        self.start().await;
    }

    /// Whether events of this name are delivered to it.
    fn takes(_event_name: &str) -> bool {
        true
    }
}

impl EndToEnd for target_postgres::PostgresTarget {}
impl EndToEnd for target_nats::NatsTarget {}
impl EndToEnd for target_redis::RedisTarget {}
impl EndToEnd for target_http::HttpTarget<target_http::Batched> {}
impl EndToEnd for target_dapr::DaprTarget<target_dapr::PubSub> {}

impl EndToEnd for target_dapr::DaprTarget<target_dapr::Binding> {
    fn whole_url(&self) -> String {
        format!("{}&eventstore.auth=BINDING", Target::url(self))
    }
}

impl EndToEnd for target_kafka::KafkaTarget<target_kafka::Noida> {
    // Ended while messages come in, it loses some that it has confirmed: a bare producer sees the
    // same, and that its sequence numbers are ahead of the broker's.
    async fn leave(&mut self) {
        self.pause().await;
    }

    async fn come_back(&mut self) {
        self.resume().await;
    }
}

impl EndToEnd for target_segment::SegmentTarget {
    fn takes(event_name: &str) -> bool {
        ["workflow_", "activity_"]
            .iter()
            .any(|lifecycle| event_name.starts_with(lifecycle))
    }
}

/// Any of them.
#[async_trait::async_trait(?Send)]
trait AnyTarget {
    fn name(&self) -> &'static str;
    fn url(&self) -> String;
    fn dedupes(&self) -> bool;
    fn takes(&self, event_name: &str) -> bool;
    async fn leave(&mut self);
    async fn come_back(&mut self);
    async fn received(&self) -> Vec<Received>;
}

#[async_trait::async_trait(?Send)]
impl<T: EndToEnd> AnyTarget for T {
    fn name(&self) -> &'static str {
        std::any::type_name::<T>()
    }

    fn url(&self) -> String {
        EndToEnd::whole_url(self)
    }

    fn dedupes(&self) -> bool {
        T::DEDUPES
    }

    fn takes(&self, event_name: &str) -> bool {
        T::takes(event_name)
    }

    async fn leave(&mut self) {
        EndToEnd::leave(self).await;
    }

    async fn come_back(&mut self) {
        EndToEnd::come_back(self).await;
    }

    async fn received(&self) -> Vec<Received> {
        Target::received(self).await
    }
}

async fn begin<T: EndToEnd + 'static>() -> Box<dyn AnyTarget> {
    Box::new(T::begin().await)
}

/// One of each but a binding of Dapr, which asks for a token.
async fn targets() -> Vec<Box<dyn AnyTarget>> {
    vec![
        begin::<target_postgres::PostgresTarget>().await,
        begin::<target_nats::NatsTarget>().await,
        begin::<target_redis::RedisTarget>().await,
        begin::<target_http::HttpTarget<target_http::Batched>>().await,
        begin::<target_dapr::DaprTarget<target_dapr::PubSub>>().await,
        begin::<target_segment::SegmentTarget>().await,
        begin::<target_kafka::KafkaTarget<target_kafka::Noida>>().await,
    ]
}

const ORDERS: usize = 200;
/// An `Order` has a start and an end, three activities of which one runs twice, each with a start and an
/// end, and an event that an activity publishes.
const EVENTS_PER_ORDER: usize = 2 + 4 * 2 + 1;
/// The worker's own start and end.
const EVENTS_OF_WORKER: usize = 2;

/// Runs the starter until all orders are through.
async fn start_orders(ground: &Ground) {
    let mut starter = example("starter");
    let count = ORDERS.to_string();
    starter
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .args([
            "--workflow",
            "Order",
            "--count",
            &count,
            "--concurrency",
            "20",
            "--wait",
        ]);
    let output = tokio::task::spawn_blocking(move || starter.output())
        .await
        .unwrap()
        .unwrap();
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(line.contains(&format!("\"completed\":{ORDERS}")), "{line}");
}

/// The ids in the lines that a worker wrote to its standard output, which has no server.
fn written(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| *line != "ready");
    let ids = lines.map(|line| Event::from_json(line).unwrap().metadata.event_id.unwrap());
    ids.map(|id| id.to_string()).collect()
}

// The stand-ins must go on while programs are waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_orders_arrive_everywhere() {
    let ground = Ground::new().await;
    let mut targets = targets().await;
    targets.push(begin::<target_dapr::DaprTarget<target_dapr::Binding>>().await);
    let mut urls: Vec<_> = targets.iter().map(|target| target.url()).collect();
    urls.push("stdout:".to_owned());
    let output = ground.directory.path().join("output");
    let mut worker = example("worker");
    worker
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", urls.join(","))
        .env("EVENTSTORE_AUTH_BINDING_TOKEN", target_dapr::TOKEN)
        .env("EVENTSTORE_JOURNAL", ground.file())
        .stdout(std::fs::File::create(&output).unwrap());
    let worker = Program(worker.spawn().unwrap());
    start_orders(&ground).await;
    // It ends when the sinks have everything.
    let ended = tokio::task::spawn_blocking(move || worker.terminate());
    assert!(ended.await.unwrap().success());

    let rows = ground.events();
    assert_eq!(rows.len(), ORDERS * EVENTS_PER_ORDER + EVENTS_OF_WORKER);
    let client = ground.client().await;
    let differences = compare(&histories(&ground, &client).await, &rows);
    assert!(differences.is_empty(), "{differences}");
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    for target in &targets {
        let taken = rows.iter().filter(|row| target.takes(&row.event_name));
        let taken: Vec<_> = taken.map(|row| row.event_id.clone()).collect();
        let received = target.received().await;
        assert_eq!(received.len(), taken.len(), "{}", target.name());
        let received = received.into_iter().map(|event| event.event_id).collect();
        let same = sorted(received) == sorted(taken);
        assert!(same, "{}: others arrived", target.name());
    }
    let lines = written(&std::fs::read_to_string(output).unwrap());
    let stored = rows.iter().map(|row| row.event_id.clone()).collect();
    assert!(sorted(lines) == sorted(stored), "standard output");
}

/// How long the servers are away; so long is no retry within a call.
const OUTAGE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_minute_away() {
    let directory = tempfile::tempdir().unwrap();
    let mut targets = targets().await;
    let mut builder = EventStore::builder().journal(directory.path().join("journal.db"));
    for target in &targets {
        builder = builder.store(target.url());
    }
    let events = builder.build().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (events, stop) = (events.clone(), stop.clone());
        async move {
            let mut published = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // One that every sink takes, and one of an application.
                for (name, event) in [
                    ("workflow_start", lifecycle::workflow_start()),
                    ("load.event", Event::new("load.event")),
                ] {
                    let event = event
                        .data(serde_json::json!({ "number": published.len() }))
                        .metadata("padding", "x".repeat(300));
                    let receipt = events.publish(event).await.unwrap();
                    published.push((name, receipt.event_id().unwrap().to_string()));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            published
        }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    join_all(targets.iter_mut().map(|target| target.leave())).await;
    tokio::time::sleep(OUTAGE).await;
    join_all(targets.iter_mut().map(|target| target.come_back())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let published = load.await.unwrap();
    events.shutdown(Duration::from_secs(90)).await.unwrap();
    for target in &targets {
        let received = target.received().await;
        let arrived: BTreeSet<&str> = received
            .iter()
            .map(|event| event.event_id.as_str())
            .collect();
        let meant = published.iter().filter(|(name, _)| target.takes(name));
        let meant: BTreeSet<&str> = meant.map(|(_, id)| id.as_str()).collect();
        println!(
            "{}: {} published, {} arrived, {} more than once",
            target.name(),
            meant.len(),
            arrived.len(),
            received.len() - arrived.len()
        );
        assert!(arrived == meant, "{}: others arrived", target.name());
        if target.dedupes() {
            assert_eq!(received.len(), arrived.len(), "{}", target.name());
        }
    }
}
