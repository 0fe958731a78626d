//! Stage, commit, confirm, recover: what a workflow task publishes is in the store once, and a
//! workflow's end only if the server accepted it.

mod accepted_tasks;
mod given_up;
mod many_hands;
mod rules;

use crate::support::{
    Ground, handle, history, last_task, lifecycle, outcome, rows, start, until,
    with_example_worker, with_worker, workflows,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use temporal_eventstore::{Event, EventStore, Published, testing::CapturedEvents};
use temporalio_client::{
    Client, ClientOptions, WorkflowGetResultOptions, WorkflowQueryOptions, WorkflowSignalOptions,
    WorkflowStartOptions, WorkflowTerminateOptions,
};
use temporalio_common::{
    RetryPolicy,
    protos::{
        coresdk::workflow_completion::WorkflowActivationCompletion,
        temporal::api::enums::v1::EventType,
    },
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    LocalActivityOptions, SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowContextView,
    WorkflowResult,
    activities::{ActivityContext, ActivityError},
    interceptors::WorkerInterceptor,
};

const TIMEOUT: Duration = Duration::from_secs(5);

fn user_events(ground: &Ground, workflow_id: &str) -> Vec<String> {
    ground
        .events()
        .into_iter()
        .filter(|row| row.is_of(workflow_id) && row.event_type != "application_events")
        .map(|row| row.event_type)
        .collect()
}

/// Panics in its first tasks, each time after it has published.
#[workflow]
#[derive(Default)]
struct Panics;

static PANICS_LEFT: AtomicU32 = AtomicU32::new(3);

#[workflow_methods]
impl Panics {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        temporal_eventstore::publish(Event::new("before.panic"));
        if !ctx.is_replaying()
            && PANICS_LEFT
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
        {
            panic!("on purpose");
        }
        temporal_eventstore::publish(Event::new("after.panic"));
        Ok(())
    }
}

#[tokio::test]
async fn a_task_that_panics_three_times_leaves_one_start_and_one_end() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Panics>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        let run = client
            .start_workflow(
                Panics::run,
                (),
                WorkflowStartOptions::new("orders", "panics")
                    .task_timeout(Duration::from_secs(1))
                    .build(),
            )
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    assert_eq!(PANICS_LEFT.load(Ordering::SeqCst), 0, "it panicked 3 times");
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "panics"),
        ["workflow_start running", "workflow_end completed"]
    );
    assert_eq!(
        user_events(&ground, "panics"),
        ["before.panic", "after.panic"]
    );
}

/// Sends a signal to a run just before the completion of its last task is sent, once.
struct SignalBeforeTheEnd {
    client: Client,
    workflow_id: &'static str,
    sent: AtomicBool,
}

#[async_trait::async_trait(?Send)]
impl WorkerInterceptor for SignalBeforeTheEnd {
    async fn on_workflow_activation_completion(&self, completion: &WorkflowActivationCompletion) {
        if completion.has_complete_workflow_execution() && !self.sent.swap(true, Ordering::SeqCst) {
            self.client
                .get_workflow_handle::<Hasty>(self.workflow_id)
                .signal(Hasty::note, (), WorkflowSignalOptions::default())
                .await
                .unwrap();
        }
    }
}

/// Ends in its first task, and counts the signals that it knows of when it does.
#[workflow]
#[derive(Default)]
struct Hasty {
    notes: u32,
}

#[workflow_methods]
impl Hasty {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<u32> {
        let notes = ctx.state(|state| state.notes);
        temporal_eventstore::publish(Event::new(format!("ended.with.{notes}")));
        Ok(notes)
    }

    #[signal]
    fn note(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        temporal_eventstore::publish(Event::new("noted"));
        self.notes += 1;
    }
}

