//! The workflow of the chaos tests: plays a script, publishes what comes of each step the moment that
//! it knows, and bears witness to it in its memo. What is published differs from execution to
//! execution where local activities do; apart from that the same history gives the same events.

use crate::{
    attempts::{self, Chaos, LocalInput, RemoteInput},
    script::{Cancel, End, Local, Remote, Retries, Script, Step},
    witness::{Attempt, SAID, WITNESS, Witness},
};
use futures::{
    FutureExt as _,
    future::{join, join_all, select_all},
};
use serde_json::json;
use std::time::Duration;
use temporal_eventstore::Event;
use temporalio_common::{RetryPolicy, error::ApplicationFailure};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ActivityCancellationType, ActivityExecutionError, ActivityOptions, ChildWorkflowOptions,
    ContinueAsNewOptions, LocalActivityOptions, MemoValue, SyncWorkflowContext, TimerResult,
    WaitConditionOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult,
    WorkflowTermination,
};

/// How long a task of a child may take.
const TASK_TIMEOUT: Duration = Duration::from_secs(1);

#[workflow]
#[derive(Default)]
pub struct Play {
    signals: u32,
    said: Vec<String>,
}

/// Publishes it, and gives the memo that says so.
fn publish(said: &str, attempts: Vec<Attempt>) -> [(&'static str, Option<MemoValue>); 1] {
    temporal_eventstore::publish(Event::new(SAID).data(json!({ "said": said })));
    let witness = Witness {
        said: said.to_owned(),
        attempts,
    };
    [(WITNESS, Some(MemoValue::new(witness)))]
}

fn say(ctx: &WorkflowContext<Play>, said: String, attempts: Vec<Attempt>) {
    ctx.upsert_memo(publish(&said, attempts))
        .expect("a witness is JSON");
    ctx.state_mut(|play| play.said.push(said));
}

fn policy(retries: Retries) -> RetryPolicy {
    RetryPolicy::builder()
        .initial_interval(Duration::from_millis(retries.pause_millis))
        .backoff_coefficient(1.0)
        .maximum_attempts(retries.attempts)
        .build()
}

fn outcome(path: &str, result: Result<String, ActivityExecutionError>) -> String {
    match result {
        Ok(nonce) => format!("{path} completed {nonce}"),
        Err(ActivityExecutionError::Cancelled(_)) => format!("{path} cancelled"),
        Err(_) => format!("{path} failed"),
    }
}

fn cancellation_type(cancel: Cancel) -> ActivityCancellationType {
    match cancel {
        Cancel::Try => ActivityCancellationType::TryCancel,
        Cancel::Wait => ActivityCancellationType::WaitCancellationCompleted,
        Cancel::Abandon => ActivityCancellationType::Abandon,
    }
}

/// Cancels after a while; without one, never.
async fn cancel_later(
    ctx: &WorkflowContext<Play>,
    millis: Option<u64>,
    token: &WorkflowCancellationToken,
) {
    if let Some(millis) = millis {
        ctx.timer(Duration::from_millis(millis)).await;
        token.cancel();
    }
}

async fn local(
    ctx: &WorkflowContext<Play>,
    path: String,
    local: Local,
    token: WorkflowCancellationToken,
) {
    let page = attempts::open();
    let input = LocalInput {
        page: page.clone(),
        by_hand: local.by_hand,
        millis: local.millis,
        fails_percent: local.fails_percent,
        panics_percent: local.panics_percent,
        stubborn: local.stubborn,
    };
    let millis = Duration::from_millis;
    let options = LocalActivityOptions::builder()
        .maybe_activity_id(local.named.then(|| path.clone()))
        .retry_policy(policy(local.retries))
        .start_to_close_timeout(millis(local.start_to_close_millis))
        .maybe_schedule_to_close_timeout(local.schedule_to_close_millis.map(millis))
        .maybe_timer_backoff_threshold(local.timer_threshold_millis.map(millis))
        .cancel_type(cancellation_type(local.cancel))
        .cancellation_token(token.clone())
        .build();
    let result = ctx
        .execute_local_activity(Chaos::local, input, options)
        .map(|result| say(ctx, outcome(&path, result), attempts::close(&page)));
    join(result, cancel_later(ctx, local.cancel_after_millis, &token)).await;
}

async fn remote(ctx: &WorkflowContext<Play>, path: String, remote: Remote) {
    let token = ctx.cancellation_token().child_token();
    let input = RemoteInput {
        millis: remote.millis,
        fails_percent: remote.fails_percent,
        heartbeats: remote.heartbeat_millis.is_some(),
    };
    let millis = Duration::from_millis;
    let options =
        ActivityOptions::with_start_to_close_timeout(millis(remote.start_to_close_millis))
            .activity_id(path.clone())
            .retry_policy(policy(remote.retries))
            .maybe_heartbeat_timeout(remote.heartbeat_millis.map(millis))
            .cancellation_type(cancellation_type(remote.cancel))
            .cancellation_token(token.clone())
            .build();
    let result = ctx
        .execute_activity(Chaos::remote, input, options)
        .map(|result| say(ctx, outcome(&path, result), Vec::new()));
    join(
        result,
        cancel_later(ctx, remote.cancel_after_millis, &token),
    )
    .await;
}

async fn child(ctx: &WorkflowContext<Play>, path: String, script: Script) {
    let options = ChildWorkflowOptions::builder()
        .workflow_id(format!("Play-{}-{path}", ctx.run_id()))
        .task_timeout(TASK_TIMEOUT)
        .build();
    let said = match ctx.start_child_workflow(Play::run, script, options).await {
        Err(_) => "not started",
        Ok(child) => {
            say(ctx, format!("{path} child started"), Vec::new());
            match child.result().await {
                Ok(_) => "completed",
                Err(_) => "did not complete",
            }
        }
    };
    say(ctx, format!("{path} child {said}"), Vec::new());
}

async fn step(ctx: &WorkflowContext<Play>, path: String, step: Step) {
    match step {
        Step::Local(activity) => {
            let token = ctx.cancellation_token().child_token();
            local(ctx, path, activity, token).await;
        }
        Step::Race(racers) => {
            let token = ctx.cancellation_token().child_token();
            let racers = racers.into_iter().enumerate().map(|(number, racer)| {
                local(ctx, format!("{path}.{number}"), racer, token.child_token()).boxed_local()
            });
            let ((), _, others) = select_all(racers).await;
            let mut others = join_all(others);
            // Those that ended in the same moment are heard first: the SDK (1.1.1) fails the workflow
            // task when something is cancelled of which it has just said that it has ended.
            if (&mut others).now_or_never().is_none() {
                token.cancel();
                others.await;
            }
        }
        Step::Remote(activity) => remote(ctx, path, activity).await,
        Step::Timer { millis } => {
            let said = match ctx.timer(Duration::from_millis(millis)).await {
                TimerResult::Fired => "fired",
                TimerResult::Cancelled => "cancelled",
            };
            say(ctx, format!("{path} timer {said}"), Vec::new());
        }
        Step::Child(script) => child(ctx, path, *script).await,
        Step::Panic { percent } => {
            if !ctx.is_replaying() && fastrand::u8(..100) < percent {
                panic!("the dice say so");
            }
        }
        Step::Signals(count) => {
            let said = match ctx.wait_condition(|play| play.signals >= count).await {
                Ok(()) => "have come",
                Err(_) => "are not waited for any more",
            };
            say(ctx, format!("{path} signals {said}"), Vec::new());
        }
    }
}

#[workflow_methods]
impl Play {
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        script: Script,
    ) -> WorkflowResult<Vec<String>> {
        let ctx: &WorkflowContext<Self> = ctx;
        say(ctx, "begin".to_owned(), Vec::new());
        for (group, steps) in script.groups.into_iter().enumerate() {
            let steps = steps.into_iter().enumerate();
            join_all(steps.map(|(number, next)| step(ctx, format!("{group}.{number}"), next)))
                .await;
            if ctx.cancellation_token().is_cancelled() {
                break;
            }
        }
        let to_the_end = WaitConditionOptions::builder()
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        ctx.wait_condition_with_options(|_| ctx.all_handlers_finished(), to_the_end)
            .await?;
        if ctx.cancellation_token().is_cancelled() {
            say(ctx, "cancelled".to_owned(), Vec::new());
            return Err(WorkflowTermination::cancelled());
        }
        say(ctx, "end".to_owned(), Vec::new());
        match script.end {
            End::Complete => Ok(ctx.state(|play| play.said.clone())),
            End::Fail => Err(WorkflowTermination::failed_application(
                ApplicationFailure::builder(anyhow::anyhow!("the script says so"))
                    .non_retryable(true)
                    .build(),
            )),
            End::Again(script) => {
                ctx.continue_as_new(*script, ContinueAsNewOptions::default())?;
                unreachable!("it has been left by then")
            }
        }
    }

    #[signal]
    pub fn tell(&mut self, ctx: &mut SyncWorkflowContext<Self>, name: String) {
        let said = format!("signal {name}");
        ctx.upsert_memo(publish(&said, Vec::new()))
            .expect("a witness is JSON");
        self.said.push(said);
        self.signals += 1;
    }

    /// A signal whose handler needs a local activity.
    #[signal]
    pub async fn tell_and_do(ctx: &mut WorkflowContext<Self>, (name, activity): (String, Local)) {
        let ctx: &WorkflowContext<Self> = ctx;
        say(ctx, format!("signal {name}"), Vec::new());
        ctx.state_mut(|play| play.signals += 1);
        let token = ctx.cancellation_token().child_token();
        local(ctx, format!("signal {name}"), activity, token).await;
    }

    #[update]
    pub async fn ask(
        ctx: &mut WorkflowContext<Self>,
        (name, activity): (String, Local),
    ) -> Vec<String> {
        let ctx: &WorkflowContext<Self> = ctx;
        say(ctx, format!("update {name}"), Vec::new());
        let token = ctx.cancellation_token().child_token();
        local(ctx, format!("update {name}"), activity, token).await;
        ctx.state(|play| play.said.clone())
    }
}
