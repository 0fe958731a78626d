//! What an open store is made of: the journal, and the delivery from it to the sinks. Opens both from the options.
//! Knows nothing of the context, nor of who publishes.

use super::{
    Append, BuildError, DEFAULT_BATCH_SIZE, DEFAULT_LINGER, DEFAULT_MAX_QUEUED_BYTES,
    DEFAULT_QUEUE_SIZE, Durability, EventStoreOptions, FailingSink, Health, Stats, url,
};
use crate::{
    delivery::{BatchOptions, Delivery, HandleError, SinkStats, Subscription, cursor_name},
    journal::{Journal, JournalError, JournalOptions, Retention, Synchronous, Target},
};
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tracing::info;

/// The default retention of a journal that only feeds sinks. For this long the reconciler and a replay find in it
/// which events are stored already.
const DELIVERED_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The default size cap of such a journal: one gibibyte.
const DELIVERING_MAX_BYTES: u64 = 1 << 30;

pub(super) struct Open {
    // First, so that its tasks end before the journal closes. None once it is abandoned.
    pub(super) delivery: Option<Delivery>,
    pub(super) journal: Journal,
    // The journal's file. Without one, only what the sinks have is durable.
    pub(super) file: Option<PathBuf>,
    retention: Option<Duration>,
}

impl Open {
    /// Opens what the options name; none if they name no store. Must be called within a tokio runtime.
    pub(super) async fn from_options(
        options: &EventStoreOptions,
    ) -> Result<Option<Self>, BuildError> {
        let handlers = options.handlers.clone();
        let Some((options, subscriptions)) = journal_and_sinks(options)? else {
            return Ok(None);
        };
        let file = match &options.target {
            Target::Memory => None,
            #[cfg(feature = "sqlite")]
            Target::Sqlite(path) => Some(path.clone()),
        };
        let retention = match options.retention {
            Retention::Keep => None,
            Retention::For(age) => Some(age),
        };
        let batch = BatchOptions {
            size: options.batch_size,
            linger: options.linger,
            most_waiting: match file.is_some() {
                true => {
                    let bytes = options.max_bytes.unwrap_or(u64::MAX) / 4;
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    (usize::MAX, bytes.max(1))
                }
                false => {
                    let events = options.batch_size.min(options.queue_size / 2);
                    (events.max(1), usize::MAX)
                }
            },
        };
        let journal = tokio::task::spawn_blocking(move || Journal::open(options))
            .await
            .map_err(|error| JournalError::Stopped(error.to_string()))??;
        let delivery = Delivery::start(subscriptions, &journal, batch).await;
        for handler in handlers {
            delivery.add(handler, &journal).await?;
        }
        if delivery.has_sinks() && file.is_none() {
            info!(
                "no journal file is set (EVENTSTORE_JOURNAL): events are in memory until the sinks \
                 have them, and what they do not have is lost with the process"
            );
        }
        Ok(Some(Self {
            delivery: Some(delivery),
            journal,
            file,
            retention,
        }))
    }

    /// Whether the journal is a file.
    pub(super) fn is_lasting(&self) -> bool {
        self.file.is_some()
    }

    /// Whether an event of that time is older than events are kept.
    pub(super) fn is_past_retention(&self, happened_at: SystemTime) -> bool {
        self.retention
            .is_some_and(|age| happened_at.elapsed().is_ok_and(|since| since >= age))
    }

    /// Whether the journal is in memory, so that an event is durable only once the sinks have it.
    pub(super) fn is_durable_with_sinks(&self) -> bool {
        !self.is_lasting() && self.delivery.as_ref().is_some_and(Delivery::has_sinks)
    }

    /// Waits until every sink has everything that the journal has now. Nobody who publishes waits for handlers.
    pub(super) async fn reached_by_sinks(&self) {
        if let Some(delivery) = &self.delivery {
            delivery
                .reached_by_sinks(self.journal.status().newest)
                .await;
        }
    }

    /// Waits until every sink and every handler has everything that the journal has now.
    pub(super) async fn reached(&self) {
        if let Some(delivery) = &self.delivery {
            delivery.reached(self.journal.status().newest).await;
        }
    }

    /// Returns how many positions the slowest sink is behind.
    pub(super) fn behind(&self) -> u64 {
        match &self.delivery {
            Some(delivery) => {
                let newest = self.journal.status().newest;
                newest.saturating_sub(delivery.position())
            }
            None => 0,
        }
    }

