//! From a store to a model: opens what the arguments name, reads what a command needs, and shows how far it is.

use super::{
    arguments::Arguments,
    failure::Failure,
    model::{Builder, Model},
    redact,
    screen::progress,
};
use crate::reader::{EventQuery, EventReader};
use futures_util::TryStreamExt as _;
use std::collections::HashSet;

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
) -> Result<Model, Failure> {
    let newest = reader.newest().await?;
    let bar = progress("reading", newest);
    let mut builder = Builder::default();
    let mut events = std::pin::pin!(reader.stream(query.limit(PAGE).up_to(newest)));
    while let Some(event) = events.try_next().await? {
        bar.set_position(event.position);
        builder.add(&redact::event(event, redact)?)?;
    }
    bar.finish_and_clear();
    Ok(builder.finish())
}

/// Reads a workflow with its children, and theirs.
pub(super) async fn family(
    reader: &EventReader,
    workflow_id: &str,
    redact: bool,
) -> Result<Model, Failure> {
    let newest = reader.newest().await?;
    let bar = progress("reading", 1);
    let mut builder = Builder::default();
    let mut known = HashSet::from([workflow_id.to_owned()]);
    let mut waiting = vec![workflow_id.to_owned()];
    while let Some(id) = waiting.pop() {
        let query = EventQuery::new().workflow_id(&id).up_to(newest).limit(PAGE);
        let mut events = std::pin::pin!(reader.stream(query));
        let mut first = None;
        while let Some(event) = events.try_next().await? {
            first.get_or_insert(event.position);
            builder.add(&redact::event(event, redact)?)?;
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
                bar.inc_length(1);
                waiting.push(child);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
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
