//! From the journal to the sinks: each sink has its own cursor, outages lose nothing, refusals become
//! dead letters, and nothing of it reaches a worker.

mod operated;
mod refused;

use serde_json::json;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use temporal_eventstore::{
    BuildError, Event, EventStore, EventStoreOptions, FlushError, Health, PublishError,
    RedeliverError,
    sink::{Delivered, Sink, SinkError, SinkEvent},
    testing::TestSink,
};

const TIMEOUT: Duration = Duration::from_secs(5);

async fn open(file: Option<&Path>, sinks: &[TestSink]) -> EventStore {
    let builder = EventStore::builder();
    let builder = sinks
        .iter()
        .fold(builder, |builder, sink| builder.sink(sink.clone()));
    builder
        .maybe_journal(file)
        .batch_size(10)
        .build()
        .await
        .unwrap()
}

fn numbered(number: usize) -> Event {
    Event::new("test.event").data(json!({ "number": number }))
}

async fn publish(events: &EventStore, numbers: std::ops::Range<usize>) {
    for number in numbers {
        events.publish(numbered(number)).await.unwrap();
    }
}

fn numbers(sink: &TestSink) -> Vec<u64> {
    let events = sink.events();
    events
        .iter()
        .map(|event| event.data["number"].as_u64().unwrap())
        .collect()
}

fn up_to(end: u64) -> Vec<u64> {
    (0..end).collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_sink_gets_what_comes_after_its_journal_was_emptied() {
    let scratch = Scratch::new();
    let sink = TestSink::new("one");
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    publish(&events, 0..3).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let file = rusqlite::Connection::open(scratch.file()).unwrap();
    file.execute("DELETE FROM events", []).unwrap();
    drop(file);
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    publish(&events, 3..5).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), up_to(5));
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("journal.db")
    }
}

#[tokio::test]
async fn a_sink_that_is_away_holds_back_no_other_and_misses_nothing() {
    let scratch = Scratch::new();
    let (up, down) = (TestSink::new("up"), TestSink::new("down"));
    down.fail("it is away");
    let events = open(Some(&scratch.file()), &[up.clone(), down.clone()]).await;
    publish(&events, 0..95).await;
    until("the one has all", || numbers(&up) == up_to(95)).await;
    assert!(down.received().is_empty());
    let Health::SinksFailing { sinks } = events.health() else {
        panic!("{:?}", events.health());
    };
    let [failing] = &sinks[..] else {
        panic!("{sinks:?}");
    };
    assert_eq!((&*failing.name, &*failing.reason), ("down", "it is away"));
    let oldest = |index: usize| events.stats().sinks[index].oldest;
    until("it waits", || {
        oldest(1).is_some_and(|age| age >= Duration::from_millis(200))
    })
    .await;
    assert_eq!(oldest(0), None);
    let error = events.flush(Duration::from_millis(100)).await.unwrap_err();
    assert!(
        matches!(&error, FlushError::SinksBehind { sinks, .. } if sinks == "down (95)"),
        "{error}"
    );
    down.recover();
    events.flush(TIMEOUT * 4).await.unwrap();
    assert_eq!(numbers(&down), up_to(95));
    assert_eq!(events.health(), Health::Healthy);
    let stats = events.stats().sinks;
    assert_eq!((stats[0].delivered, stats[1].delivered), (95, 95));
    assert!(stats[1].retries > 0 && stats[0].retries == 0);
    assert_eq!((stats[0].behind, stats[1].behind), (0, 0));
    assert_eq!((stats[0].oldest, stats[1].oldest), (None, None));
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn each_cursor_outlives_the_process_and_a_new_sink_begins_at_the_beginning() {
    let scratch = Scratch::new();
    let first = TestSink::new("first");
    let events = open(Some(&scratch.file()), std::slice::from_ref(&first)).await;
    publish(&events, 0..20).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let second = TestSink::new("second");
    let events = open(Some(&scratch.file()), &[first.clone(), second.clone()]).await;
    publish(&events, 20..30).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&first), up_to(30), "nothing came twice");
    assert_eq!(numbers(&second), up_to(30));
}

