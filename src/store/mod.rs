//! The handle for applications: an [`EventStore`] enriches published events from the context stack and hands them
//! to the journal. Knows the context and the journal, and nothing of Temporal.

mod claims;
mod commit;
mod error;
mod options;
mod outlet;
mod publish;
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
pub use stats::{FailingSink, Health, Stats};
#[cfg(feature = "cli")]
pub(crate) use url::split as split_urls;

use crate::{
    context::Context,
    delivery::{self, BatchOptions, Delivery, RedeliverError, SinkCheck, Subscription},
    event::{DEFAULT_MAX_EVENT_BYTES, DeadLetter, Event},
    journal::{self, Journal, JournalError, JournalOptions},
    record::{self, Budget, Draft, Identity, Rules, Trimmed},
    said::{self, Said},
};
use claims::Claims;
use stats::{Counters, add, get};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::OnceCell;
use tracing::{debug, info, warn};

/// Publishes events. A cheap handle: clones share one queue and one journal.
///
/// Close it with [`shutdown`](Self::shutdown). If the last handle is dropped without a shutdown, queued events are
/// still written, and the drop waits up to two seconds for that.
///
/// ```
/// use temporal_eventstore::{Event, EventStore};
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// let events = EventStore::builder().application_name("orders").url("memory:").build().await?;
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
    journal: Option<Journal>,
    delivery: Option<Delivery>,
    // Whether the journal is a file. Otherwise only what the sinks have is durable.
    is_lasting: bool,
    queue_size: usize,
    retention: Option<Duration>,
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

/// The parts of a store that is not disabled.
struct Parts {
    journal: Journal,
    delivery: Option<Delivery>,
    is_lasting: bool,
    retention: Option<Duration>,
}

impl EventStore {
    /// Returns a builder of options; finish with [`build`](EventStoreOptionsBuilder::build). Reads nothing from the
    /// environment.
    pub fn builder() -> EventStoreOptionsBuilder {
        EventStoreOptions::builder()
    }

    /// Builds the store that the environment describes; see [`EventStoreOptions`] for the variables. If none of
    /// them is set, the store skips all events.
    ///
    /// # Errors
    /// [`BuildError`], which names the variable or the file that is wrong.
    pub async fn from_env() -> Result<Self, BuildError> {
        Self::from_options(EventStoreOptions::from_env()?).await
    }

    /// Builds the store that `options` describe. Opens the journal on a blocking thread, and feeds it what an earlier
    /// process left in its log. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`], which names the option or the file that is wrong. A damaged file is not an error: memory then
    /// stands in for it, new events wait in the log for a start with a whole file, and
    /// [`health`](Self::health) is degraded.
    pub async fn from_options(options: EventStoreOptions) -> Result<Self, BuildError> {
        let Some((journal_options, subscriptions)) = places(&options)? else {
            return Ok(Self::new(options, None));
        };
        let is_lasting = journal_options.target != journal::Target::Memory;
        let retention = match journal_options.retention {
            journal::Retention::Keep => None,
            journal::Retention::For(age) => Some(age),
        };
        let batch = BatchOptions {
            size: journal_options.batch_size,
            linger: journal_options.linger,
        };
        let journal = tokio::task::spawn_blocking(move || Journal::open(journal_options))
            .await
            .map_err(|error| JournalError::Stopped(error.to_string()))??;
        let delivery =
            (!subscriptions.is_empty()).then(|| Delivery::start(subscriptions, &journal, batch));
        if delivery.is_some() && !is_lasting {
            info!(
                "no journal file is set (EVENTSTORE_JOURNAL): events are in memory until the sinks \
                 have them, and what they do not have is lost with the process"
            );
        }
        Ok(Self::new(
            options,
            Some(Parts {
                journal,
                delivery,
                is_lasting,
                retention,
            }),
        ))
    }

    /// Returns a store that skips all events, for programs that are told not to publish.
    pub fn disabled() -> Self {
        Self::new(EventStoreOptions::default(), None)
    }

