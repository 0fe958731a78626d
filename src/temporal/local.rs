//! The local activities of one run, from the command that schedules them to the activation that delivers their
//! outcome. Only then is there a workflow task that can record them. Until then their events wait here, and are
//! dropped if the run is evicted. Knows nothing of how a workflow task completes.

use super::{attempt::ended_in, failure, task::LocalOutcome};
use crate::{
    context::Context,
    crash_point::is_left_out,
    event::{ActivityStatus, FailureDetails, lifecycle},
    record::Draft,
    store::EventStore,
};
use std::time::{Instant, SystemTime};
use temporalio_common::protos::coresdk::{
    activity_result::{ActivityResolution, activity_resolution::Status},
    workflow_commands::ScheduleLocalActivity,
};

/// The local activities of one run whose outcome the workflow does not know yet.
#[derive(Debug, Default)]
pub(super) struct LocalActivities(Vec<Scheduled>);

#[derive(Debug)]
struct Scheduled {
    // Workflow code's number for it.
    seq: u32,
    activity_type: String,
    activity_id: String,
    // When, if that tells who executed it.
    scheduled_at: Option<SystemTime>,
    attempts: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    number: u32,
    context: Context,
    began: Instant,
    drafts: Vec<Draft>,
    end: Option<(ActivityStatus, Draft)>,
}

/// Names one attempt of a local activity while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttemptName {
    seq: u32,
    number: u32,
}

impl LocalActivities {
    /// Workflow code asked for a local activity, at this time if that tells who executed it.
    pub(super) fn schedule(
        &mut self,
        command: &ScheduleLocalActivity,
        scheduled_at: Option<SystemTime>,
    ) {
        self.0.push(Scheduled {
            seq: command.seq,
            activity_type: command.activity_type.clone(),
            activity_id: command.activity_id.clone(),
            scheduled_at,
            attempts: Vec::new(),
        });
    }

    /// The outcome of a local activity, as history will know it.
    pub(super) fn outcome(
        &self,
        seq: u32,
        resolution: Option<&ActivityResolution>,
    ) -> LocalOutcome {
        let scheduled = self.0.iter().find(|scheduled| scheduled.seq == seq);
        let status = resolution.and_then(|resolution| resolution.status.as_ref());
        LocalOutcome {
            seq,
            // The marker of one that is cancelled while it waits to be tried again does not say it.
            scheduled_at: scheduled
                .and_then(|scheduled| scheduled.scheduled_at)
                .filter(|_| !matches!(status, Some(Status::Cancelled(_)))),
        }
    }

    /// Whether any is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An attempt begins; none if the run asked for no such activity.
    pub(super) fn begin(&mut self, context: &Context, start: Option<Draft>) -> Option<AttemptName> {
        let frame = context.activity()?;
        let scheduled = self.0.iter_mut().find(|scheduled| {
            *scheduled.activity_id == *frame.activity_id
                && *scheduled.activity_type == *frame.activity_type
                // Of two with one id, the other one has this attempt.
                && scheduled.attempts.iter().all(|it| it.number != frame.attempt)
        })?;
        scheduled.attempts.push(Attempt {
            number: frame.attempt,
            context: context.clone(),
            began: Instant::now(),
            drafts: start.into_iter().collect(),
            end: None,
        });
        Some(AttemptName {
            seq: scheduled.seq,
            number: frame.attempt,
        })
    }

    fn attempt(&mut self, name: AttemptName) -> Option<&mut Attempt> {
        self.0
            .iter_mut()
            .find(|scheduled| scheduled.seq == name.seq)?
            .attempts
            .iter_mut()
            .find(|attempt| attempt.number == name.number)
    }

    /// Keeps an event that the code of an attempt published, and says whether it did: not when nobody waits
    /// for that attempt any more.
    pub(super) fn publish(&mut self, name: AttemptName, draft: Draft) -> bool {
        let attempt = self.attempt(name).filter(|attempt| attempt.end.is_none());
        attempt.map(|attempt| attempt.drafts.push(draft)).is_some()
    }

    /// The code of an attempt came to its end. Nothing happens if nobody waits for it any more.
    pub(super) fn end(&mut self, name: AttemptName, status: ActivityStatus, draft: Draft) {
        if let Some(attempt) = self.attempt(name) {
            attempt.end.get_or_insert((status, draft));
        }
    }

    /// The workflow is told the outcome, which is what the marker will say: what the attempts did becomes
    /// part of the workflow task that is told.
    pub(super) fn resolve(
        &mut self,
        store: &EventStore,
        seq: u32,
        resolution: Option<&ActivityResolution>,
    ) -> Vec<Draft> {
        let Some(index) = self.0.iter().position(|scheduled| scheduled.seq == seq) else {
            return Vec::new();
        };
        let attempts = self.0.remove(index).attempts;
        let last = attempts.len().saturating_sub(1);
        let mut drafts = Vec::new();
        for (index, mut attempt) in attempts.into_iter().enumerate() {
            drafts.append(&mut attempt.drafts);
            let told = if index == last && !is_left_out("outcome") {
                outcome(store, resolution)
            } else {
                None
            };
            drafts.extend(match (attempt.end, told) {
                (Some((status, end)), Some((told, _)))
                    // It failed, and was given up while it waited to be tried again.
                    if status == told || status == ActivityStatus::Failed =>
                {
                    Some(end)
                }
                (_, Some((told, failure))) if store.lifecycle().local_activity => Some(end_of(
                    store,
                    &attempt.context,
                    attempt.began,
                    told,
                    failure.as_ref(),
                )),
                (Some((_, end)), _) => Some(end),
                // The SDK's core gave it up, since nothing else makes it try again without an end.
                (None, None) if store.lifecycle().local_activity => Some(end_of(
                    store,
                    &attempt.context,
                    attempt.began,
                    ActivityStatus::TimedOut,
                    None,
                )),
                (None, _) => None,
            });
        }
        drafts
    }
}

/// What the last attempt came to; none where it is tried again later.
fn outcome(
    store: &EventStore,
    resolution: Option<&ActivityResolution>,
) -> Option<(ActivityStatus, Option<FailureDetails>)> {
    match resolution?.status.as_ref()? {
        Status::Completed(_) => Some((ActivityStatus::Completed, None)),
        Status::Failed(failed) => Some(match &failed.failure {
            Some(failure) => (
                ended_in(failure),
                Some(failure::recorded(store, failure::innermost(failure))),
            ),
            None => (ActivityStatus::Failed, None),
        }),
        Status::Cancelled(_) => Some((ActivityStatus::Cancelled, None)),
        Status::Backoff(_) => None,
    }
}

fn end_of(
    store: &EventStore,
    context: &Context,
    began: Instant,
    status: ActivityStatus,
    failure: Option<&FailureDetails>,
) -> Draft {
    let duration_ms = began.elapsed().as_secs_f64() * 1000.0;
    Draft::lifecycle(
        store.rules(),
        lifecycle::activity_end(status, duration_ms, failure),
        context.clone(),
    )
}
