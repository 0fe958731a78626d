//! The timeline page: one file without network. What people see is drawn by the scripts in `page/`; this makes their
//! data, and the table for whoever has no JavaScript. Pure.
//!
//! The policy in the page lets exactly its own script and its own style run, by their hashes, and nothing be loaded. The
//! data stands in a script element that is no script.

use super::{
    model::{Activity, Attempt, Failure, Mark, Model, Outcome, Run, Time, milliseconds},
    words,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

const BODY: &str = include_str!("page/body.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = concat!(
    "'use strict';\n(() => {\n",
    include_str!("page/data.js"),
    include_str!("page/time.js"),
    include_str!("page/shapes.js"),
    include_str!("page/draw.js"),
    include_str!("page/details.js"),
    include_str!("page/input.js"),
    "})();\n"
);

/// What stands above the timeline.
pub(super) struct Heading<'a> {
    pub(super) title: &'a str,
    pub(super) store: &'a str,
    pub(super) now: Time,
    pub(super) redacted: bool,
}

/// Returns the page.
pub(super) fn page(model: &Model, heading: &Heading<'_>) -> Result<String, serde_json::Error> {
    // In JSON a `<` stands only in texts, where it may be written so.
    let data = serde_json::to_string(&data(model, heading))?.replace('<', "\\u003c");
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let title = escaped(heading.title);
    let table = table(model, heading);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{title} · timeline</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{BODY}\
         <noscript>\n{table}</noscript>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n"
    ))
}

/// A source expression of the policy that allows this text.
fn hash(text: &str) -> String {
    let digest = BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!("sha256-{digest}")
}

/// The data of the page. Names are short, since there are many; times are milliseconds after `origin`.
fn data(model: &Model, heading: &Heading<'_>) -> Value {
    let origin = model.first.unwrap_or(heading.now);
    let moment = Moments { origin };
    let runs: Vec<Value> = model.runs.iter().map(|run| moment.run(run)).collect();
    let workers: Vec<Value> = model
        .workers
        .iter()
        .map(|worker| {
            json!({
                "name": worker.worker_identity,
                "queue": worker.task_queue,
                "a": moment.of(worker.started_at),
                "b": moment.of(worker.ended_at),
                "ids": [worker.start_event_id, worker.end_event_id],
            })
        })
        .collect();
    json!({
        "title": heading.title,
        "store": heading.store,
        "redacted": heading.redacted,
        "origin": milliseconds(Time::UNIX_EPOCH, origin),
        "now": moment.of(Some(heading.now)),
        "last": moment.of(model.last),
        "events": model.events,
        "states": Outcome::ALL,
        "runs": runs,
        "activities": moment.activities(&model.standalone),
        "workers": workers,
        "marks": moment.marks(&model.marks),
    })
}

struct Moments {
    origin: Time,
}

impl Moments {
    /// To the microsecond.
    fn of(&self, time: Option<Time>) -> Option<f64> {
        let micros = (time? - self.origin).num_microseconds()?;
        Some(micros as f64 / 1000.0)
    }

    fn run(&self, run: &Run) -> Value {
        let fields = json!({
            "id": run.workflow_id,
            "run": run.run_id,
            "type": run.workflow_type,
            "s": run.state as u8,
            "a": self.of(run.started_at),
            "b": self.of(run.ended_at),
            "ms": run.duration_ms,
            "e": run.error.as_ref().map(Failure::to_string),
            "parent": run.parent,
            "queue": run.task_queue,
            "fields": run.fields,
            "by": run.detected_by,
            "from": run.continued_from_run_id,
            "ids": [run.start_event_id, run.end_event_id],
            "acts": self.activities(&run.activities),
            "marks": self.marks(&run.marks),
        });
        without_empty(fields)
    }

    fn activities(&self, activities: &[Activity]) -> Vec<Value> {
        let activity = |activity: &Activity| {
            let attempts = activity
                .attempts
                .iter()
                .map(|attempt| self.attempt(attempt));
            without_empty(json!({
                "id": activity.activity_id,
                "type": activity.activity_type,
                "local": activity.is_local.then_some(true),
                "tries": attempts.collect::<Vec<_>>(),
            }))
        };
        activities.iter().map(activity).collect()
    }

    fn attempt(&self, attempt: &Attempt) -> Value {
        without_empty(json!({
            "n": attempt.attempt,
            "s": attempt.status as u8,
            "a": self.of(attempt.started_at),
            "b": self.of(attempt.ended_at),
            "ms": attempt.duration_ms,
            "e": attempt.error.as_ref().map(Failure::to_string),
            "final": attempt.error.as_ref().is_some_and(|error| error.non_retryable).then_some(true),
            "w": attempt.worker_identity,
            "ids": [attempt.start_event_id, attempt.end_event_id],
        }))
    }

    fn marks(&self, marks: &[Mark]) -> Vec<Value> {
        let mark = |mark: &Mark| {
            without_empty(json!({
                "at": self.of(Some(mark.at)),
                "name": mark.event_name,
                "type": mark.event_type,
                "id": mark.event_id,
                "data": mark.data,
                "act": mark.activity_id,
            }))
        };
        marks.iter().map(mark).collect()
    }
}

