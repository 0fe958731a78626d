//! Starts example workflows, many at once if asked to, and says how it went in one line of JSON.
//!
//! ```text
//! cargo run --example starter -- --workflow Order --count 100 --concurrency 10 --wait
//! ```

// Only the names are used here.
#[allow(dead_code)]
#[path = "support/workflows.rs"]
mod workflows;

use anyhow::Context as _;
use clap::{Parser, builder::PossibleValuesParser};
use futures::{StreamExt as _, stream};
use serde_json::json;
use std::time::{Duration, Instant};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, UntypedWorkflow, WorkflowGetResultOptions,
    WorkflowStartOptions, errors::WorkflowGetResultError,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

#[derive(Parser, Clone)]
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
    /// The task queue of the worker.
    #[arg(long, default_value = "orders")]
    task_queue: String,
    /// The workflow type.
    #[arg(long, default_value = "Noop", value_parser = PossibleValuesParser::new(workflows::NAMES))]
    workflow: String,
    /// The input of `Chain` (runs to come) and `Slow` (seconds).
    #[arg(long, default_value_t = 2)]
    input: u64,
    /// How many workflows to start.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// How many to start, and with --wait to have running, at the same time.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// The pause between two starts.
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// What workflow ids begin with; the number of the workflow follows.
    #[arg(long, default_value = "order")]
    id_prefix: String,
    /// Wait for the results. Latencies are then from start to result, else of the start alone.
    #[arg(long)]
    wait: bool,
}

/// How one workflow went.
enum Outcome {
    Started(Duration),
    Completed(Duration),
    Failed(Duration),
    NotStarted(String),
    /// Nobody answered any more; the workflow may still run.
    Unknown(String),
}

async fn one(client: &Client, arguments: &Arguments, number: usize) -> Outcome {
    let workflow_id = format!("{}-{number}", arguments.id_prefix);
    let takes_input = matches!(arguments.workflow.as_str(), "Chain" | "Slow");
    let converter = PayloadConverter::default();
    let input = if takes_input {
        RawValue::from_value(&arguments.input, &converter)
    } else {
        RawValue::from_value(&(), &converter)
    };
    let started = Instant::now();
    let handle = client
        .start_workflow(
            UntypedWorkflow::new(&arguments.workflow),
            input,
            WorkflowStartOptions::new(&arguments.task_queue, workflow_id).build(),
        )
        .await;
    match handle {
        Err(error) => Outcome::NotStarted(error.to_string()),
        Ok(_) if !arguments.wait => Outcome::Started(started.elapsed()),
        Ok(handle) => match handle.get_result(WorkflowGetResultOptions::default()).await {
            Ok(_) => Outcome::Completed(started.elapsed()),
            Err(
                WorkflowGetResultError::Failed(_)
                | WorkflowGetResultError::Cancelled { .. }
                | WorkflowGetResultError::Terminated { .. }
                | WorkflowGetResultError::TimedOut,
            ) => Outcome::Failed(started.elapsed()),
            Err(error) => Outcome::Unknown(error.to_string()),
        },
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = Client::connect(
        ConnectionOptions::new(arguments.address.clone()).build(),
        ClientOptions::new(&arguments.namespace).build(),
    )
    .await
    .with_context(|| format!("no Temporal server answers at {}", arguments.address))?;

    let began = Instant::now();
    let pace = Duration::from_millis(arguments.pace_ms);
    let outcomes: Vec<Outcome> = stream::iter(0..arguments.count)
        .then(|number| async move {
            if number > 0 && !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            number
        })
        .map(|number| {
            let (client, arguments) = (&client, &arguments);
            async move { one(client, arguments, number).await }
        })
        .buffer_unordered(arguments.concurrency.max(1))
        .collect()
        .await;
    let seconds = began.elapsed().as_secs_f64();

    let mut latencies = Vec::new();
    let (mut started, mut completed, mut failed, mut unknown) = (0, 0, 0, 0);
    for outcome in outcomes {
        match outcome {
            Outcome::Started(latency) => {
                started += 1;
                latencies.push(latency);
            }
            Outcome::Completed(latency) => {
                started += 1;
                completed += 1;
                latencies.push(latency);
            }
            Outcome::Failed(latency) => {
                started += 1;
                failed += 1;
                latencies.push(latency);
            }
            Outcome::Unknown(error) => {
                started += 1;
                unknown += 1;
                eprintln!("how a workflow ended is unknown: {error}");
            }
            Outcome::NotStarted(error) => eprintln!("a workflow was not started: {error}"),
        }
    }
    latencies.sort();
    let percentile = |part: f64| {
        let index = ((latencies.len() as f64 * part).ceil() as usize).saturating_sub(1);
        latencies
            .get(index)
            .map(|latency| (latency.as_secs_f64() * 100_000.0).round() / 100.0)
    };
    println!(
        "{}",
        json!({
            "started": started,
            "completed": completed,
            "failed": failed,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "p50_ms": percentile(0.5),
            "p95_ms": percentile(0.95),
        })
    );
    anyhow::ensure!(
        started == arguments.count,
        "{} of {} workflows were not started",
        arguments.count - started,
        arguments.count
    );
    anyhow::ensure!(
        unknown == 0,
        "how {unknown} of {started} workflows ended is unknown"
    );
    Ok(())
}
