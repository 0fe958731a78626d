//! CloudEvents attributes as headers (binary mode): `ce-` and the attribute's name, the values
//! percent-encoded as the HTTP binding says, so that no value can break a header.

use super::SinkEvent;
use crate::event::{
    EventError,
    cloudevents::{qualified_type, sequence_text, source},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;

/// What the HTTP binding encodes besides everything outside of ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Of an event's JSON, what attributes are made of and a [`SinkEvent`] does not hold. Reading the
/// whole event would cost more than sending it.
#[derive(Deserialize)]
struct Origin {
    metadata: OriginMetadata,
}

#[derive(Deserialize)]
struct OriginMetadata {
    namespace: Option<String>,
    application_name: Option<String>,
    sequence: Option<u64>,
    traceparent: Option<String>,
}

/// The headers of an event whose data is its native JSON.
pub(super) fn cloud_event_headers(
    event: &SinkEvent,
) -> Result<Vec<(&'static str, String)>, EventError> {
    let Origin { metadata } =
        serde_json::from_str(&event.json).map_err(|error| EventError::NotAnEvent {
            reason: error.to_string(),
        })?;
    let encoded = |value: &str| utf8_percent_encode(value, ENCODED).to_string();
    let source = source(
        metadata.namespace.as_deref(),
        metadata.application_name.as_deref(),
    );
    let event_type = qualified_type(&event.event_type, &event.event_name);
    let mut headers = Vec::with_capacity(10);
    headers.extend([
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", event.event_id.to_string()),
        ("ce-source", encoded(&source)),
        ("ce-type", encoded(&event_type)),
        ("ce-time", encoded(&event.created_at)),
        ("content-type", "application/json".to_owned()),
    ]);
    if let Some(key) = event.key() {
        let key = encoded(key);
        headers.push(("ce-subject", key.clone()));
        headers.push(("ce-partitionkey", key));
    }
    if let Some(sequence) = metadata.sequence {
        headers.push(("ce-sequence", sequence_text(sequence)));
    }
    if let Some(traceparent) = &metadata.traceparent {
        headers.push(("ce-traceparent", encoded(traceparent)));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId, WorkflowState, lifecycle};

    #[test]
    fn values_cannot_break_a_header() {
        let mut event = Event::new("data.processed");
        event.metadata.event_id = Some(EventId::random());
        event.metadata.created_at = Some(chrono::Utc::now());
        event.metadata.workflow_id = Some("a\r\nce-id: x \"ö\" 5%".into());
        let event = SinkEvent::new(1, &event).unwrap();
        let headers = cloud_event_headers(&event).unwrap();
        let subject = headers.iter().find(|(name, _)| *name == "ce-subject");
        assert_eq!(
            subject.unwrap().1,
            "a%0D%0Ace-id:%20x%20%22%C3%B6%22%205%25"
        );
    }

    #[test]
    fn headers_are_the_attributes_of_the_cloud_event() {
        let mut event = lifecycle::workflow_end(WorkflowState::Completed, 1.0, None);
        let metadata = &mut event.metadata;
        metadata.event_id = Some(EventId::random());
        metadata.created_at = Some(chrono::Utc::now());
        metadata.namespace = Some("prod env".into());
        metadata.application_name = Some("orders".into());
        metadata.workflow_id = Some("order-1".into());
        metadata.sequence = Some(7);
        metadata.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-1-01".into());
        let mut attributes = serde_json::to_value(event.to_cloud_event().unwrap()).unwrap();
        let attributes = attributes.as_object_mut().unwrap();
        attributes.remove("data");
        let content_type = attributes.remove("datacontenttype").unwrap();
        let mut headers = cloud_event_headers(&SinkEvent::new(1, &event).unwrap()).unwrap();
        headers.retain(|(name, value)| *name != "content-type" || *value != content_type);
        assert_eq!(headers.len(), attributes.len());
        for (name, value) in headers {
            let attribute = attributes[name.strip_prefix("ce-").unwrap()].as_str();
            let encoded = attribute.map(|text| text.replace('%', "%25"));
            assert_eq!(encoded.as_deref(), Some(&*value), "{name}");
        }
    }
}
