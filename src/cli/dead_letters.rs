//! `eventstore dead-letters`: events that sinks rejected.

use super::{
    arguments::{Arguments, DeadLetters, DeadLettersCommand, Format, Output},
    export::place,
    failure::Failure,
    load, opened, redact,
    screen::{Field, Progress, Screen, in_one_line, note, wrote},
    words::{self, BOLD, RED, paint},
};
use crate::{
    delivery::RedeliverError,
    event::{DeadLetter, Event},
    reader::EventReader,
    store::EventStore,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{IsTerminal as _, Write as _},
};

/// How many are read at once.
const PAGE: usize = 1000;

pub(super) async fn run(
    arguments: &Arguments,
    letters: &DeadLetters,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open_journal(arguments).await?;
    match &letters.command {
        DeadLettersCommand::List { sink, output } => {
            let letters = all(&reader, sink.as_deref(), arguments.redact).await?;
            list(&letters, *output, screen)
        }
        DeadLettersCommand::Show {
            position,
            sink,
            output,
        } => {
            let mut letters = all(&reader, sink.as_deref(), arguments.redact).await?;
            letters.retain(|letter| letter.position == *position);
            show(&letters, *position, *output, screen)
        }
        DeadLettersCommand::Send {
            positions,
            all: _,
            sink,
            sinks,
        } => {
            let letters = all(&reader, sink.as_deref(), false).await?;
            let named = chosen(letters, positions, "sent")?;
            let store = opened::open(opened::options(arguments, sinks)?, false).await?;
            let result = send(&store, &named).await;
            opened::close(store).await?;
            result
        }
        DeadLettersCommand::Delete {
            positions,
            all: _,
            sink,
            yes,
        } => {
            let letters = all(&reader, sink.as_deref(), false).await?;
            delete(&reader, letters, positions, *yes).await
        }
        DeadLettersCommand::Export { sink, output } => {
            let letters = all(&reader, sink.as_deref(), arguments.redact).await?;
            let mut out = place(output.as_deref())?;
            for letter in &letters {
                serde_json::to_writer(&mut out, &document(letter))?;
                out.write_all(b"\n")?;
            }
            out.flush()?;
            if let Some(path) = output {
                let count = words::count(letters.len(), "dead letter");
                wrote(&format!("{count} in"), path);
            }
            Ok(())
        }
    }
}

/// Returns all of them, at least one.
async fn all(
    reader: &EventReader,
    sink: Option<&str>,
    redact: bool,
) -> Result<Vec<DeadLetter>, Failure> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.position);
        let page = reader.dead_letters(sink, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        for letter in page {
            letters.push(redact::dead_letter(letter, redact)?);
        }
        if is_last {
            break;
        }
    }
    match letters.is_empty() {
        true => Err(Failure::nothing_found(
            format!("{} has no such dead letter", reader.url()),
            "every event was taken, or the dead letters were sent again or deleted",
        )),
        false => Ok(letters),
    }
}

fn document(letter: &DeadLetter) -> Value {
    let event = serde_json::from_str(&letter.event).unwrap_or(Value::Null);
    json!({
        "sink": letter.sink,
        "position": letter.position,
        "event_id": letter.event_id,
        "reason": letter.reason,
        "event": event,
    })
}

fn list(letters: &[DeadLetter], output: Output, screen: &mut Screen) -> Result<(), Failure> {
    if output.output != Format::Text {
        return screen.json(output.output, letters.iter().map(document));
    }
    let rows = letters.iter().map(|letter| {
        let event = Event::from_json(&letter.event).unwrap_or_default();
        let metadata = event.metadata;
        vec![
            letter.sink.clone().into(),
            Field::number(letter.position),
            metadata
                .created_at
                .map(words::time)
                .unwrap_or_default()
                .into(),
            event.event_name.into(),
            metadata.workflow_id.unwrap_or_default().into(),
            letter.reason.clone().into(),
        ]
    });
    let head = [
        "sink",
        "position",
        "happened",
        "event",
        "workflow id",
        "reason",
    ];
    screen.table(&head, rows.collect())
}

