//! From a store to a model: opens what the arguments name, reads what a command needs, and shows how far it is.

use super::{
    arguments::Arguments,
    failure::Failure,
    model::{Builder, Model, Time},
    redact,
    screen::Progress,
};
use crate::{
    event::{EventError, StoredEvent},
    reader::{EventQuery, EventReader, ReadError},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt as _;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// How many events are read at once.
pub(super) const PAGE: usize = 5000;
/// The events that say which runs there are.
pub(super) const STARTS_AND_ENDS: &str = "workflow_start,workflow_end";

/// By how much a child's clock may be behind its parent's.
const CLOCK_SKEW: TimeDelta = TimeDelta::hours(1);

pub(super) async fn open(arguments: &Arguments) -> Result<EventReader, Failure> {
    Ok(EventReader::open(&arguments.url()?).await?)
}

/// Opens what knows of sinks: of several stores the journal, and not a table that it is delivered to.
pub(super) async fn open_journal(arguments: &Arguments) -> Result<EventReader, Failure> {
    Ok(EventReader::open(&arguments.journal_url()?).await?)
}

/// Reads what a query selects.
pub(super) async fn model(
    reader: &EventReader,
    query: EventQuery,
    redact: bool,
) -> Result<Model, ReadError> {
    let newest = reader.newest().await?;
    let bar = Progress::new("reading", newest);
    let mut builder = Builder::default();
    let mut events = std::pin::pin!(reader.stream(query.limit(PAGE).up_to(newest)));
    while let Some(event) = events.try_next().await? {
        bar.set(event.position);
        add(reader, &mut builder, event, redact)?;
    }
    bar.end();
    Ok(builder.finish())
}

fn add(
    reader: &EventReader,
    builder: &mut Builder,
    event: StoredEvent,
    redact: bool,
) -> Result<(), ReadError> {
    let position = event.position;
    let added = redact::event(event, redact).and_then(|event| builder.add(&event));
    added.map_err(|error| no_event(reader, position, error))
}

fn no_event(reader: &EventReader, position: u64, error: EventError) -> ReadError {
    ReadError::Failed {
        url: reader.url().to_owned(),
        reason: format!("what is stored at position {position} is no event: {error}"),
        source: Some(Arc::new(error)),
    }
}

/// Reads a workflow with its children, and theirs.
pub(super) async fn family(
    reader: &EventReader,
    workflow_id: &str,
    redact: bool,
) -> Result<Model, ReadError> {
    let newest = reader.newest().await?;
    let bar = Progress::new("reading", newest);
    let mut builder = Builder::default();
    let of_workflow = |id: &str| {
        let query = EventQuery::new().workflow_id(id);
        reader.stream(query.up_to(newest).limit(PAGE))
    };
    let mut began: Option<Time> = None;
    let mut events = std::pin::pin!(of_workflow(workflow_id));
    while let Some(event) = events.try_next().await? {
        if let Ok(at) = DateTime::parse_from_rfc3339(&event.created_at) {
            let at = at.with_timezone(&Utc);
            began = Some(began.map_or(at, |began| began.min(at)));
        }
        add(reader, &mut builder, event, redact)?;
    }
    let Some(began) = began else {
        return Ok(builder.finish());
    };
    // One pass over what may be in the family, whatever the order in which it was stored.
    let since = began.checked_sub_signed(CLOCK_SKEW).unwrap_or(began);
    let starts = EventQuery::new().with_parent().only("workflow_start")?;
    let starts = starts.since(since).up_to(newest).limit(PAGE);
    let mut starts = std::pin::pin!(reader.stream(starts));
    let mut children: HashMap<String, Vec<String>> = HashMap::new();
    while let Some(start) = starts.try_next().await? {
        bar.set(start.position);
        let parent = parent_of(reader, &start)?;
        if let (Some(parent), Some(child)) = (parent, start.workflow_id) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut known = HashSet::from([workflow_id.to_owned()]);
    let mut waiting = children.remove(workflow_id).unwrap_or_default();
    while let Some(id) = waiting.pop() {
        if !known.insert(id.clone()) {
            continue;
        }
        let mut events = std::pin::pin!(of_workflow(&id));
        while let Some(event) = events.try_next().await? {
            add(reader, &mut builder, event, redact)?;
        }
        waiting.extend(children.remove(&id).unwrap_or_default());
    }
    bar.end();
    Ok(builder.finish())
}

fn parent_of(reader: &EventReader, stored: &StoredEvent) -> Result<Option<String>, ReadError> {
    match stored.event() {
        Ok(event) => Ok(event.metadata.parent_workflow_id),
        Err(error) => Err(no_event(reader, stored.position, error)),
    }
}

/// Says that a workflow is not in the store.
pub(super) fn no_such_workflow(reader: &EventReader, workflow_id: &str) -> Failure {
    Failure::nothing_found(
        format!(
            "{} has no events of the workflow {workflow_id:?}",
            reader.url()
        ),
        "`eventstore ls` lists the workflows that it has",
    )
}
