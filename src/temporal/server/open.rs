//! Asking the server about runs that go on: which they are, and what waits in them. Knows requests
//! alone.

use super::{HistoryPage, Server};
use crate::temporal::request_error::RequestError;
use temporalio_client::tonic::{Code, IntoRequest as _};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution,
    workflow::v1::PendingActivityInfo,
    workflowservice::v1::{
        DescribeWorkflowExecutionRequest, GetWorkflowExecutionHistoryReverseRequest,
        ListWorkflowExecutionsRequest,
    },
};

/// A run that goes on.
pub(in crate::temporal) struct OpenRun {
    pub(in crate::temporal) workflow_id: String,
    pub(in crate::temporal) run_id: String,
    pub(in crate::temporal) workflow_type: String,
}

/// Some of what a query finds.
pub(in crate::temporal) struct Page<T> {
    pub(in crate::temporal) items: Vec<T>,
    /// Asks for the next ones; empty at the end.
    pub(in crate::temporal) next_page_token: Vec<u8>,
}

impl Server {
    /// Lists runs that a visibility query for open ones finds. Cancel safe.
    pub(in crate::temporal) async fn open_runs(
        &self,
        namespace: &str,
        query: &str,
        page_size: u32,
        next_page_token: Vec<u8>,
    ) -> Result<Page<OpenRun>, RequestError> {
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
                let execution = run.execution?;
                Some(OpenRun {
                    workflow_id: execution.workflow_id,
                    run_id: execution.run_id,
                    workflow_type: run.r#type.unwrap_or_default().name,
                })
            });
            Ok(Page {
                items: runs.collect(),
                next_page_token: response.next_page_token,
            })
        };
        self.ask(ask).await
    }

    /// The activities of a run that have not ended. Cancel safe.
    pub(in crate::temporal) async fn pending_activities(
        &self,
        namespace: &str,
        workflow_id: &str,
        run_id: &str,
    ) -> Result<Vec<PendingActivityInfo>, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = DescribeWorkflowExecutionRequest {
                namespace: namespace.to_owned(),
                execution: Some(WorkflowExecution {
                    workflow_id: workflow_id.to_owned(),
                    run_id: run_id.to_owned(),
                }),
            };
            match service
                .describe_workflow_execution(request.into_request())
                .await
            {
                Ok(response) => Ok(response.into_inner().pending_activities),
                Err(status) if status.code() == Code::NotFound => Err(RequestError::Gone),
                Err(status) => Err(status.into()),
            }
        };
        self.ask(ask).await
    }

    /// Reads a part of a run's history, from its end to its beginning. Cancel safe.
    pub(in crate::temporal) async fn history_page_backwards(
        &self,
        namespace: &str,
        workflow_id: &str,
        run_id: &str,
        page_size: u32,
        next_page_token: Vec<u8>,
    ) -> Result<HistoryPage, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = GetWorkflowExecutionHistoryReverseRequest {
                namespace: namespace.to_owned(),
                execution: Some(WorkflowExecution {
                    workflow_id: workflow_id.to_owned(),
                    run_id: run_id.to_owned(),
                }),
                maximum_page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
                next_page_token,
            };
            match service
                .get_workflow_execution_history_reverse(request.into_request())
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
