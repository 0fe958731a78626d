//! Nothing lost, nothing twice, nothing false, while workers are killed at random moments: two
//! workers on one task queue, each with a journal of its own, `kill -9` in a seeded schedule, signals
//! and cancellations from outside; then both journals together against the server's histories.
//!
//! ```text
//! CHAOS_SEED=7 CHAOS_WORKFLOWS=400 CHAOS_KILLS=25 cargo nextest run --test chaos
//! ```

mod support;

use fastrand::Rng;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use support::{
    Ground, Program, Row,
    compare::{RunHistory, compare, state_of},
    example, handle, history, rows, start, start_worker, workflows,
};
use temporalio_client::{Client, UntypedWorkflow, WorkflowCancelOptions, WorkflowSignalOptions};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} holds {text:?}, which is no number")),
        Err(_) => default,
    }
}

/// A worker's place: its journal stays, the processes come and go.
struct Place {
    file: PathBuf,
    process: Option<Program>,
}

impl Place {
    fn start(&mut self, ground: &Ground, cache: &str) {
        let mut command: Command = example("worker");
        command
            .env("TEMPORAL_ADDRESS", ground.server.address())
            .env("EVENTSTORE_URL", format!("sqlite:{}", self.file.display()))
            .env("RUST_LOG", "off")
            .args(["--max-cached-workflows", cache]);
        self.process = Some(start_worker(&mut command));
    }

    fn kill(&mut self) {
        // Dropping a program is `kill -9`.
        self.process = None;
    }
}

const KINDS: [&str; 7] = ["Noop", "Order", "Fail", "Local", "Parent", "Chain", "Wait"];

async fn start_one(client: &Client, rng: &mut Rng, number: usize) {
    let kind = KINDS[rng.usize(..KINDS.len())];
    let converter = PayloadConverter::default();
    let input = if kind == "Chain" {
        RawValue::from_value(&rng.u64(0..3), &converter)
    } else {
        RawValue::from_value(&(), &converter)
    };
    let id = format!("{kind}-{number}");
    client
        .start_workflow(UntypedWorkflow::new(kind), input, start(&id))
        .await
        .unwrap();
    if kind == "Wait" {
        // Some are ended by a signal, some by a cancellation, in a moment that may be any.
        let cancel = rng.bool();
        let pause = Duration::from_millis(rng.u64(0..3000));
        let client = client.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if cancel {
                handle(&client, &id)
                    .cancel(WorkflowCancelOptions::default())
                    .await
                    .unwrap();
            } else {
                client
                    .get_workflow_handle::<workflows::Wait>(&id)
                    .signal(
                        workflows::Wait::finish,
                        (),
                        WorkflowSignalOptions::default(),
                    )
                    .await
                    .unwrap();
            }
        });
    }
}

async fn all_closed(ground: &Ground, client: &Client, at_least: usize) -> bool {
    let runs = ground.runs(client).await;
    runs.len() >= at_least && runs.iter().all(|run| state_of(run.status()).is_some())
}

/// Both journals as one store: an id that both have is one event, and must say the same.
fn united(files: &[PathBuf]) -> (Vec<Row>, Vec<String>) {
    let mut union: BTreeMap<String, Row> = BTreeMap::new();
    let mut contradictions = Vec::new();
    for file in files {
        for row in rows(file) {
            match union.get(&row.event_id) {
                None => {
                    union.insert(row.event_id.clone(), row);
                }
                Some(other) => {
                    if other.event_name != row.event_name
                        || other.workflow_state != row.workflow_state
                        || other.data("status") != row.data("status")
                    {
                        contradictions.push(format!("{}\n  {}", other.event, row.event));
                    }
                }
            }
        }
    }
    (union.into_values().collect(), contradictions)
}

#[tokio::test]
async fn killed_workers_lose_repeat_and_invent_nothing() {
    let seed = setting("CHAOS_SEED", 1_u64);
    let workflows = setting("CHAOS_WORKFLOWS", 120_usize);
    let kills = setting("CHAOS_KILLS", 8_usize);
    println!("CHAOS_SEED={seed} CHAOS_WORKFLOWS={workflows} CHAOS_KILLS={kills}");
    let mut rng = Rng::with_seed(seed);

    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut places: Vec<Place> = (0..2)
        .map(|number| Place {
            file: ground.directory.path().join(format!("events-{number}.db")),
            process: None,
        })
        .collect();
    let files: Vec<PathBuf> = places.iter().map(|place| place.file.clone()).collect();
    // A small cache now and then, so that runs are evicted and replayed as well.
    let caches = ["1000", "1000", "2", "0"];
    for place in &mut places {
        place.start(&ground, caches[rng.usize(..caches.len())]);
    }

    let mut started = 0;
    for kill in 0..kills {
        // A share of the load before each kill, some of it at the very moment.
        let until = workflows * (kill + 1) / kills;
        while started < until {
            start_one(&client, &mut rng, started).await;
            started += 1;
            if rng.usize(..4) == 0 {
                tokio::time::sleep(Duration::from_millis(rng.u64(0..40))).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..600))).await;
        let place = &mut places[rng.usize(..2)];
        place.kill();
        tokio::time::sleep(Duration::from_millis(rng.u64(0..500))).await;
        place.start(&ground, caches[rng.usize(..caches.len())]);
    }

    let began = Instant::now();
    while !all_closed(&ground, &client, workflows).await {
        assert!(
            began.elapsed() < Duration::from_secs(150),
            "seed {seed}: workflows do not end"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // What is unclear is asked for when workers start, and by then the server knows.
    for place in &mut places {
        place.process.take().unwrap().terminate();
        place.start(&ground, "1000");
    }
    let began = Instant::now();
    while files.iter().any(|file| held(file) > 0) {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "seed {seed}: ends stay held"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for place in &mut places {
        assert!(place.process.take().unwrap().terminate().success());
    }

    let mut runs = Vec::new();
    for run in ground.runs(&client).await {
        let status = run.status();
        let execution = run.execution.unwrap_or_default();
        let events = history(&client, &execution.workflow_id, &execution.run_id).await;
        runs.push(RunHistory {
            workflow_id: execution.workflow_id,
            run_id: execution.run_id,
            status,
            events,
        });
    }
    let (rows, contradictions) = united(&files);
    assert!(
        contradictions.is_empty(),
        "seed {seed}: one id, two stories:\n{}",
        contradictions.join("\n")
    );
    let differences = compare(&runs, &rows);
    assert!(differences.is_empty(), "seed {seed}\n{differences}");
    // Every `Order` ships once per attempt that came so far, and at least once.
    let mut shipped: HashMap<&str, usize> = HashMap::new();
    for row in rows.iter().filter(|row| row.event_type == "order.shipped") {
        *shipped
            .entry(row.workflow_id.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    for run in runs
        .iter()
        .filter(|run| run.workflow_id.starts_with("Order-"))
    {
        assert!(
            shipped.contains_key(run.workflow_id.as_str()),
            "seed {seed}: {} shipped nothing",
            run.workflow_id
        );
    }
    println!(
        "seed {seed}: {} runs, {} events, {kills} kills: 0 missing, 0 duplicate, 0 phantom, 0 wrong",
        runs.len(),
        rows.len()
    );
}

fn held(file: &std::path::Path) -> i64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
        .query_row("SELECT COUNT(*) FROM held", [], |row| row.get(0))
        .unwrap()
}
