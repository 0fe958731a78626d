//! The events of a cached run that are held, and what proves that the server accepted them. Plain data: knows neither
//! activations nor how to ask the server.
//!
//! A cached run may go through several workflow tasks before the server accepts anything of it: while it waits for a
//! local activity, its task may time out, and the SDK's core continues under the next one. Therefore the holdings of a
//! run form a chain. What proves the last holding of the chain proves all of them, and each holding keeps the names of
//! all tasks that could have sent it to the server.
//!
//! What follows the outcome of a local activity is a separate holding, and only the marker of that outcome proves it:
//! a heartbeat of the same task that was sent earlier may have been accepted without it. A marker of a local activity
//! that this cached run scheduled is proof, no matter which task recorded it, since workflow code is not always told
//! that the SDK's core continues under another task.

use super::{
    held::HeldTask,
    task::{Evidence, LocalOutcome, TaskExecution},
};
use crate::{
    event::WorkflowState,
    journal::{Hold, HoldKey},
    record::Draft,
    store::{Claim, EventStore},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// What is held of one task of a run in memory.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) held: HeldTask,
    pub(super) claim: Arc<Claim>,
    /// Somebody asked the run a question since: it may have been closed before, and is only replayed for
    /// the answer.
    pub(super) was_queried: bool,
    // Which part of the execution it is of.
    part: u64,
    // The server is being asked.
    is_asked: bool,
    // The journal does not have all of its evidence.
    is_stale: bool,
}

/// What is held of a run in memory, in the order of its tasks.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    task: TaskExecution,
    // Counted up whenever a task begins, or goes on behind a local activity.
    part: u64,
    // The local activities whose outcome began the present part.
    local_outcomes: Vec<LocalOutcome>,
    // When the present activation scheduled local activities, and when those of the present part did.
    schedules_at: Option<SystemTime>,
    scheduled_at: Vec<SystemTime>,
    // When the present task began, where the workflow's time says so.
    began: Option<SystemTime>,
    last_time: Option<SystemTime>,
    chain: Vec<Holding>,
    // When the worker was last done with an activation.
    silent_since: Option<Instant>,
    // Local activities were under way then, so that the task went on.
    goes_on: bool,
    // The execution had local activities.
    has_local: bool,
}

/// What is to be asked of a run that has been silent.
pub(super) enum Silence {
    /// Nothing.
    Nothing,
    /// Nothing yet.
    NotYet,
    /// These; and whether the run had local activities.
    Over(Vec<(HeldTask, Arc<Claim>)>, bool),
}

impl Holdings {
    /// Workflow code schedules a local activity: when that is. The same for all of an activation.
    pub(super) fn schedule_local(&mut self) -> SystemTime {
        *self.schedules_at.get_or_insert_with(|| {
            let now = SystemTime::now();
            self.scheduled_at.push(now);
            now
        })
    }

    /// The time at which a local activity was scheduled, if the present part did. One that goes on after a timer
    /// has the time at which it was first scheduled, perhaps by another run in memory.
    pub(super) fn time_of_local(&self, scheduled_at: Option<SystemTime>) -> Option<SystemTime> {
        scheduled_at.filter(|time| self.scheduled_at.contains(time))
    }

    /// An activation begins, of the task with this id, at this time of the workflow. It tells the workflow
    /// what the local activities with these numbers came to.
    pub(super) fn begin(
        &mut self,
        started_event_id: i64,
        time: Option<SystemTime>,
        local_outcomes: Vec<LocalOutcome>,
    ) {
        self.schedules_at = None;
        let with_local = !local_outcomes.is_empty();
        let is_new = self.task.started_event_id != started_event_id;
        if is_new || with_local {
            self.part += 1;
            self.scheduled_at.clear();
            self.local_outcomes = local_outcomes;
        }
        if is_new {
            // The SDK's time never goes back, the server's clock may: then it is not the event's time.
            let time = time.filter(|_| self.last_time.is_none() || self.last_time < time);
            self.task = TaskExecution {
                started_event_id,
                times: time.into_iter().collect(),
            };
            self.began = time.filter(|_| !with_local);
            for holding in &mut self.chain {
                holding.held.evidence.executions.push(self.task.clone());
                holding.is_stale = true;
            }
        } else if let Some(time) = time {
            self.task.goes_on_at(time);
            for holding in &mut self.chain {
                if let Some(last) = holding.held.evidence.executions.last_mut()
                    && last.started_event_id == started_event_id
                {
                    holding.is_stale |= last.goes_on_at(time);
                }
            }
        }
        self.has_local |= with_local;
        self.last_time = self.last_time.max(time);
    }

