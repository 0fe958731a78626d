//! Nothing lost, nothing twice, nothing false, while everything fails: workers on one task queue, each
//! with a journal of its own, under a seeded schedule of `kill -9`, kills in loops faster than a
//! workflow task, workers that stand still for longer than a task may take, a server that restarts, a
//! line that loses calls and answers, and signals, cancellations, terminations and timeouts from
//! outside. Then the reconciler, and all journals together against the server's histories.
//!
//! ```text
//! CHAOS_SEED=7 CHAOS_WORKFLOWS=400 CHAOS_KILLS=25 CHAOS_LONGEST_PAUSE=40 cargo nextest run \
//!     --all-features --test chaos
//! ```

mod support;

use fastrand::Rng;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use support::{
    Ground, Program, Row,
    compare::{Source, compare_with, state_of},
    example, handle, histories,
    lossy_line::{Fault, LossyLine, Plan},
    rows, start_worker, workflows,
};
use temporal_eventstore::{EventStore, Reconciler, ReconcilerOptions};
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowCancelOptions, WorkflowSignalOptions, WorkflowStartOptions,
    WorkflowTerminateOptions,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

/// Short, so that a task that is lost with its worker comes again soon.
const TASK_TIMEOUT: Duration = Duration::from_secs(2);
const WORKERS: usize = 2;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} holds {text:?}, which is no number")),
        Err(_) => default,
    }
}

/// What went wrong on purpose, by kind.
#[derive(Debug, Default)]
struct Faults {
    kills: usize,
    standstills: usize,
    server_restarts: usize,
}

/// A worker's place: its journal stays, the processes come and go.
struct Place {
    file: PathBuf,
    address: String,
    process: Option<Program>,
}

impl Place {
    fn start(&mut self, cache: &str) {
        let mut command: Command = example("worker");
        command
            .env("TEMPORAL_ADDRESS", &self.address)
            .env("EVENTSTORE_URL", format!("sqlite:{}", self.file.display()))
            .env("RUST_LOG", "off")
            // Beside the workers, so that both ways of finding an end run at once.
            .args(["--max-cached-workflows", cache, "--reconcile", "2"]);
        self.process = Some(start_worker(&mut command));
    }

    fn kill(&mut self) {
        // Dropping a program is `kill -9`.
        self.process = None;
    }
}

/// Faults on any call but those that start a worker and those that fetch tasks.
fn any_fault(seed: u64) -> Plan {
    let rng = Mutex::new(Rng::with_seed(seed));
    Arc::new(move |name| {
        let mut rng = rng.lock().unwrap();
        let spared =
            name.starts_with("Poll") || name.starts_with("Get") || name == "DescribeNamespace";
        if spared || rng.u32(..100) >= 8 {
            return None;
        }
        let pause = Duration::from_millis(rng.u64(..2500));
        Some(match rng.u32(..6) {
            0 | 1 => Fault::LoseAnswer,
            2 => Fault::LoseCall,
            3 => Fault::DelayCall(pause),
            4 => Fault::DelayAnswer(pause),
            _ => Fault::CutConnection,
        })
    })
}

const KINDS: [&str; 9] = [
    "Noop", "Order", "Fail", "Local", "Parent", "Chain", "Wait", "Wait", "Slow",
];

/// What is done to a workflow from outside.
#[derive(Clone, Copy)]
enum Act {
    Signal,
    Cancel,
    Terminate,
    SignalAndTerminate,
    Leave,
}

