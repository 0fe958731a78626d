//! Masks what events say, so that a timeline can be shown to somebody: data, fields of applications, messages of
//! errors. What happened, to what, when and with which outcome stays.

use crate::event::{DeadLetter, Event, EventError, StoredEvent};
use serde_json::{Map, Value};

/// What stands for what was there.
const MASK: &str = "***";
/// What this crate itself puts into the data of lifecycle events, and that says nothing private.
const KEPT_DATA: [&str; 2] = ["status", "duration_ms"];
/// What this crate itself puts among the fields of applications.
const KEPT_FIELDS: [&str; 2] = ["detected_by", "activity_run_id"];

/// Masks an event, if that is asked for.
pub(super) fn event(stored: StoredEvent, redact: bool) -> Result<StoredEvent, EventError> {
    if !redact {
        return Ok(stored);
    }
    let mut event = stored.event()?;
    mask_event(&mut event);
    let json = event.to_json_within(usize::MAX)?;
    Ok(StoredEvent { json, ..stored })
}

fn mask_event(event: &mut Event) {
    let is_lifecycle = event.is_lifecycle();
    for (name, value) in &mut event.data {
        if is_lifecycle && KEPT_DATA.contains(&name.as_str()) {
            continue;
        }
        match value {
            Value::Object(error) if is_lifecycle && name == "error" => {
                if let Some(message) = error.get_mut("message") {
                    *message = MASK.into();
                }
            }
            value => mask(value),
        }
    }
    for (name, value) in &mut event.metadata.custom {
        if !KEPT_FIELDS.contains(&name.as_str()) {
            mask(value);
        }
    }
    mask_all(&mut event.extra);
}

fn mask_all(fields: &mut Map<String, Value>) {
    for value in fields.values_mut() {
        mask(value);
    }
}

/// Masks a value. Names of fields stay, so that the shape can be seen.
fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => mask_all(fields),
        Value::Array(values) => values.iter_mut().for_each(mask),
        value => *value = MASK.into(),
    }
}

/// Masks a dead letter, if that is asked for. Its reason may quote the event.
pub(super) fn dead_letter(mut letter: DeadLetter, redact: bool) -> Result<DeadLetter, EventError> {
    if redact {
        let mut event = Event::from_json(&letter.event)?;
        mask_event(&mut event);
        letter.event = event.to_json_within(usize::MAX)?;
        letter.reason = MASK.to_owned();
    }
    Ok(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, FailureDetails, WorkflowState, lifecycle::workflow_end};
    use serde_json::json;

    fn masked(mut event: Event) -> Value {
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
        let stored = StoredEvent::new(1, &event).unwrap();
        serde_json::from_str(&super::event(stored, true).unwrap().json).unwrap()
    }

    #[test]
    fn what_is_said_is_masked_and_what_happened_is_not() {
        let event = Event::new("order.shipped")
            .data(json!({ "card": "4111", "items": [{ "sku": 7 }] }))
            .metadata("correlation_id", "anna@example.org")
            .metadata("workflow_id", "order-1");
        let event = masked(event);
        assert_eq!(
            event["data"],
            json!({ "card": "***", "items": [{ "sku": "***" }] })
        );
        assert_eq!(event["metadata"]["correlation_id"], "***");
        assert_eq!(event["metadata"]["workflow_id"], "order-1");
    }

    #[test]
    fn an_end_keeps_its_outcome_and_the_type_of_its_error() {
        let failure = FailureDetails {
            error_type: Some("OutOfStock".into()),
            message: Some("anna wants too much".into()),
            non_retryable: true,
        };
        let event = masked(workflow_end(WorkflowState::Failed, 5.0, Some(&failure)));
        let expected = json!({ "status": "failed", "duration_ms": 5.0,
            "error": { "type": "OutOfStock", "message": "***", "non_retryable": true } });
        assert_eq!(event["data"], expected);
    }
}
