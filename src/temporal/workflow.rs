//! The workflow interceptor: keeps the context stack around workflow code, stages `workflow_start`,
//! remembers why a run failed, and sends user frames along with what the workflow calls. Issues no
//! command and awaits nothing of its own, so that history and replay are the same without it.

use super::{failure, payload, run::Run};
use crate::{context::Context, event::WorkflowState, store::EventStore};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};
use temporalio_sdk::{
    WorkflowContextView, WorkflowTermination,
    workflow_interceptors::{
        CancellableWorkflowOutboundFuture, ContinueAsNewInput, ContinueAsNewResult,
        ExecuteWorkflowInput, ExecuteWorkflowResult, HandleQueryInput, HandleQueryResult,
        HandleSignalInput, HandleSignalResult, HandleUpdateInput, HandleUpdateResult,
        InitializeWorkflowInput, InitializeWorkflowOutput, ScheduleActivityInput,
        ScheduleActivityResult, ScheduleLocalActivityInput, SignalWorkflowInput,
        SignalWorkflowResult, StartChildWorkflowInput, StartChildWorkflowResult,
        SyncWorkflowInterceptorContext, ValidateUpdateInput, ValidateUpdateResult,
        WorkflowInterceptor, WorkflowInterceptorContext, WorkflowInterceptorFuture, WorkflowNext,
    },
};

/// Called with the outcome when `execute` returns outside of replay; for workers without the hook
/// that sees the completed task.
pub(super) type OnReturn = Arc<dyn Fn(&Run, WorkflowState) + Send + Sync>;

/// The interceptor of one run in memory.
pub(super) struct WorkflowEvents {
    store: EventStore,
    // None: this instance is silent, since another one of the same store is there.
    run: Option<Arc<Run>>,
    on_return: Option<OnReturn>,
}

impl WorkflowEvents {
    /// For a worker whose hooks tell when activations begin and complete.
    #[cfg(feature = "plugin")]
    pub(super) fn hooked(store: &EventStore, run: Option<Arc<Run>>) -> Self {
        Self {
            store: store.clone(),
            run,
            on_return: None,
        }
    }

    /// For a worker without such hooks.
    pub(super) fn unhooked(store: &EventStore, run: Arc<Run>, on_return: OnReturn) -> Self {
        Self {
            store: store.clone(),
            run: Some(run),
            on_return: Some(on_return),
        }
    }

    /// The future of workflow code, with the stack current on each poll.
    fn scoped<'a, T: 'a>(
        &self,
        ctx: WorkflowInterceptorContext,
        run: &Arc<Run>,
        context: &Context,
        future: impl Future<Output = T> + 'a,
    ) -> WorkflowInterceptorFuture<'a, T> {
        let scoped = context.scope(future);
        if self.on_return.is_none() {
            WorkflowInterceptorFuture::new(scoped)
        } else {
            WorkflowInterceptorFuture::new(FollowsReplay {
                ctx,
                run: run.clone(),
                inner: Box::pin(scoped),
            })
        }
    }
}

/// Reads the replay state anew on each poll, where no hook announces it.
struct FollowsReplay<F> {
    ctx: WorkflowInterceptorContext,
    run: Arc<Run>,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for FollowsReplay<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.run.begin(
            this.ctx.is_replaying_history_events(),
            i64::from(this.ctx.history_length()),
            this.ctx.workflow_time(),
            Vec::new(),
        );
        this.inner.as_mut().poll(cx)
    }
}

/// The outcome that the SDK reports for what `execute` returned; none when the workflow task fails
/// and the run goes on.
fn outcome(result: &ExecuteWorkflowResult, cancel_requested: bool) -> Option<WorkflowState> {
    use temporalio_common::error::OutgoingWorkflowError;
    match result {
        Ok(_) => Some(WorkflowState::Completed),
        Err(WorkflowTermination::Cancelled { .. }) => Some(WorkflowState::Cancelled),
        Err(WorkflowTermination::ContinueAsNew(_)) => Some(WorkflowState::ContinuedAsNew),
        Err(WorkflowTermination::Evicted)
        | Err(WorkflowTermination::Failed(OutgoingWorkflowError::PayloadConversion(_))) => None,
        Err(WorkflowTermination::Failed(error)) => {
            if cancel_requested && error.as_cancelled().is_some() {
                Some(WorkflowState::Cancelled)
            } else {
                Some(WorkflowState::Failed)
            }
        }
    }
}

/// The stack of a handler: the run's, with the frames that the message brought.
fn with_header(
    context: Context,
    headers: &std::collections::HashMap<
        String,
        temporalio_common::protos::temporal::api::common::v1::Payload,
    >,
) -> Context {
    match payload::frame(headers) {
        Some(frame) => context.push(frame),
        None => context,
    }
}

impl WorkflowInterceptor for WorkflowEvents {
    fn initialize_workflow(
        &self,
        _ctx: WorkflowContextView,
        input: InitializeWorkflowInput,
        next: WorkflowNext<'_, InitializeWorkflowInput, InitializeWorkflowOutput>,
    ) -> InitializeWorkflowOutput {
        match &self.run {
            // Without hooks nobody knows yet whether this replays; what `#[init]` publishes would
            // appear again and again, so that it must not appear at all.
            Some(run) if self.on_return.is_some() => {
                run.read_only_context().enter(|| next.run(input))
            }
            Some(run) => {
                run.start();
                run.context().enter(|| next.run(input))
            }
            None => next.run(input),
        }
    }

