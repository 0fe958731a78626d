//! `eventstore show`: a run as a tree of what happened in it, in the order of time.

use super::{
    arguments::{Arguments, Format, Show},
    failure::Failure,
    load,
    model::{Activity, Attempt, Mark, Model, Run, Time, milliseconds},
    redact,
    screen::{Screen, in_one_line, note},
    tail,
    words::{self, BOLD, DIM, MAGENTA, RED, outcome, paint},
};
use crate::{event::StoredEvent, reader::EventQuery};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use std::collections::HashSet;

/// How deep children are shown, at most.
const DEEPEST: usize = 64;

pub(super) async fn run(
    arguments: &Arguments,
    show: &Show,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open(arguments).await?;
    let newest = reader.newest().await?;
    let model = load::family(&reader, &show.workflow_id, arguments.redact).await?;
    let of_workflow: Vec<&Run> = model
        .runs
        .iter()
        .filter(|run| run.workflow_id == show.workflow_id)
        .collect();
    let (Some(last), all) = (of_workflow.last().copied(), of_workflow.len()) else {
        return Err(load::no_such_workflow(&reader, &show.workflow_id));
    };
    let runs: Vec<&Run> = match show.run.as_deref() {
        None => vec![last],
        Some("all") => of_workflow,
        Some(id) => of_workflow
            .into_iter()
            .filter(|run| run.run_id.starts_with(id))
            .collect(),
    };
    if runs.is_empty() {
        return Err(Failure::nothing_found(
            format!("the workflow {:?} has no such run", show.workflow_id),
            "`--run all` shows every run",
        ));
    }
    let now = chrono::Utc::now();
    match show.output.output {
        Format::Text => {
            for (index, run) in runs.iter().enumerate() {
                if index > 0 {
                    screen.line("")?;
                }
                for line in tree(&model, run, now) {
                    screen.line(&line)?;
                }
            }
        }
        format => screen.json(
            format,
            runs.iter().map(|run| document(&model, run, DEEPEST)),
        )?,
    }
    if show.run.is_none() && all > 1 {
        let earlier = words::count(all - 1, "earlier run");
        note(&format!(
            "{earlier} of this workflow; --run all shows every run"
        ));
    }
    match runs.last() {
        Some(run) if show.follow && run.is_open() => {
            let run_id = run.run_id.clone();
            let family = model
                .runs
                .iter()
                .map(|run| run.workflow_id.clone())
                .collect();
            let query = EventQuery::new().after(newest);
            follow(
                arguments,
                show,
                screen,
                reader.follow(query),
                family,
                &run_id,
            )
            .await
        }
        _ => Ok(()),
    }
}

/// Goes on with the events of the workflow and its children, until the run ends.
async fn follow(
    arguments: &Arguments,
    show: &Show,
    screen: &mut Screen,
    events: impl futures_util::Stream<Item = Result<StoredEvent, crate::reader::ReadError>>,
    mut family: HashSet<String>,
    run_id: &str,
) -> Result<(), Failure> {
    let mut events = std::pin::pin!(events);
    while let Some(stored) = events.try_next().await? {
        let Some(id) = stored.workflow_id.clone() else {
            continue;
        };
        let event = stored.event()?;
        let parent = event.metadata.parent_workflow_id.as_ref();
        if parent.is_some_and(|parent| family.contains(parent)) {
            family.insert(id.clone());
        }
        if !family.contains(&id) {
            continue;
        }
        let is_end = event.is_lifecycle() && event.event_name == "workflow_end";
        let is_over = is_end && stored.workflow_run_id.as_deref() == Some(run_id);
        tail::print(
            redact::event(stored, arguments.redact)?,
            show.output,
            screen,
        )?;
        if is_over {
            break;
        }
    }
    Ok(())
}

/// A run as JSON, with its children in it.
fn document(model: &Model, run: &Run, depth: usize) -> Value {
    let mut document = json!(run);
    if let Value::Object(fields) = &mut document {
        fields.insert("activities".to_owned(), json!(run.activities));
        fields.insert("events".to_owned(), json!(run.marks));
        let children = children(model, run).filter(|_| depth > 0);
        let children: Vec<Value> = children
            .map(|child| document_of_child(model, child, depth))
            .collect();
        fields.insert("children".to_owned(), children.into());
    }
    document
}

fn document_of_child(model: &Model, run: &Run, depth: usize) -> Value {
    document(model, run, depth.saturating_sub(1))
}

fn children<'a>(model: &'a Model, run: &'a Run) -> impl Iterator<Item = &'a Run> {
    run.children
        .iter()
        .filter_map(|index| model.runs.get(*index))
}

/// The lines of a run and of everything in it.
fn tree(model: &Model, run: &Run, now: Time) -> Vec<String> {
    let mut lines = vec![format!(
        "{}  {}  {}{}",
        paint(BOLD, in_one_line(&run.workflow_id)),
        in_one_line(&run.workflow_type),
        outcome(run.state),
        took(run, now)
    )];
    let mut about = vec![format!("run {}", run.run_id)];
    about.extend(
        run.started_at
            .map(|at| format!("started {}", words::time(at))),
    );
    about.extend(run.task_queue.as_ref().map(|it| format!("task queue {it}")));
    let attempt = run.workflow_attempt.filter(|attempt| *attempt > 1);
    about.extend(attempt.map(|attempt| format!("attempt {attempt} of the workflow")));
    about.extend(
        run.detected_by
            .as_ref()
            .map(|by| format!("its end was found by the {by}")),
    );
    let fields = run.fields.iter();
    about.extend(fields.map(|(name, value)| format!("{name} {}", plain(value))));
    lines.push(paint(DIM, in_one_line(&about.join(", "))));
    branches(model, run, run.started_at, "", now, DEEPEST, &mut lines);
    lines
}

