//! The workflows of the examples, by name: `Noop`, `Order`, `Fail`, `Wait`, `Chain`, `Parent`,
//! `Local`, `Slow`. The tests and benchmarks run them too.

use serde_json::json;
use std::time::Duration;
use temporal_eventstore::Event;
use temporalio_common::error::ApplicationFailure;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, ChildWorkflowOptions, ContinueAsNewOptions, LocalActivityOptions,
    SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowResult, WorkflowTermination,
    activities::{ActivityContext, ActivityError},
};

/// The names, for programs that take one.
#[allow(
    dead_code,
    reason = "not every program that shares this file takes a name"
)]
pub const NAMES: [&str; 8] = [
    "Noop", "Order", "Fail", "Wait", "Chain", "Parent", "Local", "Slow",
];

/// Options for a worker on `task_queue` that runs all of them.
pub fn worker_options(
    task_queue: &str,
    max_cached_workflows: usize,
) -> anyhow::Result<WorkerOptions> {
    Ok(WorkerOptions::new(task_queue)
        .max_cached_workflows(max_cached_workflows)
        .graceful_shutdown_period(Duration::from_secs(3))
        .register_activities(Orders)
        .register_workflow::<Noop>()?
        .register_workflow::<Order>()?
        .register_workflow::<Fail>()?
        .register_workflow::<Wait>()?
        .register_workflow::<Chain>()?
        .register_workflow::<Parent>()?
        .register_workflow::<Local>()?
        .register_workflow::<Slow>()?
        .build())
}

/// The activities.
pub struct Orders;

#[activities]
impl Orders {
    /// Does nothing.
    #[activity]
    pub async fn noop(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        Ok(())
    }

    /// Fails its first attempt, as a flaky warehouse would.
    #[activity]
    pub async fn reserve(ctx: ActivityContext, _input: ()) -> Result<String, ActivityError> {
        if ctx.info().attempt == 1 {
            return Err(anyhow::anyhow!("the warehouse did not answer").into());
        }
        Ok("reserved".to_owned())
    }

    #[activity]
    pub async fn charge(_ctx: ActivityContext, _input: ()) -> Result<String, ActivityError> {
        Ok("charged".to_owned())
    }

    /// Publishes an event by hand: what it is about is filled in from the context.
    #[activity]
    pub async fn ship(_ctx: ActivityContext, _input: ()) -> Result<String, ActivityError> {
        temporal_eventstore::publish(
            Event::new("order.shipped")
                .name("OrderShipped")
                .data(json!({ "parcels": 2 })),
        );
        Ok("shipped".to_owned())
    }

    /// Works for some seconds with heartbeats, and gives in to a cancellation.
    #[activity]
    pub async fn work(ctx: ActivityContext, seconds: u64) -> Result<(), ActivityError> {
        for step in 0..seconds * 10 {
            if ctx.is_cancelled() {
                return Err(ActivityError::cancelled());
            }
            ctx.record_heartbeat(step).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

fn options() -> ActivityOptions {
    ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
        .retry_policy(
            temporalio_common::RetryPolicy::builder()
                .initial_interval(Duration::from_millis(50))
                .build(),
        )
        .build()
}

/// One activity that does nothing.
#[workflow]
#[derive(Default)]
pub struct Noop;

#[workflow_methods]
impl Noop {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        ctx.execute_activity(Orders::noop, (), options()).await?;
        Ok(())
    }
}

/// Three activities: the first fails once, the last publishes an event.
#[workflow]
#[derive(Default)]
pub struct Order;

#[workflow_methods]
impl Order {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<String> {
        ctx.execute_activity(Orders::reserve, (), options()).await?;
        ctx.execute_activity(Orders::charge, (), options()).await?;
        Ok(ctx.execute_activity(Orders::ship, (), options()).await?)
    }
}

/// Fails.
#[workflow]
#[derive(Default)]
pub struct Fail;

#[workflow_methods]
impl Fail {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        Err(WorkflowTermination::failed_application(
            ApplicationFailure::builder(anyhow::anyhow!("no more bolts"))
                .type_name("OutOfStock".to_owned())
                .non_retryable(true)
                .build(),
        ))
    }
}

/// Waits for the signal `finish`, or to be cancelled, terminated or timed out from outside.
#[workflow]
#[derive(Default)]
pub struct Wait {
    finished: bool,
}

#[workflow_methods]
impl Wait {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        ctx.wait_condition(|state| state.finished).await?;
        Ok(())
    }

    #[signal]
    pub fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.finished = true;
    }
}

/// Continues as new as often as its input says.
#[workflow]
#[derive(Default)]
pub struct Chain;

#[workflow_methods]
impl Chain {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, left: u64) -> WorkflowResult<()> {
        if left > 0 {
            ctx.continue_as_new(left - 1, ContinueAsNewOptions::default())?;
        }
        Ok(())
    }
}

/// Runs a [`Noop`] as its child.
#[workflow]
#[derive(Default)]
pub struct Parent;

#[workflow_methods]
impl Parent {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let child_id = format!("{}-child", ctx.workflow_id());
        let child = ctx
            .start_child_workflow(Noop::run, (), ChildWorkflowOptions::workflow_id(child_id))
            .await?;
        child.result().await?;
        Ok(())
    }
}

/// One local activity.
#[workflow]
#[derive(Default)]
pub struct Local;

#[workflow_methods]
impl Local {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        ctx.execute_local_activity(
            Orders::noop,
            (),
            LocalActivityOptions::builder()
                .start_to_close_timeout(Duration::from_secs(10))
                .build(),
        )
        .await?;
        Ok(())
    }
}

/// One activity that works for as many seconds as its input says.
#[workflow]
#[derive(Default)]
pub struct Slow;

#[workflow_methods]
impl Slow {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, seconds: u64) -> WorkflowResult<()> {
        ctx.execute_activity(
            Orders::work,
            seconds,
            ActivityOptions::with_start_to_close_timeout(Duration::from_secs(seconds + 30))
                .heartbeat_timeout(Duration::from_secs(5))
                .build(),
        )
        .await?;
        Ok(())
    }
}