#[tokio::test]
async fn what_a_sink_lacks_at_the_end_it_gets_after_a_restart() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    sink.fail("it is away");
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    publish(&events, 0..25).await;
    let error = events
        .shutdown(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("behind"), "{error}");
    assert_eq!(events.health(), Health::ShutDown);
    sink.recover();
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), up_to(25));
}

#[tokio::test]
async fn a_lost_answer_repeats_a_batch_and_keeps_the_order() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    sink.lose_answers(1);
    publish(&events, 0..3).await;
    events.flush(TIMEOUT).await.unwrap();
    let mut received = numbers(&sink);
    assert!(received.len() > 3, "a batch came twice: {received:?}");
    // The second time an event comes, it is the same event.
    let mut ids: Vec<_> = sink.received().iter().map(|event| event.event_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    received.dedup();
    assert_eq!(received.last(), Some(&2));
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn refused_events_are_dead_letters_and_can_be_sent_again() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    sink.reject(|event| {
        event
            .json
            .contains("\"number\":3}")
            .then(|| "it is odd".to_owned())
    });
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    publish(&events, 0..5).await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), [0, 1, 2, 4]);
    let letters = events.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].sink.as_str(), letters[0].reason.as_str()),
        ("sink", "it is odd")
    );
    assert_eq!(events.stats().sinks[0].rejected, 1);
    // Still refused: it stays where it is.
    assert_eq!(events.redeliver("sink").await.unwrap(), 0);
    assert_eq!(events.dead_letters(0, 10).await.unwrap().len(), 1);
    sink.fail("it is away");
    let error = events.redeliver("sink").await.unwrap_err();
    assert!(matches!(error, RedeliverError::Sink { .. }), "{error}");
    sink.recover();
    sink.reject(|_| None);
    // Dead letters outlive the process.
    events.shutdown(TIMEOUT).await.unwrap();
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    assert_eq!(events.redeliver("sink").await.unwrap(), 1);
    assert!(events.dead_letters(0, 10).await.unwrap().is_empty());
    assert_eq!(numbers(&sink), [0, 1, 2, 4, 3]);
    let error = events.redeliver("other").await.unwrap_err();
    assert!(error.to_string().contains("there are sink"), "{error}");
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Panics, then takes nothing, then behaves.
#[derive(Debug)]
struct Unruly(TestSink);

