//! The events that the suite sends. Knows no sink.

use crate::{
    event::{Event, EventError, EventId},
    sink::SinkEvent,
};
use chrono::Utc;

/// Returns an event of a workflow, as the journal hands it out.
///
/// # Errors
/// [`EventError`] if no such event can be made.
pub fn event(position: u64, workflow_id: &str) -> Result<SinkEvent, EventError> {
    of_workflow(
        position,
        workflow_id,
        Event::new("data.processed")
            .name("DataProcessed")
            .data(serde_json::json!({ "position": position, "text": "Größe \"x\"\n" })),
    )
}

/// Returns `count` events of five workflows, one after the other, at the positions from `first` on.
///
/// # Errors
/// As for [`event`].
pub fn batch(first: u64, count: u64) -> Result<Vec<SinkEvent>, EventError> {
    (first..first.saturating_add(count))
        .map(|position| event(position, &format!("order-{}", position % 5)))
        .collect()
}

/// An event with the metadata that publishing gives.
pub(super) fn of_workflow(
    position: u64,
    workflow_id: &str,
    mut event: Event,
) -> Result<SinkEvent, EventError> {
    event.metadata.event_id = Some(EventId::new());
    event.metadata.created_at = Some(Utc::now());
    event.metadata.namespace = Some("default".into());
    event.metadata.application_name = Some("test".into());
    event.metadata.workflow_type = Some("Order".into());
    event.metadata.workflow_id = Some(workflow_id.into());
    event.metadata.sequence = Some(position);
    SinkEvent::new(position, &event)
}
