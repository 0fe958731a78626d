//! Memory while events cannot go where they should: in a child process, so that it begins with nothing.

use crate::{
    Scale,
    events::{self, Events},
    process::memory_mib,
};
use async_trait::async_trait;
use std::{path::Path, process::Command, time::Duration};
use temporal_eventstore::{
    EventStore,
    sink::{Delivered, Sink, SinkError, SinkEvent},
};

/// How large the journal may grow meanwhile.
const MAX_JOURNAL_BYTES: u64 = 128 * 1024 * 1024;
/// How often memory is looked at.
const LOOKS: usize = 4;

#[derive(Debug)]
struct Away;

#[async_trait]
impl Sink for Away {
    fn name(&self) -> &str {
        "away"
    }

    async fn deliver(&self, _batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        Err(SinkError::new("it is away"))
    }

    async fn check(&self) -> Result<(), SinkError> {
        Err(SinkError::new("it is away"))
    }
}

pub fn measure(scale: &Scale) -> anyhow::Result<()> {
    println!(
        "| away | published | bytes each | MiB before | MiB during | MiB at most | written | refused or \
         lost | file, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for child in ["sink-outage", "disk-outage"] {
        for (bytes, count) in [
            (500, scale.of(1_000_000, 20_000)),
            (50_000, scale.of(20_000, 1000)),
        ] {
            let directory = tempfile::tempdir()?;
            // A file that may not grow is an error, and no signal that ends the program.
            let output = Command::new("sh")
                .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
                .arg(std::env::current_exe()?)
                .args(["--child", child, "--count", &count.to_string()])
                .args(["--bytes", &bytes.to_string(), "--path"])
                .arg(directory.path().join("events.db"))
                .output()?;
            anyhow::ensure!(
                output.status.success(),
                "{child} failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            print!("{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    Ok(())
}

/// In the child: a journal, and a sink that takes nothing.
pub async fn of_sink(file: &Path, count: usize, bytes: usize) -> anyhow::Result<()> {
    let store = EventStore::builder()
        .application_name("orders")
        .journal(file)
        .max_journal_bytes(MAX_JOURNAL_BYTES)
        .sink(Away)
        .build()
        .await?;
    publish(&store, "sink", count, bytes).await
}

/// In the child: a file that cannot be written, whatever is tried.
pub async fn of_disk(file: &Path, count: usize, bytes: usize) -> anyhow::Result<()> {
    let store = EventStore::builder()
        .application_name("orders")
        .store(events::url(file))
        .build()
        .await?;
    let pid = std::process::id().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=0:"])
        .status()?;
    anyhow::ensure!(limited.success(), "`prlimit` failed");
    publish(&store, "disk", count, bytes).await
}

/// Publishes at a rate that the journal could take, and says how much memory that took.
async fn publish(store: &EventStore, away: &str, count: usize, bytes: usize) -> anyhow::Result<()> {
    let mut events = Events::of(bytes).await?;
    let before = memory_mib()?.0;
    let mut during = Vec::new();
    // Small ones 100,000 in a second, large ones 100 times fewer.
    let at_once = (50_000 / bytes).max(1);
    let mut published = 0;
    for look in 1..=LOOKS {
        while published < count * look / LOOKS {
            for _ in 0..at_once {
                drop(store.publish(events.next()));
                published += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        during.push(format!("{:.0}", memory_mib()?.0));
    }
    // What waits gets its time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stats = store.stats();
    println!(
        "| {away} | {published} | {bytes} | {before:.0} | {} | {:.0} | {} | {} | {:.0} |",
        during.join(", "),
        memory_mib()?.1,
        stats.written,
        stats.refused + stats.lost,
        stats.journal_bytes as f64 / 1024.0 / 1024.0,
    );
    // What it could not store is not what this is about.
    std::process::exit(0);
}
