//! Segment: which events, under which names, within which limits, and what an outage does.

use crate::support::stand_in::{StandIn, header};
use chrono::Utc;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Event, EventId, WorkflowState,
    event::{ActivityStatus, FailureDetails, LifecycleEvent, lifecycle},
    sink::{self, Delivered, Sink, SinkEvent},
};
use wiremock::ResponseTemplate;

const KEY: &str = "s3cr3t-key";
const PATH: &str = "/v1/batch";

async fn segment() -> StandIn {
    StandIn::start(|request| {
        if request.method.as_str() == "HEAD" {
            return ResponseTemplate::new(405);
        }
        ResponseTemplate::new(200).set_body_json(json!({ "success": true }))
    })
    .await
}

fn open(server: &StandIn, parameters: &str) -> Arc<dyn Sink> {
    let address = server.address();
    sink::open(&format!(
        "segment://{KEY}@{address}?tls=false&timeout=2s{parameters}"
    ))
    .unwrap()
}

fn of_workflow(position: u64, mut event: Event) -> SinkEvent {
    event.metadata.event_id = Some(EventId::new());
    event.metadata.created_at = Some(Utc::now());
    event.metadata.workflow_id = Some(format!("order-{}", position % 5));
    event.metadata.workflow_run_id = Some("run".into());
    event.metadata.workflow_type = Some("Order".into());
    SinkEvent::new(position, &event).unwrap()
}

fn batch(first: u64, count: u64) -> Vec<SinkEvent> {
    (first..first + count)
        .map(|position| of_workflow(position, lifecycle::workflow_start()))
        .collect()
}

/// What the server was sent, each time that it came.
fn tracks(server: &StandIn) -> Vec<Value> {
    server
        .requests_to(PATH)
        .iter()
        .filter(|request| request.method.as_str() == "POST")
        .flat_map(|request| {
            let mut body: Value = serde_json::from_slice(&request.body).unwrap();
            body["batch"].as_array_mut().unwrap().split_off(0)
        })
        .collect()
}

/// What Segment keeps: of those of one `messageId`, the first.
fn kept(server: &StandIn) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for track in tracks(server) {
        let id = track["messageId"].as_str().unwrap().to_owned();
        if !kept.contains(&id) {
            kept.push(id);
        }
    }
    kept
}

fn ids(events: &[SinkEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| event.event_id.to_string())
        .collect()
}

#[tokio::test]
async fn names_are_the_references_with_the_true_outcome() {
    let failure = FailureDetails::new("OutOfStock")
        .message("private")
        .non_retryable();
    let end = |state| lifecycle::workflow_end(state, 309.91, Some(&failure));
    let cases = [
        (lifecycle::workflow_start(), "workflow_started"),
        (end(WorkflowState::Completed), "workflow_completed"),
        (end(WorkflowState::Failed), "workflow_failed"),
        (end(WorkflowState::Cancelled), "workflow_cancelled"),
        (
            end(WorkflowState::ContinuedAsNew),
            "workflow_continued_as_new",
        ),
        (end(WorkflowState::Terminated), "workflow_terminated"),
        (end(WorkflowState::TimedOut), "workflow_timed_out"),
        (end(WorkflowState::Unknown), "workflow_ended"),
        (lifecycle::activity_start(), "activity_started"),
        (
            lifecycle::activity_end(ActivityStatus::Failed, 2.0, Some(&failure)),
            "activity_ended",
        ),
    ];
    let server = segment().await;
    let sink = open(&server, "");
    let events: Vec<_> = (1..)
        .zip(&cases)
        .map(|(n, (event, _))| of_workflow(n, event.clone()))
        .collect();
    assert!(events.iter().all(|event| sink.takes(event)));
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    let tracks = tracks(&server);
    assert_eq!(tracks.len(), cases.len());
    for ((track, (_, name)), event) in tracks.iter().zip(&cases).zip(&events) {
        assert_eq!(track["event"], *name);
        assert_eq!(track["type"], "track");
        assert_eq!(track["messageId"], event.event_id.to_string());
        assert_eq!(track["timestamp"], event.created_at);
        assert_eq!(track["anonymousId"], event.workflow_id.as_deref().unwrap());
        let properties = &track["properties"];
        assert_eq!(
            properties["description"],
            format!("Lifecycle event: {name}")
        );
        assert_eq!(properties["workflow_type"], "Order");
    }
    assert_eq!(tracks[2]["properties"]["duration_ms"], "309.91");
    assert_eq!(tracks[2]["properties"]["status"], "failed");
    assert_eq!(tracks[2]["properties"]["error_type"], "OutOfStock");
    // A message can be private; Segment is not told.
    assert!(!json!(tracks).to_string().contains("private"));
}

