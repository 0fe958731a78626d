//! CloudEvents attributes as headers (binary mode): `ce-` and the attribute's name, the values
//! percent-encoded as the HTTP binding says, so that no value can break a header.

use super::SinkEvent;
use crate::event::EventError;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What the HTTP binding encodes besides everything outside of ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The headers of an event whose data is its native JSON.
pub(super) fn cloud_event_headers(
    event: &SinkEvent,
) -> Result<Vec<(&'static str, String)>, EventError> {
    let cloud_event = event.event()?.to_cloud_event()?;
    let encoded = |value: &str| utf8_percent_encode(value, ENCODED).to_string();
    let mut headers = vec![
        ("ce-specversion", cloud_event.specversion),
        ("ce-id", cloud_event.id),
        ("ce-source", encoded(&cloud_event.source)),
        ("ce-type", encoded(&cloud_event.event_type)),
        ("content-type", cloud_event.datacontenttype),
    ];
    for (name, value) in [
        ("ce-subject", cloud_event.subject),
        ("ce-time", cloud_event.time),
        ("ce-sequence", cloud_event.sequence),
        ("ce-partitionkey", cloud_event.partitionkey),
        ("ce-traceparent", cloud_event.traceparent),
    ] {
        if let Some(value) = value {
            headers.push((name, encoded(&value)));
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId};

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
}
