//! `stdout:` in a program of its own: this test's, started again.

use std::process::Command;
use temporal_eventstore::{
    Event, EventId,
    sink::{self, Delivered, SinkEvent},
};

const CHILD: &str = "writes_events";

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
