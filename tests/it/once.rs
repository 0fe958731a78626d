//! Each event is with its receiver once, also beyond what the receiver remembers by itself: after a crash between a
//! delivery and the note of it, and after an answer that was lost.

use crate::support::{
    conformance::{self, Target},
    target_kafka::{KafkaTarget, Noida, Tansu},
    target_nats::NatsTarget,
    target_redis::RedisTarget,
};
use futures_util::FutureExt as _;
use serde_json::json;
use std::{collections::HashSet, path::Path, time::Duration};
use temporal_eventstore::{
    Event, EventStore,
    sink::{Delivered, Sink, SinkEvent},
};

/// Longer than two calls of a sink: that of Kafka may read for 8 seconds what the topic has, and take 18 in all.
const TIMEOUT: Duration = Duration::from_secs(40);
/// For how long the stream of NATS remembers message ids.
const WINDOW: Duration = Duration::from_secs(1);
/// What others write while a program is away: more than one page of a look.
const OTHERS: usize = 1_100;

async fn nats() -> NatsTarget {
    let target = NatsTarget::begin().await;
    target.make_stream(WINDOW).await;
    target
}

async fn open(journal: &Path, url: &str) -> EventStore {
    EventStore::builder()
        .store(url)
        .journal(journal)
        .build()
        .await
        .unwrap()
}

async fn publish(events: &EventStore, count: usize) {
    for number in 0..count {
        drop(events.publish(Event::new("test.event").data(json!({ "number": number }))));
    }
    events.flush(TIMEOUT).await.unwrap();
}

/// Takes back what the journal noted of the last deliveries, as if the program had died before.
fn forget_deliveries(journal: &Path, events: usize) {
    let file = rusqlite::Connection::open(journal).unwrap();
    let changed = file.execute(
        "UPDATE cursors SET seq = seq - ?1 WHERE name LIKE 'sink %'",
        [events],
    );
    assert_eq!(changed, Ok(1));
}

async fn is_there_once(target: &impl Target, wanted: usize) {
    let received = target.received().await;
    let ids: HashSet<&str> = received.iter().map(|one| &*one.event_id).collect();
    assert_eq!((ids.len(), received.len()), (wanted, wanted));
}

/// A program dies before it notes what it delivered, and others write to the same place until it is back.
async fn after_a_crash(target: &impl Target) {
    let scratch = tempfile::tempdir().unwrap();
    let (own, others) = (
        scratch.path().join("own.db"),
        scratch.path().join("others.db"),
    );
    let events = open(&own, &target.url()).await;
    publish(&events, 40).await;
    events.shutdown(TIMEOUT).await.unwrap();
    forget_deliveries(&own, 30);
    let events = open(&others, &target.url()).await;
    publish(&events, OTHERS).await;
    events.shutdown(TIMEOUT).await.unwrap();
    tokio::time::sleep(WINDOW * 3 / 2).await;
    let events = open(&own, &target.url()).await;
    publish(&events, 5).await;
    events.shutdown(TIMEOUT).await.unwrap();
    is_there_once(target, 40 + OTHERS + 5).await;
}

#[tokio::test]
async fn nats_after_a_crash() {
    after_a_crash(&nats().await).await;
}

#[tokio::test]
async fn redis_after_a_crash() {
    after_a_crash(&RedisTarget::begin().await).await;
}

#[tokio::test]
async fn kafka_after_a_crash() {
    after_a_crash(&KafkaTarget::<Noida>::begin().await).await;
    after_a_crash(&KafkaTarget::<Tansu>::begin().await).await;
}

/// A part of a batch is there when the program dies, and what is not is delivered.
async fn half_a_batch(target: &impl Target) {
    let events = conformance::batch(1, 60);
    let deliver = async |sink: &dyn Sink, batch: &[SinkEvent]| {
        assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
    };
    let sink = target.open();
    sink.comes_from("one");
    deliver(&*sink, &events[..35]).await;
    drop(sink);
    // The same workflows' events from elsewhere, with positions of their own.
    let elsewhere = conformance::batch(1, 20);
    let other = target.open();
    other.comes_from("other");
    deliver(&*other, &elsewhere).await;
    tokio::time::sleep(WINDOW * 3 / 2).await;
    let sink = target.open();
    sink.comes_from("one");
    deliver(&*sink, &events[20..50]).await;
    // Found in the same look, and handed over later.
    deliver(&*sink, &events[50..]).await;
    is_there_once(target, 80).await;
}

#[tokio::test]
async fn nats_after_half_a_batch() {
    half_a_batch(&nats().await).await;
}

#[tokio::test]
async fn redis_after_half_a_batch() {
    half_a_batch(&RedisTarget::begin().await).await;
}

#[tokio::test]
async fn kafka_after_half_a_batch() {
    half_a_batch(&KafkaTarget::<Noida>::begin().await).await;
    half_a_batch(&KafkaTarget::<Tansu>::begin().await).await;
}

/// Calls are given up while their messages are on the way. The client sends these all the same.
#[tokio::test]
async fn kafka_after_calls_that_were_given_up() {
    let target = KafkaTarget::<Noida>::begin().await;
    let sink = target.open();
    sink.comes_from("one");
    let events = conformance::batch(1, 320);
    let (first, rest) = events.split_at(20);
    assert_eq!(sink.deliver(first).await, Ok(Delivered::all(first)));
    for batch in rest.chunks(30) {
        // The first poll hands them to the client.
        let call = sink.deliver(batch).now_or_never();
        assert_eq!(call, None);
        assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
    }
    is_there_once(&target, 320).await;
}

/// The server has the batch, and its answer does not arrive until it has forgotten the ids.
#[tokio::test]
async fn nats_after_a_lost_answer() {
    let (target, network) = NatsTarget::begin_behind_network().await;
    target.make_stream(WINDOW).await;
    let [server, before_it] = [target.port(), network.port()].map(|port| format!(":{port}/"));
    let sink = target.open_url(&target.url().replace(&server, &before_it));
    sink.comes_from("one");
    let events = conformance::batch(1, 60);
    assert_eq!(
        sink.deliver(&events[..20]).await,
        Ok(Delivered::all(&events[..20]))
    );
    network.lose_answers(true);
    let call = tokio::time::timeout(WINDOW / 2, sink.deliver(&events[20..])).await;
    assert!(call.is_err(), "{call:?}");
    network.lose_answers(false);
    tokio::time::sleep(WINDOW * 3 / 2).await;
    assert_eq!(
        sink.deliver(&events[20..]).await,
        Ok(Delivered::all(&events[20..]))
    );
    is_there_once(&target, 60).await;
}
