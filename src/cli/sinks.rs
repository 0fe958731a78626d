//! `eventstore sinks`: how far each sink has come.

use super::{
    arguments::{Arguments, Format, Sinks},
    failure::Failure,
    load,
    model::{Time, milliseconds},
    screen::{Field, Screen, note},
    words,
};
use crate::reader::SinkPosition;
use chrono::{DateTime, Utc};
use comfy_table::Color;

pub(super) async fn run(
    arguments: &Arguments,
    sinks: &Sinks,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open_journal(arguments).await?;
    let found = reader.sinks().await?;
    if found.is_empty() {
        return Err(Failure::nothing_found(
            format!("{} delivers to no sink", reader.url()),
            "a journal notes its sinks when a worker opens it; PostgreSQL is a sink itself",
        ));
    }
    if sinks.output.output != Format::Text {
        return screen.json(sinks.output.output, found);
    }
    let now = Utc::now();
    let rows = found.iter().map(|sink| {
        let lag = lag(sink, now).map(words::duration);
        let letters = match sink.dead_letters {
            0 => Field::number(0),
            letters => {
                let mut field = Field::number(letters);
                field.color(Color::Red);
                field
            }
        };
        vec![
            named(sink).into(),
            Field::number(sink.position),
            Field::number(sink.behind),
            Field::number(lag.unwrap_or_default()),
            letters,
        ]
    });
    let head = [
        "sink",
        "position",
        "behind",
        "oldest waits for",
        "dead letters",
    ];
    screen.table(&head, rows.collect())?;
    if found.iter().any(|sink| sink.dead_letters > 0) {
        note("`eventstore dead-letters list` says why events were rejected");
    }
    Ok(())
}

/// A sink's name, with what somebody told it.
pub(super) fn named(sink: &SinkPosition) -> String {
    match sink.is_paused {
        true => format!("{} (paused)", sink.name),
        false => sink.name.clone(),
    }
}

/// How old the oldest event is that a sink does not have, in milliseconds.
pub(super) fn lag(sink: &SinkPosition, now: Time) -> Option<f64> {
    let oldest = DateTime::parse_from_rfc3339(sink.oldest.as_deref()?).ok()?;
    Some(milliseconds(oldest.with_timezone(&Utc), now).max(0.0))
}
