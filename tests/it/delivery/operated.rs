//! What operators do: they say where a new sink begins and how long it is tried, pause it, leave events out, and look
//! after dead letters one by one.

use super::{
    Scratch, TIMEOUT, numbered, numbers, publish,
    refused::{Endpoint, dead, odd},
    until, up_to,
};
use futures::FutureExt as _;
use serde_json::json;
use std::{
    path::Path,
    time::{Duration, Instant},
};
use temporal_eventstore::{
    ControlError, Event, EventReader, EventStore, SinkPosition, testing::TestSink,
};

/// A store in a file that also delivers to an endpoint, with these parameters in its URL.
async fn open(file: &Path, endpoint: &Endpoint, parameters: &str) -> EventStore {
    EventStore::builder()
        .store(format!("sqlite:{}", file.display()))
        .store(format!(
            "http://{}/in?eventstore.name=in&{parameters}",
            endpoint.server.address()
        ))
        .batch_size(10)
        .build()
        .await
        .unwrap()
}

async fn filled(file: &Path, range: std::ops::Range<usize>) {
    let url = format!("sqlite:{}", file.display());
    let events = EventStore::builder().store(url).build().await.unwrap();
    publish(&events, range).await;
    events.shutdown(TIMEOUT).await.unwrap();
}

/// A cursor as it stands in the file.
fn cursor(file: &Path, name: &str) -> Option<u64> {
    let file = rusqlite::Connection::open(file).unwrap();
    file.query_row("SELECT seq FROM cursors WHERE name = ?1", [name], |row| {
        row.get(0)
    })
    .ok()
}

