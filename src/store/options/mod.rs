//! The options of a store, and how options from two sources are combined. Does not know how the options are used.

mod bounds;
mod choices;
mod environment;
#[cfg(test)]
mod tests;

pub use choices::{Append, Durability, LifecycleSelection};

use super::{BuildError, url};
use crate::{delivery::Handler, record::Filter, sink::Sink};
use bounds::{
    BATCH_SIZE, COMMIT_TIMEOUT, LINGER, MAX_EVENT_BYTES, MAX_JOURNAL_BYTES, MAX_QUEUED_BYTES,
    QUEUE_SIZE, RETENTION, duration,
};
use serde::Deserialize;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// The default of [`queue_size`](EventStoreOptions::queue_size): 10,000 events.
pub const DEFAULT_QUEUE_SIZE: usize = 10_000;
/// The default of [`max_queued_bytes`](EventStoreOptions::max_queued_bytes): 64 MiB.
pub const DEFAULT_MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// The default of [`batch_size`](EventStoreOptions::batch_size): 512 events.
pub const DEFAULT_BATCH_SIZE: usize = 512;
/// The default of [`linger`](EventStoreOptions::linger): 5 milliseconds.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(5);
/// The default of [`commit_timeout`](EventStoreOptions::commit_timeout): 2 seconds.
pub const DEFAULT_COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The options of an [`EventStore`](crate::EventStore).
///
/// Set them with [`EventStore::builder`](crate::EventStore::builder), read them from the environment with
/// [`EventStoreOptions::from_env`], or deserialize them from a configuration file that uses the same names. Combine
/// two sources with [`EventStoreOptions::or`].
///
/// | option | variable | default |
/// |---|---|---|
/// | `stores` | `EVENTSTORE_URL` | none; without a store, events are skipped |
/// | `journal` | `EVENTSTORE_JOURNAL` | none |
/// | `application_name` | `EVENTSTORE_APPLICATION_NAME` | the program's file name |
/// | `queue_size` | `EVENTSTORE_QUEUE_SIZE` | 10000 events |
/// | `max_queued_bytes` | `EVENTSTORE_MAX_QUEUED_BYTES` | 67108864 bytes |
/// | `batch_size` | `EVENTSTORE_BATCH_SIZE` | 512 events |
/// | `linger` | `EVENTSTORE_LINGER` | `5ms` |
/// | `commit_timeout` | `EVENTSTORE_COMMIT_TIMEOUT` | `2s` |
/// | `durability` | `EVENTSTORE_DURABILITY` | `process` |
/// | `append` | `EVENTSTORE_APPEND` | `inline` |
/// | `retention` | `EVENTSTORE_RETENTION` | none; 7 days for a journal that only feeds sinks |
/// | `max_journal_bytes` | `EVENTSTORE_MAX_JOURNAL_BYTES` | none; 1 GiB for a journal that only feeds sinks |
/// | `max_event_bytes` | `EVENTSTORE_MAX_EVENT_BYTES` | 262144 bytes |
/// | `lifecycle` | `EVENTSTORE_LIFECYCLE` | `all` |
/// | `error_messages` | `EVENTSTORE_ERROR_MESSAGES` | `true` |
/// | `repair_on_replay` | `EVENTSTORE_REPAIR_ON_REPLAY` | `false` |
///
/// Durations are written as `500ms`, `2s` or `30days`. A value outside of an option's bounds is a
/// [`BuildError::InvalidOption`].
#[derive(Clone, Default, Deserialize, bon::Builder)]
#[builder(state_mod(vis = "pub"), finish_fn(name = options), on(String, into))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct EventStoreOptions {
    /// The URLs of the places where events go: `sqlite:PATH` for a file, `memory:` for the memory of this process (for
    /// tests), or the URLs of sinks. One string may contain several URLs, separated by commas.
    ///
    /// `PATH` is a plain path: SQLite's `:memory:` and `file:` URIs are errors. There can be only one `sqlite:` or
    /// `memory:`. A `memory:` store keeps up to `queue_size` events; above that, the oldest are removed, events of
    /// applications before lifecycle events.
    #[builder(field)]
    #[serde(deserialize_with = "deserialize_stores")]
    pub stores: Vec<String>,
    /// Your own sinks, in addition to those in `stores`.
    #[builder(field)]
    #[serde(skip)]
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Functions of yours that are called with events; see [`Handler`]. Without a store there are no events.
    #[builder(field)]
    #[serde(skip)]
    pub handlers: Vec<Handler>,
    /// The path (not a URL) of the durable journal's file, from which events are delivered to sinks. A `sqlite:` store
    /// is its own journal: leave this option out then, or give the same path. Without any store or sink, this file is
    /// the store.
    #[builder(into)]
    pub journal: Option<PathBuf>,
    /// The `application_name` of events that do not have one.
    pub application_name: Option<String>,
    /// How many events may wait in memory for the journal, from 1 to 10,000,000. Beyond that, `publish` refuses
    /// events; refusals are counted and logged. Events of workflow tasks may fill the queue to twice this size.
    /// Lifecycle events are always accepted.
    pub queue_size: Option<usize>,
    /// How many bytes of events may wait in memory, in the queue and for their workflow tasks, from 1 MiB to 1 TiB.
    /// Beyond that, `publish` refuses events; refusals are counted and logged, but workflow code does not see them.
    /// Lifecycle events are always accepted. While the log cannot be written, memory keeps up to half as much in
    /// addition.
    pub max_queued_bytes: Option<usize>,
    /// The largest number of events that the journal's thread writes to the log at once, and that a sink gets at once,
    /// from 1 to 100,000. Events that were queued as one unit, such as those of one workflow task, are written
    /// together, even if there are more.
    pub batch_size: Option<usize>,
    /// How long an event that nobody waits for may wait for further events, so that they are written, or delivered,
    /// together. From 0 (do not wait) to a minute. If the process crashes before the event is written, the event is
    /// lost.
    ///
    /// The time starts when the journal's thread sees the event. If the thread is idle, it sees the event at once. If
    /// it is about to move events from the log to the store, it sees the event after that, about 50 ms later at most.
    /// A commit, an awaited receipt, a read and a flush write all queued events at once.
    #[serde(deserialize_with = "deserialize_duration")]
    pub linger: Option<Duration>,
    /// How long a workflow task or an activity result waits at most for its events to be durable, from a millisecond
    /// to an hour. After that it no longer waits, and the events stay queued. The timeout does not bound a write that
    /// the waiting thread makes itself; see [`Append`].
    #[serde(deserialize_with = "deserialize_duration")]
    pub commit_timeout: Option<Duration>,
    /// What durable events survive.
    pub durability: Option<Durability>,
    /// Which thread writes to the journal's log.
    pub append: Option<Append>,
    /// How long stored events are kept, from a second to 36,500 days. If it is left out, a store keeps events forever,
    /// and a journal that only feeds sinks keeps them for 7 days. Events that a sink does not have yet are kept
    /// longer.
    #[serde(deserialize_with = "deserialize_duration")]
    pub retention: Option<Duration>,
    /// The size cap of the store's file in bytes, from 131,072. Above it, the oldest events are removed, events of
    /// applications before lifecycle events. If it is left out, a store has no cap, and a journal that only feeds
    /// sinks has a cap of 1 GiB.
    ///
    /// The log beside the file has the same bound, but at least 16 MiB and at most 256 MiB. If there is no cap, it has
    /// 256 MiB.
    pub max_journal_bytes: Option<u64>,
    /// The limit for the size of one event as JSON, in bytes, from 1 to 8,388,608. A larger event is refused. A
    /// lifecycle event is never refused: its largest fields are shortened or left out until it fits, but never the
    /// fields that say what happened.
    pub max_event_bytes: Option<usize>,
    /// Which lifecycle events the interceptors and the reconciler emit.
    pub lifecycle: Option<LifecycleSelection>,
    /// Whether lifecycle events of failures contain the error's message, which may contain private data.
    pub error_messages: Option<bool>,
    /// Whether a replay of a workflow stores the events that the store lacks: `workflow_start`, and the events that
    /// workflow code published. They get the ids that they had. This restores a lost journal as far as the replayed
    /// histories reach. It costs one lookup in the journal for each event of each replay.
    pub repair_on_replay: Option<bool>,
    /// A function that may change or drop each event before it is stored. With a filter, the journal's thread does all
    /// writing; see [`Filter`].
    #[builder(into)]
    #[serde(skip)]
    pub filter: Option<Filter>,
}

