//! An activity that is reset on the server counts its attempts from 1 again: its attempts are told apart,
//! also after a restart of the worker, and the reconciler knows them.

use crate::support::{Ground, handle, start, until, with_worker};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use temporal_eventstore::{Event, EventStore, Reconciler, ReconcilerOptions};
use temporalio_client::{Client, WorkflowGetResultOptions, tonic::IntoRequest as _};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution,
    workflowservice::v1::{ResetActivityRequest, reset_activity_request},
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the activity fails.
const FAILURES: u32 = 6;

/// Calls one flaky activity.
#[workflow]
#[derive(Default)]
struct Flaky;

#[workflow_methods]
impl Flaky {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(3))
            .retry_policy(
                temporalio_common::RetryPolicy::builder()
                    .initial_interval(Duration::from_secs(2))
                    .backoff_coefficient(1.0)
                    .build(),
            )
            .build();
        ctx.execute_activity(Calls::call, (), options).await?;
        Ok(())
    }
}

static CALLS: AtomicU32 = AtomicU32::new(0);

fn calls() -> u32 {
    CALLS.load(Ordering::SeqCst)
}

struct Calls;

#[activities]
impl Calls {
    #[activity]
    async fn call(ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        let call = CALLS.fetch_add(1, Ordering::SeqCst) + 1;
        let attempt = ctx.info().attempt;
        temporal_eventstore::publish(Event::new("called").data(serde_json::json!({
            "call": call, "attempt": attempt
        })));
        if call == 5 {
            // Its result comes too late: it is reset while it runs.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if call <= FAILURES {
            return Err(anyhow::anyhow!("call {call} fails").into());
        }
        Ok(())
    }
}

struct Approvals;

#[activities]
impl Approvals {
    /// Leaves its completion to others, who forget it; after that it does the work itself.
    #[activity]
    async fn ask(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        if ASKED.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(ActivityError::WillCompleteAsync);
        }
        Ok(())
    }
}

#[workflow]
#[derive(Default)]
struct Approval;

#[workflow_methods]
impl Approval {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(1))
            .retry_policy(
                temporalio_common::RetryPolicy::builder()
                    .initial_interval(Duration::from_secs(60))
                    .build(),
            )
            .build();
        ctx.execute_activity(Approvals::ask, (), options).await?;
        Ok(())
    }
}

fn options() -> WorkerOptions {
    WorkerOptions::new("orders")
        .register_activities(Calls)
        .register_activities(Approvals)
        .register_workflow::<Flaky>()
        .unwrap()
        .register_workflow::<Approval>()
        .unwrap()
        .build()
}

async fn reset(client: &Client, workflow_id: &str) {
    let request = ResetActivityRequest {
        namespace: "default".to_owned(),
        execution: Some(WorkflowExecution {
            workflow_id: workflow_id.to_owned(),
            run_id: String::new(),
        }),
        activity: Some(reset_activity_request::Activity::MatchAll(true)),
        ..ResetActivityRequest::default()
    };
    let mut service = client.connection().workflow_service();
    service
        .reset_activity(request.into_request())
        .await
        .unwrap();
}

/// The attempts of the events of one name, in order.
fn attempts(ground: &Ground, event_name: &str) -> Vec<u32> {
    let rows = ground.events();
    let named = rows.iter().filter(|row| row.event_name == event_name);
    named.map(|row| row.attempt.unwrap()).collect()
}

#[tokio::test]
async fn the_attempts_of_a_reset_activity_are_told_apart() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_worker(&client, options(), async {
        client
            .start_workflow(Flaky::run, (), start("flaky"))
            .await
            .unwrap();
        until("two attempts", || {
            attempts(&ground, "activity_end") == [1, 2]
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    reset(&client, "flaky").await;

    // Another worker goes on with the same store.
    let events = ground.store().await;
    let client = ground.client_with(&events).await;
    with_worker(&client, options(), async {
        until("two attempts more", || calls() == 4).await;
        until("a fifth call", || calls() == 5).await;
        reset(&client, "flaky").await;
        handle(&client, "flaky")
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.flush(TIMEOUT).await.unwrap();
    // The server counts from 1 in the middle of the fifth call, whose result it does not take.
    let expected = [1, 2, 1, 2, 3, 2, 3];
    for name in ["activity_start", "called", "activity_end"] {
        assert_eq!(attempts(&ground, name), expected, "{name}");
    }
    assert_eq!(events.stats().duplicates, 0);

    let reconcile = async |events: &EventStore| {
        let options = ReconcilerOptions::builder()
            .grace(Duration::ZERO)
            .requests_per_second(500)
            .build();
        let reconciler = Reconciler::new(events, &client, options);
        // Visibility follows the history a moment later.
        for _ in 0..100 {
            let found = reconciler.run_once().await.unwrap();
            if found.runs > 0 {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the server never shows the run");
    };
    let found = reconcile(&events).await;
    assert_eq!(found.added(), 0, "{found:?}");
    events.shutdown(TIMEOUT).await.unwrap();

    // History alone knows the last count, and the ids of attempts that were never reset.
    let lost = EventStore::builder()
        .store("memory:")
        .build()
        .await
        .unwrap();
    let found = reconcile(&lost).await;
    assert_eq!((found.activity_starts, found.activity_ends), (1, 3));
    let known: Vec<_> = ground
        .events()
        .into_iter()
        .map(|row| row.event_id)
        .collect();
    for event in lost.read_after(0, 100).await.unwrap() {
        assert!(known.contains(&event.event_id.to_string()), "{event:?}");
    }
}

#[tokio::test]
async fn what_a_reset_attempt_came_to_is_not_the_outcome_of_the_one_that_was_left_to_others() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_worker(&client, options(), async {
        client
            .start_workflow(Approval::run, (), start("approval"))
            .await
            .unwrap();
        until("it is left to others", || {
            attempts(&ground, "activity_end") == [1]
        })
        .await;
        // It times out, and waits for its second attempt.
        tokio::time::sleep(Duration::from_secs(2)).await;
        reset(&client, "approval").await;
        handle(&client, "approval")
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(attempts(&ground, "activity_end"), [1, 1]);
    let options = ReconcilerOptions::builder().grace(Duration::ZERO).build();
    let reconciler = Reconciler::new(&events, &client, options);
    let mut runs = 0;
    while runs == 0 {
        let found = reconciler.run_once().await.unwrap();
        assert_eq!(found.added(), 0, "{found:?}");
        runs += found.runs;
    }
    events.shutdown(TIMEOUT).await.unwrap();
}
