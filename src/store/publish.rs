//! The way of one event from `publish` to the journal: what is captured on the caller's path (time,
//! stack, ordinal), and what is left to the journal's thread (enrichment, id, filter, encoding).
//! Knows nothing of Temporal.

use super::{
    PublishError, Rules,
    options::Keep,
    trim::{self, Essence},
};
use crate::{
    context::{ActivityFrame, Context, StackFrame},
    event::{Event, EventId, EventKey, EventMetadata, LifecycleEvent, WorkflowState},
    journal::{self, AppendReceipt, Prepared, Record},
};
use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::SystemTime,
};

/// The metadata field of events that were not stored when they happened: who found them.
pub(crate) const DETECTED_BY: &str = "detected_by";
/// What it holds on events that a replay came to.
pub(crate) const DETECTED_BY_REPLAY: &str = "replay";

/// How an event gets its id.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// Outside of any context: a random one, unless the event has one already.
    Random,
    /// An event of the activity attempt on the stack.
    Attempt {
        /// The lifecycle event's name, or `user`.
        kind: &'static str,
        /// For user events their number, from 1, in the order of the calls; else 0.
        ordinal: u64,
    },
    /// A lifecycle event of the workflow run on the stack.
    Run {
        /// The lifecycle event's name.
        kind: &'static str,
    },
    /// Already derived.
    Known(EventId),
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
        }
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

impl journal::Draft for Draft {
    fn prepare(self) -> Prepared {
        let Self {
            mut event,
            context,
            created,
            identity,
            rules,
            is_lifecycle,
            began: _,
        } = self;
        match identity {
            Identity::Known(id) => event.metadata.event_id = Some(id),
            Identity::Attempt { kind, ordinal } if event.metadata.event_id.is_none() => {
                event.metadata.event_id = attempt_event_id(&context, kind, ordinal);
            }
            Identity::Run { kind } => event.metadata.event_id = run_event_id(&context, kind),
            Identity::Attempt { .. } | Identity::Random => {}
        }
        let mut faults = enrich(&mut event, &context, created, &rules.application_name);
        let event_id = *event.metadata.event_id.get_or_insert_with(EventId::random);
        let prepared = if is_lifecycle {
            prepare_lifecycle(event, event_id, &rules, &mut faults)
        } else {
            prepare_published(event, event_id, &rules)
        };
        if matches!(prepared, Prepared::Record(_)) {
            rules.trimmed.note(&faults);
        }
        prepared
    }
}

fn prepare_published(mut event: Event, event_id: EventId, rules: &Rules) -> Prepared {
    if let Err(error) = event.validate() {
        return Prepared::Invalid(error.to_string());
    }
    if let Some(filter) = &rules.filter {
        if filter.apply(&mut event) == Keep::Drop {
            return Prepared::Dropped;
        }
        // The hook may change anything but what the guarantees rest on.
        event.metadata.event_id = Some(event_id);
        if let Err(error) = event.validate() {
            return Prepared::Invalid(format!("after the filter: {error}"));
        }
    }
    match event.to_json_within(rules.max_event_bytes) {
        Ok(json) => Prepared::Record(record(event, event_id, json)),
        Err(error) => Prepared::Invalid(error.to_string()),
    }
}

/// A lifecycle event is never refused: what breaks a rule is left out.
fn prepare_lifecycle(
    mut event: Event,
    event_id: EventId,
    rules: &Rules,
    faults: &mut Vec<&'static str>,
) -> Prepared {
    trim::mend(&mut event, faults);
    if let Some(filter) = &rules.filter {
        let essence = Essence::of(&event, &rules.application_name);
        match catch_unwind(AssertUnwindSafe(|| filter.apply(&mut event))) {
            Ok(Keep::Drop) => return Prepared::Dropped,
            Ok(Keep::Keep) => essence.restore(&mut event, faults),
            // It is half changed, and may hold what was to be redacted.
            Err(_) => {
                trim::at_fault(faults, "the filter, which panicked");
                event = essence.into_event();
            }
        }
        event.metadata.event_id = Some(event_id);
    }
    match trim::to_json(&mut event, rules.max_event_bytes, faults) {
        Ok(json) => Prepared::Record(record(event, event_id, json)),
        Err(error) => Prepared::Invalid(error.to_string()),
    }
}

fn record(event: Event, event_id: EventId, json: String) -> Record {
    let lifecycle = event.is_lifecycle();
    let metadata = event.metadata;
    Record {
        event_id: event_id.into(),
        event_type: event.event_type,
        event_name: event.event_name,
        workflow_type: metadata.workflow_type,
        workflow_id: metadata.workflow_id,
        workflow_run_id: metadata.workflow_run_id,
        workflow_state: Some(metadata.workflow_state.as_str().to_owned()),
        activity_type: metadata.activity_type,
        activity_id: metadata.activity_id,
        attempt: metadata.attempt,
        created_at: metadata
            .created_at
            .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
            .unwrap_or_default(),
        lifecycle,
        json,
    }
}

