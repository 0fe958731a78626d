//! Converts the SDK's errors to the field `error` of `workflow_end` and `activity_end`.

use crate::{
    event::{FailureDetails, MAX_ERROR_BYTES},
    store::EventStore,
};
use temporalio_common::{
    error::{ApplicationFailure, OutgoingWorkflowError},
    protos::temporal::api::failure::v1::{Failure, failure::FailureInfo},
};

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

/// The details of a failure as history keeps it.
pub(super) fn recorded(store: &EventStore, failure: &Failure) -> FailureDetails {
    let (kind, non_retryable) = match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => {
            let kind = Some(info.r#type.clone()).filter(|kind| !kind.is_empty());
            return details(store, kind, failure.message.clone(), info.non_retryable);
        }
        Some(FailureInfo::TimeoutFailureInfo(_)) => ("TimeoutError", false),
        Some(FailureInfo::CanceledFailureInfo(_)) => ("CancelledError", false),
        Some(FailureInfo::TerminatedFailureInfo(_)) => ("TerminatedError", false),
        Some(FailureInfo::ServerFailureInfo(info)) => ("ServerError", info.non_retryable),
        Some(FailureInfo::ActivityFailureInfo(_)) => ("ActivityExecutionError", false),
        Some(FailureInfo::ChildWorkflowExecutionFailureInfo(_)) => {
            ("ChildWorkflowExecutionError", false)
        }
        _ => ("WorkflowError", false),
    };
    details(
        store,
        Some(kind.to_owned()),
        failure.message.clone(),
        non_retryable,
    )
}

/// What failed, without the wrapping that tells in which activity.
pub(super) fn innermost(failure: &Failure) -> &Failure {
    let mut innermost = failure;
    while let (Some(FailureInfo::ActivityFailureInfo(_)), Some(cause)) =
        (&innermost.failure_info, &innermost.cause)
    {
        innermost = cause;
    }
    innermost
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

/// Longer than an event keeps, so that it is seen to be too long, and no longer than events that wait
/// should be.
const MAX_WAITING_BYTES: usize = MAX_ERROR_BYTES + 4;

pub(super) fn shortened(mut text: String) -> String {
    if text.len() > MAX_WAITING_BYTES {
        text.truncate(text.floor_char_boundary(MAX_WAITING_BYTES));
        // Megabytes of user code's would otherwise wait with it.
        text.shrink_to_fit();
    }
    text
}

fn details(
    store: &EventStore,
    error_type: Option<String>,
    message: String,
    non_retryable: bool,
) -> FailureDetails {
    FailureDetails {
        error_type: error_type.map(shortened),
        message: store.keeps_error_messages().then(|| shortened(message)),
        non_retryable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_error_is_cut_between_characters() {
        for character in ["a", "ü", "…", "🦀"] {
            let text = shortened(character.repeat(MAX_ERROR_BYTES + 5));
            assert!(text.len() > MAX_ERROR_BYTES && text.len() <= MAX_WAITING_BYTES);
            assert!(text.ends_with(character));
        }
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