async fn act(client: &Client, id: &str, act: Act) {
    // Refused when the workflow has ended or the server restarts; both are part of the game, but a
    // workflow that nothing else ends must get its signal.
    for _ in 0..100 {
        let workflow = handle(client, id);
        let terminate = || {
            let options = WorkflowTerminateOptions::builder().reason("chaos").build();
            workflow.terminate(options)
        };
        let waiting = client.get_workflow_handle::<workflows::Wait>(id);
        let signal = || {
            waiting.signal(
                workflows::Wait::finish,
                (),
                WorkflowSignalOptions::default(),
            )
        };
        let done = match act {
            Act::Leave => return,
            Act::Signal => signal().await.is_ok(),
            Act::Cancel => workflow
                .cancel(WorkflowCancelOptions::default())
                .await
                .is_ok(),
            Act::Terminate => terminate().await.is_ok(),
            Act::SignalAndTerminate => {
                signal().await.ok();
                terminate().await.is_ok()
            }
        };
        if done {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn start_one(client: &Client, rng: &mut Rng, number: usize) {
    let kind = KINDS[rng.usize(..KINDS.len())];
    let converter = PayloadConverter::default();
    let input = match kind {
        "Chain" => RawValue::from_value(&rng.u64(0..3), &converter),
        "Slow" => RawValue::from_value(&rng.u64(0..2), &converter),
        _ => RawValue::from_value(&(), &converter),
    };
    let id = format!("{kind}-{number}");
    let mut options = WorkflowStartOptions::new("orders", &id)
        .task_timeout(TASK_TIMEOUT)
        .build();
    let what = match (kind, rng.u32(..6)) {
        ("Wait", 0 | 1) => Act::Signal,
        ("Wait", 2) => Act::Cancel,
        ("Wait", 3) => Act::Terminate,
        ("Wait", 4) => Act::SignalAndTerminate,
        ("Wait", _) => {
            options.run_timeout = Some(Duration::from_millis(rng.u64(1000..6000)));
            Act::Leave
        }
        (_, 0) => Act::Terminate,
        _ => Act::Leave,
    };
    let pause = Duration::from_millis(rng.u64(0..3000));
    // A start whose answer was lost with the server is found to be there already.
    let began = Instant::now();
    loop {
        let started = client
            .start_workflow(UntypedWorkflow::new(kind), input.clone(), options.clone())
            .await;
        match started {
            Ok(_) => break,
            Err(error) if error.to_string().to_lowercase().contains("already") => break,
            Err(error) => assert!(
                began.elapsed() < Duration::from_secs(90),
                "{id} cannot be started: {error}"
            ),
        }
    }
    let client = client.clone();
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        act(&client, &id, what).await;
    });
}

async fn all_closed(ground: &Ground, client: &Client, at_least: usize) -> bool {
    let runs = ground.runs(client).await;
    runs.len() >= at_least && runs.iter().all(|run| state_of(run.status()).is_some())
}

/// All journals as one store: an id that two have is one event, and must say the same. What a worker
/// saw counts for more than what the reconciler of another one made of the history.
fn united(files: &[PathBuf]) -> (Vec<Row>, Vec<String>) {
    let by_reconciler = |row: &Row| row.metadata("detected_by").as_str() == Some("reconciler");
    let mut union: BTreeMap<String, Row> = BTreeMap::new();
    let mut contradictions = Vec::new();
    for file in files {
        for row in rows(file) {
            let Some(other) = union.get(&row.event_id) else {
                union.insert(row.event_id.clone(), row);
                continue;
            };
            let is_end_of_attempt = row.event_name == "activity_end";
            let agree = other.event_name == row.event_name
                && other.workflow_state == row.workflow_state
                && other.data("status") == row.data("status");
            let is_less_known = is_end_of_attempt && by_reconciler(&row) != by_reconciler(other);
            if !agree && !is_less_known {
                contradictions.push(format!("{}\n  {}", other.event, row.event));
            }
            if by_reconciler(other) {
                union.insert(row.event_id.clone(), row);
            }
        }
    }
    (union.into_values().collect(), contradictions)
}

fn held(file: &Path) -> i64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
        .query_row("SELECT COUNT(*) FROM held", [], |row| row.get(0))
        .unwrap()
}