    /// Adds events to what is held of the present task, and notes how the task ends the run. Gives what the
    /// journal is to be told.
    pub(super) fn hold(
        &mut self,
        store: &EventStore,
        key: impl FnOnce() -> HoldKey,
        goes_on: bool,
        end: Option<WorkflowState>,
        drafts: Vec<Draft>,
    ) -> Vec<Hold> {
        self.goes_on = goes_on;
        self.has_local |= goes_on;
        self.silent_since = Some(Instant::now());
        self.chain.retain(|holding| !holding.claim.is_settled());
        let is_held = self.chain.last().is_some_and(|last| last.part == self.part);
        // An end is held with what comes before it in the same part, or alone.
        if !is_held && !drafts.is_empty() {
            let key = key();
            // Nobody has a key that is new.
            let Some(claim) = store.claim(&key) else {
                return Vec::new();
            };
            self.chain.push(Holding {
                held: HeldTask {
                    key,
                    evidence: Evidence {
                        executions: vec![self.task.clone()],
                        local_outcomes: self.local_outcomes.clone(),
                        scheduled_at: Vec::new(),
                    },
                    end: None,
                },
                claim: Arc::new(claim),
                was_queried: false,
                part: self.part,
                is_asked: false,
                is_stale: true,
            });
        }
        if let Some(last) = self.chain.last_mut().filter(|last| last.part == self.part) {
            last.held.end = end.or(last.held.end.take());
            last.is_stale |= !drafts.is_empty();
            if last.held.evidence.scheduled_at != self.scheduled_at {
                last.held
                    .evidence
                    .scheduled_at
                    .clone_from(&self.scheduled_at);
                last.is_stale = true;
            }
        }
        let last = self.chain.len().saturating_sub(1);
        let mut drafts = Some(drafts);
        let mut holds = Vec::new();
        for (index, holding) in self.chain.iter_mut().enumerate() {
            if std::mem::take(&mut holding.is_stale) {
                let drafts = if index == last { drafts.take() } else { None };
                holds.push(Hold {
                    key: holding.held.key.clone(),
                    evidence: holding.held.evidence.to_string(),
                    drafts: drafts.unwrap_or_default(),
                });
            }
        }
        holds
    }

    /// A query reached the run.
    pub(super) fn queried(&mut self) {
        for holding in &mut self.chain {
            holding.was_queried = true;
        }
    }

    /// Takes all that is held.
    pub(super) fn take(&mut self) -> Vec<Holding> {
        std::mem::take(&mut self.chain)
    }

    /// Takes what is held if an activation of another task proves it: the SDK's core evicts a run whose
    /// completion the server did not take. While local activities were under way there was none.
    pub(super) fn take_before(&mut self, started_event_id: i64, goes_on: bool) -> Vec<Holding> {
        if goes_on || self.task.started_event_id == started_event_id {
            Vec::new()
        } else {
            self.take()
        }
    }

    /// Takes what is held if an activity that was scheduled then proves it: nobody else can have scheduled it
    /// before another attempt of the task can have begun.
    pub(super) fn take_that_scheduled(
        &mut self,
        scheduled_at: Option<SystemTime>,
        task_timeout: Duration,
    ) -> Vec<Holding> {
        let after = self
            .began
            .zip(scheduled_at)
            .and_then(|(began, scheduled)| scheduled.duration_since(began).ok());
        let has_end = self.chain.last().is_some_and(|it| it.held.end.is_some());
        if has_end || after.is_none_or(|after| after >= task_timeout) {
            Vec::new()
        } else {
            self.take()
        }
    }

