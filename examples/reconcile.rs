//! Adds to a store what no worker could report: looks once at what the server closed, and exits.
//!
//! ```text
//! EVENTSTORE_URL=sqlite:found.db cargo run --example reconcile -- --task-queue orders --since 7days
//! ```
//!
//! Prints one line of JSON with what was added. A worker that has the store's file open reconciles by
//! itself: `cargo run --example worker -- --reconcile 60`.

use anyhow::Context as _;
use clap::Parser;
use std::time::{Duration, SystemTime};
use temporal_eventstore::{EventStore, Reconciler, ReconcilerOptions};
use temporalio_client::{Client, ClientOptions, ConnectionOptions};

#[derive(Parser)]
struct Arguments {
    /// Where the Temporal server is.
    #[arg(
        long,
        env = "TEMPORAL_ADDRESS",
        default_value = "http://127.0.0.1:7233"
    )]
    address: url::Url,
    /// The namespace.
    #[arg(long, env = "TEMPORAL_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Only workflows of this task queue.
    #[arg(long)]
    task_queue: Option<String>,
    /// Only workflows that this visibility query finds.
    #[arg(long)]
    filter: Option<String>,
    /// Look at everything that closed since so long ago, such as `7days`, instead of going on where the
    /// last time ended.
    #[arg(long, value_parser = humantime::parse_duration)]
    since: Option<Duration>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let events = EventStore::from_env().await?;
    anyhow::ensure!(
        events.is_enabled(),
        "EVENTSTORE_URL is not set: there is no store to add to"
    );
    let client = Client::connect(
        ConnectionOptions::new(arguments.address.clone()).build(),
        ClientOptions::new(&arguments.namespace).build(),
    )
    .await
    .with_context(|| format!("no Temporal server answers at {}", arguments.address))?;
    let options = ReconcilerOptions::builder()
        .maybe_task_queue(arguments.task_queue)
        .maybe_filter(arguments.filter)
        .build();
    let reconciler = Reconciler::new(&events, &client, options);
    let found = match arguments.since {
        None => reconciler.run_once().await?,
        Some(since) => {
            let now = SystemTime::now();
            let from = now.checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
            reconciler.backfill(from..now).await?
        }
    };
    events.shutdown(Duration::from_secs(10)).await?;
    println!(
        "{}",
        serde_json::json!({
            "runs": found.runs,
            "standalone_activities": found.standalone_activities,
            "workflow_starts": found.workflow_starts,
            "workflow_ends": found.workflow_ends,
            "activity_starts": found.activity_starts,
            "activity_ends": found.activity_ends,
            "activity_async_ends": found.activity_async_ends,
            "settled": found.settled,
        })
    );
    Ok(())
}