    fn execute<'a>(
        &'a self,
        ctx: WorkflowInterceptorContext,
        input: ExecuteWorkflowInput,
        next: WorkflowNext<
            'a,
            ExecuteWorkflowInput,
            WorkflowInterceptorFuture<'a, ExecuteWorkflowResult>,
        >,
    ) -> WorkflowInterceptorFuture<'a, ExecuteWorkflowResult> {
        let Some(run) = &self.run else {
            return next.run(input);
        };
        let cancellation = ctx.cancellation_token();
        let future = async move {
            run.start();
            let result = next.run(input).await;
            if let Err(WorkflowTermination::Failed(error)) = &result {
                run.failed_with(failure::workflow(&self.store, error));
            }
            if let Some(on_return) = &self.on_return
                && !run.stage().is_replaying()
                && let Some(state) = outcome(&result, cancellation.is_cancelled())
            {
                on_return(run, state);
            }
            result
        };
        self.scoped(ctx, run, &run.context(), future)
    }

    fn handle_signal<'a>(
        &'a self,
        ctx: WorkflowInterceptorContext,
        input: HandleSignalInput,
        next: WorkflowNext<
            'a,
            HandleSignalInput,
            WorkflowInterceptorFuture<'a, HandleSignalResult>,
        >,
    ) -> WorkflowInterceptorFuture<'a, HandleSignalResult> {
        let Some(run) = &self.run else {
            return next.run(input);
        };
        let context = with_header(run.context(), input.headers());
        self.scoped(ctx, run, &context, async move { next.run(input).await })
    }

    fn handle_update<'a>(
        &'a self,
        ctx: WorkflowInterceptorContext,
        input: HandleUpdateInput,
        next: WorkflowNext<
            'a,
            HandleUpdateInput,
            WorkflowInterceptorFuture<'a, HandleUpdateResult>,
        >,
    ) -> WorkflowInterceptorFuture<'a, HandleUpdateResult> {
        let Some(run) = &self.run else {
            return next.run(input);
        };
        let context = with_header(run.context(), input.headers());
        self.scoped(ctx, run, &context, async move { next.run(input).await })
    }

    fn handle_query(
        &self,
        _ctx: SyncWorkflowInterceptorContext,
        input: HandleQueryInput,
        next: WorkflowNext<'_, HandleQueryInput, HandleQueryResult>,
    ) -> HandleQueryResult {
        match &self.run {
            Some(run) => run.read_only_context().enter(|| next.run(input)),
            None => next.run(input),
        }
    }

    fn validate_update(
        &self,
        _ctx: SyncWorkflowInterceptorContext,
        input: ValidateUpdateInput,
        next: WorkflowNext<'_, ValidateUpdateInput, ValidateUpdateResult>,
    ) -> ValidateUpdateResult {
        match &self.run {
            Some(run) => run.read_only_context().enter(|| next.run(input)),
            None => next.run(input),
        }
    }

    fn schedule_activity(
        &self,
        _ctx: WorkflowInterceptorContext,
        mut input: ScheduleActivityInput,
        next: WorkflowNext<
            'static,
            ScheduleActivityInput,
            CancellableWorkflowOutboundFuture<ScheduleActivityResult>,
        >,
    ) -> CancellableWorkflowOutboundFuture<ScheduleActivityResult> {
        payload::inject(&Context::current(), input.headers_mut());
        next.run(input)
    }

    fn schedule_local_activity(
        &self,
        _ctx: WorkflowInterceptorContext,
        mut input: ScheduleLocalActivityInput,
        next: WorkflowNext<
            'static,
            ScheduleLocalActivityInput,
            CancellableWorkflowOutboundFuture<ScheduleActivityResult>,
        >,
    ) -> CancellableWorkflowOutboundFuture<ScheduleActivityResult> {
        payload::inject(&Context::current(), input.headers_mut());
        if let Some(run) = &self.run {
            input
                .options_mut()
                .original_schedule_time
                .get_or_insert_with(|| run.schedules_local_at().into());
        }
        next.run(input)
    }

    fn start_child_workflow(
        &self,
        _ctx: WorkflowInterceptorContext,
        mut input: StartChildWorkflowInput,
        next: WorkflowNext<
            'static,
            StartChildWorkflowInput,
            CancellableWorkflowOutboundFuture<StartChildWorkflowResult>,
        >,
    ) -> CancellableWorkflowOutboundFuture<StartChildWorkflowResult> {
        payload::inject(&Context::current(), input.headers_mut());
        next.run(input)
    }

    fn signal_workflow(
        &self,
        _ctx: WorkflowInterceptorContext,
        mut input: SignalWorkflowInput,
        next: WorkflowNext<
            'static,
            SignalWorkflowInput,
            CancellableWorkflowOutboundFuture<SignalWorkflowResult>,
        >,
    ) -> CancellableWorkflowOutboundFuture<SignalWorkflowResult> {
        payload::inject(&Context::current(), input.headers_mut());
        next.run(input)
    }

    fn continue_as_new(
        &self,
        _ctx: SyncWorkflowInterceptorContext,
        mut input: ContinueAsNewInput,
        next: WorkflowNext<'static, ContinueAsNewInput, ContinueAsNewResult>,
    ) -> ContinueAsNewResult {
        payload::inject(&Context::current(), input.headers_mut());
        next.run(input)
    }
}