fn took(run: &Run, now: Time) -> String {
    let text = run.took_ms(now).map(words::duration);
    match (text, run.is_open()) {
        (None, _) => String::new(),
        (Some(text), true) => format!("  for {text}"),
        (Some(text), false) => format!("  {text}"),
    }
}

/// Something that happened in a run.
enum Branch<'a> {
    Activity(&'a Activity),
    Mark(&'a Mark),
    Child(&'a Run),
    End,
}

fn branches(
    model: &Model,
    run: &Run,
    origin: Option<Time>,
    indent: &str,
    now: Time,
    depth: usize,
    lines: &mut Vec<String>,
) {
    let mut branches: Vec<(Option<Time>, Branch<'_>)> = Vec::new();
    for activity in &run.activities {
        let first = activity.attempts.first();
        branches.push((
            first.and_then(|it| it.started_at),
            Branch::Activity(activity),
        ));
    }
    branches.extend(
        run.marks
            .iter()
            .map(|mark| (Some(mark.at), Branch::Mark(mark))),
    );
    let depth = depth.saturating_sub(1);
    let children = children(model, run).filter(|_| depth > 0);
    branches.extend(children.map(|child| (child.started_at, Branch::Child(child))));
    branches.sort_by_key(|(at, _)| *at);
    branches.push((run.ended_at.or(run.last), Branch::End));
    let last = branches.len() - 1;
    for (index, (at, branch)) in branches.into_iter().enumerate() {
        let (corner, below) = match index == last {
            true => ("└─", "   "),
            false => ("├─", "│  "),
        };
        let offset = match (origin, at) {
            (Some(origin), Some(at)) => words::duration(milliseconds(origin, at).max(0.0)),
            _ => String::new(),
        };
        let before = format!("{indent}{corner} {}", paint(DIM, format!("{offset:>10}")));
        let indent = format!("{indent}{below}");
        match branch {
            Branch::Activity(activity) => activity_lines(activity, &before, &indent, now, lines),
            Branch::Mark(mark) => lines.push(format!("{before}  {}", mark_text(mark))),
            Branch::Child(child) => {
                let id = in_one_line(&child.workflow_id);
                let name = in_one_line(&child.workflow_type);
                let state = outcome(child.state);
                let took = took(child, now);
                lines.push(format!(
                    "{before}  {}  {name}  {state}{took}",
                    paint(BOLD, id)
                ));
                self::branches(model, child, origin, &indent, now, depth, lines);
            }
            Branch::End => lines.push(format!("{before}  {}", end_text(run))),
        }
    }
}

fn end_text(run: &Run) -> String {
    match (&run.error, run.is_open()) {
        (_, true) => paint(DIM, "it goes on"),
        (Some(error), false) => {
            let error = paint(RED, in_one_line(&error.to_string()));
            format!("{}  {error}", outcome(run.state))
        }
        (None, false) => outcome(run.state),
    }
}

fn mark_text(mark: &Mark) -> String {
    let name = match mark.event_name == mark.event_type {
        true => mark.event_name.clone(),
        false => format!("{} ({})", mark.event_name, mark.event_type),
    };
    let name = in_one_line(&name);
    let data = match mark.data.is_empty() {
        true => String::new(),
        false => format!("  {}", Value::Object(mark.data.clone())),
    };
    format!(
        "{}{}",
        paint(MAGENTA, format!("◆ {name}")),
        paint(DIM, data)
    )
}

fn activity_lines(
    activity: &Activity,
    before: &str,
    indent: &str,
    now: Time,
    lines: &mut Vec<String>,
) {
    let local = if activity.is_local { " (local)" } else { "" };
    let name = format!("{}{local}", in_one_line(&activity.activity_type));
    if let [attempt] = activity.attempts.as_slice() {
        let number = match attempt.attempt {
            1 => String::new(),
            number => format!(" #{number}"),
        };
        lines.push(format!(
            "{before}  {name}{number}  {}",
            attempt_text(attempt, now)
        ));
        return;
    }
    let attempts = words::count(activity.attempts.len(), "attempt");
    let status = outcome(activity.status());
    lines.push(format!("{before}  {name}  {status}  {attempts}"));
    for attempt in &activity.attempts {
        if let Some(waited) = attempt.waited_ms.filter(|waited| *waited >= 1.0) {
            let waited = format!("waited {}", words::duration(waited));
            lines.push(format!("{indent}{:>14}{}", "", paint(DIM, waited)));
        }
        let text = attempt_text(attempt, now);
        lines.push(format!("{indent}{:>12}  #{}  {text}", "", attempt.attempt));
    }
}

fn attempt_text(attempt: &Attempt, now: Time) -> String {
    let took = match (attempt.duration_ms, attempt.started_at, attempt.ended_at) {
        (Some(ms), _, _) => format!("  {}", words::duration(ms)),
        (None, Some(from), None) => format!("  for {}", words::duration(milliseconds(from, now))),
        _ => String::new(),
    };
    let error = attempt.error.as_ref().map(|error| {
        let finally = if error.non_retryable {
            " (not to be retried)"
        } else {
            ""
        };
        let error = in_one_line(&error.to_string());
        format!("  {}{finally}", paint(RED, error))
    });
    format!(
        "{}{took}{}",
        outcome(attempt.status),
        error.unwrap_or_default()
    )
}

/// A value as it reads best: a text without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