    /// Returns the numbers of each sink.
    pub(super) fn sinks(&self) -> Vec<SinkStats> {
        match &self.delivery {
            Some(delivery) => delivery.stats(self.journal.status().newest),
            None => Vec::new(),
        }
    }

    /// Adds the numbers of the journal and of the sinks.
    pub(super) fn count(&self, stats: &mut Stats) {
        let status = self.journal.status();
        stats.accepted = status.accepted;
        stats.written = status.written;
        stats.duplicates = status.duplicates;
        stats.invalid += status.invalid;
        stats.filtered = status.filtered;
        stats.refused = status.refused;
        stats.lost = status.lost;
        stats.held = status.held;
        stats.oldest_held = status.oldest_held;
        stats.transactions = status.transactions;
        stats.queued = status.queued;
        stats.journal_events = status.depth;
        stats.journal_bytes = status.bytes;
        stats.degraded = status.degraded;
        stats.sinks = self.sinks();
    }

    pub(super) fn health(&self) -> Health {
        let status = self.journal.status();
        if let Some(reason) = status.stopped {
            return Health::Stopped { reason };
        }
        if status.degraded {
            return Health::Degraded {
                reason: status.last_error.unwrap_or_default(),
            };
        }
        let failing = self.sinks().into_iter().filter_map(|sink| {
            Some(FailingSink {
                name: sink.name,
                reason: sink.failing?,
            })
        });
        let sinks: Vec<FailingSink> = failing.collect();
        if sinks.is_empty() {
            Health::Healthy
        } else {
            Health::SinksFailing { sinks }
        }
    }
}

/// Returns the options of the journal, and the sinks; none if the options name no store.
fn journal_and_sinks(
    options: &EventStoreOptions,
) -> Result<Option<(JournalOptions, Vec<Subscription>)>, BuildError> {
    options.check()?;
    let own = options.sinks.iter().cloned().map(Subscription::to_all);
    let places = url::places(&options.stores, options.journal.as_deref(), own.collect())?;
    let Some(places) = places else {
        return Ok(None);
    };
    let (target, is_store) = match places.log {
        url::Log::Memory => (Target::Memory, false),
        #[cfg(feature = "sqlite")]
        url::Log::Sqlite { path, is_store } => (Target::Sqlite(path), is_store),
        #[cfg(not(feature = "sqlite"))]
        url::Log::Sqlite { path, .. } => return Err(BuildError::SqliteDisabled { path }),
    };
    for (index, handler) in options.handlers.iter().enumerate() {
        handler.check()?;
        let name = handler.name();
        let mut before = options.handlers.iter().take(index);
        let is_taken = before.any(|other| other.name() == name)
            || places.subscriptions.iter().any(|sink| sink.name == name);
        if is_taken {
            return Err(BuildError::Handler(HandleError::NameTaken {
                name: name.to_owned(),
            }));
        }
    }
    let mut sinks: Vec<String> = places
        .subscriptions
        .iter()
        .map(|subscription| cursor_name(&subscription.name))
        .collect();
    // From the start, so that nothing is removed before they are added. Memory that is the store keeps what is handled.
    if target != Target::Memory || !sinks.is_empty() {
        sinks.extend(options.handlers.iter().map(|it| cursor_name(it.name())));
    }
    let journal_options = JournalOptions {
        target,
        queue_size: options.queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
        max_queued_bytes: options.max_queued_bytes.unwrap_or(DEFAULT_MAX_QUEUED_BYTES),
        batch_size: options.batch_size.unwrap_or(DEFAULT_BATCH_SIZE),
        linger: options.linger.unwrap_or(DEFAULT_LINGER),
        synchronous: match options.durability.unwrap_or_default() {
            Durability::Process => Synchronous::Normal,
            Durability::Power => Synchronous::Full,
        },
        max_bytes: options
            .max_journal_bytes
            .or((!is_store).then_some(DELIVERING_MAX_BYTES)),
        retention: match options.retention {
            Some(age) => Retention::For(age),
            None if is_store => Retention::Keep,
            None => Retention::For(DELIVERED_RETENTION),
        },
        sinks,
        // A filter is the application's code, and must not run on the thread of a worker.
        appends_inline: options.filter.is_none()
            && options.append.unwrap_or_default() == Append::Inline,
        is_store,
    };
    Ok(Some((journal_options, places.subscriptions)))
}
