//! Parses a list of URLs: where the journal is, and which sinks it feeds. Knows the journal's schemes, and leaves
//! all others to the sinks.

use super::BuildError;
#[cfg(feature = "cli")]
use super::EventStoreOptions;
use crate::{
    delivery::{Subscription, SubscriptionError},
    sink::{self, redacted},
};
use std::path::{Path, PathBuf};

/// Returns the URLs that this build understands, for error messages.
fn allowed() -> String {
    format!(
        "`sqlite:PATH` (a file that is kept), `memory:` (this process only), or {}; several with \
         commas between them",
        sink::schemes()
    )
}

/// Where the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// A SQLite file, and whether it is the store itself.
    Sqlite { path: PathBuf, is_store: bool },
    /// The memory of this process.
    Memory,
}

/// Where events go.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) log: Log,
    pub(crate) subscriptions: Vec<Subscription>,
}

/// Whether a URL begins here, after a comma that may also be a part of the URL before it.
fn begins_url(text: &str) -> bool {
    let text = text.trim_start();
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    is_scheme && rest.starts_with("//")
        || matches!(scheme, "sqlite" | "memory")
        || sink::stands_alone(scheme)
}

/// Splits a list into its URLs. Some URLs contain commas (`kafka://one:9092,two:9092/topic`).
pub(crate) fn split(list: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut begin = 0;
    for (comma, _) in list.match_indices(',') {
        let (Some(before), Some(after)) = (list.get(begin..comma), list.get(comma + 1..)) else {
            continue;
        };
        if begins_url(after) {
            urls.push(before);
            begin = comma + 1;
        }
    }
    urls.push(list.get(begin..).unwrap_or_default());
    urls.into_iter()
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .collect()
}

/// Returns a list of URLs without secrets, as it may be shown.
pub(super) fn shown(list: &str) -> String {
    let urls: Vec<String> = split(list).into_iter().map(redacted).collect();
    urls.join(",")
}

/// Returns the places that the options `stores` and `journal` name, together with the sinks given in code; none if
/// there are none.
pub(crate) fn places(
    stores: &[String],
    journal: Option<&Path>,
    own: Vec<Subscription>,
) -> Result<Option<Places>, BuildError> {
    let mut log = None;
    let mut subscriptions = own;
    let urls: Vec<&str> = stores.iter().flat_map(|list| split(list)).collect();
    sink::check_together(&urls).map_err(BuildError::Sink)?;
    for url in urls {
        match log_of(url)? {
            Some(named) => {
                if log.is_some() {
                    return Err(invalid(url, "there can be one `sqlite:` or `memory:` only"));
                }
                log = Some((url, named));
            }
            None => subscriptions.push(subscription(url)?),
        }
    }
    let differs = |url: &str, journal: &Path| BuildError::JournalDiffers {
        url: redacted(url),
        journal: journal.to_owned(),
    };
    let log = match (log, journal) {
        (None, None) if subscriptions.is_empty() => return Ok(None),
        (None, None) => Log::Memory,
        // A journal alone is the store.
        (None, Some(path)) => Log::Sqlite {
            path: path.to_owned(),
            is_store: subscriptions.is_empty(),
        },
        (Some((_, log)), None) => log,
        (Some((url, log)), Some(journal)) => match &log {
            Log::Sqlite { path, .. } if path == journal => log,
            _ => return Err(differs(url, journal)),
        },
    };
    for (index, subscription) in subscriptions.iter().enumerate() {
        let name = &subscription.name;
        if subscriptions
            .iter()
            .take(index)
            .any(|other| other.name == *name)
        {
            return Err(BuildError::SameSinkTwice { name: name.clone() });
        }
    }
    Ok(Some(Places { log, subscriptions }))
}

fn invalid(url: &str, reason: &str) -> BuildError {
    BuildError::InvalidUrl {
        url: redacted(url),
        reason: reason.to_owned(),
        allowed: allowed(),
    }
}

/// Returns why SQLite would not take a path for the name of a file, if so. What it would open instead is not
/// durable, or not locked by its path.
fn no_file(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("it names no file")
    } else if path.starts_with(":memory:") {
        Some("a store in memory is `memory:`, without `sqlite:`")
    } else if path.starts_with("file:") {
        Some("`file:` URIs are not taken; name the file itself, or `memory:` for a store in memory")
    } else {
        None
    }
}

