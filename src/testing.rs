//! Tools for the tests of programs that publish events: a store in memory that captures events, and a sink that fails
//! on demand. [`conformance`] tests sinks of your own.

pub mod conformance;

use crate::{
    event::Event,
    sink::{Delivered, Rejection, Sink, SinkError, SinkEvent},
    store::{BuildError, EventStore, EventStoreOptions},
};
use async_trait::async_trait;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long [`CapturedEvents::events`] waits for what is under way.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A store in memory that captures what is published to it.
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
    /// Creates an empty store. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Returns a [`BuildError`] if the store's thread cannot be started.
    pub async fn new() -> Result<Self, BuildError> {
        Self::with_options(EventStoreOptions::default()).await
    }

    /// Creates an empty store with options of your own, such as a filter. The options `stores` and `journal` are
    /// ignored. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Returns a [`BuildError`] if an option is wrong, or if the store's thread cannot be started.
    pub async fn with_options(mut options: EventStoreOptions) -> Result<Self, BuildError> {
        options.stores = vec!["memory:".to_owned()];
        options.journal = None;
        Ok(Self {
            store: EventStore::from_options(options).await?,
        })
    }

    /// Returns the store, to be passed to the code under test.
    pub fn store(&self) -> EventStore {
        self.store.clone()
    }

    /// Returns the stored events, enriched and in order: everything that was published before this call, up to the
    /// [queue size](EventStoreOptions::queue_size) and about 8 MiB. Events of workflow code and `workflow_end` are
    /// among them once the server is known to have accepted their workflow task.
    ///
    /// Waits up to 5 seconds for events that are still queued.
    pub async fn events(&self) -> Vec<Event> {
        // What cannot be flushed is not there to be seen either.
        self.store.flush(FLUSH_TIMEOUT).await.ok();
        self.store
            .read_after(0, usize::MAX)
            .await
            .unwrap_or_default()
            .iter()
            .filter_map(|stored| stored.event().ok())
            .collect()
    }

    /// Returns those of [`events`](Self::events) that have this event name.
    pub async fn named(&self, event_name: &str) -> Vec<Event> {
        let mut events = self.events().await;
        events.retain(|event| event.event_name == event_name);
        events
    }
}

/// A sink in memory that keeps the events that it gets, and fails on demand. Clones share one state.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use temporal_eventstore::{Event, EventStore, testing::TestSink};
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// let sink = TestSink::new("test");
/// let events = EventStore::builder().sink(sink.clone()).build().await?;
/// sink.fail("the receiver is away");
/// events.publish(Event::new("data.processed"));
/// sink.recover();
/// events.shutdown(Duration::from_secs(5)).await?;
/// assert_eq!(sink.events()[0].event_type, "data.processed");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TestSink {
    name: Arc<str>,
    state: Arc<Mutex<TestSinkState>>,
}

type Reject = dyn Fn(&SinkEvent) -> Option<String> + Send;

#[derive(Default)]
struct TestSinkState {
    received: Vec<SinkEvent>,
    calls: usize,
    failing: Option<String>,
    answers_to_lose: usize,
    delay: Duration,
    reject: Option<Box<Reject>>,
    refuse: Option<Box<Reject>>,
}

impl TestSink {
    /// Creates a sink with this name that accepts every event.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, TestSinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every following call fail with this reason, so that no event arrives.
    pub fn fail(&self, reason: &str) {
        self.state().failing = Some(reason.to_owned());
    }

    /// Makes the following calls succeed again, after [`fail`](Self::fail).
    pub fn recover(&self) {
        self.state().failing = None;
    }

    /// Makes the next `calls` calls lose their answers: the events arrive, but the caller sees a failure.
    pub fn lose_answers(&self, calls: usize) {
        self.state().answers_to_lose = calls;
    }

    /// Makes every following call take this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Makes the sink reject every following event for which `reject` returns a reason: the event cannot be sent as it is.
    pub fn reject(&self, reject: impl Fn(&SinkEvent) -> Option<String> + Send + 'static) {
        self.state().reject = Some(Box::new(reject));
    }

    /// Makes the sink refuse every following event for which `refuse` returns a reason, as a receiver does that does not
    /// accept it.
    pub fn refuse(&self, refuse: impl Fn(&SinkEvent) -> Option<String> + Send + 'static) {
        self.state().refuse = Some(Box::new(refuse));
    }

    /// Returns the events that arrived, in order. An event that arrived twice is there twice.
    pub fn received(&self) -> Vec<SinkEvent> {
        self.state().received.clone()
    }

    /// Returns the same as [`received`](Self::received), parsed.
    pub fn events(&self) -> Vec<Event> {
        let received = self.received();
        received
            .iter()
            .filter_map(|event| event.event().ok())
            .collect()
    }

    /// Returns how often [`deliver`](Sink::deliver) was called.
    pub fn calls(&self) -> usize {
        self.state().calls
    }
}

impl fmt::Debug for TestSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Sink for TestSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let delay = {
            let mut state = self.state();
            state.calls += 1;
            state.delay
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.state();
        if let Some(reason) = &state.failing {
            return Err(SinkError::new(reason.clone()));
        }
        let mut rejected = Vec::new();
        for (index, event) in batch.iter().enumerate() {
            let asked = |rule: &Option<Box<Reject>>| rule.as_ref().and_then(|rule| rule(event));
            if let Some(reason) = asked(&state.reject) {
                rejected.push(Rejection::new(index, reason));
            } else if let Some(reason) = asked(&state.refuse) {
                rejected.push(Rejection::refused(index, reason));
            } else {
                state.received.push(event.clone());
            }
        }
        if state.answers_to_lose > 0 {
            state.answers_to_lose -= 1;
            return Err(SinkError::new("the answer was lost"));
        }
        Ok(Delivered::up_to(batch.len(), rejected))
    }

    async fn check(&self) -> Result<(), SinkError> {
        match &self.state().failing {
            None => Ok(()),
            Some(reason) => Err(SinkError::new(reason.clone())),
        }
    }
}