    fn new(options: EventStoreOptions, parts: Option<Parts>) -> Self {
        let (journal, delivery, is_lasting, retention) = match parts {
            None => (None, None, false, None),
            Some(parts) => (
                Some(parts.journal),
                parts.delivery,
                parts.is_lasting,
                parts.retention,
            ),
        };
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
                journal,
                delivery,
                is_lasting,
                queue_size: options.queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
                retention,
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

    /// Publishes an event. Never blocks, never panics, and returns no error: failures are logged and counted.
    ///
    /// The event is queued when this returns, and is written to the journal's log soon after
    /// ([`linger`](EventStoreOptions::linger)). Await the [`Receipt`] to write it at once and to know that it is
    /// durable.
    ///
    /// What is known about the worker, the workflow, the activity and the frames of the
    /// [context stack](crate::context) is added. Fields that the event has already are kept.
    ///
    /// In workflow code (run, signal and update handlers) the event waits for its workflow task, and is published
    /// once the server is known to have accepted that, however often the task is executed or replayed.
    ///
    /// A `tracing` layer may publish what is logged. Publishing within such a layer logs nothing.
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

    /// Fills the event's empty fields from the current context stack, as `publish` does, but does not publish it and
    /// gives it no id.
    pub fn enrich(&self, event: &mut Event) {
        record::enrich(
            event,
            &Context::current(),
            SystemTime::now(),
            &self.shared.rules.application_name,
        );
    }

    /// Waits until everything that was published before is in the store, where [`read`](Self::read) and other
    /// programs see it, and until every sink has it. To wait only until an event is durable, await its [`Receipt`].
    /// Cancel safe.
    ///
    /// # Errors
    /// * [`FlushError::TimedOut`] after `timeout`, while another program has the file locked or the journal is slow.
    /// * [`FlushError::SinksBehind`] if the journal has the events, but a sink does not yet.
    /// * [`FlushError::Journal`] if the store's file is damaged or cannot be written. Events are then still durable in
    ///   the journal's log, unless that cannot be written either.
    pub async fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let Some(journal) = &self.shared.journal else {
            return Ok(());
        };
        let began = Instant::now();
        self.within(timeout, journal.flush()).await?;
        self.delivered(timeout.saturating_sub(began.elapsed()), timeout)
            .await
    }

    /// Waits until every sink has everything that the journal has now.
    async fn delivered(&self, left: Duration, timeout: Duration) -> Result<(), FlushError> {
        let (Some(delivery), Some(journal)) = (&self.shared.delivery, &self.shared.journal) else {
            return Ok(());
        };
        let newest = journal.status().newest;
        if tokio::time::timeout(left, delivery.reached(newest))
            .await
            .is_ok()
        {
            return Ok(());
        }
        let behind = delivery
            .stats(newest)
            .into_iter()
            .filter(|sink| sink.behind > 0)
            .map(|sink| format!("{} ({})", sink.name, sink.behind));
        Err(FlushError::SinksBehind {
            sinks: behind.collect::<Vec<_>>().join(", "),
            timeout,
        })
    }

