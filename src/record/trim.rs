//! Keeps lifecycle events valid, so that they are never refused. A field that breaks a rule is left out, and a
//! text that is too long is shortened. Both are counted and logged with the name of the field, never with what it
//! held. Knows the rules of events, and not where events come from.

use crate::{
    event::{
        Event, EventError, EventMetadata, MAX_ERROR_BYTES, MAX_NAME_CHARACTERS, check_name,
        has_nul, is_shallow, is_traceparent,
    },
    said::Said,
};
use serde_json::{Map, Value};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// An error's text is shortened to no less than this; if that is still too long, it is left out.
const MIN_TEXT_BYTES: usize = 32;
/// The mark at the end of a shortened text.
const REST: char = '…';
/// The data that an end always keeps.
const ESSENTIAL_DATA: [&str; 2] = ["status", "duration_ms"];
/// The custom fields that the interceptors and the reconciler set.
const OWN_FIELDS: [&str; 2] = ["detected_by", "activity_run_id"];

/// Counts events that were trimmed, and logs it once in a while.
#[derive(Debug, Default)]
pub(crate) struct Trimmed {
    events: AtomicU64,
    said: Said,
}

impl Trimmed {
    pub(crate) fn count(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Counts an event in which `fields` were left out or shortened, unless there are none.
    pub(super) fn note(&self, fields: &[&'static str]) {
        if fields.is_empty() {
            return;
        }
        self.events.fetch_add(1, Relaxed);
        if self.said.is_due() {
            tracing::warn!(
                ?fields,
                all = self.count(),
                "fields of an event break a rule and were left out, or shortened; the event is stored"
            );
        }
    }
}

/// Notes a field at fault, once.
pub(super) fn at_fault(faults: &mut Vec<&'static str>, field: &'static str) {
    if !faults.contains(&field) {
        faults.push(field);
    }
}

/// Whether a field of a user frame keeps the rules of events.
pub(super) fn is_fit(name: &str, value: &Value) -> bool {
    let is_name = |field| {
        let text = value.as_str();
        text.is_some_and(|text| check_name(field, text).is_ok())
    };
    match name {
        "topic_name" => is_name("topic_name"),
        "application_name" => is_name("application_name"),
        "traceparent" => value.as_str().is_some_and(is_traceparent),
        _ => is_shallow(value) && !has_nul(value) && !name.contains('\0'),
    }
}

/// What a lifecycle event keeps whatever a filter does to it.
pub(super) struct Essence {
    event: Event,
}

impl Essence {
    /// Copies from an event, before the filter sees it: what happened, to which workflow or activity, and when,
    /// but nothing that users might want to redact.
    pub(super) fn of(event: &Event, application_name: &str) -> Self {
        let mut bare = Event::new(event.event_type.clone()).name(event.event_name.clone());
        bare.metadata = event.metadata.clone();
        bare.metadata.application_name = Some(application_name.to_owned());
        bare.metadata.topic_name = Some(event.event_type.clone());
        bare.metadata.custom = kept(&event.metadata.custom, &OWN_FIELDS);
        bare.data = kept(&event.data, &ESSENTIAL_DATA);
        Self { event: bare }
    }

    /// Returns the event that is stored if the filter panicked.
    pub(super) fn into_event(self) -> Event {
        self.event
    }

    /// Restores what makes the event valid.
    pub(super) fn restore(&self, event: &mut Event, faults: &mut Vec<&'static str>) {
        if event.event_type.is_empty() || check_name("event_type", &event.event_type).is_err() {
            event.event_type.clone_from(&self.event.event_type);
            at_fault(faults, "event_type");
        }
        if event.event_name.is_empty() || check_name("event_name", &event.event_name).is_err() {
            event.event_name.clone_from(&self.event.event_name);
            at_fault(faults, "event_name");
        }
        mend(event, faults);
    }
}

fn kept(fields: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let kept = names.iter().filter_map(|name| fields.get_key_value(*name));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Leaves out what breaks a rule, and shortens the texts of its error.
pub(super) fn mend(event: &mut Event, faults: &mut Vec<&'static str>) {
    if event.forget_problem() {
        at_fault(faults, "data");
    }
    let metadata = &mut event.metadata;
    if let Some(topic) = &metadata.topic_name
        && check_name("topic_name", topic).is_err()
    {
        metadata.topic_name = Some(event.event_type.clone());
        at_fault(faults, "topic_name");
    }
    if metadata
        .traceparent
        .as_deref()
        .is_some_and(|text| !is_traceparent(text))
    {
        metadata.traceparent = None;
        at_fault(faults, "traceparent");
    }
    mend_error(&mut event.data, faults);
    keep_only(&mut metadata.custom, "metadata", faults, |name, value| {
        !EventMetadata::is_known_field(name) && is_fit(name, value)
    });
    keep_only(&mut event.data, "data", faults, |_, value| {
        is_shallow(value) && !has_nul(value)
    });
    keep_only(&mut event.extra, "fields", faults, |name, value| {
        !Event::is_known_field(name) && is_shallow(value) && !has_nul(value)
    });
}

/// Whether [`mend`] would leave this event, which passed validation, as it is.
pub(super) fn is_whole(event: &Event) -> bool {
    let is_short = |value: &Value| value.as_str().is_none_or(|it| it.len() <= MAX_ERROR_BYTES);
    let error = event.data.get("error").and_then(Value::as_object);
    let mut texts = error.into_iter().flat_map(Map::values);
    let mut custom = event.metadata.custom.iter();
    texts.all(is_short)
        && event.data.get("reason").is_none_or(is_short)
        && custom.all(|(name, value)| !name.contains('\0') && !has_nul(value))
        && !event.data.values().chain(event.extra.values()).any(has_nul)
}

fn keep_only(
    fields: &mut Map<String, Value>,
    what: &'static str,
    faults: &mut Vec<&'static str>,
    fits: impl Fn(&str, &Value) -> bool,
) {
    if fields.iter().all(|(name, value)| fits(name, value)) {
        return;
    }
    at_fault(faults, what);
    fields.retain(|name, value| fits(name, value));
}

/// Returns the texts of an end that come from user code.
fn texts(data: &mut Map<String, Value>) -> impl Iterator<Item = &mut String> {
    let mut error = None;
    let mut reason = None;
    for (name, value) in data {
        match (name.as_str(), value) {
            ("error", Value::Object(fields)) => error = Some(fields),
            ("reason", Value::String(text)) => reason = Some(text),
            _ => {}
        }
    }
    let error = error.into_iter().flat_map(|fields| fields.values_mut());
    let error = error.filter_map(|value| match value {
        Value::String(text) => Some(text),
        _ => None,
    });
    error.chain(reason)
}

fn mend_error(data: &mut Map<String, Value>, faults: &mut Vec<&'static str>) {
    for text in texts(data) {
        if text.contains('\0') {
            *text = text.replace('\0', "\u{fffd}");
            at_fault(faults, "error");
        }
        if text.len() > MAX_ERROR_BYTES {
            shorten(text, MAX_ERROR_BYTES, str::len);
            at_fault(faults, "error");
        }
    }
}

/// Cuts a text between characters, so that it takes at most `limit` bytes, as `measured` counts them, with the
/// mark at its end.
fn shorten(text: &mut String, limit: usize, measured: fn(&str) -> usize) {
    let mut left = limit.saturating_sub(REST.len_utf8());
    let mut buffer = [0; 4];
    let end = text.char_indices().find_map(|(at, character)| {
        let size = measured(character.encode_utf8(&mut buffer));
        match left.checked_sub(size) {
            Some(rest) => {
                left = rest;
                None
            }
            None => Some(at),
        }
    });
    if let Some(end) = end {
        text.truncate(end);
        text.push(REST);
    }
}

/// Returns the event's JSON, of at most `limit` bytes if possible: of the fields that may go, the largest are
/// shortened or left out first. The fields that say what happened are never left out.
pub(super) fn to_json(
    event: &mut Event,
    limit: usize,
    faults: &mut Vec<&'static str>,
) -> Result<String, EventError> {
    // Once is enough, unless a filter put something strange into an error.
    for _ in 0..3 {
        match event.to_json_within(limit) {
            Err(EventError::TooLarge { bytes, .. }) => {
                make_room(event, bytes.saturating_sub(limit), faults);
            }
            result => return result,
        }
    }
    event.to_json_within(usize::MAX)
}

/// A part of an event that may be left out for lack of room.
enum Part {
    /// A text of an error, by its index in [`texts`].
    Text(usize),
    Custom(String),
    Data(String),
    Extra(String),
    Metadata(&'static str),
}

fn make_room(event: &mut Event, surplus: usize, faults: &mut Vec<&'static str>) {
    let mut parts = parts(event);
    // By rank, and within a rank the largest first.
    parts.sort_by_key(|(rank, size, _)| (*rank, std::cmp::Reverse(*size)));
    let mut surplus = surplus;
    for (_, size, part) in parts {
        if surplus == 0 {
            break;
        }
        let freed = match part {
            Part::Text(place) => {
                at_fault(faults, "error");
                let Some(text) = texts(&mut event.data).nth(place) else {
                    continue;
                };
                let kept = size.saturating_sub(surplus);
                if kept < MIN_TEXT_BYTES {
                    text.clear();
                } else {
                    shorten(text, kept, encoded_len);
                }
                size.saturating_sub(encoded_len(text))
            }
            Part::Custom(name) => {
                at_fault(faults, "metadata");
                event.metadata.custom.remove(&name);
                size
            }
            Part::Data(name) => {
                at_fault(faults, "data");
                event.data.remove(&name);
                size
            }
            Part::Extra(name) => {
                at_fault(faults, "fields");
                event.extra.remove(&name);
                size
            }
            Part::Metadata(name) => {
                at_fault(faults, name);
                event.metadata.set_field(name, Value::Null).ok();
                size
            }
        };
        surplus = surplus.saturating_sub(freed);
    }
    // A text of which nothing is left is left out.
    if let Some(Value::Object(error)) = event.data.get_mut("error") {
        error.retain(|_, value| value != "");
    }
    event.data.retain(|_, value| value != "");
}

/// Returns the parts that may be left out, each with its rank and its size as JSON.
fn parts(event: &mut Event) -> Vec<(u8, usize, Part)> {
    let mut parts = Vec::new();
    for (place, text) in texts(&mut event.data).enumerate() {
        parts.push((0, encoded_len(text), Part::Text(place)));
    }
    for (name, value) in &event.metadata.custom {
        let rank = u8::from(OWN_FIELDS.contains(&name.as_str()));
        parts.push((rank, field_len(name, value), Part::Custom(name.clone())));
    }
    for (name, value) in &event.data {
        let is_text = match (name.as_str(), value) {
            ("error", Value::Object(fields)) => {
                // The texts of an error may go, but not the error itself, unless a filter changed its form.
                fields.len() <= 3 && !fields.values().any(|it| it.is_array() || it.is_object())
            }
            ("reason", Value::String(_)) => true,
            _ => false,
        };
        if !is_text && !ESSENTIAL_DATA.contains(&name.as_str()) {
            parts.push((0, field_len(name, value), Part::Data(name.clone())));
        }
    }
    for (name, value) in &event.extra {
        parts.push((0, field_len(name, value), Part::Extra(name.clone())));
    }
    let metadata = &event.metadata;
    for (name, value) in [
        ("application_name", &metadata.application_name),
        ("topic_name", &metadata.topic_name),
        ("task_queue", &metadata.task_queue),
        ("worker_identity", &metadata.worker_identity),
        ("build_id", &metadata.build_id),
        ("sdk_version", &metadata.sdk_version),
        ("first_execution_run_id", &metadata.first_execution_run_id),
        ("continued_from_run_id", &metadata.continued_from_run_id),
        ("parent_workflow_id", &metadata.parent_workflow_id),
        ("parent_run_id", &metadata.parent_run_id),
        ("root_workflow_id", &metadata.root_workflow_id),
        ("traceparent", &metadata.traceparent),
    ] {
        if let Some(value) = value {
            let rank = u8::from(value.len() <= MAX_NAME_CHARACTERS);
            let size = name.len() + 4 + encoded_len(value);
            parts.push((rank, size, Part::Metadata(name)));
        }
    }
    parts
}

/// Returns the size of a field in JSON, with its name, colon and comma.
fn field_len(name: &str, value: &Value) -> usize {
    let mut counter = Counter(0);
    // Writing to a counter cannot fail.
    serde_json::to_writer(&mut counter, value).ok();
    encoded_len(name) + 4 + counter.0
}

/// Returns the size of a text in JSON, without its quotes.
fn encoded_len(text: &str) -> usize {
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, text).ok();
    counter.0.saturating_sub(2)
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::{Context, Frame, WorkflowFrame},
        event::{FailureDetails, WorkflowState, lifecycle},
        fuzz,
        record::{Draft, Filter, FilterAction, Finished, Rules},
    };
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, limit, wanted) in [
            ("short", 5, "short"),
            ("shorter", 6, "sho…"),
            ("üüüü", 7, "üü…"),
            ("🦀🦀", 6, "…"),
            ("ab", 0, "…"),
        ] {
            let mut cut = text.to_owned();
            if text.len() > limit {
                shorten(&mut cut, limit, str::len);
            }
            assert_eq!(cut, wanted, "{text}");
        }
    }

