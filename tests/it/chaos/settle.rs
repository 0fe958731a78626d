//! After the storm: what is held is asked for, journals are drained, the reconciler adds what no worker
//! saw, and the store is held against the server's histories.

use super::{
    load::Resets,
    places::{Place, held},
    storm::{Faults, Settings},
};
use crate::support::{
    Ground, Row,
    compare::{Differences, RunHistory, Source, compare_with, state_of},
    histories,
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use temporal_eventstore::{EventStore, Reconciler, ReconcilerOptions};
use temporalio_client::Client;

/// What is unclear is asked for when workers start, and by then the server knows.
pub async fn ask_for_what_is_held(places: &mut [Place], address: &str, settings: &Settings) {
    for place in places.iter_mut() {
        place.kill();
        place.address = address.to_owned();
        place.start("1000");
    }
    let journals: Vec<PathBuf> = places
        .iter()
        .filter_map(|place| place.journal.clone())
        .collect();
    let waiting = Instant::now();
    while journals.iter().any(|file| held(file) > 0) {
        assert!(
            waiting.elapsed() < Duration::from_secs(60),
            "seed {}: ends stay held",
            settings.seed
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for place in places {
        assert!(place.stop(), "seed {}", settings.seed);
    }
    settings.phase("what was held is settled");
}

/// Opens a store where a worker had its own.
pub async fn store_of(place: &Place) -> EventStore {
    let (url, journal) = match (&place.sink, &place.journal) {
        (Some(sink), journal) => (sink.clone(), journal.clone()),
        (None, Some(file)) => (format!("sqlite:{}", file.display()), None),
        (None, None) => panic!("a place needs somewhere to put events"),
    };
    EventStore::builder()
        .store(url)
        .maybe_journal(journal)
        .build()
        .await
        .unwrap()
}

/// Closes a store when its sinks have everything.
pub async fn drain(events: EventStore) {
    events.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Adds what no worker saw, and tells how much that was.
pub async fn reconcile(events: &EventStore, clients: &[Client]) -> u64 {
    let mut added = 0;
    for client in clients {
        let options = ReconcilerOptions::builder()
            .grace(Duration::ZERO)
            .requests_per_second(1000)
            .build();
        let far_past = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let far_future = SystemTime::now() + Duration::from_secs(60);
        let found = Reconciler::new(events, client, options)
            .backfill(far_past..far_future)
            .await
            .unwrap();
        added += found.added();
    }
    added
}

/// Compares, prints the line of the table, and fails if there is a difference.
pub async fn judge(
    source: Source,
    ground: &Ground,
    clients: &[Client],
    rows: &[Row],
    outcome: Outcome<'_>,
) {
    let mut runs = Vec::new();
    for client in clients {
        runs.extend(histories(ground, client).await);
    }
    let resets = outcome.resets.lock().unwrap();
    for run in &mut runs {
        let of_it = resets.iter().filter(|reset| reset.0 == run.workflow_id);
        run.reset_activities = of_it.map(|reset| reset.1.clone()).collect();
    }
    drop(resets);
    outcome.settings.phase("drained, reconciled and read");
    let mut differences = compare_with(source, &runs, rows);
    every_order_that_completed_shipped(source, &runs, rows, &mut differences);
    outcome.print(&runs, rows, &differences);
    assert!(
        differences.is_empty(),
        "seed {}\n{differences}",
        outcome.settings.seed
    );
}

/// How it went, for the table.
pub struct Outcome<'a> {
    pub settings: &'a Settings,
    pub faults: &'a Faults,
    pub resets: &'a Resets,
    pub lost_calls: usize,
    pub reconciled: u64,
    pub began: Instant,
}

impl Outcome<'_> {
    /// seed | runs | events | kills | stops | restarts | faults | reconciled | missing / duplicate /
    /// phantom / wrong | s
    fn print(&self, runs: &[RunHistory], rows: &[Row], differences: &Differences) {
        let mut states = BTreeMap::<&str, usize>::new();
        for run in runs {
            *states
                .entry(state_of(run.status).unwrap_or("open"))
                .or_default() += 1;
        }
        println!(
            "{states:?}, {} activities reset, may be lost: {}",
            self.resets.lock().unwrap().len(),
            differences.lost.len()
        );
        let restarts = match self.faults.database_crashes {
            0 => self.faults.server_restarts.to_string(),
            crashes => format!("{} + {crashes}", self.faults.server_restarts),
        };
        println!(
            "| {} | {} | {} | {} | {} | {restarts} | {} | {} | {} / {} / {} / {} | {:.0} |",
            self.settings.seed,
            runs.len(),
            rows.len(),
            self.faults.kills,
            self.faults.standstills,
            self.lost_calls,
            self.reconciled,
            differences.missing.len(),
            differences.duplicate.len(),
            differences.phantom.len(),
            differences.wrong_outcome.len(),
            self.began.elapsed().as_secs_f64()
        );
    }
}

/// What activities publish by hand is there, too.
fn every_order_that_completed_shipped(
    source: Source,
    runs: &[RunHistory],
    rows: &[Row],
    differences: &mut Differences,
) {
    for run in runs.iter().filter(|run| {
        run.workflow_id.starts_with("Order-") && state_of(run.status) == Some("completed")
    }) {
        let is_there = rows
            .iter()
            .any(|row| row.event_type == "order.shipped" && row.is_of(&run.workflow_id));
        let what = || format!("order.shipped of {}", run.workflow_id);
        match source {
            _ if is_there => {}
            Source::Lossy => differences.lost.push(what()),
            _ => differences.missing.push(what()),
        }
    }
}
