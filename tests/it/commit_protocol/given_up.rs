//! Local activities that are given up while they wait to be tried again.

use super::*;
use crate::support::{
    compare::{Source, compare_with},
    histories,
};
use temporal_eventstore::{Reconciler, ReconcilerOptions};
use temporalio_sdk::CancellableFuture as _;

struct Hopeless;

#[activities]
impl Hopeless {
    #[activity]
    async fn fail(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        Err(anyhow::anyhow!("on purpose").into())
    }
}

/// Cancels a local activity between its first attempt and its second.
#[workflow]
#[derive(Default)]
struct GivesUp;

#[workflow_methods]
impl GivesUp {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let policy = RetryPolicy::builder()
            .initial_interval(Duration::from_secs(20))
            .build();
        let options = LocalActivityOptions::builder()
            .start_to_close_timeout(TIMEOUT)
            .retry_policy(policy)
            .cancel_type(temporalio_sdk::ActivityCancellationType::WaitCancellationCompleted)
            .build();
        let hopeless = ctx.execute_local_activity(Hopeless::fail, (), options);
        ctx.timer(Duration::from_millis(300)).await;
        hopeless.cancel();
        assert!(hopeless.await.is_err());
        Ok(())
    }
}

/// Its marker names the attempt 0, which was never made.
#[tokio::test]
async fn a_local_activity_that_is_cancelled_while_it_waits_has_no_attempt_0() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = WorkerOptions::new("orders")
        .register_activities(Hopeless)
        .register_workflow::<GivesUp>()
        .unwrap()
        .build();
    with_worker(&client, worker, async {
        let options = WorkflowStartOptions::new("orders", "gives-up")
            .task_timeout(Duration::from_secs(1))
            .build();
        client
            .start_workflow(GivesUp::run, (), options)
            .await
            .unwrap()
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    let options = ReconcilerOptions::builder().grace(Duration::ZERO).build();
    Reconciler::new(&events, &client, options)
        .run_once()
        .await
        .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let attempts: Vec<_> = rows
        .iter()
        .filter(|row| row.event_name == "activity_end")
        .map(|row| row.attempt)
        .collect();
    assert_eq!(attempts, [Some(1)], "{:?}", lifecycle(&rows, "gives-up"));
    let runs = histories(&ground, &client).await;
    let differences = compare_with(Source::Reconciled, &runs, &rows);
    assert!(differences.is_empty(), "{differences}");
}

struct Endless;

#[activities]
impl Endless {
    #[activity]
    async fn run(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Ok(())
    }
}

/// Cancels a local activity whose code does not care.
#[workflow]
#[derive(Default)]
struct Cancels;

#[workflow_methods]
impl Cancels {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = LocalActivityOptions::builder()
            .start_to_close_timeout(TIMEOUT)
            .cancel_type(temporalio_sdk::ActivityCancellationType::TryCancel)
            .build();
        let endless = ctx.execute_local_activity(Endless::run, (), options);
        ctx.timer(Duration::from_millis(300)).await;
        endless.cancel();
        assert!(endless.await.is_err());
        Ok(())
    }
}

#[tokio::test]
async fn a_local_activity_that_is_cancelled_while_its_code_runs_ends_as_history_says() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = WorkerOptions::new("orders")
        .register_activities(Endless)
        .register_workflow::<Cancels>()
        .unwrap()
        .build();
    with_worker(&client, worker, async {
        let options = WorkflowStartOptions::new("orders", "cancels")
            .task_timeout(Duration::from_secs(1))
            .build();
        client
            .start_workflow(Cancels::run, (), options)
            .await
            .unwrap()
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "cancels"),
        [
            "workflow_start running",
            "activity_start Endless::run 1",
            "activity_end Endless::run 1 cancelled",
            "workflow_end completed",
        ]
    );
}
