//! A worker with an automation: it says which workflows failed, and why. A restart goes on where it was.
//!
//! ```text
//! EVENTSTORE_URL=sqlite:events.db cargo run --example handlers
//! cargo run --example starter -- --workflow Fail
//! ```
//!
//! Prints `ready` when it begins to poll. Ctrl-C or SIGTERM: it finishes what it has, flushes and exits.

#[path = "support/signals.rs"]
mod signals;
#[path = "support/workflows.rs"]
mod workflows;

use anyhow::Context as _;
use std::{env, time::Duration};
use temporal_eventstore::{EventStore, Selection, StoredEvent};
use temporalio_client::{Client, ClientOptions, ConnectionOptions};
use temporalio_sdk::{Runtime, Worker};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let shutdown_requested = signals::shutdown_requested()?;
    let events = EventStore::from_env().await?;

    // The automation.
    let failed = Selection::only("workflow_end");
    events
        .handle("notify-on-failure", failed, notify_on_failure)
        .await?;

    let address = env::var("TEMPORAL_ADDRESS");
    let address = address.unwrap_or_else(|_| "http://127.0.0.1:7233".to_owned());
    let client = Client::connect(
        ConnectionOptions::new(address.parse::<url::Url>()?).build(),
        ClientOptions::new("default")
            .plugin(events.plugin())
            .build(),
    )
    .await
    .with_context(|| format!("no Temporal server answers at {address}"))?;
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let options = workflows::worker_options("orders", 1000)?;
    let mut worker = Worker::new(&runtime, client, options)?;
    let stop = worker.shutdown_handle();
    tokio::spawn(async move {
        shutdown_requested.await;
        stop();
    });

    println!("ready");
    let run = worker.run().await;
    // Waits for what is being handled.
    let flushed = events.shutdown(Duration::from_secs(10)).await;
    run?;
    flushed?;
    Ok(())
}

/// Called at least once for each end of a workflow: whoever is notified recognizes repetitions by the event's id.
async fn notify_on_failure(event: StoredEvent) -> anyhow::Result<()> {
    if event.workflow_state.as_deref() == Some("failed") {
        let workflow_id = event.workflow_id.as_deref().unwrap_or_default();
        let error = &event.event()?.data["error"];
        println!("{} {workflow_id} failed: {error}", event.event_id);
    }
    Ok(())
}
