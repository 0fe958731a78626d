//! The options that are a choice between words. Code, environment variables and configuration files use the same
//! words.

use serde::Deserialize;
use std::str::FromStr;

/// Which lifecycle events the interceptors and the reconciler emit. All by default.
///
/// Parsed from `all`, `none`, or a comma-separated list of `workflow`, `activity`, `local_activity` and `worker`:
///
/// ```
/// use temporal_eventstore::LifecycleSelection;
///
/// let selection: LifecycleSelection = "workflow,worker".parse()?;
/// assert!(selection.workflow && !selection.activity);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[non_exhaustive]
pub struct LifecycleSelection {
    /// `workflow_start` and `workflow_end`.
    pub workflow: bool,
    /// `activity_start`, `activity_end` and `activity_async_end` of activities that the server schedules.
    pub activity: bool,
    /// `activity_start` and `activity_end` of local activities.
    pub local_activity: bool,
    /// `worker_start` and `worker_end`.
    pub worker: bool,
}

impl LifecycleSelection {
    /// Selects every lifecycle event.
    pub const ALL: Self = Self {
        workflow: true,
        activity: true,
        local_activity: true,
        worker: true,
    };
    /// Selects no lifecycle event. Only events that application code publishes are stored.
    pub const NONE: Self = Self {
        workflow: false,
        activity: false,
        local_activity: false,
        worker: false,
    };
}

impl Default for LifecycleSelection {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for LifecycleSelection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "`all`, `none`, or a comma-separated list of workflow, activity, local_activity, worker";
        let mut selection = Self::NONE;
        match text.trim() {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            list => {
                for word in list.split(',') {
                    match word.trim() {
                        "workflow" => selection.workflow = true,
                        "activity" => selection.activity = true,
                        "local_activity" => selection.local_activity = true,
                        "worker" => selection.worker = true,
                        _ => return Err(ALLOWED.to_owned()),
                    }
                }
            }
        }
        Ok(selection)
    }
}

impl TryFrom<String> for LifecycleSelection {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What durable events survive. An event is durable once it is in the journal's log. A commit waits for that, and so
/// does an awaited receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Durable events survive when the process is killed, as long as the kernel that has the written pages keeps
    /// running. They do not survive when a gVisor sandbox or micro-VM is killed, a FUSE daemon dies, or a container
    /// layer is removed.
    ///
    /// A caller that waits for the log may write to it itself; see [`Append`].
    #[default]
    Process,
    /// Durable events also survive a power cut. The journal's thread syncs the log before it answers, and the store's
    /// file is written with SQLite's `synchronous=FULL`. This is slower.
    Power,
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "process" => Ok(Self::Process),
            "power" => Ok(Self::Power),
            _ => Err("`process` or `power`".to_owned()),
        }
    }
}

/// Which thread writes to the log of a journal in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Append {
    /// The thread that commits or awaits a receipt makes one short write, where that is cheap and safe: with
    /// [`Durability::Process`], without a filter, and on a local Linux file system that responds quickly. Otherwise
    /// the journal's thread writes.
    ///
    /// Only the kernel bounds how long such a write takes. A worker stalls for as long as the write does.
    #[default]
    Inline,
    /// The journal's thread always writes, so that [`commit_timeout`](crate::EventStoreOptions::commit_timeout) bounds
    /// every wait. Each commit then costs a switch between threads.
    Thread,
}

impl FromStr for Append {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "inline" => Ok(Self::Inline),
            "thread" => Ok(Self::Thread),
            _ => Err("`inline` or `thread`".to_owned()),
        }
    }
}
