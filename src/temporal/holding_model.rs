//! A model of a run whose events several threads settle at once: the worker that executes its tasks and is
//! told of their fate, the watcher that asks for silent ones, and another worker that recovers what nobody
//! looks after. Every step of theirs is atomic (each is taken under one lock, and no lock is held from one to
//! the next), so that the order of the steps is all that can differ; `shuttle` tries the orders.

use super::{
    held::{TaskFate, Testimony, Verdict, verdict},
    holding::{Holding, Holdings, Silence},
};
use crate::{
    context::Context,
    event::{Event, Execution},
    journal::HoldKey,
    record::{Draft, Identity},
    store::{Claim, EventStore},
};
use shuttle::{
    sync::{Arc, Mutex},
    thread,
};
use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};
use uuid::Uuid;

const TASKS: i64 = 3;

/// What the server knows, and what the journal was told.
#[derive(Default)]
struct World {
    // The fate of each task whose completion reached the server.
    fates: BTreeMap<i64, TaskFate>,
    holds: BTreeMap<Uuid, Hold>,
}

struct Hold {
    task: i64,
    // How often somebody took it into care.
    claims: usize,
    // What the journal was told of it.
    told: Vec<Verdict>,
}

struct Model {
    store: EventStore,
    run: Mutex<Holdings>,
    world: Mutex<World>,
    // The last task, which the server does not accept.
    rejected: Option<i64>,
}

impl Model {
    fn key(hold_id: Uuid) -> HoldKey {
        HoldKey {
            execution: Execution {
                namespace: "default".to_owned(),
                workflow_id: "w".to_owned(),
                run_id: "r".to_owned(),
            },
            hold_id,
        }
    }

    fn draft(&self) -> Draft {
        Draft::published(
            self.store.rules(),
            Event::new("x"),
            Context::new(),
            Identity::Random,
        )
    }

    fn told(&self, hold_id: Uuid, verdict: Verdict) {
        let mut world = self.world.lock().unwrap();
        world.holds.get_mut(&hold_id).unwrap().told.push(verdict);
    }

    /// The SDK's hooks.
    fn worker(&self) {
        for task in 1..=TASKS {
            let proven = self.run.lock().unwrap().take_before(task, false);
            proven.iter().for_each(|holding| self.accepted(holding));
            let at = UNIX_EPOCH + Duration::from_secs(task.unsigned_abs());
            self.run.lock().unwrap().begin(task, Some(at), Vec::new());
            let hold_id = Uuid::new_v4();
            let held = {
                let key = || Self::key(hold_id);
                let mut run = self.run.lock().unwrap();
                let held = run.hold(&self.store, key, false, None, vec![self.draft()]);
                // The journal has it before the completion is sent.
                let mut world = self.world.lock().unwrap();
                let hold = Hold {
                    task,
                    claims: 1,
                    told: Vec::new(),
                };
                world.holds.insert(hold_id, hold);
                held
            };
            assert_eq!(held.len(), 1);
            let is_rejected = self.rejected == Some(task);
            let fate = if is_rejected {
                TaskFate::Rejected
            } else {
                TaskFate::Accepted
            };
            self.world.lock().unwrap().fates.insert(task, fate);
            if is_rejected {
                break;
            }
        }
        // Evicted: for a rejected completion, or because the worker stops.
        let held = self.run.lock().unwrap().take();
        for holding in &held {
            self.settle(holding.held.key.hold_id, &holding.claim);
        }
    }

    fn accepted(&self, holding: &Holding) {
        if holding.claim.settle() {
            self.told(holding.held.key.hold_id, Verdict::Release);
        }
    }

    /// Asks until the answer is clear, as the resolver does.
    fn settle(&self, hold_id: Uuid, claim: &Claim) {
        while !claim.is_settled() {
            let testimony = {
                let world = self.world.lock().unwrap();
                let task = world.holds[&hold_id].task;
                Testimony::Of {
                    fate: world.fates.get(&task).copied().unwrap_or(TaskFate::Absent),
                    closed: None,
                }
            };
            match verdict(None, &testimony, true) {
                Verdict::AskAgain => thread::yield_now(),
                verdict => {
                    if claim.settle() {
                        self.told(hold_id, verdict);
                    }
                    return;
                }
            }
        }
    }

    fn watcher(&self) {
        for _ in 0..TASKS {
            let silence = self.run.lock().unwrap().silent(|_| Duration::ZERO);
            if let Silence::Over(asked, _) = silence {
                for (held, claim) in asked {
                    self.settle(held.key.hold_id, &claim);
                }
            }
            thread::yield_now();
        }
    }

    /// Another worker of the process starts.
    fn recovery(&self) {
        let held: Vec<Uuid> = {
            let world = self.world.lock().unwrap();
            let held = world.holds.iter().filter(|(_, hold)| hold.told.is_empty());
            held.map(|(hold_id, _)| *hold_id).collect()
        };
        for hold_id in held {
            if let Some(claim) = self.store.claim(&Self::key(hold_id)) {
                self.world
                    .lock()
                    .unwrap()
                    .holds
                    .get_mut(&hold_id)
                    .unwrap()
                    .claims += 1;
                self.settle(hold_id, &claim);
            }
        }
    }
}

fn check(store: &EventStore, rejected: Option<i64>) {
    let model = Arc::new(Model {
        store: store.clone(),
        run: Mutex::default(),
        world: Mutex::default(),
        rejected,
    });
    let threads = [Model::worker, Model::watcher, Model::recovery].map(|run| {
        let model = model.clone();
        thread::spawn(move || run(&model))
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let world = model.world.lock().unwrap();
    for Hold { task, claims, told } in world.holds.values() {
        let expected = if rejected == Some(*task) {
            Verdict::Discard
        } else {
            Verdict::Release
        };
        assert!(!told.is_empty(), "task {task} is left");
        assert!(
            told.len() <= *claims,
            "{task}, claimed {claims} times: {told:?}"
        );
        // Who claims it when it was settled just now comes to the same.
        assert!(
            told.iter().all(|told| *told == expected),
            "{task}: {told:?}"
        );
    }
}

#[test]
fn whoever_settles_what_is_held_comes_to_the_same() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime
        .block_on(EventStore::builder().store("memory:").build())
        .unwrap();
    for rejected in [None, Some(1), Some(2), Some(TASKS)] {
        let store = store.clone();
        shuttle::check_pct(move || check(&store, rejected), 2_000, 4);
    }
}
