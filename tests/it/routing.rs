//! Targets by event: what the sinks do where their address has fields of the event in it, against real servers.

use crate::support::{
    conformance::{self, Received, Target},
    kafka_broker::{Broker, Kind, read},
    servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER},
    stand_in::StandIn,
    target_dapr::{components, error, metadata},
    target_http::cloud_events,
    target_postgres,
    target_redis::RedisTarget,
    until,
};
use async_nats::{ConnectOptions, jetstream};
use rdkafka::{mocking::MockCluster, types::RDKafkaRespErr};
use redis::streams::StreamRangeReply;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use temporal_eventstore::{
    Event, EventQuery, EventReader, EventStore, Health,
    sink::{self, Delivered, RejectionKind, Sink, SinkEvent},
};
use tokio_postgres::Client;
use wiremock::ResponseTemplate;

const TIMEOUT: Duration = Duration::from_secs(10);

// The promises of every sink, with a stream for each workflow.
conformance::conformance!(redis_streams, RoutedRedis);

struct RoutedRedis(RedisTarget);

impl Target for RoutedRedis {
    const DEDUPES: bool = true;
    const SECRETS: &'static [&'static str] = RedisTarget::SECRETS;

    async fn begin() -> Self {
        Self(RedisTarget::begin().await)
    }

    fn url(&self) -> String {
        let url = self.0.url();
        url.replace("orders:events", "orders:{workflow_id}")
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        self.0.url_with_wrong_secret()
    }

    async fn received(&self) -> Vec<Received> {
        let mut client = self.0.client().await;
        let streams: Vec<String> = redis::cmd("KEYS")
            .arg("orders:*")
            .query_async(&mut client)
            .await
            .unwrap();
        let mut received = Vec::new();
        for stream in streams {
            for entry in entries(&mut client, &stream).await {
                // Nothing is in the stream of another workflow.
                let key = entry.key.as_deref().unwrap_or("none");
                assert_eq!(stream, format!("orders:{key}"));
                received.push(entry);
            }
        }
        received
    }

    async fn stop(&mut self) {
        self.0.stop().await;
    }

    async fn start(&mut self) {
        self.0.start().await;
    }

    async fn pause(&mut self) {
        self.0.pause().await;
    }

    async fn resume(&mut self) {
        self.0.resume().await;
    }

    fn poison() -> Option<Event> {
        None
    }

    fn oversize() -> Option<usize> {
        RedisTarget::oversize()
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("redis://u:hunter2@h/a:{workflow}", "`{workflow}`"),
            ("redis://u:hunter2@h/a:{workflow_type", "not closed"),
            ("redis://u:hunter2@h/a:{Type}", "names no field"),
            ("redis://u:hunter2@h/a?max_targets=2", "max_targets"),
            (
                "redis://u:hunter2@h/a:{event_type}?max_targets=0",
                "max_targets",
            ),
            ("nats://u:hunter2@h/{namespace}.a", "first part"),
            ("nats://u:hunter2@h/a.{type}", "`{event_type}`"),
            ("kafka://u:hunter2@h/a:{event_type}", "topic"),
            ("kafka://u:hunter2@h/a?key={id}", "`{id}`"),
            ("postgres://u:hunter2@h/db?table=a;{event_type}", "table"),
            ("http://u:hunter2@h/in/{x}", "`{x}`"),
            ("dapr://h/events/{topic}", "`{topic_name}`"),
        ]
    }
}

async fn entries(client: &mut redis::aio::MultiplexedConnection, stream: &str) -> Vec<Received> {
    let entries: StreamRangeReply = redis::cmd("XRANGE")
        .arg(&[stream, "-", "+"])
        .query_async(client)
        .await
        .unwrap();
    let received = entries.ids.iter().map(|entry| Received {
        event_id: entry.get("id").unwrap(),
        key: entry.get("key"),
    });
    received.collect()
}

/// Events of these workflow types, one after the other and in a circle.
fn of_types(first: u64, count: u64, types: &[&str]) -> Vec<SinkEvent> {
    let of_type = |position: u64| {
        let mut event = conformance::event(position, "order-1").event().unwrap();
        let index = usize::try_from(position).unwrap() % types.len();
        event.metadata.workflow_type = Some(types[index].to_owned());
        SinkEvent::new(position, &event).unwrap()
    };
    (first..first + count).map(of_type).collect()
}