/// The id of a lifecycle event of a run; the reconciler derives the same from history.
fn run_event_id(context: &Context, kind: &str) -> Option<EventId> {
    let workflow = context.workflow()?;
    Some(EventId::derive(&EventKey {
        namespace: &workflow.namespace,
        workflow_id: &workflow.workflow_id,
        run_id: &workflow.workflow_run_id,
        kind,
        activity_id: "",
        attempt: 0,
        ordinal: 0,
    }))
}

/// The id of an event of an activity attempt: the same when a local activity attempt is executed
/// again with its workflow task.
fn attempt_event_id(context: &Context, kind: &str, ordinal: u64) -> Option<EventId> {
    let activity = context.activity()?;
    let run_id = activity
        .workflow_run_id
        .as_deref()
        .or(activity.activity_run_id.as_deref());
    // An activity id may be used again once its activity is over, also within a run; the time at which
    // it was scheduled, which the server keeps and tells each attempt, tells them apart.
    let text = |time| utc(time).map(|time| time.to_rfc3339_opts(SecondsFormat::Nanos, true));
    let scheduled = activity.scheduled_time.and_then(text).unwrap_or_default();
    // A local activity that is executed again with its workflow task has another time, and must keep its
    // id. Without one of the user's, that is its position among the run's activities: when the task is
    // executed again with other inputs, another activity may have it.
    let name = if activity.is_local {
        format!("{}/{}", activity.activity_type, activity.activity_id)
    } else if let Some(began) = activity.restarted_time.and_then(text) {
        // Of an activity that was reset, the number says the same of two attempts.
        format!("{}@{scheduled}/{began}", activity.activity_id)
    } else {
        format!("{}@{scheduled}", activity.activity_id)
    };
    Some(EventId::derive(&EventKey {
        namespace: &activity.namespace,
        workflow_id: activity.workflow_id.as_deref().unwrap_or_default(),
        run_id: run_id.unwrap_or_default(),
        kind,
        activity_id: &name,
        attempt: activity.attempt,
        ordinal,
    }))
}

/// A time as events have it; none for one that no calendar has, which nothing but a broken history does.
pub(crate) fn utc(time: SystemTime) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).ok()?.checked_neg()?;
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanoseconds => (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds),
            }
        }
    };
    DateTime::from_timestamp(seconds, nanoseconds).filter(|time| (0..=9999).contains(&time.year()))
}

/// The ids of what an attempt leaves behind first.
pub(super) fn ids_of_attempt(context: &Context) -> Vec<EventId> {
    let kinds = [
        (LifecycleEvent::ActivityStart.as_str(), 0),
        (LifecycleEvent::ActivityEnd.as_str(), 0),
        // The first event of its code.
        ("user", 1),
    ];
    kinds
        .into_iter()
        .filter_map(|(kind, ordinal)| attempt_event_id(context, kind, ordinal))
        .collect()
}

/// Fills what the event leaves empty, from the top of the stack to its bottom, then the rest. Gives back
/// what user frames have that breaks a rule: it stays out.
pub(crate) fn enrich(
    event: &mut Event,
    context: &Context,
    created: SystemTime,
    application_name: &str,
) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let metadata = &mut event.metadata;
    for frame in context.frames() {
        fill(metadata, frame, &mut faults);
    }
    if metadata.workflow_state == WorkflowState::Unknown && metadata.workflow_id.is_some() {
        metadata.workflow_state = WorkflowState::Running;
    }
    if metadata.application_name.is_none() {
        metadata.application_name = Some(application_name.to_owned());
    }
    let created_at = *metadata
        .created_at
        .get_or_insert_with(|| utc(created).unwrap_or_default());
    metadata
        .created_timestamp
        .get_or_insert_with(|| created_at.timestamp());
    if metadata.topic_name.is_none() {
        metadata.topic_name = Some(event.event_type.clone());
    }
    if event.event_name.is_empty() {
        event.event_name = event.event_type.clone();
    }
    faults
}

fn set(field: &mut Option<String>, value: Option<&str>) {
    if field.is_none()
        && let Some(value) = value
    {
        *field = Some(value.to_owned());
    }
}

