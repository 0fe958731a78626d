//! What a sink costs beside the bare client library: the same batches of 512 events through
//! `Sink::deliver`, from the journal through delivery (reading, cursor and all), and through the best
//! loop that the library allows, in turn on one server.
//!
//! ```text
//! cargo bench --bench sinks --all-features
//! cargo bench --bench sinks --all-features -- --rounds 1 --batches 4 --only kafka
//! ```
//!
//! Needs the servers that the tests need.

#[path = "../tests/it/support/kafka_broker.rs"]
#[allow(dead_code, reason = "each program uses its part")]
mod kafka_broker;
#[path = "../tests/it/support/servers.rs"]
mod servers;

use async_nats::{ConnectOptions, jetstream};
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kafka_broker::{Broker, Kind};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER};
use std::{
    fmt::Write as _,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Event, EventId, EventStore,
    sink::{self, Sink, SinkEvent},
};
use tokio::net::TcpListener;
use tokio_postgres::NoTls;
use uuid::Uuid;

const BATCH: usize = 512;
/// What a Dapr sidecar says of itself.
const COMPONENTS: &str = r#"{"components":[{"name":"events","type":"pubsub.in-memory"}]}"#;

#[derive(Parser)]
struct Arguments {
    /// How often each way is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Batches in one round.
    #[arg(long, default_value_t = 200)]
    batches: usize,
    /// Only the sinks whose names begin so, such as `kafka`.
    #[arg(long, default_value = "")]
    only: String,
    /// Cargo passes it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Who takes batches: a client library, used as plainly as it can be, or a sink.
trait Taker: Send {
    fn take(&mut self, batch: &[SinkEvent]) -> impl Future<Output = anyhow::Result<()>> + Send;
}

struct Through(Arc<dyn Sink>);

impl Taker for Through {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        let delivered = self.0.deliver(batch).await?;
        anyhow::ensure!(delivered.taken == batch.len() && delivered.rejected.is_empty());
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A task, as delivery is one: who runs outside of the runtime's threads wakes them for each answer.
    tokio::spawn(run(Arguments::parse())).await?
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    println!(
        "events/s in batches of {BATCH}, events of {} bytes",
        batch()[0].json.len()
    );

    let is_wanted = |name: &str| name.starts_with(&arguments.only);
    if is_wanted("postgres") {
        let server = Server::postgres();
        let address = format!("{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}", server.port());
        let sink = sink::open(&format!("postgres://{address}/{DATABASE}"))?;
        let bare = BarePostgres::connect(&server).await?;
        compare("postgres", &arguments, sink, bare).await?;
    }
    if is_wanted("nats") {
        let server = Server::nats();
        let address = format!("{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}", server.port());
        let sink = sink::open(&format!("nats://{address}/events"))?;
        let bare = BareNats::connect(&server).await?;
        compare("nats", &arguments, sink, bare).await?;
    }
    if is_wanted("redis") {
        let server = Server::redis();
        let address = format!(":{PASSWORD_IN_URL}@127.0.0.1:{}", server.port());
        let sink = sink::open(&format!("redis://{address}/events"))?;
        let bare = BareRedis::connect(&server).await?;
        compare("redis", &arguments, sink, bare).await?;
    }
    for kind in [Kind::Noida, Kind::Tansu] {
        let name = format!("kafka {kind:?}");
        if is_wanted(&name) {
            let broker = Broker::start(kind);
            let sink = sink::open(&format!("kafka://{}/events", broker.address()))?;
            let bare = BareKafka::connect(&broker.address())?;
            compare(&name, &arguments, sink, bare).await?;
        }
    }
    let endpoint = endpoint().await?;
    if is_wanted("http") {
        let sink = sink::open(&format!("http://{endpoint}/events"))?;
        let bare = BareHttp::connect(endpoint)?;
        compare("http", &arguments, sink, bare).await?;
    }
    if is_wanted("segment") {
        let sink = sink::open(&format!("segment://key@{endpoint}?tls=false"))?;
        let bare = BareSegment::connect(endpoint)?;
        compare("segment", &arguments, sink, bare).await?;
    }
    if is_wanted("dapr") {
        let sink = sink::open(&format!("dapr://{endpoint}/events/orders"))?;
        let bare = BareDapr::connect(endpoint)?;
        compare("dapr", &arguments, sink, bare).await?;
    }
    Ok(())
}

/// An endpoint that reads what is posted to it and says yes; as a Dapr sidecar it has the component
/// `events`.
async fn endpoint() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(|request: Request<Incoming>| async {
                    let answer = match request.uri().path() {
                        "/v1.0/metadata" => COMPONENTS,
                        _ => "",
                    };
                    request.into_body().collect().await?;
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(answer))))
                }),
            ));
        }
    });
    Ok(address)
}

