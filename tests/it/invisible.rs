//! The plugin is invisible to workflows: no command, no history event, no broken replay; a slow,
//! failing or missing store changes nothing for them.

use crate::support::{
    Ground, handle, history, lifecycle, outcome, start, until, with_example_worker, with_worker,
    workflows,
};
use std::time::{Duration, Instant};
use temporal_eventstore::{EventStore, EventStoreOptions, Health};
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowFetchHistoryOptions, WorkflowGetResultOptions,
    WorkflowSignalOptions,
};
use temporalio_common::{
    RetryPolicy,
    protos::{
        coresdk::common::extract_local_activity_marker_data,
        temporal::api::{enums::v1::EventType, history::v1::HistoryEvent},
    },
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, LocalActivityOptions, SyncWorkflowContext, WorkerOptions, WorkflowContext,
    WorkflowResult,
    activities::{ActivityContext, ActivityError},
    workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions},
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// An activity, a signal, an activity: so that history is not empty while it waits.
#[workflow]
#[derive(Default)]
struct Steps {
    signals: u32,
}

#[workflow_methods]
impl Steps {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<u32> {
        for step in 1..=3 {
            ctx.execute_activity(
                workflows::Orders::noop,
                (),
                ActivityOptions::start_to_close_timeout(TIMEOUT),
            )
            .await?;
            temporal_eventstore::publish(temporal_eventstore::Event::new(format!("step.{step}")));
            ctx.wait_condition(move |state| state.signals >= step)
                .await?;
        }
        Ok(ctx.state(|state| state.signals))
    }

    #[signal]
    fn next(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.signals += 1;
    }
}

fn steps_worker() -> WorkerOptions {
    WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<Steps>()
        .unwrap()
        .build()
}

/// How many activities have completed, and their results have reached the workflow.
async fn completed_activities(client: &Client, workflow_id: &str, run_id: &str) -> usize {
    let events = history(client, workflow_id, run_id).await;
    let last_task = events
        .iter()
        .rposition(|event| event.event_type() == EventType::WorkflowTaskCompleted);
    events
        .iter()
        .take(last_task.unwrap_or_default())
        .filter(|event| event.event_type() == EventType::ActivityTaskCompleted)
        .count()
}

