//! What workflow code and activities publish, one by one: what the workflow bore witness to in the tasks
//! that the server accepted is in the store once, and nothing else is.

use super::{
    Differences, RunHistory, Source,
    locals::{began_too_late, markers},
    state_of,
};
use crate::support::{
    Row,
    witness::{Attempt, BY_HAND, SAID, WITNESS, Witness, by_hand_of},
};
use std::collections::{BTreeMap, BTreeSet};
use temporalio_common::protos::temporal::api::{
    common::v1::Payloads,
    history::v1::{HistoryEvent, history_event::Attributes},
};

/// What the accepted tasks of a run published, as its history says.
#[derive(Default)]
pub(super) struct Witnessed {
    witnesses: Vec<Witness>,
    /// The result of a run that completed: all that it said.
    result: Option<Vec<String>>,
    /// What activities published by hand that any worker may run, of attempts that history knows.
    remote: Vec<(String, u32, String)>,
}

impl Witnessed {
    pub(super) fn of(run: &RunHistory) -> Self {
        let mut witnessed = Self::default();
        let mut scheduled = BTreeMap::new();
        let mut started = BTreeMap::new();
        for event in run.own_events() {
            witnessed.read(event, &mut scheduled, &mut started);
        }
        witnessed
    }

    fn read<'a>(
        &mut self,
        event: &'a HistoryEvent,
        scheduled: &mut BTreeMap<i64, &'a str>,
        started: &mut BTreeMap<i64, u32>,
    ) {
        let ended = match event.attributes.as_ref() {
            Some(Attributes::WorkflowPropertiesModifiedEventAttributes(modified)) => {
                let memo = modified.upserted_memo.as_ref();
                if let Some(payload) = memo.and_then(|memo| memo.fields.get(WITNESS)) {
                    let witness = serde_json::from_slice(&payload.data);
                    self.witnesses.push(witness.expect("a witness is JSON"));
                }
                return;
            }
            Some(Attributes::WorkflowExecutionCompletedEventAttributes(end)) => {
                self.result = decoded(end.result.as_ref());
                return;
            }
            Some(Attributes::ActivityTaskScheduledEventAttributes(activity)) => {
                scheduled.insert(event.event_id, &activity.activity_id);
                return;
            }
            Some(Attributes::ActivityTaskStartedEventAttributes(start)) => {
                let attempt = u32::try_from(start.attempt).unwrap_or_default();
                started.insert(start.scheduled_event_id, attempt);
                return;
            }
            Some(Attributes::ActivityTaskCompletedEventAttributes(end)) => {
                let nonce = decoded::<String>(end.result.as_ref());
                (end.scheduled_event_id, nonce)
            }
            Some(Attributes::ActivityTaskFailedEventAttributes(end)) => {
                let message = end.failure.as_ref().map(|failure| failure.message.as_str());
                let nonce = by_hand_of(message.unwrap_or_default()).next();
                (end.scheduled_event_id, nonce.map(str::to_owned))
            }
            _ => return,
        };
        let (schedule, nonce) = ended;
        if let (Some(id), Some(attempt), Some(nonce)) =
            (scheduled.get(&schedule), started.get(&schedule), nonce)
        {
            self.remote.push(((*id).to_owned(), *attempt, nonce));
        }
    }

    pub(super) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.witnesses.iter().flat_map(|witness| &witness.attempts)
    }

    /// Runs of other workflows bear none, and of their user events nothing is known.
    fn is_there(&self) -> bool {
        !self.witnesses.is_empty()
    }
}

fn decoded<T: serde::de::DeserializeOwned>(payloads: Option<&Payloads>) -> Option<T> {
    serde_json::from_slice(&payloads?.payloads.first()?.data).ok()
}

pub(super) fn compare_published(
    source: Source,
    run: &RunHistory,
    rows: &[&Row],
    witnessed: &Witnessed,
    name: &str,
    differences: &mut Differences,
) {
    // Of what other workflows publish, nothing is known.
    if !witnessed.is_there() && !rows.iter().any(|row| is_of_script(row)) {
        return;
    }
    compare_said(source, run, rows, witnessed, name, differences);
    compare_by_hand(source, run, rows, witnessed, name, differences);
}

fn is_of_script(row: &Row) -> bool {
    row.event_type == SAID || row.event_type == BY_HAND
}

fn count<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts
}

