//! The worker of the chaos tests: the example worker, with the workflow that plays scripts besides.
//! Prints `ready` when it begins to poll; SIGTERM ends it in good order.

#[path = "attempts.rs"]
mod attempts;
#[path = "play.rs"]
mod play;
#[path = "script.rs"]
mod script;
#[path = "../../../examples/support/signals.rs"]
mod signals;
#[allow(dead_code, reason = "the comparison uses the rest")]
#[path = "../support/witness.rs"]
mod witness;
#[path = "../../../examples/support/workflows.rs"]
mod workflows;

use clap::Parser;
use std::time::Duration;
use temporal_eventstore::{EventStore, ReconcilerOptions};
use temporalio_client::{Client, ClientOptions, ConnectionOptions};
use temporalio_sdk::{Runtime, Worker};

#[derive(Parser)]
struct Arguments {
    #[arg(long, env = "TEMPORAL_ADDRESS")]
    address: url::Url,
    #[arg(long, env = "TEMPORAL_NAMESPACE", default_value = "default")]
    namespace: String,
    #[arg(long, default_value_t = 1000)]
    max_cached_workflows: usize,
    /// Look every so many seconds for what no worker could report.
    #[arg(long, value_name = "SECONDS")]
    reconcile: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    // Scripts panic on purpose.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::parse();
    let shutdown_requested = signals::shutdown_requested()?;
    let events = EventStore::from_env().await?;
    let mut plugin = events.plugin();
    if let Some(seconds) = arguments.reconcile {
        plugin = plugin.reconcile(ReconcilerOptions::default(), Duration::from_secs(seconds));
    }
    let client = Client::connect(
        ConnectionOptions::new(arguments.address).build(),
        ClientOptions::new(&arguments.namespace)
            .plugin(plugin)
            .build(),
    )
    .await?;
    let mut options = workflows::worker_options("orders", arguments.max_cached_workflows)?;
    options
        .register_activities(attempts::Chaos)
        .register_workflow::<play::Play>()?;
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let mut worker = Worker::new(&runtime, client, options)?;
    let stop = worker.shutdown_handle();
    tokio::spawn(async move {
        shutdown_requested.await;
        stop();
    });
    println!("ready");
    let run = worker.run().await;
    let flushed = events.shutdown(Duration::from_secs(10)).await;
    run?;
    flushed?;
    Ok(())
}