#[tokio::test]
async fn a_signal_that_overtakes_the_end_leaves_one_end_and_nothing_of_the_rejected_task() {
    let (ground, events, client) = Ground::with_plugin().await;
    let bare = ground.client().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Hasty>()
        .unwrap()
        .worker_interceptor(SignalBeforeTheEnd {
            client: bare,
            workflow_id: "hasty",
            sent: AtomicBool::new(false),
        })
        .build();
    let run_id = Mutex::new(String::new());
    with_worker(&client, options, async {
        let run = client
            .start_workflow(Hasty::run, (), start("hasty"))
            .await
            .unwrap();
        *run_id.lock().unwrap() = run.run_id().unwrap_or_default().to_owned();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    let run_id = run_id.into_inner().unwrap();
    let recorded = history(&client, "hasty", &run_id).await;
    assert!(
        recorded
            .iter()
            .any(|event| event.event_type() == EventType::WorkflowTaskFailed),
        "the completion was not rejected, so that the test shows nothing"
    );
    events.flush(TIMEOUT).await.unwrap();
    let stats = events.stats();
    assert_eq!(stats.discarded, 1);
    assert_eq!(stats.held, 0);
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "hasty"),
        ["workflow_start running", "workflow_end completed"]
    );
    // The first execution published `ended.with.0`; the server rejected it.
    assert_eq!(user_events(&ground, "hasty"), ["noted", "ended.with.1"]);
}

async fn order_with_cache(max_cached_workflows: usize) {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = workflows::worker_options("orders", max_cached_workflows).unwrap();
    with_worker(&client, options, async {
        let runs = (0..3).map(|number| {
            let client = &client;
            async move {
                let id = format!("order-{number}");
                outcome(client, workflows::Order::run, (), &id)
                    .await
                    .unwrap();
            }
        });
        futures::future::join_all(runs).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    for number in 0..3 {
        assert_eq!(
            lifecycle(&rows, &format!("order-{number}")),
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
    }
    assert_eq!(events.stats().held, 0);
}

#[tokio::test]
async fn without_a_cache_nothing_is_missing_or_twice() {
    order_with_cache(0).await;
}

#[tokio::test]
async fn with_room_for_one_workflow_nothing_is_missing_or_twice() {
    order_with_cache(1).await;
}

/// Publishes in run, signal and update handlers, and tries to in a query and a validator.
#[workflow]
#[derive(Default)]
struct Talkative {
    done: bool,
}

#[workflow_methods]
impl Talkative {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let published = temporal_eventstore::publish(Event::new("run.begins")).await;
        assert!(
            matches!(published, Ok(Published::Staged(_))),
            "{published:?}"
        );
        ctx.timer(Duration::from_millis(100)).await;
        // The same event twice is two events.
        temporal_eventstore::publish(Event::new("same"));
        temporal_eventstore::publish(Event::new("same"));
        ctx.wait_condition(|state| state.done).await?;
        Ok(())
    }

    #[signal]
    fn nudge(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        temporal_eventstore::publish(Event::new("signal.handled"));
    }

    #[update]
    async fn finish(ctx: &mut WorkflowContext<Self>, input: u32) -> u32 {
        temporal_eventstore::publish(Event::new("update.begins"));
        ctx.timer(Duration::from_millis(50)).await;
        temporal_eventstore::publish(Event::new("update.ends"));
        ctx.state_mut(|state| state.done = true);
        input
    }

    #[update_validator(finish)]
    fn validate_finish(
        &self,
        _ctx: &WorkflowContextView,
        _input: &u32,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        temporal_eventstore::publish(Event::new("never.from.validator"));
        Ok(())
    }

    #[query]
    fn is_done(&self, _ctx: &WorkflowContextView) -> bool {
        temporal_eventstore::publish(Event::new("never.from.query"));
        self.done
    }
}

#[tokio::test]
async fn workflow_code_publishes_once_in_run_signal_and_update_handlers() {
    let (ground, events, client) = Ground::with_plugin().await;
    // No cache: every task replays the whole history.
    let options = WorkerOptions::new("orders")
        .max_cached_workflows(0_usize)
        .register_workflow::<Talkative>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        let run = client
            .start_workflow(Talkative::run, (), start("talk"))
            .await
            .unwrap();
        until("the timer fires", || {
            user_events(&ground, "talk").len() == 3
        })
        .await;
        run.signal(Talkative::nudge, (), WorkflowSignalOptions::default())
            .await
            .unwrap();
        until("the signal is handled", || {
            user_events(&ground, "talk").len() == 4
        })
        .await;
        for _ in 0..3 {
            let done = run
                .query(Talkative::is_done, (), WorkflowQueryOptions::default())
                .await
                .unwrap();
            assert!(!done);
        }
        run.execute_update(Talkative::finish, 1, Default::default())
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        // A query of a closed run replays it to its end.
        run.query(Talkative::is_done, (), WorkflowQueryOptions::default())
            .await
            .unwrap();
    })
    .await;
    assert!(events.stats().skipped >= 5, "{:?}", events.stats());
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        user_events(&ground, "talk"),
        [
            "run.begins",
            "same",
            "same",
            "signal.handled",
            "update.begins",
            "update.ends"
        ]
    );
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "talk"),
        ["workflow_start running", "workflow_end completed"]
    );
    let sequences: Vec<_> = rows
        .iter()
        .filter(|row| row.is_of("talk"))
        .map(|row| row.metadata("sequence").as_u64().unwrap())
        .collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn what_a_workflow_awaits_is_the_id_under_which_the_event_is_stored() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let outside = events
        .publish(Event::new("outside").name("Outside"))
        .await
        .unwrap();
    let outside = outside.event_id().unwrap().to_string();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(rows[0].event_id, outside);
    assert_eq!(rows[0].metadata("event_id"), &outside);
    assert_eq!(rows[0].workflow_state.as_deref(), Some("unknown"));
}