/// The ids of the events of a workflow type, in order.
fn ids(events: &[SinkEvent], workflow_type: &str) -> Vec<String> {
    let events = events.iter();
    events
        .filter(|event| event.workflow_type.as_deref() == Some(workflow_type))
        .map(|event| event.event_id.to_string())
        .collect()
}

async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) {
    assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
}

/// That the events of one workflow type are refused, and all others taken.
async fn refuses_one_type(sink: &dyn Sink, batch: &[SinkEvent], workflow_type: &str, why: &str) {
    let delivered = sink.deliver(batch).await.unwrap();
    assert_eq!(delivered.taken, batch.len(), "{delivered:?}");
    let refused = delivered.rejected.iter().map(|rejection| {
        assert_eq!(rejection.kind, RejectionKind::Refused);
        assert!(rejection.reason.contains(why), "{rejection:?}");
        batch[rejection.index].event_id.to_string()
    });
    assert_eq!(refused.collect::<Vec<_>>(), ids(batch, workflow_type));
}

const TYPES: &[&str] = &["Order", "Ship ment.v2"];

fn at(server: &Server) -> String {
    format!("{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}", server.port())
}

async fn nats_stream(server: &Server, name: &str) -> jetstream::stream::Stream {
    nats_context(server).await.get_stream(name).await.unwrap()
}

async fn nats_context(server: &Server) -> jetstream::Context {
    let client = ConnectOptions::with_user_and_password(USER.into(), PASSWORD.into())
        .connect(format!("nats://127.0.0.1:{}", server.port()))
        .await
        .unwrap();
    jetstream::new(client)
}

#[tokio::test]
async fn nats_subjects_are_those_of_the_types_each_event_once() {
    let server = Server::nats();
    let url = format!("nats://{}/orders.{{workflow_type}}.events", at(&server));
    let open = || sink::open(&url).unwrap();
    assert_eq!(open().name(), "nats orders.{workflow_type}.events");
    let events = of_types(1, 40, TYPES);
    takes(&*open(), &events[..30]).await;
    // After a restart, some come again.
    let sink = open();
    takes(&*sink, &events[20..]).await;
    sink.check().await.unwrap();
    let stream = nats_stream(&server, "orders_events").await;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let id = message.headers.get("ce-id").unwrap().to_string();
        found
            .entry(message.subject.to_string())
            .or_default()
            .push(id);
    }
    let wanted = BTreeMap::from([
        ("orders.Order.events".to_owned(), ids(&events, TYPES[0])),
        (
            "orders.Ship%20ment%2Ev2.events".to_owned(),
            ids(&events, TYPES[1]),
        ),
    ]);
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn a_nats_subject_that_no_stream_takes_is_refused_for_its_events_alone() {
    let server = Server::nats();
    let context = nats_context(&server).await;
    let stream = |name: &str, subject: &str| jetstream::stream::Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        ..jetstream::stream::Config::default()
    };
    for (name, subject) in [("one", "orders.A"), ("two", "orders.B")] {
        context.create_stream(stream(name, subject)).await.unwrap();
    }
    // Each subject has a stream of its own, and one has none.
    let url = format!("nats://{}/orders.{{workflow_type}}", at(&server));
    let sink = sink::open(&url).unwrap();
    let events = of_types(1, 30, &["A", "B", "C"]);
    refuses_one_type(&*sink, &events, "C", "no stream").await;
    for name in ["one", "two"] {
        let stream = nats_stream(&server, name).await;
        assert_eq!(stream.cached_info().state.messages, 10);
    }
    // With a stream that the URL names, what another one takes is refused.
    let sink = sink::open(&format!("{url}?stream=one")).unwrap();
    let events = of_types(31, 20, &["A", "B"]);
    refuses_one_type(&*sink, &events, "B", "another stream").await;
}

