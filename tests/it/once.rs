//! Each event is with its receiver once, also beyond what the receiver remembers by itself: after a crash between a
//! delivery and the note of it, and after an answer that was lost.

use crate::support::{
    conformance::{self, Target},
    kafka_broker::read,
    proxy::Proxy,
    target_kafka::{KafkaTarget, Make, Noida, Tansu},
    target_nats::NatsTarget,
    target_redis::RedisTarget,
};
use async_nats::jetstream;
use futures_util::{FutureExt as _, TryStreamExt as _};
use redis::streams::StreamRangeReply;
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

/// A server with several targets, by the events' topic names.
trait Several: Target {
    fn by_topic(&self) -> String {
        let url = self.url();
        url.replace("orders.events", "orders.{topic_name}")
            .replace("orders:events", "orders:{topic_name}")
    }

    /// The ids in all of the targets.
    async fn ids(&self) -> Vec<String>;
}

const TOPICS: [&str; 3] = ["A", "B", "C"];

impl Several for NatsTarget {
    async fn ids(&self) -> Vec<String> {
        let context = self.context().await;
        let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
        let mut ids = Vec::new();
        for name in names {
            let stream = context.get_stream(&name).await.unwrap();
            for sequence in 1..=stream.cached_info().state.last_sequence {
                let message = stream.get_raw_message(sequence).await.unwrap();
                ids.push(message.headers.get("ce-id").unwrap().to_string());
            }
        }
        ids
    }
}

impl Several for RedisTarget {
    async fn ids(&self) -> Vec<String> {
        let mut client = self.client().await;
        let mut ids = Vec::new();
        for topic in TOPICS {
            let entries: StreamRangeReply = redis::cmd("XRANGE")
                .arg(&[&format!("orders:{topic}"), "-", "+"])
                .query_async(&mut client)
                .await
                .unwrap();
            let entries = entries.ids.iter();
            ids.extend(entries.map(|entry| entry.get::<String>("id").unwrap()));
        }
        ids
    }
}

impl<M: Make> Several for KafkaTarget<M> {
    async fn ids(&self) -> Vec<String> {
        let brokers = format!("127.0.0.1:{}", self.port());
        let read = move || TOPICS.map(|topic| read(&brokers, &format!("orders.{topic}")));
        let records = tokio::task::spawn_blocking(read).await.unwrap();
        let id = |record: &crate::support::kafka_broker::Record| {
            record.header("ce_id").unwrap().to_owned()
        };
        records.iter().flatten().map(id).collect()
    }
}

/// Two streams, one of them for two subjects, which forget message ids soon.
async fn nats_streams(target: &NatsTarget) {
    for (name, subjects) in [("a", vec!["orders.A"]), ("b", vec!["orders.B", "orders.C"])] {
        let config = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: subjects.into_iter().map(str::to_owned).collect(),
            duplicate_window: WINDOW,
            ..Default::default()
        };
        target.context().await.create_stream(config).await.unwrap();
    }
}

async fn are_there_once(target: &impl Several, wanted: usize) {
    let ids = target.ids().await;
    let each: HashSet<&String> = ids.iter().collect();
    assert_eq!((each.len(), ids.len()), (wanted, wanted));
}

async fn publish_to(topics: &[&str], events: &EventStore, count: usize) {
    for topic in topics.iter().cycle().take(count) {
        let event = Event::new("test.event").metadata("topic_name", *topic);
        drop(events.publish(event));
    }
    events.flush(TIMEOUT).await.unwrap();
}

