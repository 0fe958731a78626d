//! The lifecycle events: their names, and a function that creates each of them. [The events](crate::guide::events)
//! says what they mean.

use super::{Event, WorkflowState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// The event type of every lifecycle event.
pub const APPLICATION_EVENTS: &str = "application_events";

/// The lifecycle events, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LifecycleEvent {
    /// A workflow run started.
    WorkflowStart,
    /// A workflow run ended.
    WorkflowEnd,
    /// An activity attempt started.
    ActivityStart,
    /// An activity attempt ended.
    ActivityEnd,
    /// An attempt whose code returned `WillCompleteAsync` was completed. Only the reconciler emits it.
    ActivityAsyncEnd,
    /// A worker started.
    WorkerStart,
    /// A worker stopped.
    WorkerEnd,
    /// An application started. For applications to publish.
    ApplicationStart,
    /// An application stopped. For applications to publish.
    ApplicationEnd,
    /// An access token was renewed. For applications to publish.
    TokenRefresh,
}

impl LifecycleEvent {
    /// All lifecycle events.
    pub const ALL: [Self; 10] = [
        Self::WorkflowStart,
        Self::WorkflowEnd,
        Self::ActivityStart,
        Self::ActivityEnd,
        Self::ActivityAsyncEnd,
        Self::WorkerStart,
        Self::WorkerEnd,
        Self::ApplicationStart,
        Self::ApplicationEnd,
        Self::TokenRefresh,
    ];

    /// Returns the event name, such as `workflow_start`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkflowStart => "workflow_start",
            Self::WorkflowEnd => "workflow_end",
            Self::ActivityStart => "activity_start",
            Self::ActivityEnd => "activity_end",
            Self::ActivityAsyncEnd => "activity_async_end",
            Self::WorkerStart => "worker_start",
            Self::WorkerEnd => "worker_end",
            Self::ApplicationStart => "application_start",
            Self::ApplicationEnd => "application_end",
            Self::TokenRefresh => "token_refresh",
        }
    }

    /// Returns the lifecycle event with this event name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == name)
    }

    /// Returns whether the interceptors or the reconciler emit the event, and not the application.
    pub const fn is_emitted_by_interceptors(self) -> bool {
        !matches!(
            self,
            Self::ApplicationStart | Self::ApplicationEnd | Self::TokenRefresh
        )
    }

    /// Creates an event of this name, for applications to fill and publish.
    ///
    /// ```
    /// use temporal_eventstore::event::LifecycleEvent;
    /// let event = LifecycleEvent::ApplicationStart.event();
    /// assert_eq!(event.event_type, "application_events");
    /// assert_eq!(event.event_name, "application_start");
    /// ```
    pub fn event(self) -> Event {
        Event::new(APPLICATION_EVENTS).name(self.as_str())
    }
}

impl fmt::Display for LifecycleEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an activity attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActivityStatus {
    /// The attempt returned a result.
    Completed,
    /// The attempt returned an error, or panicked.
    Failed,
    /// The attempt was cancelled.
    Cancelled,
    /// The attempt left its completion to others. An `activity_async_end` says how it was completed.
    WillCompleteAsync,
    /// The attempt timed out: its worker died, or was too slow.
    TimedOut,
    /// The standalone activity was terminated during the attempt. Only the reconciler reports this.
    Terminated,
    /// The attempt ended without a result and was retried, and the server does not keep how it ended. Only the
    /// reconciler reports this.
    Unknown,
}

impl ActivityStatus {
    /// Returns the value of the field `status`, such as `timed_out`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::WillCompleteAsync => "will_complete_async",
            Self::TimedOut => "timed_out",
            Self::Terminated => "terminated",
            Self::Unknown => "unknown",
        }
    }
}

/// The field `error` of an event that reports a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailureDetails {
    /// The type of the failure, as Temporal names it.
    pub error_type: Option<String>,
    /// The message, unless messages are [left out](crate::EventStoreOptions::error_messages).
    pub message: Option<String>,
    /// Whether the failure is marked as non-retryable.
    pub non_retryable: bool,
}

impl FailureDetails {
    /// Creates the details of a retryable failure of this type, without a message.
    pub fn new(error_type: impl Into<String>) -> Self {
        Self {
            error_type: Some(error_type.into()),
            ..Self::default()
        }
    }

