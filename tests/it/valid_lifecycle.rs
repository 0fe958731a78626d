//! A lifecycle event is never refused: what a frame, an option, an error or a filter would make
//! invalid is left out or shortened, and counted.

use crate::support::{Ground, lifecycle, outcome, with_example_worker, with_worker, workflows};
use serde_json::{Value, json};
use std::time::Duration;
use temporal_eventstore::{
    Event, EventStore, Frame, Reconciler, ReconcilerOptions, event::LifecycleEvent,
};
use temporalio_common::error::ApplicationFailure;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult, WorkflowTermination,
    activities::{ActivityContext, ActivityError},
};

const TIMEOUT: Duration = Duration::from_secs(5);
const NOOP: [&str; 4] = [
    "workflow_start running",
    "activity_start Orders::noop 1",
    "activity_end Orders::noop 1 completed",
    "workflow_end completed",
];

/// A frame with which no event is valid.
fn hostile() -> Frame {
    let mut deep = json!("bottom");
    for _ in 0..120 {
        deep = json!([deep]);
    }
    Frame::new()
        .field("topic_name", "orders\u{1b}[2J")
        .field("traceparent", "00-no-trace-00")
        .field("deep", deep)
        .field("nul", "a\0b")
        .correlation_id("c-42")
}

async fn noop_with(ground: &Ground, events: &EventStore, frame: Frame) {
    let client = ground.client_with(events).await;
    with_example_worker(&client, async {
        frame
            .scope(outcome(&client, workflows::Noop::run, (), "noop"))
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_breaks_the_rules_costs_no_lifecycle_event() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    noop_with(&ground, &events, hostile()).await;
    let stats = events.stats();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(lifecycle(&rows, "noop"), NOOP);
    for row in rows.iter().filter(|row| row.is_of("noop")) {
        assert_eq!(row.metadata("topic_name"), "application_events");
        assert_eq!(row.metadata("correlation_id"), "c-42");
        for field in ["traceparent", "deep", "nul"] {
            assert_eq!(row.metadata(field), &Value::Null, "{field}");
        }
        assert!(Event::from_json(&row.event.to_string()).is_ok());
    }
    assert_eq!(stats.invalid, 0);
    assert_eq!(stats.trimmed, 4);
}

#[tokio::test]
async fn such_a_frame_costs_the_reconciler_none_either() {
    let ground = Ground::new().await;
    let nowhere = EventStore::builder()
        .store("memory:")
        .build()
        .await
        .unwrap();
    noop_with(&ground, &nowhere, hostile()).await;
    let events = ground.store().await;
    let client = ground.client().await;
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build();
    let reconciler = Reconciler::new(&events, &client, options);
    // Visibility follows the history a moment later.
    for _ in 0..100 {
        if reconciler.run_once().await.unwrap().runs > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(lifecycle(&ground.events(), "noop"), NOOP);
}

/// Fails with an error that is larger than an event may be.
#[workflow]
#[derive(Default)]
struct Loud;

#[workflow_methods]
impl Loud {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
            .retry_policy(
                temporalio_common::RetryPolicy::builder()
                    .maximum_attempts(1)
                    .build(),
            )
            .build();
        ctx.execute_activity(Shouts::shout, (), options).await.ok();
        Err(WorkflowTermination::failed_application(
            ApplicationFailure::builder(anyhow::anyhow!("no\0 {}", "\u{1}ü".repeat(20_000)))
                .type_name("Loud".repeat(100))
                .non_retryable(true)
                .build(),
        ))
    }
}

struct Shouts;

#[activities]
impl Shouts {
    #[activity]
    async fn shout(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        Err(anyhow::anyhow!("{}", "loud ".repeat(400_000)).into())
    }
}

#[tokio::test]
async fn a_small_limit_and_a_large_error_cost_no_end() {
    let ground = Ground::new().await;
    for limit in [1, 1_000, 4_000] {
        let events = EventStore::builder()
            .store(ground.store_url())
            .max_event_bytes(limit)
            .build()
            .await
            .unwrap();
        let client = ground.client_with(&events).await;
        let options = WorkerOptions::new("orders")
            .register_activities(Shouts)
            .register_workflow::<Loud>()
            .unwrap()
            .build();
        let id = format!("loud-{limit}");
        with_worker(&client, options, async {
            outcome(&client, Loud::run, (), &id).await.unwrap_err();
        })
        .await;
        let stats = events.stats();
        events.shutdown(TIMEOUT).await.unwrap();
        let rows = ground.events();
        assert_eq!(
            lifecycle(&rows, &id),
            [
                "workflow_start running",
                "activity_start Shouts::shout 1",
                "activity_end Shouts::shout 1 failed",
                "workflow_end failed",
            ]
        );
        let ends = rows
            .iter()
            .filter(|row| row.is_of(&id) && row.event_name.ends_with("_end"));
        for end in ends {
            let bytes = end.event.to_string().len();
            assert!(bytes <= limit.max(1_000), "{bytes}");
            assert_eq!(end.data("status"), "failed");
            if limit == 4_000 {
                let message = end.data("error")["message"].as_str().unwrap();
                assert!(message.len() > 100 && message.ends_with('…'), "{message}");
            }
        }
        assert_eq!(stats.invalid, 0);
        assert!(stats.trimmed >= 2, "{}", stats.trimmed);
    }
}

#[tokio::test]
async fn a_filter_cannot_make_a_lifecycle_event_invalid() {
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .filter(|event: &mut Event| {
            if event.event_name == LifecycleEvent::WorkflowStart.as_str() {
                event.event_type.clear();
                event.event_name = "a\nb".to_owned();
                event.metadata.topic_name = Some("x".repeat(1_000));
                event.metadata.traceparent = Some("none".to_owned());
            } else if event.event_name == LifecycleEvent::ActivityStart.as_str() {
                *event = event.clone().data(5);
                event.metadata.custom.insert("workflow_id".into(), 1.into());
                event.extra.insert("data".into(), 1.into());
            } else {
                event.data.insert("more".into(), "x".repeat(300_000).into());
            }
            temporal_eventstore::FilterAction::Keep
        })
        .build()
        .await
        .unwrap();
    noop_with(&ground, &events, Frame::new()).await;
    let stats = events.stats();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(lifecycle(&rows, "noop"), NOOP);
    assert_eq!(stats.invalid, 0);
    // The worker's two events as well.
    assert_eq!(stats.trimmed, 6);
}

#[tokio::test]
async fn a_filter_that_panics_leaves_the_bare_event() {
    let ground = Ground::new().await;
    let events = EventStore::builder()
        .store(ground.store_url())
        .filter(|event: &mut Event| {
            assert!(event.data.contains_key("no such field"));
            temporal_eventstore::FilterAction::Keep
        })
        .build()
        .await
        .unwrap();
    noop_with(&ground, &events, Frame::new().field("secret", "hunter2")).await;
    let user = events.publish(Event::new("data.processed")).await;
    assert!(user.is_err());
    let stats = events.stats();
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(lifecycle(&rows, "noop"), NOOP);
    assert!(
        rows.iter()
            .all(|row| !row.event.to_string().contains("hunter2"))
    );
    let end = rows.iter().find(|row| row.event_name == "workflow_end");
    assert_eq!(end.unwrap().data("status"), "completed");
    assert_eq!(stats.invalid, 1);
    assert_eq!(stats.trimmed, 6);
}