    /// Whatever frames, errors and filters hold: the event is stored, can be read, keeps the rules and
    /// says what happened.
    #[test]
    fn fuzz_lifecycle_events() {
        // What the filter does with the next event.
        let change: Arc<Mutex<Option<Event>>> = Arc::default();
        let filter = {
            let change = change.clone();
            Filter::new(move |event: &mut Event| {
                if let Some(other) = change.lock().unwrap().take() {
                    let id = event.metadata.event_id;
                    *event = other;
                    event.metadata.event_id = id;
                }
                FilterAction::Keep
            })
        };
        let rules = |filter, max_event_bytes| {
            Arc::new(Rules {
                application_name: "orders".to_owned(),
                filter,
                max_event_bytes,
                trimmed: Trimmed::default(),
                budget: crate::record::Budget::new(usize::MAX),
            })
        };
        let frames = [serde_json::json!({
            "correlation_id": "c-42", "topic_name": "orders", "application_name": "a",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "tenant": { "name": ["acme", 1.5] },
        })];
        let seeds = [serde_json::to_value(lifecycle::workflow_end(
            WorkflowState::Completed,
            1.0,
            Some(&FailureDetails::default()),
        ))
        .unwrap()];
        fuzz::run("lifecycle events", |rng| {
            let mut frame = Frame::new();
            if let Ok(fields) = serde_json::from_str(&fuzz::json(rng, &frames)) {
                frame.fields = fields;
            }
            let context = Context::new()
                .push(WorkflowFrame {
                    namespace: "default".into(),
                    workflow_id: fuzz::text(rng).into(),
                    workflow_type: fuzz::text(rng).into(),
                    workflow_run_id: "run".into(),
                    task_queue: Some(fuzz::text(rng).into()),
                    ..WorkflowFrame::default()
                })
                .push(frame);
            let failure = FailureDetails {
                error_type: Some(fuzz::text(rng)),
                message: Some(fuzz::text(rng).repeat(rng.usize(0..100))),
                non_retryable: rng.bool(),
            };
            let mut event = lifecycle::workflow_end(WorkflowState::Failed, 1.5, Some(&failure));
            if rng.bool() {
                event.data.insert(fuzz::text(rng), fuzz::leaf(rng));
            }
            let is_filtered = rng.bool();
            if is_filtered {
                *change.lock().unwrap() = Event::from_json(&fuzz::json(rng, &seeds)).ok();
            }
            let limit = rng.choice([1, 500, 1_000, 4_000, 262_144]).unwrap();
            let rules = rules(is_filtered.then(|| filter.clone()), limit);
            let draft = Draft::lifecycle(&rules, event, context);
            let id = draft.derived_id();
            let Finished::Stored(record) = draft.finish() else {
                panic!("a lifecycle event is refused");
            };
            assert_eq!(id, Some(record.event_id));
            let read = Event::from_json(&record.json).unwrap();
            assert_eq!(read.validate(), Ok(()));
            if !is_filtered {
                assert_eq!(read.data["status"], "failed");
                assert!(record.is_lifecycle());
                // What is never left out has its size, too.
                assert!(limit < 4_000 || record.json.len() <= limit.max(8_000));
            }
        });
    }
}
