//! `docs/event.schema.json` against what is really sent, and against what is broken.

use super::{any_event, samples};
use crate::support::{
    Ground, outcome,
    stand_in::{StandIn, header},
    with_example_worker, workflows,
};
use boon::{Compiler, Draft, SchemaIndex, Schemas};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::LazyLock, time::Duration};
use temporal_eventstore::{Event, EventId, EventStore, StoredEvent, event::EventMetadata};
use temporalio_client::{WorkflowCancelOptions, WorkflowGetResultOptions};
use wiremock::ResponseTemplate;

const TEXT: &str = include_str!("../../../docs/event.schema.json");

struct Schema {
    schemas: Schemas,
    cloud_event: SchemaIndex,
    native: SchemaIndex,
}

impl Schema {
    fn new() -> Self {
        let location = "https://example.org/event.schema.json";
        let mut schema: Value = serde_json::from_str(TEXT).unwrap();
        schema.as_object_mut().unwrap().remove("$id");
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.enable_format_assertions();
        compiler.add_resource(location, schema).unwrap();
        let mut schemas = Schemas::new();
        let mut compile = |part: &str| {
            compiler
                .compile(&format!("{location}{part}"), &mut schemas)
                .unwrap()
        };
        let (cloud_event, native) = (compile(""), compile("#/$defs/event"));
        Self {
            schemas,
            cloud_event,
            native,
        }
    }

    fn check(&self, event: &Value) -> Result<(), String> {
        self.schemas
            .validate(event, self.cloud_event)
            .map_err(|error| format!("{error:#}\n{event:#}"))
    }

    fn check_native(&self, event: &Value) -> Result<(), String> {
        self.schemas
            .validate(event, self.native)
            .map_err(|error| format!("{error:#}\n{event:#}"))
    }
}

/// What an endpoint gets while a worker runs the examples: successes, failed attempts, a failure, a
/// cancellation, a child, a chain of runs, local activities, the worker's own start and end.
async fn sent(mode: &str) -> (Vec<Value>, Vec<Value>) {
    let ground = Ground::new().await;
    let endpoint = StandIn::start(|_| ResponseTemplate::new(204)).await;
    let events = EventStore::builder()
        .application_name("the shop")
        .store(ground.store_url())
        .store(format!(
            "http://{}/in?eventstore.mode={mode}",
            endpoint.address()
        ))
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        outcome(&client, workflows::Order::run, (), "order")
            .await
            .unwrap();
        outcome(&client, workflows::Fail::run, (), "fail")
            .await
            .unwrap_err();
        outcome(&client, workflows::Parent::run, (), "parent")
            .await
            .unwrap();
        outcome(&client, workflows::Chain::run, 1, "chain")
            .await
            .unwrap();
        outcome(&client, workflows::Local::run, (), "local")
            .await
            .unwrap();
        let waiting = client
            .start_workflow(workflows::Wait::run, (), crate::support::start("wait"))
            .await
            .unwrap();
        waiting
            .cancel(WorkflowCancelOptions::default())
            .await
            .unwrap();
        waiting
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
    })
    .await;
    events.shutdown(Duration::from_secs(10)).await.unwrap();
    let sent = endpoint
        .requests()
        .iter()
        .flat_map(|request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            match header(request, "content-type").unwrap() {
                "application/cloudevents-batch+json" => body.as_array().unwrap().clone(),
                "application/cloudevents+json" => vec![body],
                other => panic!("{other}"),
            }
        })
        .collect();
    let stored = ground.events().into_iter().map(|row| row.event).collect();
    (sent, stored)
}

async fn what_is_sent_is_valid(mode: &str) {
    let schema = Schema::new();
    let (sent, stored) = sent(mode).await;
    assert_eq!(sent.len(), stored.len());
    for event in &sent {
        schema.check(event).unwrap();
    }
    for event in &stored {
        schema.check_native(event).unwrap();
    }
    let of = |field: &str| -> BTreeSet<&str> {
        sent.iter()
            .filter_map(|event| event[field].as_str())
            .collect()
    };
    for name in [
        "workflow_start",
        "workflow_end",
        "activity_start",
        "activity_end",
        "worker_start",
        "worker_end",
    ] {
        assert!(of("type").contains(&*format!("application_events.{name}")));
    }
    assert!(of("type").contains("order.shipped"));
    let states: BTreeSet<&str> = sent
        .iter()
        .filter_map(|event| event["data"]["data"]["status"].as_str())
        .collect();
    assert_eq!(
        states.into_iter().collect::<Vec<_>>(),
        ["cancelled", "completed", "continued_as_new", "failed"]
    );
}

#[tokio::test]
async fn a_batch_to_an_endpoint_is_valid() {
    what_is_sent_is_valid("batched").await;
}

#[tokio::test]
async fn each_event_to_an_endpoint_is_valid() {
    what_is_sent_is_valid("structured").await;
}

/// The reference's events lack what every event of this crate has: an id, a time, and the outcome of an end.
#[test]
fn the_samples_of_the_reference_are_valid_with_what_they_lack() {
    let schema = Schema::new();
    for mut sample in samples() {
        let metadata = sample["metadata"].as_object_mut().unwrap();
        metadata.retain(|_, value| !value.is_null());
        metadata.insert(
            "event_id".into(),
            json!("01a213ed-0565-80f0-ad0b-5086db38ac2f"),
        );
        metadata.insert("created_at".into(), json!("2026-11-23T07:30:36.100000Z"));
        if sample["event_name"].as_str().unwrap().ends_with("_end") {
            sample["data"]["status"] = json!("completed");
        }
        schema.check_native(&sample).unwrap();
    }
}

