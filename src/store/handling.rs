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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use crate::{Event, EventStore, Handler, Health, Selection, StoredEvent};
    use std::{
        sync::{
            Arc, Mutex, PoisonError,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
        time::{Duration, Instant},
    };

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn in_memory() -> EventStore {
        let builder = EventStore::builder().store("memory:");
        builder.build().await.unwrap()
    }

    async fn publish(events: &EventStore, workflows: &[&str]) {
        for workflow in workflows {
            let mut event = Event::new("test.event");
            event.metadata.workflow_id = Some((*workflow).to_owned());
            events.publish(event).await.unwrap();
        }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < TIMEOUT, "it never holds that {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The positions of the events that were handled, and whether those of the workflow `stuck` can be.
    #[derive(Clone, Default)]
    struct Handled(Arc<Mutex<Vec<u64>>>, Arc<AtomicBool>);

    impl Handled {
        fn positions(&self) -> Vec<u64> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }

        fn handler(&self) -> Handler {
            let handled = self.clone();
            let handler = Handler::new("h", Selection::all(), move |event: StoredEvent| {
                let is_away = event.key() == Some("stuck") && !handled.1.load(SeqCst);
                if !is_away {
                    handled.0.lock().unwrap().push(event.position);
                }
                async move { if is_away { Err("away") } else { Ok(()) } }
            });
            handler.max_attempts(None)
        }
    }

    #[tokio::test]
    async fn what_is_handled_above_the_cursor_is_not_handled_again_when_operators_resume_it() {
        let events = in_memory().await;
        let handled = Handled::default();
        events.add_handler(handled.handler()).await.unwrap();
        publish(&events, &["stuck", "a", "stuck", "b", "a"]).await;
        until("the others are handled", || handled.positions().len() == 3).await;
        events.resume_sink("h").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        events.pause_sink("h").await.unwrap();
        events.resume_sink("h").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        events.skip_sink("h", 1).await.unwrap();
        handled.1.store(true, SeqCst);
        events.flush(TIMEOUT).await.unwrap();
        let mut all = handled.positions();
        all.sort_unstable();
        assert_eq!(all, [2, 3, 4, 5]);
        events.shutdown(TIMEOUT).await.unwrap();
    }

    #[tokio::test]
    async fn it_is_healthy_again_when_operators_skip_what_failed_or_mend_and_resume_it() {
        let events = in_memory().await;
        let handled = Handled::default();
        events.add_handler(handled.handler()).await.unwrap();
        let is_failing = || matches!(events.health(), Health::SinksFailing { .. });
        publish(&events, &["stuck"]).await;
        until("it fails", is_failing).await;
        events.skip_sink("h", 1).await.unwrap();
        until("it is healthy", || events.health() == Health::Healthy).await;
        publish(&events, &["stuck"]).await;
        until("it fails", is_failing).await;
        handled.1.store(true, SeqCst);
        events.resume_sink("h").await.unwrap();
        events.flush(TIMEOUT).await.unwrap();
        assert_eq!(events.health(), Health::Healthy);
        events.shutdown(TIMEOUT).await.unwrap();
    }

    #[tokio::test]
    async fn one_call_at_a_time_is_in_the_order_of_the_journal() {
        let events = in_memory().await;
        let handled = Handled::default();
        publish(&events, &["a", "a", "b", "c", "a", "b"]).await;
        let one = handled.handler().from_beginning().max_concurrent(1);
        events.add_handler(one).await.unwrap();
        events.flush(TIMEOUT).await.unwrap();
        assert_eq!(handled.positions(), [1, 2, 3, 4, 5, 6]);
        events.shutdown(TIMEOUT).await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_letter_is_handled_again_for_as_long_as_the_handler_may_take() {
        let events = in_memory().await;
        let is_mended = Arc::new(AtomicBool::new(false));
        let mended = is_mended.clone();
        let handler = Handler::new("h", Selection::all(), move |_| {
            let is_mended = mended.load(SeqCst);
            async move {
                // Longer than a sink may take in unit tests.
                tokio::time::sleep(Duration::from_secs(3 * u64::from(is_mended))).await;
                if is_mended { Ok(()) } else { Err("not yet") }
            }
        });
        events.add_handler(handler.max_attempts(1)).await.unwrap();
        publish(&events, &["a"]).await;
        events.flush(TIMEOUT).await.unwrap();
        is_mended.store(true, SeqCst);
        assert_eq!(events.redeliver("h").await.unwrap(), 1);
        assert!(events.dead_letters(0, 10).await.unwrap().is_empty());
        events.shutdown(TIMEOUT).await.unwrap();
    }

    /// A handler that blocks its thread, and a file that another program has locked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_shutdown_takes_its_timeout_twice_at_most() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("events.db");
        let url = format!("sqlite:{}", file.display());
        let events = EventStore::builder().store(url).build().await.unwrap();
        let [begun, is_over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (begins, over) = (begun.clone(), is_over.clone());
        let handler = Handler::new("h", Selection::all(), move |_| {
            begins.store(true, SeqCst);
            while !over.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            async { Ok::<_, String>(()) }
        });
        events.add_handler(handler).await.unwrap();
        publish(&events, &["a"]).await;
        until("it runs", || begun.load(SeqCst)).await;
        let locked = rusqlite::Connection::open(&file).unwrap();
        locked.execute_batch("BEGIN IMMEDIATE").unwrap();
        publish(&events, &["a"]).await;
        let timeout = Duration::from_secs(2);
        let began = Instant::now();
        events.shutdown(timeout).await.unwrap_err();
        let took = began.elapsed();
        is_over.store(true, SeqCst);
        assert!(took < timeout * 5 / 2, "{took:?}");
        assert!(took > timeout, "{took:?}");
    }
}
