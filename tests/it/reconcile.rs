//! The reconciler adds what no worker could report, with the ids that the interceptors would have
//! given, so that nothing is there twice: terminated, timed out, abandoned, reset, and failed by the
//! SDK's core.

use crate::support::{
    Ground, Row,
    compare::{Source, compare_with, state_of},
    example, handle, histories, history, last_task,
    late_visibility::LateVisibility,
    lifecycle, outcome, rows, start, start_worker, until, with_example_worker, with_worker,
    workflows,
};
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};
use temporal_eventstore::{
    Event, EventStore, ReconcileError, Reconciled, Reconciler, ReconcilerOptions,
};
use temporalio_client::{
    ActivityIdentifier, ActivityStartOptions, Client, ClientOptions, ConnectionOptions,
    GrpcCompression, RpcOptions, WorkflowSignalOptions, WorkflowStartOptions,
    WorkflowTerminateOptions, schedules::ScheduleOverlapPolicy, tonic::IntoRequest as _,
};
use temporalio_common::error::ApplicationFailure;
use temporalio_common::protos::temporal::api::{
    common::v1::{WorkflowExecution, WorkflowType},
    enums::v1::EventType,
    query::v1::WorkflowQuery,
    taskqueue::v1::TaskQueue,
    workflowservice::v1::{
        DescribeWorkflowExecutionRequest, QueryWorkflowRequest, ResetWorkflowExecutionRequest,
        StartWorkflowExecutionRequest,
    },
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, LocalActivityOptions, SyncWorkflowContext, WorkerOptions, WorkflowContext,
    WorkflowResult,
    activities::{ActivityContext, ActivityError},
    runtime::WorkflowErrorType,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at everything that is closed by now.
fn at_once() -> ReconcilerOptions {
    ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build()
}

async fn load(client: &Client) {
    for number in 0..3 {
        let id = |kind: &str| format!("{kind}-{number}");
        outcome(client, workflows::Noop::run, (), &id("noop"))
            .await
            .unwrap();
        outcome(client, workflows::Order::run, (), &id("order"))
            .await
            .unwrap();
        outcome(client, workflows::Fail::run, (), &id("fail"))
            .await
            .unwrap_err();
        outcome(client, workflows::Local::run, (), &id("local"))
            .await
            .unwrap();
        outcome(client, workflows::Parent::run, (), &id("parent"))
            .await
            .unwrap();
        outcome(client, workflows::Chain::run, 2, &id("chain"))
            .await
            .unwrap();
    }
}

async fn terminate(client: &Client, workflow_id: &str) {
    handle(client, workflow_id)
        .terminate(
            WorkflowTerminateOptions::builder()
                .reason("the customer left")
                .build(),
        )
        .await
        .unwrap();
}

/// Visibility follows the history a moment later.
async fn closed(ground: &Ground, client: &Client, runs: usize) {
    let started = Instant::now();
    loop {
        let known = ground.runs(client).await;
        let closed = known
            .iter()
            .filter(|run| state_of(run.status()).is_some())
            .count();
        if closed >= runs {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{closed} of {runs} runs are closed"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn whole(ground: &Ground, client: &Client) -> Vec<Row> {
    let runs = histories(ground, client).await;
    let events = ground.events();
    let differences = compare_with(Source::Reconciled, &runs, &events);
    assert!(differences.is_empty(), "{differences}");
    events
}

fn found_by_reconciler(row: &Row) -> bool {
    row.metadata("detected_by").as_str() == Some("reconciler")
}

#[tokio::test]
async fn what_the_interceptors_stored_is_not_added_again() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, load(&client)).await;
    closed(&ground, &client, 27).await;
    let found = Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    assert_eq!(found.runs, 27);
    assert_eq!(found.added(), 0, "{found:?}");
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

#[tokio::test]
async fn a_backfill_finds_what_ran_without_the_plugin() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let began = SystemTime::now();
    with_example_worker(&client, load(&client)).await;
    closed(&ground, &client, 27).await;

    let events = ground.store().await;
    let options = ReconcilerOptions::builder()
        .page_size(4)
        .window(Duration::from_secs(2))
        .requests_per_second(500)
        .build();
    let reconciler = Reconciler::new(&events, &client, options);
    let later = SystemTime::now() + Duration::from_secs(1);
    let found = reconciler.backfill(began..later).await.unwrap();
    assert_eq!((found.workflow_starts, found.workflow_ends), (27, 27));
    // Workers ended all of them.
    assert_eq!(found.unreported_ends, 27);
    // Noop 1, Order 4 of 3 activities, Local 1, the child of Parent 1; thrice. A start is known of the
    // last attempts alone, and of no local activity.
    assert_eq!((found.activity_starts, found.activity_ends), (15, 21));
    let again = Reconciler::new(&events, &client, at_once())
        .backfill(began..later)
        .await
        .unwrap();
    assert_eq!(again.added(), 0, "{again:?}");
    assert!(matches!(
        reconciler.backfill(later..began).await,
        Err(ReconcileError::EmptyRange)
    ));
    let stats = events.stats();
    assert_eq!((stats.reconciler_passes, stats.reconciler_failures), (3, 1));
    assert_eq!(stats.reconciler_unreported_ends, 27);
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    assert!(rows.iter().all(found_by_reconciler));
    let end = rows
        .iter()
        .find(|row| row.is_of("fail-0") && row.event_name == "workflow_end")
        .unwrap();
    assert_eq!(end.data("error")["type"], "OutOfStock");
    assert_eq!(end.data("error")["message"], "no more bolts");
    assert!(end.data("duration_ms").as_f64().unwrap() >= 0.0);
    let child = rows.iter().find(|row| row.is_of("parent-0-child")).unwrap();
    assert_eq!(child.metadata("parent_workflow_id"), "parent-0");
}

#[tokio::test]
async fn ends_that_no_worker_sees_are_found() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        for id in ["terminated", "timed-out"] {
            let options = WorkflowStartOptions::new("orders", id);
            let options = if id == "timed-out" {
                options.run_timeout(Duration::from_secs(2)).build()
            } else {
                options.build()
            };
            client
                .start_workflow(workflows::Wait::run, (), options)
                .await
                .unwrap();
        }
        until("both have started", || ground.events().len() >= 3).await;
        terminate(&client, "terminated").await;
    })
    .await;
    // Its workers never come back.
    client
        .start_workflow(
            workflows::Wait::run,
            (),
            WorkflowStartOptions::new("orders", "abandoned")
                .run_timeout(Duration::from_secs(1))
                .build(),
        )
        .await
        .unwrap();
    closed(&ground, &client, 3).await;

    let reconciler = Reconciler::new(&events, &client, at_once());
    let found = reconciler.run_once().await.unwrap();
    assert_eq!(
        (found.runs, found.workflow_starts, found.workflow_ends),
        (3, 1, 3)
    );
    // The server closed all of them.
    assert_eq!(found.unreported_ends, 0);
    assert_eq!(reconciler.run_once().await.unwrap(), Reconciled::default());
    let stats = events.stats();
    assert_eq!((stats.reconciler_passes, stats.reconciler_failures), (2, 0));
    assert_eq!((stats.reconciler_looked_at, stats.reconciler_added), (3, 4));
    assert_eq!(stats.reconciler_unreported_ends, 0);
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    assert_eq!(
        lifecycle(&rows, "terminated"),
        ["workflow_start running", "workflow_end terminated"]
    );
    assert_eq!(
        lifecycle(&rows, "timed-out"),
        ["workflow_start running", "workflow_end timed_out"]
    );
    assert_eq!(
        lifecycle(&rows, "abandoned"),
        ["workflow_start running", "workflow_end timed_out"]
    );
    let end = rows
        .iter()
        .find(|row| row.is_of("terminated") && row.event_name == "workflow_end")
        .unwrap();
    assert_eq!(end.data("reason"), "the customer left");
    assert!(found_by_reconciler(end));
}