/// Shows URLs without user names, passwords and parameters.
impl fmt::Debug for EventStoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Destructured, so that a new option is not forgotten.
        let Self {
            stores,
            sinks,
            handlers,
            journal,
            application_name,
            queue_size,
            max_queued_bytes,
            batch_size,
            linger,
            commit_timeout,
            durability,
            append,
            retention,
            max_journal_bytes,
            max_event_bytes,
            lifecycle,
            error_messages,
            repair_on_replay,
            filter,
        } = self;
        f.debug_struct("EventStoreOptions")
            .field(
                "stores",
                &stores.iter().map(|it| url::shown(it)).collect::<Vec<_>>(),
            )
            .field("sinks", sinks)
            .field("handlers", handlers)
            .field("journal", journal)
            .field("application_name", application_name)
            .field("queue_size", queue_size)
            .field("max_queued_bytes", max_queued_bytes)
            .field("batch_size", batch_size)
            .field("linger", linger)
            .field("commit_timeout", commit_timeout)
            .field("durability", durability)
            .field("append", append)
            .field("retention", retention)
            .field("max_journal_bytes", max_journal_bytes)
            .field("max_event_bytes", max_event_bytes)
            .field("lifecycle", lifecycle)
            .field("error_messages", error_messages)
            .field("repair_on_replay", repair_on_replay)
            .field("filter", filter)
            .finish()
    }
}

