//! Local activities: their truth is the marker in history, and, where the workflow bears witness, each
//! attempt that its accepted execution knew of. What an execution did that the server never accepted did
//! not happen.

use super::{Differences, RunHistory, Source, state_of, witnessed::Witnessed};
use crate::support::{Row, witness::Attempt};
use std::collections::BTreeMap;
use temporalio_common::protos::{
    coresdk::common::extract_local_activity_marker_data,
    temporal::api::{
        failure::v1::{Failure, failure::FailureInfo},
        history::v1::{HistoryEvent, history_event::Attributes},
    },
};

/// The marker in which the SDK's core records a local activity.
const LOCAL_ACTIVITY_MARKER_NAME: &str = "core_local_activity";

/// What a marker says.
pub(super) struct Marker {
    pub(super) activity_type: String,
    pub(super) activity_id: String,
    pub(super) attempt: u32,
    pub(super) failure: Option<Failure>,
    /// The activity goes on after a timer, and workflow code hears nothing of this attempt.
    pub(super) goes_on: bool,
}

impl Marker {
    /// It was given up, in this word, while it ran or waited to run again: how its code ended, and (0, or the
    /// first) at which attempt, the marker does not say.
    fn given_up(&self) -> Option<&'static str> {
        match self.failure.as_ref()?.failure_info.as_ref()? {
            FailureInfo::CanceledFailureInfo(_) => Some("cancelled"),
            FailureInfo::TimeoutFailureInfo(_) => Some("timed_out"),
            _ => None,
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up().is_some()
    }
}

pub(super) fn markers(events: &[HistoryEvent]) -> Vec<Marker> {
    let marker = |event: &HistoryEvent| match event.attributes.as_ref()? {
        Attributes::MarkerRecordedEventAttributes(marker)
            if marker.marker_name == LOCAL_ACTIVITY_MARKER_NAME =>
        {
            let local = extract_local_activity_marker_data(&marker.details).unwrap();
            Some(Marker {
                activity_type: local.activity_type,
                activity_id: local.activity_id,
                attempt: local.attempt,
                failure: marker.failure.clone(),
                goes_on: local.backoff.is_some(),
            })
        }
        _ => None,
    };
    events.iter().filter_map(marker).collect()
}

/// The starts and ends of an attempt in the store.
#[derive(Default)]
struct Stored<'a> {
    starts: Vec<&'a Row>,
    ends: Vec<&'a Row>,
}

pub(super) fn compare_locals(
    source: Source,
    run: &RunHistory,
    rows: &[&Row],
    witnessed: &Witnessed,
    name: &str,
    differences: &mut Differences,
) {
    let mut stored: BTreeMap<(&str, u32), Stored<'_>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.is_local()) {
        let id = row.activity_id.as_deref().unwrap_or_default();
        let attempt = stored
            .entry((id, row.attempt.unwrap_or_default()))
            .or_default();
        match row.event_name.as_str() {
            "activity_start" => attempt.starts.push(row),
            "activity_end" => attempt.ends.push(row),
            _ => {}
        }
    }
    let markers = markers(run.own_events());
    for marker in markers.iter().filter(|marker| !marker.is_given_up()) {
        let key = (marker.activity_id.as_str(), marker.attempt);
        let ends = stored.get(&key).map_or(&[][..], |attempt| &attempt.ends);
        let what = format!("activity_end of {name} local activity {key:?}");
        match ends {
            [] => differences.missing.push(what),
            [end] => agree(&what, marker, end, differences),
            more => differences
                .duplicate
                .push(format!("{what}: {}", more.len())),
        }
    }
    for attempt in witnessed.attempts() {
        if began_too_late(attempt, rows, &markers, witnessed) {
            continue;
        }
        let what = format!(
            "{name} local activity {} attempt {}",
            attempt.activity_id, attempt.number
        );
        let found = stored.get(&(attempt.activity_id.as_str(), attempt.number));
        let count = |rows: fn(&Stored<'_>) -> usize| found.map_or(0, rows);
        match count(|found| found.starts.len()) {
            // Nobody but the worker knows of a start.
            0 if source == Source::Lossy => differences.lost.push(format!("start of {what}")),
            0 => differences
                .missing
                .push(format!("activity_start of {what}")),
            1 => {}
            _ => differences
                .duplicate
                .push(format!("activity_start of {what}")),
        }
        let Some(status) = &attempt.status else {
            continue;
        };
        let has_marker = |marker: &Marker| {
            marker.activity_id == attempt.activity_id && marker.attempt == attempt.number
        };
        match found.map_or(&[][..], |found| &found.ends) {
            // Said above.
            [] if markers
                .iter()
                .any(|marker| has_marker(marker) && !marker.is_given_up()) => {}
            [] if source == Source::Lossy => differences.lost.push(format!("end of {what}")),
            [] => differences.missing.push(format!("activity_end of {what}")),
            [end] if !may_be_told(end, attempt, status, &markers, witnessed) => {
                differences.wrong_outcome.push(format!(
                    "activity_end of {what}: {}, it {status}",
                    end.status()
                ))
            }
            [_] => {}
            _ => differences
                .duplicate
                .push(format!("activity_end of {what}")),
        }
    }
    if state_of(run.status).is_none() || run.is_reset() {
        return;
    }
    for ((id, attempt), found) in &stored {
        if !may_have_been(id, *attempt, &markers, witnessed) {
            let starts = found.starts.iter().map(|_| "activity_start");
            let ends = found.ends.iter().map(|_| "activity_end");
            for event in starts.chain(ends) {
                differences.phantom.push(format!(
                    "{event} of {name} local activity {id} attempt {attempt}"
                ));
            }
        }
    }
}

