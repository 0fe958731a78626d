//! The CloudEvents attributes of an event on its way: as headers (binary mode), and around the event
//! (structured mode). The same as [`CloudEvent`](crate::event::CloudEvent) has them, but taken from
//! the event's JSON without reading all of it, which would cost more than sending it.

use crate::{
    event::{
        EventError,
        cloudevents::{qualified_type, sequence_text, source},
        is_traceparent,
    },
    sink::SinkEvent,
};
use serde::{Deserialize, Serialize};

/// Of an event's JSON, what attributes are made of and a [`SinkEvent`] does not hold.
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

/// How a binding calls the attributes when they are headers; in the order of [`Attributes::headers`].
pub(in crate::sink) type HeaderNames = [&'static str; 10];

/// The attributes of one event.
#[derive(Serialize)]
pub(in crate::sink) struct Attributes<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: &'a str,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitionkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::sink) traceparent: Option<String>,
}

impl<'a> Attributes<'a> {
    pub(in crate::sink) fn of(event: &'a SinkEvent) -> Result<Self, EventError> {
        let Origin { metadata } =
            serde_json::from_str(&event.json).map_err(|error| EventError::NotAnEvent {
                reason: error.to_string(),
            })?;
        Ok(Self {
            specversion: "1.0",
            id: event.event_id.to_string(),
            source: source(
                metadata.namespace.as_deref(),
                metadata.application_name.as_deref(),
            ),
            event_type: qualified_type(&event.event_type, &event.event_name),
            subject: event.key(),
            time: &event.created_at,
            datacontenttype: "application/json",
            sequence: metadata.sequence.map(sequence_text),
            partitionkey: event.key(),
            traceparent: metadata.traceparent.filter(|text| is_traceparent(text)),
        })
    }

    /// The attributes that there are, each with its name as a header.
    pub(in crate::sink) fn headers(
        &self,
        names: &HeaderNames,
    ) -> impl Iterator<Item = (&'static str, &str)> {
        let values = [
            Some(self.datacontenttype),
            Some(self.specversion),
            Some(&*self.id),
            Some(&*self.source),
            Some(&*self.event_type),
            self.subject,
            Some(self.time),
            self.sequence.as_deref(),
            self.partitionkey,
            self.traceparent.as_deref(),
        ];
        let named = names.iter().copied().zip(values);
        named.filter_map(|(name, value)| Some((name, value?)))
    }

    /// Adds the event these are of, in structured mode, to a body.
    pub(in crate::sink) fn write_around(
        &self,
        event: &SinkEvent,
        body: &mut Vec<u8>,
    ) -> Result<(), EventError> {
        serde_json::to_writer(&mut *body, self).map_err(|error| EventError::DataIsNotJson {
            reason: error.to_string(),
        })?;
        // The event becomes the last field of the object that was just written.
        body.pop();
        body.extend_from_slice(br#","data":"#);
        body.extend_from_slice(event.json.as_bytes());
        body.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::event::{CloudEvent, Event, EventId, WorkflowState, lifecycle};

    /// An event with every attribute.
    pub(in crate::sink::shared) fn complete() -> Event {
        let mut event = lifecycle::workflow_end(WorkflowState::Completed, 1.0, None);
        let metadata = &mut event.metadata;
        metadata.event_id = Some(EventId::new());
        metadata.created_at = Some(chrono::Utc::now());
        metadata.namespace = Some("prod \"env\"".into());
        metadata.application_name = Some("orders".into());
        metadata.workflow_id = Some("order-1 \"ö\"".into());
        metadata.sequence = Some(7);
        metadata.traceparent =
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        event
    }

    /// An event with as few attributes as there can be.
    fn sparse() -> Event {
        let mut event = Event::new("data.processed").name("data.processed");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        event
    }

    #[test]
    fn the_structured_form_is_the_cloud_event() {
        for event in [complete(), sparse()] {
            let sink_event = SinkEvent::new(1, &event).unwrap();
            let mut body = Vec::new();
            let attributes = Attributes::of(&sink_event).unwrap();
            attributes.write_around(&sink_event, &mut body).unwrap();
            let text = String::from_utf8(body).unwrap();
            let wanted = sink_event.event().unwrap().to_cloud_event().unwrap();
            assert_eq!(CloudEvent::from_json(&text).unwrap(), wanted);
            assert_eq!(text, wanted.to_json().unwrap());
        }
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        let mut event = SinkEvent::new(1, &sparse()).unwrap();
        for json in ["", "[]", "{}", r#"{"metadata":{}"#] {
            event.json = json.to_owned();
            assert!(Attributes::of(&event).is_err(), "{json}");
        }
    }
}
