//! The handle for applications: an [`EventStore`] enriches published events from the context stack and hands them
//! to the journal. Knows the context and the journal, and nothing of Temporal.

mod claims;
mod closing;
mod commit;
mod error;
mod handling;
mod open;
mod options;
mod outlet;
mod publish;
mod reading;
mod stats;
mod url;

pub(crate) use claims::Claim;
pub use error::{BuildError, FlushError, PublishError};
pub use options::{
    Append, DEFAULT_BATCH_SIZE, DEFAULT_COMMIT_TIMEOUT, DEFAULT_LINGER, DEFAULT_MAX_QUEUED_BYTES,
    DEFAULT_QUEUE_SIZE, Durability, EventStoreOptions, EventStoreOptionsBuilder,
    LifecycleSelection, event_store_options_builder,
};
pub(crate) use outlet::{Outlet, Place};
pub use publish::{Published, Receipt};
#[cfg(feature = "temporal")]
pub(crate) use stats::FoundByPass;
pub use stats::{FailingSink, Health, SinkStats, Stats};
#[cfg(feature = "cli")]
pub(crate) use url::split as split_urls;
#[cfg(feature = "cli")]
pub(crate) use url::{file_of, sinks_of};

use crate::{
    context::Context,
    event::{DEFAULT_MAX_EVENT_BYTES, Event},
    record::{self, Budget, Draft, Identity, Rules, Trimmed},
    said::{self, Said},
};
use claims::Claims;
use open::Open;
use stats::{Counters, add};
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};
use tokio::sync::OnceCell;
use tracing::{debug, info};

/// The handle with which applications publish events and read stored ones. Clones are cheap, and share one queue and
/// one journal.
///
/// Close the store with [`shutdown`](Self::shutdown). If the last handle is dropped without a shutdown, queued events
/// are still written, and the drop blocks for up to two seconds while they are.
///
/// ```
/// use temporal_eventstore::{Event, EventStore};
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// let events = EventStore::builder().application_name("orders").store("memory:").build().await?;
/// events.publish(Event::new("data.processed").data(serde_json::json!({ "records": 1000 })));
/// events.shutdown(std::time::Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EventStore {
    shared: Arc<Shared>,
}

struct Shared {
    rules: Arc<Rules>,
    // None if no store is configured.
    open: Option<Open>,
    queue_size: usize,
    commit_timeout: Duration,
    lifecycle: LifecycleSelection,
    error_messages: bool,
    repair_on_replay: bool,
    counters: Counters,
    claims: Arc<Claims>,
    shut_down: AtomicBool,
    closed: OnceCell<Result<(), FlushError>>,
    // So that each of these is logged once, or once in a while.
    said_skipped: Said,
    said_full: Said,
    said_stopped: Said,
}

impl EventStore {
    /// Returns a builder for the options. Call [`build`](EventStoreOptionsBuilder::build) to open the store. The
    /// builder does not read the environment.
    pub fn builder() -> EventStoreOptionsBuilder {
        EventStoreOptions::builder()
    }

    /// Opens the store that the environment variables describe; [`EventStoreOptions`] lists them. If neither
    /// `EVENTSTORE_URL` nor `EVENTSTORE_JOURNAL` is set, the store skips all events. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Returns a [`BuildError`] that names the variable or the file that is wrong.
    pub async fn from_env() -> Result<Self, BuildError> {
        Self::from_options(EventStoreOptions::from_env()?).await
    }

    /// Opens the store that `options` describe. The journal is opened on a blocking thread, and events that an earlier
    /// process left in its log are stored. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Returns a [`BuildError`] that names the option or the file that is wrong.
    ///
    /// A damaged store file is not an error. The store then works in memory instead, new events stay in the journal's
    /// log until a start finds an intact file, and [`health`](Self::health) is [degraded](Health::Degraded).
    pub async fn from_options(options: EventStoreOptions) -> Result<Self, BuildError> {
        let open = Open::from_options(&options).await?;
        Ok(Self::new(options, open))
    }

    /// Returns a store that skips all events, for programs that are configured not to publish.
    pub fn disabled() -> Self {
        Self::new(EventStoreOptions::default(), None)
    }