/// One activity that works longer than it may, three times.
#[workflow]
#[derive(Default)]
struct Patient;

#[workflow_methods]
impl Patient {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(1))
            .retry_policy(
                temporalio_common::RetryPolicy::builder()
                    .initial_interval(Duration::from_millis(50))
                    .maximum_attempts(3)
                    .build(),
            )
            .build();
        ctx.execute_activity(workflows::Orders::work, 30_u64, options)
            .await
            .ok();
        Ok(())
    }
}

#[tokio::test]
async fn attempts_that_timed_out_get_their_end() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<Patient>()
        .unwrap()
        .build();
    // Without the plugin: as far as the store can tell, the worker died in both attempts.
    with_worker(&client, options, async {
        outcome(&client, Patient::run, (), "patient").await.unwrap();
    })
    .await;
    closed(&ground, &client, 1).await;
    let events = ground.store().await;
    Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    assert_eq!(
        lifecycle(&rows, "patient"),
        [
            "workflow_start running",
            // Of the attempts before the last but one, the server keeps only that they were.
            "activity_end Orders::work 1 unknown",
            "activity_end Orders::work 2 timed_out",
            "activity_start Orders::work 3",
            "activity_end Orders::work 3 timed_out",
            "workflow_end completed",
        ]
    );
}

static NEW_CODE: AtomicBool = AtomicBool::new(false);

/// Its code changes while it runs.
#[workflow]
#[derive(Default)]
struct Changed {
    finished: bool,
}

#[workflow_methods]
impl Changed {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        if NEW_CODE.load(Ordering::SeqCst) {
            ctx.timer(Duration::from_secs(1)).await;
        } else {
            let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
            ctx.execute_activity(workflows::Orders::noop, (), options)
                .await?;
        }
        ctx.wait_condition(|state| state.finished).await?;
        Ok(())
    }

    #[signal]
    fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.finished = true;
    }
}

#[tokio::test]
async fn a_run_that_the_core_fails_for_nondeterminism_gets_its_end() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = || {
        WorkerOptions::new("orders")
            .register_activities(workflows::Orders)
            .register_workflow::<Changed>()
            .unwrap()
            .workflow_failure_errors(HashSet::from([WorkflowErrorType::Nondeterminism]))
            .build()
    };
    with_worker(&client, options(), async {
        client
            .start_workflow(Changed::run, (), start("changed"))
            .await
            .unwrap();
        until("the activity ended", || {
            ground
                .events()
                .iter()
                .any(|row| row.event_name == "activity_end")
        })
        .await;
    })
    .await;
    NEW_CODE.store(true, Ordering::SeqCst);
    with_worker(&client, options(), async {
        client
            .get_workflow_handle::<Changed>("changed")
            .signal(Changed::finish, (), WorkflowSignalOptions::default())
            .await
            .unwrap();
        closed(&ground, &client, 1).await;
    })
    .await;
    Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    assert_eq!(
        lifecycle(&rows, "changed").last().unwrap(),
        "workflow_end failed"
    );
}

async fn reset(client: &Client, workflow_id: &str, run_id: &str, finish_event_id: i64) -> String {
    client
        .connection()
        .workflow_service()
        .reset_workflow_execution(
            ResetWorkflowExecutionRequest {
                namespace: "default".to_owned(),
                workflow_execution: Some(WorkflowExecution {
                    workflow_id: workflow_id.to_owned(),
                    run_id: run_id.to_owned(),
                }),
                reason: "once more".to_owned(),
                workflow_task_finish_event_id: finish_event_id,
                request_id: format!("{workflow_id}-{finish_event_id}"),
                ..ResetWorkflowExecutionRequest::default()
            }
            .into_request(),
        )
        .await
        .unwrap()
        .into_inner()
        .run_id
}

async fn current_run(client: &Client, workflow_id: &str) -> String {
    let response = client
        .connection()
        .workflow_service()
        .describe_workflow_execution(
            DescribeWorkflowExecutionRequest {
                namespace: "default".to_owned(),
                execution: Some(WorkflowExecution {
                    workflow_id: workflow_id.to_owned(),
                    run_id: String::new(),
                }),
            }
            .into_request(),
        )
        .await
        .unwrap()
        .into_inner();
    response
        .workflow_execution_info
        .unwrap()
        .execution
        .unwrap()
        .run_id
}

