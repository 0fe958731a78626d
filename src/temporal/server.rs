//! Asking the server: how a run stands, which runs closed, what their histories say. Knows how to
//! reach the server, and nothing of the events that are made of its answers.

mod open;
mod standalone;

pub(super) use open::OpenRun;
pub(super) use standalone::{StandaloneActivity, StandaloneDescription};

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use temporalio_client::{
    Connection, ConnectionOptions,
    tonic::{self, Code, IntoRequest},
};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution,
    enums::v1::WorkflowExecutionStatus,
    history::v1::HistoryEvent,
    workflowservice::v1::{GetWorkflowExecutionHistoryRequest, ListWorkflowExecutionsRequest},
};

use crate::event::WorkflowState;

/// One question may take this long; then the server counts as unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClosedRun {
    pub(super) workflow_id: String,
    pub(super) run_id: String,
    pub(super) state: WorkflowState,
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

/// Why the server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(
        "no connection to the server is known; connect with Client::connect, or give the plugin one"
    )]
    NotConnected,
    #[error("the server cannot be reached: {0}")]
    Connect(#[from] temporalio_client::errors::ClientConnectError),
    #[error("the server did not answer within {REQUEST_TIMEOUT:?}")]
    TimedOut,
    #[error("the server does not know the run any more")]
    Gone,
    #[error("the server refused: {0}")]
    Refused(#[from] tonic::Status),
}

impl RequestError {
    /// Whether asking again can help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NotConnected | Self::Gone => false,
            Self::Connect(_) | Self::TimedOut => true,
            Self::Refused(status) => matches!(
                status.code(),
                Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unknown
                    | Code::Cancelled
            ),
        }
    }
}

#[cfg_attr(not(feature = "plugin"), allow(dead_code))]
enum Source {
    Unknown,
    Options(Box<ConnectionOptions>),
    Connection(Connection),
}

/// The way to the server, as far as it is known. Connects on the first question.
pub(super) struct Server {
    source: Mutex<Source>,
}

impl Server {
    #[cfg(feature = "plugin")]
    pub(super) fn unknown() -> Self {
        Self {
            source: Mutex::new(Source::Unknown),
        }
    }

    pub(super) fn connected(connection: Connection) -> Self {
        Self {
            source: Mutex::new(Source::Connection(connection)),
        }
    }

    fn source(&self) -> std::sync::MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how the user's client connects; a connection that is known already stays.
    #[cfg(feature = "plugin")]
    pub(super) fn learn_options(&self, options: &ConnectionOptions) {
        let mut source = self.source();
        if !matches!(*source, Source::Connection(_)) {
            *source = Source::Options(Box::new(options.clone()));
        }
    }

    #[cfg(feature = "plugin")]
    pub(super) fn learn_connection(&self, connection: Connection) {
        *self.source() = Source::Connection(connection);
    }

    pub(super) fn is_known(&self) -> bool {
        !matches!(*self.source(), Source::Unknown)
    }

    /// The identity that the client reports to the server, if it is known and set.
    #[cfg(feature = "plugin")]
    pub(super) fn identity(&self) -> Option<String> {
        let identity = match &*self.source() {
            Source::Unknown => return None,
            Source::Options(options) => options.identity.clone(),
            Source::Connection(connection) => connection.identity().to_owned(),
        };
        Some(identity).filter(|identity| !identity.is_empty())
    }

    /// Host and port of the server, if they are known.
    #[cfg(feature = "plugin")]
    pub(super) fn address(&self) -> Option<(String, u16)> {
        match &*self.source() {
            Source::Options(options) => Some((
                options.target.host_str()?.to_owned(),
                options.target.port_or_known_default()?,
            )),
            _ => None,
        }
    }

    pub(super) async fn connection(&self) -> Result<Connection, RequestError> {
        let options = match &*self.source() {
            Source::Unknown => return Err(RequestError::NotConnected),
            Source::Connection(connection) => return Ok(connection.clone()),
            Source::Options(options) => options.clone(),
        };
        // Two questions at once may both connect; the second connection is dropped unused.
        let connection = Connection::connect(*options).await?;
        *self.source() = Source::Connection(connection.clone());
        Ok(connection)
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
                let closed_at = run
                    .close_time
                    .and_then(|time| SystemTime::try_from(time).ok());
                let execution = run.execution?;
                Some(ClosedRun {
                    workflow_id: execution.workflow_id,
                    run_id: execution.run_id,
                    state,
                    closed_at,
                })
            });
            Ok(ClosedRuns {
                runs: runs.collect(),
                next_page_token: response.next_page_token,
            })
        };
        within_bounds(ask).await
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
        within_bounds(ask).await
    }
}

pub(super) async fn within_bounds<T>(
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
