//! From an event and the context stack that it was published in to finished bytes: filled, with its id, filtered,
//! encoded, with the columns that people query. Publishing only captures what is cheap (time, stack, ordinal) in
//! a [`Draft`]; whoever appends it calls [`Draft::finish`] for the rest. Knows nothing of Temporal, and not where
//! or when records are written.

mod budget;
mod encode;
mod enrich;
mod filter;
mod given;
mod identity;
mod part;
mod trim;

pub(crate) use budget::Budget;
pub(crate) use enrich::enrich;
pub use filter::{Filter, FilterAction};
pub(crate) use identity::{Identity, ids_of_attempt, utc};
pub(crate) use trim::Trimmed;

use crate::{
    context::{ActivityFrame, Context},
    event::{Event, EventId, LifecycleEvent, StoredEvent, WorkflowState},
};
use budget::Reserved;
use identity::{attempt_event_id, run_event_id};
use part::Part;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::SystemTime,
};
use trim::Essence;

/// The metadata field that says who found an event that was not stored when it happened.
pub(crate) const DETECTED_BY: &str = "detected_by";
/// Its value on events that a replay found.
pub(crate) const DETECTED_BY_REPLAY: &str = "replay";

/// What enrichment and encoding need to know; shared by all drafts of a store.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) application_name: String,
    pub(crate) filter: Option<Filter>,
    pub(crate) max_event_bytes: usize,
    pub(crate) trimmed: Trimmed,
    pub(crate) budget: Budget,
}

/// An event that waits for the journal.
#[derive(Debug)]
pub(crate) struct Draft {
    event: Event,
    context: Context,
    created: SystemTime,
    identity: Identity,
    rules: Arc<Rules>,
    // When the attempt that it is about began, if history tells.
    began: Option<SystemTime>,
    // Whether the interceptors or the reconciler made it. Its name does not tell: applications may use it, too.
    is_lifecycle: bool,
    // Its share of the memory for events that wait.
    reserved: Option<Reserved>,
}

impl Draft {
    /// Makes a draft of an event of an application. Only captures the context, which is cheap: no JSON, no
    /// hashing, no allocation.
    pub(crate) fn published(
        rules: &Arc<Rules>,
        event: Event,
        context: Context,
        identity: Identity,
    ) -> Self {
        Self {
            is_lifecycle: false,
            ..Self::new(rules, event, context, identity)
        }
    }

    /// Makes a draft of a lifecycle event. Its id is derived from its name and the context.
    pub(crate) fn lifecycle(rules: &Arc<Rules>, event: Event, context: Context) -> Self {
        let identity = Identity::of_lifecycle(&event.event_name);
        Self::new(rules, event, context, identity)
    }

    fn new(rules: &Arc<Rules>, event: Event, context: Context, identity: Identity) -> Self {
        Self {
            event,
            context,
            created: SystemTime::now(),
            is_lifecycle: true,
            identity,
            began: None,
            rules: rules.clone(),
            reserved: None,
        }
    }

    /// Takes its share of the memory for events that wait, unless it has it. Returns false if there is no room;
    /// a lifecycle event always gets its share.
    pub(crate) fn reserve(&mut self) -> bool {
        if self.reserved.is_none() {
            self.reserved = Reserved::new(&self.rules, &self.event, self.is_lifecycle);
        }
        self.reserved.is_some()
    }

    /// Adds when the attempt began that the event is about. If the activity was reset, the worker may have
    /// derived the event's id from that time.
    pub(crate) fn of_attempt_begun_at(mut self, began: Option<SystemTime>) -> Self {
        self.began = began;
        self
    }

    /// Returns the ids under which the event may be stored already.
    pub(crate) fn known_ids(&self) -> impl Iterator<Item = EventId> {
        let restarted = match self.identity {
            Identity::Attempt { kind, ordinal } => self.restarted_event_id(kind, ordinal),
            _ => None,
        };
        self.derived_id().into_iter().chain(restarted)
    }

    /// Returns the id that contains the time at which the attempt began, if that is known.
    fn restarted_event_id(&self, kind: &str, ordinal: u64) -> Option<EventId> {
        let frame = ActivityFrame {
            restarted_time: Some(self.began?),
            ..self.context.activity()?.clone()
        };
        attempt_event_id(&self.context.push(frame), kind, ordinal)
    }

    /// Returns which lifecycle event it is, if it has the name of one.
    pub(crate) fn lifecycle_event(&self) -> Option<LifecycleEvent> {
        LifecycleEvent::from_name(&self.event.event_name)
    }

    /// Returns the state of the run that it says.
    pub(crate) fn workflow_state(&self) -> &WorkflowState {
        &self.event.metadata.workflow_state
    }

    /// Returns when it happened, if that is known already.
    pub(crate) fn happened_at(&self) -> Option<SystemTime> {
        self.event.metadata.created_at.map(SystemTime::from)
    }

    /// Whether the interceptors or the reconciler made it.
    pub(crate) fn is_lifecycle(&self) -> bool {
        self.is_lifecycle
    }

    /// Whether a replay found it, so that it may have been stored long ago.
    pub(crate) fn is_repair(&self) -> bool {
        // Applications may publish events again that they read, with this field.
        let is_of_run = matches!(self.identity, Identity::Known(_) | Identity::Run { .. });
        let detected_by = self.event.metadata.custom.get(DETECTED_BY);
        is_of_run && detected_by.is_some_and(|by| by == DETECTED_BY_REPLAY)
    }

