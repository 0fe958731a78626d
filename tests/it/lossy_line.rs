//! A line between worker and server that loses answers, above all those to accepted completions: the
//! retry is told that the task is gone, though the run is closed. Still exactly one end, and true.

use crate::support::{
    Ground, broken,
    compare::{RunHistory, Source, compare, compare_with},
    histories, history,
    lossy_line::{Fault, LossyLine, Plan},
    until, with_example_worker, with_worker, workflows,
};
use fastrand::Rng;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use temporal_eventstore::{Event, EventStore, Reconciler, ReconcilerOptions};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, WorkflowGetResultOptions, WorkflowStartOptions,
};
use temporalio_common::{
    HasWorkflowDefinition,
    protos::temporal::api::{enums::v1::EventType, history::v1::HistoryEvent},
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    LocalActivityOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A client whose workers talk through the line.
async fn client_through(line: &LossyLine, events: &EventStore) -> Client {
    let connection = ConnectionOptions::new(line.url().parse::<url::Url>().unwrap()).build();
    let options = ClientOptions::new("default")
        .plugin(events.plugin())
        .build();
    Client::connect(connection, options).await.unwrap()
}

async fn nothing_held(ground: &Ground) {
    until("nothing is held any more", || {
        let file = rusqlite::Connection::open(ground.file()).unwrap();
        file.busy_timeout(Duration::from_secs(5)).unwrap();
        file.query_row("SELECT COUNT(*) FROM held", [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 0
    })
    .await;
}

/// Runs workflows of five kinds at once. A task that is lost with an answer comes again after a second.
async fn load(client: &Client, rounds: usize) {
    async fn run<W>(client: &Client, workflow: W, input: W::Input, id: String) -> bool
    where
        W: HasWorkflowDefinition,
        W::Input: Send,
    {
        let options = WorkflowStartOptions::new("orders", id)
            .task_timeout(Duration::from_secs(1))
            .build();
        let started = client.start_workflow(workflow, input, options).await;
        started
            .unwrap()
            .get_result(WorkflowGetResultOptions::default())
            .await
            .is_ok()
    }
    let all = (0..rounds).map(|round| async move {
        let id = |kind: &str| format!("{kind}-{round}");
        let outcomes = tokio::join!(
            run(client, workflows::Noop::run, (), id("noop")),
            run(client, workflows::Order::run, (), id("order")),
            run(client, workflows::Fail::run, (), id("fail")),
            run(client, workflows::Local::run, (), id("local")),
            run(client, workflows::Chain::run, 1, id("chain")),
        );
        assert_eq!(outcomes, (true, true, false, true, true));
    });
    futures::future::join_all(all).await;
}

/// The same fault for every so many calls of one name, the first among them.
fn every(nth: usize, lost: &'static str, fault: Fault) -> Plan {
    let calls = AtomicUsize::new(0);
    Arc::new(move |name| {
        let met = name == lost && calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(nth);
        met.then_some(fault)
    })
}

async fn with_faults(plan: Plan, expected: &str) {
    let ground = Ground::new().await;
    let line = LossyLine::to(ground.server.port(), plan).await;
    let events = ground.store().await;
    let direct = ground.client().await;
    let client = client_through(&line, &events).await;
    with_example_worker(&client, async {
        load(&direct, 5).await;
        nothing_held(&ground).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let faults = line.faults();
    assert!(
        faults.get(expected).is_some_and(|count| *count >= 5),
        "{faults:?}"
    );
    let runs = histories(&ground, &direct).await;
    assert_eq!(runs.len(), 30);
    let differences = compare(&runs, &ground.events());
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test]
async fn lost_answers_to_accepted_completions() {
    with_faults(
        every(2, "RespondWorkflowTaskCompleted", Fault::LoseAnswer),
        "LoseAnswer RespondWorkflowTaskCompleted",
    )
    .await;
}

#[tokio::test]
async fn connections_cut_before_the_answer_to_a_completion() {
    with_faults(
        every(6, "RespondWorkflowTaskCompleted", Fault::CutConnection),
        "CutConnection RespondWorkflowTaskCompleted",
    )
    .await;
}

#[tokio::test]
async fn lost_answers_to_accepted_activity_results() {
    with_faults(
        every(2, "RespondActivityTaskCompleted", Fault::LoseAnswer),
        "LoseAnswer RespondActivityTaskCompleted",
    )
    .await;
}

/// Any fault on any call, but the answers to polls: a task that is lost there comes again only after
/// its timeout.
pub fn any_fault(seed: u64, per_hundred: u32) -> Plan {
    let rng = Mutex::new(Rng::with_seed(seed));
    Arc::new(move |name| {
        let mut rng = rng.lock().unwrap();
        let polls = name.starts_with("Poll");
        if rng.u32(..100) >= per_hundred || polls {
            return None;
        }
        let pause = Duration::from_millis(rng.u64(..1500));
        Some(match rng.u32(..5) {
            0 | 1 => Fault::LoseAnswer,
            2 => Fault::LoseCall,
            3 => Fault::DelayCall(pause),
            _ => Fault::DelayAnswer(pause),
        })
    })
}

#[tokio::test]
async fn any_fault_on_any_call() {
    let ground = Ground::new().await;
    let line = LossyLine::to(ground.server.port(), any_fault(3, 25)).await;
    let events = ground.store().await;
    let direct = ground.client().await;
    let client = client_through(&line, &events).await;
    with_example_worker(&client, async {
        load(&direct, 6).await;
        nothing_held(&ground).await;
    })
    .await;
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build();
    Reconciler::new(&events, &direct, options)
        .run_once()
        .await
        .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    assert!(
        line.faults().values().sum::<usize>() >= 20,
        "{:?}",
        line.faults()
    );
    let runs = histories(&ground, &direct).await;
    let differences = compare_with(Source::Reconciled, &runs, &ground.events());
    assert!(differences.is_empty(), "{differences}");
}

struct Slow;

#[activities]
impl Slow {
    /// Another answer each time.
    #[activity]
    async fn answer(_ctx: ActivityContext, _input: ()) -> Result<usize, ActivityError> {
        Ok(ANSWERS.fetch_add(1, Ordering::Relaxed))
    }

    #[activity]
    async fn endless(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        std::future::pending().await
    }

    /// Works a little shorter than a workflow task of this test may take.
    #[activity]
    async fn work(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        tokio::time::sleep(Duration::from_millis(900)).await;
        Ok(())
    }
}

/// Publishes before and after a slow local activity. Its first task fails: history has no room for the
/// attempts at it that follow, so that they share the place of the one that is accepted.
#[workflow]
#[derive(Default)]
struct Prolonged;

static HAS_FAILED: AtomicBool = AtomicBool::new(false);

#[workflow_methods]
impl Prolonged {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        assert!(HAS_FAILED.swap(true, Ordering::Relaxed), "on purpose");
        temporal_eventstore::publish(Event::new("before"));
        let options = LocalActivityOptions::builder()
            .start_to_close_timeout(TIMEOUT)
            .build();
        ctx.execute_local_activity(Slow::work, (), options).await?;
        temporal_eventstore::publish(Event::new("after"));
        Ok(())
    }
}

fn told(run: &RunHistory) -> String {
    let event = |event: &HistoryEvent| {
        let at = event.event_time.unwrap_or_default();
        format!("{} {:?} {at}\n", event.event_id, event.event_type())
    };
    run.events.iter().map(event).collect()
}

/// A worker that hears of a task late is late with its heartbeat, too: the server gives the task out
/// again, and to the worker that has the run still. The SDK's core (0.10.1) goes on with the new task where
/// it is, and tells the workflow nothing of it: what it completes began with the old one.
#[tokio::test]
async fn a_task_that_is_given_out_again_to_the_worker_that_has_it() {
    let ground = Ground::new().await;
    let completions = AtomicUsize::new(0);
    let plan: Plan = Arc::new(move |name| match name {
        "RespondWorkflowTaskFailed" => {
            // All of this process stands still while the next attempt begins.
            tokio::spawn(async {
                tokio::time::sleep(Duration::from_millis(4)).await;
                std::thread::sleep(Duration::from_millis(500));
            });
            None
        }
        // Only history can tell what became of the task.
        "RespondWorkflowTaskCompleted" => {
            let is_first = completions.fetch_add(1, Ordering::Relaxed) == 0;
            is_first.then_some(Fault::LoseAnswer)
        }
        _ => None,
    });
    let line = LossyLine::to(ground.server.port(), plan).await;
    let events = ground.store().await;
    let direct = ground.client().await;
    let client = client_through(&line, &events).await;
    let worker = WorkerOptions::new("orders")
        .register_activities(Slow)
        .register_workflow::<Prolonged>()
        .unwrap()
        .build();
    with_worker(&client, worker, async {
        let options = WorkflowStartOptions::new("orders", "prolonged")
            .task_timeout(Duration::from_secs(1))
            .build();
        direct
            .start_workflow(Prolonged::run, (), options)
            .await
            .unwrap()
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        nothing_held(&ground).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let runs = histories(&ground, &direct).await;
    let user: Vec<String> = ground
        .events()
        .into_iter()
        .filter(|row| row.event_type != "application_events")
        .map(|row| row.event_type)
        .collect();
    let seconds = |id: usize| {
        runs[0].events[id - 1]
            .event_time
            .unwrap_or_default()
            .seconds
    };
    // The task that failed, and the start of the one that was accepted.
    assert!(
        seconds(6) > seconds(4),
        "the task was not given out again, so that the test shows nothing: {}",
        told(&runs[0])
    );
    assert_eq!(user, ["before", "after"], "{}", told(&runs[0]));
    let differences = compare(&runs, &ground.events());
    assert!(differences.is_empty(), "{differences}");
}

/// Says what a first local activity answers, and panics once behind a second one.
#[workflow]
#[derive(Default)]
struct Fickle;

static ANSWERS: AtomicUsize = AtomicUsize::new(0);

#[workflow_methods]
impl Fickle {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<usize> {
        let options = || {
            LocalActivityOptions::builder()
                .start_to_close_timeout(TIMEOUT)
                .build()
        };
        let answer = ctx
            .execute_local_activity(Slow::answer, (), options())
            .await?;
        temporal_eventstore::publish(Event::new(format!("answer.{answer}")));
        ctx.execute_local_activity(Slow::work, (), options())
            .await?;
        assert!(answer > 0, "on purpose");
        Ok(answer)
    }
}

/// As above; but the execution that goes on under the next attempt at its task fails after all.
#[tokio::test]
async fn the_next_attempt_at_a_task_does_not_show_that_it_was_accepted() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = WorkerOptions::new("orders")
        .register_activities(Slow)
        .register_workflow::<Fickle>()
        .unwrap()
        .build();
    with_worker(&client, worker, async {
        // The worker polls.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let options = WorkflowStartOptions::new("orders", "fickle")
            .task_timeout(Duration::from_secs(1))
            .build();
        let started = client.start_workflow(Fickle::run, (), options).await;
        // All of this process stands still while the task begins.
        std::thread::sleep(Duration::from_millis(500));
        let handle = started.unwrap();
        let answer = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!(answer, 1);
        nothing_held(&ground).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let direct = ground.client().await;
    let runs = histories(&ground, &direct).await;
    let user: Vec<String> = ground
        .events()
        .into_iter()
        .filter(|row| row.event_type != "application_events")
        .map(|row| row.event_type)
        .collect();
    assert_eq!(user, ["answer.1"], "{}", told(&runs[0]));
}

/// Says what a first local activity answers, and waits for a second one that goes on for ever.
#[workflow]
#[derive(Default)]
struct Endless;

#[workflow_methods]
impl Endless {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = || {
            LocalActivityOptions::builder()
                .start_to_close_timeout(Duration::from_secs(600))
                .build()
        };
        temporal_eventstore::publish(Event::new("before"));
        ctx.execute_local_activity(Slow::answer, (), options())
            .await?;
        temporal_eventstore::publish(Event::new("after"));
        ctx.execute_local_activity(Slow::endless, (), options())
            .await?;
        Ok(())
    }
}

/// The first attempt at a task has a place of its own in history, so that the attempt under which the SDK's core
/// goes on has another one; and a heartbeat of that one records the first local activity before workflow code
/// is told anything. Only the time in the marker at which the activity was scheduled says that it was this run
/// in memory that was recorded.
#[tokio::test]
async fn what_is_recorded_under_a_task_that_nobody_was_told_of_is_stored() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = WorkerOptions::new("orders")
        .register_activities(Slow)
        .register_workflow::<Endless>()
        .unwrap()
        .build();
    let recorded = async {
        // The worker polls.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let options = WorkflowStartOptions::new("orders", "endless")
            .task_timeout(Duration::from_secs(1))
            .build();
        let started = client.start_workflow(Endless::run, (), options).await;
        // All of this process stands still while the task begins.
        std::thread::sleep(Duration::from_millis(500));
        let run_id = started.unwrap().run_id().unwrap_or_default().to_owned();
        for _ in 0..200 {
            let events = history(&client, "endless", &run_id).await;
            if events
                .iter()
                .any(|event| event.event_type() == EventType::MarkerRecorded)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The worker is dropped where it stands.
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut worker = Worker::new(&runtime, client.clone(), worker).unwrap();
    tokio::select! {
        result = worker.run() => panic!("the worker ended: {result:?}"),
        () = recorded => {}
    }
    drop(worker);
    nothing_held(&ground).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let runs = histories(&ground, &client).await;
    let types: Vec<EventType> = runs[0]
        .events
        .iter()
        .map(HistoryEvent::event_type)
        .collect();
    assert!(
        types.contains(&EventType::WorkflowTaskTimedOut)
            && types.contains(&EventType::MarkerRecorded),
        "the task did not time out, so that the test shows nothing: {}",
        told(&runs[0])
    );
    let stored: Vec<String> = ground
        .events()
        .into_iter()
        .map(|row| match row.event_type.as_str() {
            "application_events" => row.event_name,
            _ => row.event_type,
        })
        .filter(|name| !name.starts_with("worker_"))
        .collect();
    assert_eq!(
        stored,
        [
            "workflow_start",
            "before",
            "activity_start",
            "activity_end",
            "after"
        ],
        "{}",
        told(&runs[0])
    );
}

/// A build that takes the next task for proof though a local activity is under way.
#[test]
fn a_build_without_the_chain_is_caught() {
    broken::is_caught_by(
        "chain",
        "lossy_line::the_next_attempt_at_a_task_does_not_show_that_it_was_accepted",
    );
}

/// A build that looks only for tasks that workflow code was told of.
#[test]
fn a_build_that_ignores_whose_markers_there_are_is_caught() {
    broken::is_caught_by(
        "marker",
        "lossy_line::what_is_recorded_under_a_task_that_nobody_was_told_of_is_stored",
    );
}