#[tokio::test]
async fn plugin_off_on_off_under_a_running_workflow_breaks_nothing() {
    let ground = Ground::new().await;
    let bare = ground.client().await;
    let run = bare
        .start_workflow(Steps::run, (), start("steps"))
        .await
        .unwrap();
    let run_id = run.run_id().unwrap_or_default().to_owned();
    let reaches = async |activities: usize| {
        let began = Instant::now();
        while completed_activities(&bare, "steps", &run_id).await < activities {
            assert!(began.elapsed() < Duration::from_secs(30), "no progress");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let signal = async || {
        run.signal(Steps::next, (), WorkflowSignalOptions::default())
            .await
            .unwrap();
    };

    // Off.
    with_worker(&bare, steps_worker(), reaches(1)).await;
    // On.
    let events = ground.store().await;
    let client = ground.client_with(&events).await;
    with_worker(&client, steps_worker(), async {
        signal().await;
        reaches(2).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    // Off.
    with_worker(&bare, steps_worker(), async {
        signal().await;
        reaches(3).await;
        signal().await;
        let signals = run
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!(signals, 3);
    })
    .await;

    let recorded = history(&bare, "steps", &run_id).await;
    assert!(
        !recorded
            .iter()
            .any(|event| event.event_type() == EventType::WorkflowTaskFailed),
        "a task failed"
    );
    // What happened while it was on, and only that: no start, which was replayed, and no end.
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "steps"),
        [
            "activity_start Orders::noop 1",
            "activity_end Orders::noop 1 completed"
        ]
    );
    let steps: Vec<_> = rows
        .iter()
        .filter(|row| row.event_type.starts_with("step."))
        .map(|row| row.event_type.as_str())
        .collect();
    assert_eq!(steps, ["step.2"]);
}

/// Fails twice.
struct Stubborn;

#[activities]
impl Stubborn {
    #[activity]
    async fn third_time(ctx: ActivityContext, _input: ()) -> Result<u32, ActivityError> {
        match ctx.info().attempt {
            attempt @ ..=2 => Err(anyhow::anyhow!("attempt {attempt} fails").into()),
            attempt => Ok(attempt),
        }
    }
}

/// Waits on timers between the attempts of a local activity, for longer than one attempt may take.
#[workflow]
#[derive(Default)]
struct Persistent;

#[workflow_methods]
impl Persistent {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<u32> {
        let policy = RetryPolicy::builder()
            .initial_interval(Duration::from_millis(800))
            .backoff_coefficient(1.0)
            .build();
        let options = LocalActivityOptions::builder()
            .schedule_to_close_timeout(Duration::from_secs(1))
            .timer_backoff_threshold(Duration::from_millis(1))
            .retry_policy(policy)
            .build();
        Ok(ctx
            .execute_local_activity(Stubborn::third_time, (), options)
            .await?)
    }
}

/// The SDK counts the schedule-to-close timeout of a local activity from when it was first scheduled, through
/// all timers; so it does where the plugin says when that was.
#[tokio::test]
async fn a_local_activity_that_waits_on_timers_keeps_its_timeouts() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let mut outcomes = Vec::new();
    for client in [ground.client().await, ground.client_with(&events).await] {
        let worker = WorkerOptions::new("orders")
            .register_activities(Stubborn)
            .register_workflow::<Persistent>()
            .unwrap()
            .build();
        with_worker(&client, worker, async {
            let options = start(&format!("persistent-{}", outcomes.len()));
            let handle = client
                .start_workflow(Persistent::run, (), options)
                .await
                .unwrap();
            let result = handle.get_result(WorkflowGetResultOptions::default()).await;
            outcomes.push(result.map_err(|error| error.to_string()));
        })
        .await;
    }
    events.shutdown(TIMEOUT).await.unwrap();
    let [without, with] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert!(
        without
            .as_ref()
            .is_err_and(|error| error.contains("timed out")),
        "{without:?}"
    );
    assert_eq!(with, without);
}

/// What of a history does not depend on when and where it was made.
fn comparable(events: &[HistoryEvent]) -> Vec<String> {
    use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
    events
        .iter()
        .map(|event| {
            let detail = match event.attributes.as_ref().unwrap() {
                Attributes::ActivityTaskScheduledEventAttributes(activity) => format!(
                    "{:?} {} {:?} {:?} {:?}",
                    activity.activity_type,
                    activity.activity_id,
                    activity.input,
                    activity.header,
                    activity.retry_policy
                ),
                Attributes::WorkflowExecutionStartedEventAttributes(started) => {
                    format!("{:?} {:?}", started.workflow_type, started.header)
                }
                Attributes::MarkerRecordedEventAttributes(marker) => {
                    let mut local = extract_local_activity_marker_data(&marker.details).unwrap();
                    // When it was scheduled, and when it ended.
                    local.complete_time = None;
                    local.original_schedule_time = None;
                    let details: std::collections::BTreeSet<_> = marker.details.keys().collect();
                    format!("{} {details:?} {local:?}", marker.marker_name)
                }
                Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(child) => {
                    format!("{:?} {:?}", child.workflow_type, child.header)
                }
                Attributes::WorkflowExecutionContinuedAsNewEventAttributes(next) => {
                    format!("{:?} {:?}", next.input, next.header)
                }
                Attributes::WorkflowExecutionCompletedEventAttributes(end) => {
                    format!("{:?}", end.result)
                }
                Attributes::WorkflowExecutionFailedEventAttributes(end) => {
                    format!("{:?}", end.failure)
                }
                _ => String::new(),
            };
            format!("{} {:?} {detail}", event.event_id, event.event_type())
        })
        .collect()
}

async fn histories(ground: &Ground, client: &Client) -> Vec<Vec<String>> {
    with_example_worker(client, async {
        let outcome = async |workflow: &'static str| {
            let input = temporalio_common::data_converters::RawValue::from_value(
                &(),
                &temporalio_common::data_converters::PayloadConverter::default(),
            );
            client
                .start_workflow(UntypedWorkflow::new(workflow), input, start(workflow))
                .await
                .unwrap()
                .get_result(WorkflowGetResultOptions::default())
                .await
        };
        outcome("Order").await.unwrap();
        outcome("Fail").await.unwrap_err();
        outcome("Local").await.unwrap();
        outcome("Parent").await.unwrap();
        let chain = client
            .start_workflow(workflows::Chain::run, 1_u64, start("Chain"))
            .await
            .unwrap();
        chain
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    let mut runs = ground.runs(client).await;
    runs.sort_by_key(|run| {
        let execution = run.execution.clone().unwrap_or_default();
        (
            execution.workflow_id,
            run.start_time.map(|time| (time.seconds, time.nanos)),
        )
    });
    let mut all = Vec::new();
    for run in runs {
        let execution = run.execution.unwrap();
        all.push(comparable(
            &history(client, &execution.workflow_id, &execution.run_id).await,
        ));
    }
    all
}

#[tokio::test]
async fn histories_with_and_without_the_plugin_are_equal_event_by_event() {
    let without = {
        let ground = Ground::new().await;
        let client = ground.client().await;
        histories(&ground, &client).await
    };
    let (ground, events, client) = Ground::with_plugin().await;
    let with = histories(&ground, &client).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        with.len(),
        7,
        "runs: Chain twice, Noop as a child, and four more"
    );
    for (with, without) in with.iter().zip(&without) {
        assert_eq!(with, without);
    }
    assert_eq!(with.len(), without.len());
    assert!(!ground.events().is_empty());
}

#[tokio::test]
async fn a_replay_publishes_nothing() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Order::run, (), "order")
            .await
            .unwrap();
    })
    .await;
    events.flush(TIMEOUT).await.unwrap();
    let before = events.stats();
    let rows = ground.events().len();

    let history = handle(&client, "order").fetch_history(WorkflowFetchHistoryOptions::default());
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<workflows::Order>()
        .unwrap()
        .worker_plugin(events.plugin())
        .build();
    WorkflowReplayer::new(options)
        .unwrap()
        .replay_workflow(history)
        .await
        .unwrap();

    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(events.stats().accepted, before.accepted);
    assert_eq!(ground.events().len(), rows);
    events.shutdown(TIMEOUT).await.unwrap();
}

