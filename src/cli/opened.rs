//! Opens a store as a worker does, with its journal's lock and its sinks, for the commands that do a part of a worker's
//! work. The others only read.

use super::{
    arguments::{Arguments, SinkUrls, with_scheme},
    failure::Failure,
};
use crate::{
    event::Event,
    reader::{EventQuery, EventReader},
    store::{BuildError, EventStore, EventStoreOptions, file_of, sinks_of, split_urls},
};
use std::time::Duration;

/// How long closing a store may take, twice: until it is flushed, and until it is closed. Sinks that do not answer were
/// waited for before.
const CLOSING: Duration = Duration::from_secs(2);

/// Returns the options that a worker with these variables has. A store that is named counts before that of the variables,
/// and so do sinks. But nothing is removed: that is left to a worker, which has all of the sinks and handlers.
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
    if let Some(journal) = options.journal.take() {
        logs = vec![format!("sqlite:{}", journal.display())];
    }
    options.retention = None;
    options.dead_letter_retention = None;
    options.max_journal_bytes = None;
    options.stores = logs;
    match sinks.to.is_empty() {
        true => options.stores.extend(of_sinks),
        false => options.stores.extend(sinks.to.iter().cloned()),
    }
    Ok(options)
}

/// Opens the store. Its file has to be there: a worker makes it. A sink whose name the journal does not know would get
/// everything from the beginning, so that somebody has to say so.
pub(super) async fn open(
    mut options: EventStoreOptions,
    is_new_allowed: bool,
) -> Result<EventStore, Failure> {
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
    let reader = EventReader::open(&format!("sqlite:{}", file.display())).await?;
    if !is_new_allowed {
        know_sinks(&reader, &options).await?;
    }
    if options.application_name.is_none() {
        options.application_name = application_name(&reader).await?;
    }
    drop(reader);
    Ok(EventStore::from_options(options).await?)
}

async fn know_sinks(reader: &EventReader, options: &EventStoreOptions) -> Result<(), Failure> {
    let known = reader.sinks().await?;
    let is_known = |name: &str| known.iter().any(|sink| sink.name == name);
    let mut sinks = sinks_of(options)?.into_iter().map(|sink| sink.name);
    match sinks.find(|name| !is_known(name)) {
        Some(name) if !known.is_empty() => {
            let names: Vec<String> = known.into_iter().map(|sink| sink.name).collect();
            Err(Failure::usage(
                format!(
                    "the journal never delivered to {name:?}; it knows {}",
                    names.join(", ")
                ),
                "name the sink as the worker does, with its eventstore.name; `eventstore drain --new` delivers \
                 everything to a new one",
            ))
        }
        _ => Ok(()),
    }
}

/// Returns the name of the application that stored the newest event, which is that of the worker.
async fn application_name(reader: &EventReader) -> Result<Option<String>, Failure> {
    let newest = reader.newest().await?;
    let query = EventQuery::new().after(newest.saturating_sub(1)).limit(1);
    let events = reader.read(&query).await?;
    let Some(newest) = events.last() else {
        return Ok(None);
    };
    let event = Event::from_json(&newest.json)?;
    Ok(event.metadata.application_name)
}

/// Closes the store. What sinks do not have waits in the file.
pub(super) async fn close(store: EventStore) -> Result<(), Failure> {
    match store.shutdown(CLOSING).await {
        // Whoever waits for sinks has said so.
        Ok(()) | Err(crate::store::FlushError::SinksBehind { .. }) => Ok(()),
        Err(error) => Err(Failure::error(
            error.to_string(),
            "what was stored is in the file's log; `eventstore check` says more",
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
