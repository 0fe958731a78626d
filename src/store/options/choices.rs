//! The options that are a choice: which lifecycle events, what durable events survive, who writes. Each is read from
//! the same words, wherever it stands.

use serde::Deserialize;
use std::str::FromStr;

/// Which lifecycle events the interceptors emit. All by default.
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
    /// Every lifecycle event.
    pub const ALL: Self = Self {
        workflow: true,
        activity: true,
        local_activity: true,
        worker: true,
    };
    /// No lifecycle event: only what application code publishes.
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

/// What durable events survive. An event is durable once it is in the journal's log; a commit and an awaited receipt
/// wait for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// Durable events survive a killed process, as long as the kernel lives on that has the written pages: not a
    /// killed gVisor sandbox or micro-VM, not a dead FUSE daemon, not a removed container layer.
    ///
    /// A caller that waits may write to the log itself; see [`Append`].
    #[default]
    Process,
    /// Durable events survive a power cut, too. The journal's thread syncs the log before it answers, and the store's
    /// file is written with SQLite's `synchronous=FULL`. Slower.
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

/// Who writes to the log of a journal in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Append {
    /// Whoever commits or awaits a receipt, with one short write, where that is cheap and safe: with
    /// [`Durability::Process`], without a filter, on a local Linux file system that answers quickly. Otherwise the
    /// journal's thread. Only the kernel bounds how long such a write takes; a worker stalls for as long.
    #[default]
    Inline,
    /// Always the journal's thread, so that `commit_timeout` bounds every wait. Each commit then costs a switch
    /// between threads.
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
