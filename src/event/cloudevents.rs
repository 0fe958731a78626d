//! The CloudEvents 1.0 JSON encoding (structured mode). This is the only place where attributes are mapped;
//! [`Event::to_cloud_event`] has the table.

use super::{Event, EventError, is_traceparent, lifecycle::APPLICATION_EVENTS};
use serde::{Deserialize, Serialize};

/// An event as a CloudEvents 1.0 JSON object (structured mode). Created by [`Event::to_cloud_event`], whose table says
/// how attributes are mapped.
///
/// ```
/// use temporal_eventstore::{Event, EventId};
///
/// let mut event = Event::new("data.processed").name("DataProcessed");
/// event.metadata.event_id = Some(EventId::new());
/// let cloud_event = event.to_cloud_event()?;
/// assert_eq!(cloud_event.event_type, "data.processed");
/// assert_eq!(cloud_event.into_event(), event);
/// # Ok::<(), temporal_eventstore::event::EventError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CloudEvent {
    /// The version of the specification: `1.0`.
    pub specversion: String,
    /// The event id.
    pub id: String,
    /// The namespace and the application that the event comes from.
    pub source: String,
    /// The event type, or `application_events.{event_name}` for a lifecycle event.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The workflow id, or else the activity id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the event happened (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The media type of `data`: `application/json`.
    pub datacontenttype: String,
    /// The CloudEvents extension `sequence`: 20 digits, so that texts sort as numbers do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The CloudEvents extension `partitionkey`: the same as `subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitionkey: Option<String>,
    /// The CloudEvents extension `traceparent`, if the event has a valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The whole native event, so that nothing is lost.
    pub data: Event,
}

impl CloudEvent {
    /// Returns the native event.
    pub fn into_event(self) -> Event {
        self.data
    }

    /// Returns the JSON text.
    ///
    /// # Errors
    /// [`EventError::DataIsNotJson`] if a value cannot be written as JSON. The values of an [`Event`] always can.
    pub fn to_json(&self) -> Result<String, EventError> {
        serde_json::to_string(self).map_err(|error| EventError::DataIsNotJson {
            reason: error.to_string(),
        })
    }

    /// Parses the JSON text. An invalid attribute `traceparent` is left out.
    ///
    /// # Errors
    /// [`EventError::NotAnEvent`] if the text is not a CloudEvents object with a native event in `data`.
    pub fn from_json(json: &str) -> Result<Self, EventError> {
        let mut event: Self =
            serde_json::from_str(json).map_err(|error| EventError::NotAnEvent {
                reason: error.to_string(),
            })?;
        event.traceparent = event.traceparent.filter(|text| is_traceparent(text));
        Ok(event)
    }
}

impl Event {
    /// Returns the event as a CloudEvents object.
    ///
    /// | attribute | value |
    /// |---|---|
    /// | `id` | `metadata.event_id` |
    /// | `source` | `/temporal/{namespace}/{application_name}`, percent-encoded, with `-` for an unknown part |
    /// | `type` | `application_events.{event_name}` for a lifecycle event, otherwise the event type |
    /// | `subject`, `partitionkey` | the workflow id, or else the activity id |
    /// | `time` | `metadata.created_at` |
    /// | `datacontenttype` | `application/json` |
    /// | `data` | the whole native event |
    /// | `sequence` | `metadata.sequence`, with leading zeros |
    /// | `traceparent` | `metadata.traceparent`, if it is valid |
    ///
    /// # Errors
    /// [`EventError::InvalidField`] if the event has no id. It gets one when it is published.
    pub fn to_cloud_event(&self) -> Result<CloudEvent, EventError> {
        let metadata = &self.metadata;
        let id = metadata
            .event_id
            .ok_or_else(|| EventError::InvalidField {
                field: "event_id".to_owned(),
                value: "nothing".to_owned(),
                allowed: "the id that publishing gives",
            })?
            .to_string();
        // Not an empty one, which an application may set: the specification forbids it.
        let subject = [&metadata.workflow_id, &metadata.activity_id]
            .into_iter()
            .flatten()
            .find(|id| !id.is_empty())
            .cloned();
        Ok(CloudEvent {
            specversion: "1.0".to_owned(),
            id,
            source: source(
                metadata.namespace.as_deref(),
                metadata.application_name.as_deref(),
            ),
            event_type: qualified_type(&self.event_type, &self.event_name),
            partitionkey: subject.clone(),
            subject,
            time: metadata.created_at_text(),
            datacontenttype: "application/json".to_owned(),
            sequence: metadata.sequence.map(sequence_text),
            traceparent: metadata
                .traceparent
                .clone()
                .filter(|text| is_traceparent(text)),
            data: self.clone(),
        })
    }
}

/// The attribute `source`.
pub(crate) fn source(namespace: Option<&str>, application_name: Option<&str>) -> String {
    format!(
        "/temporal/{}/{}",
        segment(namespace),
        segment(application_name)
    )
}

/// The attribute `type`.
pub(crate) fn qualified_type(event_type: &str, event_name: &str) -> String {
    if event_type == APPLICATION_EVENTS {
        format!("{APPLICATION_EVENTS}.{event_name}")
    } else {
        event_type.to_owned()
    }
}

