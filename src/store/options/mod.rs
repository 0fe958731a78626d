//! The options of a store: what there is, and how options from two places come together. Does not know how the options
//! are used.

mod bounds;
mod choices;
mod environment;
#[cfg(test)]
mod tests;

pub use choices::{Append, Durability, LifecycleSelection};

use super::{BuildError, url};
use crate::{record::Filter, sink::Sink};
use bounds::{
    BATCH_SIZE, COMMIT_TIMEOUT, LINGER, MAX_EVENT_BYTES, MAX_JOURNAL_BYTES, MAX_QUEUED_BYTES,
    QUEUE_SIZE, RETENTION, duration,
};
use serde::Deserialize;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// How many events may wait in memory for the journal before `publish` refuses more.
pub const DEFAULT_QUEUE_SIZE: usize = 10_000;
/// How many bytes of events may wait in memory before `publish` refuses more: 64 MiB.
pub const DEFAULT_MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// How many events the journal's thread writes at once, and a sink gets at once, at most.
pub const DEFAULT_BATCH_SIZE: usize = 512;
/// How long an event that nobody waits for may wait for others to be written, or delivered, with.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(5);
/// How long a workflow task or an activity result waits for its events to be durable, at most.
pub const DEFAULT_COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The options of an [`EventStore`](crate::EventStore).
///
/// Built with [`EventStore::builder`](crate::EventStore::builder), read from the environment by
/// [`EventStoreOptions::from_env`], or deserialized from a configuration file with the same names.
///
/// | option | variable | default |
/// |---|---|---|
/// | `stores` | `EVENTSTORE_URL` | none: events are skipped |
/// | `journal` | `EVENTSTORE_JOURNAL` | none |
/// | `application_name` | `EVENTSTORE_APPLICATION_NAME` | the program's name |
/// | `queue_size` | `EVENTSTORE_QUEUE_SIZE` | 10000 events |
/// | `max_queued_bytes` | `EVENTSTORE_MAX_QUEUED_BYTES` | 67108864 |
/// | `batch_size` | `EVENTSTORE_BATCH_SIZE` | 512 events |
/// | `linger` | `EVENTSTORE_LINGER` | `5ms` |
/// | `commit_timeout` | `EVENTSTORE_COMMIT_TIMEOUT` | `2s` |
/// | `durability` | `EVENTSTORE_DURABILITY` | `process` |
/// | `append` | `EVENTSTORE_APPEND` | `inline` |
/// | `retention` | `EVENTSTORE_RETENTION` | none: events are kept |
/// | `max_journal_bytes` | `EVENTSTORE_MAX_JOURNAL_BYTES` | none |
/// | `max_event_bytes` | `EVENTSTORE_MAX_EVENT_BYTES` | 262144 |
/// | `lifecycle` | `EVENTSTORE_LIFECYCLE` | `all` |
/// | `error_messages` | `EVENTSTORE_ERROR_MESSAGES` | `true` |
/// | `repair_on_replay` | `EVENTSTORE_REPAIR_ON_REPLAY` | `false` |
///
/// Durations are written as `500ms`, `2s`, `30days`. Each option has bounds; a value beyond them is
/// [`BuildError::InvalidOption`].
#[derive(Clone, Default, Deserialize, bon::Builder)]
#[builder(state_mod(vis = "pub"), finish_fn(name = options), on(String, into))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct EventStoreOptions {
    /// Where events are stored: `sqlite:PATH` for a file that is kept, `memory:` for this process only (for tests), or
    /// the URLs of sinks. A string may name several with commas between them. A path is taken as it is: `:memory:` and
    /// `file:` URIs are errors.
    #[builder(field)]
    #[serde(deserialize_with = "deserialize_stores")]
    pub stores: Vec<String>,
    /// Your own sinks, beside those that `stores` names.
    #[builder(field)]
    #[serde(skip)]
    pub sinks: Vec<Arc<dyn Sink>>,
    /// The file of the durable journal, from which sinks are fed. A `sqlite:` store is its own journal: then leave this
    /// out, or give the same path. Without any URL this file is the store. A path, not a URL.
    #[builder(into)]
    pub journal: Option<PathBuf>,
    /// The `application_name` of every event that has none of its own.
    pub application_name: Option<String>,
    /// How many events may wait in memory for the journal. Beyond that, `publish` refuses events, which is counted and
    /// logged. Events of workflow tasks may fill the queue to twice this size; lifecycle events always get in. From 1
    /// to 10 million.
    pub queue_size: Option<usize>,
    /// How many bytes of events may wait in memory, in the queue and for their workflow tasks. Beyond that, `publish`
    /// refuses events, which is counted and logged, but not told to workflow code; lifecycle events always get in.
    /// While the log cannot be written, memory keeps up to half as much again. From 1 MiB.
    pub max_queued_bytes: Option<usize>,
    /// How many events the journal's thread writes to the log at once, and how many a sink gets at once, at most.
    /// Events that were queued as one unit, such as those of one workflow task, are not split. From 1 to 100,000.
    pub batch_size: Option<usize>,
    /// How long an event that nobody waits for may wait for others, to be written or delivered with them. A crash
    /// before it is written loses it.
    ///
    /// The time counts from when the journal's thread sees the event. After an idle time that is at once; while the
    /// thread is about to feed the store, it is when it has done so, about 50 ms later at most. A commit, an awaited
    /// receipt, a read and a flush write everything that is queued at once. Up to a minute; zero to wait for nothing.
    #[serde(deserialize_with = "deserialize_duration")]
    pub linger: Option<Duration>,
    /// How long a workflow task or an activity result waits for its events to be durable. After that it goes on
    /// without, and the events stay queued. It does not bound a write that the waiting thread makes itself; see
    /// [`Append`]. From a millisecond to an hour.
    #[serde(deserialize_with = "deserialize_duration")]
    pub commit_timeout: Option<Duration>,
    /// What durable events survive.
    pub durability: Option<Durability>,
    /// Who writes to the journal's log.
    pub append: Option<Append>,
    /// How long stored events are kept. From a second to 36,500 days. Left out, a store keeps them for ever, and a
    /// journal that only feeds sinks for 7 days.
    #[serde(deserialize_with = "deserialize_duration")]
    pub retention: Option<Duration>,
    /// The size cap of the store's file. Above it the oldest events are removed, user events first. From 131,072 bytes.
    /// Left out, a store has none, and a journal that only feeds sinks has 1 GiB.
    ///
    /// The log beside the file has a bound of its own: as large as this, but from 16 MiB to 256 MiB.
    pub max_journal_bytes: Option<u64>,
    /// The size of one encoded event above which it is refused. A lifecycle event is never refused: if it is larger,
    /// its largest fields are shortened or left out, but never those that say what happened. Up to 8,388,608.
    pub max_event_bytes: Option<usize>,
    /// Which lifecycle events the interceptors emit.
    pub lifecycle: Option<LifecycleSelection>,
    /// Whether failed ends carry the error's message, which can hold private data.
    pub error_messages: Option<bool>,
    /// Whether a replay stores what the store lacks: `workflow_start` and the events that workflow code published,
    /// with the ids that they had. A lost journal heals that way as far as history reaches. Costs one lookup in the
    /// journal for each event of each replay.
    pub repair_on_replay: Option<bool>,
    /// A hook that may change or drop each event before it is stored. With a filter, the journal's thread does all
    /// writing; see [`Filter`].
    #[builder(into)]
    #[serde(skip)]
    pub filter: Option<Filter>,
}

/// Without secrets: a URL may hold a password.
impl fmt::Debug for EventStoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Destructured, so that a new option is not forgotten.
        let Self {
            stores,
            sinks,
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
    /// Adds a store: `sqlite:PATH`, `memory:`, or the URL of a sink. Call it once for each. Taken as
    /// [`EventStoreOptions::stores`].
    pub fn store(mut self, url: impl Into<String>) -> Self {
        self.stores.push(url.into());
        self
    }

    /// Adds a sink of your own. Call it once for each.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.sinks.push(Arc::new(sink));
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

    /// Returns these options, completed with those of `other` where these have none.
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
    Ok(match Stores::deserialize(deserializer)? {
        Stores::Text(text) => vec![text],
        Stores::List(list) => list,
    })
}

fn deserialize_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| duration(&text).map_err(serde::de::Error::custom))
        .transpose()
}