async fn orders_complete(client: &Client, prefix: &str, count: usize) -> Duration {
    let began = Instant::now();
    with_example_worker(client, async {
        let runs = (0..count).map(|number| async move {
            let run = client
                .start_workflow(
                    workflows::Noop::run,
                    (),
                    start(&format!("{prefix}-{number}")),
                )
                .await
                .unwrap();
            run.get_result(WorkflowGetResultOptions::default())
                .await
                .unwrap();
        });
        futures::future::join_all(runs).await;
    })
    .await;
    began.elapsed()
}

#[tokio::test]
async fn without_a_store_workflows_finish_as_ever() {
    let ground = Ground::new().await;
    let events = EventStore::from_options(EventStoreOptions::default())
        .await
        .unwrap();
    assert_eq!(events.health(), Health::Disabled);
    let client = ground.client_with(&events).await;
    orders_complete(&client, "order", 5).await;
    assert_eq!(events.stats().accepted, 0);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn with_a_damaged_store_workflows_finish_and_nothing_is_lost() {
    let ground = Ground::new().await;
    std::fs::write(ground.file(), vec![0x5a; 8192]).unwrap();
    let events = ground.store().await;
    let client = ground.client_with(&events).await;
    orders_complete(&client, "order", 5).await;
    assert!(matches!(events.health(), Health::Degraded { .. }));
    let accepted = events.stats().accepted;
    assert!(accepted >= 22, "{accepted}");
    events.flush(TIMEOUT).await.unwrap_err();
    let error = events.shutdown(TIMEOUT).await.unwrap_err();
    assert!(error.to_string().contains("in the log"), "{error}");
    assert_eq!(events.stats().lost, 0);
    // With the damaged file out of the way, the next start finds everything.
    std::fs::remove_file(ground.file()).unwrap();
    let events = ground.store().await;
    events.shutdown(TIMEOUT).await.unwrap();
    let stats = events.stats();
    assert_eq!(stats.written + stats.duplicates, accepted);
    for number in 0..5 {
        assert_eq!(
            lifecycle(&ground.events(), &format!("order-{number}")).len(),
            4
        );
    }
}

#[tokio::test]
async fn a_store_that_is_five_seconds_slow_delays_nothing_and_loses_nothing() {
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .commit_timeout(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    // Somebody holds the file's write lock for five seconds.
    let file = ground.file();
    let lock = rusqlite::Connection::open(&file).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let unlock = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(5));
        lock.execute_batch("COMMIT").unwrap();
    });
    let took = orders_complete(&client, "order", 5).await;
    // What is to be durable is in the log, and nobody waits for the store.
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(events.stats().commit_timeouts, 0);
    assert!(ground.events().is_empty(), "it was not locked");
    unlock.await.unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let stats = events.stats();
    assert_eq!(
        (stats.lost, stats.refused, stats.held),
        (0, 0, 0),
        "{stats:?}"
    );
    let rows = ground.events();
    for number in 0..5 {
        assert_eq!(lifecycle(&rows, &format!("order-{number}")).len(), 4);
    }
}

