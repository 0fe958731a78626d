//! `eventstore ls`: the runs that a store has.

use super::{
    arguments::{Arguments, Format, List},
    failure::Failure,
    load,
    model::{Outcome, Run, Time},
    screen::{Field, Screen, note},
    words,
};
use crate::reader::EventQuery;
use comfy_table::Color;
use serde::Serialize;

/// How many runs a terminal shows.
const ON_A_TERMINAL: usize = 100;

pub(super) async fn run(
    arguments: &Arguments,
    list: &List,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open(arguments).await?;
    let mut query = EventQuery::new().only(load::STARTS_AND_ENDS)?;
    if let Some(name) = &list.workflow_type {
        query = query.workflow_type(name);
    }
    if let Some(since) = list.since {
        query = query.since(since.0);
    }
    let model = load::model(&reader, query, arguments.redact).await?;
    let now = chrono::Utc::now();
    let mut runs: Vec<&Run> = model
        .runs
        .iter()
        .filter(|run| is_listed(run, list, now))
        .collect();
    let found = runs.len();
    if found == 0 {
        return Err(Failure::nothing_found(
            format!("{} has no such run", reader.url()),
            "leave out a condition, or ask for an earlier time with --since",
        ));
    }
    let is_text = list.output.output == Format::Text;
    let most = if is_text && screen.is_terminal() {
        ON_A_TERMINAL
    } else {
        usize::MAX
    };
    let limit = list.limit.unwrap_or(most);
    runs.drain(..found.saturating_sub(limit));
    if !is_text {
        let runs = runs.into_iter().map(|run| Listed {
            took_ms: run.took_ms(now),
            run,
        });
        return screen.json(list.output.output, runs);
    }
    let is_terminal = screen.is_terminal();
    let rows = runs.iter().map(|run| row(run, now, is_terminal)).collect();
    let head = [
        "state",
        "workflow id",
        "type",
        "started",
        "took",
        "run id",
        "error",
    ];
    screen.table(&head, rows)?;
    if found > limit && list.limit.is_none() {
        note(&format!(
            "the newest {limit} of {found} runs; -n shows more"
        ));
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    run: &'a Run,
    /// Of an open run, the time since its start.
    took_ms: Option<f64>,
}

fn is_listed(run: &Run, list: &List, now: Time) -> bool {
    let is_older = |than: std::time::Duration| {
        let took = run.took_ms(now);
        took.is_some_and(|took| took > than.as_secs_f64() * 1000.0)
    };
    list.state.is_none_or(|state| run.state == state)
        && (!list.failed || run.state.is_failure())
        && (!list.open || run.is_open())
        && list.older_than.is_none_or(is_older)
}

fn row(run: &Run, now: Time, is_terminal: bool) -> Vec<Field> {
    let error = run.error.as_ref().map(ToString::to_string);
    // Enough for `show --run`, which takes a beginning.
    let run_id = match is_terminal {
        true => run.run_id.chars().take(8).collect(),
        false => run.run_id.clone(),
    };
    vec![
        state(run.state),
        run.workflow_id.clone().into(),
        run.workflow_type.clone().into(),
        run.started_at.map(words::time).unwrap_or_default().into(),
        Field::number(run.took_ms(now).map(words::duration).unwrap_or_default()),
        run_id.into(),
        error.unwrap_or_default().into(),
    ]
}

/// An outcome as a cell.
pub(super) fn state(outcome: Outcome) -> Field {
    let (sign, _) = words::sign(outcome);
    let color = match outcome {
        Outcome::Completed => Color::Green,
        Outcome::Running | Outcome::WillCompleteAsync => Color::Blue,
        Outcome::ContinuedAsNew => Color::Cyan,
        Outcome::Cancelled | Outcome::Unknown => Color::Yellow,
        Outcome::Failed | Outcome::TimedOut | Outcome::Terminated => Color::Red,
    };
    Field::colored(format!("{sign} {outcome}"), color)
}
