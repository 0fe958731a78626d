//! What an application consumes itself: handlers, which are added to an open store.

use super::EventStore;
use crate::{
    delivery::{HandleError, Handler, Selection},
    event::StoredEvent,
};
use std::error::Error;
use tracing::info;

impl EventStore {
    /// Calls a function with each event that is selected, from now on and until [`shutdown`](Self::shutdown): an automation.
    /// It is called at least once with each, in order for each workflow, with a cursor in the journal that is kept under
    /// `name`: after a restart it goes on where it was. An event with which it fails is tried again, after pauses, and
    /// is a [dead letter](Self::dead_letters) after 20 attempts. [`Handler`] has the options, and says when a new name begins
    /// elsewhere; [the guide](https://docs.rs/temporal-eventstore/latest/temporal_eventstore/guide/handlers/) has the rules.
    ///
    /// Call it before the worker runs. Returns when it is durable where a new handler begins. To operators it is a sink:
    /// [`stats`](Self::stats), [`pause_sink`](Self::pause_sink) and [`redeliver`](Self::redeliver) take its name. If no store
    /// is configured, there are no events, and the function is never called. Must be called within a tokio runtime. Not cancel
    /// safe: of a call that is dropped it is not known whether the handler was added.
    ///
    /// ```
    /// use temporal_eventstore::{EventStore, Selection};
    /// # async fn notify(_: temporal_eventstore::StoredEvent) -> std::io::Result<()> { Ok(()) }
    /// # #[tokio::main] async fn main() -> anyhow::Result<()> {
    /// # let events = EventStore::builder().store("memory:").build().await?;
    /// events.handle("notify-on-failure", Selection::only("workflow_end"), async |event| {
    ///     if event.workflow_state.as_deref() == Some("failed") { notify(event).await } else { Ok(()) }
    /// }).await?;
    /// # events.shutdown(std::time::Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`HandleError`] if the name or the selection is not usable, if another handler or a sink has the name, or if the store
    /// was shut down.
    pub async fn handle<F, Fut, E>(
        &self,
        name: impl Into<String>,
        selection: Selection,
        function: F,
    ) -> Result<(), HandleError>
    where
        F: Fn(StoredEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.add_handler(Handler::new(name, selection, function))
            .await
    }

    /// Adds a handler with options of its own; otherwise like [`handle`](Self::handle).
    ///
    /// # Errors
    /// As for [`handle`](Self::handle), and if an option is out of its bounds.
    pub async fn add_handler(&self, handler: Handler) -> Result<(), HandleError> {
        let Some(open) = &self.shared.open else {
            handler.check()?;
            info!(
                handler = handler.name(),
                "no event store is configured (EVENTSTORE_URL): the handler is never called"
            );
            return Ok(());
        };
        match &open.delivery {
            Some(delivery) => delivery.add(handler, &open.journal).await,
            None => Err(crate::journal::JournalError::Closed.into()),
        }
    }
}