#[tokio::test]
async fn a_reset_run_has_its_own_start_and_end_and_no_activities_of_before() {
    let (ground, events, client) = Ground::with_plugin().await;
    let mut reset_run = String::new();
    with_example_worker(&client, async {
        outcome(&client, workflows::Order::run, (), "again")
            .await
            .unwrap();
        let base = current_run(&client, "again").await;
        // The second completed task: the first activity is behind it.
        let second = history(&client, "again", &base)
            .await
            .into_iter()
            .filter(|event| event.event_type() == EventType::WorkflowTaskCompleted)
            .nth(1)
            .unwrap()
            .event_id;
        reset_run = reset(&client, "again", &base, second).await;
        closed(&ground, &client, 2).await;
        until("the end of the reset run is released", || {
            ground
                .events()
                .iter()
                .filter(|row| row.event_name == "workflow_end")
                .count()
                == 2
        })
        .await;
    })
    .await;
    // The worker alone came to all of it.
    let of_reset: Vec<Row> = ground
        .events()
        .into_iter()
        .filter(|row| row.workflow_run_id.as_deref() == Some(&reset_run))
        .collect();
    assert_eq!(
        lifecycle(&of_reset, "again"),
        [
            "workflow_start running",
            "activity_start Orders::charge 1",
            "activity_end Orders::charge 1 completed",
            "activity_start Orders::ship 1",
            "activity_end Orders::ship 1 completed",
            "workflow_end completed",
        ]
    );
    let found = Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    assert_eq!((found.runs, found.added()), (2, 0), "{found:?}");
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

/// Publishes, and has an activity of each kind.
#[workflow]
#[derive(Default)]
struct EachKind;

#[workflow_methods]
impl EachKind {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        temporal_eventstore::publish(Event::new("each.kind").metadata("one", 1).metadata("a", 2));
        ctx.execute_local_activity(
            Publisher::publishes,
            (),
            LocalActivityOptions::builder()
                .start_to_close_timeout(Duration::from_secs(10))
                .build(),
        )
        .await?;
        // On the queue of its own worker, so that the server gives it out with the workflow task.
        ctx.execute_activity(
            Publisher::publishes,
            (),
            ActivityOptions::start_to_close_timeout(Duration::from_secs(10)),
        )
        .await?;
        Ok(())
    }
}

struct Publisher;

#[activities]
impl Publisher {
    #[activity]
    async fn publishes(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        temporal_eventstore::publish(Event::new("published"));
        Ok(())
    }
}

/// The ids in a store, by what they are the ids of.
fn ids(rows: &[Row]) -> HashMap<String, String> {
    let of_runs = rows.iter().filter(|row| row.workflow_run_id.is_some());
    let ids: Vec<_> = of_runs
        .map(|row| {
            let of_what = format!(
                "{:?} {} {:?} {:?} {:?}",
                row.workflow_run_id,
                row.event_name,
                row.activity_id,
                row.activity_type,
                row.attempt
            );
            (of_what, row.event_id.clone())
        })
        .collect();
    let count = ids.len();
    let ids: HashMap<_, _> = ids.into_iter().collect();
    assert_eq!(ids.len(), count, "one event of each");
    ids
}

