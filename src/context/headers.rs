//! What of the stack travels with a call: the fields of the user frames, as one JSON object under
//! one header key. Knows nothing of Temporal's payload types; the caller wraps the bytes.

use super::{Context, Frame, StackFrame};
use serde_json::{Map, Value};

/// The header under which user frames travel.
pub(crate) const HEADER_KEY: &str = "temporal-eventstore";

/// The SDK's OpenTelemetry header (`temporalio_sdk::opentelemetry::TRACE_HEADER_KEY`, shared by all
/// Temporal SDKs): a JSON object with the W3C fields.
pub(crate) const TRACE_HEADER_KEY: &str = "_tracer-data";

/// Larger than this, the fields stay where they are: headers are stored in workflow history and
/// count against its size.
pub(crate) const MAX_HEADER_BYTES: usize = 8 * 1024;

/// The user fields of a stack as JSON, or nothing when there are none.
pub(crate) fn encode(context: &Context) -> Option<Vec<u8>> {
    let mut merged: Option<Map<String, Value>> = None;
    for frame in context.frames() {
        if let StackFrame::User(user) = frame {
            match &mut merged {
                None => merged = Some(user.fields.clone()),
                Some(fields) => {
                    for (name, value) in &user.fields {
                        // Frames are visited from the top: what is there already wins.
                        if !fields.contains_key(name) {
                            fields.insert(name.clone(), value.clone());
                        }
                    }
                }
            }
        }
    }
    let fields = merged.filter(|fields| !fields.is_empty())?;
    let bytes = serde_json::to_vec(&fields).ok()?;
    if bytes.len() > MAX_HEADER_BYTES {
        tracing::warn!(
            bytes = bytes.len(),
            limit = MAX_HEADER_BYTES,
            "context frames are too large to travel in a header and stay behind"
        );
        return None;
    }
    Some(bytes)
}

/// The frame that [`encode`] made, or nothing when the bytes are not such a frame.
pub(crate) fn decode(bytes: &[u8]) -> Option<Frame> {
    let fields: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    (!fields.is_empty()).then_some(Frame { fields })
}

/// The `traceparent` in the SDK's OpenTelemetry header.
pub(crate) fn traceparent(bytes: &[u8]) -> Option<String> {
    let fields: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    fields
        .get("traceparent")
        .and_then(Value::as_str)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_fields_travel_and_the_top_frame_wins() {
        let context = Context::new()
            .push(Frame::new().field("a", 1).field("b", 1))
            .push(Frame::new().field("b", 2));
        let frame = decode(&encode(&context).unwrap()).unwrap();
        assert_eq!(frame, Frame::new().field("a", 1).field("b", 2));
    }

    #[test]
    fn a_stack_without_user_frames_sends_nothing() {
        assert_eq!(encode(&Context::new()), None);
        let worker = Context::new().push(super::super::WorkerFrame::default());
        assert_eq!(encode(&worker), None);
    }

    #[test]
    fn fields_over_the_limit_stay_behind() {
        let context = Context::new().push(Frame::new().field("a", "x".repeat(MAX_HEADER_BYTES)));
        assert_eq!(encode(&context), None);
    }

    #[test]
    fn what_is_no_frame_is_ignored() {
        assert_eq!(decode(b"not json"), None);
        assert_eq!(decode(b"[1]"), None);
        assert_eq!(decode(b"{}"), None);
    }

    #[test]
    fn traceparent_is_read_from_the_opentelemetry_header() {
        let header =
            br#"{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#;
        assert_eq!(
            traceparent(header).as_deref(),
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        );
        assert_eq!(traceparent(b"{}"), None);
    }

    #[test]
    fn fuzz_headers() {
        let seeds = [
            serde_json::json!({ "correlation_id": "c-42", "tenant": { "name": "acme" }, "n": [1, 2.5] }),
            serde_json::json!({
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "tracestate": "a=b",
                "topic_name": "orders",
            }),
        ];
        crate::fuzz::run("headers", |rng| {
            let text = crate::fuzz::json(rng, &seeds);
            let bytes = if rng.u8(0..4) == 0 {
                crate::fuzz::mutated(rng, &[text.into_bytes()])
            } else {
                text.into_bytes()
            };
            traceparent(&bytes);
            let Some(frame) = decode(&bytes) else {
                return;
            };
            if let Some(sent) = encode(&Context::new().push(frame.clone())) {
                assert!(sent.len() <= MAX_HEADER_BYTES);
                assert_eq!(decode(&sent).as_ref(), Some(&frame));
            }
        });
    }
}
