//! The native JSON against what the reference really sends, and the round trips of both encodings.

mod schema;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use temporal_eventstore::{
    Event, EventId, WorkflowState,
    event::{CloudEvent, EventError, lifecycle},
};

/// The events that the reference sent to its binding.
fn samples() -> Vec<Value> {
    include_str!("reference/wire.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|request| request["path"] == "/v1.0/bindings/eventstore")
        .map(|request| {
            let body: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
            assert_eq!(body["operation"], "create");
            body["data"].clone()
        })
        .collect()
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), without_nulls(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[test]
fn every_sample_of_the_reference_is_read_and_written_again_with_its_names_and_types() {
    let samples = samples();
    assert_eq!(samples.len(), 10);
    for sample in samples {
        let event = Event::from_json(&sample.to_string()).unwrap();
        assert!(event.validate().is_ok());
        let written: Value = serde_json::from_str(&event.to_json().unwrap()).unwrap();
        // Absent context is left out; the worker's data keeps its own nulls.
        let mut expected = sample.clone();
        expected["metadata"] = without_nulls(&sample["metadata"]);
        assert_eq!(written, expected);
    }
}

#[test]
fn what_we_write_has_the_references_names_and_types() {
    let mut event = lifecycle::workflow_end(WorkflowState::Completed, 309.91, None);
    event.metadata.application_name = Some("refapp".into());
    event.metadata.created_timestamp = Some(1_795_419_036);
    event.metadata.topic_name = Some("application_events".into());
    event.metadata.workflow_type = Some("NoopWF".into());
    event.metadata.workflow_id = Some("w".into());
    event.metadata.workflow_run_id = Some("r".into());
    event.metadata.activity_type = Some("noop".into());
    event.metadata.activity_id = Some("2".into());
    event.metadata.attempt = Some(1);
    let written: Value = serde_json::from_str(&event.to_json().unwrap()).unwrap();
    let reference = samples()
        .into_iter()
        .find(|sample| sample["event_name"] == "workflow_end")
        .unwrap();
    for (name, value) in reference["metadata"].as_object().unwrap() {
        if ["release_id", "sdk_version"].contains(&name.as_str()) {
            continue;
        }
        let ours = &written["metadata"][name];
        assert_eq!(
            std::mem::discriminant(ours),
            std::mem::discriminant(value),
            "{name}: {ours}"
        );
    }
    assert_eq!(
        written["data"]["duration_ms"],
        reference["data"]["duration_ms"]
    );
}

#[test]
fn unknown_fields_survive_at_every_level() {
    let text = json!({
        "metadata": { "workflow_state": "running", "ours": { "deep": [1, null] } },
        "event_type": "t", "event_name": "n", "data": { "x": null }, "new_top_level": [true]
    });
    let event = Event::from_json(&text.to_string()).unwrap();
    let written: Value = serde_json::from_str(&event.to_json().unwrap()).unwrap();
    assert_eq!(written, text);
}

#[test]
fn created_at_has_six_digits_and_a_z() {
    let mut event = Event::new("t");
    event.metadata.created_at = Some("2026-11-23T07:30:36.1Z".parse().unwrap());
    let written: Value = serde_json::from_str(&event.to_json().unwrap()).unwrap();
    assert_eq!(
        written["metadata"]["created_at"],
        "2026-11-23T07:30:36.100000Z"
    );
}

#[test]
fn broken_rules_are_named() {
    let text = |event: Event| event.validate().unwrap_err().to_string();
    assert!(text(Event::new("")).contains("event_type is empty"));
    let long = text(Event::new("x".repeat(256)));
    assert!(long.contains("256") && long.contains("255"), "{long}");
    assert!(text(Event::new("a\nb")).contains("control character"));
    assert!(text(Event::new("a").name("b\u{7}")).contains("event_name"));
    assert!(text(Event::new("a").data(7)).contains("a number"));
    assert!(text(Event::new("a").data([1])).contains("an array"));
    let attempt = text(Event::new("a").metadata("attempt", "many"));
    assert!(
        attempt.contains("attempt") && attempt.contains("many"),
        "{attempt}"
    );
    // Characters count, not bytes.
    assert!(Event::new("ü".repeat(255)).validate().is_ok());

    let mut twice = Event::new("a");
    twice.metadata.custom.insert("attempt".into(), json!(1));
    assert!(text(twice).contains("attempt is a name of the event format"));

    struct Unserializable;
    impl serde::Serialize for Unserializable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("on purpose"))
        }
    }
    assert!(text(Event::new("a").data(Unserializable)).contains("on purpose"));

    let large = Event::new("a").data(json!({ "x": "y".repeat(300_000) }));
    assert!(matches!(
        large.to_json(),
        Err(EventError::TooLarge { limit: 262_144, .. })
    ));
    assert!(large.to_json_within(400_000).is_ok());
    assert!(matches!(
        Event::from_json("[]"),
        Err(EventError::NotAnEvent { .. })
    ));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_object(prefix: &'static str) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-z]{1,5}", any_value(), 0..5).prop_map(move |map| {
        map.into_iter()
            .map(|(name, value)| (format!("{prefix}{name}"), value))
            .collect()
    })
}

