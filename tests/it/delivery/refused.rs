//! What is refused: an event at fault becomes a dead letter and holds up nothing, and a place that refuses everything
//! loses nothing.

use super::{Scratch, TIMEOUT, numbered, publish, until, up_to};
use crate::support::{log::Log, stand_in::StandIn, target_http::cloud_events};
use serde_json::json;
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Event, EventStore, Health,
    sink::{Delivered, Sink, SinkError, SinkEvent},
    testing::TestSink,
};
use wiremock::ResponseTemplate;

/// An endpoint that answers 409 or 503 to what is marked, and 400 to everything while it is told so.
pub(super) struct Endpoint {
    pub(super) server: StandIn,
    refuses_all: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<u64>>>,
}

impl Endpoint {
    pub(super) async fn start() -> Self {
        let refuses_all = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (refuses, into) = (refuses_all.clone(), taken.clone());
        let server = StandIn::start(move |request| {
            if refuses.load(Ordering::SeqCst) {
                return ResponseTemplate::new(400).set_body_string("nobody passes");
            }
            let events = cloud_events(request).unwrap();
            let data = |event: &temporal_eventstore::event::CloudEvent| event.data.data.clone();
            if events.iter().any(|event| data(event).contains_key("odd")) {
                // Some servers quote what they were sent.
                return ResponseTemplate::new(409).set_body_string("not hunter2");
            }
            if events.iter().any(|event| data(event).contains_key("stuck")) {
                return ResponseTemplate::new(503);
            }
            let numbers = events
                .iter()
                .map(|event| data(event)["number"].as_u64().unwrap());
            into.lock().unwrap().extend(numbers);
            ResponseTemplate::new(200)
        })
        .await;
        Self {
            server,
            refuses_all,
            taken,
        }
    }

    pub(super) fn refuse_all(&self, refuses: bool) {
        self.refuses_all.store(refuses, Ordering::SeqCst);
    }

    pub(super) fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }

    async fn open(&self, file: &Path) -> EventStore {
        EventStore::builder()
            .store(format!("http://{}/in", self.server.address()))
            .journal(file)
            .batch_size(20)
            .build()
            .await
            .unwrap()
    }
}

pub(super) fn odd(number: usize) -> Event {
    Event::new("test.event").data(json!({ "number": number, "odd": "hunter2" }))
}

pub(super) async fn dead(events: &EventStore) -> Vec<u64> {
    let letters = events.dead_letters(0, 1_000).await.unwrap();
    letters
        .iter()
        .map(|letter| {
            let event = Event::from_json(&letter.event).unwrap();
            event.data["number"].as_u64().unwrap()
        })
        .collect()
}

async fn open(file: &Path, sink: &TestSink) -> EventStore {
    super::open(Some(file), std::slice::from_ref(sink)).await
}

