//! Asking the server: how a run stands, which runs closed, what their histories say. Reaches it through
//! [`super::source`], and knows nothing of the events that are made of its answers.

mod open;
mod standalone;

pub(super) use open::OpenRun;
pub(super) use standalone::{StandaloneActivity, StandaloneDescription};

use super::{
    request_error::{REQUEST_TIMEOUT, RequestError},
    source::Source,
    time::time,
};
use std::{fmt, time::SystemTime};
#[cfg(feature = "plugin")]
use temporalio_client::ConnectionOptions;
use temporalio_client::{
    Connection,
    tonic::{Code, IntoRequest},
};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution,
    enums::v1::WorkflowExecutionStatus,
    history::v1::HistoryEvent,
    workflowservice::v1::{GetWorkflowExecutionHistoryRequest, ListWorkflowExecutionsRequest},
};

use crate::event::WorkflowState;

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClosedRun {
    pub(super) workflow_id: String,
    pub(super) run_id: String,
    pub(super) state: WorkflowState,
    /// When it was started, as visibility has it; ids are made of what history has.
    pub(super) started_at: Option<SystemTime>,
    pub(super) closed_at: Option<SystemTime>,
}

/// Some of the runs that a query finds.
pub(super) struct ClosedRuns {
    pub(super) runs: Vec<ClosedRun>,
    /// Asks for the next ones; empty at the end.
    pub(super) next_page_token: Vec<u8>,
}

/// A part of a history, in order.
pub(super) struct HistoryPage {
    pub(super) events: Vec<HistoryEvent>,
    /// Asks for the next part; empty at the end.
    pub(super) next_page_token: Vec<u8>,
}

/// Asks the server that a [`Source`] leads to.
pub(super) struct Server {
    source: Source,
}

impl Server {
    pub(super) fn connected(connection: Connection) -> Self {
        Self {
            source: Source::given(connection),
        }
    }

    /// The server that the user's client connects to, if that is known.
    #[cfg(feature = "plugin")]
    pub(super) fn of(options: Option<ConnectionOptions>) -> Self {
        Self {
            source: Source::options(options),
        }
    }

    #[cfg(feature = "plugin")]
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn is_known(&self) -> bool {
        self.source.is_known()
    }

    pub(super) async fn connection(&self) -> Result<Connection, RequestError> {
        self.source.connection().await
    }

    /// One question, within bounds.
    pub(super) async fn ask<T>(
        &self,
        ask: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        let answer = within_bounds(ask).await;
        self.source.answered(&answer);
        answer
    }

    /// Lists closed runs that a visibility query finds, newest first. Cancel safe.
    pub(super) async fn closed_runs(
        &self,
        namespace: &str,
        query: &str,
        page_size: u32,
        next_page_token: Vec<u8>,
    ) -> Result<ClosedRuns, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = ListWorkflowExecutionsRequest {
                namespace: namespace.to_owned(),
                page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
                next_page_token,
                query: query.to_owned(),
            };
            let response = service
                .list_workflow_executions(request.into_request())
                .await?
                .into_inner();
            let runs = response.executions.into_iter().filter_map(|run| {
                let state = closed_state(run.status())?;
                let started_at = time(run.start_time);
                let closed_at = time(run.close_time);
                let execution = run.execution?;
                Some(ClosedRun {
                    workflow_id: execution.workflow_id,
                    run_id: execution.run_id,
                    state,
                    started_at,
                    closed_at,
                })
            });
            Ok(ClosedRuns {
                runs: runs.collect(),
                next_page_token: response.next_page_token,
            })
        };
        self.ask(ask).await
    }

    /// Reads a part of a run's history. Cancel safe.
    pub(super) async fn history_page(
        &self,
        namespace: &str,
        workflow_id: &str,
        run_id: &str,
        page_size: u32,
        next_page_token: Vec<u8>,
    ) -> Result<HistoryPage, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = GetWorkflowExecutionHistoryRequest {
                namespace: namespace.to_owned(),
                execution: Some(WorkflowExecution {
                    workflow_id: workflow_id.to_owned(),
                    run_id: run_id.to_owned(),
                }),
                maximum_page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
                next_page_token,
                ..GetWorkflowExecutionHistoryRequest::default()
            };
            match service
                .get_workflow_execution_history(request.into_request())
                .await
            {
                Ok(response) => {
                    let response = response.into_inner();
                    Ok(HistoryPage {
                        events: response.history.unwrap_or_default().events,
                        next_page_token: response.next_page_token,
                    })
                }
                Err(status) if status.code() == Code::NotFound => Err(RequestError::Gone),
                Err(status) => Err(status.into()),
            }
        };
        self.ask(ask).await
    }
}

async fn within_bounds<T>(
    ask: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    tokio::time::timeout(REQUEST_TIMEOUT, ask)
        .await
        .map_err(|_| RequestError::TimedOut)?
}

impl fmt::Debug for Server {
    // Connection options hold keys and certificates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("known", &self.is_known())
            .finish_non_exhaustive()
    }
}

/// The state in which an event says that the server closed a run; none while the run is open.
pub(super) fn closed_state(status: WorkflowExecutionStatus) -> Option<WorkflowState> {
    match status {
        WorkflowExecutionStatus::Completed => Some(WorkflowState::Completed),
        WorkflowExecutionStatus::Failed => Some(WorkflowState::Failed),
        WorkflowExecutionStatus::Canceled => Some(WorkflowState::Cancelled),
        WorkflowExecutionStatus::Terminated => Some(WorkflowState::Terminated),
        WorkflowExecutionStatus::ContinuedAsNew => Some(WorkflowState::ContinuedAsNew),
        WorkflowExecutionStatus::TimedOut => Some(WorkflowState::TimedOut),
        WorkflowExecutionStatus::Unspecified
        | WorkflowExecutionStatus::Running
        | WorkflowExecutionStatus::Paused => None,
    }
}