/// Whether an attempt began when its activity had been given up, and only the workflow code had not heard
/// of it yet: nothing of it is stored then but what the reconciler made of the marker.
pub(super) fn began_too_late(
    attempt: &Attempt,
    rows: &[&Row],
    markers: &[Marker],
    witnessed: &Witnessed,
) -> bool {
    let key = (attempt.activity_id.as_str(), attempt.number);
    let is_last = !witnessed
        .attempts()
        .any(|later| later.activity_id == attempt.activity_id && later.number > attempt.number);
    let is_given_up = markers
        .iter()
        .any(|marker| marker.activity_id == attempt.activity_id && marker.is_given_up());
    is_last
        && is_given_up
        && !rows
            .iter()
            .any(|row| row.is_local() && row.attempt_key() == key && !row.is_of_reconciler())
}

/// Whether the end of an attempt is what its code came to; where the activity was given up meanwhile, what the
/// workflow was told; or, of an attempt that was followed by another, that the SDK's core gave it up just before its
/// code came to an end. The code's own end is known before core hears of it, so that only an attempt that core did not
/// wait for has another one. The reconciler knows the marker alone, which names the first attempt of an activity that
/// was given up, whichever ran.
fn may_be_told(
    end: &Row,
    attempt: &Attempt,
    status: &str,
    markers: &[Marker],
    witnessed: &Witnessed,
) -> bool {
    let is_last = !witnessed
        .attempts()
        .any(|later| later.activity_id == attempt.activity_id && later.number > attempt.number);
    let told = markers
        .iter()
        .filter(|marker| marker.activity_id == attempt.activity_id)
        .filter(|marker| match marker.goes_on {
            true => marker.attempt == attempt.number,
            false => is_last,
        })
        .find_map(Marker::given_up);
    let is_given_up = !is_last && end.status() == "timed_out";
    let is_of_marker = end.is_of_reconciler()
        && markers
            .iter()
            .filter(|marker| marker.activity_id == attempt.activity_id)
            .filter(|marker| marker.attempt == attempt.number)
            .any(|marker| marker.given_up() == Some(end.status()));
    end.status() == told.unwrap_or(status) || end.status() == status || is_given_up || is_of_marker
}

/// The failure in the marker is the one in the event.
fn agree(what: &str, marker: &Marker, end: &Row, differences: &mut Differences) {
    let mut wrong = |text: String| differences.wrong_outcome.push(format!("{what}: {text}"));
    let told = end.status();
    let status = match &marker.failure {
        None => "completed",
        Some(_) => "failed",
    };
    if told != status {
        wrong(format!("{told}, the marker says {status}"));
    }
    let activity_type = end.activity_type.as_deref().unwrap_or_default();
    if activity_type != marker.activity_type {
        wrong(format!("{activity_type}, it was {}", marker.activity_type));
    }
    let message = end.data("error")["message"].as_str();
    let recorded = marker
        .failure
        .as_ref()
        .map(|failure| failure.message.as_str());
    // What the SDK makes of a panic is its business.
    let is_panic = end.data("error")["type"].as_str() == Some("Panic");
    if message != recorded && !is_panic {
        wrong(format!("{message:?}, the marker says {recorded:?}"));
    }
}

/// Whether history leaves room for an attempt.
fn may_have_been(id: &str, attempt: u32, markers: &[Marker], witnessed: &Witnessed) -> bool {
    let mut last_witnessed = None;
    for known in witnessed.attempts().filter(|known| known.activity_id == id) {
        if known.number == attempt {
            return true;
        }
        last_witnessed = last_witnessed.max(Some(known.number));
    }
    markers
        .iter()
        .filter(|marker| marker.activity_id == id)
        .any(|marker| {
            // Nobody bore witness to attempts that a timer parted from the result, nor to those of a
            // workflow that bears none.
            let is_earlier =
                (marker.goes_on || last_witnessed.is_none()) && attempt < marker.attempt;
            // It began just as it was given up.
            let is_later = marker.is_given_up() && Some(attempt) > last_witnessed;
            attempt > 0 && (attempt == marker.attempt || is_earlier || is_later)
        })
}
