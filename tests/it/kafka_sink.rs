//! The Kafka sink: the promises of every sink against two brokers, and what is its own, with a
//! cluster that fails on demand.

use crate::support::conformance::batch;
use crate::support::kafka_broker::{Broker, Kind, read};
use crate::support::{conformance, target_kafka};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use temporal_eventstore::sink::{self, Delivered, Sink, SinkEvent};

conformance::conformance!(
    noida,
    target_kafka::KafkaTarget<target_kafka::Noida>,
    without_network
);
conformance::conformance!(tansu, target_kafka::KafkaTarget<target_kafka::Tansu>);

const TOPIC: &str = "orders";

/// One broker that does as it is told, with a topic of one partition.
fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    cluster
}

fn open(cluster: &MockCluster<'static, DefaultProducerContext>) -> Arc<dyn Sink> {
    let brokers = cluster.bootstrap_servers();
    sink::open(&format!("kafka://{brokers}/{TOPIC}?timeout=4s")).unwrap()
}

/// The ids in a cluster, in the order of its partition.
async fn ids_in(cluster: &MockCluster<'static, DefaultProducerContext>) -> Vec<String> {
    let brokers = cluster.bootstrap_servers();
    tokio::task::spawn_blocking(move || read(&brokers, TOPIC))
        .await
        .unwrap()
        .iter()
        .map(|record| record.header("ce_id").unwrap().to_owned())
        .collect()
}

fn ids(events: &[SinkEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| event.event_id.to_string())
        .collect()
}

#[tokio::test]
async fn a_message_is_the_kafka_binding_in_binary_mode() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 3);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    let brokers = cluster.bootstrap_servers();
    let records = tokio::task::spawn_blocking(move || read(&brokers, TOPIC))
        .await
        .unwrap();
    for (record, event) in records.iter().zip(&events) {
        let cloud_event = event.event().unwrap().to_cloud_event().unwrap();
        assert_eq!(record.payload, event.json);
        assert_eq!(record.key.as_deref(), event.key());
        for (name, value) in [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", &cloud_event.id),
            ("ce_source", &cloud_event.source),
            ("ce_type", &cloud_event.event_type),
            ("ce_subject", cloud_event.subject.as_deref().unwrap()),
            ("ce_time", cloud_event.time.as_deref().unwrap()),
            ("ce_sequence", cloud_event.sequence.as_deref().unwrap()),
        ] {
            assert_eq!(record.header(name), Some(value), "{name}");
        }
    }
    assert_eq!(records.len(), 3);
}

#[tokio::test]
async fn a_set_that_is_too_large_goes_out_one_by_one() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 40);
    sink.deliver(&events[..10]).await.unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    let rest = &events[10..];
    assert_eq!(sink.deliver(rest).await.unwrap(), Delivered::all(rest));
    // A real broker refuses what was on its way behind the refused set, by its sequence; this one
    // takes it, so that some are there twice. What counts is that they come again in order.
    let found = ids_in(&cluster).await;
    let last: Vec<_> = (0..found.len())
        .filter(|index| !found[index + 1..].contains(&found[*index]))
        .map(|index| found[index].clone())
        .collect();
    assert_eq!(last, ids(&events));
}

#[tokio::test]
async fn a_message_that_the_broker_finds_too_large_is_rejected_alone() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 10);
    sink.deliver(&events[..5]).await.unwrap();
    // As a set of one, and then by itself.
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2],
    );
    let delivered = sink.deliver(&events[5..6]).await.unwrap();
    assert_eq!(delivered.taken, 1);
    assert_eq!(delivered.rejected[0].index, 0);
    assert!(
        delivered.rejected[0].reason.contains("too large"),
        "{delivered:?}"
    );
    sink.deliver(&events[6..]).await.unwrap();
    let mut found = ids(&events);
    found.remove(5);
    assert_eq!(ids_in(&cluster).await, found);
}

/// Events of a workflow each, in all partitions of a topic.
fn of_many_workflows(count: u64) -> Vec<SinkEvent> {
    (1..=count)
        .map(|position| conformance::event(position, &format!("order-{position}")))
        .collect()
}

