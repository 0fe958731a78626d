//! Every outcome of workflows, activities and workers, on a real server: exactly these events, with
//! the outcome that the server recorded.

use crate::support::{
    Ground, handle, lifecycle, outcome, start, until, with_example_worker, with_worker, workflows,
};
use serde_json::json;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use temporalio_client::{
    ActivityIdentifier, ActivityStartOptions, RpcOptions, WorkflowCancelOptions,
    WorkflowGetResultOptions, WorkflowSignalOptions,
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_workflow_that_completes_has_a_start_and_an_end_around_its_activity() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "noop"),
        [
            "workflow_start running",
            "activity_start Orders::noop 1",
            "activity_end Orders::noop 1 completed",
            "workflow_end completed",
        ]
    );
    let end = rows
        .iter()
        .find(|row| row.event_name == "workflow_end")
        .unwrap();
    assert!(end.data("duration_ms").as_f64().unwrap() > 0.0);
    assert_eq!(end.data("status"), "completed");
    assert_eq!(end.metadata("workflow_type"), "Noop");
    assert_eq!(end.metadata("workflow_attempt"), 1);
    assert_eq!(end.metadata("task_queue"), "orders");
    assert_eq!(end.metadata("namespace"), "default");
    assert_eq!(end.metadata("application_name"), "test");
    assert_eq!(
        end.metadata("first_execution_run_id"),
        end.metadata("workflow_run_id")
    );
}

#[tokio::test]
async fn a_workflow_that_fails_says_why() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Fail::run, (), "fail")
            .await
            .unwrap_err();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "fail"),
        ["workflow_start running", "workflow_end failed"]
    );
    let end = rows
        .iter()
        .find(|row| row.event_name == "workflow_end")
        .unwrap();
    assert_eq!(
        end.data("error"),
        &json!({ "type": "OutOfStock", "message": "no more bolts", "non_retryable": true })
    );
}

#[tokio::test]
async fn error_messages_can_be_left_out() {
    let ground = Ground::new().await;
    let events = temporal_eventstore::EventStore::builder()
        .store(ground.store_url())
        .error_messages(false)
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Fail::run, (), "fail")
            .await
            .unwrap_err();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let end = rows
        .iter()
        .find(|row| row.event_name == "workflow_end")
        .unwrap();
    assert_eq!(
        end.data("error"),
        &json!({ "type": "OutOfStock", "non_retryable": true })
    );
    assert!(
        !rows
            .iter()
            .any(|row| row.event.to_string().contains("bolts"))
    );
}

#[tokio::test]
async fn a_workflow_that_is_cancelled_ends_cancelled() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        client
            .start_workflow(workflows::Wait::run, (), start("wait"))
            .await
            .unwrap();
        until("the workflow starts", || {
            !lifecycle(&ground.events(), "wait").is_empty()
        })
        .await;
        handle(&client, "wait")
            .cancel(WorkflowCancelOptions::default())
            .await
            .unwrap();
        handle(&client, "wait")
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "wait"),
        ["workflow_start running", "workflow_end cancelled"]
    );
}

#[tokio::test]
async fn a_workflow_that_continues_as_new_has_a_start_and_an_end_for_each_run() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Chain::run, 2_u64, "chain")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "chain"),
        [
            "workflow_start running",
            "workflow_end continued_as_new",
            "workflow_start running",
            "workflow_end continued_as_new",
            "workflow_start running",
            "workflow_end completed",
        ]
    );
    let starts: Vec<_> = rows
        .iter()
        .filter(|row| row.event_name == "workflow_start")
        .collect();
    assert_eq!(starts[0].metadata("continued_from_run_id"), &json!(null));
    for pair in starts.windows(2) {
        assert_eq!(
            pair[1].metadata("continued_from_run_id"),
            pair[0].metadata("workflow_run_id")
        );
        assert_eq!(
            pair[1].metadata("first_execution_run_id"),
            starts[0].metadata("workflow_run_id")
        );
    }
}

