//! Each sink from end to end: the example worker delivers to a real server (or, where none can be had,
//! to a stand-in that speaks the API) and the sink's own client counts what arrived; and an outage of
//! half a minute under load.

use crate::support::conformance::Target;
use crate::support::{
    self, Ground, compare::compare, example, histories, start_worker, target_dapr, target_http,
    target_kafka, target_nats, target_postgres, target_redis, target_segment,
};
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
    /// What the worker needs in its environment besides the URL.
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[];

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

    /// One that it takes.
    fn event() -> Event {
        Event::new("load.event")
    }
}

impl EndToEnd for target_postgres::PostgresTarget {}
impl EndToEnd for target_nats::NatsTarget {}
impl EndToEnd for target_redis::RedisTarget {}
impl EndToEnd for target_http::HttpTarget<target_http::Batched> {}
impl EndToEnd for target_dapr::DaprTarget<target_dapr::PubSub> {}

impl EndToEnd for target_dapr::DaprTarget<target_dapr::Binding> {
    const ENVIRONMENT: &'static [(&'static str, &'static str)] =
        &[("EVENTSTORE_AUTH_TOKEN", target_dapr::TOKEN)];
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

    fn event() -> Event {
        lifecycle::workflow_start()
    }
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

async fn orders_arrive<T: EndToEnd>() {
    let ground = Ground::new().await;
    let target = T::begin().await;
    let mut worker = example("worker");
    worker
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", target.url())
        .env("EVENTSTORE_JOURNAL", ground.file())
        .envs(T::ENVIRONMENT.iter().copied());
    let worker = start_worker(&mut worker);
    start_orders(&ground).await;
    // It ends when the sink has everything.
    let ended = tokio::task::spawn_blocking(move || worker.terminate());
    assert!(ended.await.unwrap().success());

    let mut rows = ground.events();
    assert_eq!(rows.len(), ORDERS * EVENTS_PER_ORDER + EVENTS_OF_WORKER);
    let client = ground.client().await;
    let differences = compare(&histories(&ground, &client).await, &rows);
    assert!(differences.is_empty(), "{differences}");
    rows.retain(|row| T::takes(&row.event_name));
    let received = target.received().await;
    assert_eq!(received.len(), rows.len());
    let ids = |ids: Vec<String>| ids.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(
        ids(received.into_iter().map(|event| event.event_id).collect()),
        ids(rows.into_iter().map(|row| row.event_id).collect())
    );
}

/// How long the server is away; so long is no retry within a call.
const OUTAGE: Duration = Duration::from_secs(30);

async fn an_outage_under_load<T: EndToEnd>() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = T::begin().await;
    let events = EventStore::builder()
        .store(target.url())
        .journal(directory.path().join("journal.db"))
        .build()
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (events, stop) = (events.clone(), stop.clone());
        async move {
            let mut ids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let event = T::event()
                    .data(serde_json::json!({ "number": ids.len() }))
                    .metadata("padding", "x".repeat(300));
                ids.push(
                    events
                        .publish(event)
                        .await
                        .unwrap()
                        .event_id()
                        .unwrap()
                        .to_string(),
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ids
        }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    target.leave().await;
    tokio::time::sleep(OUTAGE).await;
    target.come_back().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let published = load.await.unwrap();
    events.shutdown(Duration::from_secs(90)).await.unwrap();
    let received = target.received().await;
    let arrived: BTreeSet<&str> = received
        .iter()
        .map(|event| event.event_id.as_str())
        .collect();
    let missing = published
        .iter()
        .filter(|id| !arrived.contains(id.as_str()))
        .count();
    println!(
        "{}: {} published, {} arrived, {missing} missing, {} more than once",
        std::any::type_name::<T>(),
        published.len(),
        arrived.len(),
        received.len() - arrived.len()
    );
    assert_eq!(missing, 0);
    assert_eq!(arrived.len(), published.len());
    if T::DEDUPES {
        assert_eq!(received.len(), arrived.len());
    }
}

macro_rules! end_to_end {
    ($module:ident, $target:ty) => {
        mod $module {
            use super::*;

            // The stand-ins must go on while programs are waited for.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn two_hundred_orders() {
                orders_arrive::<$target>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn half_a_minute_away() {
                an_outage_under_load::<$target>().await;
            }
        }
    };
}

end_to_end!(postgres, target_postgres::PostgresTarget);
end_to_end!(nats, target_nats::NatsTarget);
end_to_end!(redis, target_redis::RedisTarget);
end_to_end!(http, target_http::HttpTarget<target_http::Batched>);
end_to_end!(dapr, target_dapr::DaprTarget<target_dapr::PubSub>);
end_to_end!(segment, target_segment::SegmentTarget);
end_to_end!(kafka, target_kafka::KafkaTarget<target_kafka::Noida>);

// What comes back is as for the other component.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_orders_through_a_binding_of_dapr() {
    orders_arrive::<target_dapr::DaprTarget<target_dapr::Binding>>().await;
}

/// Standard output has no server: the worker's own is read.
#[tokio::test]
async fn two_hundred_orders_as_lines() {
    let ground = Ground::new().await;
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("output");
    let mut worker = example("worker");
    worker
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", "stdout:")
        .env("EVENTSTORE_JOURNAL", ground.file())
        .stdout(std::fs::File::create(&output).unwrap());
    let worker = support::Program(worker.spawn().unwrap());
    start_orders(&ground).await;
    let ended = tokio::task::spawn_blocking(move || worker.terminate());
    assert!(ended.await.unwrap().success());

    let text = std::fs::read_to_string(output).unwrap();
    let lines = text.lines().filter(|line| *line != "ready");
    let mut written: Vec<_> = lines
        .map(|line| {
            Event::from_json(line)
                .unwrap()
                .metadata
                .event_id
                .unwrap()
                .to_string()
        })
        .collect();
    let mut stored: Vec<_> = ground
        .events()
        .into_iter()
        .map(|row| row.event_id)
        .collect();
    assert_eq!(stored.len(), ORDERS * EVENTS_PER_ORDER + EVENTS_OF_WORKER);
    written.sort();
    stored.sort();
    assert_eq!(written, stored);
}