#[tokio::test]
async fn a_new_sink_begins_now_and_that_is_decided_once() {
    let scratch = Scratch::new();
    filled(&scratch.file(), 0..5).await;
    let endpoint = Endpoint::start().await;
    let from_now = "eventstore.from=now";
    let events = open(&scratch.file(), &endpoint, from_now).await;
    // Known, and written down, before anything can be published.
    assert_eq!(events.stats().sinks[0].position, 5);
    assert_eq!(cursor(&scratch.file(), "sink in"), Some(5));
    // Nothing of it is taken before the restart.
    endpoint.refuse_all(true);
    publish(&events, 5..7).await;
    events.shutdown(TIMEOUT / 10).await.unwrap_err();
    endpoint.refuse_all(false);
    let events = open(&scratch.file(), &endpoint, from_now).await;
    publish(&events, 7..8).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(endpoint.taken(), [5, 6, 7]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn in_an_empty_journal_now_is_decided_once_too() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    endpoint.refuse_all(true);
    let from_now = "eventstore.from=now";
    let events = open(&scratch.file(), &endpoint, from_now).await;
    publish(&events, 0..2).await;
    events.shutdown(TIMEOUT / 10).await.unwrap_err();
    endpoint.refuse_all(false);
    let events = open(&scratch.file(), &endpoint, from_now).await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(endpoint.taken(), [0, 1]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_new_sink_begins_at_a_time_or_at_the_beginning() {
    let scratch = Scratch::new();
    filled(&scratch.file(), 0..3).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    // Events know the second in which they were stored.
    let time = (chrono::Utc::now() - Duration::from_secs(1)).to_rfc3339();
    filled(&scratch.file(), 3..6).await;
    for (from, wanted) in [
        (time.as_str(), 3..6),
        ("2020-01-01T00:00:00Z", 0..6),
        ("2120-01-01T00:00:00%2B02:00", 6..6),
        ("beginning", 0..6),
    ] {
        let endpoint = Endpoint::start().await;
        let parameters = format!("eventstore.from={from}&eventstore.name={}", wanted.start);
        let name = format!("{parameters}-{}", from.len());
        let events = open(&scratch.file(), &endpoint, &name).await;
        // Begins before it is looked at.
        until("it has begun", || events.stats().sinks[0].behind == 0).await;
        events.flush(TIMEOUT).await.unwrap();
        assert_eq!(endpoint.taken(), wanted.collect::<Vec<u64>>(), "{from}");
        events.shutdown(TIMEOUT).await.unwrap();
    }
}

fn stuck(number: usize) -> Event {
    Event::new("test.event").data(json!({ "number": number, "stuck": true }))
}

#[tokio::test]
async fn after_so_many_attempts_an_event_is_given_up() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = open(&scratch.file(), &endpoint, "eventstore.max_attempts=4").await;
    publish(&events, 0..1).await;
    drop(events.publish(stuck(1)));
    publish(&events, 2..4).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(endpoint.taken(), [0, 2, 3]);
    let letters = events.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let reason = &letters[0].reason;
    assert!(
        reason.contains("after 4 attempts") && reason.contains("503"),
        "{reason}"
    );
    // So is one that is refused by a place that refuses everything.
    endpoint.refuse_all(true);
    for number in 4..20 {
        drop(events.publish(numbered(number)));
    }
    let first_is_gone = || events.stats().sinks[0].rejected > 1;
    until("the first one is given up", first_is_gone).await;
    endpoint.refuse_all(false);
    events.flush(TIMEOUT * 4).await.unwrap();
    let mut all = endpoint.taken();
    all.extend(dead(&events).await);
    all.sort_unstable();
    assert_eq!(all, up_to(20));
    let letters = events.dead_letters(0, 100).await.unwrap();
    assert!(letters.len() < 10, "{letters:?}");
    assert!(
        letters[1].reason.contains("after 4 attempts"),
        "{letters:?}"
    );
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_refused_event_before_one_that_fails_is_given_up_too() {
    let scratch = Scratch::new();
    let endpoint = Endpoint::start().await;
    let events = open(&scratch.file(), &endpoint, "eventstore.max_attempts=2").await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    drop(events.publish(odd(1)));
    drop(events.publish(stuck(2)));
    publish(&events, 3..4).await;
    events.flush(TIMEOUT * 3).await.unwrap();
    assert_eq!(endpoint.taken(), [0, 3]);
    assert_eq!(dead(&events).await, [1, 2]);
    let letters = events.dead_letters(0, 10).await.unwrap();
    for (letter, status) in letters.iter().zip(["409", "503"]) {
        let reason = &letter.reason;
        assert!(
            reason.contains("after 2 attempts") && reason.contains(status),
            "{reason}"
        );
    }
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn at_an_age_events_are_given_up_and_without_a_bound_never() {
    let scratch = Scratch::new();
    let mut endpoint = Endpoint::start().await;
    endpoint.server.stop().await;
    let events = open(&scratch.file(), &endpoint, "eventstore.max_age=1s").await;
    for number in 0..3 {
        drop(events.publish(numbered(number)));
    }
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(dead(&events).await, [0, 1, 2]);
    let letters = events.dead_letters(0, 10).await.unwrap();
    assert!(letters[0].reason.contains("at an age of"), "{letters:?}");
    endpoint.server.start_again().await;
    publish(&events, 3..4).await;
    events.flush(TIMEOUT * 2).await.unwrap();
    assert_eq!(endpoint.taken(), [3]);
    events.shutdown(TIMEOUT).await.unwrap();
}

async fn with(file: &Path, sink: &TestSink) -> EventStore {
    super::open(Some(file), std::slice::from_ref(sink)).await
}

#[tokio::test]
async fn a_paused_sink_gets_nothing_until_it_is_resumed() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = with(&scratch.file(), &sink).await;
    publish(&events, 0..2).await;
    events.flush(TIMEOUT).await.unwrap();
    events.pause_sink("sink").await.unwrap();
    publish(&events, 2..4).await;
    // Nobody waits for it.
    events.flush(TIMEOUT).await.unwrap();
    let stats = &events.stats().sinks[0];
    assert!(
        stats.is_paused && stats.failing.is_none() && stats.behind == 2,
        "{stats:?}"
    );
    events.shutdown(TIMEOUT).await.unwrap();
    // A restart changes nothing about it.
    let events = with(&scratch.file(), &sink).await;
    publish(&events, 4..5).await;
    until("it is known", || events.stats().sinks[0].is_paused).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(numbers(&sink), [0, 1]);
    events.resume_sink("sink").await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), up_to(5));
    // One that was not paused goes on; twice is once.
    events.resume_sink("sink").await.unwrap();
    events.pause_sink("sink").await.unwrap();
    events.pause_sink("sink").await.unwrap();
    events.resume_sink("sink").await.unwrap();
    publish(&events, 5..6).await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), up_to(6));
    assert!(!events.stats().sinks[0].is_paused);
    let error = events.pause_sink("other").await.unwrap_err();
    assert!(error.to_string().contains("there are sink"), "{error}");
    events.shutdown(TIMEOUT).await.unwrap();
}