    fn new(options: EventStoreOptions, open: Option<Open>) -> Self {
        Self {
            shared: Arc::new(Shared {
                rules: Arc::new(Rules {
                    application_name: options
                        .application_name
                        .unwrap_or_else(default_application_name),
                    filter: options.filter,
                    max_event_bytes: options.max_event_bytes.unwrap_or(DEFAULT_MAX_EVENT_BYTES),
                    trimmed: Trimmed::default(),
                    budget: Budget::new(
                        options.max_queued_bytes.unwrap_or(DEFAULT_MAX_QUEUED_BYTES),
                    ),
                }),
                open,
                queue_size: options.queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
                commit_timeout: options.commit_timeout.unwrap_or(DEFAULT_COMMIT_TIMEOUT),
                lifecycle: options.lifecycle.unwrap_or_default(),
                error_messages: options.error_messages.unwrap_or(true),
                repair_on_replay: options.repair_on_replay.unwrap_or(false),
                counters: Counters::default(),
                claims: Arc::default(),
                shut_down: AtomicBool::new(false),
                closed: OnceCell::new(),
                said_skipped: Said::default(),
                said_full: Said::default(),
                said_stopped: Said::default(),
            }),
        }
    }

    /// Publishes an event. Never blocks and never panics. Failures are logged and counted, and an awaited [`Receipt`]
    /// returns them.
    ///
    /// The event is queued when `publish` returns, and is written to the journal's log soon after; see
    /// [`linger`](EventStoreOptions::linger). Await the [`Receipt`] to write the event at once and to know that it is
    /// durable.
    ///
    /// The event's empty metadata fields are filled from the [context stack](crate::context): the worker, the
    /// workflow, the activity and your own frames. Fields that the event already has are kept.
    ///
    /// In workflow code (run, signal and update handlers) the event waits until the server is known to have accepted
    /// the workflow task. It is then stored once, however often the task is executed or replayed.
    ///
    /// A `tracing` layer may publish what is logged. While it does, `publish` logs nothing.
    pub fn publish(&self, event: Event) -> Receipt {
        said::while_publishing(|| self.publish_here(event))
    }

    fn publish_here(&self, event: Event) -> Receipt {
        let context = Context::current();
        let outlet = context.extension::<Outlet>().filter(|_| self.is_enabled());
        match &outlet {
            None => self.append(Draft::published(
                self.rules(),
                event,
                context.without_extension(),
                Identity::Random,
            )),
            Some(innermost) => match innermost.of(self) {
                Some(own) => own.place.publish(self, true, event, context),
                None => innermost.place.publish(self, false, event, context),
            },
        }
    }

    /// Fills the event's empty fields from the current context stack, as [`publish`](Self::publish) does, without
    /// publishing the event or giving it an id.
    pub fn enrich(&self, event: &mut Event) {
        record::enrich(
            event,
            &Context::current(),
            SystemTime::now(),
            &self.shared.rules.application_name,
        );
    }

    /// Returns whether a store is configured. If not, all events are skipped.
    pub fn is_enabled(&self) -> bool {
        self.shared.open.is_some()
    }

    fn skip(&self) {
        add(&self.shared.counters.skipped, 1);
        if self.shared.said_skipped.is_first() {
            info!("no event store is configured (EVENTSTORE_URL): events are skipped");
        }
    }
}

impl<S: event_store_options_builder::IsComplete> EventStoreOptionsBuilder<S> {
    /// Opens the store; see [`EventStore::from_options`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The same as for [`EventStore::from_options`].
    pub async fn build(self) -> Result<EventStore, BuildError> {
        EventStore::from_options(self.options()).await
    }
}

impl std::fmt::Debug for EventStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStore")
            .field("application_name", &self.shared.rules.application_name)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.closed.get().is_none()
            && let Some(open) = &mut self.open
        {
            open.abandon();
        }
    }
}

/// Publishes an event to the store of the current context, as [`EventStore::publish`] does. In workflow and activity
/// code on a worker with the plugin, that is the plugin's store. Anywhere else the event is skipped.
///
/// ```
/// // In an activity, or in workflow code:
/// use temporal_eventstore::{Event, publish};
///
/// publish(Event::new("order.packed").data(serde_json::json!({ "parcels": 2 })));
/// ```
pub fn publish(event: Event) -> Receipt {
    match Context::current().extension::<Outlet>() {
        Some(outlet) => outlet.store.publish(event),
        None => said::while_publishing(|| {
            debug!("an event was published outside of any store's context and is skipped");
            Receipt::ready(Ok(Published::Skipped))
        }),
    }
}

/// Returns the program's file name.
fn default_application_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "application".to_owned())
}
