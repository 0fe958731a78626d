//! Canonical JSON: equal content has equal bytes, from which ids are derived. Another crate in the program may
//! switch on `serde_json`'s features `preserve_order` and `arbitrary_precision` for all of it; that changes neither
//! the order of keys nor how a number is written here.

use serde_json::{Map, Number, Value};

/// Sorts the keys at every depth, and brings each number into the form in which `serde_json` writes it by default.
/// Without those features nothing changes.
pub(super) fn make_canonical(fields: &mut Map<String, Value>) {
    fields.sort_keys();
    fields.values_mut().for_each(make_value_canonical);
}

fn make_value_canonical(value: &mut Value) {
    match value {
        Value::Object(fields) => make_canonical(fields),
        Value::Array(values) => values.iter_mut().for_each(make_value_canonical),
        Value::Number(number) => {
            if let Some(other) = canonical(number)
                && other != *number
            {
                *number = other;
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Returns the number as `serde_json` reads it by default; none if it is too large for that.
fn canonical(number: &Number) -> Option<Number> {
    if let Some(whole) = number.as_u64() {
        return Some(whole.into());
    }
    // A negative zero is a fraction, not a whole number.
    match number.as_i64() {
        Some(whole) if whole != 0 => Some(whole.into()),
        _ => Number::from_f64(number.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(json: &str) -> String {
        let mut fields: Map<String, Value> = serde_json::from_str(json).unwrap();
        make_canonical(&mut fields);
        serde_json::to_string(&fields).unwrap()
    }

    // Also with `--features serde_json/preserve_order,serde_json/arbitrary_precision`.
    #[test]
    fn neither_the_order_of_keys_nor_the_way_a_number_was_written_matters() {
        assert_eq!(
            written(r#"{"b":{"d":1,"c":[{"f":1.50,"e":1e2}]},"a":-0,"aa":-7,"z":1e-7}"#),
            r#"{"a":-0.0,"aa":-7,"b":{"c":[{"e":100.0,"f":1.5}],"d":1},"z":1e-7}"#
        );
        assert_eq!(
            written(r#"{"max":18446744073709551615,"min":-9223372036854775808}"#),
            r#"{"max":18446744073709551615,"min":-9223372036854775808}"#
        );
        assert_eq!(
            written(r#"{"more":18446744073709551616}"#),
            written(r#"{"more":1.8446744073709551616e+19}"#)
        );
    }

    proptest! {
        #[test]
        fn numbers_keep_their_value(whole: i64, large: u64, fraction: f64) {
            let mut fields = Map::new();
            fields.insert("whole".to_owned(), whole.into());
            fields.insert("large".to_owned(), large.into());
            fields.insert("fraction".to_owned(), fraction.into());
            let before = fields.clone();
            make_canonical(&mut fields);
            prop_assert_eq!(before, fields);
        }
    }
}