#[tokio::test]
async fn the_request_is_the_references() {
    let line: Value = include_str!("../reference/wire.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["path"] == PATH)
        .unwrap();
    let body: Value = serde_json::from_str(line["body"].as_str().unwrap()).unwrap();
    let server = segment().await;
    let sink = open(&server, "&user_id=atlan.automation:https://acme.atlan.com");
    // The reference's events, as this crate has them.
    let events: Vec<_> = (1..)
        .zip(body["batch"].as_array().unwrap())
        .map(|(position, track)| {
            let text = |field: &str| track["properties"][field].as_str().map(str::to_owned);
            let duration = || text("duration_ms").unwrap().parse().unwrap();
            let mut event = match track["event"].as_str().unwrap() {
                "workflow_started" => lifecycle::workflow_start(),
                "workflow_completed" => {
                    lifecycle::workflow_end(WorkflowState::Completed, duration(), None)
                }
                "activity_started" => lifecycle::activity_start(),
                "activity_ended" => {
                    lifecycle::activity_end(ActivityStatus::Completed, duration(), None)
                }
                name => panic!("{name}"),
            };
            event.metadata.event_id = Some(EventId::new());
            event.metadata.created_at = Some(Utc::now());
            event.metadata.sdk_version = text("sdk_version");
            event.metadata.workflow_id = text("workflow_id");
            event.metadata.workflow_run_id = text("workflow_run_id");
            event.metadata.workflow_type = text("workflow_type");
            if event.event_name != "workflow_end" {
                event.metadata.workflow_state = WorkflowState::Running;
            }
            event.metadata.activity_id = text("activity_id");
            event.metadata.activity_type = text("activity_type");
            event.metadata.attempt = Some(1);
            event.metadata.application_name = text("application_name");
            SinkEvent::new(position, &event).unwrap()
        })
        .collect();
    sink.deliver(&events).await.unwrap();
    let request = &server.requests_to(PATH)[0];
    assert_eq!(header(request, "content-type"), Some("application/json"));
    assert_eq!(
        header(request, "authorization"),
        Some("Basic czNjcjN0LWtleTo=")
    );
    let sent = tracks(&server);
    assert_eq!(sent.len(), 8);
    for (sent, reference) in sent.iter().zip(body["batch"].as_array().unwrap()) {
        for (name, value) in reference.as_object().unwrap() {
            match name.as_str() {
                // Ours has the instant and a zone.
                "timestamp" => {}
                "properties" => {
                    for (name, value) in value.as_object().unwrap() {
                        match name.as_str() {
                            // Of the company that the reference is from.
                            "tenant_id" | "atlan_base_url" => {}
                            // The reference says `running` of a workflow that completed.
                            "workflow_state" if sent["event"] == "workflow_completed" => {
                                assert_eq!(sent["properties"][name], "completed");
                            }
                            _ => assert_eq!(sent["properties"][name], *value, "{name}"),
                        }
                    }
                }
                _ => assert_eq!(sent[name], *value, "{name}"),
            }
        }
    }
}

#[tokio::test]
async fn only_starts_and_ends_of_workflows_and_activities_are_taken() {
    let server = segment().await;
    let sink = open(&server, "");
    let mut others = vec![of_workflow(1, Event::new("data.processed"))];
    for event in LifecycleEvent::ALL {
        let name = event.as_str();
        if !name.starts_with("workflow_") && !name.starts_with("activity_") {
            others.push(of_workflow(2, event.event()));
        }
    }
    assert_eq!(others.len(), 6);
    assert!(others.iter().all(|event| !sink.takes(event)));
    // Handed in all the same, they are passed over.
    assert_eq!(
        sink.deliver(&others).await.unwrap(),
        Delivered::all(&others)
    );
    assert_eq!(server.requests().len(), 0);
    // By name, as in the reference's documentation.
    let event = of_workflow(3, Event::new("workflow.started").name("workflow_start"));
    assert!(sink.takes(&event));
}

#[tokio::test]
async fn somebody_is_always_named() {
    let server = segment().await;
    let mut event = lifecycle::activity_start();
    event.metadata.event_id = Some(EventId::new());
    event.metadata.created_at = Some(Utc::now());
    let nobody = SinkEvent::new(1, &event).unwrap();
    event.metadata.worker_identity = Some("worker-7".into());
    let worker = SinkEvent::new(2, &event).unwrap();
    open(&server, "")
        .deliver(&[nobody.clone(), worker])
        .await
        .unwrap();
    open(&server, "&user_id=bot")
        .deliver(&[nobody])
        .await
        .unwrap();
    let tracks = tracks(&server);
    assert_eq!(tracks[0]["anonymousId"], "unknown");
    assert_eq!(tracks[1]["anonymousId"], "worker-7");
    assert_eq!(tracks[2]["userId"], "bot");
    assert_eq!(tracks[2].get("anonymousId"), None);
}

#[tokio::test]
async fn batches_keep_segments_limits_and_an_event_above_them_is_rejected_alone() {
    let server = segment().await;
    let sink = open(&server, "");
    let large = |position: u64, bytes: usize| {
        let mut event = lifecycle::activity_start();
        event.metadata.activity_type = Some("x".repeat(bytes));
        of_workflow(position, event)
    };
    // About 900 KB, with one event of more than 32 KB.
    let mut events: Vec<_> = (1..=45).map(|position| large(position, 20_000)).collect();
    events[17] = large(18, 33_000);
    let delivered = sink.deliver(&events).await.unwrap();
    assert_eq!(delivered.taken, 45);
    assert_eq!(delivered.rejected.len(), 1);
    assert_eq!(delivered.rejected[0].index, 17);
    assert!(
        delivered.rejected[0].reason.contains("32768"),
        "{delivered:?}"
    );
    let rejected = events.remove(17);
    assert_eq!(kept(&server), ids(&events));
    assert!(!kept(&server).contains(&rejected.event_id.to_string()));
    for request in server.requests() {
        assert!(request.body.len() <= 500_000, "{}", request.body.len());
    }
    let many = batch(1, 2_600);
    assert_eq!(sink.deliver(&many).await.unwrap(), Delivered::all(&many));
    for request in server.requests() {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert!(body["batch"].as_array().unwrap().len() <= 2_500);
        assert!(request.body.len() <= 500_000);
    }
    assert_eq!(kept(&server).len(), 44 + 2_600);
}

#[tokio::test]
async fn a_batch_that_comes_again_has_the_same_ids() {
    let server = segment().await;
    let events = batch(1, 20);
    for _ in 0..2 {
        let sink = open(&server, "");
        assert_eq!(
            sink.deliver(&events).await.unwrap(),
            Delivered::all(&events)
        );
    }
    assert_eq!(tracks(&server).len(), 40);
    assert_eq!(kept(&server), ids(&events));
}

#[tokio::test]
async fn outage_slowness_and_return() {
    let mut server = segment().await;
    let sink = open(&server, "");
    let events = batch(1, 30);
    sink.check().await.unwrap();
    sink.deliver(&events[..10]).await.unwrap();
    server.stop().await;
    let started = Instant::now();
    let error = sink.deliver(&events[10..20]).await.unwrap_err();
    sink.check().await.unwrap_err();
    server.start_again().await;
    server.pause();
    let slow = sink.deliver(&events[10..20]).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(slow.reason().contains("timed out"), "{slow}");
    server.resume();
    // Dropped in flight, and delivered again.
    tokio::time::timeout(Duration::from_micros(300), sink.deliver(&events[10..20]))
        .await
        .ok();
    sink.deliver(&events[10..20]).await.unwrap();
    sink.deliver(&events[20..]).await.unwrap();
    assert_eq!(kept(&server), ids(&events));
    for text in [
        format!("{error:?} {slow:?} {sink:?}"),
        sink.name().to_owned(),
    ] {
        assert!(!text.contains(KEY) && !text.contains("czNjcjN0"), "{text}");
    }
}

#[tokio::test]
async fn answers_mean_what_segment_says() {
    let answer = |status| async move {
        StandIn::start(move |_| {
            ResponseTemplate::new(status)
                .insert_header("retry-after", "11")
                .set_body_string("no")
        })
        .await
    };
    let events = batch(1, 3);
    let error = open(&answer(429).await, "")
        .deliver(&events)
        .await
        .unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(11)));
    for status in [401, 500, 503] {
        open(&answer(status).await, "")
            .deliver(&events)
            .await
            .unwrap_err();
    }
    let is_first = AtomicBool::new(true);
    let server = StandIn::start(move |_| {
        ResponseTemplate::new(if is_first.swap(false, Ordering::Relaxed) {
            200
        } else {
            400
        })
    })
    .await;
    let sink = open(&server, "");
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    let delivered = sink.deliver(&batch(4, 3)).await.unwrap();
    assert_eq!((delivered.taken, delivered.rejected.len()), (3, 3));
}

#[test]
fn wrong_urls() {
    for (url, word) in [
        ("segment://k:hunter2@", "password"),
        ("segment://hunter2@h/path", "path"),
        ("segment://hunter2@h?tls=no", "tls"),
        ("segment://hunter2@h?timeout=1h", "timeout"),
        ("segment://hunter2@h?user=x", "unknown parameter"),
        ("segment://hunter2@h?user_id=", "empty"),
        ("segment://hunter2@h:99999", "port"),
        ("segment:hunter2@", "host"),
    ] {
        let error = sink::open(url).unwrap_err();
        assert!(error.reason.contains(word), "{url}: {error}");
        assert!(
            !format!("{error} {error:?}").contains("hunter2"),
            "{url}: {error}"
        );
    }
    let provider = Arc::new(sink::StaticBearer::new("hunter2"));
    assert!(sink::open_with_auth("segment://", provider.clone()).is_ok());
    let error = sink::open_with_auth("segment://hunter2@", provider).unwrap_err();
    assert!(error.reason.contains("provider"), "{error}");
}