#[tokio::test]
async fn a_refused_set_is_found_behind_what_it_takes_with_it() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 12, 1).unwrap();
    let sink = open(&cluster);
    let events = of_many_workflows(120);
    sink.deliver(&events[..1]).await.unwrap();
    // The first set that comes; those of other partitions wait and are given up by the client.
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    let rest = &events[1..];
    assert_eq!(sink.deliver(rest).await.unwrap(), Delivered::all(rest));
    let found: BTreeSet<_> = ids_in(&cluster).await.into_iter().collect();
    assert_eq!(found.len(), events.len());
}

#[tokio::test]
async fn what_arrived_beside_a_partition_that_is_away_is_not_sent_again() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, 2, 1).unwrap();
    let sink = open(&cluster);
    let events = of_many_workflows(40);
    sink.deliver(&events[..1]).await.unwrap();
    // The partition of the next event is away, with the broker that leads it.
    let away = partition_of(&cluster, &events[1]).await;
    cluster.partition_leader(TOPIC, away, Some(2)).unwrap();
    cluster.partition_leader(TOPIC, 1 - away, Some(1)).unwrap();
    cluster.broker_down(2).unwrap();
    let rest = &events[1..];
    for _ in 0..2 {
        sink.deliver(rest).await.unwrap_err();
    }
    cluster.broker_up(2).unwrap();
    assert_eq!(sink.deliver(rest).await.unwrap(), Delivered::all(rest));
    let mut found = ids_in(&cluster).await;
    found.sort();
    let mut wanted = ids(&events);
    wanted.sort();
    assert_eq!(found, wanted, "each once");
}

/// Where an event belongs: another topic of the same cluster and as many partitions tells.
async fn partition_of(
    cluster: &MockCluster<'static, DefaultProducerContext>,
    event: &SinkEvent,
) -> i32 {
    cluster.create_topic("like-it", 2, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let sink = sink::open(&format!("kafka://{brokers}/like-it?timeout=4s")).unwrap();
    sink.deliver(std::slice::from_ref(event)).await.unwrap();
    tokio::task::spawn_blocking(move || read(&brokers, "like-it"))
        .await
        .unwrap()[0]
        .partition
}

#[tokio::test]
async fn what_the_client_can_try_again_is_not_seen() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 30);
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        ],
    );
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(ids_in(&cluster).await, ids(&events));
}

#[tokio::test]
async fn what_the_broker_forbids_is_an_error_and_passes() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 10);
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(!error.reason().is_empty());
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(ids_in(&cluster).await, ids(&events));
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_no_fault_of_the_event() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 10);
    sink.deliver(&events[..5]).await.unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP; 12],
    );
    let error = sink.deliver(&events[5..]).await.unwrap_err();
    assert!(error.reason().contains("timestamp"), "{error}");
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    let rest = &events[5..];
    assert_eq!(sink.deliver(rest).await.unwrap(), Delivered::all(rest));
    assert_eq!(ids_in(&cluster).await, ids(&events));
}

#[tokio::test]
async fn a_topic_that_was_deleted_is_made_again() {
    // Tansu acknowledges what it gets for a topic that it has deleted.
    let broker = Broker::start(Kind::Noida);
    let address = broker.address();
    let url = format!("kafka://{address}/gone?partitions=2&replication=1&timeout=4s");
    let sink = sink::open(&url).unwrap();
    let events = batch(1, 20);
    sink.deliver(&events[..10]).await.unwrap();
    let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &address)
        .create()
        .unwrap();
    let deleted = admin.delete_topics(&["gone"], &AdminOptions::new()).await;
    deleted.unwrap()[0].as_ref().unwrap();
    let rest = &events[10..];
    let started = Instant::now();
    while let Err(error) = sink.deliver(rest).await {
        assert!(started.elapsed() < Duration::from_secs(30), "{error}");
    }
    let found = tokio::task::spawn_blocking(move || read(&address, "gone"));
    assert_eq!(found.await.unwrap().len(), rest.len());
}

