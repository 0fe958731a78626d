//! CloudEvents attributes as HTTP headers (binary mode): `ce-` and the attribute's name, the values
//! percent-encoded as the HTTP binding says, so that no value can break a header.

use super::attributes::{Attributes, HeaderNames};
use crate::{event::EventError, sink::SinkEvent};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What the HTTP binding encodes besides everything outside of ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const NAMES: HeaderNames = [
    "content-type",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-subject",
    "ce-time",
    "ce-sequence",
    "ce-partitionkey",
    "ce-traceparent",
];

/// The headers of an event whose data is its native JSON.
pub(in crate::sink) fn cloud_event_headers(
    event: &SinkEvent,
) -> Result<Vec<(&'static str, String)>, EventError> {
    let attributes = Attributes::of(event)?;
    let encoded = |(name, value)| (name, utf8_percent_encode(value, ENCODED).to_string());
    Ok(attributes.headers(&NAMES).map(encoded).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Event, EventId},
        sink::shared::attributes::tests::complete,
    };

    #[test]
    fn values_cannot_break_a_header() {
        let mut event = Event::new("data.processed");
        event.metadata.event_id = Some(EventId::new());
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
        let event = complete();
        let mut attributes = serde_json::to_value(event.to_cloud_event().unwrap()).unwrap();
        let attributes = attributes.as_object_mut().unwrap();
        attributes.remove("data");
        let content_type = attributes.remove("datacontenttype").unwrap();
        let mut headers = cloud_event_headers(&SinkEvent::new(1, &event).unwrap()).unwrap();
        headers.retain(|(name, value)| *name != "content-type" || *value != content_type);
        assert_eq!(headers.len(), attributes.len());
        for (name, value) in headers {
            let attribute = attributes[name.strip_prefix("ce-").unwrap()].as_str();
            let encoded = attribute.map(|text| utf8_percent_encode(text, ENCODED).to_string());
            assert_eq!(encoded.as_deref(), Some(&*value), "{name}");
        }
    }
}
