//! What an open store is made of: the journal, and the delivery from it to the sinks. Opens both from the options.
//! Knows nothing of the context, nor of who publishes.

use super::{
    Append, BuildError, DEFAULT_BATCH_SIZE, DEFAULT_LINGER, DEFAULT_MAX_QUEUED_BYTES,
    DEFAULT_QUEUE_SIZE, Durability, EventStoreOptions, FailingSink, Health, Stats, url,
};
use crate::{
    delivery::{BatchOptions, Delivery, SinkStats, Subscription, cursor_name},
    journal::{Journal, JournalError, JournalOptions, Retention, Synchronous, Target},
};
use std::time::{Duration, SystemTime};
use tracing::info;

/// The default retention of a journal that only feeds sinks. For this long the reconciler and a replay find in it
/// which events are stored already.
const DELIVERED_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The default size cap of such a journal: one gibibyte.
const DELIVERING_MAX_BYTES: u64 = 1 << 30;

pub(super) struct Open {
    // First, so that its tasks end before the journal closes.
    pub(super) delivery: Option<Delivery>,
    pub(super) journal: Journal,
    // Whether the journal is a file. Otherwise only what the sinks have is durable.
    pub(super) is_lasting: bool,
    retention: Option<Duration>,
}

impl Open {
    /// Opens what the options name; none if they name no store. Must be called within a tokio runtime.
    pub(super) async fn from_options(
        options: &EventStoreOptions,
    ) -> Result<Option<Self>, BuildError> {
        let Some((options, subscriptions)) = journal_and_sinks(options)? else {
            return Ok(None);
        };
        let is_lasting = options.target != Target::Memory;
        let retention = match options.retention {
            Retention::Keep => None,
            Retention::For(age) => Some(age),
        };
        let batch = BatchOptions {
            size: options.batch_size,
            linger: options.linger,
            most_waiting: match is_lasting {
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
        let delivery = match subscriptions.is_empty() {
            true => None,
            false => Some(Delivery::start(subscriptions, &journal, batch).await),
        };
        if delivery.is_some() && !is_lasting {
            info!(
                "no journal file is set (EVENTSTORE_JOURNAL): events are in memory until the sinks \
                 have them, and what they do not have is lost with the process"
            );
        }
        Ok(Some(Self {
            delivery,
            journal,
            is_lasting,
            retention,
        }))
    }

    /// Whether an event of that time is older than events are kept.
    pub(super) fn is_past_retention(&self, happened_at: SystemTime) -> bool {
        self.retention
            .is_some_and(|age| happened_at.elapsed().is_ok_and(|since| since >= age))
    }

    /// Whether the journal is in memory, so that an event is durable only once the sinks have it.
    pub(super) fn is_durable_with_sinks(&self) -> bool {
        !self.is_lasting && self.delivery.is_some()
    }

    /// Waits until every sink has everything that the journal has now.
    pub(super) async fn reached_by_sinks(&self) {
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
    let sinks = places.subscriptions.iter();
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
        sinks: sinks
            .map(|subscription| cursor_name(&subscription.name))
            .collect(),
        // A filter is the application's code, and must not run on the thread of a worker.
        appends_inline: options.filter.is_none()
            && options.append.unwrap_or_default() == Append::Inline,
        is_store,
    };
    Ok(Some((journal_options, places.subscriptions)))
}
