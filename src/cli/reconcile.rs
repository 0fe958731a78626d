//! `eventstore reconcile`: adds what is missing from the server's histories, without a worker.

use super::{
    arguments::{Arguments, Moment, Reconcile, SinkUrls},
    failure::Failure,
    opened,
    screen::Screen,
};
use crate::{
    store::EventStore,
    temporal::{ConnectError, Connected, Reconciled, Reconciler, ReconcilerOptions, connect},
};
use serde_json::{Value, json};
use std::time::SystemTime;

pub(super) async fn run(
    arguments: &Arguments,
    reconcile: &Reconcile,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let server = &reconcile.server;
    let Connected { client, .. } =
        connect(server.address.as_deref(), server.namespace.as_deref()).await?;
    // With its sinks: they get what is added.
    let options = opened::options(arguments, &SinkUrls::default())?;
    let store = opened::open(options, false).await?;
    let found = pass(&store, &client, reconcile).await;
    opened::close(store).await?;
    say(&found?, reconcile, screen)
}

async fn pass(
    store: &EventStore,
    client: &crate::temporal::Client,
    reconcile: &Reconcile,
) -> Result<Reconciled, Failure> {
    let options = ReconcilerOptions::builder()
        .maybe_task_queue(reconcile.task_queue.clone())
        .maybe_filter(reconcile.filter.clone())
        .build();
    let reconciler = Reconciler::new(store, client, options);
    let found = match reconcile.since {
        None => reconciler.run_once().await,
        Some(Moment(since)) => reconciler.backfill(since.into()..SystemTime::now()).await,
    };
    found.map_err(|error| {
        Failure::error(
            error.to_string(),
            "nothing that was added is lost; the next pass goes on where this one ended",
        )
    })
}

fn say(found: &Reconciled, reconcile: &Reconcile, screen: &mut Screen) -> Result<(), Failure> {
    let numbers = numbers(found);
    if reconcile.output.output != super::arguments::Format::Text {
        let document: serde_json::Map<String, Value> = numbers
            .into_iter()
            .map(|(name, number)| (name.to_owned(), json!(number)))
            .collect();
        return screen.document(reconcile.output.output, &document);
    }
    for (name, number) in numbers {
        screen.line(&format!("{number:>8}  {}", name.replace('_', " ")))?;
    }
    Ok(())
}

fn numbers(found: &Reconciled) -> [(&'static str, u64); 8] {
    [
        ("runs_looked_at", found.runs),
        (
            "standalone_activities_looked_at",
            found.standalone_activities,
        ),
        ("workflow_starts_added", found.workflow_starts),
        ("workflow_ends_added", found.workflow_ends),
        ("activity_starts_added", found.activity_starts),
        ("activity_ends_added", found.activity_ends),
        ("activity_async_ends_added", found.activity_async_ends),
        ("holds_settled", found.settled),
    ]
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::error(
            error.to_string(),
            "give --address and --namespace, or set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY and their like",
        )
    }
}