    /// Sets the message.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Marks the failure as non-retryable.
    #[must_use]
    pub fn non_retryable(mut self) -> Self {
        self.non_retryable = true;
        self
    }

    fn to_value(&self) -> Value {
        let mut error = Map::new();
        if let Some(error_type) = &self.error_type {
            error.insert("type".to_owned(), json!(error_type));
        }
        if let Some(message) = &self.message {
            error.insert("message".to_owned(), json!(message));
        }
        error.insert("non_retryable".to_owned(), json!(self.non_retryable));
        Value::Object(error)
    }
}

/// Creates a `workflow_start`.
pub fn workflow_start() -> Event {
    in_state(LifecycleEvent::WorkflowStart, WorkflowState::Running)
}

/// Creates a `workflow_end` with the outcome of the run. `duration_ms` is in milliseconds, and is rounded to
/// hundredths.
pub fn workflow_end(
    state: WorkflowState,
    duration_ms: f64,
    failure: Option<&FailureDetails>,
) -> Event {
    let status = state.as_str().to_owned();
    ended(
        in_state(LifecycleEvent::WorkflowEnd, state),
        &status,
        duration_ms,
        failure,
    )
}

/// Creates an `activity_start`.
pub fn activity_start() -> Event {
    LifecycleEvent::ActivityStart.event()
}

/// Creates an `activity_end` with the outcome of the attempt. `duration_ms` is in milliseconds, and is rounded to
/// hundredths.
pub fn activity_end(
    status: ActivityStatus,
    duration_ms: f64,
    failure: Option<&FailureDetails>,
) -> Event {
    ended(
        LifecycleEvent::ActivityEnd.event(),
        status.as_str(),
        duration_ms,
        failure,
    )
}

/// Creates an `activity_async_end` with the outcome of an asynchronous completion. `duration_ms` is the time from the
/// start of the attempt to that outcome in milliseconds, and is rounded to hundredths.
pub fn activity_async_end(
    status: ActivityStatus,
    duration_ms: f64,
    failure: Option<&FailureDetails>,
) -> Event {
    ended(
        LifecycleEvent::ActivityAsyncEnd.event(),
        status.as_str(),
        duration_ms,
        failure,
    )
}

/// Creates a `worker_start`. `data` describes the worker.
pub fn worker_start(data: Map<String, Value>) -> Event {
    let mut event = LifecycleEvent::WorkerStart.event();
    event.data = data;
    event
}

/// Creates a `worker_end`. `data` says why the worker stopped.
pub fn worker_end(data: Map<String, Value>) -> Event {
    let mut event = LifecycleEvent::WorkerEnd.event();
    event.data = data;
    event
}

fn in_state(name: LifecycleEvent, state: WorkflowState) -> Event {
    let mut event = name.event();
    event.metadata.workflow_state = state;
    event
}

fn ended(
    mut event: Event,
    status: &str,
    duration_ms: f64,
    failure: Option<&FailureDetails>,
) -> Event {
    event.data.insert("status".to_owned(), json!(status));
    // The reference's precision: hundredths of a millisecond.
    event.data.insert(
        "duration_ms".to_owned(),
        json!((duration_ms * 100.0).round() / 100.0),
    );
    if let Some(failure) = failure {
        event.data.insert("error".to_owned(), failure.to_value());
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for event in LifecycleEvent::ALL {
            assert_eq!(LifecycleEvent::from_name(event.as_str()), Some(event));
        }
        assert_eq!(LifecycleEvent::from_name("workflow_started"), None);
    }

    #[test]
    fn an_end_says_how_and_how_long() {
        let failure = FailureDetails {
            error_type: Some("OutOfStock".into()),
            message: Some("no more".into()),
            non_retryable: true,
        };
        let event = workflow_end(WorkflowState::Failed, 309.914_9, Some(&failure));
        assert_eq!(event.metadata.workflow_state, WorkflowState::Failed);
        assert_eq!(
            Value::Object(event.data),
            json!({
                "status": "failed", "duration_ms": 309.91,
                "error": { "type": "OutOfStock", "message": "no more", "non_retryable": true }
            })
        );
    }

    #[test]
    fn application_names_are_not_the_interceptors() {
        assert!(workflow_start().is_lifecycle());
        assert!(!LifecycleEvent::TokenRefresh.event().is_lifecycle());
        assert!(!Event::new("x").name("workflow_start").is_lifecycle());
    }
}
