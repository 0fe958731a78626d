//! Fleets: workers of two namespaces that deliver to one PostgreSQL, which crashes and comes back
//! meanwhile. In the end PostgreSQL alone is held against the server's histories.

use super::{
    database,
    load::Resets,
    places::Place,
    settle::{Outcome, ask_for_what_is_held, drain, judge, reconcile, store_of},
    storm::{Faults, Settings, Storm, any_fault, calm},
};
use crate::support::{Ground, compare::Source, lossy_line::LossyLine, servers::Server};
use std::time::Instant;
use temporalio_client::ClientOptions;

const NAMESPACES: [&str; 2] = ["default", "second"];
/// Workers of each namespace: one that talks to the server directly, one through a bad line.
const WORKERS: usize = 2;

struct Fleet {
    settings: Settings,
    began: Instant,
    ground: Ground,
    clients: Vec<temporalio_client::Client>,
    places: Vec<Place>,
    line: LossyLine,
    database: Server,
    resets: Resets,
}

impl Fleet {
    async fn new(settings: Settings, has_journals: bool) -> Self {
        let began = Instant::now();
        let ground = Ground::with_lasting_server_and(&["--namespace", NAMESPACES[1]]).await;
        let database = tokio::task::block_in_place(Server::postgres);
        let line = LossyLine::to(ground.server.port(), any_fault(&settings)).await;
        let mut clients = Vec::new();
        let mut places = Vec::new();
        for namespace in NAMESPACES {
            clients.push(ground.connect(ClientOptions::new(namespace).build()).await);
            for number in 0..WORKERS {
                let address = match number {
                    0 => ground.server.address(),
                    _ => line.url(),
                };
                let file = format!("{namespace}-{number}.db");
                let journal = has_journals.then(|| ground.directory.path().join(file));
                let sink = Some(database::url(&database));
                places.push(Place::new(namespace, address, journal, sink));
            }
        }
        Self {
            settings,
            began,
            ground,
            clients,
            places,
            line,
            database,
            resets: Resets::default(),
        }
    }

    async fn storm(&mut self) -> Faults {
        let storm = Storm {
            settings: &self.settings,
            ground: &mut self.ground,
            clients: &self.clients,
            places: &mut self.places,
            database: Some(&mut self.database),
            resets: self.resets.clone(),
        };
        let faults = storm.rage().await;
        calm(&self.ground, &self.clients, &self.settings).await;
        let address = self.ground.server.address();
        ask_for_what_is_held(&mut self.places, &address, &self.settings).await;
        faults
    }

    async fn judge(&self, source: Source, faults: &Faults, reconciled: u64) {
        let rows = database::rows(&self.database).await;
        let outcome = Outcome {
            settings: &self.settings,
            faults,
            resets: &self.resets,
            lost_calls: self.line.faults().values().sum(),
            reconciled,
            began: self.began,
        };
        judge(source, &self.ground, &self.clients, &rows, outcome).await;
    }
}

/// Each worker with a journal of its own: the database has everything in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_with_journals_fills_one_database() {
    let mut fleet = Fleet::new(Settings::from_env(100, 6), true).await;
    let faults = fleet.storm().await;
    for place in &fleet.places {
        drain(store_of(place).await).await;
    }
    let events = store_of(&fleet.places[0]).await;
    let reconciled = reconcile(&events, &fleet.clients).await;
    drain(events).await;
    fleet.judge(Source::Reconciled, &faults, reconciled).await;
}

/// No worker has a journal: what a killed one had not delivered is lost, unless history knows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_without_journals_invents_and_repeats_nothing() {
    let mut fleet = Fleet::new(Settings::from_env(100, 6), false).await;
    let faults = fleet.storm().await;
    let events = store_of(&fleet.places[0]).await;
    let reconciled = reconcile(&events, &fleet.clients).await;
    drain(events).await;
    fleet.judge(Source::Lossy, &faults, reconciled).await;
}