#[tokio::test]
async fn a_refused_event_alone_in_its_batch_holds_up_nothing() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = endpoint.open(&scratch.file()).await;
    publish(&events, 0..3).await;
    events.shutdown(TIMEOUT).await.unwrap();
    // Nothing is behind it, and it is the first one after a restart.
    let events = endpoint.open(&scratch.file()).await;
    events.publish(odd(3)).await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(dead(&events).await, [3]);
    assert_eq!(events.health(), Health::Healthy);
    publish(&events, 4..86).await;
    events.flush(TIMEOUT).await.unwrap();
    let wanted: Vec<u64> = (0..86).filter(|number| *number != 3).collect();
    assert_eq!(endpoint.taken(), wanted);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn the_very_first_event_is_at_fault_when_one_behind_it_is_taken() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = endpoint.open(&scratch.file()).await;
    events.publish(odd(0)).await.unwrap();
    // Until then the place may be wrong.
    until("it is said", || events.health() != Health::Healthy).await;
    assert_eq!(dead(&events).await, [0_u64; 0]);
    publish(&events, 1..3).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(dead(&events).await, [0]);
    assert_eq!(endpoint.taken(), [1, 2]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_place_that_refuses_everything_after_it_worked_loses_nothing() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = endpoint.open(&scratch.file()).await;
    publish(&events, 0..5).await;
    events.flush(TIMEOUT).await.unwrap();
    endpoint.refuse_all(true);
    for number in 5..45 {
        drop(events.publish(numbered(number)));
    }
    until("it is an outage", || events.health() != Health::Healthy).await;
    // Also over a restart in the midst of it.
    events.shutdown(TIMEOUT / 10).await.unwrap_err();
    let events = endpoint.open(&scratch.file()).await;
    until("it is an outage", || events.health() != Health::Healthy).await;
    let before = endpoint.server.requests().len();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let asked = endpoint.server.requests().len() - before;
    assert!(asked < 150, "{asked} requests to somebody who refuses all");
    assert_eq!(dead(&events).await, [0_u64; 0]);
    endpoint.refuse_all(false);
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(dead(&events).await, [0_u64; 0]);
    assert_eq!(endpoint.taken(), up_to(45));
    assert_eq!(events.health(), Health::Healthy);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_wrong_place_is_an_outage_that_says_so() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    endpoint.refuse_all(true);
    let events = endpoint.open(&scratch.file()).await;
    publish(&events, 0..1).await;
    until("it is said", || events.health() != Health::Healthy).await;
    let shown = format!("{:?}", events.health());
    assert!(
        shown.contains("400") && shown.contains("never took"),
        "{shown}"
    );
    for number in 1..500 {
        drop(events.publish(numbered(number)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(endpoint.server.requests().len() < 250);
    assert_eq!(dead(&events).await, [0_u64; 0]);
    events.shutdown(TIMEOUT / 10).await.unwrap_err();
}

#[tokio::test]
async fn single_events_in_a_row_are_an_outage_in_the_end() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = open(&scratch.file(), &sink).await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    sink.refuse(|_| Some("no".to_owned()));
    for number in 1..10 {
        events.publish(numbered(number)).await.unwrap();
        events.flush(TIMEOUT).await.unwrap();
        assert_eq!(events.health(), Health::Healthy);
    }
    assert_eq!(dead(&events).await.len(), 9);
    events.publish(numbered(10)).await.unwrap();
    until("it is an outage", || events.health() != Health::Healthy).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(dead(&events).await.len(), 9);
    sink.refuse(|_| None);
    events.flush(TIMEOUT * 4).await.unwrap();
    assert_eq!(super::numbers(&sink), [0, 10]);
    assert_eq!(events.redeliver("sink").await.unwrap(), 9);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn many_in_a_row_are_at_fault_when_one_behind_them_is_taken() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = open(&scratch.file(), &sink).await;
    sink.refuse(|event| event.json.contains("odd").then(|| "it is odd".to_owned()));
    publish(&events, 0..2).await;
    for number in 2..42 {
        drop(events.publish(odd(number)));
    }
    publish(&events, 42..44).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(dead(&events).await, (2..42).collect::<Vec<u64>>());
    assert_eq!(super::numbers(&sink), [0, 1, 42, 43]);
    let stats = &events.stats().sinks[0];
    assert_eq!((stats.delivered, stats.rejected), (4, 40));
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Takes three events at once, and is too slow for more.
#[derive(Debug)]
struct Slow(TestSink);

#[async_trait::async_trait]
impl Sink for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        match batch.len() {
            0..=3 => self.0.deliver(batch).await,
            _ => Err(SinkError::new("it takes too long")),
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.0.check().await
    }
}

#[tokio::test]
async fn what_is_behind_a_refused_event_may_be_too_much_at_once() {
    let sink = TestSink::new("inner");
    sink.refuse(|_| Some("no".to_owned()));
    let events = EventStore::builder()
        .batch_size(10)
        .sink(Slow(sink.clone()))
        .build()
        .await
        .unwrap();
    drop(events.publish(odd(0)));
    for number in 1..15 {
        drop(events.publish(numbered(number)));
    }
    until("it is an outage", || {
        format!("{:?}", events.health()).contains("in a row")
    })
    .await;
    sink.refuse(|event| event.json.contains("odd").then(|| "it is odd".to_owned()));
    events.flush(TIMEOUT * 4).await.unwrap();
    assert_eq!(super::numbers(&sink), (1..15).collect::<Vec<u64>>());
    assert_eq!(dead(&events).await, [0]);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Takes one event; refuses the next one, before its connection breaks and once after it; then takes it.
#[derive(Debug)]
struct Mending(TestSink);

#[async_trait::async_trait]
impl Sink for Mending {
    fn name(&self) -> &str {
        "mending"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        match self.0.calls() {
            3 => self.0.fail("the connection broke"),
            _ => self.0.recover(),
        }
        let refuses = matches!(self.0.calls(), 1 | 2 | 4);
        self.0.refuse(move |_| refuses.then(|| "no".to_owned()));
        self.0.deliver(batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.0.check().await
    }
}

#[tokio::test]
async fn what_was_refused_before_a_failure_says_nothing_after_it() {
    let scratch = Scratch::new();
    let sink = TestSink::new("inner");
    let events = EventStore::builder()
        .journal(scratch.file())
        .sink(Mending(sink.clone()))
        .build()
        .await
        .unwrap();
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    publish(&events, 1..2).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(dead(&events).await, [0_u64; 0]);
    assert_eq!(super::numbers(&sink), [0, 1]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn two_at_the_end_wait_for_the_next_one() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    sink.refuse(|event| event.json.contains("odd").then(|| "it is odd".to_owned()));
    let events = open(&scratch.file(), &sink).await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    drop(events.publish(odd(1)));
    events.publish(odd(2)).await.unwrap();
    until("it is said", || events.health() != Health::Healthy).await;
    assert_eq!(dead(&events).await, [0_u64; 0]);
    publish(&events, 3..4).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(dead(&events).await, [1, 2]);
    assert_eq!(super::numbers(&sink), [0, 3]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_sent_is_a_dead_letter_in_any_case() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    sink.reject(|event| event.json.contains("odd").then(|| "too large".to_owned()));
    let events = open(&scratch.file(), &sink).await;
    for number in 0..30 {
        drop(events.publish(odd(number)));
    }
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(dead(&events).await, up_to(30));
    assert_eq!(events.health(), Health::Healthy);
    // Not what the sink knows by itself says whether its place works.
    sink.refuse(|event| (!event.json.contains("odd")).then(|| "no".to_owned()));
    publish(&events, 30..31).await;
    events.publish(odd(31)).await.unwrap();
    until("it is said", || events.health() != Health::Healthy).await;
    sink.refuse(|_| None);
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(super::numbers(&sink), [30]);
    assert_eq!(dead(&events).await.len(), 31);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// The receiver took one of the batch and then lost, say, its rights: the others are refused alike.
#[tokio::test]
async fn several_at_the_end_of_a_batch_are_an_outage_although_it_took_the_first() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = open(&scratch.file(), &sink).await;
    sink.fail("it is away");
    publish(&events, 0..1).await;
    for number in 1..8 {
        drop(events.publish(odd(number)));
    }
    events.publish(odd(8)).await.unwrap();
    sink.refuse(|event| event.json.contains("odd").then(|| "no".to_owned()));
    sink.recover();
    until("the first is taken", || super::numbers(&sink) == [0]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(dead(&events).await, [0_u64; 0]);
    assert_ne!(events.health(), Health::Healthy);
    sink.refuse(|_| None);
    events.flush(TIMEOUT * 4).await.unwrap();
    assert_eq!(super::numbers(&sink), up_to(9));
    assert_eq!(dead(&events).await, [0_u64; 0]);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Behind a refused event that waits for a judgement: however many they are, they are kept in memory no longer.
#[tokio::test]
async fn what_cannot_be_sent_is_a_dead_letter_also_behind_what_is_refused() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = open(&scratch.file(), &sink).await;
    sink.fail("it is away");
    publish(&events, 0..1).await;
    for number in 1..61 {
        drop(events.publish(odd(number)));
    }
    events.flush(Duration::from_millis(200)).await.unwrap_err();
    sink.reject(|event| event.json.contains("odd").then(|| "too large".to_owned()));
    // It never took anything: an outage, whatever else there is.
    sink.refuse(|_| Some("no".to_owned()));
    sink.recover();
    let dead_letters = async || dead(&events).await.len() == 60;
    let began = Instant::now();
    while !dead_letters().await {
        assert!(began.elapsed() < Duration::from_secs(10), "they wait");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("it is an outage", || events.health() != Health::Healthy).await;
    // Handed over again and again with the one before them, they count once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(events.stats().sinks[0].rejected, 60);
    assert_eq!(dead(&events).await, (1..61).collect::<Vec<u64>>());
    sink.refuse(|_| None);
    events.flush(TIMEOUT * 4).await.unwrap();
    assert_eq!(super::numbers(&sink), [0]);
    let stats = &events.stats().sinks[0];
    assert_eq!((stats.delivered, stats.rejected), (1, 60));
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Takes three events at once, and says that it took a hundred.
#[derive(Debug)]
struct Boasting(TestSink);

#[async_trait::async_trait]
impl Sink for Boasting {
    fn name(&self) -> &str {
        "boasting"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        if batch.len() > 3 {
            return Err(SinkError::new("it takes too long"));
        }
        self.0.deliver(batch).await?;
        Ok(Delivered::up_to(100, Vec::new()))
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.0.check().await
    }
}

#[tokio::test]
async fn what_a_sink_was_not_given_it_did_not_take() {
    let scratch = Scratch::new();
    let sink = TestSink::new("inner");
    let events = EventStore::builder()
        .journal(scratch.file())
        .batch_size(20)
        .sink(Boasting(sink.clone()))
        .build()
        .await
        .unwrap();
    for number in 0..40 {
        drop(events.publish(numbered(number)));
    }
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(super::numbers(&sink), up_to(40));
    assert_eq!(events.stats().sinks[0].delivered, 40);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn redelivery_goes_past_what_is_refused_again() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = endpoint.open(&scratch.file()).await;
    publish(&events, 0..1).await;
    events.publish(odd(1)).await.unwrap();
    publish(&events, 2..3).await;
    events.flush(TIMEOUT).await.unwrap();
    endpoint.refuse_all(true);
    events.publish(numbered(3)).await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(dead(&events).await, [1, 3]);
    endpoint.refuse_all(false);
    events.shutdown(TIMEOUT).await.unwrap();
    // The first one that is sent after a restart is refused.
    let events = endpoint.open(&scratch.file()).await;
    let name = events.stats().sinks[0].name.clone();
    assert_eq!(events.redeliver(&name).await.unwrap(), 1);
    assert_eq!(dead(&events).await, [1]);
    assert_eq!(endpoint.taken(), [0, 2, 3]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn what_a_receiver_echoes_is_in_the_dead_letter_alone() {
    let (log, _guard) = Log::capture();
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = endpoint.open(&scratch.file()).await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    drop(events.publish(odd(1)));
    events.publish(odd(2)).await.unwrap();
    until("it is said", || events.health() != Health::Healthy).await;
    let mut shown = format!("{:?} {:?}", events.health(), events.stats());
    publish(&events, 3..4).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    shown.push_str(&format!("{:?} {:?} {log}", events.health(), events.stats()));
    assert!(shown.contains("409"), "{shown}");
    assert!(log.says("dead letters now"), "{log}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let letters = events.dead_letters(0, 10).await.unwrap();
    for letter in &letters {
        assert!(letter.reason.contains("hunter2"), "{letter:?}");
        assert!(letter.reason.len() < 1000, "{letter:?}");
    }
    assert_eq!(letters.len(), 2);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// What was delivered to one sink alone makes no room for what another one lacks.
#[tokio::test]
async fn dead_letters_push_out_nothing_that_is_not_delivered() {
    let scratch = Scratch::new();
    let (rejecting, away) = (TestSink::new("rejecting"), TestSink::new("away"));
    rejecting.reject(|_| Some("no".to_owned()));
    away.fail("it is away");
    let events = EventStore::builder()
        .journal(scratch.file())
        .max_journal_bytes(800_000)
        .batch_size(20)
        .sink(rejecting)
        .sink(away.clone())
        .build()
        .await
        .unwrap();
    let padding = "x".repeat(900);
    let began = Instant::now();
    // Without their dead letters, well below the cap; with them, above it.
    for number in 0..300_usize {
        let data = json!({ "number": number, "padding": padding });
        events
            .publish(Event::new("test.event").data(data))
            .await
            .unwrap();
    }
    until("there are dead letters", || {
        events.stats().sinks[0].rejected == 300
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let bytes = events.stats().journal_bytes;
    assert!(
        dead(&events).await.len() < 300,
        "the cap was reached: {bytes}"
    );
    away.recover();
    events.flush(TIMEOUT * 4).await.unwrap();
    assert_eq!(super::numbers(&away), up_to(300));
    assert!(began.elapsed() < Duration::from_secs(60));
    events.shutdown(TIMEOUT).await.unwrap();
}
