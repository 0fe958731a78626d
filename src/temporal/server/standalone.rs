//! Asking the server about standalone activities, which a client started without a workflow. Knows
//! requests alone.

use super::{Server, open::Page};
use crate::temporal::request_error::RequestError;
use crate::temporal::time::time;
use std::time::SystemTime;
use temporalio_client::tonic::{Code, IntoRequest as _};
use temporalio_common::protos::temporal::api::{
    activity::v1::{ActivityExecutionInfo, activity_execution_outcome},
    failure::v1::Failure,
    workflowservice::v1::{DescribeActivityExecutionRequest, ListActivityExecutionsRequest},
};

/// A standalone activity, as lists name it.
pub(in crate::temporal) struct StandaloneActivity {
    pub(in crate::temporal) activity_id: String,
    pub(in crate::temporal) run_id: String,
    pub(in crate::temporal) closed_at: Option<SystemTime>,
}

/// How a standalone activity stands.
pub(in crate::temporal) struct StandaloneDescription {
    pub(in crate::temporal) info: ActivityExecutionInfo,
    /// How it failed in the end, if it did.
    pub(in crate::temporal) failure: Option<Failure>,
}

impl Server {
    /// Lists standalone activities that a visibility query finds; of closed ones the newest first. A
    /// server that knows none has none. Cancel safe.
    pub(in crate::temporal) async fn standalone_activities(
        &self,
        namespace: &str,
        query: &str,
        page_size: u32,
        next_page_token: Vec<u8>,
    ) -> Result<Page<StandaloneActivity>, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = ListActivityExecutionsRequest {
                namespace: namespace.to_owned(),
                page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
                next_page_token,
                query: query.to_owned(),
            };
            let response = match service
                .list_activity_executions(request.into_request())
                .await
            {
                Ok(response) => response.into_inner(),
                Err(status) if status.code() == Code::Unimplemented => {
                    return Ok(Page {
                        items: Vec::new(),
                        next_page_token: Vec::new(),
                    });
                }
                Err(status) => return Err(status.into()),
            };
            let activities = response.executions.into_iter();
            Ok(Page {
                items: activities
                    .map(|activity| StandaloneActivity {
                        activity_id: activity.activity_id,
                        run_id: activity.run_id,
                        closed_at: time(activity.close_time),
                    })
                    .collect(),
                next_page_token: response.next_page_token,
            })
        };
        self.ask(ask).await
    }

    /// Asks how a standalone activity stands. Cancel safe.
    pub(in crate::temporal) async fn describe_standalone(
        &self,
        namespace: &str,
        activity: &StandaloneActivity,
    ) -> Result<StandaloneDescription, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = DescribeActivityExecutionRequest {
                namespace: namespace.to_owned(),
                activity_id: activity.activity_id.clone(),
                run_id: activity.run_id.clone(),
                include_outcome: true,
                include_last_failure: true,
                ..DescribeActivityExecutionRequest::default()
            };
            let response = match service
                .describe_activity_execution(request.into_request())
                .await
            {
                Ok(response) => response.into_inner(),
                Err(status) if status.code() == Code::NotFound => return Err(RequestError::Gone),
                Err(status) => return Err(status.into()),
            };
            let failure = response.outcome.and_then(|outcome| match outcome.value? {
                activity_execution_outcome::Value::Failure(failure) => Some(failure),
                activity_execution_outcome::Value::Result(_) => None,
            });
            Ok(StandaloneDescription {
                info: response.info.ok_or(RequestError::Gone)?,
                failure,
            })
        };
        self.ask(ask).await
    }
}
