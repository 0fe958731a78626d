//! The stage: what workflow code published in the workflow task that runs now, per run, until the
//! task completes. Counts on replay, so that ids come out the same, and keeps nothing then. Knows
//! nothing of how a task completes.

use super::{
    local::{AttemptName, LocalActivities},
    task::LocalOutcome,
    user_event::user_event_kind,
};
use crate::{
    context::Context,
    event::{ActivityStatus, Event, EventId, EventKey, Execution},
    record::{DETECTED_BY, DETECTED_BY_REPLAY, Draft, Identity, utc},
    store::{EventStore, Place, PublishError, Published, Receipt},
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use temporalio_common::protos::coresdk::{
    activity_result::ActivityResolution, workflow_commands::ScheduleLocalActivity,
};
use tracing::debug;
use uuid::Uuid;

/// How staged events leave the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They wait for [`RunStage::take`], when the workflow task completes.
    UntilTaken,
    /// They go to the journal at once: nobody tells when a task completes.
    AtOnce,
}

/// What one workflow task staged.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// True whatever becomes of the task: the run has started.
    pub(super) lifecycle: Vec<Draft>,
    /// What workflow code published and what its local activities did; true only if the task is
    /// accepted.
    pub(super) user: Vec<Draft>,
}

/// The stage of one run, for as long as the run stays in the worker's cache.
#[derive(Debug)]
pub(super) struct RunStage {
    execution: Execution,
    start_time: Option<SystemTime>,
    mode: Mode,
    // Whether what a replay publishes is stored too, if it is not there.
    repairs: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    replaying: bool,
    // The time of the workflow task that runs or is replayed.
    now: Option<SystemTime>,
    sequence: u64,
    // How often an event with this content was published in this run.
    occurrences: HashMap<Uuid, u64>,
    staged: Staged,
    local: LocalActivities,
}

impl RunStage {
    pub(super) fn new(
        execution: Execution,
        start_time: Option<SystemTime>,
        mode: Mode,
        repairs: bool,
    ) -> Self {
        Self {
            execution,
            start_time,
            mode,
            repairs,
            state: Mutex::default(),
        }
    }