#[tokio::test]
async fn an_activity_that_is_retried_has_a_start_and_an_end_for_each_attempt() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Order::run, (), "order")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "order"),
        [
            "workflow_start running",
            "activity_start Orders::reserve 1",
            "activity_end Orders::reserve 1 failed",
            "activity_start Orders::reserve 2",
            "activity_end Orders::reserve 2 completed",
            "activity_start Orders::charge 1",
            "activity_end Orders::charge 1 completed",
            "activity_start Orders::ship 1",
            "activity_end Orders::ship 1 completed",
            "workflow_end completed",
        ]
    );
    let failed = rows
        .iter()
        .find(|row| row.data("status") == "failed")
        .unwrap();
    assert_eq!(
        failed.data("error")["message"],
        "the warehouse did not answer"
    );
    let shipped = rows
        .iter()
        .find(|row| row.event_type == "order.shipped")
        .unwrap();
    assert_eq!(shipped.event_name, "OrderShipped");
    assert_eq!(shipped.activity_type.as_deref(), Some("Orders::ship"));
    assert_eq!(shipped.workflow_id.as_deref(), Some("order"));
    assert_eq!(shipped.data("parcels"), 2);
}

#[tokio::test]
async fn an_activity_that_is_cancelled_ends_cancelled() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        client
            .start_workflow(workflows::Slow::run, 60_u64, start("slow"))
            .await
            .unwrap();
        until("the activity starts", || {
            lifecycle(&ground.events(), "slow").len() == 2
        })
        .await;
        handle(&client, "slow")
            .cancel(WorkflowCancelOptions::default())
            .await
            .unwrap();
        handle(&client, "slow")
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let mut seen = lifecycle(&ground.events(), "slow");
    // The workflow may end before its activity has noticed.
    seen.sort();
    assert_eq!(
        seen,
        [
            "activity_end Orders::work 1 cancelled",
            "activity_start Orders::work 1",
            "workflow_end cancelled",
            "workflow_start running",
        ]
    );
}

#[tokio::test]
async fn a_local_activity_has_its_events_too() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Local::run, (), "local")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "local"),
        [
            "workflow_start running",
            "activity_start Orders::noop 1",
            "activity_end Orders::noop 1 completed",
            "workflow_end completed",
        ]
    );
    let activity = rows
        .iter()
        .find(|row| row.event_name == "activity_end")
        .unwrap();
    assert_eq!(activity.metadata("is_local"), true);
}

#[tokio::test]
async fn a_child_workflow_names_its_parent_and_its_root() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Parent::run, (), "parent")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "parent"),
        ["workflow_start running", "workflow_end completed"]
    );
    assert_eq!(lifecycle(&rows, "parent-child").len(), 4);
    let parent = rows.iter().find(|row| row.is_of("parent")).unwrap();
    for row in rows
        .iter()
        .filter(|row| row.is_of("parent-child") && row.activity_id.is_none())
    {
        assert_eq!(row.metadata("parent_workflow_id"), "parent");
        assert_eq!(
            row.metadata("parent_run_id"),
            parent.metadata("workflow_run_id")
        );
        assert_eq!(row.metadata("root_workflow_id"), "parent");
    }
}

#[tokio::test]
async fn a_standalone_activity_has_events_without_a_workflow() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        // Twice under one id: an id may be used again when its execution is over.
        for _ in 0..2 {
            let activity = client
                .start_activity(
                    workflows::Orders::noop,
                    (),
                    ActivityStartOptions::with_start_to_close_timeout("orders", "alone", TIMEOUT)
                        .build(),
                )
                .await
                .unwrap();
            activity.result().await.unwrap();
        }
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows: Vec<_> = ground
        .events()
        .into_iter()
        .filter(|row| row.activity_id.is_some())
        .collect();
    let names: Vec<_> = rows.iter().map(|row| row.event_name.as_str()).collect();
    assert_eq!(
        names,
        [
            "activity_start",
            "activity_end",
            "activity_start",
            "activity_end"
        ]
    );
    for row in &rows {
        assert_eq!(row.activity_id.as_deref(), Some("alone"));
        assert_eq!(row.workflow_id, None);
        assert_eq!(row.workflow_state.as_deref(), Some("unknown"));
    }
}

