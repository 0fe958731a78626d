//! The seeded schedule of faults: workers are killed, stand still and come back, the server and the
//! database restart, while workflows are started.

use super::{
    load::{Resets, TASK_TIMEOUT, start_one},
    places::Place,
};
use crate::support::{
    Ground,
    compare::state_of,
    handle, history,
    lossy_line::{Fault, Plan},
    servers::Server,
};
use fastrand::Rng;
use futures::StreamExt as _;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use temporalio_client::{Client, WorkflowTerminateOptions};
use temporalio_common::protos::temporal::api::workflow::v1::WorkflowExecutionInfo;

pub struct Settings {
    began: Instant,
    pub seed: u64,
    pub workflows: usize,
    pub kills: usize,
    /// Seconds that a killed worker may stay away.
    pub longest_pause: u64,
    pub resets: bool,
    /// Calls and answers of one worker in two are lost, late or cut.
    pub has_bad_line: bool,
    /// Nothing is done to workflows from outside, and none of their tasks fails: what the tests' own
    /// differences are.
    pub is_peaceful: bool,
    /// Prints each fault.
    pub is_loud: bool,
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} holds {text:?}, which is no number")),
        Err(_) => default,
    }
}

impl Settings {
    pub fn from_env(workflows: usize, kills: usize) -> Self {
        let settings = Self {
            began: Instant::now(),
            seed: setting("CHAOS_SEED", 1),
            workflows: setting("CHAOS_WORKFLOWS", workflows),
            kills: setting("CHAOS_KILLS", kills),
            longest_pause: setting("CHAOS_LONGEST_PAUSE", 2),
            resets: setting("CHAOS_RESETS", 0_u8) > 0,
            has_bad_line: setting("CHAOS_BAD_LINE", 1_u8) > 0,
            is_peaceful: setting("CHAOS_PEACE", 0_u8) > 0,
            is_loud: setting("CHAOS_LOUD", 0_u8) > 0,
        };
        println!(
            "CHAOS_SEED={} CHAOS_WORKFLOWS={} CHAOS_KILLS={} CHAOS_LONGEST_PAUSE={} \
             CHAOS_RESETS={} CHAOS_BAD_LINE={}",
            settings.seed,
            settings.workflows,
            settings.kills,
            settings.longest_pause,
            u8::from(settings.resets),
            u8::from(settings.has_bad_line)
        );
        settings
    }

    /// Says how long it took until here.
    pub fn phase(&self, what: &str) {
        println!("{:.1} s: {what}", self.began.elapsed().as_secs_f64());
    }
}

/// What went wrong on purpose, by kind.
#[derive(Debug, Default)]
pub struct Faults {
    pub kills: usize,
    pub standstills: usize,
    pub server_restarts: usize,
    pub database_crashes: usize,
}

/// Faults on any call but those that start a worker and those that fetch tasks.
pub fn any_fault(settings: &Settings) -> Plan {
    if !settings.has_bad_line || settings.is_peaceful {
        return Arc::new(|_| None);
    }
    let rng = Mutex::new(Rng::with_seed(settings.seed));
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

/// A small cache now and then, so that runs are evicted and replayed as well.
const CACHES: [&str; 4] = ["1000", "1000", "2", "0"];

/// How many workflows are started at the same time.
const STARTS_AT_ONCE: usize = 8;

pub struct Storm<'a> {
    pub settings: &'a Settings,
    pub ground: &'a mut Ground,
    /// One for each namespace.
    pub clients: &'a [Client],
    pub places: &'a mut [Place],
    pub database: Option<&'a mut Server>,
    pub resets: Resets,
}