#[async_trait::async_trait]
impl Sink for Unruly {
    fn name(&self) -> &str {
        "unruly"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        match self.0.calls() {
            0 => {
                self.0.lose_answers(0);
                self.0.fail("on purpose");
                self.0.deliver(batch).await.ok();
                self.0.recover();
                panic!("on purpose");
            }
            1 => {
                self.0.fail("on purpose");
                self.0.deliver(batch).await.ok();
                self.0.recover();
                Ok(Delivered::up_to(0, Vec::new()))
            }
            _ => self.0.deliver(batch).await,
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        Ok(())
    }

    fn takes(&self, event: &SinkEvent) -> bool {
        !event.json.contains("\"number\":1}")
    }
}

#[tokio::test]
async fn a_sink_that_panics_or_takes_nothing_is_tried_again() {
    let inner = TestSink::new("inner");
    let events = EventStore::builder()
        .sink(Unruly(inner.clone()))
        .build()
        .await
        .unwrap();
    publish(&events, 0..4).await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(
        numbers(&inner),
        [0, 2, 3],
        "and what it does not take is passed over"
    );
    let stats = &events.stats().sinks[0];
    assert_eq!((stats.delivered, stats.passed_over), (3, 1));
    assert_eq!(stats.retries, 2);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn publishing_takes_no_longer_with_a_sink_that_is_slow() {
    let scratch = Scratch::new();
    let sink = TestSink::new("slow");
    sink.delay(Duration::from_secs(1));
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    let began = Instant::now();
    publish(&events, 0..50).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    events.shutdown(Duration::from_millis(1)).await.unwrap_err();
}

#[tokio::test]
async fn a_full_journal_lets_user_events_go_before_what_is_not_delivered_is_counted() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    sink.fail("it is away");
    let events = EventStore::builder()
        .journal(scratch.file())
        .max_journal_bytes(400_000)
        .batch_size(20)
        .sink(sink.clone())
        .build()
        .await
        .unwrap();
    let padding = "x".repeat(900);
    for number in 0..1000_usize {
        let data = json!({ "number": number, "padding": padding });
        events.publish(Event::new("test.event").data(data));
        if number % 10 == 0 {
            let lifecycle = temporal_eventstore::event::LifecycleEvent::WorkflowStart.event();
            events.publish(lifecycle.data(json!({ "number": number })));
        }
    }
    until("the journal made room", || events.stats().lost > 0).await;
    until("it is all written", || events.stats().written == 1100).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let lost = events.stats().lost;
    sink.recover();
    events.flush(TIMEOUT * 4).await.unwrap();
    let received = sink.received();
    let lifecycle = received
        .iter()
        .filter(|event| event.event_name == "workflow_start")
        .count();
    assert_eq!(lifecycle, 100, "these go last");
    assert_eq!(received.len() as u64 + lost, 1100);
    // What is delivered makes room without being lost. In turns: more than the cap that the sink has
    // not taken yet could be lost when room is made just then.
    for _ in 0..20 {
        for number in 0..50_usize {
            let data = json!({ "number": number, "padding": padding });
            events.publish(Event::new("test.event").data(data));
        }
        events.flush(TIMEOUT * 4).await.unwrap();
    }
    until("there is room", || events.stats().journal_bytes < 400_000).await;
    assert_eq!(events.stats().lost, lost);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn in_memory_what_sinks_have_makes_room() {
    let sink = TestSink::new("sink");
    let events = EventStore::builder()
        .queue_size(50)
        .sink(sink.clone())
        .build()
        .await
        .unwrap();
    // An awaited receipt means that the sinks have it: there is nothing else that lasts.
    for number in 0..200 {
        events.publish(numbered(number)).await.unwrap();
        assert_eq!(sink.received().len(), number + 1);
    }
    assert_eq!(numbers(&sink), up_to(200));
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(events.stats().lost, 0);
    assert_eq!(events.stats().journal_events, 0);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn the_same_sink_twice_is_an_error_that_names_it() {
    let sink: Arc<dyn Sink> = Arc::new(TestSink::new("sink"));
    let error = EventStore::builder()
        .sink(sink.clone())
        .sink(sink)
        .build()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, BuildError::SameSinkTwice { name } if name == "sink"),
        "{error}"
    );
}

#[tokio::test]
async fn checks_ask_the_sinks_now() {
    let (up, down) = (TestSink::new("up"), TestSink::new("down"));
    let events = open(None, &[up, down.clone()]).await;
    down.fail("it is away");
    let checks = events.check_sinks().await;
    assert_eq!((&*checks[0].name, &checks[0].result), ("up", &Ok(())));
    assert_eq!(checks[1].name, "down");
    assert_eq!(checks[1].result, Err(SinkError::new("it is away")));
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Takes so many events at once, and is too slow for more.
#[derive(Debug)]
struct Slow(TestSink, usize);

#[async_trait::async_trait]
impl Sink for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        if batch.len() > self.1 {
            return Err(SinkError::new("it takes too long"));
        }
        self.0.deliver(batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        panic!("on purpose")
    }

    fn takes(&self, event: &SinkEvent) -> bool {
        assert!(!event.json.contains("\"number\":1}"), "on purpose");
        true
    }
}

#[tokio::test]
async fn a_batch_that_is_too_much_is_made_smaller() {
    let inner = TestSink::new("inner");
    inner.fail("not yet");
    let events = EventStore::builder()
        .batch_size(100)
        .sink(Slow(inner.clone(), 10))
        .build()
        .await
        .unwrap();
    for number in 0..100 {
        drop(events.publish(numbered(number)));
    }
    until("the sink fails", || events.stats().sinks[0].retries > 2).await;
    inner.recover();
    events.flush(TIMEOUT * 2).await.unwrap();
    // One about which the sink panics when asked whether it takes it is among them.
    assert_eq!(numbers(&inner), up_to(100));
    let checks = events.check_sinks().await;
    assert_eq!(checks[0].result, Err(SinkError::new("it panicked")));
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn sinks_go_on_with_a_damaged_journal() {
    let scratch = Scratch::new();
    std::fs::write(scratch.file(), vec![0x5a; 8192]).unwrap();
    let sink = TestSink::new("sink");
    let events = open(Some(&scratch.file()), std::slice::from_ref(&sink)).await;
    for number in 0..50 {
        drop(events.publish(numbered(number)));
    }
    until("the sink has everything", || sink.received().len() == 50).await;
    assert_eq!(numbers(&sink), up_to(50));
    assert!(matches!(events.health(), Health::Degraded { .. }));
    let error = events.shutdown(TIMEOUT).await.unwrap_err();
    assert!(matches!(error, FlushError::Journal(_)), "{error}");
    assert_eq!(events.stats().lost, 0);
}

#[tokio::test]
async fn in_memory_nobody_waits_for_a_sink_for_ever() {
    let sink = TestSink::new("sink");
    sink.fail("it is away");
    let events = EventStore::builder()
        .commit_timeout(Duration::from_millis(200))
        .sink(sink.clone())
        .build()
        .await
        .unwrap();
    let error = tokio::time::timeout(TIMEOUT, events.publish(numbered(0))).await;
    let error = error.expect("an answer").unwrap_err();
    assert!(matches!(error, PublishError::SinksBehind { .. }), "{error}");
    sink.recover();
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(numbers(&sink), [0], "it stayed queued");
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn in_memory_the_newest_event_never_makes_room() {
    let sink = TestSink::new("sink");
    sink.fail("it is away");
    let events = EventStore::builder()
        .queue_size(10)
        .sink(sink.clone())
        .build()
        .await
        .unwrap();
    for number in 0..20 {
        let lifecycle = temporal_eventstore::event::LifecycleEvent::WorkflowStart.event();
        drop(events.publish(lifecycle.data(json!({ "number": number }))));
        until("it is written", || events.stats().written == number + 1).await;
    }
    drop(events.publish(numbered(20)));
    until("it is written", || events.stats().written == 21).await;
    sink.recover();
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(numbers(&sink).last(), Some(&20));
    // What the sink had in hand is counted as lost, and may arrive all the same.
    assert!(sink.received().len() as u64 + events.stats().lost >= 21);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn who_shuts_down_meanwhile_waits_for_the_same_end() {
    let sink = TestSink::new("sink");
    sink.delay(Duration::from_millis(300));
    let events = open(None, std::slice::from_ref(&sink)).await;
    for number in 0..20 {
        drop(events.publish(numbered(number)));
    }
    let (first, second) = tokio::join!(events.shutdown(TIMEOUT), events.shutdown(TIMEOUT));
    first.unwrap();
    second.unwrap();
    assert_eq!(numbers(&sink), up_to(20));
    // A failure is everybody's.
    sink.fail("it is away");
    let events = open(None, &[sink]).await;
    drop(events.publish(numbered(0)));
    let soon = Duration::from_millis(100);
    let (first, second) = tokio::join!(events.shutdown(soon), events.shutdown(TIMEOUT));
    assert!(matches!(first, Err(FlushError::SinksBehind { .. })));
    assert!(matches!(second, Err(FlushError::SinksBehind { .. })));
}

#[test]
fn options_show_no_password() {
    let mut options = EventStoreOptions::default();
    options.stores = vec!["sqlite:a.db,nats://user:hunter2@host/subject?token=hunter3".to_owned()];
    let text = format!("{options:?}");
    assert!(
        text.contains("sqlite:a.db,nats://***@host/subject"),
        "{text}"
    );
    assert!(!text.contains("hunter"), "{text}");
}