/// The attribute `sequence`.
pub(crate) fn sequence_text(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// A text as one segment of a URI path (RFC 3986: what is not unreserved is percent-encoded).
fn segment(text: Option<&str>) -> String {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return "-".to_owned();
    };
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, WorkflowState, lifecycle};
    use chrono::Timelike as _;

    #[test]
    fn attributes_are_mapped_as_the_table_says() {
        let mut event = lifecycle::workflow_end(WorkflowState::Completed, 1.0, None);
        event.metadata.event_id = Some(EventId::new());
        event.metadata.namespace = Some("prod env".into());
        event.metadata.application_name = Some("orders".into());
        event.metadata.workflow_id = Some("order-1".into());
        event.metadata.sequence = Some(7);
        let cloud_event = event.to_cloud_event().unwrap();
        assert_eq!(cloud_event.source, "/temporal/prod%20env/orders");
        assert_eq!(cloud_event.event_type, "application_events.workflow_end");
        assert_eq!(cloud_event.subject.as_deref(), Some("order-1"));
        assert_eq!(cloud_event.partitionkey.as_deref(), Some("order-1"));
        assert_eq!(
            cloud_event.sequence.as_deref(),
            Some("00000000000000000007")
        );
        let text = cloud_event.to_json().unwrap();
        assert_eq!(CloudEvent::from_json(&text).unwrap().into_event(), event);
    }

    #[test]
    fn a_traceparent_that_is_none_is_no_attribute() {
        let mut event = Event::new("x");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.traceparent = Some("none".into());
        assert_eq!(event.to_cloud_event().unwrap().traceparent, None);
        event.metadata.traceparent =
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
        let text = event.to_cloud_event().unwrap().to_json().unwrap();
        assert!(CloudEvent::from_json(&text).unwrap().traceparent.is_some());
        let text = text.replace("-01\"", "-0\"");
        assert_eq!(CloudEvent::from_json(&text).unwrap().traceparent, None);
    }

    #[test]
    fn an_event_without_an_id_is_no_cloud_event_yet() {
        assert!(Event::new("x").to_cloud_event().is_err());
    }

    /// Documents as they are sent.
    fn documents() -> Vec<serde_json::Value> {
        let mut end = lifecycle::workflow_end(
            WorkflowState::Failed,
            309.91,
            Some(&lifecycle::FailureDetails {
                error_type: Some("OutOfStock".into()),
                message: Some("no more bolts".into()),
                non_retryable: true,
            }),
        );
        let metadata = &mut end.metadata;
        metadata.event_id = Some(EventId::new());
        metadata.created_at = Some(chrono::Utc::now());
        metadata.namespace = Some("default".into());
        metadata.workflow_id = Some("order-1".into());
        metadata.sequence = Some(7);
        metadata.attempt = Some(1);
        metadata.is_local = Some(false);
        metadata.traceparent =
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        let mut user = Event::new("data.processed")
            .data(serde_json::json!({ "records": 1000, "a": [1.5, { "b": null }] }))
            .metadata("tenant", serde_json::json!({ "name": "acme" }));
        user.metadata.event_id = Some(EventId::new());
        user.extra.insert("later".into(), 1.into());
        vec![
            serde_json::to_value(end).unwrap(),
            serde_json::to_value(user).unwrap(),
        ]
    }

    #[test]
    fn fuzz_event_json() {
        let seeds = documents();
        crate::fuzz::run("Event::from_json", |rng| {
            let text = crate::fuzz::json(rng, &seeds);
            let Ok(mut event) = Event::from_json(&text) else {
                return;
            };
            // Written with six digits of a second, whatever was read.
            let at = event.metadata.created_at;
            event.metadata.created_at =
                at.and_then(|at| at.with_nanosecond(at.nanosecond() / 1000 * 1000));
            let is_valid = event.validate().is_ok();
            let written = event.to_json_within(usize::MAX).unwrap();
            if is_valid {
                assert_eq!(Event::from_json(&written).unwrap(), event, "{text}");
            }
            if let Ok(cloud_event) = event.to_cloud_event()
                && is_valid
            {
                let text = cloud_event.to_json().unwrap();
                assert_eq!(CloudEvent::from_json(&text).unwrap(), cloud_event, "{text}");
            }
        });
    }

    #[test]
    fn fuzz_cloud_events() {
        let seeds: Vec<_> = documents()
            .into_iter()
            .map(|document| {
                let event = Event::from_json(&document.to_string()).unwrap();
                serde_json::to_value(event.to_cloud_event().unwrap()).unwrap()
            })
            .collect();
        crate::fuzz::run("CloudEvent::from_json", |rng| {
            let text = crate::fuzz::json(rng, &seeds);
            let Ok(mut cloud_event) = CloudEvent::from_json(&text) else {
                return;
            };
            let at = cloud_event.data.metadata.created_at;
            cloud_event.data.metadata.created_at =
                at.and_then(|at| at.with_nanosecond(at.nanosecond() / 1000 * 1000));
            let written = cloud_event.to_json().unwrap();
            if cloud_event.data.validate().is_ok() {
                assert_eq!(
                    CloudEvent::from_json(&written).unwrap(),
                    cloud_event,
                    "{text}"
                );
            }
            let traceparent = cloud_event.traceparent.as_deref();
            assert!(traceparent.is_none_or(is_traceparent), "{text}");
        });
    }
}
