//! Every example of the reference's documentation, in Rust, run on a store in memory and (the activity
//! examples) on a real worker.

use crate::support::{Ground, with_worker};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use temporal_eventstore::{
    Event, LifecycleSelection, event::LifecycleEvent, testing::CapturedEvents,
};
use temporalio_client::{WorkflowGetResultOptions, WorkflowStartOptions};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

#[tokio::test]
async fn basic_event_publishing() {
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    // Create and publish event
    let event = Event::new("data.processed")
        .name("DataProcessed")
        .data(json!({
            "batch_id": "batch-123",
            "records_count": 1000,
            "success_count": 995,
            "error_count": 5
        }));
    events.publish(event).await.unwrap();

    let stored = &captured.named("DataProcessed").await[0];
    assert_eq!(stored.event_type, "data.processed");
    assert_eq!(stored.topic_name(), "data.processed");
    assert_eq!(stored.data["success_count"], 995);
    assert!(stored.metadata.application_name.is_some());
    assert!(stored.metadata.created_timestamp.unwrap() > 1_700_000_000);
    assert_eq!(stored.metadata.workflow_id, None);
}

#[tokio::test]
async fn workflow_status_events() {
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    // Workflow started event
    let started_event = Event::new("workflow.started")
        .name("WorkflowStarted")
        .data(json!({
            "workflow_id": "wf-123",
            "source": "manual",
            "user_id": "user-456"
        }));
    events.publish(started_event);

    // Workflow completed event
    let completed_event = Event::new("workflow.completed")
        .name("WorkflowCompleted")
        .data(json!({
            "workflow_id": "wf-123",
            "status": "success",
            "duration_seconds": 1800,
            "records_processed": 10000
        }));
    events.publish(completed_event);

    let names: Vec<_> = captured
        .events()
        .await
        .into_iter()
        .map(|event| event.event_name)
        .collect();
    assert_eq!(names, ["WorkflowStarted", "WorkflowCompleted"]);
}

#[tokio::test]
async fn data_processing_events() {
    #[derive(Serialize)]
    struct BatchStarted {
        batch_id: &'static str,
        item_count: u32,
        priority: &'static str,
    }
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    // Batch processing started: any `Serialize` that gives a JSON object
    let batch_start = Event::new("batch.started")
        .name("BatchProcessingStarted")
        .data(BatchStarted {
            batch_id: "batch-456",
            item_count: 5000,
            priority: "high",
        });
    events.publish(batch_start);

    // Batch processing completed
    let batch_complete = Event::new("batch.completed")
        .name("BatchProcessingCompleted")
        .data(json!({
            "batch_id": "batch-456",
            "processed_count": 5000,
            "duration_ms": 45000
        }));
    events.publish(batch_complete);

    let stored = captured.events().await;
    assert_eq!(stored[0].data["item_count"], 5000);
    assert_eq!(stored[1].data["duration_ms"], 45000);
}

#[derive(Clone, Serialize, Deserialize)]
struct WorkflowArguments {
    source: String,
}

struct EventPublishingActivities;

impl EventPublishingActivities {
    async fn do_processing(source: &str) -> anyhow::Result<u32> {
        anyhow::ensure!(source != "broken", "the source is broken");
        Ok(1000)
    }
}

#[activities]
impl EventPublishingActivities {
    /// Process data and publish events.
    #[activity]
    async fn process_data(
        _ctx: ActivityContext,
        arguments: WorkflowArguments,
    ) -> Result<u32, ActivityError> {
        let source = arguments.source;
        // Publish start event
        let start_event =
            Event::new("activity.data_processing_started").data(json!({ "source": source }));
        temporal_eventstore::publish(start_event);

        // Process data
        match Self::do_processing(&source).await {
            Ok(count) => {
                // Publish success event
                let success_event = Event::new("activity.data_processing_completed")
                    .data(json!({ "source": source, "records": count }));
                temporal_eventstore::publish(success_event);
                Ok(count)
            }
            Err(error) => {
                // Publish error event
                let error_event = Event::new("activity.data_processing_failed")
                    .data(json!({ "source": source, "error": error.to_string() }));
                temporal_eventstore::publish(error_event);
                Err(error.into())
            }
        }
    }
}

#[workflow]
#[derive(Default)]
struct DataProcessing;

#[workflow_methods]
impl DataProcessing {
    #[run]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        arguments: WorkflowArguments,
    ) -> WorkflowResult<u32> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(5))
            .retry_policy(
                temporalio_common::RetryPolicy::builder()
                    .maximum_attempts(1)
                    .build(),
            )
            .build();
        Ok(ctx
            .execute_activity(EventPublishingActivities::process_data, arguments, options)
            .await?)
    }
}