    pub(super) fn execution(&self) -> &Execution {
        &self.execution
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The data stays consistent whatever panics: each update is one assignment or push.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether what follows replays history, and the time of its workflow task.
    pub(super) fn set_replaying(&self, replaying: bool, now: Option<SystemTime>) {
        let mut state = self.state();
        state.replaying = replaying;
        state.now = now.or(state.now);
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.state().replaying
    }

    /// Counts one more event of the run and gives its ordinal, from 1.
    pub(super) fn next_sequence(&self) -> u64 {
        let mut state = self.state();
        state.sequence += 1;
        state.sequence
    }

    /// Stages a lifecycle event of the run that is true whatever becomes of the task.
    pub(super) fn lifecycle(&self, store: &EventStore, draft: impl FnOnce() -> Draft) {
        if self.is_replaying() && !self.repairs {
            return;
        }
        match self.mode {
            Mode::UntilTaken => {
                let draft = draft();
                self.state().staged.lifecycle.push(draft);
            }
            Mode::AtOnce => drop(store.append(draft())),
        }
    }

    /// Workflow code asked for a local activity, at this time if that tells who executed it.
    pub(super) fn schedule_local(
        &self,
        command: &ScheduleLocalActivity,
        scheduled_at: Option<SystemTime>,
    ) {
        self.state().local.schedule(command, scheduled_at);
    }

    /// The outcome of a local activity, as history will know it.
    pub(super) fn local_outcome(
        &self,
        seq: u32,
        resolution: Option<&ActivityResolution>,
    ) -> LocalOutcome {
        self.state().local.outcome(seq, resolution)
    }

    /// Whether a local activity is under way, so that the workflow task goes on.
    pub(super) fn waits_for_local(&self) -> bool {
        !self.state().local.is_empty()
    }

    /// An attempt of a local activity begins; none if the run asked for no such activity.
    pub(super) fn begin_local(
        &self,
        context: &Context,
        start: Option<Draft>,
    ) -> Option<AttemptName> {
        self.state().local.begin(context, start)
    }

    /// Keeps what an attempt of a local activity published, if somebody waits for it.
    pub(super) fn publish_in_local(&self, name: AttemptName, draft: Draft) -> bool {
        self.state().local.publish(name, draft)
    }

    /// An attempt of a local activity ended.
    pub(super) fn end_local(&self, name: AttemptName, status: ActivityStatus, draft: Draft) {
        self.state().local.end(name, status, draft);
    }

    /// The workflow is about to be told the outcome of a local activity.
    pub(super) fn resolve_local(
        &self,
        store: &EventStore,
        seq: u32,
        resolution: Option<&ActivityResolution>,
    ) {
        let mut state = self.state();
        let mut drafts = state.local.resolve(store, seq, resolution);
        state.staged.user.append(&mut drafts);
    }

    /// Takes what is staged.
    pub(super) fn take(&self) -> Staged {
        std::mem::take(&mut self.state().staged)
    }
}

/// Workflow code that may publish: run, signal and update handlers.
impl Place for RunStage {
    fn publish(
        &self,
        store: &EventStore,
        is_own: bool,
        mut event: Event,
        context: Context,
    ) -> Receipt {
        if let Err(error) = event.validate() {
            if !self.is_replaying() {
                store.count_invalid(&error);
            }
            return Receipt::ready(Err(PublishError::Invalid(error)));
        }
        let (content, kind) = user_event_kind(&mut event);
        let mut state = self.state();
        state.sequence += 1;
        event.metadata.sequence.get_or_insert(state.sequence);
        let occurrence = state.occurrences.entry(content).or_default();
        *occurrence += 1;
        // Not the position in the run: when a task is executed again with a signal that came in
        // between, positions shift. The same content the same number of times is the same event,
        // so that nothing appears twice, and no other event can take its id.
        let id = event.metadata.event_id.unwrap_or_else(|| {
            EventId::derive(&EventKey {
                namespace: &self.execution.namespace,
                workflow_id: &self.execution.workflow_id,
                run_id: &self.execution.run_id,
                kind: &kind,
                activity_id: "",
                attempt: 0,
                ordinal: *occurrence,
                time: self.start_time,
            })
        });
        if !state.replaying || self.repairs {
            if state.replaying {
                event = repaired(event, state.now);
            }
            let mut draft = Draft::published(
                store.rules(),
                event,
                context.without_extension(),
                Identity::Known(id),
            );
            // Another store than the plugin's is told of no task's completion.
            if is_own && self.mode == Mode::UntilTaken {
                if draft.reserve() {
                    store.count_staged();
                    state.staged.user.push(draft);
                } else {
                    // Workflow code is told nothing of it: it must not go another way for that.
                    drop(state);
                    store.refuse_for_lack_of_room();
                }
            } else {
                drop(state);
                drop(store.append(draft));
            }
        }
        Receipt::ready(Ok(Published::Staged(id)))
    }
}

/// Workflow code that may not publish: queries and update validators.
pub(super) struct ReadOnly;

impl Place for ReadOnly {
    fn publish(
        &self,
        store: &EventStore,
        _is_own: bool,
        _event: Event,
        _context: Context,
    ) -> Receipt {
        store.count_skipped();
        debug!("an event published in a query or an update validator was skipped");
        Receipt::ready(Err(PublishError::ReadOnly))
    }
}

/// An event that a replay derives anew: it happened at the time of its workflow task.
pub(super) fn repaired(event: Event, at: Option<SystemTime>) -> Event {
    let mut event = event.metadata(DETECTED_BY, DETECTED_BY_REPLAY);
    let at = at.and_then(utc);
    event.metadata.created_at = event.metadata.created_at.or(at);
    event
}