fn fill(metadata: &mut EventMetadata, frame: &StackFrame, faults: &mut Vec<&'static str>) {
    match frame {
        StackFrame::User(user) => {
            for (name, value) in user.fields() {
                // Who is running, and what the event is, is not for a frame to say: ids rest on it.
                let settable = ["application_name", "topic_name", "traceparent"]
                    .into_iter()
                    .find(|settable| settable == name);
                if settable.is_none() && EventMetadata::is_known_field(name) {
                    continue;
                }
                if trim::is_fit(name, value) {
                    metadata.fill_field(name, value);
                } else {
                    trim::at_fault(faults, settable.unwrap_or("metadata"));
                }
            }
        }
        StackFrame::Activity(activity) => {
            set(&mut metadata.namespace, Some(&activity.namespace));
            set(&mut metadata.task_queue, activity.task_queue.as_deref());
            set(
                &mut metadata.workflow_type,
                activity.workflow_type.as_deref(),
            );
            set(&mut metadata.workflow_id, activity.workflow_id.as_deref());
            set(
                &mut metadata.workflow_run_id,
                activity.workflow_run_id.as_deref(),
            );
            set(&mut metadata.activity_type, Some(&activity.activity_type));
            set(&mut metadata.activity_id, Some(&activity.activity_id));
            set(&mut metadata.traceparent, activity.traceparent.as_deref());
            metadata.attempt.get_or_insert(activity.attempt);
            metadata.is_local.get_or_insert(activity.is_local);
            if let Some(run_id) = activity.activity_run_id.as_deref() {
                metadata.fill_field("activity_run_id", &run_id.into());
            }
        }
        StackFrame::Workflow(workflow) => {
            set(&mut metadata.namespace, Some(&workflow.namespace));
            set(&mut metadata.task_queue, workflow.task_queue.as_deref());
            set(&mut metadata.workflow_type, Some(&workflow.workflow_type));
            set(&mut metadata.workflow_id, Some(&workflow.workflow_id));
            set(
                &mut metadata.workflow_run_id,
                Some(&workflow.workflow_run_id),
            );
            set(
                &mut metadata.first_execution_run_id,
                workflow.first_execution_run_id.as_deref(),
            );
            set(
                &mut metadata.continued_from_run_id,
                workflow.continued_from_run_id.as_deref(),
            );
            set(
                &mut metadata.parent_workflow_id,
                workflow.parent_workflow_id.as_deref(),
            );
            set(
                &mut metadata.parent_run_id,
                workflow.parent_run_id.as_deref(),
            );
            set(
                &mut metadata.root_workflow_id,
                workflow.root_workflow_id.as_deref(),
            );
            set(&mut metadata.traceparent, workflow.traceparent.as_deref());
            if metadata.workflow_attempt.is_none() {
                metadata.workflow_attempt = workflow.workflow_attempt;
            }
        }
        StackFrame::Worker(worker) => {
            set(&mut metadata.namespace, worker.namespace.as_deref());
            set(&mut metadata.task_queue, worker.task_queue.as_deref());
            set(
                &mut metadata.worker_identity,
                worker.worker_identity.as_deref(),
            );
            set(&mut metadata.build_id, worker.build_id.as_deref());
            set(&mut metadata.sdk_version, worker.sdk_version.as_deref());
        }
    }
}

/// What became of a published event.
///
/// Publishing has happened when `publish` returns: dropping the receipt is fine and the usual thing.
/// Whoever wants to know awaits it; it resolves when the event is durable. In workflow code it
/// resolves at once, with the id that the event will have, so that nothing there can depend on the
/// store. Cancel safe.
pub struct Receipt(State);

enum State {
    Ready(Option<Result<EventId, PublishError>>),
    Journal(AppendReceipt),
    // Without a file as the journal, what is durable is what the sinks have.
    Sinks(Pin<Box<dyn Future<Output = Result<EventId, PublishError>> + Send>>),
}

impl Receipt {
    pub(crate) fn ready(result: Result<EventId, PublishError>) -> Self {
        Self(State::Ready(Some(result)))
    }

    pub(crate) fn waiting(receipt: AppendReceipt) -> Self {
        Self(State::Journal(receipt))
    }

    pub(crate) fn delivered(
        receipt: impl Future<Output = Result<EventId, PublishError>> + Send + 'static,
    ) -> Self {
        Self(State::Sinks(Box::pin(receipt)))
    }
}

impl Future for Receipt {
    type Output = Result<EventId, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => {
                Poll::Ready(result.take().unwrap_or(Err(PublishError::AlreadyAwaited)))
            }
            State::Sinks(receipt) => match receipt.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    self.0 = State::Ready(None);
                    Poll::Ready(result)
                }
            },
            State::Journal(receipt) => match Pin::new(receipt).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    self.0 = State::Ready(None);
                    Poll::Ready(match result {
                        Ok(appended) => Ok(appended.event_id.into()),
                        Err(error) => Err(PublishError::from(error)),
                    })
                }
            },
        }
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.0 {
            State::Ready(Some(Ok(_))) => "accepted",
            State::Ready(Some(Err(_))) => "refused",
            State::Ready(None) => "awaited",
            State::Journal(_) | State::Sinks(_) => "waiting",
        };
        f.debug_tuple("Receipt").field(&state).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_that_no_calendar_has_are_none() {
        let epoch = SystemTime::UNIX_EPOCH;
        let text = |time| utc(time).map(|time| time.to_rfc3339());
        let odd = epoch - Duration::from_nanos(1);
        assert_eq!(
            text(odd).as_deref(),
            Some("1969-12-31T23:59:59.999999999+00:00")
        );
        assert_eq!(text(epoch).as_deref(), Some("1970-01-01T00:00:00+00:00"));
        for seconds in [253_402_300_800, i64::MAX.unsigned_abs()] {
            assert_eq!(utc(epoch + Duration::from_secs(seconds)), None);
        }
        assert_eq!(
            utc(epoch - Duration::from_secs(i64::MAX.unsigned_abs())),
            None
        );
    }
}
