//! `eventstore tail`: events as they are stored, one a line.

use super::{
    arguments::{Arguments, Beginning, Format, Output, Tail},
    failure::Failure,
    load,
    model::Outcome,
    redact,
    screen::{Screen, in_one_line},
    words::{self, BOLD, DIM, MAGENTA, RED, paint},
};
use crate::{
    event::{Event, StoredEvent},
    reader::EventQuery,
};
use futures_util::TryStreamExt as _;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

pub(super) async fn run(
    arguments: &Arguments,
    tail: &Tail,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open(arguments).await?;
    let mut query = EventQuery::new().limit(load::PAGE);
    if let Some(list) = &tail.only {
        query = query.only(list)?;
    }
    if let Some(id) = &tail.workflow {
        query = query.workflow_id(id);
    }
    query = match tail.from {
        None => query.after(reader.newest().await?),
        Some(Beginning::After(position)) => query.after(position),
        Some(Beginning::Since(time)) => query.since(time),
    };
    let mut left = tail.limit.unwrap_or(usize::MAX);
    let mut events = std::pin::pin!(reader.follow(query));
    while left > 0
        && let Some(event) = events.try_next().await?
    {
        print(redact::event(event, arguments.redact)?, tail.output, screen)?;
        left -= 1;
    }
    Ok(())
}

/// An event with its position, by which one goes on.
#[derive(Serialize)]
struct Positioned<'a> {
    position: u64,
    event: &'a RawValue,
}

pub(super) fn print(
    stored: StoredEvent,
    output: Output,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if output.output != Format::Text {
        let event: &RawValue = serde_json::from_str(&stored.json)?;
        let position = stored.position;
        return screen.document(Format::Jsonl, &Positioned { position, event });
    }
    let event = stored.event()?;
    let line = match screen.is_terminal() {
        true => for_people(&stored, &event),
        false => with_tabs(&stored, &event),
    };
    screen.line(&line)
}

fn data<'a>(event: &'a Event, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let first = event.data.get(*first)?;
    rest.iter().try_fold(first, |value, name| value.get(*name))
}

fn message(event: &Event) -> Option<String> {
    let text = |path: &[&str]| data(event, path).and_then(Value::as_str);
    match (text(&["error", "type"]), text(&["error", "message"])) {
        (Some(kind), Some(message)) => Some(format!("{kind}: {message}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

fn for_people(stored: &StoredEvent, event: &Event) -> String {
    let time = event.metadata.created_at;
    let time = time.map(|time| time.format("%H:%M:%S%.3f").to_string());
    let name = in_one_line(&event.event_name);
    let mut parts = vec![paint(DIM, time.unwrap_or_default())];
    parts.push(match event.is_lifecycle() {
        true => format!("{name:<14}"),
        false => paint(MAGENTA, format!("◆ {name:<12}")),
    });
    parts.extend(
        stored
            .workflow_id
            .as_ref()
            .map(|id| paint(BOLD, in_one_line(id))),
    );
    let activity = stored.activity_type.as_ref().map(|name| {
        let attempt = stored.attempt.filter(|attempt| *attempt > 1);
        let attempt = attempt.map(|attempt| format!(" #{attempt}"));
        format!("{name}{}", attempt.unwrap_or_default())
    });
    let name = activity.or_else(|| stored.workflow_type.clone());
    parts.extend(name.map(|name| in_one_line(&name)));
    if event.is_lifecycle() {
        let status = data(event, &["status"]).and_then(Value::as_str);
        parts.extend(status.map(|status| words::outcome(Outcome::from_name(status))));
        let took = data(event, &["duration_ms"]).and_then(Value::as_f64);
        parts.extend(took.map(words::duration));
        parts.extend(message(event).map(|text| paint(RED, in_one_line(&text))));
    } else if !event.data.is_empty() {
        parts.push(paint(DIM, Value::Object(event.data.clone())));
    }
    parts.join("  ")
}

fn with_tabs(stored: &StoredEvent, event: &Event) -> String {
    let number = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
    let status = data(event, &["status"]).and_then(Value::as_str);
    let rest = match event.is_lifecycle() {
        true => message(event).unwrap_or_default(),
        false => Value::Object(event.data.clone()).to_string(),
    };
    let cells = [
        stored.position.to_string(),
        stored.created_at.clone(),
        event.event_name.clone(),
        stored.workflow_type.clone().unwrap_or_default(),
        stored.workflow_id.clone().unwrap_or_default(),
        stored.activity_type.clone().unwrap_or_default(),
        stored.attempt.map(|it| it.to_string()).unwrap_or_default(),
        status.unwrap_or_default().to_owned(),
        number(data(event, &["duration_ms"])),
        rest,
    ];
    cells.map(|cell| in_one_line(&cell)).join("\t")
}
