//! One level of the context stack. Plain data: what a frame means for an event is decided where
//! events are enriched.

use serde_json::{Map, Value};
use std::{sync::Arc, time::SystemTime};

/// A frame that application code adds: fields that every event published above it carries.
///
/// Fields become custom metadata fields; `application_name`, `topic_name` and `traceparent` set the
/// metadata field of that name. Other names of the event's metadata say who is running or what the
/// event is, and are ignored in a frame. What the event or a frame above has stays. User frames
/// travel with Temporal headers from client to workflow, activity, child workflow and the next run
/// of a workflow that continues as new.
///
/// ```
/// use temporal_eventstore::context::{Context, Frame};
///
/// let seen = Frame::new().field("correlation_id", "c-42").enter(|| {
///     Context::current().frames().count()
/// });
/// assert_eq!(seen, 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a frame does nothing outside of its scope"]
pub struct Frame {
    pub(crate) fields: Map<String, Value>,
}

impl Frame {
    /// A frame without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// This frame with one more field; a second value for the same name replaces the first.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(name.into(), value.into());
        self
    }

    /// Short for the field `correlation_id`.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.field("correlation_id", id.into())
    }

    /// The fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

/// What is known of the worker.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WorkerFrame {
    /// The namespace, when it is known before the first task.
    pub namespace: Option<Arc<str>>,
    /// The task queue that the worker polls.
    pub task_queue: Option<Arc<str>>,
    /// The identity that the worker reports to the server.
    pub worker_identity: Option<Arc<str>>,
    /// The build id of the worker's deployment.
    pub build_id: Option<Arc<str>>,
    /// The SDK's name and version.
    pub sdk_version: Option<Arc<str>>,
}

/// What is known of the workflow execution.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WorkflowFrame {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The task queue of the workflow.
    pub task_queue: Option<Arc<str>>,
    /// The workflow type.
    pub workflow_type: Arc<str>,
    /// The workflow id.
    pub workflow_id: Arc<str>,
    /// The run id.
    pub workflow_run_id: Arc<str>,
    /// The attempt of the run under the workflow's retry policy, from 1.
    pub workflow_attempt: Option<u32>,
    /// The run id of the first run in the chain.
    pub first_execution_run_id: Option<Arc<str>>,
    /// The run that this one continues.
    pub continued_from_run_id: Option<Arc<str>>,
    /// The parent's workflow id, for a child workflow.
    pub parent_workflow_id: Option<Arc<str>>,
    /// The parent's run id, for a child workflow.
    pub parent_run_id: Option<Arc<str>>,
    /// The workflow id of the root of the tree of child workflows.
    pub root_workflow_id: Option<Arc<str>>,
    /// The W3C trace context that the workflow was started with.
    pub traceparent: Option<Arc<str>>,
    /// When the run was started: the time of the first event of its history, which ids are made of.
    pub start_time: Option<SystemTime>,
}

/// What is known of the activity attempt.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ActivityFrame {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The task queue that the activity was taken from.
    pub task_queue: Option<Arc<str>>,
    /// The workflow's type; none for a standalone activity.
    pub workflow_type: Option<Arc<str>>,
    /// The workflow's id; none for a standalone activity.
    pub workflow_id: Option<Arc<str>>,
    /// The workflow's run id; none for a standalone activity.
    pub workflow_run_id: Option<Arc<str>>,
    /// When the workflow's run was started, as [`WorkflowFrame::start_time`] has it; of a local activity,
    /// whose ids are made of it.
    pub workflow_start_time: Option<SystemTime>,
    /// The activity type.
    pub activity_type: Arc<str>,
    /// The activity id.
    pub activity_id: Arc<str>,
    /// The run id of a standalone activity; none for an activity of a workflow.
    pub activity_run_id: Option<Arc<str>>,
    /// When the activity was scheduled, as its server has it; ids are made of it. Tells the executions of
    /// a standalone activity apart where its run id is not known.
    pub scheduled_time: Option<SystemTime>,
    /// The attempt, from 1.
    pub attempt: u32,
    /// When the attempt began, where its number was given before: the activity was reset, and counts
    /// from 1 again.
    pub restarted_time: Option<SystemTime>,
    /// Whether this is a local activity.
    pub is_local: bool,
    /// The W3C trace context that the activity was scheduled with.
    pub traceparent: Option<Arc<str>>,
}

/// A frame of any kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StackFrame {
    /// The worker.
    Worker(WorkerFrame),
    /// A workflow execution.
    Workflow(WorkflowFrame),
    /// An activity attempt.
    Activity(ActivityFrame),
    /// Fields that application code added.
    User(Frame),
}

impl StackFrame {
    /// The kind of frame, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Worker(_) => "worker",
            Self::Workflow(_) => "workflow",
            Self::Activity(_) => "activity",
            Self::User(_) => "user",
        }
    }
}

macro_rules! into_stack_frame {
    ($($frame:ty => $variant:ident),+) => {$(
        impl From<$frame> for StackFrame {
            fn from(frame: $frame) -> Self {
                Self::$variant(frame)
            }
        }
    )+};
}

into_stack_frame!(
    WorkerFrame => Worker,
    WorkflowFrame => Workflow,
    ActivityFrame => Activity,
    Frame => User
);