/// An application may set one; CloudEvents forbids an empty `subject`.
#[test]
fn an_empty_id_is_no_subject() {
    let schema = Schema::new();
    let mut event = Event::new("x")
        .metadata("workflow_id", "")
        .metadata("activity_id", "")
        .metadata("created_at", "2026-11-23T07:30:36.1Z");
    event.metadata.event_id = Some(EventId::new());
    let json = event.to_cloud_event().unwrap().to_json().unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    schema.check(&json).unwrap();
    assert_eq!(json.get("subject"), None);
    assert_eq!(StoredEvent::new(1, &event).unwrap().key(), None);
    event = event.metadata("activity_id", "7");
    assert_eq!(
        event.to_cloud_event().unwrap().subject.as_deref(),
        Some("7")
    );
    assert_eq!(StoredEvent::new(1, &event).unwrap().key(), Some("7"));
}

#[test]
fn an_event_that_is_broken_is_refused() {
    let schema = Schema::new();
    let whole = json!({
        "specversion": "1.0",
        "id": "01a213ed-0565-80f0-ad0b-5086db38ac2f",
        "source": "/temporal/default/shop",
        "type": "application_events.workflow_end",
        "subject": "order-1",
        "partitionkey": "order-1",
        "time": "2026-11-23T07:30:36.100000Z",
        "datacontenttype": "application/json",
        "sequence": "00000000000000000007",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "data": {
            "metadata": {
                "event_id": "01a213ed-0565-80f0-ad0b-5086db38ac2f",
                "created_at": "2026-11-23T07:30:36.100000Z",
                "workflow_state": "failed",
                "attempt": 1,
                "is_local": false,
                "tenant": { "of": "ours" }
            },
            "event_type": "application_events",
            "event_name": "workflow_end",
            "data": {
                "status": "failed",
                "duration_ms": 309.91,
                "error": { "type": "OutOfStock", "message": "no more", "non_retryable": true }
            }
        }
    });
    schema.check(&whole).unwrap();
    let refused = |event: &Value, what: &str| {
        assert!(schema.check(event).is_err(), "{what} was taken");
    };
    for path in [
        "/specversion",
        "/id",
        "/source",
        "/type",
        "/time",
        "/datacontenttype",
        "/data",
        "/data/metadata",
        "/data/metadata/event_id",
        "/data/metadata/created_at",
        "/data/metadata/workflow_state",
        "/data/event_type",
        "/data/event_name",
        "/data/data",
        "/data/data/status",
        "/data/data/error/non_retryable",
    ] {
        let mut event = whole.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = event.pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().remove(name).unwrap();
        refused(&event, &format!("an event without {path}"));
    }
    for (path, value) in [
        ("/specversion", json!("0.3")),
        ("/id", json!("order-1")),
        ("/id", json!("01A213ED-0565-80F0-AD0B-5086DB38AC2F")),
        ("/source", json!("/temporal/default")),
        ("/source", json!("/temporal/default/the shop")),
        ("/subject", json!("")),
        ("/subject", json!(1)),
        ("/time", json!("2026-11-23T07:30:36Z")),
        ("/time", json!("2026-13-23T07:30:36.100000Z")),
        ("/time", json!("2026-11-23T07:30:36.100000+01:00")),
        ("/datacontenttype", json!("text/plain")),
        ("/sequence", json!(7)),
        ("/sequence", json!("7")),
        ("/traceparent", json!("none")),
        ("/data", json!("{}")),
        ("/data/metadata", json!([])),
        ("/data/metadata/attempt", json!("1")),
        ("/data/metadata/attempt", json!(-1)),
        ("/data/metadata/is_local", json!("no")),
        ("/data/metadata/workflow_id", json!(null)),
        ("/data/event_type", json!("")),
        ("/data/event_type", json!("x".repeat(256))),
        ("/data/data", json!([])),
        ("/data/data/status", json!("will_complete_async")),
        ("/data/data/duration_ms", json!("309.91")),
        ("/data/data/error/message", json!(7)),
    ] {
        let mut event = whole.clone();
        if event.pointer(path).is_none() {
            event["data"]["metadata"]["workflow_id"] = json!("");
        }
        *event.pointer_mut(path).unwrap() = value.clone();
        refused(&event, &format!("{path} {value}"));
    }
    let mut event = whole.clone();
    event["Own_Attribute"] = json!("x");
    refused(&event, "an attribute that CloudEvents forbids");
    event = whole;
    event["topic"] = json!("orders");
    schema.check(&event).unwrap();
}

#[test]
fn it_lists_the_fields_of_the_format_and_no_others() {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    let listed = schema["$defs"]["metadata"]["properties"]
        .as_object()
        .unwrap();
    // Set by the plugin as custom fields, or by those who publish.
    let custom = ["correlation_id", "detected_by", "activity_run_id"];
    for name in listed.keys() {
        assert!(
            EventMetadata::is_known_field(name) || custom.contains(&name.as_str()),
            "{name} is no field"
        );
    }
    // The documentation of the format names all of them.
    let pages = include_str!("../../../docs/events.md");
    let fields = pages
        .split('`')
        .filter(|word| EventMetadata::is_known_field(word));
    for name in fields.clone() {
        assert!(listed.contains_key(name), "the schema lacks {name}");
    }
    assert_eq!(
        fields.collect::<BTreeSet<_>>().len() + custom.len(),
        listed.len()
    );
}

proptest! {
    #[test]
    fn whatever_is_published_is_valid(event in any_event()) {
        static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::new);
        let schema = &*SCHEMA;
        let json = event.to_cloud_event().unwrap().to_json().unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        prop_assert!(schema.check(&json).is_ok(), "{}", schema.check(&json).unwrap_err());
    }
}
