//! The stage: what workflow code published in the workflow task that runs now, per run, until the
//! task completes. Counts on replay, so that ids come out the same, and keeps nothing then. Knows
//! nothing of how a task completes.

use super::{
    EventStore, PublishError, Receipt,
    publish::{Draft, Identity, utc},
};
use crate::{
    context::Context,
    event::{Event, EventId, EventKey},
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use uuid::Uuid;

/// The namespace of content hashes; random, fixed for ever, since stored ids rest on it.
const CONTENT_NAMESPACE: Uuid = Uuid::from_u128(0x1f0b_5b0e_6a5c_4c55_9a71_5d3e_0c2f_8d10);

/// The metadata field of events that were not stored when they happened: who found them.
pub(crate) const DETECTED_BY: &str = "detected_by";
/// What it holds on events that a replay came to.
pub(super) const DETECTED_BY_REPLAY: &str = "replay";

/// How staged events leave the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They wait for [`RunStage::take`], when the workflow task completes.
    #[cfg_attr(not(feature = "plugin"), allow(dead_code))]
    UntilTaken,
    /// They go to the journal at once: nobody tells when a task completes.
    AtOnce,
}

/// Who a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunIdentity {
    pub(crate) namespace: String,
    pub(crate) workflow_id: String,
    pub(crate) run_id: String,
}

/// What one workflow task staged.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// True whatever becomes of the task: the run has started.
    pub(crate) lifecycle: Vec<Draft>,
    /// What workflow code published and what its local activities did; true only if the task is
    /// accepted.
    pub(crate) user: Vec<Draft>,
}

/// The stage of one run, for as long as the run stays in the worker's cache.
#[derive(Debug)]
pub(crate) struct RunStage {
    identity: RunIdentity,
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
}

impl RunStage {
    pub(crate) fn new(identity: RunIdentity, mode: Mode, repairs: bool) -> Self {
        Self {
            identity,
            mode,
            repairs,
            state: Mutex::default(),
        }
    }

    pub(crate) fn identity(&self) -> &RunIdentity {
        &self.identity
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The data stays consistent whatever panics: each update is one assignment or push.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether what follows replays history, and the time of its workflow task.
    pub(crate) fn set_replaying(&self, replaying: bool, now: Option<SystemTime>) {
        let mut state = self.state();
        state.replaying = replaying;
        state.now = now.or(state.now);
    }

    pub(crate) fn is_replaying(&self) -> bool {
        self.state().replaying
    }

    /// Counts one more event of the run and gives its ordinal, from 1.
    pub(crate) fn next_sequence(&self) -> u64 {
        let mut state = self.state();
        state.sequence += 1;
        state.sequence
    }

    /// Stages an event that application code published. If `store` is another one than
    /// this stage's own, the event goes there at once.
    pub(crate) fn publish(
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
        let content = content_hash(&event);
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
                namespace: &self.identity.namespace,
                workflow_id: &self.identity.workflow_id,
                run_id: &self.identity.run_id,
                kind: &format!("user:{}", content.simple()),
                activity_id: "",
                attempt: 0,
                ordinal: *occurrence,
            })
        });
        if !state.replaying || self.repairs {
            if state.replaying {
                event = repaired(event, state.now);
            }
            let draft = Draft::new(
                store.rules(),
                event,
                context.without_extension(),
                Identity::Known(id),
            );
            if is_own && self.mode == Mode::UntilTaken {
                store.count_staged();
                state.staged.user.push(draft);
            } else {
                drop(state);
                drop(store.append(draft));
            }
        }
        Receipt::ready(Ok(id))
    }

    /// Stages a lifecycle event of the run that is true whatever becomes of the task.
    pub(crate) fn lifecycle(&self, store: &EventStore, draft: impl FnOnce() -> Draft) {
        if self.is_replaying() && !self.repairs {
            return;
        }
        match self.mode {
            Mode::UntilTaken => self.state().staged.lifecycle.push(draft()),
            Mode::AtOnce => drop(store.append(draft())),
        }
    }

    /// Stages an event that is true only if the workflow task is accepted.
    #[cfg_attr(not(feature = "plugin"), allow(dead_code))]
    pub(crate) fn with_task(&self, draft: Draft) {
        self.state().staged.user.push(draft);
    }

    /// Takes what is staged.
    #[cfg_attr(not(feature = "plugin"), allow(dead_code))]
    pub(crate) fn take(&self) -> Staged {
        std::mem::take(&mut self.state().staged)
    }
}

/// An event that a replay derives anew: it happened at the time of its workflow task.
pub(crate) fn repaired(event: Event, at: Option<SystemTime>) -> Event {
    let mut event = event.metadata(DETECTED_BY, DETECTED_BY_REPLAY);
    let at = at.and_then(utc);
    event.metadata.created_at = event.metadata.created_at.or(at);
    event
}

fn content_hash(event: &Event) -> Uuid {
    let content = (
        &event.event_type,
        &event.event_name,
        &event.data,
        &event.metadata.custom,
    );
    // A map with string keys always encodes.
    let bytes = serde_json::to_vec(&content).unwrap_or_default();
    Uuid::new_v5(&CONTENT_NAMESPACE, &bytes)
}
