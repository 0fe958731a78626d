//! The hook with which applications change or drop events before they are stored.

use crate::event::Event;
use std::{fmt, sync::Arc};

/// What a [`Filter`] decides about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// Store the event, with the changes that the filter made.
    Keep,
    /// Do not store the event. It is counted in [`Stats::filtered`](crate::Stats::filtered).
    Drop,
}

/// A function that is called with every event, after enrichment and before the event is stored. It may change the
/// event, for example to redact a field, or drop it. It cannot change the event's id.
///
/// The filter runs on the journal's thread, never on the thread of a workflow or an activity. In a store with a
/// filter, that thread also appends every event to the journal. A commit or an awaited receipt then waits for that
/// thread, and so for the filter.
///
/// If the filter panics on an event of the application, the event is not stored, since it may contain what was to be
/// redacted; it counts as [invalid](crate::Stats::invalid). If the filter panics on a lifecycle event, only the
/// essentials are stored: what happened, to which workflow or activity, when, and with which outcome, but no error
/// texts and no fields of the application. If the filter makes a field of a lifecycle event invalid, the field is
/// restored or left out.
///
/// ```
/// use temporal_eventstore::{Event, EventStore, Filter, FilterAction};
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// let filter = Filter::new(|event: &mut Event| {
///     event.data.remove("card_number");
///     if event.event_type == "debug" { FilterAction::Drop } else { FilterAction::Keep }
/// });
/// let events = EventStore::builder().store("memory:").filter(filter).build().await?;
/// # events.shutdown(std::time::Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Filter(Arc<dyn Fn(&mut Event) -> FilterAction + Send + Sync>);

impl Filter {
    /// Creates a filter that calls `hook`.
    pub fn new(hook: impl Fn(&mut Event) -> FilterAction + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn apply(&self, event: &mut Event) -> FilterAction {
        (self.0)(event)
    }
}

impl<F: Fn(&mut Event) -> FilterAction + Send + Sync + 'static> From<F> for Filter {
    fn from(hook: F) -> Self {
        Self::new(hook)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter(..)")
    }
}