struct BareKafka(FutureProducer);

impl BareKafka {
    fn connect(brokers: &str) -> anyhow::Result<Self> {
        Ok(Self(
            ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .set("enable.idempotence", "true")
                .set("linger.ms", "2")
                .create()?,
        ))
    }
}

impl Taker for BareKafka {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        let mut answers = Vec::with_capacity(batch.len());
        for event in batch {
            // The same message, made from what is at hand.
            let id = event.event_id.to_string();
            let key = event.key().unwrap_or_default();
            let mut headers = OwnedHeaders::new();
            for (name, value) in [
                ("ce_specversion", "1.0"),
                ("ce_id", &*id),
                ("ce_source", "/temporal/default/orders"),
                ("ce_type", &*event.event_type),
                ("ce_time", &*event.created_at),
                ("content-type", "application/json"),
                ("ce_subject", key),
                ("ce_partitionkey", key),
            ] {
                headers = headers.insert(Header {
                    key: name,
                    value: Some(value),
                });
            }
            let record = FutureRecord::to("events")
                .key(key)
                .payload(&event.json)
                .headers(headers);
            let sent = self.0.send_result(record);
            answers.push(sent.map_err(|(error, _)| error)?);
        }
        for answer in answers {
            answer.await?.map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}

struct BareHttp(reqwest::Client, String);

impl BareHttp {
    fn connect(endpoint: SocketAddr) -> anyhow::Result<Self> {
        // No TLS is spoken, and a provider has to be named all the same.
        tokio_rustls::rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self(client, format!("http://{endpoint}/bare")))
    }
}

/// A CloudEvent around an event, made from what is at hand.
fn write_cloud_event(body: &mut String, event: &SinkEvent) -> std::fmt::Result {
    let key = event.key().unwrap_or_default();
    write!(
        body,
        "{{\"specversion\":\"1.0\",\"id\":\"{}\",\"source\":\"/temporal/default/orders\",\
         \"type\":\"{}\",\"subject\":\"{key}\",\"time\":\"{}\",\
         \"datacontenttype\":\"application/json\",\"partitionkey\":\"{key}\",\"data\":{}}}",
        event.event_id, event.event_type, event.created_at, event.json
    )
}

impl Taker for BareHttp {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        // The same body.
        let mut body = String::from("[");
        for event in batch {
            if body.len() > 1 {
                body.push(',');
            }
            write_cloud_event(&mut body, event)?;
        }
        body.push(']');
        self.0
            .post(&self.1)
            .header("content-type", "application/cloudevents-batch+json")
            .body(body)
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }
}

struct BareDapr(reqwest::Client, String);

impl BareDapr {
    fn connect(endpoint: SocketAddr) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self(
            client,
            format!("http://{endpoint}/v1.0/publish/events/bare"),
        ))
    }
}

impl Taker for BareDapr {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        for event in batch {
            let mut body = String::new();
            write_cloud_event(&mut body, event)?;
            let key = event.key().unwrap_or_default();
            self.0
                .post(format!("{}?metadata.partitionKey={key}", self.1))
                .header("content-type", "application/cloudevents+json")
                .body(body)
                .send()
                .await?
                .error_for_status()?;
        }
        Ok(())
    }
}

struct BareSegment(reqwest::Client, String);

impl BareSegment {
    fn connect(endpoint: SocketAddr) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self(client, format!("http://{endpoint}/v1/batch")))
    }
}

impl Taker for BareSegment {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        // The same body, made from what is at hand.
        let mut body = String::from("{\"batch\":[");
        for event in batch {
            if !body.ends_with('[') {
                body.push(',');
            }
            let of = |field: &Option<String>| field.clone().unwrap_or_default();
            write!(
                body,
                "{{\"anonymousId\":\"{id}\",\"event\":\"workflow_started\",\"properties\":{{\
                 \"value\":1.0,\"metricType\":\"counter\",\"sendToSegment\":\"true\",\
                 \"workflowId\":\"{id}\",\"workflowRunId\":\"{}\",\"workflowType\":\"{}\",\
                 \"workflowState\":\"{}\",\"applicationName\":\"orders\",\
                 \"namespace\":\"default\",\
                 \"description\":\"Lifecycle event: workflow_started\"}},\
                 \"timestamp\":\"{}\",\"type\":\"track\",\"messageId\":\"{}\"}}",
                of(&event.workflow_run_id),
                of(&event.workflow_type),
                of(&event.workflow_state),
                event.created_at,
                event.event_id,
                id = event.key().unwrap_or_default(),
            )?;
        }
        body.push_str("]}");
        self.0
            .post(&self.1)
            .basic_auth("key", Some(""))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }
}

