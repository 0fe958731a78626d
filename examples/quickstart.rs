//! Everything in one go, on a machine with nothing prepared:
//!
//! ```text
//! cargo run --example quickstart --features cli
//! ```
//!
//! Gets and starts a Temporal dev server, runs a worker with the plugin and a handful of workflows,
//! and shows the timeline that the store then holds: as text, and with the feature `cli` as a page.

#[path = "support/dev_server.rs"]
mod dev_server;
#[path = "support/signals.rs"]
mod signals;
#[allow(dead_code, reason = "not every workflow of the file is run here")]
#[path = "support/workflows.rs"]
mod workflows;

use dev_server::DevServer;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use temporal_eventstore::{Event, EventStore, Frame, StoredEvent};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, WorkflowCancelOptions, WorkflowGetResultOptions,
    WorkflowStartOptions,
};
use temporalio_sdk::{Runtime, Worker};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let interrupted = signals::shutdown_requested()?;
    // Whoever interrupts it leaves no server behind: dropped with the rest, it ends.
    tokio::select! {
        result = show() => result,
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    }
}

async fn show() -> anyhow::Result<()> {
    eprintln!("starting a Temporal dev server …");
    let server = DevServer::start().await?;

    // A fresh file for each run, so that the timeline is this run's.
    let directory =
        PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
            .join("quickstart");
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("events.db");
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", file.display())).ok();
    }

    // The three lines that matter: a store, the plugin on the client, and at the end a shutdown.
    let events = EventStore::builder()
        .application_name("quickstart")
        .store(format!("sqlite:{}", file.display()))
        .build()
        .await?;
    let client = Client::connect(
        ConnectionOptions::new(server.url()?).build(),
        ClientOptions::new("default")
            .plugin(events.plugin())
            .build(),
    )
    .await?;

    let runtime = Runtime::from_current_tokio(Default::default())?;
    let options = workflows::worker_options("orders", 1000)?;
    let mut worker = Worker::new(&runtime, client.clone(), options)?;
    let stop = worker.shutdown_handle();
    let ((), workflows) = tokio::try_join!(
        async { worker.run().await.map_err(anyhow::Error::from) },
        async {
            let result = run_workflows(&client).await;
            stop();
            Ok(result)
        }
    )?;
    workflows?;
    events.flush(Duration::from_secs(5)).await?;
    let stored = events.read_after(0, 1000).await?;
    events.shutdown(Duration::from_secs(5)).await?;
    drop(server);

    print_timeline(&stored)?;
    show_page(&file).await?;
    println!(
        "\n{} events are in {}. Ask it anything:\n\n  sqlite3 {} \\\n    \"SELECT workflow_type, \
         workflow_state, COUNT(*) FROM events WHERE event_name = 'workflow_end' GROUP BY 1, 2\"\n",
        stored.len(),
        file.display(),
        file.display()
    );
    Ok(())
}

/// Writes the timeline as a page to look at, and says where it is.
#[cfg(feature = "cli")]
async fn show_page(file: &Path) -> anyhow::Result<()> {
    let page = file.with_file_name("timeline.html");
    let url = format!("sqlite:{}", file.display());
    std::fs::write(&page, temporal_eventstore::cli::timeline(&url).await?)?;
    println!(
        "\nThe timeline is in {}: open it in a browser.",
        page.display()
    );
    Ok(())
}

/// The page is a part of the program `eventstore`.
#[cfg(not(feature = "cli"))]
#[allow(clippy::unused_async, reason = "as with the feature")]
async fn show_page(_file: &Path) -> anyhow::Result<()> {
    println!("\nWith --features cli, this writes the timeline as a page to look at.");
    Ok(())
}

/// A success with a retried activity, a failure, a cancellation, a child, and a chain of runs.
async fn run_workflows(client: &Client) -> anyhow::Result<()> {
    eprintln!("running workflows …");
    let start = |id: &str| WorkflowStartOptions::new("orders", id).build();
    let result = WorkflowGetResultOptions::default;

    // A frame around the start: its fields are on every event of what follows from it.
    let order = Frame::new()
        .correlation_id("customer-42")
        .scope(client.start_workflow(workflows::Order::run, (), start("order-1")))
        .await?;
    let fail = client
        .start_workflow(workflows::Fail::run, (), start("order-2"))
        .await?;
    let wait = client
        .start_workflow(workflows::Wait::run, (), start("order-3"))
        .await?;
    let parent = client
        .start_workflow(workflows::Parent::run, (), start("order-4"))
        .await?;
    let chain = client
        .start_workflow(workflows::Chain::run, 1_u64, start("order-5"))
        .await?;

    order.get_result(result()).await?;
    anyhow::ensure!(
        fail.get_result(result()).await.is_err(),
        "order-2 must fail"
    );
    wait.cancel(WorkflowCancelOptions::default()).await?;
    anyhow::ensure!(
        wait.get_result(result()).await.is_err(),
        "order-3 must be cancelled"
    );
    parent.get_result(result()).await?;
    chain.get_result(result()).await?;
    Ok(())
}

/// One block per workflow run, its events in the order of time.
fn print_timeline(stored: &[StoredEvent]) -> anyhow::Result<()> {
    let events = stored
        .iter()
        .map(StoredEvent::event)
        .collect::<Result<Vec<_>, _>>()?;
    let begin = events
        .iter()
        .filter_map(|event| event.metadata.created_at)
        .min();

    let mut runs: Vec<Option<String>> = Vec::new();
    for event in &events {
        if !runs.contains(&event.metadata.workflow_run_id) {
            runs.push(event.metadata.workflow_run_id.clone());
        }
    }
    for run in runs {
        let mut of_run: Vec<&Event> = events
            .iter()
            .filter(|event| event.metadata.workflow_run_id == run)
            .collect();
        of_run.sort_by_key(|event| event.metadata.created_at);
        let title = of_run
            .first()
            .and_then(|event| {
                let metadata = &event.metadata;
                let correlation = metadata
                    .custom
                    .get("correlation_id")
                    .and_then(|id| id.as_str())
                    .map(|id| format!(", correlation id {id}"))
                    .unwrap_or_default();
                Some(format!(
                    "{} {}{correlation}",
                    metadata.workflow_type.as_deref()?,
                    metadata.workflow_id.as_deref()?,
                ))
            })
            .unwrap_or_else(|| "worker".to_owned());
        println!("\n{title}");
        for event in of_run {
            print_event(event, begin);
        }
    }
    Ok(())
}

fn print_event(event: &Event, begin: Option<chrono::DateTime<chrono::Utc>>) {
    let metadata = &event.metadata;
    let seconds = match (metadata.created_at, begin) {
        (Some(at), Some(begin)) => (at - begin).as_seconds_f64(),
        _ => 0.0,
    };
    let activity = match (&metadata.activity_type, metadata.attempt) {
        (Some(activity), Some(attempt)) => format!("{activity} #{attempt}"),
        _ => String::new(),
    };
    let status = event
        .data
        .get("status")
        .and_then(|status| status.as_str())
        .unwrap_or_default();
    let took = event
        .data
        .get("duration_ms")
        .and_then(|duration| duration.as_f64())
        .map(|duration| format!("{duration:.1} ms"))
        .unwrap_or_default();
    let why = event
        .data
        .get("error")
        .and_then(|error| error.get("message"))
        .and_then(|message| message.as_str())
        .unwrap_or_default();
    let line = format!(
        "  {seconds:>7.3} s  {:<15} {activity:<20} {status:<17} {took:>11}  {why}",
        event.event_name
    );
    println!("{}", line.trim_end());
}
