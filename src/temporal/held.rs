//! What becomes of events that are held: one pure function that looks at what is held and at what the
//! server's history says. Nothing here asks, stores or waits.

use super::task::Evidence;
use crate::{
    event::{Event, LifecycleEvent, WorkflowState},
    journal::{Held, HoldKey},
};

/// What is held of a workflow task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldTask {
    pub(super) key: HoldKey,
    pub(super) evidence: Evidence,
    /// How the task ended the run, if it did.
    pub(super) end: Option<WorkflowState>,
}

impl HeldTask {
    /// What the journal holds, read again; none if it does not say which task it was.
    pub(super) fn read(held: &Held) -> Option<Self> {
        Some(Self {
            key: held.key.clone(),
            evidence: held.evidence.parse().ok()?,
            end: find_end(&held.records).map(|end| end.metadata.workflow_state),
        })
    }
}

/// The `workflow_end` among what is held: it was put there last.
fn find_end(records: &[String]) -> Option<Event> {
    records
        .iter()
        .rev()
        .filter_map(|json| Event::from_json(json).ok())
        .find(is_end)
}

pub(super) fn is_end(event: &Event) -> bool {
    event.is_lifecycle() && event.event_name == LifecycleEvent::WorkflowEnd.as_str()
}

/// What the server says of one execution of a workflow task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskFate {
    /// Its completion is in history.
    Accepted,
    /// History goes on without it.
    Rejected,
    /// A worker has it now.
    UnderWay,
    /// Nothing is known of it. That is so of an execution that was not accepted, and for a moment of one
    /// that is under way for the sake of an update.
    Absent,
}

/// What the server says of a run and of one of its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Testimony {
    /// The server knows the run.
    Of {
        fate: TaskFate,
        /// How the run was closed, if it was.
        closed: Option<WorkflowState>,
    },
    /// The server knows the run no more: its retention is over, or it was deleted.
    Gone,
}

/// What is to be done with what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it is true.
    Release,
    /// All of it is true but the end: the task was accepted, and the run goes on or was ended otherwise.
    ReleaseWithoutEnd,
    /// None of it is true but that the run ended, and otherwise than it says.
    CorrectEnd(WorkflowState),
    /// None of it is true.
    Discard,
    /// It is not known yet.
    AskAgain,
    /// It cannot be known any more.
    Keep,
}

/// Decides. `is_patient`: the completion may still be on its way to the server.
pub(super) fn verdict(
    end: Option<&WorkflowState>,
    testimony: &Testimony,
    is_patient: bool,
) -> Verdict {
    let Testimony::Of { fate, closed } = testimony else {
        return Verdict::Keep;
    };
    match (fate, end, closed) {
        (TaskFate::UnderWay, _, _) => Verdict::AskAgain,
        (TaskFate::Absent, _, None) if is_patient => Verdict::AskAgain,
        (TaskFate::Accepted, None, _) => Verdict::Release,
        // The run went on behind the task, and no worker reports how it ended then.
        (
            TaskFate::Accepted,
            Some(told),
            Some(actual @ (WorkflowState::Terminated | WorkflowState::TimedOut)),
        ) if told != actual => Verdict::CorrectEnd(actual.clone()),
        (TaskFate::Accepted, Some(told), Some(actual)) if told == actual => Verdict::Release,
        (TaskFate::Accepted, Some(_), Some(_)) => Verdict::ReleaseWithoutEnd,
        // A heartbeat of the task was accepted; the end would have come with a later one.
        (TaskFate::Accepted, Some(_), None) if is_patient => Verdict::AskAgain,
        (TaskFate::Accepted, Some(_), None) => Verdict::ReleaseWithoutEnd,
        // No worker reports these, and this one has the most to say of the run.
        (
            TaskFate::Rejected | TaskFate::Absent,
            Some(_),
            Some(actual @ (WorkflowState::Terminated | WorkflowState::TimedOut)),
        ) => Verdict::CorrectEnd(actual.clone()),
        // What another execution came to is reported by its own worker, or found by the reconciler.
        (TaskFate::Rejected | TaskFate::Absent, _, _) => Verdict::Discard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskFate::{Absent, Accepted, Rejected, UnderWay};
    use Verdict::{AskAgain, CorrectEnd, Discard, Keep, Release, ReleaseWithoutEnd};
    use WorkflowState::{Completed, Failed, Terminated};

    #[test]
    fn the_table_of_verdicts() {
        let of = |fate, closed: Option<WorkflowState>| Testimony::Of { fate, closed };
        #[rustfmt::skip]
        let table = [
            // what is held      what the server says           patient  not patient
            (None,               of(Accepted, None),            Release, Release),
            (None,               of(Accepted, Some(Failed)),    Release, Release),
            (None,               of(Rejected, None),            Discard, Discard),
            (None,               of(Rejected, Some(Terminated)), Discard, Discard),
            (None,               of(Absent, None),              AskAgain, Discard),
            (None,               of(Absent, Some(Terminated)),  Discard, Discard),
            (None,               of(UnderWay, None),            AskAgain, AskAgain),
            (None,               Testimony::Gone,               Keep, Keep),
            (Some(Completed),    of(Accepted, Some(Completed)), Release, Release),
            (Some(Completed),    of(Accepted, Some(Terminated)), CorrectEnd(Terminated), CorrectEnd(Terminated)),
            (Some(Completed),    of(Accepted, Some(Failed)),    ReleaseWithoutEnd, ReleaseWithoutEnd),
            (Some(Completed),    of(Accepted, None),            AskAgain, ReleaseWithoutEnd),
            (Some(Completed),    of(Rejected, None),            Discard, Discard),
            (Some(Completed),    of(Rejected, Some(Completed)), Discard, Discard),
            (Some(Completed),    of(Rejected, Some(Terminated)), CorrectEnd(Terminated), CorrectEnd(Terminated)),
            (Some(Completed),    of(Absent, None),              AskAgain, Discard),
            (Some(Completed),    of(Absent, Some(Terminated)),  CorrectEnd(Terminated), CorrectEnd(Terminated)),
            (Some(Completed),    of(UnderWay, None),            AskAgain, AskAgain),
            (Some(Completed),    Testimony::Gone,               Keep, Keep),
        ];
        for (end, testimony, patient, not_patient) in table {
            assert_eq!(
                verdict(end.as_ref(), &testimony, true),
                patient,
                "{end:?} {testimony:?}"
            );
            assert_eq!(
                verdict(end.as_ref(), &testimony, false),
                not_patient,
                "{end:?} {testimony:?}"
            );
        }
    }
}