/// On one thread, on which the sink's task cannot end before its caller waits.
#[tokio::test]
async fn a_command_that_is_cancelled_is_carried_out() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = with(&scratch.file(), &sink).await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    assert!(events.resume_sink("sink").now_or_never().is_none());
    publish(&events, 1..2).await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), [0, 1]);
    assert!(events.pause_sink("sink").now_or_never().is_none());
    until("it is paused", || events.stats().sinks[0].is_paused).await;
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_pause_is_durable_when_the_call_returns() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = with(&scratch.file(), &sink).await;
    events.pause_sink("sink").await.unwrap();
    assert_eq!(cursor(&scratch.file(), "paused sink"), Some(1));
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_sink_goes_on_where_it_was_while_the_file_cannot_be_written() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = with(&scratch.file(), &sink).await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    sink.fail("it is away");
    publish(&events, 1..4).await;
    until("it fails", || events.stats().sinks[0].failing.is_some()).await;
    assert_eq!(events.read_after(0, 10).await.unwrap().len(), 4);
    let lock = rusqlite::Connection::open(scratch.file()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // In effect at once, although it is not durable yet.
    let pausing = tokio::time::timeout(Duration::from_millis(300), events.pause_sink("sink"));
    assert!(pausing.await.is_err());
    assert!(events.stats().sinks[0].is_paused);
    sink.recover();
    events.resume_sink("sink").await.unwrap();
    until("it has all", || numbers(&sink) == up_to(4)).await;
    // Nothing comes twice, although the file does not know how far it is.
    events.resume_sink("sink").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(numbers(&sink), up_to(4));
    lock.execute_batch("ROLLBACK").unwrap();
    events.flush(TIMEOUT).await.unwrap();
    let stats = &events.stats().sinks[0];
    assert!(!stats.is_paused && stats.delivered == 4, "{stats:?}");
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn an_operator_leaves_events_out() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    let events = with(&scratch.file(), &sink).await;
    publish(&events, 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    sink.fail("it is away");
    publish(&events, 1..5).await;
    until("it fails", || events.stats().sinks[0].failing.is_some()).await;
    let stored = events.read_after(0, 10).await.unwrap();
    let third = stored[3].position;
    assert_eq!(events.skip_sink("sink", third).await.unwrap(), 3);
    for position in [third - 1, third + 100] {
        let error = events.skip_sink("sink", position).await.unwrap_err();
        assert!(
            matches!(error, ControlError::InvalidPosition { .. }),
            "{error}"
        );
    }
    sink.recover();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), [0, 4]);
    // While it is paused, too, and it stays so.
    events.pause_sink("sink").await.unwrap();
    publish(&events, 5..7).await;
    let next = events.read_after(0, 10).await.unwrap()[5].position;
    assert_eq!(events.skip_sink("sink", next).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(events.stats().sinks[0].is_paused);
    events.resume_sink("sink").await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(numbers(&sink), [0, 4, 6]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_looked_after_one_by_one() {
    let scratch = Scratch::new();
    let sink = TestSink::new("sink");
    sink.reject(|event| event.json.contains("odd").then(|| "it is odd".to_owned()));
    let events = with(&scratch.file(), &sink).await;
    for number in 0..4 {
        drop(events.publish(odd(number)));
    }
    events.flush(TIMEOUT).await.unwrap();
    let letters = events.dead_letters(0, 10).await.unwrap();
    let [first, second, third, _] = &letters[..] else {
        panic!("{letters:?}");
    };
    let shown = events.dead_letter("sink", second.position).await.unwrap();
    assert_eq!(shown.as_ref(), Some(second));
    assert_eq!(
        events.dead_letter("other", second.position).await.unwrap(),
        None
    );
    assert!(
        events
            .delete_dead_letter("sink", second.position)
            .await
            .unwrap()
    );
    assert!(
        !events
            .delete_dead_letter("sink", second.position)
            .await
            .unwrap()
    );
    assert_eq!(dead(&events).await, [0, 2, 3]);
    // Still rejected; then taken; then not there.
    let send = async |position| events.redeliver_one("sink", position).await.unwrap();
    assert_eq!(send(first.position).await, Some(false));
    sink.reject(|_| None);
    assert_eq!(send(third.position).await, Some(true));
    assert_eq!(send(third.position).await, None);
    assert_eq!(dead(&events).await, [0, 3]);
    assert_eq!(numbers(&sink), [2]);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Otherwise nobody who looks from outside learns of a URL that never worked.
#[tokio::test]
async fn a_sink_that_never_took_anything_is_known_to_readers() {
    let scratch = Scratch::new();
    let sink = TestSink::new("wrong");
    sink.fail("there is no such host");
    let events = EventStore::builder()
        .store(format!("sqlite:{}", scratch.file().display()))
        .sink(sink)
        .build()
        .await
        .unwrap();
    publish(&events, 0..3).await;
    let url = format!("sqlite:{}", scratch.file().display());
    let reader = EventReader::open(&url).await.unwrap();
    let mut known = Vec::new();
    let deadline = Instant::now() + TIMEOUT;
    let is_there = |known: &[SinkPosition]| known.iter().any(|sink| sink.behind == 3);
    while !is_there(&known) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        known = reader.sinks().await.unwrap();
    }
    let known: Vec<_> = known
        .iter()
        .map(|sink| (&*sink.name, sink.position, sink.behind))
        .collect();
    assert_eq!(known, [("wrong", 0, 3)]);
    events.shutdown(TIMEOUT / 10).await.unwrap_err();
}
