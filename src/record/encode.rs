//! The short way to an event's JSON, for the usual case: no filter, and nothing that breaks a rule. The fields of
//! the context stack are encoded already and are copied; only the event's own are checked and encoded. The result
//! says the same as that of the long way in the parent module, which takes every event that this declines.

use super::{Rules, part::Part, trim};
use crate::event::{Event, EventId, StoredEvent, WorkflowState};
use serde::Serialize;

/// How many bytes to reserve for what is the event's own.
const USUAL_BYTES: usize = 512;

/// Returns the JSON of an event that has its id and its time, in a stack that gives `part`; none if the event
/// has to go the long way. What this changes in the event, the long way would change, too.
pub(super) fn encode(
    event: &mut Event,
    part: &Part,
    rules: &Rules,
    is_lifecycle: bool,
) -> Option<String> {
    event.validate().ok()?;
    if is_lifecycle && !trim::is_whole(event) {
        return None;
    }
    if event.event_name.is_empty() {
        event.event_name.clone_from(&event.event_type);
    }
    let metadata = &mut event.metadata;
    let has_workflow = metadata.workflow_id.is_some() || part.columns.workflow_id.is_some();
    if metadata.workflow_state == WorkflowState::Unknown && has_workflow {
        metadata.workflow_state = WorkflowState::Running;
    }
    let mut json = Vec::with_capacity(part.len() + USUAL_BYTES);
    json.extend_from_slice(br#"{"metadata":"#);
    write(&mut json, metadata)?;
    // Removes the closing brace, to go on. There is a field before it: the state is always there.
    json.pop();
    let is_missing = |field: &Option<String>, name| field.is_none() && !part.gives(name);
    if is_missing(&metadata.application_name, "application_name") {
        json.extend_from_slice(br#","application_name":"#);
        write(&mut json, &rules.application_name)?;
    }
    if is_missing(&metadata.topic_name, "topic_name") {
        json.extend_from_slice(br#","topic_name":"#);
        write(&mut json, &event.event_type)?;
    }
    part.write(&mut json, metadata.set_fields(), &metadata.custom);
    json.extend_from_slice(br#"},"event_type":"#);
    write(&mut json, &event.event_type)?;
    json.extend_from_slice(br#","event_name":"#);
    write(&mut json, &event.event_name)?;
    json.extend_from_slice(br#","data":"#);
    write(&mut json, &event.data)?;
    for (name, value) in &event.extra {
        json.push(b',');
        write(&mut json, name)?;
        json.push(b':');
        write(&mut json, value)?;
    }
    json.push(b'}');
    if json.len() > rules.max_event_bytes {
        return None;
    }
    String::from_utf8(json).ok()
}

fn write(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Option<()> {
    serde_json::to_writer(json, value).ok()
}

/// Returns the event for the store, with its JSON and the columns that the stack gives.
pub(super) fn stored(
    mut event: Event,
    part: &Part,
    event_id: EventId,
    json: String,
) -> StoredEvent {
    let metadata = &mut event.metadata;
    let columns = &part.columns;
    for (field, given) in [
        (&mut metadata.workflow_type, &columns.workflow_type),
        (&mut metadata.workflow_id, &columns.workflow_id),
        (&mut metadata.workflow_run_id, &columns.workflow_run_id),
        (&mut metadata.activity_type, &columns.activity_type),
        (&mut metadata.activity_id, &columns.activity_id),
    ] {
        if field.is_none() {
            *field = given.as_deref().map(str::to_owned);
        }
    }
    metadata.attempt = metadata.attempt.or(columns.attempt);
    StoredEvent::encoded(event, event_id, json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::{ActivityFrame, Context, Frame, WorkerFrame, WorkflowFrame},
        event::{ActivityStatus, FailureDetails, lifecycle},
        fuzz,
        record::{Draft, Filter, FilterAction, Finished, Identity, Trimmed},
    };
    use fastrand::Rng;
    use serde_json::json;
    use std::{
        cell::Cell,
        sync::Arc,
        time::{Duration, SystemTime},
    };

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn rules(filter: Option<Filter>, max_event_bytes: usize) -> Arc<Rules> {
        Arc::new(Rules {
            application_name: "orders \"1\"".to_owned(),
            filter,
            max_event_bytes,
            trimmed: Trimmed::default(),
            budget: crate::record::Budget::new(usize::MAX),
        })
    }

    /// Mostly one that breaks no rule.
    fn text(rng: &mut Rng) -> Arc<str> {
        match rng.u8(0..40) {
            0 => fuzz::text(rng).into(),
            1 => "\"quoted\"\n\u{1f}é🦀".into(),
            3 => "a\0b".into(),
            2 => "x".repeat(rng.usize(0..3_000)).into(),
            n => format!("text-{n}").into(),
        }
    }

    fn some(rng: &mut Rng) -> Option<Arc<str>> {
        rng.bool().then(|| text(rng))
    }

    fn traceparent(rng: &mut Rng) -> Option<Arc<str>> {
        match rng.u8(0..30) {
            0 => Some(text(rng)),
            n => (n < 10).then(|| TRACEPARENT.into()),
        }
    }

    /// A field by a name that others may have, too.
    fn name(rng: &mut Rng) -> String {
        let names = [
            "correlation_id",
            "tenant",
            "topic_name",
            "application_name",
            "traceparent",
            "workflow_id",
            "event_id",
            "detected_by",
            "activity_run_id",
            "a \"b\"",
            "workflow_state",
        ];
        match rng.u8(0..60) {
            0 => fuzz::text(rng),
            _ => rng.choice(names).unwrap().to_owned(),
        }
    }

    fn value(rng: &mut Rng, name: &str) -> serde_json::Value {
        match (name, rng.u8(0..30)) {
            (_, 0) => fuzz::leaf(rng),
            ("traceparent", _) => TRACEPARENT.into(),
            ("topic_name" | "application_name", _) => text(rng).as_ref().into(),
            (_, 1..5) => json!({ "a": [1.5, null, { "b": text(rng).as_ref() }] }),
            (_, 5) => serde_json::Value::Null,
            _ => text(rng).as_ref().into(),
        }
    }

    fn pushed(rng: &mut Rng, context: &Context) -> Context {
        match rng.u8(0..5) {
            0 => context.push(WorkerFrame {
                namespace: some(rng),
                task_queue: some(rng),
                worker_identity: some(rng),
                build_id: some(rng),
                sdk_version: some(rng),
            }),
            1 => context.push(WorkflowFrame {
                namespace: text(rng),
                task_queue: some(rng),
                workflow_type: text(rng),
                workflow_id: text(rng),
                workflow_run_id: text(rng),
                workflow_attempt: rng.bool().then(|| rng.u32(..)),
                first_execution_run_id: some(rng),
                continued_from_run_id: some(rng),
                parent_workflow_id: some(rng),
                parent_run_id: some(rng),
                root_workflow_id: some(rng),
                traceparent: traceparent(rng),
                ..WorkflowFrame::default()
            }),
            2 => context.push(ActivityFrame {
                namespace: text(rng),
                task_queue: some(rng),
                workflow_type: some(rng),
                workflow_id: some(rng),
                workflow_run_id: some(rng),
                activity_type: text(rng),
                activity_id: text(rng),
                activity_run_id: some(rng),
                attempt: rng.u32(..),
                is_local: rng.bool(),
                traceparent: traceparent(rng),
                ..ActivityFrame::default()
            }),
            _ => {
                let mut frame = Frame::new();
                for _ in 0..rng.usize(0..4) {
                    let name = name(rng);
                    let value = value(rng, &name);
                    frame = frame.field(name, value);
                }
                context.push(frame)
            }
        }
    }

    fn event(rng: &mut Rng) -> Event {
        let failure = FailureDetails {
            error_type: some(rng).map(|it| it.as_ref().to_owned()),
            message: some(rng).map(|it| it.repeat(rng.choice([1, 20]).unwrap())),
            non_retryable: rng.bool(),
        };
        let failure = rng.bool().then_some(&failure);
        let seed = json!({
            "metadata": {
                "event_id": "6b2f3a0e-93d4-8f7c-8a51-c0dee7e27501", "workflow_id": "of-event",
                "created_at": "2026-11-23T07:30:36.123456789Z", "sequence": 7, "attempt": 3,
                "topic_name": "t", "tenant": "own", "workflow_state": "failed", "is_local": true,
                "traceparent": TRACEPARENT, "workflow_attempt": 2,
            },
            "event_type": "data.processed", "event_name": "DataProcessed",
            "data": { "records": 1000, "reason": "r" }, "more": [1],
        });
        let mut event = match rng.u8(0..5) {
            0 => lifecycle::workflow_start(),
            1 => lifecycle::workflow_end(WorkflowState::Failed, rng.f64(), failure),
            2 => lifecycle::activity_end(ActivityStatus::Failed, rng.f64(), failure),
            3 => Event::from_json(&fuzz::json(rng, &[seed])).unwrap_or_default(),
            _ => Event::new(text(rng).as_ref()).data(json!({ "text": text(rng).as_ref() })),
        };
        for _ in 0..rng.u8(0..6).saturating_sub(3) {
            let name = name(rng);
            let value = value(rng, &name);
            event = event.metadata(name, value);
        }
        event
    }

    fn draft(rng: &mut Rng, event: &Event, context: &Context, rules: &Arc<Rules>) -> Draft {
        let identity = match rng.u8(0..4) {
            // Without a workflow its id would be a random one.
            0 if context.workflow().is_some() => Identity::Run {
                kind: "workflow_end",
            },
            1 => Identity::Attempt {
                kind: "user",
                ordinal: 2,
            },
            2 => Identity::Known(EventId::from(uuid::Uuid::nil())),
            _ => Identity::Random,
        };
        let mut draft = Draft::new(rules, event.clone(), context.clone(), identity);
        draft.created = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_419_036_123_456_789);
        draft.is_lifecycle = rng.bool();
        draft
    }

    /// What is stored, with the fields of its JSON in no order, and with the length of the JSON.
    fn told(finished: Finished) -> Result<(StoredEvent, serde_json::Value, usize), Box<Finished>> {
        let Finished::Stored(mut event) = finished else {
            return Err(finished.into());
        };
        let json = std::mem::take(&mut event.json);
        // A field that is there twice would not be read.
        let _event = Event::from_json(&json).unwrap();
        Ok((event, serde_json::from_str(&json).unwrap(), json.len()))
    }

    /// Whatever an event and its stack hold, the short way says what the long way says, and is refused and
    /// trimmed alike; and it is the way of most.
    #[test]
    fn fuzz_short_and_long_way() {
        let short = Cell::new(0);
        let all = Cell::new(0);
        fuzz::run("short and long way", |rng| {
            let mut context = Context::new();
            let mut contexts = vec![context.clone()];
            for _ in 0..rng.usize(0..6) {
                context = pushed(rng, &context);
                contexts.push(context.clone());
            }
            let context = rng.choice(&contexts).unwrap();
            let mut event = event(rng);
            // One that both ways would make at random.
            event
                .metadata
                .event_id
                .get_or_insert(EventId::from(uuid::Uuid::nil()));
            let mut limit = rng.choice([100, 1_000, 262_144, 262_144]).unwrap();
            let seed = rng.u64(..);
            for _ in 0..2 {
                let (ours, theirs) = (rules(None, limit), rules(None, limit));
                let mut it = draft(&mut Rng::with_seed(seed), &event, context, &ours);
                let id = it.identify();
                if let Some(part) = Part::of(context) {
                    crate::record::enrich::set_time(&mut it.event.metadata, it.created);
                    let json = encode(&mut it.event, part, &ours, it.is_lifecycle);
                    short.set(short.get() + usize::from(json.is_some()));
                }
                all.set(all.get() + 1);
                let made = told(draft(&mut Rng::with_seed(seed), &event, context, &ours).finish());
                let mut it = draft(&mut Rng::with_seed(seed), &event, context, &theirs);
                assert_eq!(it.identify(), id);
                let wanted = told(it.finish_step_by_step(id));
                assert_eq!(made, wanted);
                assert_eq!(ours.trimmed.count(), theirs.trimmed.count());
                // Then about as much as it takes.
                if let Ok((_, _, length)) = wanted {
                    limit = length - rng.usize(0..2);
                }
            }
        });
        println!("{} of {} events took the short way", short.get(), all.get());
        // Unless it is asked for a few only.
        if all.get() > 1_000 {
            assert!(short.get() > all.get() / 3);
            assert!(short.get() < all.get());
        }
    }

    #[test]
    fn a_filter_sees_what_the_stack_gives() {
        let filter = Filter::new(|event: &mut Event| {
            assert_eq!(event.metadata.custom["tenant"], "acme");
            FilterAction::Drop
        });
        let context = Context::new().push(Frame::new().field("tenant", "acme"));
        let rules = rules(Some(filter), 1_000);
        let draft = Draft::published(&rules, Event::new("a"), context, Identity::Random);
        assert_eq!(draft.finish(), Finished::Dropped);
    }
}
