//! Payloads: the bytes of [`headers`] in Temporal's envelope, and JSON values. Knows no interceptor.

use crate::{
    context::{Context, Frame, headers},
    event::{has_nul, is_shallow, is_traceparent},
};
use serde_json::Value;
use std::collections::HashMap;
use temporalio_common::protos::temporal::api::common::v1::{Header, Payload};

/// The encoding that every Temporal SDK's default converter gives to JSON.
const JSON_ENCODING: &[u8] = b"json/plain";

/// Adds the user frames of a stack to the headers of a call; leaves them alone when there are none.
pub(super) fn inject(context: &Context, fields: &mut HashMap<String, Payload>) {
    if let Some(bytes) = headers::encode(context) {
        fields.insert(
            headers::HEADER_KEY.to_owned(),
            Payload {
                metadata: HashMap::from([("encoding".to_owned(), JSON_ENCODING.to_vec())]),
                data: bytes,
                ..Payload::default()
            },
        );
    }
}

/// As [`inject`], into a header that may not be there yet.
pub(super) fn inject_header(context: &Context, header: &mut Option<Header>) {
    let mut fields = HashMap::new();
    inject(context, &mut fields);
    if !fields.is_empty() {
        header.get_or_insert_default().fields.extend(fields);
    }
}

/// The frame that travelled with a call.
pub(super) fn frame(fields: &HashMap<String, Payload>) -> Option<Frame> {
    headers::decode(&fields.get(headers::HEADER_KEY)?.data)
}

/// The trace context that the SDK's OpenTelemetry plugin sent with a call; none if it is not as the W3C
/// has it: anybody may send anything.
pub(super) fn traceparent(fields: &HashMap<String, Payload>) -> Option<String> {
    let found = headers::traceparent(&fields.get(headers::TRACE_HEADER_KEY)?.data)?;
    if is_traceparent(&found) {
        return Some(found);
    }
    tracing::debug!("a header's traceparent is none, and is ignored");
    None
}

/// The value of a payload that is JSON; none if it is not, as that of a codec that encrypts, or if an event could not
/// have it as a field of an object.
pub(super) fn value(payload: &Payload) -> Option<Value> {
    // `json/plain` and `json/protobuf`.
    if !payload.metadata.get("encoding")?.starts_with(b"json/") {
        return None;
    }
    let value: Value = serde_json::from_slice(&payload.data).ok()?;
    let value = Value::Array(vec![value]);
    if !is_shallow(&value) || has_nul(&value) {
        return None;
    }
    match value {
        Value::Array(mut value) => value.pop().filter(|value| !value.is_null()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_make_the_round_trip_through_a_header() {
        let context = Context::new().push(Frame::new().correlation_id("c-1"));
        let mut header = None;
        inject_header(&context, &mut header);
        let header = header.unwrap();
        assert_eq!(
            header.fields[headers::HEADER_KEY].metadata["encoding"],
            JSON_ENCODING
        );
        assert_eq!(
            frame(&header.fields),
            Some(Frame::new().correlation_id("c-1"))
        );
    }

    #[test]
    fn a_traceparent_that_is_none_is_ignored() {
        let header = |text: &str| {
            let data = serde_json::json!({ "traceparent": text }).to_string();
            let payload = Payload {
                data: data.into_bytes(),
                ..Payload::default()
            };
            HashMap::from([(headers::TRACE_HEADER_KEY.to_owned(), payload)])
        };
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&header(valid)).as_deref(), Some(valid));
        for text in ["", "none", &valid.to_uppercase(), &format!("{valid}\n")] {
            assert_eq!(traceparent(&header(text)), None, "{text}");
        }
    }

    #[test]
    fn without_frames_no_header_is_added() {
        let mut header = None;
        inject_header(&Context::new(), &mut header);
        assert_eq!(header, None);
    }
}
