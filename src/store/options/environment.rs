//! The options from environment variables: a table with one row for each variable.

use super::{
    EventStoreOptions,
    bounds::{
        BATCH_SIZE, COMMIT_TIMEOUT, LINGER, MAX_EVENT_BYTES, MAX_JOURNAL_BYTES, MAX_QUEUED_BYTES,
        QUEUE_SIZE, RETENTION, parse,
    },
    names,
};
use crate::{
    sink::{self, redacted},
    store::{BuildError, url},
};
use std::path::Path;

/// Sets an option to a value. The error says what is allowed.
type Set = fn(&mut EventStoreOptions, &str) -> Result<(), String>;

const URL: &str = "EVENTSTORE_URL";

const VARIABLES: [(&str, Set); 19] = [
    (URL, |options, value| {
        set(&mut options.stores, vec![value.to_owned()])
    }),
    ("EVENTSTORE_JOURNAL", |options, value| {
        url::check_journal(Path::new(value))?;
        set(&mut options.journal, Some(value.into()))
    }),
    ("EVENTSTORE_APPLICATION_NAME", |options, value| {
        set(&mut options.application_name, Some(value.to_owned()))
    }),
    ("EVENTSTORE_QUEUE_SIZE", |options, value| {
        set(&mut options.queue_size, Some(QUEUE_SIZE.number(value)?))
    }),
    ("EVENTSTORE_MAX_QUEUED_BYTES", |options, value| {
        set(
            &mut options.max_queued_bytes,
            Some(MAX_QUEUED_BYTES.number(value)?),
        )
    }),
    ("EVENTSTORE_BATCH_SIZE", |options, value| {
        set(&mut options.batch_size, Some(BATCH_SIZE.number(value)?))
    }),
    ("EVENTSTORE_LINGER", |options, value| {
        set(&mut options.linger, Some(LINGER.duration(value)?))
    }),
    ("EVENTSTORE_COMMIT_TIMEOUT", |options, value| {
        set(
            &mut options.commit_timeout,
            Some(COMMIT_TIMEOUT.duration(value)?),
        )
    }),
    ("EVENTSTORE_DURABILITY", |options, value| {
        set(&mut options.durability, Some(value.parse()?))
    }),
    ("EVENTSTORE_APPEND", |options, value| {
        set(&mut options.append, Some(value.parse()?))
    }),
    ("EVENTSTORE_RETENTION", |options, value| {
        set(&mut options.retention, Some(RETENTION.duration(value)?))
    }),
    ("EVENTSTORE_DEAD_LETTER_RETENTION", |options, value| {
        set(
            &mut options.dead_letter_retention,
            Some(RETENTION.duration(value)?),
        )
    }),
    ("EVENTSTORE_MAX_JOURNAL_BYTES", |options, value| {
        set(
            &mut options.max_journal_bytes,
            Some(MAX_JOURNAL_BYTES.number(value)?),
        )
    }),
    ("EVENTSTORE_MAX_EVENT_BYTES", |options, value| {
        set(
            &mut options.max_event_bytes,
            Some(MAX_EVENT_BYTES.number(value)?),
        )
    }),
    ("EVENTSTORE_LIFECYCLE", |options, value| {
        set(&mut options.lifecycle, Some(value.parse()?))
    }),
    ("EVENTSTORE_ERROR_MESSAGES", |options, value| {
        set(&mut options.error_messages, Some(switch(value)?))
    }),
    ("EVENTSTORE_SEARCH_ATTRIBUTES", |options, value| {
        set(&mut options.search_attributes, names::parse(value)?)
    }),
    ("EVENTSTORE_MEMO", |options, value| {
        set(&mut options.memo, names::parse(value)?)
    }),
    ("EVENTSTORE_REPAIR_ON_REPLAY", |options, value| {
        set(&mut options.repair_on_replay, Some(switch(value)?))
    }),
];

// So that a row of the table is one expression.
fn set<T>(option: &mut T, value: T) -> Result<(), String> {
    *option = value;
    Ok(())
}

fn switch(value: &str) -> Result<bool, String> {
    parse(value, "`true` or `false`")
}

impl EventStoreOptions {
    /// Reads the options from the environment.
    ///
    /// # Errors
    /// [`BuildError::InvalidOption`] if a value is not allowed, or if an unknown variable has a name that starts with
    /// `EVENTSTORE_`.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::from_variables(std::env::vars_os().filter_map(|(name, value)| {
            Some((
                name.into_string().ok()?,
                value.to_string_lossy().into_owned(),
            ))
        }))
    }

    /// Reads the options from the given names and values of variables. A variable with an empty value counts as not
    /// set, and one whose name does not start with `EVENTSTORE_` is ignored.
    ///
    /// # Errors
    /// The same as for [`Self::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BuildError> {
        let mut options = Self::default();
        for (name, value) in variables {
            if !name.starts_with("EVENTSTORE_") || value.is_empty() {
                continue;
            }
            match VARIABLES.iter().find(|(known, _)| *known == name) {
                Some((_, set)) => {
                    set(&mut options, &value).map_err(|allowed| invalid(name, &value, allowed))?;
                }
                // The sinks read these themselves, so that no other part gets a secret.
                None if sink::is_variable(&name) => {}
                None => return Err(unknown(name)),
            }
        }
        Ok(options)
    }
}

fn invalid(name: String, value: &str, allowed: String) -> BuildError {
    BuildError::InvalidOption {
        // A URL can hold a password.
        value: match name.as_str() {
            URL => redacted(value),
            _ => value.chars().take(80).collect(),
        },
        name,
        allowed,
    }
}

fn unknown(name: String) -> BuildError {
    let mut known: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
    known.extend(sink::variables());
    BuildError::InvalidOption {
        name,
        value: "a value that is not shown".to_owned(),
        allowed: format!("no such variable; known are {}", known.join(", ")),
    }
}