async fn compare(
    name: &str,
    arguments: &Arguments,
    sink: Arc<dyn Sink>,
    mut bare: impl Taker,
) -> anyhow::Result<()> {
    let mut of_sink = Vec::new();
    let mut of_delivery = Vec::new();
    let mut of_bare = Vec::new();
    // One round of each that does not count: schemas are created, caches warm up.
    for round in 0..=arguments.rounds {
        let with_sink = measure(arguments.batches, &mut Through(sink.clone())).await?;
        let with_bare = measure(arguments.batches, &mut bare).await?;
        let with_delivery = through_delivery(arguments.batches, &sink).await?;
        if round > 0 {
            of_delivery.push(with_delivery);
            of_sink.push(with_sink);
            of_bare.push(with_bare);
        }
    }
    let ratio = |of: &[f64]| {
        median(
            of.iter()
                .zip(&of_bare)
                .map(|(of, bare)| of / bare)
                .collect(),
        )
    };
    println!(
        "{name:<10} bare {:>9.0}  sink {:>9.0} ({:.2})  through delivery {:>9.0} ({:.2})",
        median(of_bare.clone()),
        median(of_sink.clone()),
        ratio(&of_sink),
        median(of_delivery.clone()),
        ratio(&of_delivery),
    );
    Ok(())
}

/// Events per second from a journal that is full of them.
async fn through_delivery(batches: usize, sink: &Arc<dyn Sink>) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let journal = directory.path().join("journal.db");
    let count = batches * BATCH;
    let events = EventStore::builder()
        .journal(journal.clone())
        .queue_size(count + 1)
        .build()
        .await?;
    for event in (0..batches).flat_map(|_| batch()) {
        events.publish(event.event()?);
    }
    events.shutdown(Duration::from_secs(60)).await?;
    let started = Instant::now();
    let events = EventStore::builder()
        .journal(journal)
        .batch_size(BATCH)
        .sink(sink.clone())
        .build()
        .await?;
    events.flush(Duration::from_secs(60)).await?;
    let took = started.elapsed();
    anyhow::ensure!(events.stats().sinks[0].delivered == count as u64);
    events.shutdown(Duration::from_secs(5)).await?;
    Ok(f64::from(u32::try_from(count)?) / took.as_secs_f64())
}

/// Events per second.
async fn measure(batches: usize, taker: &mut impl Taker) -> anyhow::Result<f64> {
    let batches: Vec<_> = (0..batches).map(|_| batch()).collect();
    let started = Instant::now();
    for batch in &batches {
        taker.take(batch).await?;
    }
    let events = u32::try_from(batches.len() * BATCH)?;
    Ok(f64::from(events) / started.elapsed().as_secs_f64())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn batch() -> Vec<SinkEvent> {
    (0..BATCH as u64)
        .map(|position| {
            let mut event = Event::new("data.processed")
                .name("workflow_start")
                .data(serde_json::json!({ "records": position, "source": "x".repeat(100) }))
                .correlation_id("c-42");
            let metadata = &mut event.metadata;
            metadata.event_id = Some(EventId::new());
            metadata.created_at = Some(chrono::Utc::now());
            metadata.namespace = Some("default".into());
            metadata.application_name = Some("orders".into());
            metadata.workflow_type = Some("OrderWorkflow".into());
            metadata.workflow_id = Some(format!("order-{}", position % 16));
            metadata.workflow_run_id = Some(Uuid::now_v7().to_string());
            metadata.sequence = Some(position);
            SinkEvent::new(position, &event).expect("an event with id and time")
        })
        .collect()
}

struct BarePostgres {
    client: tokio_postgres::Client,
    insert: tokio_postgres::Statement,
}

impl BarePostgres {
    async fn connect(server: &Server) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(server.port())
            .user(USER)
            .password(PASSWORD)
            .dbname(DATABASE)
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        // The table that the sink makes, so that both keep the same columns and indexes.
        sink::open(&format!(
            "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}?table=bare",
            server.port()
        ))?
        .deliver(&batch())
        .await?;
        let insert = client
            .prepare(
                "INSERT INTO bare (event_id, position, event_type, event_name, event_key, \
                 workflow_type, workflow_id, workflow_run_id, workflow_state, activity_type, \
                 activity_id, attempt, created_at, event) \
                 SELECT a, b, c, d, e, f, g, h, i, j, k, l, m::timestamptz, n::jsonb FROM \
                 unnest($1::uuid[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], \
                 $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::int8[], \
                 $13::text[], $14::text[]) AS t(a, b, c, d, e, f, g, h, i, j, k, l, m, n) \
                 ON CONFLICT DO NOTHING",
            )
            .await?;
        Ok(Self { client, insert })
    }
}

