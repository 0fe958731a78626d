//! Each sink from end to end: the example worker delivers to a real server (or, where none can be had,
//! to a stand-in that speaks the API) and the sink's own client counts what arrived; and an outage of
//! half a minute under load.

mod support;

#[path = "support/conformance.rs"]
#[allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "only its `Target` is used here"
)]
mod conformance;
#[path = "support/kafka_broker.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod kafka_broker;
#[path = "support/proxy.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod proxy;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stand_in.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod stand_in;
#[path = "support/target_dapr.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod target_dapr;
#[path = "support/target_http.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod target_http;
#[path = "support/target_kafka.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod target_kafka;
#[path = "support/target_nats.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod target_nats;
#[path = "support/target_postgres.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod target_postgres;
#[path = "support/target_redis.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod target_redis;

use conformance::Target;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use support::{Ground, compare::compare, example, histories, start_worker};
use temporal_eventstore::{Event, EventStore};

const ORDERS: usize = 200;
/// An `Order` has a start and an end, three activities of which one runs twice, each with a start and an
/// end, and an event that an activity publishes.
const EVENTS_PER_ORDER: usize = 2 + 4 * 2 + 1;
/// The worker's own start and end.
const EVENTS_OF_WORKER: usize = 2;

async fn orders_arrive<T: Target>() {
    let ground = Ground::new().await;
    let target = T::begin().await;
    let mut worker = example("worker");
    worker
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", target.url())
        .env("EVENTSTORE_JOURNAL", ground.file());
    let worker = start_worker(&mut worker);
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
    // It ends when the sink has everything.
    let ended = tokio::task::spawn_blocking(move || worker.terminate());
    assert!(ended.await.unwrap().success());

    let rows = ground.events();
    assert_eq!(rows.len(), ORDERS * EVENTS_PER_ORDER + EVENTS_OF_WORKER);
    let client = ground.client().await;
    let differences = compare(&histories(&ground, &client).await, &rows);
    assert!(differences.is_empty(), "{differences}");
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

async fn an_outage_under_load<T: Target>() {
    let directory = tempfile::tempdir().unwrap();
    let mut target = T::begin().await;
    let events = EventStore::builder()
        .url(target.url())
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
                let event = Event::new("load.event")
                    .data(serde_json::json!({ "number": ids.len() }))
                    .metadata("padding", "x".repeat(300));
                ids.push(events.publish(event).await.unwrap().to_string());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ids
        }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    target.stop().await;
    tokio::time::sleep(OUTAGE).await;
    target.start().await;
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
end_to_end!(kafka, target_kafka::KafkaTarget<target_kafka::Noida>);
