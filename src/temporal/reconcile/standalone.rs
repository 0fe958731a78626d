//! Standalone activities: those that closed, and some of those that are open. Knows how they are listed
//! and described, and bounds how often it asks.

use super::{
    Pass, ReconcileError, Reconciled, Reconciler, asking::server_error, passes::Kind,
    ranges::before,
};
use crate::temporal::{
    request_error::RequestError,
    server::{StandaloneActivity, StandaloneDescription},
    standalone,
};
use std::{
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

impl Reconciler {
    /// Whether standalone activities are looked at at all.
    pub(super) fn looks_at_standalone(&self) -> bool {
        let shared = &self.shared;
        let options = &shared.options;
        // A filter for runs says nothing of them.
        let are_meant = options.filter.is_none() || options.standalone_filter.is_some();
        are_meant && options.activities && shared.store.lifecycle().activity
    }

    /// Looks at the standalone activities that closed in a time range.
    pub(super) async fn reconcile_standalone(
        &self,
        closed: Range<SystemTime>,
        pass: Pass,
    ) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        let query = self.query(Kind::StandaloneActivities, &closed);
        let mut found = Reconciled::default();
        let mut page_token = Vec::new();
        loop {
            let page = self
                .request(|| {
                    shared.server.standalone_activities(
                        &shared.namespace,
                        &query,
                        shared.options.page_size,
                        page_token.clone(),
                    )
                })
                .await
                .map_err(server_error)?;
            for activity in page.items {
                let closed_at = activity.closed_at.unwrap_or(UNIX_EPOCH);
                let is_done = self
                    .seen(Kind::StandaloneActivities)
                    .contains(closed_at, &activity.run_id);
                if is_done && pass != Pass::Backfill {
                    continue;
                }
                found.standalone_activities += 1;
                if let Some(description) = self.describe(&activity).await? {
                    let drafts = standalone::read(&shared.store, &shared.namespace, description);
                    self.add(drafts, pass, &mut found).await?;
                }
                self.seen(Kind::StandaloneActivities)
                    .remember(closed_at, &activity.run_id);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Looks at some of the open standalone activities, each pass at those that follow.
    pub(super) async fn look_at_open_standalone(&self) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        let mut found = Reconciled::default();
        let mut query = "ExecutionStatus = 'Running'".to_owned();
        if let Some(filter) = shared.options.standalone_query() {
            query = format!("{query} AND {filter}");
        }
        let mut left = shared.options.open_runs;
        let mut place = shared.open_standalone.take_place();
        while left > 0 {
            let page_size = left.min(shared.options.page_size.max(1));
            let page = self
                .request(|| {
                    let place = place.clone();
                    shared
                        .server
                        .standalone_activities(&shared.namespace, &query, page_size, place)
                })
                .await
                .map_err(server_error)?;
            left = left.saturating_sub(page_size);
            for activity in page.items {
                self.look_at_open_activity(&activity, &mut found).await?;
            }
            place = page.next_page_token;
            if place.is_empty() {
                break;
            }
        }
        shared.open_standalone.keep_place(place);
        Ok(found)
    }

    async fn look_at_open_activity(
        &self,
        activity: &StandaloneActivity,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        let shared = &self.shared;
        let Some(description) = self.describe(activity).await? else {
            return Ok(());
        };
        let info = &description.info;
        let latest = before(SystemTime::now(), shared.options.grace);
        let is_due = standalone::ended_at(info).is_some_and(|at| at <= latest);
        let attempt = format!("{} {}", activity.run_id, info.attempt);
        // What closed since it was listed has its turn among those.
        let is_open = standalone::is_open(info);
        if !is_open || !is_due || shared.open_standalone.was_looked_at(&attempt) {
            return Ok(());
        }
        let drafts = standalone::read(&shared.store, &shared.namespace, description);
        self.add(drafts, Pass::Routine, found).await?;
        shared.open_standalone.remember(attempt);
        Ok(())
    }

    /// None where the server knows it no more.
    async fn describe(
        &self,
        activity: &StandaloneActivity,
    ) -> Result<Option<StandaloneDescription>, ReconcileError> {
        let shared = &self.shared;
        let description = self
            .request(|| {
                shared
                    .server
                    .describe_standalone(&shared.namespace, activity)
            })
            .await;
        match description {
            Err(RequestError::Gone) => Ok(None),
            description => Ok(Some(description.map_err(server_error)?)),
        }
    }
}