/// Checks that the journal's option is the path of a file. The error says what is allowed.
pub(super) fn check_journal(path: &Path) -> Result<(), String> {
    let text = path.to_string_lossy();
    let is_url = ["memory:", "sqlite:"].iter().any(|it| text.starts_with(it));
    if is_url || no_file(&text).is_some() {
        return Err(
            "the path of a file, without a scheme; a store in memory is the URL `memory:`, without \
             a journal"
                .to_owned(),
        );
    }
    Ok(())
}

/// Returns the journal that a URL names; none for the URL of a sink.
fn log_of(url: &str) -> Result<Option<Log>, BuildError> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(invalid(url, "it has no scheme"));
    };
    match scheme {
        "sqlite" => {
            // `sqlite:events.db`, `sqlite:/var/lib/events.db` and `sqlite:///var/lib/events.db`.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if let Some(reason) = no_file(path) {
                return Err(invalid(url, reason));
            }
            if path.contains('?') {
                return Err(invalid(url, "`sqlite:` takes no parameters"));
            }
            if path.contains(',') {
                return Err(invalid(
                    url,
                    "its path holds a comma, which also separates stores; what comes after it is no \
                     URL",
                ));
            }
            Ok(Some(Log::Sqlite {
                path: path.into(),
                is_store: true,
            }))
        }
        "memory" if rest.is_empty() => Ok(Some(Log::Memory)),
        "memory" => Err(invalid(url, "`memory:` takes nothing after the colon")),
        scheme if sink::knows(scheme) => Ok(None),
        _ => Err(invalid(url, "the scheme is not known")),
    }
}

/// Returns the journal's file that options name, if they name one.
#[cfg(feature = "cli")]
pub(crate) fn file_of(options: &EventStoreOptions) -> Result<Option<PathBuf>, BuildError> {
    let places = places(&options.stores, options.journal.as_deref(), Vec::new())?;
    Ok(places.and_then(|places| match places.log {
        Log::Sqlite { path, .. } => Some(path),
        Log::Memory => None,
    }))
}

/// Returns the sinks that options name.
#[cfg(feature = "cli")]
pub(crate) fn sinks_of(options: &EventStoreOptions) -> Result<Vec<Subscription>, BuildError> {
    let places = places(&options.stores, options.journal.as_deref(), Vec::new())?;
    Ok(places
        .map(|places| places.subscriptions)
        .unwrap_or_default())
}

