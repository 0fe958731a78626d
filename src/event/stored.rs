//! An event as it is stored, and one that a sink rejected. The journal keeps and sinks get the same type.

use super::{Event, EventError, EventId};
use serde::{Deserialize, Serialize};

/// An event as the journal stores it and sinks receive it: the native JSON, and copies of the fields that are used for
/// queries, keys and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredEvent {
    /// The position in the journal, from 1. It grows from event to event, and is 0 before the event is stored.
    pub position: u64,
    /// The event's id. Receivers recognize duplicates by it.
    pub event_id: EventId,
    /// The event type.
    pub event_type: String,
    /// The event name.
    pub event_name: String,
    /// The workflow type, if there is one.
    pub workflow_type: Option<String>,
    /// The workflow id, if there is one.
    pub workflow_id: Option<String>,
    /// The workflow's run id, if there is one.
    pub workflow_run_id: Option<String>,
    /// The workflow's state, as [`WorkflowState::as_str`](super::WorkflowState::as_str) returns it.
    pub workflow_state: Option<String>,
    /// The activity type, if there is one.
    pub activity_type: Option<String>,
    /// The activity id, if there is one.
    pub activity_id: Option<String>,
    /// The activity attempt, from 1, if there is one.
    pub attempt: Option<u32>,
    /// When the event happened: an RFC 3339 time in UTC with microseconds.
    pub created_at: String,
    /// The native JSON, as it is stored.
    pub json: String,
}

impl StoredEvent {
    /// Creates the stored form of `event`, as sinks receive it, for a position in the journal. For tests of sinks.
    ///
    /// # Errors
    /// [`EventError::InvalidField`] if the event has no id or no time. It gets both when it is published.
    /// [`EventError::DataIsNotJson`] if a value cannot be written as JSON. The size is not limited.
    pub fn new(position: u64, event: &Event) -> Result<Self, EventError> {
        let missing = |field: &str, allowed| EventError::InvalidField {
            field: field.to_owned(),
            value: "nothing".to_owned(),
            allowed,
        };
        let event_id = event
            .metadata
            .event_id
            .ok_or_else(|| missing("event_id", "the id that publishing gives"))?;
        if event.metadata.created_at.is_none() {
            return Err(missing("created_at", "the time that publishing gives"));
        }
        let json = event.to_json_within(usize::MAX)?;
        Ok(Self {
            position,
            ..Self::encoded(event.clone(), event_id, json)
        })
    }

    /// Makes an event whose JSON is encoded already.
    pub(crate) fn encoded(event: Event, event_id: EventId, json: String) -> Self {
        let metadata = event.metadata;
        Self {
            position: 0,
            event_id,
            event_type: event.event_type,
            event_name: event.event_name,
            created_at: metadata.created_at_text().unwrap_or_default(),
            workflow_type: metadata.workflow_type,
            workflow_id: metadata.workflow_id,
            workflow_run_id: metadata.workflow_run_id,
            workflow_state: Some(metadata.workflow_state.as_str().to_owned()),
            activity_type: metadata.activity_type,
            activity_id: metadata.activity_id,
            attempt: metadata.attempt,
            json,
        }
    }

    /// Whether it is a lifecycle event. Those are removed last when room runs out.
    pub(crate) fn is_lifecycle(&self) -> bool {
        super::is_lifecycle(&self.event_type, &self.event_name)
    }

    /// Parses the JSON.
    ///
    /// # Errors
    /// [`EventError::NotAnEvent`] if the JSON is not an event. In an event that the journal returns it always is.
    pub fn event(&self) -> Result<Event, EventError> {
        Event::from_json(&self.json)
    }

    /// Returns the key by which sinks keep events in order: the workflow id, or else the activity id, or else `None`. An
    /// empty id counts as none: it is no CloudEvents `subject`.
    pub fn key(&self) -> Option<&str> {
        [&self.workflow_id, &self.activity_id]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .find(|id| !id.is_empty())
    }
}

/// An event that a sink rejected. [`EventStore::redeliver`](crate::EventStore::redeliver) sends it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The sink's name.
    pub sink: String,
    /// The event's id.
    pub event_id: EventId,
    /// The event's position in the journal.
    pub position: u64,
    /// The reason for the rejection.
    pub reason: String,
    /// The event, as its native JSON.
    pub event: String,
}

impl DeadLetter {
    pub(crate) fn new(sink: &str, event: &StoredEvent, reason: String) -> Self {
        Self {
            sink: sink.to_owned(),
            event_id: event.event_id,
            position: event.position,
            reason,
            event: event.json.clone(),
        }
    }

    /// Returns the event as sinks take it.
    pub(crate) fn stored_event(&self) -> Result<StoredEvent, EventError> {
        StoredEvent::new(self.position, &Event::from_json(&self.event)?)
    }
}
