//! The options, from code and from the environment. A value that is not understood is an error that says what is
//! allowed. Does not know how the options are used.

use super::{BuildError, url};
use crate::{
    record::Filter,
    sink::{self, Sink},
};
use serde::Deserialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

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

/// The bounds of an option.
struct Allowed<T> {
    least: T,
    most: T,
    /// The bounds in words, for errors.
    words: &'static str,
}

impl<T: PartialOrd + Copy> Allowed<T> {
    fn has(&self, value: T) -> bool {
        (self.least..=self.most).contains(&value)
    }

    fn only(&self, value: T) -> Result<T, String> {
        if self.has(value) {
            Ok(value)
        } else {
            Err(self.words.to_owned())
        }
    }

    fn check(
        &self,
        name: &str,
        value: Option<T>,
        shown: impl FnOnce(T) -> String,
    ) -> Result<(), BuildError> {
        match value.filter(|value| !self.has(*value)) {
            None => Ok(()),
            Some(value) => Err(BuildError::InvalidOption {
                name: name.to_owned(),
                value: shown(value),
                allowed: self.words.to_owned(),
            }),
        }
    }
}

impl<T: FromStr + PartialOrd + Copy> Allowed<T> {
    fn number(&self, value: &str) -> Result<T, String> {
        parse(value, self.words).and_then(|number| self.only(number))
    }
}

impl Allowed<Duration> {
    fn duration(&self, value: &str) -> Result<Duration, String> {
        duration(value)
            .map_err(|_| self.words.to_owned())
            .and_then(|duration| self.only(duration))
    }
}

const QUEUE_SIZE: Allowed<usize> = Allowed {
    least: 1,
    most: 10_000_000,
    words: "a whole number from 1 to 10000000",
};
// The lower bound leaves room for one large event and its encoding.
const MAX_QUEUED_BYTES: Allowed<usize> = Allowed {
    least: 1024 * 1024,
    most: 1 << 40,
    words: "a whole number of bytes from 1048576 to 1099511627776",
};
const BATCH_SIZE: Allowed<usize> = Allowed {
    least: 1,
    most: 100_000,
    words: "a whole number from 1 to 100000",
};
const LINGER: Allowed<Duration> = Allowed {
    least: Duration::ZERO,
    most: Duration::from_secs(60),
    words: "a duration from `0s` to `1m`, such as `5ms`",
};
// With no time to wait, every commit would be late.
const COMMIT_TIMEOUT: Allowed<Duration> = Allowed {
    least: Duration::from_millis(1),
    most: Duration::from_secs(60 * 60),
    words: "a duration from `1ms` to `1h`, such as `2s`",
};
// Events age by whole seconds.
const RETENTION: Allowed<Duration> = Allowed {
    least: Duration::from_secs(1),
    most: Duration::from_secs(36_500 * 24 * 60 * 60),
    words: "a duration from `1s` to `36500days`, such as `30days`",
};
// Twice what an empty file takes.
const MAX_JOURNAL_BYTES: Allowed<u64> = Allowed {
    least: 128 * 1024,
    most: u64::MAX,
    words: "a whole number of bytes from 131072",
};
const MAX_EVENT_BYTES: Allowed<usize> = Allowed {
    least: 1,
    most: 8 * 1024 * 1024,
    words: "a whole number of bytes from 1 to 8388608",
};

/// Which lifecycle events the interceptors emit. All by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[non_exhaustive]
pub struct LifecycleSelection {
    /// `workflow_start` and `workflow_end`.
    pub workflow: bool,
    /// `activity_start`, `activity_end` and `activity_async_end` of activities that the server schedules.
    pub activity: bool,
    /// `activity_start` and `activity_end` of local activities.
    pub local_activity: bool,
    /// `worker_start` and `worker_end`.
    pub worker: bool,
}

impl LifecycleSelection {
    /// Every lifecycle event.
    pub const ALL: Self = Self {
        workflow: true,
        activity: true,
        local_activity: true,
        worker: true,
    };
    /// No lifecycle event: only what application code publishes.
    pub const NONE: Self = Self {
        workflow: false,
        activity: false,
        local_activity: false,
        worker: false,
    };
}

