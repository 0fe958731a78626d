//! The place that code publishes from. Whoever runs the code (a worker, an interceptor) puts an [`Outlet`] on the
//! context stack, and [`EventStore::publish`] looks there for the one of its store. Does not know what the places
//! are.

use super::{EventStore, Receipt};
use crate::{context::Context, event::Event};
use std::sync::Arc;

/// A place in a program that decides what becomes of the events that are published there.
pub(crate) trait Place: Send + Sync {
    /// Publishes `event` to `store`. If `is_own` is false, the code runs under the plugin of another store, so
    /// that `store` does not learn what becomes of a workflow task.
    fn publish(&self, store: &EventStore, is_own: bool, event: Event, context: Context) -> Receipt;

    /// Returns which worker runs here, for a place that only knows that.
    #[cfg(feature = "plugin")]
    fn worker(&self) -> Option<usize> {
        None
    }
}

/// A store, and the place whose code publishes to it.
pub(crate) struct Outlet {
    pub(crate) store: EventStore,
    pub(crate) place: Arc<dyn Place>,
    // The plugins of two stores run the same code, one within the other.
    outer: Option<Arc<Outlet>>,
}

impl Outlet {
    /// Creates the outlet of `store` at `place`. `around` is the context stack of the caller of that code.
    pub(crate) fn new(store: &EventStore, place: Arc<dyn Place>, around: &Context) -> Arc<Self> {
        let outer = around
            .extension::<Self>()
            .filter(|outer| !outer.store.is_same_as(store));
        Arc::new(Self {
            store: store.clone(),
            place,
            outer,
        })
    }

    /// Returns the innermost outlet of `store`, if its plugin runs this code.
    pub(crate) fn of(&self, store: &EventStore) -> Option<&Self> {
        std::iter::successors(Some(self), |outlet| outlet.outer.as_deref())
            .find(|outlet| outlet.store.is_same_as(store))
    }
}
