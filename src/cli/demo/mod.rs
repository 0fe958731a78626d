//! `eventstore demo`: a sample store without a server. What is in it goes the way that a worker's events go: drafts with
//! derived ids, the journal, and sinks that fail and reject.

mod plan;
mod story;

use super::{
    arguments::Demo,
    failure::Failure,
    screen::{Progress, Screen, note},
    words::{self, BOLD, paint},
};
use crate::{
    event::Event,
    reader::{EventQuery, EventReader, ReadError, lock},
    record::Draft,
    sink::{Delivered, Rejection, Sink, SinkError, SinkEvent},
    store::EventStore,
};
use async_trait::async_trait;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What the sample calls its application, by which a file of this command is known again.
const APPLICATION: &str = "eventstore-demo";
/// How many events wait for the journal at once.
const AT_ONCE: usize = 1000;
/// How long the sinks may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn run(demo: &Demo, screen: &mut Screen) -> Result<(), Failure> {
    make_room(demo).await?;
    let url = format!("sqlite:{}", demo.file.display());
    let audit = Audit {
        takes_up_to: demo.events as u64 * 9 / 10,
    };
    let store = EventStore::builder()
        .application_name(APPLICATION)
        .store(&url)
        .sink(Warehouse)
        .sink(audit)
        .build()
        .await
        .map_err(|error| Failure::error(error.to_string(), "name another file"))?;
    let drafts = story::tell(&store, demo.events, demo.seed, chrono::Utc::now());
    let count = drafts.len();
    write(&store, drafts).await?;
    deliver(&store, count as u64).await;
    // The sink that is away is behind: that is a part of the sample.
    store.shutdown(Duration::from_millis(500)).await.ok();
    screen.line(&format!(
        "{} in {}",
        words::count(count, "event"),
        paint(BOLD, demo.file.display())
    ))?;
    say_what_to_try(&demo.file);
    Ok(())
}

fn say_what_to_try(file: &Path) {
    let text = format!(
        "try:\n  export EVENTSTORE_URL=sqlite:{}\n  eventstore ls --failed\n  eventstore show order-1\n  \
         eventstore stats\n  eventstore html --open\n  eventstore dead-letters list\n  eventstore check",
        file.display()
    );
    note(&text);
}

/// Makes sure that nothing of somebody's is overwritten.
async fn make_room(demo: &Demo) -> Result<(), Failure> {
    if !demo.file.exists() {
        return Ok(());
    }
    let file = demo.file.display();
    if !demo.force {
        return Err(Failure::usage(
            format!("{file} is there already"),
            "name another file, or give --force to replace a sample",
        ));
    }
    let reader = EventReader::open(&format!("sqlite:{file}")).await?;
    let first = reader.read(&EventQuery::new().limit(1)).await?;
    let event = first.first().map(|stored| stored.event()).transpose()?;
    let of = event.and_then(|event| event.metadata.application_name);
    // A store without events may be somebody's whose events are still in its log.
    if of.as_deref() != Some(APPLICATION) {
        return Err(Failure::error(
            format!("{file} is no sample: it has events of another application, or none"),
            "name another file",
        ));
    }
    drop(reader);
    let _lock = lock(&demo.file).map_err(ReadError::from)?;
    let Some(name) = demo
        .file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
    else {
        return Ok(());
    };
    let directory = demo.file.parent().filter(|it| !it.as_os_str().is_empty());
    for entry in std::fs::read_dir(directory.unwrap_or(Path::new(".")))? {
        let path = entry?.path();
        let found = path.file_name().map(|it| it.to_string_lossy().into_owned());
        let rest = found.as_deref().and_then(|found| found.strip_prefix(&name));
        let is_of_store = rest
            .is_some_and(|rest| matches!(rest, "" | "-wal" | "-shm") || rest.starts_with(".log."));
        if is_of_store {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

async fn write(store: &EventStore, drafts: Vec<Draft>) -> Result<(), Failure> {
    let bar = Progress::new("writing", drafts.len() as u64);
    let mut drafts = drafts.into_iter();
    loop {
        let part: Vec<_> = drafts
            .by_ref()
            .take(AT_ONCE)
            .map(|draft| store.append(draft))
            .collect();
        if part.is_empty() {
            break;
        }
        for receipt in part {
            receipt
                .await
                .map_err(|error| Failure::error(error.to_string(), "make room on the disk"))?;
            bar.increase();
        }
    }
    bar.end();
    Ok(())
}

/// Waits until the sink that works has everything.
async fn deliver(store: &EventStore, events: u64) {
    let began = Instant::now();
    while began.elapsed() < DELIVERY_TIMEOUT {
        let stats = store.stats();
        let works = stats.sinks.iter().find(|sink| sink.name == "warehouse");
        let has_all = works.is_some_and(|sink| sink.behind == 0);
        if stats.written + stats.duplicates >= events && has_all {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A sink that works, and rejects what does not fit its table.
#[derive(Debug)]
struct Warehouse;

#[async_trait]
impl Sink for Warehouse {
    fn name(&self) -> &str {
        "warehouse"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let refunds = batch
            .iter()
            .enumerate()
            .filter(|(_, event)| event.event_type == "order.refunded");
        let rejected = refunds.map(|(index, _)| {
            Rejection::new(
                index,
                "numeric value out of range (22003): column \"amount\" must not be negative",
            )
        });
        Ok(Delivered::up_to(batch.len(), rejected.collect()))
    }

    async fn check(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// A sink that goes away before it has everything.
#[derive(Debug)]
struct Audit {
    takes_up_to: u64,
}

#[async_trait]
impl Sink for Audit {
    fn name(&self) -> &str {
        "audit"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let taken = batch
            .iter()
            .take_while(|event| event.position <= self.takes_up_to)
            .count();
        match taken {
            0 => Err(SinkError::new("the receiver is away")),
            taken => Ok(Delivered::up_to(taken, Vec::new())),
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        Err(SinkError::new("the receiver is away"))
    }
}