fn compare_said(
    source: Source,
    run: &RunHistory,
    rows: &[&Row],
    witnessed: &Witnessed,
    name: &str,
    differences: &mut Differences,
) {
    let expected = count(
        witnessed
            .witnesses
            .iter()
            .map(|witness| witness.said.as_str()),
    );
    if let Some(result) = &witnessed.result
        && witnessed.is_there()
        && !run.is_reset()
        && count(result.iter().map(String::as_str)) != expected
    {
        differences.wrong_outcome.push(format!(
            "the result of {name} says {result:?}, its history {expected:?}"
        ));
    }
    let mut stored = count(
        rows.iter()
            .filter(|row| row.event_type == SAID)
            .map(|row| row.data("said").as_str().unwrap_or_default()),
    );
    for (said, expected) in expected {
        let what = format!("{SAID} {said:?} of {name}");
        match stored.remove(said).unwrap_or_default() {
            found if found < expected && source == Source::Lossy => differences.lost.push(what),
            found if found < expected => differences.missing.push(what),
            found if found > expected => differences.duplicate.push(what),
            _ => {}
        }
    }
    if state_of(run.status).is_some() && !run.is_reset() {
        for said in stored.into_keys() {
            differences
                .phantom
                .push(format!("{SAID} {said:?} of {name}"));
        }
    }
}

fn compare_by_hand(
    source: Source,
    run: &RunHistory,
    rows: &[&Row],
    witnessed: &Witnessed,
    name: &str,
    differences: &mut Differences,
) {
    // By nonce: the activity and the attempt.
    let mut expected: BTreeMap<&str, (&str, u32)> = BTreeMap::new();
    let markers = markers(run.own_events());
    for attempt in witnessed.attempts() {
        if began_too_late(attempt, rows, &markers, witnessed) {
            continue;
        }
        for nonce in &attempt.by_hand {
            expected.insert(nonce, (&attempt.activity_id, attempt.number));
        }
    }
    for marker in &markers {
        let message = marker
            .failure
            .as_ref()
            .map(|failure| failure.message.as_str());
        for nonce in by_hand_of(message.unwrap_or_default()) {
            expected.insert(nonce, (&marker.activity_id, marker.attempt));
        }
    }
    for (id, attempt, nonce) in &witnessed.remote {
        expected.insert(nonce, (id, *attempt));
    }
    // Attempts of which history says all, and so rules out what it does not say.
    let told: BTreeSet<(&str, u32)> = expected.values().copied().collect();
    let mut stored: BTreeMap<&str, Vec<&&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.event_type == BY_HAND) {
        let nonce = row.data("nonce").as_str().unwrap_or_default();
        stored.entry(nonce).or_default().push(row);
    }
    for (nonce, (id, attempt)) in expected {
        let what = format!("{BY_HAND} {nonce} of {name} activity {id} attempt {attempt}");
        match stored.remove(nonce).as_deref() {
            None if source == Source::Lossy => differences.lost.push(what),
            // Another attempt of this number may have published under its id.
            None if run.reset_activities.contains(id) => {}
            None => differences.missing.push(what),
            Some([row]) if row.attempt_key() == (id, attempt) => {}
            Some([row]) => differences
                .wrong_outcome
                .push(format!("{what}: says {:?}", row.attempt_key())),
            Some(_) => differences.duplicate.push(what),
        }
    }
    if state_of(run.status).is_none() || run.is_reset() {
        return;
    }
    // Of other attempts no more is known than that each publishes once what it publishes.
    let mut remote_seen = BTreeSet::new();
    for (nonce, rows) in stored {
        for row in rows {
            let key = row.attempt_key();
            let what = format!(
                "{BY_HAND} {nonce} of {name} activity {} attempt {}",
                key.0, key.1
            );
            let is_reset = !row.is_local() && run.reset_activities.contains(key.0);
            let is_open = !row.is_local() && (is_reset || !told.contains(&key))
                || row.is_local() && parted(key, &markers, witnessed);
            if !is_open {
                differences.phantom.push(what);
            } else if !row.is_local() && !remote_seen.insert(key) && !is_reset {
                differences.duplicate.push(what);
            }
        }
    }
}

/// Whether a timer parts the attempt from the result, and its marker does not say what it published.
fn parted(key: (&str, u32), markers: &[super::locals::Marker], witnessed: &Witnessed) -> bool {
    let is_witnessed = witnessed
        .attempts()
        .any(|attempt| (attempt.activity_id.as_str(), attempt.number) == key);
    !is_witnessed
        && markers.iter().any(|marker| {
            let has_message = marker
                .failure
                .as_ref()
                .is_some_and(|failure| failure.message.contains(" after "));
            marker.goes_on
                && marker.activity_id == key.0
                && (key.1 < marker.attempt || key.1 == marker.attempt && !has_message)
        })
}