#[tokio::test]
async fn a_terminated_run_has_a_start_and_no_end_that_a_worker_could_see() {
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
            .terminate(WorkflowTerminateOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "wait"),
        ["workflow_start running"]
    );
}

/// Does not return until told, so that a completion waits in its hook.
struct HoldCompletion {
    at_the_end: std::sync::Arc<tokio::sync::Notify>,
    go_on: std::sync::Arc<tokio::sync::Notify>,
}

#[async_trait::async_trait(?Send)]
impl WorkerInterceptor for HoldCompletion {
    async fn on_workflow_activation_completion(&self, completion: &WorkflowActivationCompletion) {
        if completion.has_complete_workflow_execution() {
            self.at_the_end.notify_one();
            self.go_on.notified().await;
        }
    }
}

#[tokio::test]
async fn a_run_that_is_terminated_while_its_end_is_on_the_way_ends_terminated() {
    let (ground, events, client) = Ground::with_plugin().await;
    let at_the_end = std::sync::Arc::new(tokio::sync::Notify::new());
    let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
    // The plugin's hook comes after those of the options, so that the end is held after the
    // termination, and the completion then finds no task.
    let options = WorkerOptions::new("orders")
        .register_workflow::<Hasty>()
        .unwrap()
        .worker_interceptor(HoldCompletion {
            at_the_end: at_the_end.clone(),
            go_on: go_on.clone(),
        })
        .build();
    with_worker(&client, options, async {
        client
            .start_workflow(Hasty::run, (), start("hasty"))
            .await
            .unwrap();
        at_the_end.notified().await;
        handle(&client, "hasty")
            .terminate(WorkflowTerminateOptions::default())
            .await
            .unwrap();
        go_on.notify_one();
        until("the end is settled", || {
            lifecycle(&ground.events(), "hasty").len() == 2
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        lifecycle(&rows, "hasty"),
        ["workflow_start running", "workflow_end terminated"]
    );
    let end = rows
        .iter()
        .find(|row| row.event_name == "workflow_end")
        .unwrap();
    assert_eq!(end.data("status"), "terminated");
    assert!(
        user_events(&ground, "hasty").is_empty(),
        "the task that published was not accepted"
    );
}

/// Ends by a signal, and answers a query.
#[workflow]
#[derive(Default)]
struct Asked {
    done: bool,
}

#[workflow_methods]
impl Asked {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        ctx.wait_condition(|state| state.done).await?;
        temporal_eventstore::publish(Event::new("never.accepted"));
        Ok(())
    }

    #[signal]
    fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.done = true;
    }

    #[query]
    fn is_done(&self, _ctx: &WorkflowContextView) -> bool {
        self.done
    }
}

/// The replay for the query executes the signal that came before the termination, and comes to an
/// end that nobody accepted.
#[tokio::test]
async fn a_query_of_a_terminated_run_does_not_complete_it() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = || {
        WorkerOptions::new("orders")
            .register_workflow::<Asked>()
            .unwrap()
            .build()
    };
    with_worker(&client, worker(), async {
        client
            .start_workflow(Asked::run, (), start("asked"))
            .await
            .unwrap();
        until("the workflow starts", || {
            !lifecycle(&ground.events(), "asked").is_empty()
        })
        .await;
    })
    .await;
    let asked = client.get_workflow_handle::<Asked>("asked");
    asked
        .signal(Asked::finish, (), WorkflowSignalOptions::default())
        .await
        .unwrap();
    asked
        .terminate(WorkflowTerminateOptions::default())
        .await
        .unwrap();
    with_worker(&client, worker(), async {
        for _ in 0..2 {
            // The answer does not matter; that the run is replayed for it does.
            let question = asked.query(Asked::is_done, (), WorkflowQueryOptions::default());
            tokio::time::timeout(TIMEOUT, question).await.ok();
        }
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let seen = lifecycle(&ground.events(), "asked");
    assert!(
        !seen.contains(&"workflow_end completed".to_owned()),
        "{seen:?}"
    );
    assert!(user_events(&ground, "asked").is_empty());
}

struct Steps;

#[activities]
impl Steps {
    #[activity]
    async fn first(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        Ok(())
    }

    #[activity]
    async fn second(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        Ok(())
    }
}

/// Runs another local activity first once it was signalled, and fails its tasks before.
#[workflow]
#[derive(Default)]
struct Reordered {
    signalled: bool,
}

static REORDERED: AtomicBool = AtomicBool::new(false);

#[workflow_methods]
impl Reordered {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = || {
            LocalActivityOptions::builder()
                .start_to_close_timeout(TIMEOUT)
                .build()
        };
        if ctx.state(|state| state.signalled) {
            ctx.execute_local_activity(Steps::second, (), options())
                .await?;
        }
        ctx.execute_local_activity(Steps::first, (), options())
            .await?;
        if !ctx.state(|state| state.signalled) {
            REORDERED.store(true, Ordering::SeqCst);
            panic!("on purpose");
        }
        Ok(())
    }

    #[signal]
    fn note(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.signalled = true;
    }
}

#[tokio::test]
async fn a_local_activity_that_takes_the_place_of_another_is_not_taken_for_it() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Reordered>()
        .unwrap()
        .register_activities(Steps)
        .build();
    with_worker(&client, options, async {
        let run = client
            .start_workflow(
                Reordered::run,
                (),
                WorkflowStartOptions::new("orders", "reordered")
                    .task_timeout(Duration::from_secs(2))
                    .build(),
            )
            .await
            .unwrap();
        until("the first task fails", || REORDERED.load(Ordering::SeqCst)).await;
        run.signal(Reordered::note, (), WorkflowSignalOptions::default())
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let seen = lifecycle(&ground.events(), "reordered");
    for step in ["first", "second"] {
        let end = format!("activity_end Steps::{step} 1 completed");
        assert!(seen.contains(&end), "{end} is missing in {seen:?}");
    }
}

/// Publishes to a store of its own beside the plugin's.
#[workflow]
#[derive(Default)]
struct Elsewhere;

static OTHER: OnceLock<EventStore> = OnceLock::new();

#[workflow_methods]
impl Elsewhere {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        if let Some(other) = OTHER.get() {
            other.publish(Event::new("to.the.other"));
        }
        ctx.timer(Duration::from_millis(50)).await;
        temporal_eventstore::publish(Event::new("to.the.plugins"));
        Ok(())
    }
}

#[tokio::test]
async fn a_second_store_used_in_workflow_code_gets_its_own_events_once() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let captured = CapturedEvents::new().await.unwrap();
    OTHER.get_or_init(|| captured.store());
    let client = ground.client_with(&events).await;
    let options = WorkerOptions::new("orders")
        .max_cached_workflows(0_usize)
        .register_workflow::<Elsewhere>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        outcome(&client, Elsewhere::run, (), "elsewhere")
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(user_events(&ground, "elsewhere"), ["to.the.plugins"]);
    let elsewhere = captured.events().await;
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].event_type, "to.the.other");
    assert_eq!(
        elsewhere[0].metadata.workflow_id.as_deref(),
        Some("elsewhere")
    );
}

