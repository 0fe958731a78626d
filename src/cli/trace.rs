//! A model as a trace in Chrome's format, which chrome://tracing and Perfetto open
//! (<https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>): each run is a process, and each
//! activity a track of it, with a slice for each attempt. Pure.

use super::model::{Activity, Failure, Model, Time};
use serde_json::{Value, json};

/// The track of a run itself.
const OF_RUN: usize = 0;

/// Returns the trace. What has not ended lasts up to `now`.
pub(super) fn trace(model: &Model, now: Time) -> Value {
    let mut events = Vec::new();
    for (index, run) in model.runs.iter().enumerate() {
        let process = index + 1;
        let title = format!("{} {}", run.workflow_type, run.workflow_id);
        name(&mut events, "process_name", process, OF_RUN, &title);
        name(&mut events, "thread_name", process, OF_RUN, "run");
        let arguments = json!({
            "workflow_id": run.workflow_id,
            "run_id": run.run_id,
            "state": run.state,
            "error": run.error.as_ref().map(Failure::to_string),
        });
        let what = run.workflow_type.clone();
        let times = (run.started_at, run.ended_at);
        slice(
            &mut events,
            (process, OF_RUN),
            what,
            "workflow",
            times,
            now,
            arguments,
        );
        for mark in &run.marks {
            events.push(json!({
                "name": mark.event_name, "cat": mark.event_type, "ph": "i", "s": "p",
                "ts": microseconds(mark.at), "pid": process, "tid": OF_RUN,
                "args": { "event_id": mark.event_id, "data": mark.data },
            }));
        }
        tracks(&mut events, process, &run.activities, now);
    }
    let standalone = model.runs.len() + 1;
    if !model.standalone.is_empty() {
        name(
            &mut events,
            "process_name",
            standalone,
            OF_RUN,
            "standalone activities",
        );
        tracks(&mut events, standalone, &model.standalone, now);
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

fn tracks(events: &mut Vec<Value>, process: usize, activities: &[Activity], now: Time) {
    for (index, activity) in activities.iter().enumerate() {
        let track = index + 1;
        let title = format!("{} ({})", activity.activity_type, activity.activity_id);
        name(events, "thread_name", process, track, &title);
        for attempt in &activity.attempts {
            let arguments = json!({
                "activity_id": activity.activity_id,
                "attempt": attempt.attempt,
                "status": attempt.status,
                "waited_ms": attempt.waited_ms,
                "worker_identity": attempt.worker_identity,
                "error": attempt.error.as_ref().map(Failure::to_string),
            });
            let what = format!("{} #{}", activity.activity_type, attempt.attempt);
            let times = (attempt.started_at, attempt.ended_at);
            slice(
                events,
                (process, track),
                what,
                "activity",
                times,
                now,
                arguments,
            );
        }
    }
}

fn name(events: &mut Vec<Value>, what: &str, process: usize, track: usize, text: &str) {
    events.push(json!({
        "name": what, "ph": "M", "pid": process, "tid": track, "args": { "name": text },
    }));
}

fn slice(
    events: &mut Vec<Value>,
    (process, track): (usize, usize),
    name: String,
    category: &str,
    (from, to): (Option<Time>, Option<Time>),
    now: Time,
    arguments: Value,
) {
    let Some(from) = from else { return };
    let to = to.unwrap_or(now).max(from);
    events.push(json!({
        "name": name, "cat": category, "ph": "X", "pid": process, "tid": track,
        "ts": microseconds(from), "dur": microseconds(to) - microseconds(from), "args": arguments,
    }));
}

fn microseconds(time: Time) -> i64 {
    time.timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::model::model,
        event::{
            ActivityStatus, Event, EventId, StoredEvent,
            lifecycle::{activity_end, activity_start, workflow_start},
        },
    };
    use chrono::DateTime;

    fn at(event: Event, ms: i64) -> StoredEvent {
        let mut event = event
            .metadata("workflow_id", "w")
            .metadata("workflow_run_id", "r")
            .metadata("workflow_type", "Order");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = DateTime::from_timestamp_millis(ms);
        StoredEvent::new(1, &event).unwrap()
    }

    fn of(event: Event, activity: &str, attempt: u32) -> Event {
        event
            .metadata("activity_id", activity)
            .metadata("activity_type", activity)
            .metadata("attempt", attempt)
    }

    #[test]
    fn each_activity_has_a_track_and_each_attempt_a_slice() {
        let end = |status| activity_end(status, 10.0, None);
        let model = model(&[
            at(workflow_start(), 0),
            at(of(activity_start(), "a", 1), 10),
            at(of(end(ActivityStatus::Failed), "a", 1), 20),
            at(of(activity_start(), "a", 2), 30),
            at(of(end(ActivityStatus::Completed), "a", 2), 40),
            at(of(activity_start(), "b", 1), 50),
        ]);
        let trace = trace(&model, DateTime::from_timestamp_millis(60).unwrap());
        let slices: Vec<_> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                (
                    event["name"].as_str().unwrap(),
                    event["tid"].clone(),
                    event["dur"].clone(),
                )
            })
            .collect();
        assert_eq!(
            slices,
            [
                ("Order", json!(0), json!(60_000)),
                ("a #1", json!(1), json!(10_000)),
                ("a #2", json!(1), json!(10_000)),
                ("b #1", json!(2), json!(10_000)),
            ]
        );
    }
}
