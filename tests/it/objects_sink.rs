//! Objects of a store, and files of a folder, as whoever analyses them reads them: each event once, whatever happens.

use crate::support::{
    conformance::{batch, event},
    proxy::Proxy,
    python::duckdb,
    target_objects::{ObjectServer, lines},
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Event, EventId, EventStore, Health,
    sink::{self, Delivered, Sink, SinkEvent},
};

const TIMEOUT: Duration = Duration::from_secs(15);

fn open(folder: &Path, parameters: &str) -> std::sync::Arc<dyn Sink> {
    sink::open(&format!("file://{}{parameters}", folder.display())).unwrap()
}

/// The files below a folder, in the order of their names, without those that a program was killed in the midst of.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.display().to_string().contains('#') => {}
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn objects(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |file: PathBuf| (file.display().to_string(), std::fs::read(&file).unwrap());
    files(folder).into_iter().map(read).collect()
}

fn ids(lines: &[String]) -> Vec<EventId> {
    let events = lines.iter().map(|line| Event::from_json(line).unwrap());
    events
        .map(|event| event.metadata.event_id.unwrap())
        .collect()
}

/// An event of a workflow type, at a time.
fn at(position: u64, workflow_type: &str, time: &str) -> SinkEvent {
    let mut event = event(position, "order-1").event().unwrap();
    event.metadata.workflow_type = Some(workflow_type.into());
    event.metadata.created_at = Some(time.parse().unwrap());
    SinkEvent::new(position, &event).unwrap()
}

async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) {
    assert_eq!(sink.deliver(batch).await, Ok(Delivered::all(batch)));
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < TIMEOUT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_analyst_finds_each_event_once_however_batches_were_cut() {
    let folder = tempfile::tempdir().unwrap();
    // Over midnight, and back: one that happened the day before comes late.
    let time = |position: u64| match position {
        1..=50 | 70 => format!("2026-01-30T23:59:{:02}Z", position % 60),
        _ => format!("2026-01-31T00:00:{:02}Z", position % 60),
    };
    let kind = |position: u64| ["Order", "Refund"][usize::from(position.is_multiple_of(3))];
    let events: Vec<SinkEvent> = (1..=100)
        .map(|position| at(position, kind(position), &time(position)))
        .collect();
    let sink = open(folder.path(), "");
    takes(&*sink, &events[..60]).await;
    // As if the program had been ended before it wrote down what was delivered.
    takes(&*open(folder.path(), ""), &events[40..45]).await;
    takes(&*open(folder.path(), ""), &events[30..80]).await;
    // With other files, too.
    takes(&*open(folder.path(), "?compression=gzip"), &events[55..]).await;
    // The first program was not ended after all, and knows nothing of what the others did.
    takes(&*sink, &events[60..90]).await;
    takes(&*sink, &events).await;
    let rows = duckdb(
        folder.path(),
        "SELECT day, count(*), count(DISTINCT metadata.event_id), count(DISTINCT journal) FROM FILES \
         GROUP BY day ORDER BY day",
    );
    assert_eq!(
        rows,
        [
            ["2026-01-30", "51", "51", "1"],
            ["2026-01-31", "49", "49", "1"]
        ]
    );
    let rows = duckdb(
        folder.path(),
        "SELECT metadata.workflow_type, count(*) FROM FILES WHERE day = '2026-01-31' GROUP BY 1 ORDER BY 1",
    );
    assert_eq!(rows, [["Order", "32"], ["Refund", "17"]]);
}

#[tokio::test]
async fn the_same_batch_makes_the_same_object_which_nobody_writes_again() {
    let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let events = batch(1, 30);
    takes(&*open(one.path(), ""), &events).await;
    takes(&*open(other.path(), ""), &events).await;
    let content = |folder: &Path| objects(folder).into_iter().map(|(_, bytes)| bytes);
    assert!(content(one.path()).eq(content(other.path())));
    let written = |file: &Path| std::fs::metadata(file).unwrap().modified().unwrap();
    let [file] = &files(one.path())[..] else {
        panic!("{:?}", files(one.path()));
    };
    let before = written(file);
    takes(&*open(one.path(), ""), &events[..10]).await;
    takes(&*open(one.path(), ""), &events).await;
    assert_eq!(files(one.path()), std::slice::from_ref(file));
    assert_eq!(written(file), before);
}

/// A journal that was restored from a copy gives positions again.
#[tokio::test]
async fn other_events_at_the_same_positions_are_not_taken_for_those_that_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let (lost, after) = (batch(1, 20), batch(1, 20));
    takes(&*open(folder.path(), "?compression=none"), &lost).await;
    takes(&*open(folder.path(), "?compression=none"), &after).await;
    let mut found = ids(&lines(&objects(folder.path())));
    let mut wanted: Vec<EventId> = lost.iter().chain(&after).map(|it| it.event_id).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_outage() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("mounted later");
    let sink = open(&parent.path().join("mounted%20later"), "");
    let events = batch(1, 3);
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("mounted later"), "{error}");
    sink.check().await.unwrap_err();
    assert!(!folder.exists());
    std::fs::create_dir(&folder).unwrap();
    sink.check().await.unwrap();
    takes(&*sink, &events).await;
    std::fs::remove_dir_all(&folder).unwrap();
    sink.deliver(&batch(4, 3)).await.unwrap_err();
    assert!(!folder.exists());
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let events = batch(1, 30);
    takes(&*open(folder.path(), ""), &events[..20]).await;
    let [file] = &files(folder.path())[..] else {
        panic!("{:?}", files(folder.path()));
    };
    std::fs::write(file, b"damaged").unwrap();
    let error = open(folder.path(), "").deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("00000000000000000001"), "{error}");
    assert_eq!(std::fs::read(file).unwrap(), b"damaged");
}

