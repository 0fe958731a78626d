//! One level of the context stack. Plain data: what a frame means for an event is decided where
//! events are enriched.

use serde_json::{Map, Value};
use std::{sync::Arc, time::SystemTime};

/// A frame of your own: fields for every event that is published while the frame is on the stack.
///
/// Fields become custom metadata fields of the event. `application_name`, `topic_name` and `traceparent` set the
/// metadata field of that name. The other names that [`EventMetadata`](crate::EventMetadata) defines are ignored,
/// since they say who is running and what the event is. A field that the event itself or a frame nearer to the
/// code also sets keeps that value.
///
/// User frames travel in a Temporal header: from the client to the workflow, to its activities and child
/// workflows, and to the next run of a workflow that continues as new. If the fields take more than 8 KiB as
/// JSON, they are not sent, and a warning is logged.
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
    /// Creates a frame without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field. A second value for the same name replaces the first.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(name.into(), value.into());
        self
    }

    /// Adds the field `correlation_id`.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.field("correlation_id", id.into())
    }

    /// Returns the fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

/// The frame of a worker.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WorkerFrame {
    /// The namespace, if it is known before the worker's first task.
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

/// The frame of a workflow execution.
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
    /// The run id of the run that this one continues.
    pub continued_from_run_id: Option<Arc<str>>,
    /// The parent's workflow id, for a child workflow.
    pub parent_workflow_id: Option<Arc<str>>,
    /// The parent's run id, for a child workflow.
    pub parent_run_id: Option<Arc<str>>,
    /// The workflow id of the root of the tree of child workflows.
    pub root_workflow_id: Option<Arc<str>>,
    /// The W3C trace context that the workflow was started with.
    pub traceparent: Option<Arc<str>>,
    /// When the run was started: the time of the first event of its history. Event ids contain it.
    pub start_time: Option<SystemTime>,
}

/// The frame of an activity attempt.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ActivityFrame {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The task queue that the activity was taken from.
    pub task_queue: Option<Arc<str>>,
    /// The workflow's type; `None` for a standalone activity.
    pub workflow_type: Option<Arc<str>>,
    /// The workflow's id; `None` for a standalone activity.
    pub workflow_id: Option<Arc<str>>,
    /// The workflow's run id; `None` for a standalone activity.
    pub workflow_run_id: Option<Arc<str>>,
    /// When the workflow's run was started; see [`WorkflowFrame::start_time`]. Set for a local activity, since the
    /// ids of its events contain this time.
    pub workflow_start_time: Option<SystemTime>,
    /// The activity type.
    pub activity_type: Arc<str>,
    /// The activity id.
    pub activity_id: Arc<str>,
    /// The run id of a standalone activity; `None` for an activity of a workflow.
    pub activity_run_id: Option<Arc<str>>,
    /// When the activity was scheduled, as recorded by the server. The ids of the activity's events contain this
    /// time, unless the activity is local. It also tells two executions of a standalone activity apart if the run id
    /// is not known.
    pub scheduled_time: Option<SystemTime>,
    /// The attempt, from 1.
    pub attempt: u32,
    /// When the attempt began. Set only if an earlier attempt had the same number, because the activity was reset
    /// and its attempts count from 1 again.
    pub restarted_time: Option<SystemTime>,
    /// Whether this is a local activity.
    pub is_local: bool,
    /// The W3C trace context that the activity was scheduled with.
    pub traceparent: Option<Arc<str>>,
}

/// A frame of the context stack, of any kind.
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
    /// Returns the kind of frame in one word: `worker`, `workflow`, `activity` or `user`.
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
