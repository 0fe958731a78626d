//! Where delivery takes events from, and where it notes how far it came: the seam to the journal.

use crate::{
    event::{Event, EventError, EventId},
    sink::SinkEvent,
};
use async_trait::async_trait;
use serde::Serialize;

/// An event that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The sink's name.
    pub sink: String,
    /// The event's id.
    pub event_id: EventId,
    /// The event's position in the journal.
    pub position: u64,
    /// Why it was refused.
    pub reason: String,
    /// The event, as JSON.
    pub event: String,
}

impl DeadLetter {
    pub(crate) fn new(sink: &str, event: &SinkEvent, reason: String) -> Self {
        Self {
            sink: sink.to_owned(),
            event_id: event.event_id,
            position: event.position,
            reason,
            event: event.json.clone(),
        }
    }

    /// The event as sinks take it.
    pub(crate) fn sink_event(&self) -> Result<SinkEvent, EventError> {
        SinkEvent::new(self.position, &Event::from_json(&self.event)?)
    }
}

/// Why the journal did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    /// It is closed, for good.
    #[error("the journal is closed")]
    Closed,
    /// It cannot now.
    #[error("{0}")]
    Failed(String),
}

/// What delivery asks of the journal.
#[async_trait]
pub(crate) trait Source: Send + Sync + 'static {
    /// Up to where the sink `name` is done.
    async fn position(&self, name: &str) -> Result<u64, SourceError>;

    /// The next events after a position for the sink `name`, in order: at most `limit`, and not many
    /// bytes.
    async fn read(
        &self,
        name: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<SinkEvent>, SourceError>;

    /// Notes that the sink `name` is done with everything up to `position`, and what it refused.
    async fn settle(
        &self,
        name: &str,
        position: u64,
        dead: Vec<DeadLetter>,
    ) -> Result<(), SourceError>;

    /// Resolves when there may be events after `position`.
    async fn more(&self, position: u64);

    /// What the sink `name` refused, in order, after a position.
    async fn dead_letters(
        &self,
        name: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, SourceError>;

    /// Removes a dead letter, since it was taken after all.
    async fn bury(&self, name: &str, position: u64) -> Result<(), SourceError>;
}
