//! How the program fails: what is said, what to do, and the exit code.

use super::words::{RED, paint};
use crate::{event::EventError, reader::ReadError};
use std::{io, process::ExitCode};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// Something went wrong.
    Error(Said),
    /// The arguments make no sense.
    Usage(Said),
    /// What was asked for is not there.
    NothingFound(Said),
    /// The store is not as it should be. It was said.
    Unhealthy,
    /// Whoever read the output has enough.
    ClosedPipe,
}

/// What went wrong, and what to do.
#[derive(Debug)]
pub(super) struct Said {
    what: String,
    advice: String,
}

fn said(what: impl Into<String>, advice: impl Into<String>) -> Said {
    Said {
        what: what.into(),
        advice: advice.into(),
    }
}

impl Failure {
    pub(super) fn error(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Error(said(what, advice))
    }

    pub(super) fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Usage(said(what, advice))
    }

    pub(super) fn nothing_found(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::NothingFound(said(what, advice))
    }

    /// Says on standard error what went wrong, and returns the exit code.
    pub(super) fn report(self) -> ExitCode {
        let (said, code) = match self {
            Self::ClosedPipe => return ExitCode::SUCCESS,
            Self::Unhealthy => return ExitCode::from(4),
            Self::Error(said) => (said, 1),
            Self::Usage(said) => (said, 2),
            Self::NothingFound(said) => (said, 3),
        };
        let label = if code == 3 {
            "nothing found:"
        } else {
            "error:"
        };
        anstream::eprintln!("{} {}", paint(RED, label), said.what);
        if !said.advice.is_empty() {
            anstream::eprintln!("  {}", said.advice);
        }
        ExitCode::from(code)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            io::ErrorKind::StorageFull => Self::error(
                error.to_string(),
                "make room, or write to another place with -o",
            ),
            _ => Self::error(
                error.to_string(),
                "check that the place exists and can be written",
            ),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::InvalidUrl { .. } | ReadError::NoFile => Self::usage(
                text,
                "give --store sqlite:events.db, or set EVENTSTORE_URL; a build without the feature \
                 `postgres` reads SQLite files only",
            ),
            ReadError::InvalidQuery { .. } => Self::usage(text, "see --help for what is taken"),
            ReadError::Journal(_) => Self::error(
                text,
                "check the path in --store or EVENTSTORE_URL; `eventstore demo` makes a store to try",
            ),
            ReadError::Failed { .. } => Self::error(
                text,
                "check that it can be reached, and that the user may read it",
            ),
        }
    }
}

impl From<EventError> for Failure {
    fn from(error: EventError) -> Self {
        Self::error(
            error.to_string(),
            "another program may have written to the store; `eventstore check --thorough` looks for damage",
        )
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => io::Error::new(kind, error).into(),
            None => Self::error(error.to_string(), ""),
        }
    }
}
