//! From an event and the stack that it was published in to finished bytes: filled, with its id, filtered,
//! encoded, with the columns that people query. On the caller's path only what is cheap is captured (time,
//! stack, ordinal); the rest is [`Draft::finish`], which whoever writes calls. Knows nothing of Temporal, of
//! where records are written, or of when.

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
pub use filter::{Filter, Keep};
pub(crate) use identity::{Identity, ids_of_attempt, utc};
pub(crate) use trim::Trimmed;

use crate::{
    context::{ActivityFrame, Context},
    event::{Event, EventId, StoredEvent},
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

/// The metadata field of events that were not stored when they happened: who found them.
pub(crate) const DETECTED_BY: &str = "detected_by";
/// What it holds on events that a replay came to.
pub(crate) const DETECTED_BY_REPLAY: &str = "replay";

/// What enrichment and encoding need to know; shared with every event that waits.
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
    // When the attempt began that it is about, where history says it.
    began: Option<SystemTime>,
    // Not a matter of its name, which applications may give to events of theirs.
    is_lifecycle: bool,
    // Its room among what waits in memory.
    reserved: Option<Reserved>,
}

impl Draft {
    /// An event of an application. What the context says is captured, which is cheap: no JSON, no
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

    /// A lifecycle event, or an event of an application whose id is derived already.
    pub(crate) fn new(
        rules: &Arc<Rules>,
        event: Event,
        context: Context,
        identity: Identity,
    ) -> Self {
        Self {
            event,
            context,
            created: SystemTime::now(),
            is_lifecycle: !matches!(identity, Identity::Known(_)),
            identity,
            began: None,
            rules: rules.clone(),
            reserved: None,
        }
    }

    /// Takes room for it among what waits in memory, unless it has some; says whether there was any. For a
    /// lifecycle event there is in any case.
    pub(crate) fn reserve(&mut self) -> bool {
        if self.reserved.is_none() {
            self.reserved = Reserved::new(&self.rules, &self.event, self.is_lifecycle);
        }
        self.reserved.is_some()
    }

    /// This event, of an attempt that began then. If its activity was reset, its worker may have given it
    /// an id by that.
    pub(crate) fn of_attempt_begun_at(mut self, began: Option<SystemTime>) -> Self {
        self.began = began;
        self
    }

    /// The ids under which the event may be stored already.
    pub(crate) fn known_ids(&self) -> impl Iterator<Item = EventId> {
        let restarted = || {
            let Identity::Attempt { kind, ordinal } = self.identity else {
                return None;
            };
            let frame = ActivityFrame {
                restarted_time: Some(self.began?),
                ..self.context.activity()?.clone()
            };
            attempt_event_id(&self.context.push(frame), kind, ordinal)
        };
        self.derived_id().into_iter().chain(restarted())
    }

    /// The name of its event.
    pub(crate) fn event_name(&self) -> &str {
        &self.event.event_name
    }

    /// When it happened, where that is known already.
    pub(crate) fn happened_at(&self) -> Option<SystemTime> {
        self.event.metadata.created_at.map(SystemTime::from)
    }

    /// Whether the interceptors or the reconciler made it.
    pub(crate) fn is_lifecycle(&self) -> bool {
        self.is_lifecycle
    }

    /// Whether a replay came to it, which may have been stored long ago.
    pub(crate) fn is_repair(&self) -> bool {
        // Applications may publish again what they read.
        let is_of_run = matches!(self.identity, Identity::Known(_) | Identity::Run { .. });
        let detected_by = self.event.metadata.custom.get(DETECTED_BY);
        is_of_run && detected_by.is_some_and(|by| by == DETECTED_BY_REPLAY)
    }

    /// Whether it is about a workflow run, and not about an activity.
    pub(crate) fn is_of_run(&self) -> bool {
        matches!(self.identity, Identity::Run { .. })
    }

    /// The id that this draft will have, where it follows from what it is about.
    pub(crate) fn derived_id(&self) -> Option<EventId> {
        match self.identity {
            Identity::Known(id) => Some(id),
            Identity::Attempt { kind, ordinal } => attempt_event_id(&self.context, kind, ordinal),
            Identity::Run { kind } => run_event_id(&self.context, kind),
            Identity::Random => self.event.metadata.event_id,
        }
    }

    /// The ids under which another lifecycle event of its attempt may be stored: that of an attempt whose
    /// number was given before comes first, for it is of no other.
    pub(crate) fn attempt_event_ids(&self, kind: &'static str) -> impl Iterator<Item = EventId> {
        let restarted = || {
            let frame = ActivityFrame {
                restarted_time: Some(self.began?),
                ..self.context.activity()?.clone()
            };
            attempt_event_id(&self.context.push(frame), kind, 0)
        };
        let plain = attempt_event_id(&self.context, kind, 0);
        restarted().into_iter().chain(plain)
    }

    /// An event that is finished but for its encoding: what was stored before and is stored anew.
    pub(crate) fn finished(rules: &Arc<Rules>, event: Event) -> Self {
        Self::new(rules, event, Context::new(), Identity::Random)
    }
}

/// What became of a draft. It lives on the stack of one thread for a moment: boxing the event would
/// cost an allocation for each.
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
    /// Finishes it: fills it from the stack, gives it its id, lets the filter see it, encodes it.
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
            .insert(id.unwrap_or_else(EventId::random))
    }

    /// Finishes it where a filter is to see the whole of it, or where something breaks a rule.
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
        if filter.apply(&mut event) == Keep::Drop {
            return Finished::Dropped;
        }
        // The hook may change anything but what the guarantees rest on.
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

/// A lifecycle event is never refused: what breaks a rule is left out.
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
            Ok(Keep::Drop) => return Finished::Dropped,
            Ok(Keep::Keep) => essence.restore(&mut event, faults),
            // It is half changed, and may hold what was to be redacted.
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