    /// What is to be asked when nothing was heard of the run for `silence` of the kind that it is in.
    pub(super) fn silent(&mut self, silence: impl FnOnce(bool) -> Duration) -> Silence {
        self.chain.retain(|holding| !holding.claim.is_settled());
        // An end is followed by an eviction.
        let has_end = self.chain.last().is_some_and(|it| it.held.end.is_some());
        if has_end || self.chain.iter().all(|holding| holding.is_asked) {
            return Silence::Nothing;
        }
        if self
            .silent_since
            .is_none_or(|since| since.elapsed() < silence(self.goes_on))
        {
            return Silence::NotYet;
        }
        let mut asked = Vec::new();
        for holding in self.chain.iter_mut().filter(|holding| !holding.is_asked) {
            holding.is_asked = true;
            asked.push((holding.held.clone(), holding.claim.clone()));
        }
        Silence::Over(asked, self.has_local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Execution};
    use crate::record::Identity;
    use std::time::UNIX_EPOCH;
    use uuid::Uuid;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    async fn store() -> EventStore {
        EventStore::builder()
            .store("memory:")
            .build()
            .await
            .unwrap()
    }

    fn key(hold_id: u128) -> HoldKey {
        HoldKey {
            execution: Execution {
                namespace: "default".to_owned(),
                workflow_id: "w".to_owned(),
                run_id: "r".to_owned(),
            },
            hold_id: Uuid::from_u128(hold_id),
        }
    }

    fn drafts(store: &EventStore) -> Vec<Draft> {
        vec![Draft::published(
            store.rules(),
            Event::new("x"),
            crate::context::Context::new(),
            Identity::Random,
        )]
    }

    fn outcomes(seqs: &[u32]) -> Vec<LocalOutcome> {
        let outcome = |seq: &u32| LocalOutcome {
            seq: *seq,
            scheduled_at: None,
        };
        seqs.iter().map(outcome).collect()
    }

    fn told(holds: &[Hold]) -> Vec<(u128, &str, usize)> {
        holds
            .iter()
            .map(|hold| {
                let id = hold.key.hold_id.as_u128();
                (id, hold.evidence.as_str(), hold.drafts.len())
            })
            .collect()
    }

    #[tokio::test]
    async fn the_next_task_proves_one_that_was_completed() {
        let store = store().await;
        let mut holdings = Holdings::default();
        holdings.begin(3, at(1), vec![]);
        let holds = holdings.hold(&store, || key(1), false, None, drafts(&store));
        assert_eq!(told(&holds), [(1, "3@1970-01-01T00:00:01.000000000Z", 1)]);
        assert!(holdings.take_before(3, false).is_empty());
        assert_eq!(holdings.take_before(7, false).len(), 1);
    }

    #[tokio::test]
    async fn while_a_local_activity_is_under_way_the_next_task_proves_nothing() {
        let store = store().await;
        let mut holdings = Holdings::default();
        holdings.begin(3, at(1), vec![]);
        holdings.hold(&store, || key(1), true, None, drafts(&store));
        assert!(holdings.take_before(7, true).is_empty());
        holdings.begin(7, at(5), outcomes(&[1]));
        let holds = holdings.hold(&store, || key(2), false, None, drafts(&store));
        // Whatever is accepted of the second task holds for the first one's events.
        assert_eq!(
            told(&holds),
            [
                (
                    1,
                    "3@1970-01-01T00:00:01.000000000Z;7@1970-01-01T00:00:05.000000000Z",
                    0
                ),
                (2, "7@1970-01-01T00:00:05.000000000Z+1", 1)
            ]
        );
        assert_eq!(holdings.take_before(9, false).len(), 2);
    }

    #[tokio::test]
    async fn an_activity_proves_a_task_only_while_no_other_can_have_begun() {
        let store = store().await;
        let timeout = Duration::from_secs(10);
        let mut holdings = Holdings::default();
        holdings.begin(3, at(100), vec![]);
        holdings.hold(&store, || key(1), false, None, drafts(&store));
        assert!(holdings.take_that_scheduled(at(99), timeout).is_empty());
        assert!(holdings.take_that_scheduled(at(110), timeout).is_empty());
        assert!(holdings.take_that_scheduled(None, timeout).is_empty());
        assert_eq!(holdings.take_that_scheduled(at(109), timeout).len(), 1);
    }

    #[tokio::test]
    async fn a_clock_that_goes_back_leaves_the_id_as_the_only_evidence() {
        let store = store().await;
        let mut holdings = Holdings::default();
        holdings.begin(3, at(100), vec![]);
        holdings.begin(7, at(100), vec![]);
        let holds = holdings.hold(&store, || key(1), false, None, drafts(&store));
        assert_eq!(told(&holds), [(1, "7", 1)]);
    }

    #[tokio::test]
    async fn what_comes_after_a_local_activity_is_proven_with_its_marker() {
        let store = store().await;
        let mut holdings = Holdings::default();
        let began = "3@1970-01-01T00:00:01.000000000Z";
        let went_on = &*format!("{began},1970-01-01T00:00:02.000000000Z");
        holdings.begin(3, at(1), vec![]);
        let holds = holdings.hold(&store, || key(1), true, None, drafts(&store));
        assert_eq!(told(&holds), [(1, began, 1)]);
        holdings.begin(3, at(2), outcomes(&[1]));
        let holds = holdings.hold(&store, || key(2), true, None, drafts(&store));
        let second = &*format!("{went_on}+1");
        assert_eq!(told(&holds), [(1, went_on, 0), (2, second, 1)]);
        // Cancelled, or of an early end: the workflow's time stays.
        holdings.begin(3, at(2), outcomes(&[2, 3]));
        let holds = holdings.hold(&store, || key(3), true, None, drafts(&store));
        let third = &*format!("{went_on}+2,3");
        assert_eq!(told(&holds), [(3, third, 1)]);
        // What comes without an outcome belongs to the same part.
        holdings.begin(3, at(2), vec![]);
        let holds = holdings.hold(&store, || key(4), true, None, drafts(&store));
        assert_eq!(told(&holds), [(3, third, 1)]);
    }

    #[tokio::test]
    async fn a_part_knows_when_it_scheduled_local_activities() {
        let store = store().await;
        let mut holdings = Holdings::default();
        let known = |holdings: &Holdings| {
            let last = holdings.chain.last();
            last.map(|last| last.held.evidence.scheduled_at.clone())
                .unwrap_or_default()
        };
        holdings.begin(3, at(1), vec![]);
        let first = holdings.schedule_local();
        assert_eq!(holdings.schedule_local(), first);
        assert_eq!(holdings.time_of_local(Some(first)), Some(first));
        holdings.hold(&store, || key(1), true, None, drafts(&store));
        assert_eq!(known(&holdings), [first]);
        // Another activation of the same part.
        holdings.begin(3, at(1), vec![]);
        let second = holdings.schedule_local();
        let holds = holdings.hold(&store, || key(1), true, None, vec![]);
        assert_eq!(holds.len(), 1);
        assert_eq!(known(&holdings), [first, second]);
        // Another part: what goes on after a timer was not scheduled by it.
        holdings.begin(3, at(1), outcomes(&[1]));
        assert_eq!(holdings.time_of_local(Some(first)), None);
        assert_eq!(holdings.time_of_local(None), None);
        holdings.hold(&store, || key(2), true, None, drafts(&store));
        assert!(known(&holdings).is_empty());
    }

    #[tokio::test]
    async fn an_end_belongs_to_the_part_that_brings_it() {
        let store = store().await;
        let completed = Some(WorkflowState::Completed);
        let mut holdings = Holdings::default();
        holdings.begin(3, at(1), vec![]);
        holdings.hold(&store, || key(1), true, None, drafts(&store));
        holdings.begin(3, at(1), outcomes(&[1]));
        assert!(
            holdings
                .hold(&store, || key(2), false, completed, vec![])
                .is_empty()
        );
        assert_eq!(holdings.take().pop().and_then(|it| it.held.end), None);
    }
}