#[tokio::test]
async fn a_filter_that_takes_seconds_delays_within_the_bound() {
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .commit_timeout(Duration::from_millis(200))
        .filter(temporal_eventstore::Filter::new(|_| {
            std::thread::sleep(Duration::from_millis(400));
            temporal_eventstore::FilterAction::Keep
        }))
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    let took = orders_complete(&client, "order", 3).await;
    // Per workflow: the worker's start, two workflow tasks and one activity result wait at most.
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(events.stats().commit_timeouts > 0);
    events.shutdown(Duration::from_secs(30)).await.unwrap();
    let rows = ground.events();
    for number in 0..3 {
        assert_eq!(lifecycle(&rows, &format!("order-{number}")).len(), 4);
    }
}

#[tokio::test]
async fn a_filter_that_panics_or_drops_harms_no_workflow() {
    use temporal_eventstore::FilterAction;
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .filter(temporal_eventstore::Filter::new(|event| {
            match event.event_name.as_str() {
                "activity_start" => panic!("on purpose"),
                "activity_end" => FilterAction::Drop,
                _ => {
                    event.metadata.worker_identity = Some("redacted".to_owned());
                    FilterAction::Keep
                }
            }
        }))
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    orders_complete(&client, "order", 1).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "order-0"),
        [
            "workflow_start running",
            "activity_start Orders::noop 1",
            "workflow_end completed"
        ]
    );
    // Where the filter panicked, the bare event is left.
    for row in rows {
        if row.event_name == "activity_start" {
            assert_eq!(row.event["data"], serde_json::json!({}));
        } else {
            assert_eq!(row.metadata("worker_identity"), "redacted");
        }
    }
    let stats = events.stats();
    assert_eq!((stats.filtered, stats.invalid), (1, 0));
}

#[tokio::test]
async fn a_full_queue_refuses_user_events_and_no_workflow_notices() {
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .queue_size(10_usize)
        .commit_timeout(Duration::from_millis(100))
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    let lock = rusqlite::Connection::open(ground.file()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 0..100 {
        events.publish(temporal_eventstore::Event::new(format!("n.{number}")));
    }
    orders_complete(&client, "order", 3).await;
    let refused = events.stats().refused;
    assert!(refused >= 90, "{refused}");
    lock.execute_batch("COMMIT").unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    let stats = events.stats();
    assert_eq!(stats.written, stats.accepted - stats.duplicates);
    until("everything that was accepted is written", || {
        ground.events().len() as u64 == stats.written
    })
    .await;
}
