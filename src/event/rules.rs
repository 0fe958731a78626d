//! The rules for JSON values in an event, so that common parsers and stores accept the event's JSON.

use serde_json::Value;

/// How deep a field's value may nest: readers of JSON stop at 128 levels, and an event, an envelope
/// around it and a batch around that are levels too.
pub(crate) const MAX_DEPTH: usize = 100;

/// Whether a value nests no deeper than [`MAX_DEPTH`].
pub(crate) fn is_shallow(value: &Value) -> bool {
    is_within(value, MAX_DEPTH)
}

fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(fields) => {
            levels > 0 && fields.values().all(|field| is_within(field, levels - 1))
        }
        _ => true,
    }
}

/// Whether a shallow value has the character NUL in it, which PostgreSQL takes neither in text nor in
/// JSON.
pub(crate) fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, field)| name.contains('\0') || has_nul(field)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn depth_is_counted_in_levels() {
        assert!(is_shallow(&nested(MAX_DEPTH)));
        assert!(!is_shallow(&nested(MAX_DEPTH + 1)));
        assert!(!is_shallow(&json!({ "a": { "b": nested(MAX_DEPTH - 1) } })));
    }

    #[test]
    fn nul_is_found_in_names_and_values() {
        assert!(has_nul(&json!({ "a": ["b", { "c": "d\0" }] })));
        assert!(has_nul(&json!({ "a\0": 1 })));
        assert!(!has_nul(&json!({ "a": "\u{1}" })));
    }
}
