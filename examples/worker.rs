//! A worker that runs the example workflows and publishes their lifecycle.
//!
//! ```text
//! EVENTSTORE_URL=sqlite:events.db cargo run --example worker
//! ```
//!
//! Prints `ready` when all that it needs is there and it begins to poll. Ctrl-C or SIGTERM: it finishes what it has, flushes and exits.

#[path = "support/signals.rs"]
mod signals;
#[path = "support/workflows.rs"]
mod workflows;

use anyhow::Context as _;
use clap::Parser;
use std::{sync::Arc, time::Duration};
use temporal_eventstore::{EventStore, ReconcilerOptions};
use temporalio_client::{Client, ClientOptions, ConnectionOptions, tonic::IntoRequest as _};
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;
use temporalio_common::telemetry::{
    PrometheusExporterOptions, TelemetryOptions, metrics::CoreMeter,
    start_prometheus_metric_exporter,
};
use temporalio_sdk::{Runtime, Worker, runtime::RuntimeOptions};
use tracing_subscriber::EnvFilter;

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
    /// The task queue to poll.
    #[arg(long, default_value = "orders")]
    task_queue: String,
    /// The same worker without the plugin, for comparisons.
    #[arg(long)]
    bare: bool,
    /// How many workflows stay in memory between their tasks.
    #[arg(long, default_value_t = 1000)]
    max_cached_workflows: usize,
    /// Where Prometheus finds the metrics of the SDK and of the event store, such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<std::net::SocketAddr>,
    /// Look every so many seconds for what no worker could report, such as terminated workflows.
    #[arg(long, value_name = "SECONDS")]
    reconcile: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    // Before `ready` is said: from then on a signal must find its listener.
    let shutdown_requested = signals::shutdown_requested()?;
    // What this crate's tests want to go wrong, and where.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();

    let events = if arguments.bare {
        EventStore::disabled()
    } else {
        EventStore::from_env().await?
    };

    let meter = arguments.metrics.map(exporter).transpose()?;
    let mut client_options = ClientOptions::new(&arguments.namespace);
    if !arguments.bare {
        let mut plugin = events.plugin();
        if let Some(meter) = meter.clone() {
            plugin = plugin.meter(meter);
        }
        if let Some(seconds) = arguments.reconcile {
            plugin = plugin.reconcile(ReconcilerOptions::default(), Duration::from_secs(seconds));
        }
        client_options = client_options.plugin(plugin);
    }
    let client = Client::connect(
        ConnectionOptions::new(arguments.address.clone()).build(),
        client_options.build(),
    )
    .await
    .with_context(|| format!("no Temporal server answers at {}", arguments.address))?;
    check_namespace(&client, &arguments.namespace).await?;

    let options = workflows::worker_options(&arguments.task_queue, arguments.max_cached_workflows)?;
    let telemetry = TelemetryOptions::builder().maybe_metrics(meter).build();
    let runtime_options = RuntimeOptions::builder()
        .telemetry_options(telemetry)
        .build()
        .map_err(anyhow::Error::msg)?;
    let runtime = Runtime::from_current_tokio(runtime_options)?;
    let mut worker = Worker::new(&runtime, client, options)?;
    let stop = worker.shutdown_handle();
    tokio::spawn(async move {
        shutdown_requested.await;
        stop();
    });

    println!("ready");
    let run = worker.run().await;
    // Also after a worker that failed: what it published is flushed.
    let flushed = events.shutdown(Duration::from_secs(10)).await;
    run?;
    flushed?;
    Ok(())
}

/// Serves the metrics. The SDK and the event store record on the same meter.
fn exporter(address: std::net::SocketAddr) -> anyhow::Result<Arc<dyn CoreMeter>> {
    let options = PrometheusExporterOptions::builder()
        .socket_addr(address)
        .build();
    Ok(start_prometheus_metric_exporter(options)?.meter)
}

/// The worker would find out too, but only after `ready`.
async fn check_namespace(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let request = DescribeNamespaceRequest {
        namespace: namespace.to_owned(),
        ..DescribeNamespaceRequest::default()
    };
    client
        .connection()
        .workflow_service()
        .describe_namespace(request.into_request())
        .await
        .with_context(|| format!("the namespace `{namespace}` is not there"))?;
    Ok(())
}
