//! The context stack on a real server: what travels with calls, and what never mixes.

use crate::support::{self, Ground, start, with_example_worker, with_worker, workflows};
use serde_json::json;
use std::time::Duration;
use temporal_eventstore::{
    Event, Frame,
    context::{self, Context, InContext as _},
};
use temporalio_client::{ClientOptions, WorkflowGetResultOptions, WorkflowSignalOptions};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, ChildWorkflowOptions, ContinueAsNewOptions, LocalActivityOptions,
    SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    opentelemetry::OpenTelemetryPlugin,
};

const TIMEOUT: Duration = Duration::from_secs(5);

struct Steps;

#[activities]
impl Steps {
    /// Publishes from the task, from a spawned task and from a blocking thread.
    #[activity]
    async fn publish_everywhere(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        temporal_eventstore::publish(Event::new("in.task"));
        tokio::spawn(
            async {
                temporal_eventstore::publish(Event::new("in.spawned"));
            }
            .in_current_context(),
        )
        .await?;
        tokio::task::spawn_blocking(context::carry(|| {
            temporal_eventstore::publish(Event::new("in.blocking"));
        }))
        .await?;
        Frame::new().field("step", "inner").enter(|| {
            temporal_eventstore::publish(Event::new("in.frame"));
        });
        Ok(())
    }
}

fn activity_options() -> ActivityOptions {
    ActivityOptions::start_to_close_timeout(TIMEOUT)
}

/// An activity, a local activity and a child, then the same again as a new run.
#[workflow]
#[derive(Default)]
struct Tree;

#[workflow_methods]
impl Tree {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, runs: u32) -> WorkflowResult<()> {
        ctx.execute_activity(Steps::publish_everywhere, (), activity_options())
            .await?;
        ctx.execute_local_activity(
            workflows::Orders::noop,
            (),
            LocalActivityOptions::builder()
                .start_to_close_timeout(TIMEOUT)
                .build(),
        )
        .await?;
        let child_id = format!("{}-child-{runs}", ctx.workflow_id());
        let child = ctx
            .start_child_workflow(
                workflows::Noop::run,
                (),
                ChildWorkflowOptions::workflow_id(child_id),
            )
            .await?;
        child.result().await?;
        if runs > 1 {
            ctx.continue_as_new(runs - 1, ContinueAsNewOptions::default())?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_correlation_id_set_at_the_start_is_on_every_event_of_what_follows() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_activities(Steps)
        .register_workflow::<workflows::Noop>()
        .unwrap()
        .register_workflow::<Tree>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        let run = Frame::new()
            .correlation_id("c-42")
            .field("tenant", json!({ "id": 7 }))
            .scope(client.start_workflow(Tree::run, 2_u32, start("tree")))
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let of_workflows: Vec<_> = rows
        .iter()
        .filter(|row| row.workflow_id.is_some())
        .collect();
    // Two runs of the tree with 2 + 2 + 2 lifecycle and 4 user events, each with a child of 4.
    assert_eq!(of_workflows.len(), 2 * (6 + 4 + 4));
    for row in &of_workflows {
        assert_eq!(row.metadata("correlation_id"), "c-42", "{}", row.event);
        assert_eq!(row.metadata("tenant"), &json!({ "id": 7 }));
    }
    for row in rows.iter().filter(|row| row.event_type.starts_with("in.")) {
        assert_eq!(
            row.activity_type.as_deref(),
            Some("Steps::publish_everywhere")
        );
        let step = row.metadata("step");
        assert_eq!(*step == "inner", row.event_type == "in.frame", "{step}");
    }
    // What belongs to no workflow has none of it.
    for row in rows.iter().filter(|row| row.workflow_id.is_none()) {
        assert_eq!(row.metadata("correlation_id"), &json!(null));
    }
}

/// Yields between its events, so that many runs interleave on the worker's one thread.
#[workflow]
#[derive(Default)]
struct Interleaved {
    signals: u32,
}

#[workflow_methods]
impl Interleaved {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        for _ in 0..5 {
            let id = ctx.workflow_id().to_owned();
            let seen = Context::current();
            let frame = seen.workflow().map(|frame| frame.workflow_id.to_string());
            assert_eq!(frame.as_deref(), Some(id.as_str()), "frames were mixed up");
            temporal_eventstore::publish(
                Event::new("interleaved").data(json!({ "workflow_id": id })),
            );
            ctx.timer(Duration::from_millis(20)).await;
        }
        ctx.wait_condition(|state| state.signals > 0).await?;
        Ok(())
    }