fn show(
    letters: &[DeadLetter],
    position: u64,
    output: Output,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if letters.is_empty() {
        return Err(Failure::nothing_found(
            format!("no dead letter has the position {position}"),
            "`eventstore dead-letters list` has the positions",
        ));
    }
    if output.output != Format::Text {
        return screen.json(output.output, letters.iter().map(document));
    }
    for letter in letters {
        screen.line(&format!(
            "{} rejected event {}",
            paint(BOLD, in_one_line(&letter.sink)),
            letter.event_id
        ))?;
        screen.line(&paint(RED, in_one_line(&letter.reason)))?;
        let event: Value = serde_json::from_str(&letter.event)?;
        screen.line(&serde_json::to_string_pretty(&event)?)?;
    }
    Ok(())
}

/// Returns sink and position of those that were named; all of them if no position was.
fn chosen(
    letters: Vec<DeadLetter>,
    positions: &[u64],
    done: &str,
) -> Result<Vec<(String, u64)>, Failure> {
    let has = |position: &u64| letters.iter().any(|letter| letter.position == *position);
    if let Some(missing) = positions.iter().find(|position| !has(position)) {
        return Err(Failure::nothing_found(
            format!("no dead letter has the position {missing}; none was {done}"),
            "`eventstore dead-letters list` has the positions",
        ));
    }
    let chosen = letters
        .into_iter()
        .filter(|letter| positions.is_empty() || positions.contains(&letter.position));
    Ok(chosen
        .map(|letter| (letter.sink, letter.position))
        .collect())
}

/// Sends them one by one, so that one that is refused again stops none.
async fn send(store: &EventStore, named: &[(String, u64)]) -> Result<(), Failure> {
    let bar = Progress::new("sending", named.len() as u64);
    let (mut taken, mut refused) = (0, 0);
    let mut strangers = BTreeSet::new();
    for (sink, position) in named {
        if strangers.contains(sink) {
            continue;
        }
        match store.redeliver_one(sink, *position).await {
            Ok(Some(true)) => taken += 1,
            Ok(Some(false)) => refused += 1,
            // Somebody else sent or deleted it meanwhile.
            Ok(None) => {}
            Err(RedeliverError::UnknownSink { name, .. }) => {
                strangers.insert(name);
            }
            Err(error) => {
                bar.end();
                note(&format!("sent {}", words::count(taken, "dead letter")));
                return Err(Failure::error(
                    error.to_string(),
                    "what the sink took is no dead letter any more; the others stay",
                ));
            }
        }
        bar.increase();
    }
    bar.end();
    note(&format!("sent {}", words::count(taken, "dead letter")));
    if !strangers.is_empty() {
        let names: Vec<String> = strangers.into_iter().collect();
        return Err(Failure::error(
            format!("dead letters of {} were not sent", names.join(", ")),
            "name the sink with --to URL, or set EVENTSTORE_URL as the worker has it; those of a handler are sent \
             by its program, with EventStore::redeliver",
        ));
    }
    match refused {
        0 => Ok(()),
        _ => Err(Failure::error(
            format!("{} refused again", words::count(refused, "dead letter was")),
            "`eventstore dead-letters list` says why",
        )),
    }
}

async fn delete(
    reader: &EventReader,
    letters: Vec<DeadLetter>,
    positions: &[u64],
    yes: bool,
) -> Result<(), Failure> {
    let named = chosen(letters, positions, "deleted")?;
    let count = words::count(named.len(), "dead letter");
    if !yes && !confirmed(&format!("delete {count} for good?"))? {
        return Err(Failure::error("nothing was deleted", ""));
    }
    let deleted = reader.delete_dead_letters(&named).await?;
    let deleted = usize::try_from(deleted).unwrap_or(usize::MAX);
    note(&format!("deleted {}", words::count(deleted, "dead letter")));
    Ok(())
}

/// Asks on the terminal.
fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "dead letters are deleted for good, and nobody can be asked",
            "give --yes; `eventstore dead-letters export` keeps a copy",
        ));
    }
    anstream::eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