#[tokio::test]
async fn redis_streams_are_those_of_the_types_and_no_more_than_the_bound() {
    let target = RedisTarget::begin().await;
    let url = target.url();
    let url = url.replace("orders:events", "{{o}}:{workflow_type}?max_targets=2");
    let open = || sink::open(&url).unwrap();
    assert_eq!(open().name(), "redis {{o}}:{workflow_type}");
    let events = of_types(1, 20, TYPES);
    takes(&*open(), &events[..15]).await;
    let sink = open();
    takes(&*sink, &events[5..]).await;
    let mut client = target.client().await;
    for (stream, workflow_type) in [("{o}:Order", TYPES[0]), ("{o}:Ship%20ment%2Ev2", TYPES[1])] {
        let found = entries(&mut client, stream).await;
        let found: Vec<_> = found.into_iter().map(|entry| entry.event_id).collect();
        assert_eq!(found, ids(&events, workflow_type), "{stream}");
    }
    // A third type is beyond the bound: it waits, with what is behind it, and is skipped by nobody.
    let more = of_types(21, 3, &[TYPES[0], TYPES[1], "Third"]);
    let beyond = 2;
    let delivered = sink.deliver(&more).await.unwrap();
    assert_eq!((delivered.taken, delivered.rejected.len()), (beyond, 0));
    let error = sink.deliver(&more[beyond..]).await.unwrap_err();
    assert!(error.reason().contains("more than 2 streams"), "{error}");
    assert!(error.reason().contains("max_targets"), "{error}");
}

#[tokio::test]
async fn a_redis_key_of_another_kind_is_refused_for_its_events_alone() {
    let target = RedisTarget::begin().await;
    let mut client = target.client().await;
    redis::cmd("SET")
        .arg(&["orders:B", "a text"])
        .query_async::<()>(&mut client)
        .await
        .unwrap();
    let url = target
        .url()
        .replace("orders:events", "orders:{workflow_type}");
    let sink = sink::open(&url).unwrap();
    let events = of_types(1, 12, &["A", "B", "A", "A"]);
    refuses_one_type(&*sink, &events, "B", "WRONGTYPE").await;
    // What a transaction wrote before it was refused is not written again.
    let found = entries(&mut client, "orders:A").await;
    let found: Vec<_> = found.into_iter().map(|entry| entry.event_id).collect();
    assert_eq!(found, ids(&events, "A"));
}