    /// Whether it is about a workflow run, and not about an activity.
    pub(crate) fn is_of_run(&self) -> bool {
        matches!(self.identity, Identity::Run { .. })
    }

    /// Returns the id that the event will have, if it is derived from what the event is about.
    pub(crate) fn derived_id(&self) -> Option<EventId> {
        match self.identity {
            Identity::Known(id) => Some(id),
            Identity::Attempt { kind, ordinal } => attempt_event_id(&self.context, kind, ordinal),
            Identity::Run { kind } => run_event_id(&self.context, kind),
            Identity::Random => self.event.metadata.event_id,
        }
    }

    /// Returns the ids under which another lifecycle event of its attempt may be stored. The id that contains
    /// the time at which the attempt began comes first: it belongs to no other attempt.
    pub(crate) fn attempt_event_ids(&self, event: LifecycleEvent) -> impl Iterator<Item = EventId> {
        let kind = event.as_str();
        let restarted = self.restarted_event_id(kind, 0);
        let plain = attempt_event_id(&self.context, kind, 0);
        restarted.into_iter().chain(plain)
    }

    /// Makes a draft of an event that was stored before and is stored again, so that only its encoding is left.
    pub(crate) fn finished(rules: &Arc<Rules>, event: Event) -> Self {
        Self::new(rules, event, Context::new(), Identity::Random)
    }
}

/// What became of a draft. It lives on one thread's stack for a moment, and boxing the event would cost an
/// allocation for each.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// It is to be stored; it has no position yet.
    Stored(StoredEvent),
    /// A filter dropped it.
    Dropped,
    /// It breaks a rule.
    Invalid(String),
}

impl Draft {
    /// Finishes the event: fills it from the context stack, gives it its id, runs the filter, and encodes it.
    pub(crate) fn finish(mut self) -> Finished {
        let event_id = self.identify();
        if self.rules.filter.is_none()
            && let Some(part) = Part::of(&self.context)
        {
            self.event.make_canonical();
            enrich::set_time(&mut self.event.metadata, self.created);
            let json = encode::encode(&mut self.event, part, &self.rules, self.is_lifecycle);
            if let Some(json) = json {
                return Finished::Stored(encode::stored(self.event, part, event_id, json));
            }
        }
        self.finish_step_by_step(event_id)
    }

    fn identify(&mut self) -> EventId {
        let id = match self.identity {
            Identity::Known(_) | Identity::Run { .. } => self.derived_id(),
            Identity::Attempt { .. } | Identity::Random => {
                self.event.metadata.event_id.or_else(|| self.derived_id())
            }
        };
        *self
            .event
            .metadata
            .event_id
            .insert(id.unwrap_or_else(EventId::new))
    }

    /// Finishes the event the long way: for a filter, which is to see the whole event, and for events that
    /// break a rule.
    fn finish_step_by_step(self, event_id: EventId) -> Finished {
        let Self {
            mut event,
            context,
            created,
            rules,
            is_lifecycle,
            ..
        } = self;
        let mut faults = enrich(&mut event, &context, created, &rules.application_name);
        let finished = if is_lifecycle {
            finish_lifecycle(event, event_id, &rules, &mut faults)
        } else {
            finish_published(event, event_id, &rules)
        };
        if matches!(finished, Finished::Stored(_)) {
            rules.trimmed.note(&faults);
        }
        finished
    }
}

fn finish_published(mut event: Event, event_id: EventId, rules: &Rules) -> Finished {
    if let Err(error) = event.validate() {
        return Finished::Invalid(error.to_string());
    }
    if let Some(filter) = &rules.filter {
        if filter.apply(&mut event) == FilterAction::Drop {
            return Finished::Dropped;
        }
        // A filter may change anything but the id, on which the guarantees rest.
        event.metadata.event_id = Some(event_id);
        if let Err(error) = event.validate() {
            return Finished::Invalid(format!("after the filter: {error}"));
        }
    }
    event.make_canonical();
    match event.to_json_within(rules.max_event_bytes) {
        Ok(json) => stored(event, event_id, json),
        Err(error) => Finished::Invalid(error.to_string()),
    }
}

/// Finishes a lifecycle event, which is never refused: what breaks a rule is left out.
fn finish_lifecycle(
    mut event: Event,
    event_id: EventId,
    rules: &Rules,
    faults: &mut Vec<&'static str>,
) -> Finished {
    trim::mend(&mut event, faults);
    if let Some(filter) = &rules.filter {
        let essence = Essence::of(&event, &rules.application_name);
        match catch_unwind(AssertUnwindSafe(|| filter.apply(&mut event))) {
            Ok(FilterAction::Drop) => return Finished::Dropped,
            Ok(FilterAction::Keep) => essence.restore(&mut event, faults),
            // The event may be half changed, and may hold what the filter was to redact.
            Err(_) => {
                trim::at_fault(faults, "the filter, which panicked");
                event = essence.into_event();
            }
        }
        event.metadata.event_id = Some(event_id);
    }
    event.make_canonical();
    match trim::to_json(&mut event, rules.max_event_bytes, faults) {
        Ok(json) => stored(event, event_id, json),
        Err(error) => Finished::Invalid(error.to_string()),
    }
}

fn stored(event: Event, event_id: EventId, json: String) -> Finished {
    Finished::Stored(StoredEvent::encoded(event, event_id, json))
}
