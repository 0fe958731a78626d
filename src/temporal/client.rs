//! The client side: user frames travel with every call that starts or reaches a workflow.

use super::payload;
use crate::context::Context;
use futures_util::future::BoxFuture;
use temporalio_client::{
    ClientInterceptor, Next, SignalWithStartWorkflowInput, SignalWorkflowInput, StartWorkflowInput,
    StartWorkflowOutput, StartWorkflowUpdateInput, StartWorkflowUpdateOutput,
    UpdateWithStartWorkflowInput, UpdateWithStartWorkflowOutput,
    errors::{
        WorkflowInteractionError, WorkflowStartError, WorkflowUpdateError,
        WorkflowUpdateWithStartError,
    },
};

/// Adds the current user frames to the headers of starts, signals and updates.
#[derive(Debug)]
pub(super) struct ClientFrames;

impl ClientInterceptor for ClientFrames {
    fn start_workflow<'a>(
        &'a self,
        mut input: StartWorkflowInput,
        next: Next<
            'a,
            StartWorkflowInput,
            BoxFuture<'a, Result<StartWorkflowOutput, WorkflowStartError>>,
        >,
    ) -> BoxFuture<'a, Result<StartWorkflowOutput, WorkflowStartError>> {
        payload::inject_header(&Context::current(), &mut input.options.header);
        next.run(input)
    }

    fn signal_with_start_workflow<'a>(
        &'a self,
        mut input: SignalWithStartWorkflowInput,
        next: Next<
            'a,
            SignalWithStartWorkflowInput,
            BoxFuture<'a, Result<StartWorkflowOutput, WorkflowStartError>>,
        >,
    ) -> BoxFuture<'a, Result<StartWorkflowOutput, WorkflowStartError>> {
        payload::inject_header(&Context::current(), &mut input.options.header);
        next.run(input)
    }

    fn signal_workflow<'a>(
        &'a self,
        mut input: SignalWorkflowInput,
        next: Next<'a, SignalWorkflowInput, BoxFuture<'a, Result<(), WorkflowInteractionError>>>,
    ) -> BoxFuture<'a, Result<(), WorkflowInteractionError>> {
        payload::inject_header(&Context::current(), &mut input.options.header);
        next.run(input)
    }

    fn start_workflow_update<'a>(
        &'a self,
        mut input: StartWorkflowUpdateInput,
        next: Next<
            'a,
            StartWorkflowUpdateInput,
            BoxFuture<'a, Result<StartWorkflowUpdateOutput, WorkflowUpdateError>>,
        >,
    ) -> BoxFuture<'a, Result<StartWorkflowUpdateOutput, WorkflowUpdateError>> {
        payload::inject_header(&Context::current(), &mut input.options.header);
        next.run(input)
    }

    fn update_with_start_workflow<'a>(
        &'a self,
        mut input: UpdateWithStartWorkflowInput,
        next: Next<
            'a,
            UpdateWithStartWorkflowInput,
            BoxFuture<'a, Result<UpdateWithStartWorkflowOutput, WorkflowUpdateWithStartError>>,
        >,
    ) -> BoxFuture<'a, Result<UpdateWithStartWorkflowOutput, WorkflowUpdateWithStartError>> {
        let context = Context::current();
        payload::inject_header(&context, &mut input.options.start_header);
        payload::inject_header(&context, &mut input.options.update_header);
        next.run(input)
    }
}
