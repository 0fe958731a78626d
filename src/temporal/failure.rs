//! What a failed end says about the error. Knows the SDK's error types.

use crate::{event::FailureDetails, store::EventStore};
use temporalio_common::error::{ApplicationFailure, OutgoingWorkflowError};

/// The details of an application failure, with its message only if the store keeps messages.
pub(super) fn application(store: &EventStore, failure: &ApplicationFailure) -> FailureDetails {
    details(
        store,
        failure.type_name().map(str::to_owned),
        failure.source_error().to_string(),
        failure.is_non_retryable(),
    )
}

/// The details of what a failed workflow returned.
pub(super) fn workflow(store: &EventStore, error: &OutgoingWorkflowError) -> FailureDetails {
    let kind = match error {
        OutgoingWorkflowError::Application(failure) => return application(store, failure),
        OutgoingWorkflowError::PayloadConversion(_) => "PayloadConversionError",
        OutgoingWorkflowError::ActivityExecution(_) => "ActivityExecutionError",
        OutgoingWorkflowError::ChildWorkflowExecution(_) => "ChildWorkflowExecutionError",
        OutgoingWorkflowError::ChildWorkflowStart(_) => "ChildWorkflowStartError",
        OutgoingWorkflowError::WorkflowSignal(_) => "WorkflowSignalError",
        OutgoingWorkflowError::CancelExternalWorkflow(_) => "CancelExternalWorkflowError",
        _ => "WorkflowError",
    };
    details(store, Some(kind.to_owned()), error.to_string(), false)
}

/// The details of an activity whose code panicked; the SDK reports it as a retryable failure.
pub(super) fn panicked(store: &EventStore) -> FailureDetails {
    details(
        store,
        Some("Panic".to_owned()),
        "the activity panicked".to_owned(),
        false,
    )
}

fn details(
    store: &EventStore,
    error_type: Option<String>,
    message: String,
    non_retryable: bool,
) -> FailureDetails {
    FailureDetails {
        error_type,
        message: store.keeps_error_messages().then_some(message),
        non_retryable,
    }
}
