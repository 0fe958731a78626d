//! For the tests of programs that publish: a store in memory whose events can be looked at.

use crate::{
    event::Event,
    store::{BuildError, EventStore, EventStoreOptions},
};
use std::time::Duration;

/// How long [`CapturedEvents::events`] waits for what is under way.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A store in memory, and what was published to it.
///
/// ```
/// use temporal_eventstore::{Event, testing::CapturedEvents};
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// let captured = CapturedEvents::new().await?;
/// captured.store().publish(Event::new("data.processed"));
/// assert_eq!(captured.events().await[0].event_type, "data.processed");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct CapturedEvents {
    store: EventStore,
}

impl CapturedEvents {
    /// An empty store. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`] when the store's thread cannot be started.
    pub async fn new() -> Result<Self, BuildError> {
        Self::with_options(EventStoreOptions::default()).await
    }

    /// An empty store with options of your own, such as a filter; `url` and `journal` are ignored.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub async fn with_options(mut options: EventStoreOptions) -> Result<Self, BuildError> {
        options.url = Some("memory:".to_owned());
        options.journal = None;
        Ok(Self {
            store: EventStore::from_options(options).await?,
        })
    }

    /// The store, to be handed to the code under test.
    pub fn store(&self) -> EventStore {
        self.store.clone()
    }

    /// Everything that was published so far, in order, enriched. Ends of workflows are among them
    /// once the server has accepted them.
    pub async fn events(&self) -> Vec<Event> {
        // What cannot be flushed is not there to be seen either.
        self.store.flush(FLUSH_TIMEOUT).await.ok();
        self.store
            .read(0, usize::MAX)
            .await
            .unwrap_or_default()
            .iter()
            .filter_map(|(_, json)| Event::from_json(json).ok())
            .collect()
    }

    /// The events of that name, in order.
    pub async fn named(&self, event_name: &str) -> Vec<Event> {
        let mut events = self.events().await;
        events.retain(|event| event.event_name == event_name);
        events
    }
}