async fn rows(client: &Client, table: &str) -> Vec<String> {
    let rows = client
        .query(
            &format!("SELECT event_id::text FROM \"{table}\" ORDER BY seq"),
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn postgres_tables_are_those_of_the_types_each_event_once() {
    let server = Server::postgres();
    let base = format!("postgres://{}/{DATABASE}?table=", at(&server));
    let url = format!("{base}e_{{workflow_type}}");
    let open = || sink::open(&url).unwrap();
    assert_eq!(open().name(), "postgres e_{workflow_type}");
    // The last two are named as what PostgreSQL makes beside the table of the first.
    let types = [
        "Order",
        "Ship ment.v2",
        "Order_seq",
        "Order_pkey",
        "Order_seq_seq",
    ];
    let events = of_types(1, 60, &types);
    takes(&*open(), &events[..45]).await;
    takes(&*open(), &events[30..]).await;
    let client = target_postgres::client(&server).await;
    for (workflow_type, table) in [
        ("Order", "e_Order"),
        ("Ship ment.v2", "e_Ship_x20ment_x2Ev2"),
        ("Order_seq", "e_Order_seq"),
        ("Order_pkey", "e_Order_pkey"),
        ("Order_seq_seq", "e_Order_seq_seq"),
    ] {
        assert_eq!(
            rows(&client, table).await,
            ids(&events, workflow_type),
            "{table}"
        );
        let indexes = client
            .query(
                "SELECT indexname FROM pg_indexes WHERE tablename = $1",
                &[&table],
            )
            .await
            .unwrap();
        assert_eq!(indexes.len(), 4, "{table}: {indexes:?}");
    }
    // One of them can be read.
    let reader = EventReader::open(&format!("{base}e_Order")).await.unwrap();
    let read = reader.read(&EventQuery::new()).await.unwrap();
    assert_eq!(read.len(), ids(&events, "Order").len());
    assert!(EventReader::open(&url).await.is_err());
}

#[tokio::test]
async fn a_postgres_table_that_may_not_be_made_is_refused_for_its_events_alone() {
    let server = Server::postgres();
    let url = format!(
        "postgres://{}/{DATABASE}?table=e_{{workflow_type}}",
        at(&server)
    );
    takes(&*sink::open(&url).unwrap(), &of_types(1, 1, &["A"])).await;
    let client = target_postgres::client(&server).await;
    client
        .batch_execute(&format!(
            "CREATE ROLE writer LOGIN PASSWORD '{PASSWORD}'; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
             GRANT SELECT, INSERT ON \"e_A\" TO writer"
        ))
        .await
        .unwrap();
    let sink = sink::open(&url.replace(USER, "writer")).unwrap();
    let events = of_types(2, 9, &["A", "B", "A"]);
    refuses_one_type(&*sink, &events, "B", "cannot be created").await;
    assert_eq!(
        rows(&client, "e_A").await.len(),
        1 + ids(&events, "A").len()
    );
    // The same for all of them is judged by the delivery.
    let events = of_types(1, 4, &["B"]);
    refuses_one_type(&*sink, &events, "B", "42501").await;
}

#[tokio::test]
async fn kafka_topics_are_those_of_the_types_with_keys_by_template() {
    let broker = Broker::start(Kind::Noida);
    let address = broker.address();
    let url = format!(
        "kafka://{address}/orders.{{workflow_type}}?partitions=1&replication=1&timeout=4s\
         &key={{namespace}}/{{workflow_id}}"
    );
    let open = || sink::open(&url).unwrap();
    assert_eq!(open().name(), "kafka orders.{workflow_type}");
    let events = of_types(1, 40, TYPES);
    let sink = open();
    sink.check().await.unwrap();
    takes(&*sink, &events[..30]).await;
    // What was confirmed is not sent again within a run.
    takes(&*sink, &events[20..]).await;
    // After a restart the topics are read for what they have.
    takes(&*open(), &events[38..]).await;
    for (topic, workflow_type) in [
        ("orders.Order", TYPES[0]),
        ("orders.Ship-x20ment.v2", TYPES[1]),
    ] {
        let address = address.clone();
        let found = tokio::task::spawn_blocking(move || read(&address, topic));
        let found = found.await.unwrap();
        let key = Some("default/order-1");
        assert!(
            found.iter().all(|record| record.key.as_deref() == key),
            "{found:?}"
        );
        let id = |index: usize| found[index].header("ce_id").unwrap().to_owned();
        let wanted = ids(&events, workflow_type);
        assert_eq!(
            (0..found.len()).map(id).collect::<Vec<_>>(),
            wanted,
            "{topic}"
        );
    }
}

#[tokio::test]
async fn a_kafka_topic_that_is_forbidden_is_refused_for_its_events_alone() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["orders.A", "orders.B"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let brokers = cluster.bootstrap_servers();
    let url = format!("kafka://{brokers}/orders.{{workflow_type}}?timeout=4s");
    let forbidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.topic_error("orders.B", forbidden).unwrap();
    let sink = sink::open(&url).unwrap();
    let events = of_types(1, 12, &["A", "B", "A"]);
    refuses_one_type(&*sink, &events, "B", "orders.B").await;
    let found = tokio::task::spawn_blocking(move || read(&brokers, "orders.A"));
    assert_eq!(found.await.unwrap().len(), ids(&events, "A").len());
}

#[tokio::test]
async fn an_http_path_is_that_of_the_type_and_one_that_is_not_there_refuses_its_events_alone() {
    let endpoint = StandIn::start(|request| match request.url.path() {
        "/in/Gone" => ResponseTemplate::new(404),
        _ => ResponseTemplate::new(200),
    })
    .await;
    for mode in ["batched", "structured", "binary"] {
        let url = format!(
            "http://{}/in/{{workflow_type}}?a={{b}}&eventstore.mode={mode}",
            endpoint.address()
        );
        let sink = sink::open(&url).unwrap();
        let before = endpoint.requests().len();
        let types = ["Order", "Order", "Ship ment/v2", "Gone"];
        let events = of_types(4, 8, &types);
        refuses_one_type(&*sink, &events, "Gone", "404").await;
        let requests = endpoint.requests().split_off(before);
        assert!(
            requests
                .iter()
                .all(|request| request.url.query() == Some("a={b}"))
        );
        for (path, workflow_type) in [
            ("/in/Order", "Order"),
            ("/in/Ship%20ment%2Fv2", "Ship ment/v2"),
        ] {
            let to_path = requests.iter().filter(|request| request.url.path() == path);
            let found: Vec<_> = to_path
                .flat_map(|request| cloud_events(request).unwrap())
                .map(|event| event.id)
                .collect();
            assert_eq!(found, ids(&events, workflow_type), "{mode}");
        }
        // Dots alone would be another path.
        let events = of_types(1, 1, &[".."]);
        let delivered = sink.deliver(&events).await.unwrap();
        assert_eq!(delivered.rejected[0].kind, RejectionKind::Unsendable);
        sink.check().await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_name_is_the_dapr_topic_and_one_that_is_forbidden_refuses_its_events_alone() {
    let sidecar = StandIn::start(|request| match request.url.path() {
        "/v1.0/metadata" => metadata(&components()),
        "/v1.0/publish/events/B" => error(403, "ERR_PUBSUB_FORBIDDEN", "not allowed"),
        _ => ResponseTemplate::new(204),
    })
    .await;
    let url = format!("dapr://{}/events/{{topic_name}}", sidecar.address());
    let sink: Arc<dyn Sink> = sink::open(&url).unwrap();
    assert_eq!(sink.name(), "dapr events {topic_name}");
    let with_topic = |position: u64, topic: Option<&str>| {
        let mut event = conformance::event(position, "order-1").event().unwrap();
        event.metadata.topic_name = topic.map(str::to_owned);
        event.metadata.workflow_type = topic.map(str::to_owned);
        SinkEvent::new(position, &event).unwrap()
    };
    let events = [Some("billing"), Some("B"), None, Some("a b/c")];
    let events: Vec<_> = (1..)
        .zip(events)
        .map(|(at, topic)| with_topic(at, topic))
        .collect();
    refuses_one_type(&*sink, &events, "B", "ERR_PUBSUB_FORBIDDEN").await;
    for topic in ["billing", "data.processed", "a-x20b-x2Fc"] {
        let requests = sidecar.requests_to(&format!("/v1.0/publish/events/{topic}"));
        assert_eq!(requests.len(), 1, "{topic}");
    }
}

/// The whole way: what an event is published with decides, and a restart repeats nothing.
#[tokio::test]
async fn published_events_arrive_at_their_topics_once_through_a_restart() {
    let target = RedisTarget::begin().await;
    let directory = tempfile::tempdir().unwrap();
    let url = target.url().replace("orders:events", "t:{topic_name}");
    let open = async || {
        EventStore::builder()
            .store(url.clone())
            .journal(directory.path().join("journal.db"))
            .build()
            .await
            .unwrap()
    };
    for round in 0..2 {
        let events = open().await;
        for topic in ["billing", "shipping"] {
            let event = Event::new("data.processed").metadata("topic_name", topic);
            events.publish(event).await.unwrap();
        }
        events.publish(Event::new("data.processed")).await.unwrap();
        events.flush(TIMEOUT).await.unwrap();
        events.shutdown(TIMEOUT).await.unwrap();
        let mut client = target.client().await;
        for stream in ["t:billing", "t:shipping", "t:data%2Eprocessed"] {
            assert_eq!(
                entries(&mut client, stream).await.len(),
                round + 1,
                "{stream}"
            );
        }
    }
}

/// The delivery judges: what all targets refuse is an outage, and what one of them refuses a dead letter.
#[tokio::test]
async fn a_target_that_refuses_is_an_outage_only_as_long_as_no_other_takes_anything() {
    let target = RedisTarget::begin().await;
    let mut client = target.client().await;
    let tell = async |command: &[&str], client: &mut redis::aio::MultiplexedConnection| {
        let mut told = redis::cmd(command[0]);
        told.arg(&command[1..]);
        told.query_async::<redis::Value>(client).await.unwrap();
    };
    tell(&["SET", "t:B", "a text"], &mut client).await;
    let url = target.url().replace("orders:events", "t:{topic_name}");
    let events = EventStore::builder().store(url).build().await.unwrap();
    let publish = async |topic: &str| {
        let event = Event::new("data.processed").metadata("topic_name", topic);
        drop(events.publish(event));
    };
    for _ in 0..3 {
        publish("B").await;
    }
    until("an outage", || {
        matches!(events.health(), Health::SinksFailing { .. })
    })
    .await;
    assert!(events.dead_letters(0, 10).await.unwrap().is_empty());
    // Another one takes what is behind them.
    publish("A").await;
    let started = std::time::Instant::now();
    while events.dead_letters(0, 10).await.unwrap().len() < 3 {
        assert!(started.elapsed() < Duration::from_secs(40));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tell(&["DEL", "t:B"], &mut client).await;
    events.redeliver("redis t:{topic_name}").await.unwrap();
    while entries(&mut client, "t:B").await.len() < 3 {
        assert!(started.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(entries(&mut client, "t:A").await.len(), 1);
    assert!(events.dead_letters(0, 10).await.unwrap().is_empty());
    events.shutdown(TIMEOUT).await.unwrap();
}
