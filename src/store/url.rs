//! Which store a URL names. Knows the schemes and nothing of what is behind them.

use super::BuildError;
use crate::sink::redacted;
use std::path::{Path, PathBuf};

/// The schemes that this build understands, for error messages.
const ALLOWED: &str = "`sqlite:PATH` (a file that is kept) or `memory:` (this process only)";

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// The memory of this process.
    Memory,
}

/// The target of the `url` and `journal` options; none when neither is set.
pub(crate) fn target(
    url: Option<&str>,
    journal: Option<&Path>,
) -> Result<Option<Target>, BuildError> {
    let Some(url) = url.map(str::trim).filter(|url| !url.is_empty()) else {
        return Ok(journal.map(|path| Target::Sqlite(path.to_owned())));
    };
    let invalid = |reason: &str| BuildError::InvalidUrl {
        url: redacted(url),
        reason: reason.to_owned(),
        allowed: ALLOWED.to_owned(),
    };
    if url.contains(',') {
        return Err(invalid("several stores at once are not supported"));
    }
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(invalid("it has no scheme"));
    };
    match scheme {
        "sqlite" => {
            // `sqlite:events.db`, `sqlite:/var/lib/events.db` and `sqlite:///var/lib/events.db`.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err(invalid("it names no file"));
            }
            if path.contains('?') {
                return Err(invalid("`sqlite:` takes no parameters"));
            }
            let path = PathBuf::from(path);
            match journal {
                Some(journal) if journal != path => Err(BuildError::JournalDiffers {
                    url: redacted(url),
                    journal: journal.to_owned(),
                }),
                _ => Ok(Some(Target::Sqlite(path))),
            }
        }
        "memory" if rest.is_empty() => match journal {
            None => Ok(Some(Target::Memory)),
            Some(journal) => Err(BuildError::JournalDiffers {
                url: redacted(url),
                journal: journal.to_owned(),
            }),
        },
        "memory" => Err(invalid("`memory:` takes nothing after the colon")),
        _ => Err(invalid("the scheme is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_urls_name_a_file() {
        for (url, path) in [
            ("sqlite:events.db", "events.db"),
            ("sqlite:/var/lib/events.db", "/var/lib/events.db"),
            ("sqlite:///var/lib/events.db", "/var/lib/events.db"),
            ("sqlite:dir/events.db", "dir/events.db"),
        ] {
            assert_eq!(
                target(Some(url), None).unwrap(),
                Some(Target::Sqlite(path.into()))
            );
        }
    }

    #[test]
    fn a_journal_alone_is_the_store() {
        assert_eq!(
            target(None, Some(Path::new("j.db"))).unwrap(),
            Some(Target::Sqlite("j.db".into()))
        );
        assert_eq!(target(None, None).unwrap(), None);
        assert_eq!(target(Some(""), None).unwrap(), None);
    }

    #[test]
    fn store_and_journal_must_be_one_file() {
        assert!(target(Some("sqlite:a.db"), Some(Path::new("a.db"))).is_ok());
        let error = target(Some("sqlite:a.db"), Some(Path::new("b.db"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a.db") && text.contains("b.db"), "{text}");
    }

    #[test]
    fn wrong_urls_say_what_is_allowed() {
        for url in [
            "events.db",
            "sqlite:",
            "sqlite:a.db?mode=ro",
            "memory:x",
            "postgres://u:secret@h/d",
            "sqlite:a.db,sqlite:b.db",
        ] {
            let text = target(Some(url), None).unwrap_err().to_string();
            assert!(text.contains("sqlite:PATH"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