/// As with one target: a crash, and others that write to the same places.
async fn several_after_a_crash(target: &impl Several) {
    let scratch = tempfile::tempdir().unwrap();
    let (own, others) = (
        scratch.path().join("own.db"),
        scratch.path().join("others.db"),
    );
    let url = target.by_topic();
    let events = open(&own, &url).await;
    publish_to(&TOPICS, &events, 40).await;
    events.shutdown(TIMEOUT).await.unwrap();
    forget_deliveries(&own, 30);
    let events = open(&others, &url).await;
    publish_to(&TOPICS[..2], &events, OTHERS).await;
    events.shutdown(TIMEOUT).await.unwrap();
    tokio::time::sleep(WINDOW * 3 / 2).await;
    let events = open(&own, &url).await;
    publish_to(&TOPICS, &events, 5).await;
    events.shutdown(TIMEOUT).await.unwrap();
    are_there_once(target, 40 + OTHERS + 5).await;
}

#[tokio::test]
async fn nats_streams_by_event_after_a_crash() {
    let target = NatsTarget::begin().await;
    nats_streams(&target).await;
    several_after_a_crash(&target).await;
}

#[tokio::test]
async fn redis_streams_by_event_after_a_crash() {
    several_after_a_crash(&RedisTarget::begin().await).await;
}

#[tokio::test]
async fn kafka_topics_by_event_after_a_crash() {
    several_after_a_crash(&KafkaTarget::<Noida>::begin().await).await;
}

fn by_topic(count: u64) -> Vec<SinkEvent> {
    let events = (1..=count).zip(TOPICS.iter().cycle());
    let event = |(position, topic): (u64, &&str)| {
        let mut event = conformance::event(position, "order-1").event().unwrap();
        event.metadata.topic_name = Some((*topic).to_owned());
        SinkEvent::new(position, &event).unwrap()
    };
    events.map(event).collect()
}

async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) {
    assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
}

/// The events of each topic by themselves.
async fn takes_each_topic(sink: &dyn Sink, batch: &[SinkEvent]) {
    for topic in TOPICS {
        let is_of = |event: &&SinkEvent| {
            event.event().unwrap().metadata.topic_name.as_deref() == Some(topic)
        };
        let events: Vec<SinkEvent> = batch.iter().filter(is_of).cloned().collect();
        takes(sink, &events).await;
    }
}

/// A batch is cut off, with a part of it there, and what comes again has events for one target after the other.
async fn several_after_a_lost_answer((target, network): (impl Several, Proxy)) {
    let [server, before_it] = [target.port(), network.port()].map(|port| format!(":{port}/"));
    let sink = target.open_url(&target.by_topic().replace(&server, &before_it));
    sink.comes_from("one");
    let events = by_topic(90);
    takes(&*sink, &events[..20]).await;
    network.lose_answers(true);
    let call = tokio::time::timeout(WINDOW / 2, sink.deliver(&events[20..60])).await;
    assert!(call.is_err(), "{call:?}");
    network.lose_answers(false);
    tokio::time::sleep(WINDOW * 3 / 2).await;
    takes_each_topic(&*sink, &events[20..70]).await;
    takes(&*sink, &events[70..80]).await;
    drop(sink);
    tokio::time::sleep(WINDOW * 3 / 2).await;
    // The same for a run that begins anew.
    let sink = target.open_url(&target.by_topic());
    sink.comes_from("one");
    takes_each_topic(&*sink, &events[60..]).await;
    are_there_once(&target, 90).await;
}

#[tokio::test]
async fn redis_streams_by_event_after_a_lost_answer() {
    several_after_a_lost_answer(RedisTarget::begin_behind_network().await).await;
}

/// What another sink of the same journal wrote to a subject that fits the template is not taken for the sink's own.
#[tokio::test]
async fn nats_events_on_another_subject_are_not_there() {
    let target = NatsTarget::begin().await;
    // One stream forgets their ids, so that it would take them again.
    target.make_stream(WINDOW).await;
    nats_streams(&target).await;
    let events = by_topic(30);
    let other = target.open();
    other.comes_from("one");
    takes(&*other, &events).await;
    let sink = target.open_url(&target.by_topic());
    sink.comes_from("one");
    takes(&*sink, &events).await;
    let ids = target.ids().await;
    assert_eq!(ids.len(), 60);
}