prop_compose! {
    fn any_event()(
        event_type in "[^\\p{C}]{1,40}",
        event_name in "[^\\p{C}]{1,40}",
        data in any_object(""),
        custom in any_object("custom_"),
        extra in any_object("extra_"),
        workflow_id in proptest::option::of(".{0,20}"),
        attempt in proptest::option::of(any::<u32>()),
        sequence in proptest::option::of(any::<u64>()),
        state in "[a-z_]{1,12}",
        seconds in 0_i64..4_000_000_000,
        micros in 0_u32..1_000_000,
        id in any::<u128>(),
    ) -> Event {
        let mut event = Event::new(event_type).name(event_name).data(data);
        event.metadata.custom = custom;
        event.extra = extra;
        event.metadata.workflow_id = workflow_id;
        event.metadata.attempt = attempt;
        event.metadata.sequence = sequence;
        event.metadata.workflow_state = WorkflowState::from(state.as_str());
        event.metadata.created_at = chrono::DateTime::from_timestamp(seconds, micros * 1000);
        event.metadata.event_id = Some(EventId::from(uuid::Uuid::from_u128(id)));
        event
    }
}

proptest! {
    #[test]
    fn native_json_round_trip(event in any_event()) {
        prop_assert_eq!(Event::from_json(&event.to_json().unwrap()).unwrap(), event);
    }

    #[test]
    fn cloud_event_round_trip(event in any_event()) {
        let json = event.to_cloud_event().unwrap().to_json().unwrap();
        prop_assert_eq!(CloudEvent::from_json(&json).unwrap().into_event(), event);
    }

    #[test]
    fn cloud_event_attributes_are_valid(event in any_event()) {
        let json: Value =
            serde_json::from_str(&event.to_cloud_event().unwrap().to_json().unwrap()).unwrap();
        for (name, value) in json.as_object().unwrap() {
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            prop_assert!(name == "data" || value.is_string());
        }
        prop_assert_eq!(&json["specversion"], "1.0");
        let source = json["source"].as_str().unwrap();
        prop_assert!(source.is_ascii() && !source.contains(' '));
    }

    #[test]
    fn validation_never_panics(event_type in ".{0,300}", name in ".{0,300}") {
        Event::new(event_type).name(name).validate().ok();
    }
}

#[test]
fn a_traceparent_that_is_none_is_a_typed_error() {
    let with = |text: &str| Event::new("x").metadata("traceparent", text).validate();
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(with(valid), Ok(()));
    for text in ["", "none", &valid.to_uppercase(), &format!("{valid}-00")] {
        let Err(EventError::InvalidField { field, .. }) = with(text) else {
            panic!("{text} was taken");
        };
        assert_eq!(field, "traceparent");
    }
}

#[test]
fn a_field_that_readers_of_json_give_up_on_is_a_typed_error() {
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let event = |levels| Event::new("x").metadata("deep", nested(levels));
    assert_eq!(event(100).validate(), Ok(()));
    let text = event(100).to_json().unwrap();
    assert!(Event::from_json(&text).is_ok());
    assert!(matches!(event(101).validate(), Err(EventError::TooDeep { field }) if field == "deep"));
}