/// A crash between commit and confirmation leaves a held end; the next start settles it.
#[tokio::test]
async fn held_ends_of_an_earlier_process_are_settled_on_start() {
    let ground = Ground::new().await;
    let client = {
        let events = ground.store().await;
        let client = ground.client_with(&events).await;
        with_example_worker(&client, async {
            for (id, finish) in [("closed", true), ("open", false)] {
                let run = client
                    .start_workflow(workflows::Wait::run, (), start(id))
                    .await
                    .unwrap();
                if finish {
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
                }
            }
            until("both have started", || ground.events().len() >= 4).await;
        })
        .await;
        events.shutdown(TIMEOUT).await.unwrap();
        client
    };
    // Put both ends into `held`, as they are between commit and confirmation.
    let bare = ground.client().await;
    let mut last_tasks = Vec::new();
    for id in ["closed", "open"] {
        let run_id = ground
            .events()
            .into_iter()
            .find_map(|row| row.is_of(id).then_some(row.workflow_run_id).flatten())
            .unwrap();
        last_tasks.push(last_task(&bare, id, &run_id).await);
    }
    let file = rusqlite::Connection::open(ground.file()).unwrap();
    let held = |run: &str, from: &str, task: &str| {
        file.execute(
            "INSERT INTO held SELECT 'default', ?1, workflow_run_id, ?2, 0, ?4, event_id, event_type, \
             event_name, workflow_type, workflow_id, workflow_run_id, workflow_state, activity_type, \
             activity_id, attempt, created_at, event FROM events \
             WHERE workflow_id = ?1 AND event_name = ?3",
            rusqlite::params![run, uuid::Uuid::new_v4().to_string(), from, task],
        )
        .unwrap();
    };
    held("closed", "workflow_end", &last_tasks[0]);
    file.execute(
        "DELETE FROM events WHERE workflow_id = 'closed' AND event_name = 'workflow_end'",
        [],
    )
    .unwrap();
    // An execution of the task that was never accepted: another one was. Its other fields do not matter.
    let (id, _) = last_tasks[1].split_once('@').unwrap();
    held(
        "open",
        "workflow_start",
        &format!("{id}@2001-01-01T00:00:00Z"),
    );
    drop(file);
    drop(client);
    assert_eq!(
        lifecycle(&ground.events(), "closed"),
        ["workflow_start running"]
    );

    let events = ground.store().await;
    assert_eq!(events.stats().held, 2);
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        until("both ends are settled", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "closed"),
        ["workflow_start running", "workflow_end completed"]
    );
    assert_eq!(
        lifecycle(&ground.events(), "open"),
        ["workflow_start running"]
    );
}