impl Taker for BarePostgres {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        fn column<'a, T>(batch: &'a [SinkEvent], value: impl Fn(&'a SinkEvent) -> T) -> Vec<T> {
            batch.iter().map(value).collect()
        }
        self.client
            .execute(
                &self.insert,
                &[
                    &column(batch, |event| *event.event_id.as_uuid()),
                    &column(batch, |event| event.position.cast_signed()),
                    &column(batch, |event| &*event.event_type),
                    &column(batch, |event| &*event.event_name),
                    &column(batch, SinkEvent::key),
                    &column(batch, |event| event.workflow_type.as_deref()),
                    &column(batch, |event| event.workflow_id.as_deref()),
                    &column(batch, |event| event.workflow_run_id.as_deref()),
                    &column(batch, |event| event.workflow_state.as_deref()),
                    &column(batch, |event| event.activity_type.as_deref()),
                    &column(batch, |event| event.activity_id.as_deref()),
                    &column(batch, |event| event.attempt.map(i64::from)),
                    &column(batch, |event| &*event.created_at),
                    &column(batch, |event| &*event.json),
                ],
            )
            .await?;
        Ok(())
    }
}

struct BareNats(jetstream::Context);

impl BareNats {
    async fn connect(server: &Server) -> anyhow::Result<Self> {
        let client = ConnectOptions::with_user_and_password(USER.into(), PASSWORD.into())
            .connect(format!("nats://127.0.0.1:{}", server.port()))
            .await?;
        let context = jetstream::new(client);
        context
            .create_stream(jetstream::stream::Config {
                name: "bare".into(),
                subjects: vec!["bare".into()],
                ..Default::default()
            })
            .await?;
        Ok(Self(context))
    }
}

impl Taker for BareNats {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        let mut answers = Vec::with_capacity(batch.len());
        for event in batch {
            // The same message, made from what is at hand.
            let id = event.event_id.to_string();
            let key = event.key().unwrap_or_default();
            let message = jetstream::message::PublishMessage::build()
                .header("ce-specversion", "1.0")
                .header("ce-id", &*id)
                .header("ce-source", "/temporal/default/orders")
                .header("ce-type", &*event.event_type)
                .header("ce-time", &*event.created_at)
                .header("content-type", "application/json")
                .header("ce-subject", key)
                .header("ce-partitionkey", key)
                .header("ce-sequence", &*format!("{:020}", event.position))
                .message_id(id)
                .payload(event.json.clone().into());
            answers.push(self.0.send_publish("bare", message).await?);
        }
        for answer in answers {
            answer.await?;
        }
        Ok(())
    }
}

struct BareRedis(redis::aio::MultiplexedConnection);

impl BareRedis {
    fn connect(server: &Server) -> impl Future<Output = anyhow::Result<Self>> {
        let url = format!("redis://:{PASSWORD_IN_URL}@127.0.0.1:{}", server.port());
        async {
            let client = redis::Client::open(url)?;
            Ok(Self(client.get_multiplexed_async_connection().await?))
        }
    }
}

impl Taker for BareRedis {
    async fn take(&mut self, batch: &[SinkEvent]) -> anyhow::Result<()> {
        let mut pipeline = redis::pipe();
        // One transaction is faster than a plain pipeline: the server writes its log once.
        pipeline.atomic();
        for event in batch {
            let mut command = redis::cmd("XADD");
            command
                .arg(&["bare", "*", "id"])
                .arg(event.event_id.to_string())
                .arg("type")
                .arg(&event.event_type)
                .arg("name")
                .arg(&event.event_name)
                .arg("key")
                .arg(event.key())
                .arg("event")
                .arg(&event.json);
            pipeline.add_command(command);
        }
        pipeline.query_async::<Vec<String>>(&mut self.0).await?;
        Ok(())
    }
}