impl Storm<'_> {
    /// Runs until all workflows are started and all kills are done; everything is up again then.
    pub async fn rage(mut self) -> Faults {
        let mut rng = Rng::with_seed(self.settings.seed);
        for place in self.places.iter_mut() {
            let cache = CACHES[rng.usize(..CACHES.len())];
            place.start(if self.settings.is_peaceful {
                CACHES[0]
            } else {
                cache
            });
        }
        let (workflows, kills) = (self.settings.workflows, self.settings.kills);
        let mut faults = Faults::default();
        let mut started = 0;
        let mut database_is_up = true;
        while faults.kills < kills {
            // A share of the load before each fault, some of it at the very moment.
            let until = workflows * (faults.kills + 1) / kills;
            self.start_until(until, &mut started, &mut rng).await;
            if self.settings.is_loud {
                self.settings
                    .phase(&format!("{started} workflows are started"));
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(0..600))).await;
            if let Some(database) = &mut self.database
                && (!database_is_up || rng.usize(..4) == 0)
            {
                // It stays away until after the next fault.
                tokio::task::block_in_place(|| match database_is_up {
                    true => database.crash(),
                    false => database.start(),
                });
                faults.database_crashes += usize::from(database_is_up);
                database_is_up = !database_is_up;
            }
            self.one_fault(&mut rng, &mut faults).await;
        }
        if let Some(database) = &mut self.database
            && !database_is_up
        {
            tokio::task::block_in_place(|| database.start());
        }
        self.start_until(workflows, &mut started, &mut rng).await;
        self.settings.phase("the storm is over");
        faults
    }

    async fn start_until(&self, until: usize, started: &mut usize, rng: &mut Rng) {
        let resets = self.settings.resets.then_some(&self.resets);
        let mut starts = Vec::new();
        while *started < until {
            let client = &self.clients[*started % self.clients.len()];
            starts.push(start_one(
                client,
                rng,
                *started,
                resets,
                self.settings.is_peaceful,
            ));
            *started += 1;
        }
        futures::stream::iter(starts)
            .for_each_concurrent(STARTS_AT_ONCE, |start| start)
            .await;
    }

    async fn one_fault(&mut self, rng: &mut Rng, faults: &mut Faults) {
        let cache = CACHES[rng.usize(..CACHES.len())];
        let index = rng.usize(..self.places.len());
        let place = &mut self.places[index];
        let kind = rng.u32(..10);
        if self.settings.is_loud {
            let what = format!("fault {kind} at worker {index}, cache {cache}");
            self.settings.phase(&what);
        }
        match kind {
            // Longer than a workflow task may take: the server gives the task to another worker.
            0 => {
                faults.standstills += 1;
                let longer = TASK_TIMEOUT + Duration::from_millis(rng.u64(300..2000));
                place.stand_still(longer).await;
            }
            1 if faults.server_restarts < 3 => {
                faults.server_restarts += 1;
                let pause = Duration::from_millis(rng.u64(0..1500));
                self.ground.restart_server(pause).await;
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
                    let longest = self.settings.longest_pause * 1000;
                    pause = Duration::from_millis(rng.u64(0..=longest));
                }
                tokio::time::sleep(pause).await;
                place.start(cache);
            }
        }
    }
}

/// How long runs may take to end by themselves when everything is up again.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits until all runs of all namespaces are closed. Those that go on for long are terminated: there are
/// histories that the SDK cannot get over, such as a timer that fires in the task that cancels it.
pub async fn calm(ground: &Ground, clients: &[Client], settings: &Settings) {
    let waiting = Instant::now();
    let mut terminated = BTreeSet::new();
    loop {
        let mut count = 0;
        let mut open = Vec::new();
        for client in clients {
            let runs = ground.runs(client).await;
            count += runs.len();
            let is_open = |run: &WorkflowExecutionInfo| state_of(run.status()).is_none();
            open.extend(runs.into_iter().filter(is_open).map(|run| (client, run)));
        }
        if count >= settings.workflows && open.is_empty() {
            settings.phase(&format!(
                "calm, {} runs had to be terminated",
                terminated.len()
            ));
            return;
        }
        if waiting.elapsed() > 4 * PATIENCE {
            for (client, run) in open {
                tell_why_open(client, &run).await;
            }
            panic!("seed {}: of {count} runs some do not end", settings.seed);
        }
        if waiting.elapsed() > PATIENCE {
            for (client, run) in open {
                let execution = run.execution.unwrap_or_default();
                let options = WorkflowTerminateOptions::builder()
                    .reason("it goes on for too long")
                    .build();
                // It may have ended just now.
                handle(client, &execution.workflow_id)
                    .terminate(options)
                    .await
                    .ok();
                terminated.insert(execution.run_id);
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn tell_why_open(client: &Client, run: &WorkflowExecutionInfo) {
    let execution = run.execution.clone().unwrap_or_default();
    println!("{} {} is open:", execution.workflow_id, execution.run_id);
    for event in history(client, &execution.workflow_id, &execution.run_id).await {
        println!("  {} {:?}", event.event_id, event.attributes);
    }
}
