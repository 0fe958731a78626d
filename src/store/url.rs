//! Which stores a list of URLs names: where the journal is, and which sinks it feeds. Knows the
//! schemes of the journal, and leaves all others to the sinks.

use super::BuildError;
use crate::{
    delivery::{Selection, Target},
    sink::{self, redacted},
};
use std::path::{Path, PathBuf};

/// What this build understands, for error messages.
fn allowed() -> String {
    format!(
        "`sqlite:PATH` (a file that is kept), `memory:` (this process only), or {}; several with \
         commas between them",
        sink::schemes()
    )
}

/// Which events a sink gets, in its URL.
const ONLY: &str = "eventstore.only";

/// Where the log is.
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
    pub(crate) targets: Vec<Target>,
}

/// Whether a URL begins here, after a comma that may as well be one within a URL.
fn begins_url(text: &str) -> bool {
    let text = text.trim_start();
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    rest.starts_with("//") || matches!(scheme, "sqlite" | "memory" | "stdout")
}

/// The URLs of a list. Some URLs have commas of their own (`kafka://one:9092,two:9092/topic`).
fn split(list: &str) -> Vec<&str> {
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

/// The places that the `url` and `journal` options name, and the sinks that code brings along; none
/// when there is nothing.
pub(crate) fn places(
    list: Option<&str>,
    journal: Option<&Path>,
    own: Vec<Target>,
) -> Result<Option<Places>, BuildError> {
    let mut log = None;
    let mut targets = own;
    for url in split(list.unwrap_or_default()) {
        match log_of(url)? {
            Some(named) => {
                if log.is_some() {
                    return Err(invalid(url, "there can be one `sqlite:` or `memory:` only"));
                }
                log = Some((url, named));
            }
            None => targets.push(target(url)?),
        }
    }
    let differs = |url: &str, journal: &Path| BuildError::JournalDiffers {
        url: redacted(url),
        journal: journal.to_owned(),
    };
    let log = match (log, journal) {
        (None, None) if targets.is_empty() => return Ok(None),
        (None, None) => Log::Memory,
        // A journal alone is the store.
        (None, Some(path)) => Log::Sqlite {
            path: path.to_owned(),
            is_store: targets.is_empty(),
        },
        (Some((_, log)), None) => log,
        (Some((url, log)), Some(journal)) => match &log {
            Log::Sqlite { path, .. } if path == journal => log,
            _ => return Err(differs(url, journal)),
        },
    };
    for (index, target) in targets.iter().enumerate() {
        let name = target.sink.name();
        if targets
            .iter()
            .take(index)
            .any(|other| other.sink.name() == name)
        {
            return Err(BuildError::SameSinkTwice {
                name: name.to_owned(),
            });
        }
    }
    Ok(Some(Places { log, targets }))
}

fn invalid(url: &str, reason: &str) -> BuildError {
    BuildError::InvalidUrl {
        url: redacted(url),
        reason: reason.to_owned(),
        allowed: allowed(),
    }
}

/// The log that a URL names; none for the URL of a sink.
fn log_of(url: &str) -> Result<Option<Log>, BuildError> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(invalid(url, "it has no scheme"));
    };
    match scheme {
        "sqlite" => {
            // `sqlite:events.db`, `sqlite:/var/lib/events.db` and `sqlite:///var/lib/events.db`.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(invalid(url, "it names no file"));
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

/// The sink that a URL names, with what stands in it about the selection.
fn target(url: &str) -> Result<Target, BuildError> {
    let (url, only) = take_only(url);
    let only = match only {
        None => Selection::default(),
        Some(text) => Selection::parse(&text).ok_or_else(|| BuildError::InvalidOption {
            name: ONLY.to_owned(),
            value: text.chars().take(80).collect(),
            allowed:
                "`lifecycle`, `user`, event names, event types, and beginnings of either with \
                      `*` at the end, with commas between them"
                    .to_owned(),
        })?,
    };
    Ok(Target {
        sink: sink::open(&url)?,
        only,
    })
}

/// A URL without its parameter `eventstore.only`, and that parameter.
fn take_only(url: &str) -> (String, Option<String>) {
    let Some((before, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let mut only = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|parameter| match parameter.split_once('=') {
            Some((ONLY, value)) => {
                only = Some(value.to_owned());
                false
            }
            _ => true,
        })
        .collect();
    let url = if rest.is_empty() {
        before.to_owned()
    } else {
        format!("{before}?{}", rest.join("&"))
    };
    (url, only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(url: Option<&str>, journal: Option<&str>) -> Option<Log> {
        places(url, journal.map(Path::new), Vec::new())
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
        places(Some(url), journal.map(Path::new), Vec::new())
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
    }

    #[test]
    fn what_a_sink_gets_stands_in_its_url() {
        assert_eq!(
            take_only("nats://n/s?stream=x&eventstore.only=lifecycle&y=z"),
            (
                "nats://n/s?stream=x&y=z".to_owned(),
                Some("lifecycle".to_owned())
            )
        );
        assert_eq!(
            take_only("nats://n/s?eventstore.only=a"),
            ("nats://n/s".to_owned(), Some("a".to_owned()))
        );
        let text = error("stdout:?eventstore.only=*", None);
        assert!(text.contains("lifecycle") && text.contains(ONLY), "{text}");
    }

    #[test]
    fn store_and_journal_must_be_one_file() {
        assert_eq!(log(Some("sqlite:a.db"), Some("a.db")), store("a.db"));
        let text = error("sqlite:a.db", Some("b.db"));
        assert!(text.contains("a.db") && text.contains("b.db"), "{text}");
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
}