impl<S: event_store_options_builder::State> EventStoreOptionsBuilder<S> {
    /// Adds a store: `sqlite:PATH`, `memory:`, or the URL of a sink; see [`EventStoreOptions::stores`]. Call it once
    /// for each URL.
    pub fn store(mut self, url: impl Into<String>) -> Self {
        self.stores.push(url.into());
        self
    }

    /// Adds a sink of your own. Call it once for each sink.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// Adds a handler. Call it once for each. [`EventStore::handle`](crate::EventStore::handle) adds one to an open store.
    pub fn handler(mut self, handler: Handler) -> Self {
        self.handlers.push(handler);
        self
    }
}

impl EventStoreOptions {
    /// Checks the bounds of each option, wherever its value came from.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        fn shown(duration: Duration) -> String {
            humantime::format_duration(duration).to_string()
        }
        QUEUE_SIZE.check("queue_size", self.queue_size, |it| it.to_string())?;
        MAX_QUEUED_BYTES.check("max_queued_bytes", self.max_queued_bytes, |it| {
            it.to_string()
        })?;
        BATCH_SIZE.check("batch_size", self.batch_size, |it| it.to_string())?;
        LINGER.check("linger", self.linger, shown)?;
        COMMIT_TIMEOUT.check("commit_timeout", self.commit_timeout, shown)?;
        RETENTION.check("retention", self.retention, shown)?;
        MAX_JOURNAL_BYTES.check("max_journal_bytes", self.max_journal_bytes, |it| {
            it.to_string()
        })?;
        MAX_EVENT_BYTES.check("max_event_bytes", self.max_event_bytes, |it| it.to_string())?;
        match self
            .journal
            .as_deref()
            .map(|path| (path, url::check_journal(path)))
        {
            Some((path, Err(allowed))) => Err(BuildError::InvalidOption {
                name: "journal".to_owned(),
                value: path.display().to_string().chars().take(80).collect(),
                allowed,
            }),
            _ => Ok(()),
        }
    }

    /// Returns these options, with the values of `other` for options that are not set here.
    ///
    /// If `stores` is set here, `journal` is not taken from `other`.
    ///
    /// ```
    /// use temporal_eventstore::{EventStore, EventStoreOptions};
    ///
    /// # fn f() -> Result<EventStoreOptions, temporal_eventstore::BuildError> {
    /// let code = EventStore::builder().application_name("orders").options();
    /// let options = code.or(EventStoreOptions::from_env()?);
    /// # Ok(options) }
    /// ```
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            // These two belong together: a store given in code is not combined with a journal from outside.
            journal: if self.stores.is_empty() {
                self.journal.or(other.journal)
            } else {
                self.journal
            },
            stores: either(self.stores, other.stores),
            sinks: either(self.sinks, other.sinks),
            handlers: either(self.handlers, other.handlers),
            application_name: self.application_name.or(other.application_name),
            queue_size: self.queue_size.or(other.queue_size),
            max_queued_bytes: self.max_queued_bytes.or(other.max_queued_bytes),
            batch_size: self.batch_size.or(other.batch_size),
            linger: self.linger.or(other.linger),
            commit_timeout: self.commit_timeout.or(other.commit_timeout),
            durability: self.durability.or(other.durability),
            append: self.append.or(other.append),
            retention: self.retention.or(other.retention),
            max_journal_bytes: self.max_journal_bytes.or(other.max_journal_bytes),
            max_event_bytes: self.max_event_bytes.or(other.max_event_bytes),
            lifecycle: self.lifecycle.or(other.lifecycle),
            error_messages: self.error_messages.or(other.error_messages),
            repair_on_replay: self.repair_on_replay.or(other.repair_on_replay),
            filter: self.filter.or(other.filter),
        }
    }
}

/// Returns the first list, or the second if that is empty.
fn either<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

/// Reads one string, or a list of them.
fn deserialize_stores<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a URL, several with commas between them, or a list of URLs"
    )]
    enum Stores {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Option::<Stores>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Stores::Text(text)) => vec![text],
        Some(Stores::List(list)) => list,
    })
}

fn deserialize_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| duration(&text).map_err(serde::de::Error::custom))
        .transpose()
}
