//! The reconciler as a Temporal workflow on a schedule: one activity that runs it once. Knows how to
//! register and to schedule it, and nothing of what it does.

use super::{ReconcileError, Reconciled, Reconciler};
use std::{sync::Arc, time::Duration};
use temporalio_client::{
    Client, RpcOptions,
    schedules::{
        CreateScheduleOptions, ScheduleAction, ScheduleError, ScheduleOverlapPolicy, ScheduleSpec,
    },
    tonic::Code,
};
use temporalio_common::{RetryPolicy, error::ApplicationFailure};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    workflows::WorkflowRegistrationError,
};

/// A worker that died is noticed after this long.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// A pass that takes longer is given up; the next one goes on from its checkpoint.
const PASS_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const FIRST_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Reconciler {
    /// Registers the workflow `ReconcileEvents` and its activity in a worker's options. The worker then runs the
    /// reconciler whenever a [`schedule`](Self::schedule) starts the workflow.
    ///
    /// # Errors
    /// Returns an error if a workflow of that name is already registered.
    pub fn register(&self, options: &mut WorkerOptions) -> Result<(), WorkflowRegistrationError> {
        options.register_workflow::<ReconcileEvents>()?;
        options.register_activities(ReconcileActivities {
            reconciler: self.clone(),
        });
        Ok(())
    }

    /// Creates the schedule `schedule_id`, or sets the interval of an existing one. The schedule starts the workflow
    /// `ReconcileEvents` on `task_queue` with the interval `every`, and never starts one while another runs. A worker
    /// on that task queue must have the workflow [registered](Self::register). If the schedule exists, only its
    /// interval is changed, and not its task queue.
    ///
    /// Not cancel safe: after a cancelled call, the schedule may or may not exist.
    ///
    /// # Errors
    /// [`ReconcileError::Schedule`] with the server's message.
    pub async fn schedule(
        client: &Client,
        schedule_id: &str,
        task_queue: &str,
        every: Duration,
    ) -> Result<(), ReconcileError> {
        let options = CreateScheduleOptions::builder()
            .action(ScheduleAction::start_workflow(
                ReconcileEvents::run,
                (),
                task_queue,
                schedule_id,
            ))
            .spec(ScheduleSpec::from_interval(every))
            .overlap_policy(ScheduleOverlapPolicy::Skip)
            .note("adds to the event store what workers could not report")
            .build();
        match client.create_schedule(schedule_id, options).await {
            Ok(_) => Ok(()),
            Err(ScheduleError::Rpc(status)) if status.code() == Code::AlreadyExists => client
                .get_schedule_handle(schedule_id)
                .update(
                    move |schedule| {
                        schedule.set_spec(ScheduleSpec::from_interval(every));
                    },
                    RpcOptions::default(),
                )
                .await
                .map_err(schedule_error),
            Err(error) => Err(schedule_error(error)),
        }
    }
}

fn schedule_error(error: ScheduleError) -> ReconcileError {
    ReconcileError::Schedule(Box::new(error))
}

/// Runs the reconciler once.
#[workflow]
#[derive(Default)]
struct ReconcileEvents;

#[workflow_methods]
impl ReconcileEvents {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<u64> {
        let options = ActivityOptions::with_start_to_close_timeout(PASS_TIMEOUT)
            .heartbeat_timeout(HEARTBEAT_TIMEOUT)
            .retry_policy(
                RetryPolicy::builder()
                    .initial_interval(FIRST_RETRY_AFTER)
                    .build(),
            )
            .build();
        Ok(ctx
            .execute_activity(ReconcileActivities::reconcile_events, (), options)
            .await?)
    }
}

struct ReconcileActivities {
    reconciler: Reconciler,
}

#[activities]
impl ReconcileActivities {
    /// Gives back how many events were added.
    #[activity]
    async fn reconcile_events(
        self: Arc<Self>,
        ctx: ActivityContext,
        _input: (),
    ) -> Result<u64, ActivityError> {
        let pass = self.reconciler.run_once();
        tokio::pin!(pass);
        loop {
            tokio::select! {
                found = &mut pass => return found.as_ref().map(Reconciled::added).map_err(failed),
                () = tokio::time::sleep(HEARTBEAT_EVERY) => {
                    if ctx.is_cancelled() {
                        return Err(ActivityError::cancelled());
                    }
                    ctx.record_heartbeat(()).await?;
                }
            }
        }
    }
}

fn failed(error: &ReconcileError) -> ActivityError {
    ApplicationFailure::builder(anyhow::anyhow!("{error}"))
        .type_name("ReconcileError".to_owned())
        .build()
        .into()
}
