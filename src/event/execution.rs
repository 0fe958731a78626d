//! The identity of one run of a workflow.

use serde::{Deserialize, Serialize};

/// One run of a workflow: Temporal's word is a workflow execution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Execution {
    pub(crate) namespace: String,
    pub(crate) workflow_id: String,
    pub(crate) run_id: String,
}
