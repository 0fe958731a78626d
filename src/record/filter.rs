//! The hook of applications that sees each event before it is stored.

use crate::event::Event;
use std::{fmt, sync::Arc};

/// What the hook of [`EventStoreOptions::filter`](crate::EventStoreOptions::filter) decides of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The event goes on its way, with the changes that the hook made.
    Keep,
    /// The event is dropped and counted.
    Drop,
}

/// A hook that sees every event after enrichment, before it is stored: it may change the event
/// (redact a field) or drop it. It runs on the journal's thread, never on the worker's path.
///
/// If it panics, an event of the application is not stored and counted as invalid, since it may hold what
/// was to be redacted. A lifecycle event is stored bare then: what happened, to which workflow or activity,
/// when and with which outcome, without error texts and without fields of the application. What a filter
/// changes of a lifecycle event into something invalid is put back or left out.
#[derive(Clone)]
pub struct Filter(Arc<dyn Fn(&mut Event) -> Keep + Send + Sync>);

impl Filter {
    /// A filter that calls `hook`.
    pub fn new(hook: impl Fn(&mut Event) -> Keep + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn apply(&self, event: &mut Event) -> Keep {
        (self.0)(event)
    }
}

impl<F: Fn(&mut Event) -> Keep + Send + Sync + 'static> From<F> for Filter {
    fn from(hook: F) -> Self {
        Self::new(hook)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter(..)")
    }
}
