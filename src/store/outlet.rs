//! Where code publishes from. Whoever runs that code (a worker, an interceptor) puts an [`Outlet`] on the
//! context stack; [`EventStore::publish`] looks for its own. Knows nothing of what the places are.

use super::{EventStore, Receipt};
use crate::{context::Context, event::Event};
use std::sync::Arc;

/// A place in a program that says itself what becomes of an event that is published there.
pub(crate) trait Place: Send + Sync {
    /// Publishes `event` to `store`. Unless `is_own`, that is another store than the one whose plugin
    /// runs the code: nobody tells it what becomes of a workflow task.
    fn publish(&self, store: &EventStore, is_own: bool, event: Event, context: Context) -> Receipt;

    /// Which worker runs here, where that is all that is known.
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
    /// The outlet of `store` at `place`, on top of `around`, the stack of whoever calls that code.
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

    /// The innermost outlet of `store`, if its plugin runs this code.
    pub(crate) fn of(&self, store: &EventStore) -> Option<&Self> {
        std::iter::successors(Some(self), |outlet| outlet.outer.as_deref())
            .find(|outlet| outlet.store.is_same_as(store))
    }
}