impl Default for LifecycleSelection {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for LifecycleSelection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "`all`, `none`, or a comma-separated list of workflow, activity, local_activity, worker";
        let mut selection = Self::NONE;
        match text.trim() {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            list => {
                for word in list.split(',') {
                    match word.trim() {
                        "workflow" => selection.workflow = true,
                        "activity" => selection.activity = true,
                        "local_activity" => selection.local_activity = true,
                        "worker" => selection.worker = true,
                        _ => return Err(ALLOWED.to_owned()),
                    }
                }
            }
        }
        Ok(selection)
    }
}

impl TryFrom<String> for LifecycleSelection {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What durable events survive. An event is durable once it is in the journal's log; a commit and an awaited receipt
/// wait for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Durable events survive a killed process, as long as the kernel lives on that has the written pages: not a
    /// killed gVisor sandbox or micro-VM, not a dead FUSE daemon, not a removed container layer.
    ///
    /// A caller that waits may write to the log itself; see [`Append`].
    #[default]
    Process,
    /// Durable events survive a power cut, too. The journal's thread syncs the log before it answers, and the store's
    /// file is written with SQLite's `synchronous=FULL`. Slower.
    Power,
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "process" => Ok(Self::Process),
            "power" => Ok(Self::Power),
            _ => Err("`process` or `power`".to_owned()),
        }
    }
}

/// Who writes to the log of a journal in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Append {
    /// Whoever commits or awaits a receipt, with one short write, where that is cheap and safe: with
    /// [`Durability::Process`], without a filter, on a local Linux file system that answers quickly. Otherwise the
    /// journal's thread. Only the kernel bounds how long such a write takes; a worker stalls for as long.
    #[default]
    Inline,
    /// Always the journal's thread, so that `commit_timeout` bounds every wait. Each commit then costs a switch
    /// between threads.
    Thread,
}

impl FromStr for Append {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "inline" => Ok(Self::Inline),
            "thread" => Ok(Self::Thread),
            _ => Err("`inline` or `thread`".to_owned()),
        }
    }
}

/// The options of an [`EventStore`](crate::EventStore).
///
/// Built with [`EventStore::builder`](crate::EventStore::builder), read from the environment by
/// [`EventStoreOptions::from_env`], or deserialized from a configuration file with the same names.
///
/// | option | variable | default |
/// |---|---|---|
/// | `url` | `EVENTSTORE_URL` | none: events are skipped |
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
    /// the URLs of sinks, separated by commas. A path is taken as it is: `:memory:` and `file:` URIs are errors.
    pub url: Option<String>,
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
    /// Your own sinks, beside those that `url` names.
    #[builder(default)]
    #[serde(skip)]
    pub sinks: Vec<Arc<dyn Sink>>,
}

/// Without secrets: a URL may hold a password.
impl fmt::Debug for EventStoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Destructured, so that a new option is not forgotten.
        let Self {
            url,
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
            sinks,
        } = self;
        f.debug_struct("EventStoreOptions")
            .field("url", &url.as_deref().map(url::shown))
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
            .field("sinks", sinks)
            .finish()
    }
}

