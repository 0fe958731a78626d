//! Opens a store as a worker does, with its journal's lock and its sinks, for the commands that do a part of a worker's
//! work. The others only read.

use super::{
    arguments::{Arguments, SinkUrls, with_scheme},
    failure::Failure,
};
use crate::store::{BuildError, EventStore, EventStoreOptions, file_of, split_urls};
use std::time::Duration;

/// How long closing a store may take, twice: until it is flushed, and until it is closed. Sinks that do not answer were
/// waited for before.
const CLOSING: Duration = Duration::from_secs(2);

/// Returns the options that a worker with these variables has. A store that is named counts before that of the variables,
/// and so do sinks.
pub(super) fn options(
    arguments: &Arguments,
    sinks: &SinkUrls,
) -> Result<EventStoreOptions, Failure> {
    let mut options = EventStoreOptions::from_env()?;
    let named: Vec<String> = options
        .stores
        .iter()
        .flat_map(|list| split_urls(list))
        .map(str::to_owned)
        .collect();
    let is_sink = |url: &String| !matches!(url.split_once(':'), Some(("sqlite" | "memory", _)));
    let (of_sinks, mut logs): (Vec<_>, Vec<_>) = named.into_iter().partition(is_sink);
    if let Some(store) = &arguments.store {
        logs = vec![with_scheme(store)];
        options.journal = None;
    }
    options.stores = logs;
    match sinks.to.is_empty() {
        true => options.stores.extend(of_sinks),
        false => options.stores.extend(sinks.to.iter().cloned()),
    }
    Ok(options)
}

/// Opens the store. Its file has to be there: a worker makes it.
pub(super) async fn open(options: EventStoreOptions) -> Result<EventStore, Failure> {
    let Some(file) = file_of(&options)? else {
        return Err(Failure::usage(
            "no journal's file is named",
            "give --store sqlite:events.db, or set EVENTSTORE_JOURNAL or EVENTSTORE_URL as the worker has it",
        ));
    };
    if !file.is_file() {
        return Err(Failure::error(
            format!("there is no file {}", file.display()),
            "check the path in --store, EVENTSTORE_JOURNAL or EVENTSTORE_URL",
        ));
    }
    Ok(EventStore::from_options(options).await?)
}

/// Closes the store. What sinks do not have waits in the file.
pub(super) async fn close(store: EventStore) -> Result<(), Failure> {
    match store.shutdown(CLOSING).await {
        // Whoever waits for sinks has said so.
        Ok(()) | Err(crate::store::FlushError::SinksBehind { .. }) => Ok(()),
        Err(error) => Err(Failure::error(
            error.to_string(),
            "what was stored is in the file\'s log; `eventstore check` says more",
        )),
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let text = error.to_string();
        match error {
            BuildError::Journal(_) => Self::error(
                text,
                "a worker that has the file open delivers and reconciles by itself; stop it first, or leave it to it",
            ),
            _ => Self::usage(
                text,
                "give --store and --to, or set the variables as the worker has them (docs/configuration.md)",
            ),
        }
    }
}
