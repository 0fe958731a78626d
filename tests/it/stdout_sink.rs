//! `stdout:` in a program of its own: this test's, started again.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};
use temporal_eventstore::{
    Event, EventId,
    sink::{self, Delivered, SinkEvent},
};

const CHILD: &str = "stdout_sink::writes_events";

fn batch() -> Vec<SinkEvent> {
    (1..=3)
        .map(|position| {
            let mut event = Event::new("data.processed")
                .data(serde_json::json!({ "text": "Größe\n\"x\"", "position": position }));
            event.metadata.event_id = Some(EventId::from(uuid::Uuid::from_u128(position.into())));
            event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
            SinkEvent::new(position, &event).unwrap()
        })
        .collect()
}

#[tokio::test]
#[ignore = "run by the other one, as a child process"]
async fn writes_events() {
    let sink = sink::open("stdout:").unwrap();
    sink.check().await.unwrap();
    let batch = batch();
    assert_eq!(sink.deliver(&batch).await, Ok(Delivered::all(&batch)));
}

#[test]
fn each_event_is_a_line() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", CHILD, "--nocapture"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with('{')).collect();
    let wanted: Vec<_> = batch().into_iter().map(|event| event.json).collect();
    assert_eq!(lines, wanted);
}

#[test]
fn nothing_comes_after_the_colon() {
    for url in ["stdout:x", "stdout://", "stdout:?a=b"] {
        let error = sink::open(url).unwrap_err();
        assert!(error.reason.contains("nothing after"), "{error}");
    }
}

#[tokio::test]
#[ignore = "run by the one below, as a child process"]
async fn writes_to_a_reader_that_stands_still() {
    let sink = sink::open("stdout:").unwrap();
    // More than a pipe holds.
    let batch: Vec<_> = (1..=40)
        .map(|position| {
            let mut event = Event::new("data.processed")
                .data(serde_json::json!({ "position": position, "pad": "x".repeat(10_000) }));
            event.metadata.event_id = Some(EventId::from(uuid::Uuid::from_u128(position.into())));
            event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
            SinkEvent::new(position, &event).unwrap()
        })
        .collect();
    // Given up again and again, and by then as a smaller batch.
    for size in [40, 20, 10] {
        let call = sink.deliver(&batch[..size]);
        tokio::time::timeout(Duration::from_millis(100), call)
            .await
            .expect_err("nobody reads");
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < 10, "{threads} threads");
    eprintln!("read on");
    let mut rest = &batch[..];
    for size in [5, 15, 20] {
        let (now, later) = rest.split_at(size);
        assert_eq!(sink.deliver(now).await, Ok(Delivered::all(now)));
        rest = later;
    }
}

#[test]
fn a_reader_that_stands_still_costs_one_thread_and_gets_each_event_once() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "stdout_sink::writes_to_a_reader_that_stands_still",
        ])
        .arg("--nocapture")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The test's own head comes first, and after it nothing is read for a while.
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("read on")));
    let text = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    let positions: Vec<u64> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| {
            Event::from_json(line).unwrap().data["position"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(positions, (1..=40).collect::<Vec<_>>());
}