// The line must go on while a worker's start is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_nothing_is_lost_repeated_or_invented() {
    let seed = setting("CHAOS_SEED", 1_u64);
    let workflows = setting("CHAOS_WORKFLOWS", 120_usize);
    let kills = setting("CHAOS_KILLS", 8_usize);
    // Seconds that a killed worker may stay away.
    let longest_pause = setting("CHAOS_LONGEST_PAUSE", 2_u64);
    println!(
        "CHAOS_SEED={seed} CHAOS_WORKFLOWS={workflows} CHAOS_KILLS={kills} \
         CHAOS_LONGEST_PAUSE={longest_pause}"
    );
    let mut rng = Rng::with_seed(seed);
    let began = Instant::now();

    let mut ground = Ground::with_lasting_server().await;
    let client = ground.client().await;
    // One worker talks to the server directly, the others through a bad line.
    let line = LossyLine::to(ground.server.port(), any_fault(seed)).await;
    let mut places: Vec<Place> = (0..WORKERS)
        .map(|number| Place {
            file: ground.directory.path().join(format!("events-{number}.db")),
            address: match number {
                0 => ground.server.address(),
                _ => line.url(),
            },
            process: None,
        })
        .collect();
    let files: Vec<PathBuf> = places.iter().map(|place| place.file.clone()).collect();
    // A small cache now and then, so that runs are evicted and replayed as well.
    let caches = ["1000", "1000", "2", "0"];
    for place in &mut places {
        place.start(caches[rng.usize(..caches.len())]);
    }

    let mut faults = Faults::default();
    let mut started = 0;
    while faults.kills < kills {
        // A share of the load before each fault, some of it at the very moment.
        let until = workflows * (faults.kills + 1) / kills;
        while started < until {
            start_one(&client, &mut rng, started).await;
            started += 1;
            if rng.usize(..4) == 0 {
                tokio::time::sleep(Duration::from_millis(rng.u64(0..40))).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..600))).await;
        let cache = caches[rng.usize(..caches.len())];
        let index = rng.usize(..WORKERS);
        let place = &mut places[index];
        match rng.u32(..10) {
            // Longer than a workflow task may take: the server gives the task to another worker.
            0 => {
                faults.standstills += 1;
                let process = place.process.as_ref().unwrap();
                process.signal("STOP");
                let longer = TASK_TIMEOUT + Duration::from_millis(rng.u64(300..2000));
                tokio::time::sleep(longer).await;
                process.signal("CONT");
            }
            1 if faults.server_restarts < 3 => {
                faults.server_restarts += 1;
                ground
                    .restart_server(Duration::from_millis(rng.u64(0..1500)))
                    .await;
            }
            // Again and again, faster than a workflow task.
            2 => {
                for _ in 0..rng.usize(3..6) {
                    place.kill();
                    faults.kills += 1;
                    place.start(cache);
                    tokio::time::sleep(Duration::from_millis(rng.u64(0..120))).await;
                }
            }
            _ => {
                place.kill();
                faults.kills += 1;
                let mut pause = Duration::from_millis(rng.u64(0..500));
                if rng.usize(..8) == 0 {
                    pause = Duration::from_millis(rng.u64(0..=longest_pause * 1000));
                }
                tokio::time::sleep(pause).await;
                place.start(cache);
            }
        }
    }
    while started < workflows {
        start_one(&client, &mut rng, started).await;
        started += 1;
    }

    let waiting = Instant::now();
    while !all_closed(&ground, &client, workflows).await {
        assert!(
            waiting.elapsed() < Duration::from_secs(150),
            "seed {seed}: workflows do not end"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // What is unclear is asked for when workers start, and by then the server knows.
    for place in &mut places {
        place.kill();
        place.address = ground.server.address();
        place.start("1000");
    }
    let waiting = Instant::now();
    while files.iter().any(|file| held(file) > 0) {
        assert!(
            waiting.elapsed() < Duration::from_secs(60),
            "seed {seed}: ends stay held"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for place in &mut places {
        assert!(place.process.take().unwrap().terminate().success());
    }
    // What no worker saw, one of the journals gets from the server.
    let events = EventStore::builder()
        .url(format!("sqlite:{}", files[0].display()))
        .build()
        .await
        .unwrap();
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(1000)
        .build();
    let reconciled = Reconciler::new(&events, &client, options)
        .backfill(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)..far_future())
        .await
        .unwrap();
    events.shutdown(Duration::from_secs(10)).await.unwrap();

    let runs = histories(&ground, &client).await;
    let (rows, contradictions) = united(&files);
    assert!(
        contradictions.is_empty(),
        "seed {seed}: one id, two stories:\n{}",
        contradictions.join("\n")
    );
    let differences = compare_with(Source::Reconciled, &runs, &rows);
    assert!(differences.is_empty(), "seed {seed}\n{differences}");
    every_order_that_completed_shipped(&runs, &rows, seed);
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for run in &runs {
        *outcomes.entry(state_of(run.status).unwrap()).or_default() += 1;
    }
    let (events, restarts) = (rows.len(), faults.server_restarts);
    let lost = line.faults().values().sum::<usize>();
    println!(
        "| {seed} | {} | {events} | {} | {} | {restarts} | {lost} | {} | {outcomes:?} | 0 | 0 | 0 | 0 | {:.0} |",
        runs.len(),
        faults.kills,
        faults.standstills,
        reconciled.added(),
        began.elapsed().as_secs_f64()
    );
}

fn far_future() -> std::time::SystemTime {
    std::time::SystemTime::now() + Duration::from_secs(60)
}

/// What activities publish by hand is there, too.
fn every_order_that_completed_shipped(
    runs: &[support::compare::RunHistory],
    rows: &[Row],
    seed: u64,
) {
    let mut shipped: HashMap<&str, usize> = HashMap::new();
    for row in rows.iter().filter(|row| row.event_type == "order.shipped") {
        *shipped
            .entry(row.workflow_id.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    for run in runs.iter().filter(|run| {
        run.workflow_id.starts_with("Order-") && state_of(run.status) == Some("completed")
    }) {
        assert!(
            shipped.contains_key(run.workflow_id.as_str()),
            "seed {seed}: {} shipped nothing",
            run.workflow_id
        );
    }
}