impl EventStoreOptions {
    /// Reads the options from the environment.
    ///
    /// # Errors
    /// [`BuildError::InvalidOption`] for a value that is not understood, and for an unknown variable whose name
    /// starts with `EVENTSTORE_`.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::from_variables(std::env::vars_os().filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        }))
    }

    /// Reads the options from any list of variables and values. A variable with an empty value counts as not set.
    ///
    /// # Errors
    /// As for [`Self::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BuildError> {
        let mut options = Self::default();
        for (name, value) in variables {
            if !name.starts_with("EVENTSTORE_") || value.is_empty() {
                continue;
            }
            let invalid = |allowed: &str| BuildError::InvalidOption {
                name: name.clone(),
                // A URL can hold a password, and an unknown variable anything.
                value: match name.as_str() {
                    "EVENTSTORE_URL" => sink::redacted(&value),
                    _ => value.chars().take(80).collect(),
                },
                allowed: allowed.to_owned(),
            };
            match name.as_str() {
                "EVENTSTORE_URL" => options.url = Some(value),
                "EVENTSTORE_JOURNAL" => {
                    url::check_journal(Path::new(&value)).map_err(|a| invalid(&a))?;
                    options.journal = Some(value.into());
                }
                "EVENTSTORE_APPLICATION_NAME" => options.application_name = Some(value),
                "EVENTSTORE_QUEUE_SIZE" => {
                    options.queue_size = Some(QUEUE_SIZE.number(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_MAX_QUEUED_BYTES" => {
                    options.max_queued_bytes =
                        Some(MAX_QUEUED_BYTES.number(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_APPEND" => {
                    options.append = Some(value.parse().map_err(|a: String| invalid(&a))?);
                }
                "EVENTSTORE_BATCH_SIZE" => {
                    options.batch_size = Some(BATCH_SIZE.number(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_LINGER" => {
                    options.linger = Some(LINGER.duration(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_COMMIT_TIMEOUT" => {
                    options.commit_timeout =
                        Some(COMMIT_TIMEOUT.duration(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_DURABILITY" => {
                    options.durability = Some(value.parse().map_err(|a: String| invalid(&a))?);
                }
                "EVENTSTORE_RETENTION" => {
                    options.retention = Some(RETENTION.duration(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_MAX_JOURNAL_BYTES" => {
                    options.max_journal_bytes =
                        Some(MAX_JOURNAL_BYTES.number(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_MAX_EVENT_BYTES" => {
                    options.max_event_bytes =
                        Some(MAX_EVENT_BYTES.number(&value).map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_LIFECYCLE" => {
                    options.lifecycle = Some(value.parse().map_err(|a: String| invalid(&a))?);
                }
                "EVENTSTORE_ERROR_MESSAGES" => {
                    options.error_messages =
                        Some(parse(&value, "`true` or `false`").map_err(|a| invalid(&a))?);
                }
                "EVENTSTORE_REPAIR_ON_REPLAY" => {
                    options.repair_on_replay =
                        Some(parse(&value, "`true` or `false`").map_err(|a| invalid(&a))?);
                }
                // The sinks read these themselves, so that no other part gets a secret.
                name if sink::is_variable(name) => {}
                _ => {
                    return Err(BuildError::InvalidOption {
                        name,
                        value: "a value that is not shown".to_owned(),
                        allowed: format!(
                            "no such variable; known are {}",
                            [NAMES.to_vec(), sink::variables()].concat().join(", ")
                        ),
                    });
                }
            }
        }
        Ok(options)
    }

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
            // These two belong together: a URL given in code is not combined with a journal from outside.
            journal: if self.url.is_some() {
                self.journal
            } else {
                self.journal.or(other.journal)
            },
            url: self.url.or(other.url),
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
            sinks: if self.sinks.is_empty() {
                other.sinks
            } else {
                self.sinks
            },
        }
    }
}

const NAMES: [&str; 16] = [
    "EVENTSTORE_URL",
    "EVENTSTORE_JOURNAL",
    "EVENTSTORE_APPLICATION_NAME",
    "EVENTSTORE_QUEUE_SIZE",
    "EVENTSTORE_MAX_QUEUED_BYTES",
    "EVENTSTORE_BATCH_SIZE",
    "EVENTSTORE_LINGER",
    "EVENTSTORE_COMMIT_TIMEOUT",
    "EVENTSTORE_DURABILITY",
    "EVENTSTORE_APPEND",
    "EVENTSTORE_RETENTION",
    "EVENTSTORE_MAX_JOURNAL_BYTES",
    "EVENTSTORE_MAX_EVENT_BYTES",
    "EVENTSTORE_LIFECYCLE",
    "EVENTSTORE_ERROR_MESSAGES",
    "EVENTSTORE_REPAIR_ON_REPLAY",
];

fn parse<T: FromStr>(value: &str, allowed: &str) -> Result<T, String> {
    value.trim().parse().map_err(|_| allowed.to_owned())
}

fn duration(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value.trim())
        .map_err(|_| "a duration such as `500ms`, `2s` or `30days`".to_owned())
}

fn deserialize_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| duration(&text).map_err(serde::de::Error::custom))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::{super::EventStore, *};
    use crate::event::Event;

    fn read(variables: &[(&str, &str)]) -> Result<EventStoreOptions, BuildError> {
        EventStoreOptions::from_variables(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn every_variable_is_read() {
        let options = read(&[
            ("EVENTSTORE_URL", "sqlite:events.db"),
            ("EVENTSTORE_JOURNAL", "events.db"),
            ("EVENTSTORE_APPLICATION_NAME", "orders"),
            ("EVENTSTORE_QUEUE_SIZE", "5"),
            ("EVENTSTORE_BATCH_SIZE", "6"),
            ("EVENTSTORE_LINGER", "1ms"),
            ("EVENTSTORE_COMMIT_TIMEOUT", "500ms"),
            ("EVENTSTORE_DURABILITY", "power"),
            ("EVENTSTORE_RETENTION", "30days"),
            ("EVENTSTORE_MAX_JOURNAL_BYTES", "1000000"),
            ("EVENTSTORE_MAX_EVENT_BYTES", "1000"),
            ("EVENTSTORE_LIFECYCLE", "workflow, worker"),
            ("EVENTSTORE_ERROR_MESSAGES", "false"),
            ("EVENTSTORE_REPAIR_ON_REPLAY", "true"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(options.url.as_deref(), Some("sqlite:events.db"));
        assert_eq!(options.commit_timeout, Some(Duration::from_millis(500)));
        assert_eq!(options.durability, Some(Durability::Power));
        assert_eq!(options.queue_size, Some(5));
        let lifecycle = options.lifecycle.unwrap();
        assert!(lifecycle.workflow && lifecycle.worker && !lifecycle.activity);
        assert_eq!(options.error_messages, Some(false));
        assert_eq!(options.repair_on_replay, Some(true));
    }

    #[test]
    fn a_wrong_value_is_an_error_with_name_value_and_what_is_allowed() {
        for (name, value) in [
            ("EVENTSTORE_QUEUE_SIZE", "many"),
            ("EVENTSTORE_COMMIT_TIMEOUT", "2"),
            ("EVENTSTORE_DURABILITY", "full"),
            ("EVENTSTORE_APPEND", "caller"),
            ("EVENTSTORE_MAX_QUEUED_BYTES", "10"),
            ("EVENTSTORE_LIFECYCLE", "workflows"),
            ("EVENTSTORE_ERROR_MESSAGES", "yes"),
        ] {
            let text = read(&[(name, value)]).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(value), "{text}");
            assert!(text.contains("allowed"), "{text}");
        }
    }

    /// Options of which one holds too little or too much, and the variable that says the same.
    fn beyond_bounds() -> Vec<(&'static str, EventStoreOptions, String)> {
        let builder = EventStoreOptions::builder;
        let text = |duration| humantime::format_duration(duration).to_string();
        let max = Duration::MAX;
        vec![
            ("linger", builder().linger(max).options(), text(max)),
            (
                "commit_timeout",
                builder().commit_timeout(max).options(),
                text(max),
            ),
            (
                "commit_timeout",
                builder().commit_timeout(Duration::ZERO).options(),
                "0s".into(),
            ),
            ("retention", builder().retention(max).options(), text(max)),
            (
                "retention",
                builder().retention(Duration::ZERO).options(),
                "0s".into(),
            ),
            (
                "queue_size",
                builder().queue_size(usize::MAX).options(),
                usize::MAX.to_string(),
            ),
            ("queue_size", builder().queue_size(0).options(), "0".into()),
            (
                "batch_size",
                builder().batch_size(usize::MAX).options(),
                usize::MAX.to_string(),
            ),
            ("batch_size", builder().batch_size(0).options(), "0".into()),
            (
                "max_journal_bytes",
                builder().max_journal_bytes(0).options(),
                "0".into(),
            ),
            (
                "max_event_bytes",
                builder().max_event_bytes(0).options(),
                "0".into(),
            ),
            (
                "max_event_bytes",
                builder().max_event_bytes(usize::MAX).options(),
                usize::MAX.to_string(),
            ),
        ]
    }

    fn is_about(error: &BuildError, option: &str, held: &str) -> bool {
        matches!(
            error,
            BuildError::InvalidOption { name, value, allowed }
                if name == option && held.starts_with(value.as_str()) && allowed.contains(" from ")
        )
    }

    #[tokio::test]
    async fn what_is_beyond_the_bounds_is_an_error_wherever_it_stands() {
        for (name, options, value) in beyond_bounds() {
            let options = EventStoreOptions {
                url: Some("memory:".into()),
                ..options
            };
            let error = EventStore::from_options(options).await.unwrap_err();
            assert!(is_about(&error, name, &value), "{error}");
            let variable = format!("EVENTSTORE_{}", name.to_uppercase());
            let error = read(&[(&variable, &value)]).unwrap_err();
            assert!(is_about(&error, &variable, &value), "{error}");
        }
    }

    #[tokio::test]
    async fn a_store_works_at_its_bounds() {
        let options = || EventStoreOptions::builder().url("memory:");
        for options in [
            options()
                .linger(LINGER.most)
                .commit_timeout(COMMIT_TIMEOUT.most)
                .retention(RETENTION.most)
                .queue_size(QUEUE_SIZE.most)
                .batch_size(BATCH_SIZE.most)
                .max_journal_bytes(MAX_JOURNAL_BYTES.most)
                .max_event_bytes(MAX_EVENT_BYTES.most)
                .options(),
            options()
                .linger(LINGER.least)
                .commit_timeout(COMMIT_TIMEOUT.least)
                .retention(RETENTION.least)
                .queue_size(QUEUE_SIZE.least)
                .batch_size(BATCH_SIZE.least)
                .max_journal_bytes(MAX_JOURNAL_BYTES.least)
                .options(),
        ] {
            let store = EventStore::from_options(options).await.unwrap();
            store.publish(Event::new("x")).await.unwrap();
            // Whoever waits for ever may say so.
            store.flush(Duration::MAX).await.unwrap();
            store.shutdown(Duration::MAX).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_journal_is_the_path_of_a_file() {
        for path in [
            "",
            ":memory:",
            "memory:",
            "sqlite:events.db",
            "file:events.db",
            "file:x?mode=memory&cache=shared",
        ] {
            let options = EventStoreOptions::builder().journal(path).options();
            let error = EventStore::from_options(options).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("journal holds") && text.contains("allowed: the path"),
                "{text}"
            );
            if !path.is_empty() {
                let text = read(&[("EVENTSTORE_JOURNAL", path)])
                    .unwrap_err()
                    .to_string();
                assert!(text.starts_with("EVENTSTORE_JOURNAL holds"), "{text}");
            }
        }
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_does_not_show_its_value() {
        let error = read(&[("EVENTSTORE_PASSWORD", "hunter2")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("EVENTSTORE_PASSWORD") && text.contains("EVENTSTORE_URL"));
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn the_variables_of_sinks_are_known() {
        for name in sink::variables() {
            read(&[(name, "hunter2")]).unwrap();
        }
    }

    #[test]
    fn an_empty_value_is_an_absent_one() {
        assert!(read(&[("EVENTSTORE_URL", "")]).unwrap().url.is_none());
    }

    #[test]
    fn the_same_names_are_read_from_a_configuration_file() {
        let options: EventStoreOptions = serde_json::from_str(
            r#"{"url":"sqlite:e.db","commit_timeout":"1s","lifecycle":"none","durability":"power"}"#,
        )
        .unwrap();
        assert_eq!(options.commit_timeout, Some(Duration::from_secs(1)));
        assert_eq!(options.lifecycle, Some(LifecycleSelection::NONE));
        assert!(serde_json::from_str::<EventStoreOptions>(r#"{"urll":"x"}"#).is_err());
    }

    #[test]
    fn code_wins_over_the_environment() {
        let code = EventStoreOptions::builder().application_name("a").options();
        let environment = EventStoreOptions {
            application_name: Some("b".into()),
            queue_size: Some(9),
            ..EventStoreOptions::default()
        };
        let merged = code.or(environment);
        assert_eq!(merged.application_name.as_deref(), Some("a"));
        assert_eq!(merged.queue_size, Some(9));
    }
}