#[tokio::test]
async fn a_graceful_shutdown_loses_nothing() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        // Stop in the middle of the work.
        for number in 0..20 {
            client
                .start_workflow(workflows::Noop::run, (), start(&format!("noop-{number}")))
                .await
                .unwrap();
        }
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    // A second worker ends what the first left.
    let events = ground.store().await;
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        for number in 0..20 {
            handle(&client, &format!("noop-{number}"))
                .get_result(WorkflowGetResultOptions::default())
                .await
                .unwrap();
        }
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = rows(&ground.file());
    for number in 0..20 {
        assert_eq!(
            lifecycle(&rows, &format!("noop-{number}")),
            [
                "workflow_start running",
                "activity_start Orders::noop 1",
                "activity_end Orders::noop 1 completed",
                "workflow_end completed",
            ],
            "noop-{number}"
        );
    }
}

#[tokio::test]
async fn a_plugin_that_is_registered_twice_works_once() {
    let ground = Ground::new().await;
    let events: EventStore = ground.store().await;
    let client = ground
        .connect(
            ClientOptions::new("default")
                .plugin(events.plugin())
                .build(),
        )
        .await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<workflows::Noop>()
        .unwrap()
        .worker_plugin(events.plugin())
        .build();
    with_worker(&client, options, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
    })
    .await;
    events.flush(TIMEOUT).await.unwrap();
    let stats = events.stats();
    assert_eq!((stats.written, stats.duplicates), (6, 0));
    events.shutdown(TIMEOUT).await.unwrap();
    let names: Vec<_> = ground
        .events()
        .into_iter()
        .map(|row| row.event_name)
        .collect();
    assert_eq!(
        names,
        [
            "worker_start",
            "workflow_start",
            "activity_start",
            "activity_end",
            "workflow_end",
            "worker_end"
        ]
    );
}