#[tokio::test]
async fn interceptors_replay_and_reconciler_give_the_same_ids_however_a_run_began() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = || {
        WorkerOptions::new("orders")
            .register_activities(Publisher)
            .register_workflow::<EachKind>()
            .unwrap()
            .build()
    };
    with_worker(&client, options(), async {
        let mut cron = start("cron");
        cron.cron_schedule = Some("@every 1s".to_owned());
        client
            .start_workflow(EachKind::run, (), cron)
            .await
            .unwrap();
        let delayed = StartWorkflowExecutionRequest {
            namespace: "default".to_owned(),
            workflow_id: "delayed".to_owned(),
            workflow_type: Some(WorkflowType {
                name: "EachKind".to_owned(),
            }),
            task_queue: Some(TaskQueue {
                name: "orders".to_owned(),
                ..TaskQueue::default()
            }),
            request_id: "delayed".to_owned(),
            workflow_start_delay: Some(Duration::from_millis(1500).try_into().unwrap()),
            ..StartWorkflowExecutionRequest::default()
        };
        let mut service = client.connection().workflow_service();
        let delayed = service.start_workflow_execution(delayed.into_request());
        delayed.await.unwrap();
        outcome(&client, EachKind::run, (), "again").await.unwrap();
        let base = current_run(&client, "again").await;
        let second = history(&client, "again", &base)
            .await
            .into_iter()
            .filter(|event| event.event_type() == EventType::WorkflowTaskCompleted)
            .nth(1)
            .unwrap()
            .event_id;
        reset(&client, "again", &base, second).await;
        client
            .get_workflow_handle::<EachKind>("delayed")
            .get_result(Default::default())
            .await
            .unwrap();
        closed(&ground, &client, 5).await;
        terminate(&client, "cron").await;
        until("the ends are released", || {
            let rows = ground.events();
            rows.iter()
                .filter(|row| row.event_name == "workflow_end")
                .count()
                >= 5
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let hook = ids(&ground.events());
    for id in hook.values() {
        assert_eq!(id.as_bytes().get(14), Some(&b'8'), "{id}");
    }

    // From history alone.
    let another = |file: &str| {
        let file = ground.directory.path().join(file);
        let builder = EventStore::builder().store(format!("sqlite:{}", file.display()));
        (file, builder)
    };
    let (file, builder) = another("reconciled.db");
    let reconciled = builder.build().await.unwrap();
    let all = SystemTime::UNIX_EPOCH..SystemTime::now() + Duration::from_secs(1);
    let reconciler = Reconciler::new(&reconciled, &client, at_once());
    reconciler.backfill(all).await.unwrap();
    reconciled.shutdown(TIMEOUT).await.unwrap();
    let reconciled = ids(&rows(&file));
    // The last run of the cron was terminated before a worker saw it, or all of it.
    let same = reconciled.iter().filter(|(of_what, id)| {
        let hook = hook.get(*of_what);
        assert!(hook.is_none_or(|hook| hook == *id), "{of_what}");
        hook.is_some()
    });
    // A start and an end, a start and two ends of activities: `delayed`, `again` and two runs of the cron. Of
    // the reset run its own start and end.
    assert!(same.count() >= 4 * 5 + 2, "{reconciled:?}");

    // By replays, for queries.
    let (file, builder) = another("replayed.db");
    let replayed = builder.repair_on_replay(true).build().await.unwrap();
    let client = ground.client_with(&replayed).await;
    with_worker(&client, options(), async {
        for run in ground.runs(&client).await {
            let query = QueryWorkflowRequest {
                namespace: "default".to_owned(),
                execution: run.execution,
                query: Some(WorkflowQuery {
                    query_type: "nothing".to_owned(),
                    ..WorkflowQuery::default()
                }),
                ..QueryWorkflowRequest::default()
            };
            let mut service = client.connection().workflow_service();
            // There is no such query, which shows at the end of the replay.
            service.query_workflow(query.into_request()).await.ok();
        }
    })
    .await;
    replayed.shutdown(TIMEOUT).await.unwrap();
    let replayed = ids(&rows(&file));
    assert!(
        replayed.len() >= 8,
        "starts and events of code: {replayed:?}"
    );
    for (of_what, id) in &replayed {
        assert_eq!(Some(id), hook.get(of_what), "{of_what}");
    }
}

#[tokio::test]
async fn each_pass_goes_on_where_the_last_one_ended_also_after_a_restart() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut events = ground.store().await;
    for number in 0..3 {
        let id = format!("noop-{number}");
        with_example_worker(&client, async {
            outcome(&client, workflows::Noop::run, (), &id)
                .await
                .unwrap();
        })
        .await;
        closed(&ground, &client, number + 1).await;
        let reconciler = Reconciler::new(&events, &client, at_once());
        let found = reconciler.run_once().await.unwrap();
        assert_eq!((found.workflow_starts, found.workflow_ends), (1, 1));
        assert_eq!(reconciler.run_once().await.unwrap().runs, 0);
        events.shutdown(TIMEOUT).await.unwrap();
        events = ground.store().await;
    }
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

#[tokio::test]
async fn filter_task_queue_and_lifecycle_bound_what_is_added() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    with_example_worker(&client, load(&client)).await;
    closed(&ground, &client, 27).await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .lifecycle(
            "workflow"
                .parse::<temporal_eventstore::LifecycleSelection>()
                .unwrap(),
        )
        .build()
        .await
        .unwrap();
    let with = |filter: &str, queue: &str| {
        let options = ReconcilerOptions::builder()
            .filter(filter)
            .task_queue(queue)
            .activities(false)
            .grace(Duration::ZERO)
            .requests_per_second(500)
            .build();
        Reconciler::new(&events, &client, options)
    };
    let none = with("WorkflowType = 'Order'", "other")
        .run_once()
        .await
        .unwrap();
    assert_eq!(none, Reconciled::default());
    let orders = with("WorkflowType = 'Order' OR WorkflowType = 'Fail'", "orders")
        .run_once()
        .await
        .unwrap();
    assert_eq!((orders.runs, orders.workflow_ends), (6, 6));
    assert_eq!(orders.added(), 12, "{orders:?}");
    // Names as the server takes them.
    for queue in ["o'rders", "or%ders", "örders"] {
        let id = format!("quoted-{queue}");
        client
            .start_workflow(
                workflows::Wait::run,
                (),
                WorkflowStartOptions::new(queue, &id).build(),
            )
            .await
            .unwrap();
        terminate(&client, &id).await;
    }
    closed(&ground, &client, 30).await;
    for queue in ["o'rders", "or%ders", "örders"] {
        let found = with("WorkflowType = 'Wait'", queue)
            .run_once()
            .await
            .unwrap();
        assert_eq!(found.runs, 1, "{queue}");
    }
    let error = with("WorkflowType = 'Wait'", "or\"ders")
        .run_once()
        .await
        .unwrap_err();
    assert!(matches!(error, ReconcileError::TaskQueue { .. }), "{error}");
    // What is wrong with a filter, the server says.
    let error = with("WorkflowTypo ~ 1", "orders")
        .run_once()
        .await
        .unwrap_err();
    assert!(matches!(error, ReconcileError::Server(_)), "{error}");
    assert!(error.to_string().contains("invalid"), "{error}");
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn it_asks_no_more_often_than_agreed() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    with_example_worker(&client, async {
        for number in 0..5 {
            let id = format!("noop-{number}");
            outcome(&client, workflows::Noop::run, (), &id)
                .await
                .unwrap();
        }
    })
    .await;
    closed(&ground, &client, 5).await;
    let events = ground.store().await;
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(5)
        .window(Duration::from_secs(7 * 24 * 60 * 60))
        .build();
    // Nor does a rate that is no rate harm.
    let unbounded = ReconcilerOptions::builder()
        .requests_per_second(u32::MAX)
        .build();
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50);
    Reconciler::new(&events, &client, unbounded)
        .backfill(SystemTime::now()..far)
        .await
        .unwrap();
    let began = Instant::now();
    let found = Reconciler::new(&events, &client, options)
        .run_once()
        .await
        .unwrap();
    assert_eq!(found.runs, 5);
    // Two lists and five histories: seven requests, six pauses of 200 ms.
    assert!(
        began.elapsed() >= Duration::from_millis(1150),
        "{:?}",
        began.elapsed()
    );
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn beside_a_worker_it_finds_what_the_worker_cannot_see() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let client = ground
        .connect(
            ClientOptions::new("default")
                .plugin(
                    events
                        .plugin()
                        .reconcile(at_once(), Duration::from_millis(200)),
                )
                .build(),
        )
        .await;
    with_example_worker(&client, async {
        client
            .start_workflow(workflows::Wait::run, (), start("wait"))
            .await
            .unwrap();
        until("it started", || ground.events().len() >= 2).await;
        terminate(&client, "wait").await;
        until("the reconciler found the end", || {
            ground
                .events()
                .iter()
                .any(|row| row.event_name == "workflow_end" && found_by_reconciler(row))
        })
        .await;
        // Workers and reconciler at once: nothing twice.
        load(&client).await;
    })
    .await;
    closed(&ground, &client, 28).await;
    Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

#[tokio::test]
async fn as_a_workflow_on_a_schedule() {
    let (ground, events, client) = Ground::with_plugin().await;
    let reconciler = Reconciler::new(&events, &client, at_once());
    let mut options = workflows::worker_options("orders", 1000).unwrap();
    reconciler.register(&mut options).unwrap();
    // Twice: what is there already is no error.
    for hours in [2, 1] {
        Reconciler::schedule(
            &client,
            "reconcile-events",
            "orders",
            Duration::from_secs(hours * 3600),
        )
        .await
        .unwrap();
    }
    let schedule = client.get_schedule_handle("reconcile-events");
    let description = schedule.describe(RpcOptions::default()).await.unwrap();
    let spec = description.raw().schedule.clone().unwrap().spec.unwrap();
    assert_eq!(spec.interval[0].interval.unwrap().seconds, 3600);
    with_worker(&client, options, async {
        client
            .start_workflow(workflows::Wait::run, (), start("wait"))
            .await
            .unwrap();
        until("it started", || ground.events().len() >= 2).await;
        terminate(&client, "wait").await;
        closed(&ground, &client, 1).await;
        schedule
            .trigger(ScheduleOverlapPolicy::AllowAll, Default::default())
            .await
            .unwrap();
        until("the schedule's workflow found the end", || {
            ground
                .events()
                .iter()
                .any(|row| row.is_of("wait") && row.event_name == "workflow_end")
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Two activities with the same id, one after the other.
#[workflow]
#[derive(Default)]
struct SameId;

#[workflow_methods]
impl SameId {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        for _ in 0..2 {
            let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
                .activity_id("again".to_owned())
                .build();
            ctx.execute_activity(workflows::Orders::noop, (), options)
                .await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_activity_id_that_is_used_again_is_another_activity() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<SameId>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        outcome(&client, SameId::run, (), "same").await.unwrap();
    })
    .await;
    closed(&ground, &client, 1).await;
    // The reconciler comes to the same ids, also for the second one.
    let found = Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    assert_eq!((found.runs, found.added()), (1, 0), "{found:?}");
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    let ends = rows.iter().filter(|row| row.event_name == "activity_end");
    assert_eq!(ends.count(), 2);
}

#[tokio::test]
async fn what_is_held_without_an_end_is_released_with_its_run() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
    })
    .await;
    closed(&ground, &client, 1).await;
    ground.store().await.shutdown(TIMEOUT).await.unwrap();
    // As a worker leaves it that emits no workflow events and dies before it knows of the acceptance.
    let run_id = current_run(&client, "noop").await;
    let task = last_task(&client, "noop", &run_id).await;
    let event_id = "01a20750-58f5-75c7-af38-d0761a33cd63";
    let event = serde_json::json!({
        "metadata": { "event_id": event_id, "workflow_id": "noop", "workflow_run_id": run_id },
        "event_type": "order.paid", "event_name": "OrderPaid", "data": {}
    });
    rusqlite::Connection::open(ground.file())
        .unwrap()
        .execute(
            "INSERT INTO held (namespace, held_workflow, held_run, hold_id, position, evidence, \
             event_id, event_type, event_name, workflow_id, workflow_run_id, created_at, event) \
             VALUES ('default', 'noop', ?1, ?2, 0, ?4, ?2, 'order.paid', 'OrderPaid', 'noop', ?1, '', ?3)",
            rusqlite::params![run_id, event_id, event.to_string(), task],
        )
        .unwrap();
    let events = ground.store().await;
    let found = Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    assert_eq!(found.settled, 1);
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert!(rows.iter().any(|row| row.event_id == event_id));
}

#[tokio::test]
async fn a_checkpoint_of_a_clock_that_was_ahead_blinds_nobody() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let events = ground.store().await;
    let reconciler = Reconciler::new(&events, &client, at_once());
    with_example_worker(&client, async {
        outcome(&client, workflows::Noop::run, (), "first")
            .await
            .unwrap();
    })
    .await;
    closed(&ground, &client, 1).await;
    assert_eq!(reconciler.run_once().await.unwrap().runs, 1);
    events.shutdown(TIMEOUT).await.unwrap();
    let file = rusqlite::Connection::open(ground.file()).unwrap();
    let newest: i64 = file
        .query_row("SELECT seq FROM cursors", [], |row| row.get(0))
        .unwrap();
    // The checkpoint is the server's time of the last run that closed, and no later.
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(newest < i64::try_from(now.as_micros()).unwrap());
    let a_day = 24 * 60 * 60 * 1_000_000_i64;
    file.execute("UPDATE cursors SET seq = seq + ?1", [a_day])
        .unwrap();
    drop(file);
    with_example_worker(&client, async {
        outcome(&client, workflows::Noop::run, (), "second")
            .await
            .unwrap();
    })
    .await;
    closed(&ground, &client, 2).await;
    let events = ground.store().await;
    let found = Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    assert_eq!(found.workflow_ends, 1, "{found:?}");
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

#[tokio::test]
async fn a_pass_that_fails_leaves_the_checkpoint_where_it_was() {
    let mut ground = Ground::with_lasting_server().await;
    let client = ground.client().await;
    let began = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    with_example_worker(&client, load(&client)).await;
    closed(&ground, &client, 27).await;
    let events = ground.store().await;
    // Slow enough to be in the middle when the server goes.
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(4)
        .build();
    let reconciler = Reconciler::new(&events, &client, options);
    let pass = tokio::spawn({
        let reconciler = reconciler.clone();
        async move { reconciler.run_once().await }
    });
    until("it is in the middle", || {
        (4..20).contains(&ground.events().len())
    })
    .await;
    pass.abort();
    ground.restart_server(Duration::ZERO).await;
    // Before the first run closed: over hours in which nothing closed it may have moved.
    let checkpoint: Option<i64> = rusqlite::Connection::open(ground.file())
        .unwrap()
        .query_row("SELECT MAX(seq) FROM cursors", [], |row| row.get(0))
        .unwrap();
    assert!(checkpoint.unwrap_or_default() < i64::try_from(began.as_micros()).unwrap());
    let client = ground.client().await;
    Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

#[tokio::test]
async fn what_the_retention_removed_comes_back_only_on_demand() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let began = SystemTime::now();
    with_example_worker(&client, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
    })
    .await;
    closed(&ground, &client, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .retention(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    let reconciler = Reconciler::new(&events, &client, at_once());
    let found = reconciler.run_once().await.unwrap();
    assert_eq!((found.runs, found.added()), (1, 0), "{found:?}");
    // A backfill is asked for, also on a handle that has looked at the run before.
    let found = reconciler.backfill(began..SystemTime::now()).await.unwrap();
    assert_eq!((found.runs, found.added()), (1, 4), "{found:?}");
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_small_queue_is_not_overrun() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    with_example_worker(&client, load(&client)).await;
    closed(&ground, &client, 27).await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .queue_size(10)
        .build()
        .await
        .unwrap();
    Reconciler::new(&events, &client, at_once())
        .run_once()
        .await
        .unwrap();
    assert_eq!(events.stats().refused, 0);
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

/// The store of a worker that repairs on replay.
fn repairing(ground: &Ground, file: &str) -> (Command, PathBuf) {
    let file = ground.directory.path().join(file);
    let mut command = example("worker");
    command
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", format!("sqlite:{}", file.display()))
        .env("EVENTSTORE_REPAIR_ON_REPLAY", "true")
        .env("RUST_LOG", "off");
    (command, file)
}

#[tokio::test]
async fn a_lost_journal_heals_by_replay_and_reconciler() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let (mut command, lost) = repairing(&ground, "lost.db");
    let worker = start_worker(&mut command);
    for number in 0..10 {
        client
            .start_workflow(workflows::Wait::run, (), start(&format!("wait-{number}")))
            .await
            .unwrap();
    }
    until("all have started", || {
        rows(&lost)
            .iter()
            .filter(|row| row.event_name == "workflow_start")
            .count()
            == 10
    })
    .await;
    let before: HashSet<String> = rows(&lost).into_iter().map(|row| row.event_id).collect();
    drop(worker);
    for suffix in ["", "-wal", "-shm", ".lock"] {
        std::fs::remove_file(format!("{}{suffix}", lost.display())).ok();
    }

    // The journal is gone with the disk; another worker has an empty one.
    let (mut command, healed) = repairing(&ground, "healed.db");
    let worker = start_worker(&mut command);
    for number in 0..10 {
        client
            .get_workflow_handle::<workflows::Wait>(format!("wait-{number}"))
            .signal(
                workflows::Wait::finish,
                (),
                WorkflowSignalOptions::default(),
            )
            .await
            .unwrap();
    }
    closed(&ground, &client, 10).await;
    assert!(worker.terminate().success());
    let rows = rows(&healed);
    let starts: Vec<&Row> = rows
        .iter()
        .filter(|row| row.event_name == "workflow_start")
        .collect();
    assert_eq!(starts.len(), 10);
    for start in starts {
        assert!(before.contains(&start.event_id), "the same id as before");
        assert_eq!(start.metadata("detected_by"), "replay");
    }
    let runs = histories(&ground, &client).await;
    let differences = compare_with(Source::Reconciled, &runs, &rows);
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test]
async fn runs_that_visibility_shows_late_are_found() {
    let ground = Ground::new().await;
    let line = LateVisibility::of(ground.server.port()).await;
    let client = ground.client().await;
    let through = ConnectionOptions::new(line.url().parse::<url::Url>().unwrap())
        .grpc_compression(GrpcCompression::None)
        .build();
    let through = Client::connect(through, ClientOptions::new("default").build())
        .await
        .unwrap();
    let events = ground.store().await;
    // What is later than the overlap is late: a moment instead of two minutes.
    let options = || {
        ReconcilerOptions::builder()
            .grace(Duration::ZERO)
            .overlap(Duration::from_millis(100))
            .late(Duration::from_secs(60))
            .requests_per_second(500)
            .build()
    };
    line.hide("late");
    with_example_worker(&client, async {
        for id in ["early", "late", "later"] {
            outcome(&client, workflows::Noop::run, (), id)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    closed(&ground, &client, 3).await;
    let reconciler = Reconciler::new(&events, &through, options());
    assert_eq!(reconciler.run_once().await.unwrap().runs, 2);
    line.show("late");
    let found = reconciler.run_once().await.unwrap();
    assert_eq!((found.runs, found.added()), (1, 4), "{found:?}");
    // It is not time again: nothing is listed but what closed since; the next process looks at the run of
    // the checkpoint once more.
    assert_eq!(reconciler.run_once().await.unwrap(), Reconciled::default());
    let again = Reconciler::new(&events, &through, options());
    let found = again.run_once().await.unwrap();
    assert_eq!((found.runs, found.added()), (1, 0), "{found:?}");
    // When it is, what the store has is not read again.
    rusqlite::Connection::open(ground.file())
        .unwrap()
        .execute("DELETE FROM cursors WHERE name LIKE 'reconciler late%'", [])
        .unwrap();
    assert_eq!(again.run_once().await.unwrap(), Reconciled::default());
    events.shutdown(TIMEOUT).await.unwrap();
    whole(&ground, &client).await;
}

struct Approvals;

#[activities]
impl Approvals {
    /// Leaves its completion to others; a second attempt does the work itself.
    #[activity]
    async fn ask(ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        if ctx.info().attempt == 1 {
            return Err(ActivityError::WillCompleteAsync);
        }
        Ok(())
    }
}

/// Runs the activity `ask`, as often as is allowed.
#[workflow]
#[derive(Default)]
struct Approval;

#[workflow_methods]
impl Approval {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, attempts: u32) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(2))
            .activity_id("ask".to_owned())
            .retry_policy(
                temporalio_common::RetryPolicy::builder()
                    .initial_interval(Duration::from_millis(50))
                    .maximum_attempts(attempts)
                    .build(),
            )
            .build();
        ctx.execute_activity(Approvals::ask, (), options).await.ok();
        Ok(())
    }
}

#[tokio::test]
async fn how_an_asynchronous_completion_ended_is_added_once() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_activities(Approvals)
        .register_workflow::<Approval>()
        .unwrap()
        .build();
    let of = |id: &str| {
        client.get_async_activity_handle(ActivityIdentifier::by_id_workflow(id, "", "ask"))
    };
    let refused = || {
        ApplicationFailure::builder(anyhow::anyhow!("refused"))
            .type_name("Refused".to_owned())
            .non_retryable(false)
    };
    with_worker(&client, options, async {
        for (id, attempts) in [
            ("completed", 1),
            ("failed", 1),
            ("tried", 2),
            ("timed-out", 1),
        ] {
            client
                .start_workflow(Approval::run, attempts, start(id))
                .await
                .unwrap();
        }
        until("all are left to others", || {
            let rows = ground.events();
            rows.iter()
                .filter(|row| row.event_name == "activity_end")
                .count()
                == 4
        })
        .await;
        of("completed")
            .complete(None::<()>, RpcOptions::default())
            .await
            .unwrap();
        for id in ["failed", "tried"] {
            of(id)
                .fail(refused().build(), None::<()>, RpcOptions::default())
                .await
                .unwrap();
        }
        closed(&ground, &client, 4).await;
    })
    .await;
    let reconciler = Reconciler::new(&events, &client, at_once());
    let found = reconciler.run_once().await.unwrap();
    assert_eq!((found.runs, found.activity_async_ends), (4, 4), "{found:?}");
    assert_eq!(found.added(), 4, "{found:?}");
    // Not again: not by the same one, nor in another process with the same store.
    let all = || SystemTime::UNIX_EPOCH..SystemTime::now();
    assert_eq!(reconciler.backfill(all()).await.unwrap().added(), 0);
    events.shutdown(TIMEOUT).await.unwrap();
    let events = ground.store().await;
    let again = Reconciler::new(&events, &client, at_once());
    assert_eq!(again.backfill(all()).await.unwrap().added(), 0);
    events.shutdown(TIMEOUT).await.unwrap();

    let rows = whole(&ground, &client).await;
    let of_activity = |id: &str| {
        let mut lines = lifecycle(&rows, id);
        lines.retain(|line| line.starts_with("activity"));
        lines
    };
    let left = [
        "activity_start Approvals::ask 1",
        "activity_end Approvals::ask 1 will_complete_async",
    ];
    for (id, status) in [
        ("completed", "completed"),
        ("failed", "failed"),
        ("timed-out", "timed_out"),
    ] {
        let end = format!("activity_async_end Approvals::ask 1 {status}");
        assert_eq!(of_activity(id), [left[0], left[1], end.as_str()]);
    }
    assert_eq!(
        of_activity("tried"),
        [
            left[0],
            left[1],
            "activity_start Approvals::ask 2",
            "activity_end Approvals::ask 2 completed",
            "activity_async_end Approvals::ask 1 failed",
        ]
    );
    let end = |id: &str| {
        let mut ends = rows
            .iter()
            .filter(|row| row.event_name == "activity_async_end");
        ends.find(|row| row.is_of(id)).unwrap()
    };
    assert_eq!(end("failed").data("error")["type"], "Refused");
    assert_eq!(end("failed").data("error")["message"], "refused");
    assert!(end("completed").data("duration_ms").as_f64().unwrap() > 0.0);
    assert!(found_by_reconciler(end("completed")));
}

/// Reconciles until `done`, while the run is open.
async fn reconciled_meanwhile(
    ground: &Ground,
    reconciler: &Reconciler,
    done: impl Fn(&[Row]) -> bool,
) -> Vec<Row> {
    let started = Instant::now();
    loop {
        reconciler.run_once().await.unwrap();
        let rows = ground.events();
        if done(&rows) {
            return rows;
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn attempts_of_dead_workers_get_their_end_while_the_run_goes_on() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let events = ground.store().await;
    let reconciler = Reconciler::new(&events, &client, at_once());
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<Patient>()
        .unwrap()
        .build();
    // Without the plugin: as far as the store can tell, the worker died in each attempt.
    with_worker(&client, options, async {
        client
            .start_workflow(Patient::run, (), start("patient"))
            .await
            .unwrap();
        let rows = reconciled_meanwhile(&ground, &reconciler, |rows| !rows.is_empty()).await;
        assert_eq!(
            lifecycle(&rows, "patient"),
            ["activity_end Orders::work 1 timed_out"]
        );
        closed(&ground, &client, 1).await;
    })
    .await;
    reconciler.run_once().await.unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    let mut lines = lifecycle(&rows, "patient");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "activity_end Orders::work 1 timed_out",
            "activity_end Orders::work 2 timed_out",
            "activity_end Orders::work 3 timed_out",
            "activity_start Orders::work 3",
            "workflow_end completed",
            "workflow_start running",
        ]
    );
    // Of an attempt that timed out the server tells only when the next one was due.
    let at = |name: &str, attempt: Option<u32>| {
        let mut named = rows.iter().filter(|row| row.event_name == name);
        let row = named.find(|row| row.attempt == attempt).unwrap();
        let at = row.metadata("created_at").as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(at).unwrap()
    };
    let took = at("activity_end", Some(1)) - at("workflow_start", None);
    assert!(took.num_milliseconds() >= 1000, "{took:?}");
    assert!(at("activity_end", Some(1)) < at("activity_end", Some(2)));
}

struct Unregistered;

#[activities]
impl Unregistered {
    #[activity]
    async fn come(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        Ok(())
    }

    /// What is registered under this name takes a number.
    #[activity(name = "Orders::work")]
    async fn work(_ctx: ActivityContext, _input: String) -> Result<(), ActivityError> {
        Ok(())
    }
}

/// Two activities of which no attempt gets as far as its code.
#[workflow]
#[derive(Default)]
struct Unready;

#[workflow_methods]
impl Unready {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = || {
            ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
                .retry_policy(
                    temporalio_common::RetryPolicy::builder()
                        .initial_interval(Duration::from_secs(1))
                        .backoff_coefficient(1.0)
                        .maximum_attempts(3)
                        .build(),
                )
                .build()
        };
        let come = ctx.execute_activity(Unregistered::come, (), options());
        let work = ctx.execute_activity(Unregistered::work, "words".to_owned(), options());
        let (come, work) = futures::join!(come, work);
        assert!(come.is_err() && work.is_err());
        Ok(())
    }
}

#[tokio::test]
async fn attempts_that_fail_before_their_code_runs_are_found() {
    let (ground, events, client) = Ground::with_plugin().await;
    let reconciler = Reconciler::new(&events, &client, at_once());
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<Unready>()
        .unwrap()
        .build();
    let attempts = |rows: &[Row]| {
        let mut lines = lifecycle(rows, "unready");
        lines.retain(|line| line.starts_with("activity"));
        lines.sort_unstable();
        lines
    };
    with_worker(&client, options, async {
        client
            .start_workflow(Unready::run, (), start("unready"))
            .await
            .unwrap();
        let rows = reconciled_meanwhile(&ground, &reconciler, |rows| {
            let ended = rows.iter().filter(|row| row.event_name == "activity_end");
            ended.count() == 2
        })
        .await;
        assert_eq!(
            attempts(&rows),
            [
                "activity_end Orders::work 1 failed",
                "activity_end Unregistered::come 1 failed",
            ]
        );
        let come = rows
            .iter()
            .find(|row| row.activity_type.as_deref() == Some("Unregistered::come"))
            .unwrap();
        assert_eq!(come.data("error")["type"], "NotFoundError");
        assert_eq!(come.metadata("workflow_type"), "Unready");
        assert!(found_by_reconciler(come));
        closed(&ground, &client, 1).await;
    })
    .await;
    reconciler.run_once().await.unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = whole(&ground, &client).await;
    assert_eq!(
        attempts(&rows),
        [
            "activity_end Orders::work 1 failed",
            "activity_end Orders::work 2 failed",
            "activity_end Orders::work 3 failed",
            "activity_end Unregistered::come 1 failed",
            "activity_end Unregistered::come 2 failed",
            "activity_end Unregistered::come 3 failed",
            "activity_start Orders::work 3",
            "activity_start Unregistered::come 3",
        ]
    );
}

/// Reconciles until so many closed standalone activities were looked at.
async fn standalone(reconciler: &Reconciler, activities: u64) -> Reconciled {
    let started = Instant::now();
    let mut all = Reconciled::default();
    while all.standalone_activities < activities {
        assert!(started.elapsed() < Duration::from_secs(20), "{all:?}");
        all += reconciler.run_once().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    all
}

fn alone(id: &str, queue: &str, seconds: u64, attempts: u32, pause: u64) -> ActivityStartOptions {
    ActivityStartOptions::with_start_to_close_timeout(queue, id, Duration::from_secs(seconds))
        .heartbeat_timeout(Duration::from_secs(5))
        .retry_policy(
            temporalio_common::RetryPolicy::builder()
                .initial_interval(Duration::from_millis(pause))
                .maximum_attempts(attempts)
                .build(),
        )
        .build()
}

/// The events of a standalone activity.
fn of_standalone(rows: &[Row], activity_id: &str) -> Vec<String> {
    let of_it = |row: &&Row| row.activity_id.as_deref() == Some(activity_id);
    rows.iter()
        .filter(of_it)
        .map(|row| {
            assert_eq!(row.workflow_id, None);
            let status = row.data("status").as_str().unwrap_or_default();
            let attempt = row.attempt.unwrap_or_default();
            format!("{} {attempt} {status}", row.event_name)
                .trim_end()
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn standalone_activities_have_the_ids_of_the_interceptors() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_activities(Approvals)
        .build();
    let reconciler = Reconciler::new(&events, &client, at_once());
    with_worker(&client, options, async {
        // An id may be used again when its execution is over.
        for _ in 0..2 {
            let twice = client.start_activity(
                workflows::Orders::noop,
                (),
                alone("twice", "orders", 5, 1, 50),
            );
            twice.await.unwrap().result().await.unwrap();
        }
        let mut delayed = alone("delayed", "orders", 5, 1, 50);
        delayed.start_delay = Some(Duration::from_millis(300));
        let delayed = client
            .start_activity(workflows::Orders::noop, (), delayed)
            .await
            .unwrap();
        let retried = alone("retried", "orders", 5, 2, 50);
        let retried = client.start_activity(workflows::Orders::reserve, (), retried);
        retried.await.unwrap().result().await.unwrap();
        delayed.result().await.unwrap();
        let left = alone("left", "orders", 5, 1, 50);
        let left = client
            .start_activity(Approvals::ask, (), left)
            .await
            .unwrap();
        until("it is left to others", || {
            of_standalone(&ground.events(), "left").len() == 2
        })
        .await;
        client
            .get_async_activity_handle(ActivityIdentifier::by_id_standalone("left", ""))
            .complete(None::<()>, RpcOptions::default())
            .await
            .unwrap();
        left.result().await.unwrap();
    })
    .await;
    let found = standalone(&reconciler, 5).await;
    assert_eq!(
        (found.activity_async_ends, found.added()),
        (1, 1),
        "{found:?}"
    );
    let all = SystemTime::UNIX_EPOCH..SystemTime::now();
    let again = reconciler.backfill(all).await.unwrap();
    assert_eq!(
        (again.standalone_activities, again.added()),
        (5, 0),
        "{again:?}"
    );
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        of_standalone(&ground.events(), "left"),
        [
            "activity_start 1",
            "activity_end 1 will_complete_async",
            "activity_async_end 1 completed",
        ]
    );
}

#[tokio::test]
async fn ends_of_standalone_activities_that_no_worker_reported_are_found() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let events = ground.store().await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .graceful_shutdown_period(Duration::from_millis(100))
        .build();
    let reconciler = Reconciler::new(&events, &client, at_once());
    // Without the plugin: as far as the store can tell, the workers died.
    with_worker(&client, options, async {
        for options in [
            alone("slow", "orders", 1, 1, 50),
            alone("slow-twice", "orders", 1, 2, 3000),
            alone("terminated", "orders", 60, 1, 50),
            alone("cancelled", "orders", 60, 1, 50),
            alone("nobody", "nobody", 60, 1, 50),
        ] {
            client
                .start_activity(workflows::Orders::work, 30, options)
                .await
                .unwrap();
        }
        let given_up = alone("given-up", "orders", 60, 5, 60_000);
        let given_up = client.start_activity(Unregistered::come, (), given_up);
        given_up.await.unwrap();
        let retried = alone("retried", "orders", 5, 2, 50);
        let retried = client.start_activity(workflows::Orders::reserve, (), retried);
        retried.await.unwrap().result().await.unwrap();
        // While they are open: the attempts that were followed by others.
        let rows = reconciled_meanwhile(&ground, &reconciler, |rows| {
            ["slow-twice", "given-up"]
                .into_iter()
                .all(|id| !of_standalone(rows, id).is_empty())
        })
        .await;
        assert_eq!(
            of_standalone(&rows, "slow-twice"),
            ["activity_end 1 timed_out"]
        );
        assert_eq!(of_standalone(&rows, "given-up"), ["activity_end 1 failed"]);
        for id in ["terminated", "given-up"] {
            let activity = client.get_untyped_activity_handle(id, None);
            activity.terminate(Default::default()).await.unwrap();
        }
        for id in ["cancelled", "nobody"] {
            let activity = client.get_untyped_activity_handle(id, None);
            activity.cancel(Default::default()).await.unwrap();
        }
        for id in [
            "slow",
            "slow-twice",
            "terminated",
            "cancelled",
            "nobody",
            "given-up",
        ] {
            let activity = client.get_untyped_activity_handle(id, None);
            assert!(activity.result().await.is_err(), "{id}");
        }
    })
    .await;
    let another = Reconciler::new(&events, &client, at_once());
    let all = || SystemTime::UNIX_EPOCH..SystemTime::now();
    let started = Instant::now();
    while another.backfill(all()).await.unwrap().standalone_activities < 7 {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(another.backfill(all()).await.unwrap().added(), 0);
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    for (id, expected) in [
        (
            "slow",
            &["activity_start 1", "activity_end 1 timed_out"][..],
        ),
        (
            "slow-twice",
            &[
                "activity_end 1 timed_out",
                "activity_start 2",
                "activity_end 2 timed_out",
            ],
        ),
        (
            "terminated",
            &["activity_start 1", "activity_end 1 terminated"],
        ),
        (
            "cancelled",
            &["activity_start 1", "activity_end 1 cancelled"],
        ),
        ("nobody", &[]),
        ("given-up", &["activity_end 1 failed"]),
        (
            "retried",
            &[
                "activity_end 1 failed",
                "activity_start 2",
                "activity_end 2 completed",
            ],
        ),
    ] {
        assert_eq!(of_standalone(&rows, id), expected, "{id}");
    }
    assert!(rows.iter().all(found_by_reconciler));
    let slow = rows
        .iter()
        .find(|row| row.activity_id.as_deref() == Some("slow") && row.event_name == "activity_end");
    let slow = slow.unwrap();
    assert_eq!(slow.data("error")["type"], "TimeoutError");
    assert!(slow.data("duration_ms").as_f64().unwrap() >= 900.0);
    assert_eq!(slow.activity_type.as_deref(), Some("Orders::work"));
}