    /// Flushes, then ends delivery and closes the journal. Afterwards events are refused and counted. Call it when the
    /// workers have stopped.
    ///
    /// Further calls, during the first or after it, return the result of the first. Cancel safe: after a cancelled
    /// call the next one takes over; without one, the journal closes when the last handle is dropped.
    ///
    /// # Errors
    /// As for [`flush`](Self::flush). [`JournalError::NotStored`] says that the store lacks events that are in the log
    /// for the next start, [`JournalError::Lost`] that events are lost.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        let mut behind = None;
        let closing = async {
            let (closed, left) = self.close(timeout).await;
            behind = Some(left);
            closed
        };
        let closed = self.shared.closed.get_or_init(|| closing).await.clone();
        // Logged by the call that closed it, once the others can have the result.
        if let Some(behind) = behind {
            self.say_closed(behind);
        }
        closed
    }

    /// Closes the store. Returns the result, and how many positions the slowest sink is behind.
    async fn close(&self, timeout: Duration) -> (Result<(), FlushError>, u64) {
        self.shared.shut_down.store(true, Ordering::Release);
        let Some(journal) = &self.shared.journal else {
            return (Ok(()), 0);
        };
        let flushed = self.flush(timeout).await;
        if let Some(delivery) = &self.shared.delivery {
            delivery.stop();
        }
        let behind = self.shared.behind();
        let closed = self.within(timeout, journal.close()).await;
        // Closing comes last and says what is lost for good.
        (closed.and(flushed), behind)
    }

    fn say_closed(&self, behind: u64) {
        if !self.is_enabled() {
            return;
        }
        let stats = self.stats();
        if stats.lost + stats.refused + stats.invalid > 0 {
            warn!(
                lost = stats.lost,
                refused = stats.refused,
                invalid = stats.invalid,
                written = stats.written,
                "the event store closed, and some events are not in it"
            );
        } else {
            info!(written = stats.written, "the event store closed");
        }
        if behind > 0 && self.shared.is_lasting {
            warn!(
                behind,
                "sinks lack events; these are in the journal and go on when the store is opened again"
            );
        } else if behind > 0 {
            warn!(
                behind,
                "sinks lack events, and these are lost: there is no journal file (EVENTSTORE_JOURNAL)"
            );
        }
    }

    async fn within(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<(), JournalError>>,
    ) -> Result<(), FlushError> {
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(FlushError::TimedOut {
                queued: self.stats().queued,
                timeout,
            }),
        }
    }

    /// Returns events that sinks rejected, with the reasons, in the order of their positions: at most `limit`
    /// of those after `position` (0 for the beginning), and then the rest of those that share the last position.
    ///
    /// Like [`read`](Self::read), waits until the store has everything that was published before.
    ///
    /// # Errors
    /// [`JournalError`] if the store cannot be read.
    pub async fn dead_letters(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        match &self.shared.journal {
            None => Ok(Vec::new()),
            Some(journal) => {
                let read = journal.ask(move |store| store.dead_letters(None, position, limit));
                read.await
            }
        }
    }

    /// Sends the dead letters of a sink again. Those that the sink takes now are removed; returns how many. If the call
    /// is cancelled, or the process ends just then, an event that was taken may stay a dead letter and be sent again.
    ///
    /// # Errors
    /// [`RedeliverError`], which names the sink.
    pub async fn redeliver(&self, sink: &str) -> Result<u64, RedeliverError> {
        match &self.shared.delivery {
            Some(delivery) => delivery.redeliver(sink).await,
            None => Err(RedeliverError::UnknownSink {
                name: sink.to_owned(),
                known: "none".to_owned(),
            }),
        }
    }

    /// Asks each sink whether its server can be reached now.
    pub async fn check_sinks(&self) -> Vec<SinkCheck> {
        match &self.shared.delivery {
            Some(delivery) => delivery.check().await,
            None => Vec::new(),
        }
    }

    /// Returns the numbers of this store.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let mut stats = Stats {
            invalid: get(&counters.invalid),
            trimmed: self.shared.rules.trimmed.count(),
            skipped: get(&counters.skipped),
            staged: get(&counters.staged),
            discarded: get(&counters.discarded),
            commits: get(&counters.commits),
            commit_wait: Duration::from_micros(get(&counters.commit_wait_micros)),
            commit_timeouts: get(&counters.commit_timeouts),
            ..Stats::default()
        };
        if let Some(journal) = &self.shared.journal {
            let status = journal.status();
            stats.accepted = status.accepted;
            stats.written = status.written;
            stats.duplicates = status.duplicates;
            stats.invalid += status.invalid;
            stats.filtered = status.filtered;
            stats.refused = status.refused;
            stats.lost = status.lost;
            stats.held = status.held;
            stats.transactions = status.transactions;
            stats.queued = status.queued;
            stats.queued_bytes = self.shared.rules.budget.used() as u64;
            stats.journal_events = status.depth;
            stats.journal_bytes = status.bytes;
            stats.degraded = status.degraded;
            if let Some(delivery) = &self.shared.delivery {
                stats.sinks = delivery.stats(status.newest);
            }
        }
        stats
    }

    /// Returns whether the store can do its work.
    pub fn health(&self) -> Health {
        match &self.shared.journal {
            None => Health::Disabled,
            Some(_) if self.shared.shut_down.load(Ordering::Acquire) => Health::ShutDown,
            Some(journal) => {
                let status = journal.status();
                if let Some(reason) = status.stopped {
                    Health::Stopped { reason }
                } else if status.degraded {
                    Health::Degraded {
                        reason: status.last_error.unwrap_or_default(),
                    }
                } else {
                    self.health_of_sinks(status.newest)
                }
            }
        }
    }

    fn health_of_sinks(&self, newest: u64) -> Health {
        let sinks = self.shared.delivery.as_ref().map(|it| it.stats(newest));
        let failing: Vec<FailingSink> = sinks
            .unwrap_or_default()
            .into_iter()
            .filter_map(|sink| {
                Some(FailingSink {
                    name: sink.name,
                    reason: sink.failing?,
                })
            })
            .collect();
        if failing.is_empty() {
            Health::Healthy
        } else {
            Health::SinksFailing { sinks: failing }
        }
    }

    /// Whether events are stored at all.
    pub fn is_enabled(&self) -> bool {
        self.shared.journal.is_some()
    }

    /// Reads stored events as JSON, each with its position, in the order in which they were stored: those after
    /// `position` (0 for the beginning), at most `limit`, and fewer if they are large (a call ends at about 8 MiB).
    ///
    /// First waits until the store has everything that was published before; while another program has the file
    /// locked, that is as long as the lock is held.
    ///
    /// # Errors
    /// [`JournalError`] if the store cannot be read.
    pub async fn read(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<(u64, String)>, JournalError> {
        match &self.shared.journal {
            None => Ok(Vec::new()),
            Some(journal) => {
                let read = journal.ask(move |store| store.read(None, position, limit));
                let events = read.await?;
                let events = events.into_iter();
                Ok(events.map(|event| (event.position, event.json)).collect())
            }
        }
    }

    fn skip(&self) {
        add(&self.shared.counters.skipped, 1);
        if self.shared.said_skipped.is_first() {
            info!("no event store is configured (EVENTSTORE_URL): events are skipped");
        }
    }
}

