//! Who else has a hand in a task: a query of a run that is closed, a query that panics beside the end, a
//! worker that is dropped, a second store, activities whose lifecycle is switched off.

use super::*;
use temporal_eventstore::LifecycleSelection;
use temporalio_sdk::{ActivityOptions, Runtime, Worker};

/// Publishes what it is told, and goes on.
#[workflow]
#[derive(Default)]
struct Listens;

#[workflow_methods]
impl Listens {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        temporal_eventstore::publish(Event::new("listens"));
        ctx.timer(Duration::from_secs(3600)).await;
        Ok(())
    }

    #[signal]
    fn tell(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        temporal_eventstore::publish(Event::new("was.told"));
    }

    #[query]
    fn how_are_you(&self, _ctx: &WorkflowContextView) -> bool {
        true
    }
}

#[tokio::test]
async fn a_query_of_a_terminated_run_publishes_nothing_of_what_no_task_ever_did() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = || {
        WorkerOptions::new("orders")
            .register_workflow::<Listens>()
            .unwrap()
            .build()
    };
    with_worker(&client, worker(), async {
        client
            .start_workflow(Listens::run, (), start("listens"))
            .await
            .unwrap();
        until("it listens", || {
            user_events(&ground, "listens") == ["listens"]
        })
        .await;
    })
    .await;
    let run = client.get_workflow_handle::<Listens>("listens");
    run.signal(Listens::tell, (), WorkflowSignalOptions::default())
        .await
        .unwrap();
    run.terminate(WorkflowTerminateOptions::default())
        .await
        .unwrap();
    with_worker(&client, worker(), async {
        for _ in 0..2 {
            // The answer does not matter; that the run is replayed for it does.
            let question = run.query(Listens::how_are_you, (), WorkflowQueryOptions::default());
            tokio::time::timeout(TIMEOUT, question).await.ok();
        }
        until("nothing is held any more", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(user_events(&ground, "listens"), ["listens"]);
}

/// Ends at once, and panics when it is asked.
#[workflow]
#[derive(Default)]
struct Touchy;

#[workflow_methods]
impl Touchy {
    #[run]
    async fn run(_ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        temporal_eventstore::publish(Event::new("touchy"));
        Ok(())
    }

    #[query]
    fn how_are_you(&self, _ctx: &WorkflowContextView) -> bool {
        panic!("on purpose")
    }
}

#[tokio::test]
async fn a_query_that_panics_beside_the_end_changes_nothing_about_the_end() {
    let (ground, events, client) = Ground::with_plugin().await;
    let run = client
        .start_workflow(Touchy::run, (), start("touchy"))
        .await
        .unwrap();
    let asks = |number: u32| {
        let run = client.get_workflow_handle::<Touchy>("touchy");
        async move {
            tokio::time::sleep(Duration::from_millis(u64::from(number) * 20)).await;
            let question = run.query(Touchy::how_are_you, (), WorkflowQueryOptions::default());
            tokio::time::timeout(TIMEOUT, question).await.ok();
        }
    };
    let options = WorkerOptions::new("orders")
        .register_workflow::<Touchy>()
        .unwrap()
        .build();
    // Some come with the task, some after it, while the SDK still has the run.
    let questions = futures::future::join_all((0..20).map(asks));
    with_worker(&client, options, async {
        let (_, result) = futures::join!(
            questions,
            run.get_result(WorkflowGetResultOptions::default())
        );
        result.unwrap();
        until("nothing is held any more", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "touchy"),
        ["workflow_start running", "workflow_end completed"]
    );
    assert_eq!(user_events(&ground, "touchy"), ["touchy"]);
}

/// Halts the server while an end is on its way to it.
struct HaltServer {
    server: u32,
    halted: AtomicBool,
}

fn signal(process: u32, name: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[async_trait::async_trait(?Send)]
impl WorkerInterceptor for HaltServer {
    async fn on_workflow_activation_completion(&self, completion: &WorkflowActivationCompletion) {
        if completion.has_complete_workflow_execution() {
            signal(self.server, "STOP");
            self.halted.store(true, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dropped_worker_held_is_settled_in_the_same_process() {
    let (ground, events, client) = Ground::with_plugin().await;
    let worker = || {
        WorkerOptions::new("orders")
            .register_workflow::<Hasty>()
            .unwrap()
    };
    client
        .start_workflow(
            Hasty::run,
            (),
            WorkflowStartOptions::new("orders", "dropped")
                .task_timeout(Duration::from_secs(1))
                .build(),
        )
        .await
        .unwrap();
    let server = ground.server.id();
    let options = worker()
        .worker_interceptor(HaltServer {
            server,
            halted: AtomicBool::new(false),
        })
        .build();
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut first = Worker::new(&runtime, client.clone(), options).unwrap();
    tokio::select! {
        result = first.run() => panic!("{result:?}"),
        () = until("the end is held", || events.stats().held == 1) => {}
    }
    drop(first);
    signal(server, "CONT");
    // A worker that is dropped stays registered with its client.
    let client = ground.client_with(&events).await;
    with_worker(&client, worker().build(), async {
        handle(&client, "dropped")
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        until("nothing is held any more", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "dropped"),
        ["workflow_start running", "workflow_end completed"]
    );
    assert_eq!(user_events(&ground, "dropped"), ["ended.with.0"]);
}

static ONE: OnceLock<EventStore> = OnceLock::new();
static TWO: OnceLock<EventStore> = OnceLock::new();
static SAID: AtomicU32 = AtomicU32::new(0);

fn say(what: &str, number: u32) {
    for store in [&ONE, &TWO] {
        let event = Event::new(what).data(json!({ "number": number }));
        drop(store.get().unwrap().publish(event));
    }
}

struct Says;

#[activities]
impl Says {
    #[activity]
    async fn locally(_ctx: ActivityContext, _input: ()) -> Result<u32, ActivityError> {
        let number = SAID.fetch_add(1, Ordering::SeqCst);
        say("said.locally", number);
        Ok(number)
    }

    #[activity]
    async fn remotely(_ctx: ActivityContext, number: u32) -> Result<(), ActivityError> {
        say("said.remotely", number);
        Ok(())
    }
}

/// Publishes to two stores, and panics once in between.
#[workflow]
#[derive(Default)]
struct TellsTwo;

#[workflow_methods]
impl TellsTwo {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<u32> {
        let local = LocalActivityOptions::builder()
            .start_to_close_timeout(TIMEOUT)
            .build();
        let number = ctx.execute_local_activity(Says::locally, (), local).await?;
        say("said", number);
        if number == 0 {
            panic!("on purpose");
        }
        let remote = ActivityOptions::start_to_close_timeout(TIMEOUT);
        ctx.execute_activity(Says::remotely, number, remote).await?;
        Ok(number)
    }
}

#[tokio::test]
async fn two_stores_on_one_client_each_keep_their_promises() {
    let ground = Ground::new().await;
    let (one, two) = (
        ground.directory.path().join("one.db"),
        ground.directory.path().join("two.db"),
    );
    let store = async |file: &std::path::Path| {
        EventStore::builder()
            .store(format!("sqlite:{}", file.display()))
            .build()
            .await
            .unwrap()
    };
    let stores = [store(&one).await, store(&two).await];
    ONE.set(stores[0].clone()).unwrap();
    TWO.set(stores[1].clone()).unwrap();
    let client = ground
        .connect(
            ClientOptions::new("default")
                .plugin(stores[0].plugin())
                .plugin(stores[1].plugin())
                .build(),
        )
        .await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<TellsTwo>()
        .unwrap()
        .register_activities(Says)
        .build();
    let number = with_worker(&client, options, async {
        outcome(&client, TellsTwo::run, (), "tells-two")
            .await
            .unwrap()
    })
    .await;
    assert_eq!(number, 1);
    for (events, file) in stores.iter().zip([one, two]) {
        events.shutdown(TIMEOUT).await.unwrap();
        let rows = rows(&file);
        let said: Vec<_> = rows
            .iter()
            .filter(|row| row.event_type != "application_events")
            .map(|row| (row.event_type.as_str(), row.data("number").as_u64()))
            .collect();
        assert_eq!(
            said,
            [
                ("said.locally", Some(1)),
                ("said", Some(1)),
                ("said.remotely", Some(1))
            ],
            "{}",
            file.display()
        );
        assert_eq!(
            lifecycle(&rows, "tells-two"),
            [
                "workflow_start running",
                "activity_start Says::locally 1",
                "activity_end Says::locally 1 completed",
                "activity_start Says::remotely 1",
                "activity_end Says::remotely 1 completed",
                "workflow_end completed",
            ]
        );
    }
}

struct Quietly;

#[activities]
impl Quietly {
    #[activity]
    async fn work(_ctx: ActivityContext, name: String) -> Result<(), ActivityError> {
        temporal_eventstore::publish(Event::new(name));
        Ok(())
    }
}

/// Runs one activity and ends: no task of it has anything to be stored.
#[workflow]
#[derive(Default)]
struct WorksQuietly;

#[workflow_methods]
impl WorksQuietly {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, locally: bool) -> WorkflowResult<()> {
        if locally {
            let local = LocalActivityOptions::builder()
                .start_to_close_timeout(TIMEOUT)
                .build();
            ctx.execute_local_activity(Quietly::work, "local".to_owned(), local)
                .await?;
        } else {
            let remote = ActivityOptions::start_to_close_timeout(TIMEOUT);
            ctx.execute_activity(Quietly::work, "remote".to_owned(), remote)
                .await?;
        }
        Ok(())
    }
}

/// What the next process would find, if this one were killed now: the journal's files as they are, and who
/// has them does not ask the store to hurry.
async fn durable(ground: &Ground) -> Vec<String> {
    let after = tempfile::tempdir().unwrap();
    let name = ground.file().file_name().unwrap().to_owned();
    for entry in ground.file().parent().unwrap().read_dir().unwrap() {
        let entry = entry.unwrap();
        let is_ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(name.as_encoded_bytes());
        if is_ours {
            std::fs::copy(entry.path(), after.path().join(entry.file_name())).unwrap();
        }
    }
    let file = after.path().join(name);
    let survivor = EventStore::builder()
        .store(format!("sqlite:{}", file.display()))
        .build()
        .await
        .unwrap();
    survivor.shutdown(TIMEOUT).await.unwrap();
    rusqlite::Connection::open(file)
        .unwrap()
        .prepare("SELECT event_type FROM events UNION ALL SELECT event_type FROM held ORDER BY 1")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[tokio::test]
async fn what_activities_publish_is_durable_before_their_result_without_their_lifecycle_too() {
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .lifecycle(LifecycleSelection::NONE)
        // What nobody waits for is not written while this test looks.
        .linger(Duration::from_secs(60))
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<WorksQuietly>()
        .unwrap()
        .register_activities(Quietly)
        .build();
    with_worker(&client, options, async {
        outcome(&client, WorksQuietly::run, false, "quiet-remote")
            .await
            .unwrap();
        assert_eq!(durable(&ground).await, ["remote"]);
        outcome(&client, WorksQuietly::run, true, "quiet-local")
            .await
            .unwrap();
        assert_eq!(durable(&ground).await, ["local", "remote"]);
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(user_events(&ground, "quiet-remote"), ["remote"]);
    assert_eq!(user_events(&ground, "quiet-local"), ["local"]);
}