/// A value without the fields that say nothing.
fn without_empty(value: Value) -> Value {
    let Value::Object(fields) = value else {
        return value;
    };
    let says_something = |value: &Value| match value {
        Value::Null => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let fields = fields
        .into_iter()
        .filter(|(_, value)| says_something(value));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}

/// The same as a table, for whoever has no JavaScript.
fn table(model: &Model, heading: &Heading<'_>) -> String {
    let mut rows: Vec<(Option<Time>, String)> = Vec::new();
    let mut row = |at: Option<Time>, cells: [&str; 5]| {
        let mut html = String::new();
        let time = at.map(words::exactly).unwrap_or_default();
        for cell in [time.as_str()].into_iter().chain(cells) {
            // Writing to a string does not fail.
            write!(html, "<td>{}</td>", escaped(cell)).ok();
        }
        rows.push((at, html));
    };
    for run in &model.runs {
        let error = run
            .error
            .as_ref()
            .map(Failure::to_string)
            .unwrap_or_default();
        let took = run.duration_ms.map(words::duration).unwrap_or_default();
        let what = format!("workflow {}", run.workflow_type);
        row(
            run.started_at,
            [&run.workflow_id, &what, run.state.as_str(), &took, &error],
        );
        attempt_rows(&run.workflow_id, &run.activities, &mut row);
        for mark in &run.marks {
            let what = format!("event {}", mark.event_name);
            row(Some(mark.at), [&run.workflow_id, &what, "", "", ""]);
        }
    }
    attempt_rows("", &model.standalone, &mut row);
    for mark in &model.marks {
        row(
            Some(mark.at),
            ["", &format!("event {}", mark.event_name), "", "", ""],
        );
    }
    rows.sort_by_key(|(at, _)| *at);
    let mut html = format!(
        "<main class=\"plain\">\n<h1>{}</h1>\n<p>{} from {}. With JavaScript this page is a timeline.</p>\n<table>\n\
         <thead><tr><th>Began</th><th>Workflow</th><th>What</th><th>Outcome</th><th>Took</th><th>Error</th></tr>\
         </thead>\n<tbody>\n",
        escaped(heading.title),
        words::count(model.events, "event"),
        escaped(heading.store)
    );
    for (_, row) in rows {
        writeln!(html, "<tr>{row}</tr>").ok();
    }
    html.push_str("</tbody>\n</table>\n</main>\n");
    html
}

fn attempt_rows(
    workflow_id: &str,
    activities: &[Activity],
    row: &mut impl FnMut(Option<Time>, [&str; 5]),
) {
    for activity in activities {
        for attempt in &activity.attempts {
            let error = attempt
                .error
                .as_ref()
                .map(Failure::to_string)
                .unwrap_or_default();
            let took = attempt.duration_ms.map(words::duration).unwrap_or_default();
            let what = format!("activity {} #{}", activity.activity_type, attempt.attempt);
            let cells = [workflow_id, &what, attempt.status.as_str(), &took, &error];
            row(attempt.started_at, cells);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::model::model,
        event::{EventId, StoredEvent, lifecycle::workflow_start},
    };

    fn text() -> String {
        let mut event = workflow_start()
            .metadata("workflow_id", "</script><script>alert(1)</script>")
            .metadata("workflow_run_id", "r")
            .metadata("workflow_type", "<b>Order</b>");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(Time::UNIX_EPOCH);
        let model = model(&[StoredEvent::new(1, &event).unwrap()]);
        let heading = Heading {
            title: "<i>title</i>",
            store: "sqlite:a.db",
            now: Time::UNIX_EPOCH,
            redacted: false,
        };
        page(&model, &heading).unwrap()
    }

    fn between<'a>(text: &'a str, before: &str, behind: &str) -> &'a str {
        let (_, rest) = text.split_once(before).unwrap();
        rest.split_once(behind).unwrap().0
    }

    #[test]
    fn what_events_say_is_never_markup() {
        let text = text();
        assert_eq!(text.matches("<script").count(), 2);
        for markup in ["<b>Order", "<i>title", "alert(1)</script>"] {
            assert!(!text.contains(markup), "{markup}");
        }
        let data = between(&text, "id=\"data\">", "</script>");
        let data: Value = serde_json::from_str(data).unwrap();
        let id = &data["runs"][0]["id"];
        assert_eq!(id, "</script><script>alert(1)</script>");
    }

    #[test]
    fn the_policy_allows_its_own_script_and_style_and_nothing_else() {
        let text = text();
        let policy = between(&text, "Content-Security-Policy\" content=\"", "\"");
        let script = between(&text, "<script>", "</script>");
        let style = between(&text, "<style>", "</style>");
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        for part in [script, style] {
            assert!(policy.contains(&hash(part)), "{policy}");
        }
        for remote in [
            "http://",
            "https://",
            "url(",
            "@import",
            " style=\"",
            " onclick",
        ] {
            assert!(!text.contains(remote), "{remote}");
        }
    }
}