impl<S: event_store_options_builder::IsComplete> EventStoreOptionsBuilder<S> {
    /// Builds the store; see [`EventStore::from_options`].
    ///
    /// # Errors
    /// As [`EventStore::from_options`].
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

impl Shared {
    /// Returns how many positions the slowest sink is behind.
    fn behind(&self) -> u64 {
        match (&self.delivery, &self.journal) {
            (Some(delivery), Some(journal)) => {
                journal.status().newest.saturating_sub(delivery.position())
            }
            _ => 0,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.journal.is_some() && self.closed.get().is_none() {
            let behind = self.behind();
            // The tasks end here; the journal below writes what is queued.
            drop(self.delivery.take());
            if behind > 0 && !self.is_lasting {
                warn!(
                    behind,
                    "the last handle of an event store was dropped without shutdown; sinks lack \
                     events, and these are lost: there is no journal file (EVENTSTORE_JOURNAL)"
                );
                return;
            }
            warn!(
                "the last handle of an event store was dropped without shutdown; \
                 what is queued is still written, for a few seconds at most"
            );
        }
    }
}

/// Publishes to the store of the current context: in workflow and activity code on a worker with the plugin, that is
/// the plugin's store. Anywhere else the event is skipped.
///
/// See [`EventStore::publish`].
pub fn publish(event: Event) -> Receipt {
    match Context::current().extension::<Outlet>() {
        Some(outlet) => outlet.store.publish(event),
        None => said::while_publishing(|| {
            debug!("an event was published outside of any store's context and is skipped");
            Receipt::ready(Ok(Published::Skipped))
        }),
    }
}

/// The default retention of a journal that only feeds sinks. For this long the reconciler and a replay find in it
/// which events are stored already.
const DELIVERED_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The default size cap of such a journal: one gibibyte.
const DELIVERING_MAX_BYTES: u64 = 1 << 30;

fn places(
    options: &EventStoreOptions,
) -> Result<Option<(JournalOptions, Vec<Subscription>)>, BuildError> {
    options.check()?;
    let journal_path: Option<&Path> = options.journal.as_deref();
    let own = options.sinks.iter().cloned().map(Subscription::to_all);
    let Some(places) = url::places(options.url.as_deref(), journal_path, own.collect())? else {
        return Ok(None);
    };
    let (target, is_store) = match places.log {
        url::Log::Memory => (journal::Target::Memory, false),
        #[cfg(feature = "sqlite")]
        url::Log::Sqlite { path, is_store } => (journal::Target::Sqlite(path), is_store),
        #[cfg(not(feature = "sqlite"))]
        url::Log::Sqlite { path, .. } => return Err(BuildError::SqliteDisabled { path }),
    };
    let sinks = places.subscriptions.iter();
    let journal_options = JournalOptions {
        target,
        queue_size: options.queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
        max_queued_bytes: options.max_queued_bytes.unwrap_or(DEFAULT_MAX_QUEUED_BYTES),
        batch_size: options.batch_size.unwrap_or(DEFAULT_BATCH_SIZE),
        linger: options.linger.unwrap_or(DEFAULT_LINGER),
        synchronous: match options.durability.unwrap_or_default() {
            Durability::Process => journal::Synchronous::Normal,
            Durability::Power => journal::Synchronous::Full,
        },
        max_bytes: options
            .max_journal_bytes
            .or((!is_store).then_some(DELIVERING_MAX_BYTES)),
        retention: match options.retention {
            Some(age) => journal::Retention::For(age),
            None if is_store => journal::Retention::Keep,
            None => journal::Retention::For(DELIVERED_RETENTION),
        },
        sinks: sinks
            .map(|subscription| delivery::cursor_name(&subscription.name))
            .collect(),
        // A filter is the application's code, and must not run on the thread of a worker.
        appends_inline: options.filter.is_none()
            && options.append.unwrap_or_default() == Append::Inline,
        is_store,
    };
    Ok(Some((journal_options, places.subscriptions)))
}

/// Returns the program's file name.
fn default_application_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "application".to_owned())
}
