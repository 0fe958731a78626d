//! Nothing lost, nothing twice, nothing false, while everything fails: workers on one task queue under
//! a seeded schedule of `kill -9`, kills in loops faster than a workflow task, workers that stand still
//! for longer than a task may take, a server that restarts, a line that loses calls and answers, and
//! signals, updates, cancellations, terminations and timeouts from outside; workflow code that
//! publishes what differs at each execution. Then the reconciler, and all that was stored against the
//! server's histories, event by event.
//!
//! ```text
//! CHAOS_SEED=7 CHAOS_WORKFLOWS=300 CHAOS_KILLS=20 CHAOS_LONGEST_PAUSE=40 cargo nextest run \
//!     --all-features chaos::whatever_fails
//! scripts/chaos.sh 1 50
//! ```

mod database;
mod dice;
mod fleet;
mod load;
mod places;
mod script;
mod settle;
mod storm;

use crate::support::{Ground, Row, compare::Source, lossy_line::LossyLine, rows};
use load::Resets;
use places::Place;
use settle::{Outcome, ask_for_what_is_held, drain, judge, reconcile, store_of};
use std::{collections::BTreeMap, path::PathBuf, time::Instant};
use storm::{Settings, Storm, any_fault, calm};

/// All journals as one store: an id that two have is one event, and must say the same. What a worker
/// saw counts for more than what the reconciler of another one made of the history.
fn united(files: &[PathBuf], resets: &Resets) -> (Vec<Row>, Vec<String>) {
    // Two attempts of an activity that was reset may have one id where journals differ.
    let resets = resets.lock().unwrap();
    let is_reset = |row: &Row| {
        let name = row.workflow_id.clone().zip(row.activity_id.clone());
        name.is_some_and(|name| resets.contains(&name))
    };
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
            let is_less_known =
                is_end_of_attempt && row.is_of_reconciler() != other.is_of_reconciler();
            if !agree && !is_less_known && !is_reset(&row) {
                contradictions.push(format!("{}\n  {}", other.event, row.event));
            }
            if other.is_of_reconciler() {
                union.insert(row.event_id.clone(), row);
            }
        }
    }
    (union.into_values().collect(), contradictions)
}

/// Two workers, each with a journal of its own.
// The line must go on while a worker's start is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_nothing_is_lost_repeated_or_invented() {
    let settings = Settings::from_env(120, 8);
    let began = Instant::now();
    let mut ground = Ground::with_lasting_server().await;
    let clients = [ground.client().await];
    // One worker talks to the server directly, the other through a bad line.
    let line = LossyLine::to(ground.server.port(), any_fault(&settings)).await;
    let files: Vec<PathBuf> = (0..2)
        .map(|number| ground.directory.path().join(format!("events-{number}.db")))
        .collect();
    let address = ground.server.address();
    let mut places = [
        Place::new("default", address.clone(), Some(files[0].clone()), None),
        Place::new("default", line.url(), Some(files[1].clone()), None),
    ];
    let resets = Resets::default();
    let storm = Storm {
        settings: &settings,
        ground: &mut ground,
        clients: &clients,
        places: &mut places,
        database: None,
        resets: resets.clone(),
    };
    let faults = storm.rage().await;
    calm(&ground, &clients, &settings).await;
    ask_for_what_is_held(&mut places, &address, &settings).await;
    // What no worker saw, one of the journals gets from the server.
    let events = store_of(&places[0]).await;
    let reconciled = reconcile(&events, &clients).await;
    drain(events).await;
    let (rows, contradictions) = united(&files, &resets);
    let outcome = Outcome {
        settings: &settings,
        faults: &faults,
        resets: &resets,
        lost_calls: line.faults().values().sum(),
        reconciled,
        began,
    };
    judge(Source::Reconciled, &ground, &clients, &rows, outcome).await;
    assert!(
        contradictions.is_empty(),
        "seed {}: one id, two stories:\n{}",
        settings.seed,
        contradictions.join("\n")
    );
}