async fn store(directory: &Path, url: &str) -> EventStore {
    EventStore::builder()
        .store(url)
        .journal(directory.join("journal.db"))
        .build()
        .await
        .unwrap()
}

async fn publish(store: &EventStore, count: usize) {
    for number in 0..count {
        let event = Event::new("test.event").data(serde_json::json!({ "number": number }));
        store.publish(event).await.unwrap();
    }
}

#[tokio::test]
async fn an_object_is_closed_by_size_by_age_and_by_whoever_waits_for_it() {
    let [journal, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let url = |parameters: &str| format!("file://{}?{parameters}", folder.path().display());
    let count = || files(folder.path()).len();
    let events = store(journal.path(), &url("max_age=1h&max_size=8KiB")).await;
    publish(&events, 5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(count(), 0, "it waits for more");
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(count(), 1);
    publish(&events, 60).await;
    until("the size", || count() > 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sizes: Vec<usize> = objects(folder.path())
        .iter()
        .map(|object| lines(std::slice::from_ref(object)).join("\n").len())
        .collect();
    let is_as_told = |size: &usize| (8 * 1024 - 100..9 * 1024).contains(size);
    assert!(sizes[1..].iter().all(is_as_told), "{sizes:?}");
    events.shutdown(TIMEOUT).await.unwrap();
    let by_then = count();
    assert_eq!(lines(&objects(folder.path())).len(), 65);
    let events = store(journal.path(), &url("max_age=1s")).await;
    publish(&events, 5).await;
    until("the age", || count() == by_then + 1).await;
    assert_eq!(lines(&objects(folder.path())).len(), 70);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Without a journal's file, an event is durable once the sink has it: whoever waits for that waits for no age.
#[tokio::test]
async fn nobody_waits_for_an_object_to_fill_and_no_journal_in_memory_runs_full() {
    let folder = tempfile::tempdir().unwrap();
    let events = EventStore::builder()
        .store(format!("file://{}?max_age=1h", folder.path().display()))
        .queue_size(20)
        .build()
        .await
        .unwrap();
    let began = Instant::now();
    events.publish(Event::new("test.event")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    for _ in 0..30 {
        drop(events.publish(Event::new("test.event")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(events.stats().lost, 0);
    assert_eq!(lines(&objects(folder.path())).len(), 31);
}

#[tokio::test]
#[ignore = "run by the one below, as a child process that is killed"]
async fn publishes_until_it_is_killed() {
    let directory = PathBuf::from(std::env::var_os("OBJECTS").unwrap());
    let url = format!(
        "file://{}/folder?max_age=1s&max_size=2KiB",
        directory.display()
    );
    let events = store(&directory, &url).await;
    loop {
        publish(&events, 20).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn after_kills_the_folder_has_what_the_journal_has_each_event_once() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    for kill in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "objects_sink::publishes_until_it_is_killed",
            ])
            .env("OBJECTS", directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let before = files(&folder).len();
        until("the sink writes", || files(&folder).len() > before + 5).await;
        tokio::time::sleep(Duration::from_millis(7 * kill)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let events = store(directory.path(), &format!("file://{}", folder.display())).await;
    events.flush(TIMEOUT).await.unwrap();
    let mut wanted: Vec<SinkEvent> = Vec::new();
    loop {
        let after = wanted.last().map_or(0, |last| last.position);
        let more = events.read_after(after, 10_000).await.unwrap();
        if more.is_empty() {
            break;
        }
        wanted.extend(more);
    }
    events.shutdown(TIMEOUT).await.unwrap();
    let wanted: Vec<EventId> = wanted.iter().map(|event| event.event_id).collect();
    // In order, too.
    assert_eq!(ids(&lines(&objects(&folder))), wanted);
    let count = wanted.len().to_string();
    let question = "SELECT count(*), count(DISTINCT metadata.event_id) FROM FILES";
    assert_eq!(duckdb(&folder, question), [[count.clone(), count]]);
}

#[tokio::test]
async fn a_request_that_was_held_back_writes_nothing_that_is_there() {
    let server = ObjectServer::start();
    let network = Proxy::to(server.port()).await;
    let [at_it, before_it] = [server.port(), network.port()].map(|port| format!(":{port}/"));
    let sink = sink::open(&server.url("").replace(&at_it, &before_it)).unwrap();
    let events = batch(1, 90);
    takes(&*sink, &events[..30]).await;
    network.hold_back_later();
    let call = tokio::time::timeout(Duration::from_millis(500), sink.deliver(&events[30..60]));
    call.await.expect_err("it is held back");
    let held = network.hold_back();
    takes(&*sink, &events[30..45]).await;
    held.send_replace(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    takes(&*sink, &events[45..]).await;
    let wanted: Vec<EventId> = events.iter().map(|event| event.event_id).collect();
    assert_eq!(ids(&lines(&server.objects())), wanted);
}

#[tokio::test]
async fn a_bucket_that_refuses_the_credentials_or_is_away_gets_everything_in_the_end() {
    let server = ObjectServer::start();
    let directory = tempfile::tempdir().unwrap();
    let events = store(directory.path(), &server.url_with("hunter2", "&max_age=1s")).await;
    publish(&events, 10).await;
    until("the refusal is seen", || events.health() != Health::Healthy).await;
    let failing = events.stats().sinks[0].failing.clone().unwrap();
    assert!(
        failing.contains("403") && failing.contains("SignatureDoesNotMatch"),
        "{failing}"
    );
    assert!(!failing.contains("hunter2"), "{failing}");
    events
        .shutdown(Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(server.objects().is_empty());

    server.away();
    let events = store(directory.path(), &server.url("&max_age=1s")).await;
    publish(&events, 10).await;
    until("the outage is seen", || events.health() != Health::Healthy).await;
    server.back();
    events.flush(TIMEOUT * 2).await.unwrap();
    publish(&events, 10).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    server.copy_to(folder.path());
    let question = "SELECT count(*), count(DISTINCT metadata.event_id) FROM FILES";
    assert_eq!(duckdb(folder.path(), question), [["30", "30"]]);
    let objects = server.objects();
    assert!(
        objects
            .iter()
            .all(|(name, _)| name.starts_with("audit/day=20")),
        "{objects:?}"
    );
}

#[tokio::test]
#[ignore = "run by the one below, as a child process with an environment of its own"]
async fn delivers_to_the_sink_of_its_environment() {
    let sink = sink::open(&std::env::var("SINK_URL").unwrap()).unwrap();
    takes(&*sink, &batch(1, 3)).await;
}

#[test]
fn credentials_and_endpoint_come_from_the_environment() {
    let server = ObjectServer::start();
    let delivers = |secret: &str| {
        let child = "objects_sink::delivers_to_the_sink_of_its_environment";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", child])
            .env("SINK_URL", "s3://orders")
            .env("AWS_ENDPOINT", server.endpoint())
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", &server.key)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .output();
        output.unwrap().status.success()
    };
    assert!(!delivers("wrong"));
    assert!(delivers(&server.secret));
    assert_eq!(lines(&server.objects()).len(), 3);
}
