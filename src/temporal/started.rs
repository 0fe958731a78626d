//! What a run was started with, as fields of its `workflow_start` and `workflow_end`: the schedule that started it, and
//! of its search attributes and its memo those that the store asks for. An activation has the same as the first event of
//! a history, so that interceptors and reconciler come to the same fields. Knows neither activations nor histories.

use super::payload;
use crate::store::EventStore;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use temporalio_common::protos::temporal::api::common::v1::{Memo, Payload, SearchAttributes};

/// The search attributes that the server sets for a run that a schedule started
/// (<https://docs.temporal.io/search-attribute#default-search-attribute>).
const SCHEDULED_BY_ID: &str = "TemporalScheduledById";
const SCHEDULED_START_TIME: &str = "TemporalScheduledStartTime";

/// The fields. Nothing is decoded but what goes into them.
pub(super) fn fields(
    store: &EventStore,
    search_attributes: Option<&SearchAttributes>,
    memo: Option<&Memo>,
) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(attributes) = search_attributes {
        let attributes = &attributes.indexed_fields;
        if let Some(schedule) = schedule(attributes) {
            fields.insert("scheduled_by".to_owned(), schedule);
        }
        add(
            &mut fields,
            "search_attributes",
            store.search_attributes(),
            attributes,
        );
    }
    if let Some(memo) = memo {
        add(&mut fields, "memo", store.memo(), &memo.fields);
    }
    fields
}

fn schedule(attributes: &HashMap<String, Payload>) -> Option<Value> {
    let schedule_id = payload::value(attributes.get(SCHEDULED_BY_ID)?).filter(Value::is_string)?;
    let mut schedule = Map::from_iter([("schedule_id".to_owned(), schedule_id)]);
    let time = attributes
        .get(SCHEDULED_START_TIME)
        .and_then(payload::value)
        .and_then(|time| DateTime::parse_from_rfc3339(time.as_str()?).ok());
    if let Some(time) = time {
        // As events have every time.
        let time = time
            .with_timezone(&Utc)
            .to_rfc3339_opts(SecondsFormat::Micros, true);
        schedule.insert("scheduled_time".to_owned(), json!(time));
    }
    Some(schedule.into())
}

/// Adds the values of these names, if there are any.
fn add(
    fields: &mut Map<String, Value>,
    field: &str,
    names: &[String],
    payloads: &HashMap<String, Payload>,
) {
    let found: Map<String, Value> = names
        .iter()
        .filter_map(|name| Some((name.clone(), payload::value(payloads.get(name)?)?)))
        .collect();
    if !found.is_empty() {
        fields.insert(field.to_owned(), found.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::MAX_DEPTH;

    fn payload(encoding: &str, data: &str) -> Payload {
        Payload {
            metadata: HashMap::from([("encoding".to_owned(), encoding.into())]),
            data: data.into(),
            ..Payload::default()
        }
    }

    fn of(payloads: &[(&str, Payload)]) -> HashMap<String, Payload> {
        let named = |(name, payload): &(&str, Payload)| ((*name).to_owned(), payload.clone());
        payloads.iter().map(named).collect()
    }

    #[tokio::test]
    async fn only_what_is_asked_for_and_is_json_is_told() {
        let events = EventStore::builder()
            .store("memory:")
            .search_attributes(["CustomerId", "Missing"])
            .memo(["note", "sealed", "bytes", "broken", "deep", "nul", "none"])
            .build()
            .await
            .unwrap();
        let search_attributes = SearchAttributes {
            indexed_fields: of(&[
                ("CustomerId", payload("json/plain", r#""c-7""#)),
                ("Other", payload("json/plain", "1")),
            ]),
        };
        let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
        let memo = Memo {
            fields: of(&[
                ("note", payload("json/plain", r#"{"b":1,"a":[true]}"#)),
                ("sealed", payload("binary/encrypted", r#""seen""#)),
                ("bytes", payload("binary/plain", "1")),
                ("broken", payload("json/plain", "{")),
                ("deep", payload("json/plain", &deep(MAX_DEPTH))),
                ("nul", payload("json/plain", r#""\u0000""#)),
                ("none", payload("json/plain", "null")),
                ("other", payload("json/plain", "1")),
            ]),
        };
        assert_eq!(
            Value::Object(fields(&events, Some(&search_attributes), Some(&memo))),
            json!({
                "search_attributes": { "CustomerId": "c-7" },
                "memo": { "note": { "a": [true], "b": 1 } },
            })
        );
        let silent = EventStore::disabled();
        assert!(fields(&silent, Some(&search_attributes), Some(&memo)).is_empty());
    }

    #[test]
    fn a_schedule_is_told_with_its_time() {
        let id = (
            "TemporalScheduledById",
            payload("json/plain", r#""nightly""#),
        );
        let time = |text: &str| {
            let text = format!("{text:?}");
            ("TemporalScheduledStartTime", payload("json/plain", &text))
        };
        let told = |payloads: &[(&str, Payload)]| schedule(&of(payloads));
        assert_eq!(
            told(&[id.clone(), time("2026-11-23T08:30:00+01:00")]),
            Some(json!({
                "schedule_id": "nightly", "scheduled_time": "2026-11-23T07:30:00.000000Z",
            }))
        );
        let bare = Some(json!({ "schedule_id": "nightly" }));
        assert_eq!(told(&[id.clone(), time("soon")]), bare);
        assert_eq!(told(&[id]), bare);
        assert_eq!(told(&[time("2026-11-23T07:30:00Z")]), None);
    }
}