/// Returns the subscription that the URL of a sink names.
fn subscription(url: &str) -> Result<Subscription, BuildError> {
    Subscription::from_url(url).map_err(|error| match error {
        SubscriptionError::Parameter {
            name,
            value,
            allowed,
        } => BuildError::InvalidOption {
            name: name.to_owned(),
            value,
            allowed,
        },
        SubscriptionError::Sink(error) => BuildError::Sink(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(url: Option<&str>, journal: Option<&str>) -> Option<Log> {
        let stores: Vec<String> = url.into_iter().map(str::to_owned).collect();
        places(&stores, journal.map(Path::new), Vec::new())
            .unwrap()
            .map(|places| places.log)
    }

    fn store(path: &str) -> Option<Log> {
        Some(Log::Sqlite {
            path: path.into(),
            is_store: true,
        })
    }

    fn error(url: &str, journal: Option<&str>) -> String {
        places(&[url.to_owned()], journal.map(Path::new), Vec::new())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn sqlite_urls_name_a_file() {
        for (url, path) in [
            ("sqlite:events.db", "events.db"),
            ("sqlite:/var/lib/events.db", "/var/lib/events.db"),
            ("sqlite:///var/lib/events.db", "/var/lib/events.db"),
            (" sqlite:dir/events.db ", "dir/events.db"),
        ] {
            assert_eq!(log(Some(url), None), store(path));
        }
    }

    #[test]
    fn a_journal_alone_is_the_store_and_beside_sinks_it_is_not() {
        assert_eq!(log(None, Some("j.db")), store("j.db"));
        assert_eq!(log(None, None), None);
        assert_eq!(log(Some(""), None), None);
        assert_eq!(log(Some("stdout:"), None), Some(Log::Memory));
        let beside = Log::Sqlite {
            path: "j.db".into(),
            is_store: false,
        };
        assert_eq!(log(Some("stdout:"), Some("j.db")), Some(beside));
        assert_eq!(log(Some("stdout:,sqlite:a.db"), None), store("a.db"));
    }

    #[test]
    fn a_list_is_split_only_where_a_url_begins() {
        assert_eq!(
            split(
                "sqlite:a.db, kafka://one:9092,two:9092/topic,nats://n/s?eventstore.only=a,b,stdout:"
            ),
            [
                "sqlite:a.db",
                "kafka://one:9092,two:9092/topic",
                "nats://n/s?eventstore.only=a,b",
                "stdout:"
            ]
        );
        assert_eq!(
            split("nats://n/s?eventstore.only=workflow_end,order.*,redis://h/x"),
            [
                "nats://n/s?eventstore.only=workflow_end,order.*",
                "redis://h/x"
            ]
        );
        assert_eq!(
            split("kafka://one,two/t,nats://h/s"),
            ["kafka://one,two/t", "nats://h/s"]
        );
        assert_eq!(
            split("postgres://app:s3cret,x@db/e,nats://h/s"),
            ["postgres://app:s3cret,x@db/e", "nats://h/s"]
        );
    }

    #[test]
    fn what_a_sink_gets_and_is_called_stands_in_its_url() {
        let text = error("stdout:?eventstore.name=", None);
        assert!(
            text.contains("eventstore.name") && text.contains("1 to 100"),
            "{text}"
        );
        let places = places(
            &["stdout:,stdout:?eventstore.name=other".to_owned()],
            None,
            Vec::new(),
        );
        let subscriptions = places.unwrap().unwrap().subscriptions;
        assert_eq!(subscriptions[0].name, "stdout");
        assert_eq!(subscriptions[1].name, "other");
        let text = error("stdout:?eventstore.only=*", None);
        assert!(
            text.contains("lifecycle") && text.contains("eventstore.only"),
            "{text}"
        );
    }

    #[test]
    fn store_and_journal_must_be_one_file() {
        assert_eq!(log(Some("sqlite:a.db"), Some("a.db")), store("a.db"));
        let text = error("sqlite:a.db", Some("b.db"));
        assert!(text.contains("a.db") && text.contains("b.db"), "{text}");
    }

    #[test]
    fn what_sqlite_takes_for_something_else_than_a_file_is_refused() {
        for url in [
            "sqlite::memory:",
            "sqlite://:memory:",
            "sqlite:file:events.db",
            "sqlite:file:x?mode=memory&cache=shared",
            "sqlite:file::memory:",
            "sqlite://file:x?mode=memory",
        ] {
            let text = error(url, None);
            assert!(
                text.contains("in memory is `memory:`") || text.contains("`file:`"),
                "{text}"
            );
            assert!(text.contains("`memory:`"), "{text}");
        }
        for url in ["sqlite:", "sqlite://", "sqlite: "] {
            assert!(error(url, None).contains("names no file"), "{url}");
        }
        // Only what begins so is special.
        assert_eq!(log(Some("sqlite:./:memory:"), None), store("./:memory:"));
    }

    #[test]
    fn wrong_urls_say_what_is_allowed() {
        for url in [
            "events.db",
            "sqlite:",
            "sqlite:a.db?mode=ro",
            "sqlite:a.db,b.db",
            "memory:x",
            "sqlite:a.db,sqlite:b.db",
            "sqlite:a.db,memory:",
        ] {
            let text = error(url, None);
            assert!(text.contains("sqlite:PATH"), "{text}");
        }
        for url in ["amqp://u:secret@h/d", "sqlite:a.db,amqp://u:secret@h/d"] {
            let text = error(url, None);
            assert!(
                text.contains("allowed") && !text.contains("secret"),
                "{text}"
            );
        }
        let text = error("stdout:,stdout:", None);
        assert!(text.contains("twice"), "{text}");
    }

    #[test]
    fn fuzz_store_urls() {
        let seeds: Vec<Vec<u8>> = [
            "sqlite:events.db",
            "sqlite:///var/lib/events.db",
            "memory:",
            "stdout:?eventstore.only=lifecycle&eventstore.name=a",
            "sqlite:a.db,stdout:,stdout:?eventstore.name=b",
            "stdout:?eventstore.only=workflow_*,user&encoding=cloudevents",
            "postgres://u:hunter2@h/db,memory:",
        ]
        .map(|url| url.as_bytes().to_vec())
        .to_vec();
        crate::fuzz::run("store URLs", |rng| {
            let list = String::from_utf8_lossy(&crate::fuzz::mutated(rng, &seeds)).into_owned();
            shown(&list);
            let journal = rng.bool().then_some(Path::new("a.db"));
            for url in split(&list) {
                log_of(url).ok();
            }
            // Clients of servers take milliseconds to make.
            let is_local = split(&list).iter().all(|url| {
                ["sqlite", "memory", "stdout"]
                    .iter()
                    .any(|scheme| url.starts_with(scheme))
            });
            if is_local
                && let Ok(Some(places)) = places(std::slice::from_ref(&list), journal, Vec::new())
            {
                assert!(places.subscriptions.len() <= list.len());
            }
        });
    }
}