#[tokio::test]
async fn a_worker_announces_its_start_and_its_end() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {}).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let names: Vec<_> = rows.iter().map(|row| row.event_name.as_str()).collect();
    assert_eq!(names, ["worker_start", "worker_end"]);
    let start = &rows[0];
    assert_eq!(start.workflow_state.as_deref(), Some("unknown"));
    assert_eq!(start.data("version"), "v1");
    assert_eq!(start.data("application_name"), "test");
    assert_eq!(start.data("task_queue"), "orders");
    assert_eq!(start.data("namespace"), "default");
    assert_eq!(start.data("host"), "127.0.0.1");
    assert!(start.data("port").is_string());
    assert_eq!(start.data("workflow_count"), 8);
    assert_eq!(start.data("use_worker_versioning"), false);
    assert!(start.data("build_id").is_string());
    assert!(
        start
            .metadata("worker_identity")
            .as_str()
            .unwrap()
            .contains('@')
    );
    assert_eq!(rows[1].data("reason"), "shutdown");
}

/// Activities that end in unusual ways.
struct Odd;

static PANICS_LEFT: AtomicU32 = AtomicU32::new(1);

#[activities]
impl Odd {
    #[activity]
    async fn panics_once(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        if PANICS_LEFT
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            panic!("on purpose");
        }
        Ok(())
    }

    #[activity]
    async fn completes_later(_ctx: ActivityContext, _input: ()) -> Result<String, ActivityError> {
        Err(ActivityError::WillCompleteAsync)
    }
}

fn odd_options() -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(20))
        .activity_id("odd".to_owned())
        .build()
}

#[workflow]
#[derive(Default)]
struct Panicking;

#[workflow_methods]
impl Panicking {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        ctx.execute_activity(Odd::panics_once, (), odd_options())
            .await?;
        Ok(())
    }
}

#[workflow]
#[derive(Default)]
struct Later;

#[workflow_methods]
impl Later {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        ctx.execute_activity(Odd::completes_later, (), odd_options())
            .await?;
        Ok(())
    }
}

fn odd_worker() -> WorkerOptions {
    WorkerOptions::new("orders")
        .register_activities(Odd)
        .register_workflow::<Panicking>()
        .unwrap()
        .register_workflow::<Later>()
        .unwrap()
        .build()
}

#[tokio::test]
async fn an_activity_that_panics_ends_failed_and_is_retried() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_worker(&client, odd_worker(), async {
        outcome(&client, Panicking::run, (), "panics")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "panics"),
        [
            "workflow_start running",
            "activity_start Odd::panics_once 1",
            "activity_end Odd::panics_once 1 failed",
            "activity_start Odd::panics_once 2",
            "activity_end Odd::panics_once 2 completed",
            "workflow_end completed",
        ]
    );
}

#[tokio::test]
async fn an_activity_that_completes_asynchronously_says_so() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_worker(&client, odd_worker(), async {
        let run = client
            .start_workflow(Later::run, (), start("later"))
            .await
            .unwrap();
        until("the activity returns", || {
            lifecycle(&ground.events(), "later").len() == 3
        })
        .await;
        client
            .get_async_activity_handle(ActivityIdentifier::by_id_workflow(
                "later",
                run.run_id().unwrap_or_default(),
                "odd",
            ))
            .complete(Some("done elsewhere".to_owned()), RpcOptions::default())
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "later"),
        [
            "workflow_start running",
            "activity_start Odd::completes_later 1",
            "activity_end Odd::completes_later 1 will_complete_async",
            "workflow_end completed",
        ]
    );
}

#[tokio::test]
async fn lifecycle_events_can_be_selected() {
    let ground = Ground::new().await;
    let events = temporal_eventstore::EventStore::builder()
        .store(ground.store_url())
        .lifecycle("workflow".parse().unwrap())
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Order::run, (), "order")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let names: Vec<_> = ground
        .events()
        .into_iter()
        .map(|row| row.event_name)
        .collect();
    assert_eq!(names, ["workflow_start", "OrderShipped", "workflow_end"]);
}

#[tokio::test]
async fn a_signal_ends_a_waiting_workflow() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        let run = client
            .start_workflow(workflows::Wait::run, (), start("wait"))
            .await
            .unwrap();
        run.signal(
            workflows::Wait::finish,
            (),
            WorkflowSignalOptions::default(),
        )
        .await
        .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "wait"),
        ["workflow_start running", "workflow_end completed"]
    );
}
