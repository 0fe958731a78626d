//! Activity attempts that ended while their run is open: those whose worker died, and those that failed before any of
//! their code ran. Reads what the server says about pending activities, and bounds how often it asks.

use super::{Pass, ReconcileError, Reconciled, Reconciler, asking::server_error, ranges::before};
use crate::{
    event::{ActivityStatus, Execution},
    record::Draft,
    store::EventStore,
    temporal::{
        attempt::{self, AttemptEnd, KnownActivity},
        history,
        request_error::RequestError,
        server::OpenRun,
        time::time,
    },
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};
use temporalio_common::protos::temporal::api::{
    failure::v1::Failure, history::v1::history_event::Attributes, workflow::v1::PendingActivityInfo,
};

/// How many attempts are remembered, so that each costs one look into its history.
const REMEMBERED: usize = 10_000;

/// How far the reconciler came among what is open.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Where the next pass goes on; empty at the beginning.
    place: Mutex<Vec<u8>>,
    looked_at: Mutex<HashSet<String>>,
}

impl Open {
    /// Takes the place; who comes to an end or fails begins anew.
    pub(super) fn take_place(&self) -> Vec<u8> {
        std::mem::take(&mut *self.place.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn keep_place(&self, place: Vec<u8>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    pub(super) fn was_looked_at(&self, attempt: &str) -> bool {
        let looked_at = self.looked_at.lock();
        looked_at
            .unwrap_or_else(PoisonError::into_inner)
            .contains(attempt)
    }

    pub(super) fn remember(&self, attempt: String) {
        let looked_at = self.looked_at.lock();
        let mut looked_at = looked_at.unwrap_or_else(PoisonError::into_inner);
        // Forgetting costs a look into a history, and nothing else.
        if looked_at.len() >= REMEMBERED {
            looked_at.clear();
        }
        looked_at.insert(attempt);
    }
}

/// The attempt before the one that goes on, or waits.
struct EndedAttempt {
    attempt: u32,
    failure: Failure,
    at: Option<SystemTime>,
}

impl EndedAttempt {
    fn of(pending: PendingActivityInfo) -> Option<(String, Self)> {
        let at = ended_at(&pending);
        let ended = Self {
            attempt: u32::try_from(pending.attempt).ok()?.checked_sub(1)?,
            failure: pending.last_failure?,
            at,
        };
        // An activity that was reset keeps the failure of an attempt of before.
        (ended.attempt > 0).then_some((pending.activity_id, ended))
    }

    fn drafts(&self, store: &EventStore, activity: &KnownActivity) -> Vec<Draft> {
        let end = AttemptEnd::failed(store, &self.failure, self.at);
        attempt::earlier(store, activity, self.attempt, &end)
    }
}

/// When the last attempt ended. Of one that timed out the server tells only for when it scheduled the
/// next one: the time of completion, and the interval that is counted from it, are those of an attempt
/// before, or of 1970.
fn ended_at(pending: &PendingActivityInfo) -> Option<SystemTime> {
    if attempt::ended_in(pending.last_failure.as_ref()?) != ActivityStatus::TimedOut {
        return time(pending.last_attempt_complete_time);
    }
    match pending.next_attempt_schedule_time {
        Some(_) => None,
        None => time(pending.scheduled_time),
    }
}

impl Reconciler {
    /// Looks at some of the open runs, each pass at those that follow.
    pub(super) async fn look_at_open_runs(&self) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        let mut found = Reconciled::default();
        let mut left = shared.options.open_runs;
        if left == 0 || !shared.options.activities || !shared.store.lifecycle().activity {
            return Ok(found);
        }
        let mut query = "ExecutionStatus = 'Running'".to_owned();
        if let Some(filter) = shared.options.query() {
            query = format!("{query} AND {filter}");
        }
        let mut place = shared.open_runs.take_place();
        while left > 0 {
            let page_size = left.min(shared.options.page_size.max(1));
            let page = self
                .request(|| {
                    let place = place.clone();
                    shared
                        .server
                        .open_runs(&shared.namespace, &query, page_size, place)
                })
                .await
                .map_err(server_error)?;
            left = left.saturating_sub(page_size);
            for run in page.items {
                self.look_at_open_run(&run, &mut found).await?;
            }
            place = page.next_page_token;
            if place.is_empty() {
                break;
            }
        }
        shared.open_runs.keep_place(place);
        Ok(found)
    }

    async fn look_at_open_run(
        &self,
        run: &OpenRun,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        let shared = &self.shared;
        let pending = self
            .request(|| {
                shared
                    .server
                    .pending_activities(&shared.namespace, &run.workflow_id, &run.run_id)
            })
            .await;
        let pending = match pending {
            Err(RequestError::Gone) => return Ok(()),
            pending => pending.map_err(server_error)?,
        };
        let key = |activity_id: &str, ended: &EndedAttempt| {
            format!("{} {} {activity_id}", run.run_id, ended.attempt)
        };
        // The worker of an attempt that timed out may still come to an end of its own, and say more.
        let latest = before(SystemTime::now(), shared.options.grace);
        let mut ended: HashMap<String, EndedAttempt> = pending
            .into_iter()
            .filter_map(EndedAttempt::of)
            .filter(|(_, ended)| ended.at.is_some_and(|at| at <= latest))
            .filter(|(id, ended)| !shared.open_runs.was_looked_at(&key(id, ended)))
            .collect();
        let looked_at: Vec<String> = ended.iter().map(|(id, ended)| key(id, ended)).collect();
        let drafts = self.ended_attempts(run, &mut ended).await?;
        self.add(drafts, Pass::Routine, found).await?;
        for attempt in looked_at {
            shared.open_runs.remember(attempt);
        }
        Ok(())
    }

    /// The events of attempts that ended. Only history has what their activities were scheduled with,
    /// and when; mostly not long ago, so it is read from its end.
    async fn ended_attempts(
        &self,
        run: &OpenRun,
        ended: &mut HashMap<String, EndedAttempt>,
    ) -> Result<Vec<Draft>, ReconcileError> {
        let shared = &self.shared;
        let execution = Execution {
            namespace: shared.namespace.clone(),
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id.clone(),
        };
        let mut drafts = Vec::new();
        let mut page_token = Vec::new();
        while !ended.is_empty() {
            let page = self
                .request(|| {
                    shared.server.history_page_backwards(
                        &shared.namespace,
                        &run.workflow_id,
                        &run.run_id,
                        shared.options.page_size,
                        page_token.clone(),
                    )
                })
                .await;
            let page = match page {
                Err(RequestError::Gone) => break,
                page => page.map_err(server_error)?,
            };
            for event in page.events {
                if let Some(Attributes::ActivityTaskScheduledEventAttributes(scheduled)) =
                    event.attributes
                    // An id that was used before is another activity's, further back.
                    && let Some(ended) = ended.remove(&scheduled.activity_id)
                {
                    let workflow_type = Some(run.workflow_type.as_str().into());
                    let at = time(event.event_time);
                    let activity = history::scheduled(&execution, workflow_type, scheduled, at);
                    drafts.extend(ended.drafts(&shared.store, &activity));
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(drafts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};
    use temporalio_common::protos::temporal::api::failure::v1::failure::FailureInfo;

    #[test]
    fn an_attempt_that_timed_out_ended_when_the_next_one_was_due() {
        let due = UNIX_EPOCH + Duration::from_secs(1_795_493_593);
        let before = due - Duration::from_secs(5);
        let waiting = PendingActivityInfo {
            attempt: 3,
            scheduled_time: Some(due.into()),
            next_attempt_schedule_time: Some(due.into()),
            // Of the first attempt, which failed.
            last_attempt_complete_time: Some(before.into()),
            last_failure: Some(Failure {
                failure_info: Some(FailureInfo::TimeoutFailureInfo(Default::default())),
                ..Failure::default()
            }),
            ..PendingActivityInfo::default()
        };
        assert_eq!(ended_at(&waiting), None);
        let is_due = PendingActivityInfo {
            next_attempt_schedule_time: None,
            ..waiting.clone()
        };
        assert_eq!(ended_at(&is_due), Some(due));
        let failed = PendingActivityInfo {
            last_failure: Some(Failure::default()),
            ..waiting
        };
        assert_eq!(ended_at(&failed), Some(before));
    }
}
