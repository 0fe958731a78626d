//! The hook with which applications change or drop events before they are stored.

use crate::event::Event;
use std::{fmt, sync::Arc};

/// What a [`Filter`] decides about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// Keep the event, with the changes that the filter made.
    Keep,
    /// Drop the event. It is counted ([`Stats::filtered`](crate::Stats::filtered)).
    Drop,
}

/// A hook that sees every event after enrichment and before it is stored. It may change the event, for example
/// redact a field, or drop it.
///
/// It runs on the journal's thread, never on the thread of a workflow or an activity. With a filter that thread
/// also does all appending to the journal: a commit or an awaited receipt waits for it, and so for the filter.
///
/// If the filter panics, an event of the application is not stored, since it may hold what was to be redacted; it
/// counts as invalid. A lifecycle event is then stored bare: what happened, to which workflow or activity, when,
/// and with which outcome, without error texts and without fields of the application. If the filter makes a field
/// of a lifecycle event invalid, the field is restored or left out.
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
