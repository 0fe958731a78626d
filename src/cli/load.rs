//! From a store to a model: opens what the arguments name, reads what a command needs, and shows how far it is.

use super::{
    arguments::Arguments,
    failure::Failure,
    model::{Builder, Model},
    redact,
    screen::Progress,
};
use crate::{
    event::StoredEvent,
    reader::{EventQuery, EventReader, ReadError},
};
use futures_util::TryStreamExt as _;
use std::{collections::HashSet, sync::Arc};

/// How many events are read at once.
pub(super) const PAGE: usize = 5000;
/// The events that say which runs there are.
pub(super) const STARTS_AND_ENDS: &str = "workflow_start,workflow_end";

pub(super) async fn open(arguments: &Arguments) -> Result<EventReader, Failure> {
    Ok(EventReader::open(&arguments.url()?).await?)
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
    added.map_err(|error| ReadError::Failed {
        url: reader.url().to_owned(),
        reason: format!("what is stored at position {position} is no event: {error}"),
        source: Some(Arc::new(error)),
    })
}

/// Reads a workflow with its children, and theirs.
pub(super) async fn family(
    reader: &EventReader,
    workflow_id: &str,
    redact: bool,
) -> Result<Model, ReadError> {
    let newest = reader.newest().await?;
    let bar = Progress::new("reading", 1);
    let mut builder = Builder::default();
    let mut known = HashSet::from([workflow_id.to_owned()]);
    let mut waiting = vec![workflow_id.to_owned()];
    while let Some(id) = waiting.pop() {
        let query = EventQuery::new().workflow_id(&id).up_to(newest).limit(PAGE);
        let mut events = std::pin::pin!(reader.stream(query));
        let mut first = None;
        while let Some(event) = events.try_next().await? {
            first.get_or_insert(event.position);
            add(reader, &mut builder, event, redact)?;
        }
        // Children begin after their parents.
        let Some(first) = first else { continue };
        let children = EventQuery::new()
            .parent_workflow_id(&id)
            .only("workflow_start")?;
        let children = children.after(first).up_to(newest).limit(PAGE);
        let mut children = std::pin::pin!(reader.stream(children));
        while let Some(event) = children.try_next().await? {
            if let Some(child) = event.workflow_id
                && known.insert(child.clone())
            {
                bar.lengthen();
                waiting.push(child);
            }
        }
        bar.increase();
    }
    bar.end();
    Ok(builder.finish())
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
