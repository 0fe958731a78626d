//! Scripts, as the dice fall: each kind of step in each combination, most of them short.

use super::script::{Cancel, End, Local, Remote, Retries, Script, Step};
use fastrand::Rng;

fn one_of<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

fn sometimes<T>(rng: &mut Rng, one_in: usize, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    (rng.usize(..one_in) == 0).then(|| make(rng))
}

/// A script for a workflow that is started from outside.
pub fn script(rng: &mut Rng) -> Script {
    scene(rng, 2, true)
}

/// `depth` is how often children and further runs may follow one another.
fn scene(rng: &mut Rng, depth: usize, hears_signals: bool) -> Script {
    let groups = (0..rng.usize(1..=3))
        .map(|_| {
            let count = one_of(rng, &[1, 1, 1, 2, 3]);
            (0..count)
                .map(|_| step(rng, depth, hears_signals))
                .collect()
        })
        .collect();
    let end = match rng.usize(..10) {
        0 => End::Fail,
        1 | 2 if depth > 0 => End::Again(Box::new(scene(rng, depth - 1, hears_signals))),
        _ => End::Complete,
    };
    Script { groups, end }
}

fn step(rng: &mut Rng, depth: usize, hears_signals: bool) -> Step {
    match rng.usize(..20) {
        0..=7 => Step::Local(local(rng)),
        8 => Step::Race((0..rng.usize(2..=3)).map(|_| local(rng)).collect()),
        9..=11 => Step::Remote(remote(rng)),
        12 | 13 => Step::Timer {
            millis: one_of(rng, &[10, 100, 400]),
        },
        14 if depth > 0 => Step::Child(Box::new(scene(rng, depth - 1, false))),
        14..=16 => Step::Panic {
            percent: one_of(rng, &[30, 60]),
        },
        17 | 18 if hears_signals => Step::Signals(rng.u32(1..=2)),
        _ => Step::Local(local(rng)),
    }
}

fn cancel(rng: &mut Rng) -> Cancel {
    one_of(rng, &[Cancel::Try, Cancel::Wait, Cancel::Abandon])
}

fn retries(rng: &mut Rng) -> Retries {
    Retries {
        attempts: rng.u32(1..=4),
        // The last one is longer than a workflow task.
        pause_millis: one_of(rng, &[5, 5, 50, 300, 1300]),
    }
}

pub fn local(rng: &mut Rng) -> Local {
    // Some need the workflow task to be prolonged.
    let millis = one_of(rng, &[0, 0, 0, 10, 10, 80, 80, 400, 1800]);
    Local {
        named: rng.bool(),
        by_hand: one_of(rng, &[0, 1, 1, 2]),
        millis,
        fails_percent: one_of(rng, &[0, 0, 50]),
        panics_percent: one_of(rng, &[0, 0, 0, 30]),
        stubborn: rng.usize(..4) == 0,
        retries: retries(rng),
        start_to_close_millis: sometimes(rng, 6, |_| millis / 2 + 50).unwrap_or(10_000),
        schedule_to_close_millis: sometimes(rng, 8, |rng| rng.u64(100..2000)),
        timer_threshold_millis: sometimes(rng, 3, |_| 200),
        cancel: cancel(rng),
        cancel_after_millis: sometimes(rng, 8, |rng| rng.u64(10..500)),
    }
}

fn remote(rng: &mut Rng) -> Remote {
    let millis = one_of(rng, &[0, 20, 200, 1000]);
    Remote {
        millis,
        fails_percent: one_of(rng, &[0, 0, 50]),
        retries: retries(rng),
        // Short enough that the attempt of a worker that was killed comes again soon.
        start_to_close_millis: sometimes(rng, 6, |_| millis / 2 + 100).unwrap_or(3000),
        heartbeat_millis: sometimes(rng, 2, |_| 800),
        cancel: one_of(rng, &[Cancel::Try, Cancel::Wait]),
        cancel_after_millis: sometimes(rng, 8, |rng| rng.u64(10..500)),
    }
}

/// Leaves out what makes a workflow task be executed again.
pub fn appease(script: &mut Script) {
    for group in &mut script.groups {
        group.retain(|step| !matches!(step, Step::Panic { .. } | Step::Signals(_)));
        for step in group {
            if let Step::Child(child) = step {
                appease(child);
            }
        }
    }
    if let End::Again(next) = &mut script.end {
        appease(next);
    }
}

/// Whether a run of the script waits for signals.
pub fn waits_for_signals(script: &Script) -> bool {
    let waits = |step: &Step| matches!(step, Step::Signals(_));
    script.groups.iter().flatten().any(waits)
        || matches!(&script.end, End::Again(next) if waits_for_signals(next))
}

/// The ids of the activities that a reset may meet.
pub fn remote_ids(script: &Script) -> Vec<String> {
    let mut ids = Vec::new();
    for (group, steps) in script.groups.iter().enumerate() {
        for (number, step) in steps.iter().enumerate() {
            if matches!(step, Step::Remote(_)) {
                ids.push(format!("{group}.{number}"));
            }
        }
    }
    ids
}