#[tokio::test]
async fn sets_are_compressed() {
    let mut compressions = vec!["gzip", "lz4", "snappy"];
    if cfg!(feature = "kafka-zstd") {
        compressions.push("zstd");
    } else {
        let error = sink::open("kafka://h/t?compression=zstd").unwrap_err();
        assert!(error.reason.contains("`kafka-zstd`"), "{error}");
    }
    for compression in compressions {
        let cluster = cluster();
        let brokers = cluster.bootstrap_servers();
        let url = format!(
            "kafka://{brokers}/{TOPIC}?timeout=4s&compression={compression}&property.linger.ms=20"
        );
        let sink = sink::open(&url).unwrap();
        let events = batch(1, 50);
        assert_eq!(
            sink.deliver(&events).await.unwrap(),
            Delivered::all(&events),
            "{compression}"
        );
        assert_eq!(ids_in(&cluster).await, ids(&events), "{compression}");
    }
}

#[tokio::test]
async fn a_broker_that_is_down_or_slow_is_an_error_in_time() {
    let cluster = cluster();
    let sink = open(&cluster);
    let events = batch(1, 10);
    sink.deliver(&events[..5]).await.unwrap();
    cluster.broker_down(1).unwrap();
    let started = Instant::now();
    sink.deliver(&events[5..]).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(8));
    cluster.broker_up(1).unwrap();
    assert_eq!(
        sink.deliver(&events[5..]).await.unwrap(),
        Delivered::all(&events[5..])
    );
    cluster
        .broker_round_trip_time(1, Duration::from_secs(30))
        .unwrap();
    let started = Instant::now();
    sink.deliver(&batch(11, 5)).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_topic_is_made_with_the_partitions_that_the_url_says() {
    let broker = Broker::start(Kind::Tansu);
    let address = broker.address();
    let url = format!("kafka://{address}/made?partitions=5&replication=1");
    let sink = sink::open(&url).unwrap();
    let events = batch(1, 50);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    let partitions = tokio::task::spawn_blocking(move || {
        let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &address)
            .create()
            .unwrap();
        let metadata = admin
            .inner()
            .fetch_metadata(Some("made"), Duration::from_secs(10))
            .unwrap();
        metadata.topics()[0].partitions().len()
    })
    .await
    .unwrap();
    assert_eq!(partitions, 5);
}

#[test]
fn opening_needs_no_runtime_and_dropping_neither() {
    let sink = sink::open("kafka://127.0.0.1:1/orders").unwrap();
    assert!(format!("{sink:?}").contains("kafka orders"));
    drop(sink);
}

#[cfg(feature = "kafka-tls")]
#[tokio::test]
async fn tls_and_scram_are_built_in() {
    let url = "kafka+tls://u:hunter2@127.0.0.1:1/orders?mechanism=SCRAM-SHA-512&timeout=1s";
    let error = sink::open(url)
        .unwrap()
        .deliver(&batch(1, 1))
        .await
        .unwrap_err();
    // As far as the connection, and not stopped by a client that has no such mechanism.
    assert!(
        error.reason().contains("no answer from the broker"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[cfg(feature = "kafka-tls")]
#[tokio::test]
async fn a_token_says_who_the_sink_is() {
    use crate::support::{kafka_broker::free_port, kafka_gate::Gate};

    let (port, gate) = (free_port(), Gate::new());
    let broker = Broker::start_behind(Kind::Tansu, port, gate.port());
    let place = format!("127.0.0.1:{}", gate.port());
    let let_in = gate.ask_for("the-right-one", port);
    // With OAUTHBEARER the sink makes no topic.
    let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .create()
        .unwrap();
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1));
    let made = admin.create_topics([&topic], &AdminOptions::new()).await;
    made.unwrap()[0].as_ref().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "the-wrong-one\n").unwrap();
    let url = format!(
        "kafka://{place}/{TOPIC}?timeout=4s&token_file={}",
        file.display()
    );
    let sink = sink::open(&url).unwrap();
    let events = batch(1, 10);
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(!format!("{error:?}").contains("the-wrong-one"), "{error:?}");
    assert_eq!(*let_in.lock().unwrap(), 0);
    std::fs::write(&file, "the-right-one\n").unwrap();
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert!(*let_in.lock().unwrap() > 0);
}

#[cfg(not(feature = "kafka-tls"))]
#[test]
fn tls_names_the_feature_that_it_needs() {
    let error = sink::open("kafka+tls://u:hunter2@h/t").unwrap_err();
    assert!(error.reason.contains("`kafka-tls`"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}