    #[signal]
    fn nudge(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        temporal_eventstore::publish(Event::new("nudged"));
        self.signals += 1;
    }
}

#[tokio::test]
async fn interleaved_workflows_never_see_each_others_frames() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Interleaved>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        let runs = (0..10).map(|number| {
            let client = &client;
            async move {
                let run = Frame::new()
                    .correlation_id(format!("start-{number}"))
                    .scope(client.start_workflow(
                        Interleaved::run,
                        (),
                        start(&format!("w-{number}")),
                    ))
                    .await
                    .unwrap();
                Frame::new()
                    .correlation_id(format!("signal-{number}"))
                    .scope(run.signal(Interleaved::nudge, (), WorkflowSignalOptions::default()))
                    .await
                    .unwrap();
                run.get_result(WorkflowGetResultOptions::default())
                    .await
                    .unwrap();
            }
        });
        futures::future::join_all(runs).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let mut interleaved = 0;
    for row in &rows {
        let Some(id) = row.workflow_id.as_deref() else {
            continue;
        };
        let number = id.strip_prefix("w-").unwrap();
        // What the signal's handler publishes carries what the signal brought.
        let from = if row.event_type == "nudged" {
            "signal"
        } else {
            "start"
        };
        assert_eq!(
            row.metadata("correlation_id"),
            &json!(format!("{from}-{number}"))
        );
        if row.event_type == "interleaved" {
            interleaved += 1;
            assert_eq!(row.data("workflow_id"), id);
        }
    }
    assert_eq!(interleaved, 50);
}

#[tokio::test]
async fn traceparent_comes_from_the_sdks_opentelemetry_plugin() {
    use opentelemetry::trace::{TraceContextExt as _, Tracer as _, TracerProvider as _};
    use temporalio_sdk::opentelemetry::WorkflowIdGenerator;
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .with_id_generator(WorkflowIdGenerator::default())
        .build();
    let tracer = provider.tracer("test");
    let ground = Ground::new().await;
    let events = ground.store().await;
    let client = ground
        .connect(
            ClientOptions::new("default")
                .plugin(
                    OpenTelemetryPlugin::builder()
                        .tracer(tracer.clone())
                        .build(),
                )
                .plugin(events.plugin())
                .build(),
        )
        .await;
    let span = tracer.start("request");
    let around = opentelemetry::Context::current().with_span(span);
    let trace_id = around.span().span_context().trace_id().to_string();
    with_example_worker(&client, async {
        use opentelemetry::trace::FutureExt as _;
        let run = client
            .start_workflow(workflows::Noop::run, (), start("noop"))
            .with_context(around.clone())
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let of_workflow: Vec<_> = rows.iter().filter(|row| row.is_of("noop")).collect();
    assert_eq!(of_workflow.len(), 4);
    for row in of_workflow {
        let traceparent = row.metadata("traceparent").as_str().unwrap();
        assert!(traceparent.contains(&trace_id), "{traceparent}");
    }
}

#[tokio::test]
async fn frames_that_are_too_large_stay_behind_and_harm_nothing() {
    let (ground, events, client) = Ground::with_plugin().await;
    with_example_worker(&client, async {
        let run = Frame::new()
            .field("large", "x".repeat(20_000))
            .scope(client.start_workflow(workflows::Noop::run, (), start("noop")))
            .await
            .unwrap();
        run.get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(support::lifecycle(&rows, "noop").len(), 4);
    assert!(rows.iter().all(|row| row.metadata("large").is_null()));
}