#[tokio::test]
async fn activity_events() {
    let ground = Ground::new().await;
    let captured = CapturedEvents::with_options(
        temporal_eventstore::EventStore::builder()
            .lifecycle(LifecycleSelection::NONE)
            .options(),
    )
    .await
    .unwrap();
    let client = ground.client_with(&captured.store()).await;
    let options = WorkerOptions::new("orders")
        .register_activities(EventPublishingActivities)
        .register_workflow::<DataProcessing>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        for source in ["nightly", "broken"] {
            let run = client
                .start_workflow(
                    DataProcessing::run,
                    WorkflowArguments {
                        source: source.to_owned(),
                    },
                    WorkflowStartOptions::new("orders", source).build(),
                )
                .await
                .unwrap();
            let result = run.get_result(WorkflowGetResultOptions::default()).await;
            assert_eq!(result.is_ok(), source == "nightly");
        }
    })
    .await;

    let stored = captured.events().await;
    let types: Vec<_> = stored
        .iter()
        .map(|event| event.event_type.as_str())
        .collect();
    assert_eq!(
        types,
        [
            "activity.data_processing_started",
            "activity.data_processing_completed",
            "activity.data_processing_started",
            "activity.data_processing_failed",
        ]
    );
    for event in &stored {
        // The name was left out: it is the type.
        assert_eq!(event.event_name, event.event_type);
        let metadata = &event.metadata;
        assert_eq!(
            metadata.activity_type.as_deref(),
            Some("EventPublishingActivities::process_data")
        );
        assert_eq!(metadata.attempt, Some(1));
        assert_eq!(metadata.workflow_type.as_deref(), Some("DataProcessing"));
        assert_eq!(metadata.workflow_state.as_str(), "running");
        assert!(metadata.workflow_run_id.is_some() && metadata.activity_id.is_some());
    }
    assert_eq!(stored[1].data["records"], 1000);
    assert_eq!(stored[3].data["error"], "the source is broken");
}

#[tokio::test]
async fn custom_event_enrichment() {
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    // Create event with custom metadata
    let mut event = Event::new("custom.action")
        .name("CustomAction")
        .data(json!({ "action": "data_export" }))
        // Custom fields will be preserved
        .metadata("custom_field", "custom_value");

    // Enrich with context
    events.enrich(&mut event);
    assert!(event.metadata.application_name.is_some());
    assert!(event.metadata.created_timestamp.is_some());
    assert_eq!(event.metadata.custom["custom_field"], "custom_value");

    let created_at = event.metadata.created_at;
    events.publish(event).await.unwrap();
    let stored = &captured.named("CustomAction").await[0];
    assert_eq!(stored.metadata.custom["custom_field"], "custom_value");
    assert_eq!(
        stored.metadata.created_at.map(|at| at.timestamp_micros()),
        created_at.map(|at| at.timestamp_micros()),
        "what is there is not filled again"
    );
}

#[tokio::test]
async fn error_event_publishing() {
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    /// Publish error event.
    async fn handle_error(
        events: &temporal_eventstore::EventStore,
        error: &(dyn std::error::Error + 'static),
        context: serde_json::Value,
    ) {
        let error_event = Event::new("error.occurred").name("ErrorOccurred").data(json!({
            "error_type": if error.is::<std::num::ParseIntError>() { "ParseIntError" } else { "Error" },
            "error_message": error.to_string(),
            "context": context,
            "severity": "high"
        }));
        events.publish(error_event);
    }

    let error = "x".parse::<i32>().unwrap_err();
    handle_error(&events, &error, json!({ "line": 7 })).await;

    let stored = &captured.named("ErrorOccurred").await[0];
    assert_eq!(stored.data["error_type"], "ParseIntError");
    assert_eq!(stored.data["context"]["line"], 7);
}

#[tokio::test]
async fn multi_event_publishing() {
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    /// Publish events for all pipeline stages.
    async fn publish_pipeline_events(
        events: &temporal_eventstore::EventStore,
        pipeline_id: &str,
        stages: &[(&str, &str)],
    ) {
        let receipts = stages.iter().map(|(stage, status)| {
            let mut title = stage.to_string();
            title[..1].make_ascii_uppercase();
            events.publish(
                Event::new(format!("pipeline.stage.{stage}"))
                    .name(format!("Stage{title}"))
                    .data(json!({
                        "pipeline_id": pipeline_id,
                        "stage": stage,
                        "status": status
                    })),
            )
        });
        // Publish all events
        for result in futures::future::join_all(receipts).await {
            result.unwrap();
        }
    }

    publish_pipeline_events(&events, "p-1", &[("extract", "done"), ("load", "running")]).await;

    let stored = captured.events().await;
    assert_eq!(stored[0].event_name, "StageExtract");
    assert_eq!(stored[1].event_type, "pipeline.stage.load");
}

#[tokio::test]
async fn lifecycle_event_tracking() {
    let captured = CapturedEvents::new().await.unwrap();
    let events = captured.store();

    // Workflow lifecycle
    let workflow_start = Event::new("workflow.started")
        .name(LifecycleEvent::WorkflowStart.as_str())
        .data(json!({ "workflow_type": "DataProcessing" }));
    events.publish(workflow_start).await.unwrap();

    // Activity lifecycle
    let activity_start = Event::new("activity.started")
        .name(LifecycleEvent::ActivityStart.as_str())
        .data(json!({ "activity_type": "ExtractData" }));
    events.publish(activity_start).await.unwrap();

    // What applications publish of themselves
    events.publish(LifecycleEvent::ApplicationStart.event());
    events.publish(
        LifecycleEvent::TokenRefresh
            .event()
            .data(json!({ "force_refresh": "true" })),
    );

    let names: Vec<_> = captured
        .events()
        .await
        .into_iter()
        .map(|event| event.event_name)
        .collect();
    assert_eq!(
        names,
        [
            "workflow_start",
            "activity_start",
            "application_start",
            "token_refresh"
        ]
    );
}
