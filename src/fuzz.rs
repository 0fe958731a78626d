//! Long runs of decoders over mutated documents, for unit tests: valid documents with bytes and values
//! changed, since random bytes get no further than the first character. A few thousand inputs, or as many
//! as `FUZZ_INPUTS` says; `FUZZ_SEED` gives another sequence.

use fastrand::Rng;
use serde_json::{Map, Value};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

/// How many inputs a decoder gets in an ordinary test run.
const INPUTS: u64 = 3_000;
/// How long one input may take; a machine under load stops a thread for seconds.
const LONGEST: Duration = Duration::from_secs(10);
/// How much the process may grow meanwhile, in KiB.
const MAX_GROWTH: u64 = 256 * 1024;
/// How long a mutated document may be.
const MAX_BYTES: usize = 8 * 1024;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.replace('_', "").parse().ok()
}

/// The peak of this process's memory in KiB, where the system tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Calls `check` with a generator of its own for each input. Of an input that panics, it says the number
/// that repeats it; of one that takes too long, too.
pub(crate) fn run(name: &str, mut check: impl FnMut(&mut Rng)) {
    let inputs = number("FUZZ_INPUTS").unwrap_or(INPUTS);
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let began = Instant::now();
    let mut before = None;
    let mut slowest = Duration::ZERO;
    for input in 0..inputs {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ input);
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| check(&mut rng)));
        let took = started.elapsed();
        slowest = slowest.max(took);
        assert!(
            result.is_ok(),
            "{name}: input {input} of FUZZ_SEED={seed} fails"
        );
        assert!(
            took < LONGEST,
            "{name}: input {input} of FUZZ_SEED={seed} takes {took:?}"
        );
        if input == 1_000 {
            // What is set up once is there by now.
            before = peak();
        }
    }
    // The kernel counts roughly: a later peak may be a few pages lower.
    let growth = before
        .zip(peak())
        .map(|(before, now)| now.saturating_sub(before));
    println!(
        "{name}: {inputs} inputs in {:?}, the slowest {slowest:?}, memory grew by {growth:?} KiB",
        began.elapsed()
    );
    assert!(
        growth.is_none_or(|growth| growth < MAX_GROWTH),
        "{name}: {growth:?} KiB"
    );
}

/// What documents have in them, for mutations to put elsewhere.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-0",
    "0",
    "1e999",
    "1e-7",
    "-1",
    "18446744073709551616",
    "9223372036854775808",
    "0.1",
    "\\u0000",
    "\\ud800",
    "\\u001b",
    "\\n",
    "é",
    "\u{202e}",
    "🦀",
    " ",
    "\0",
    "%",
    "%00",
    "%ff",
    "@",
    "/",
    "//",
    "?",
    "#",
    "&",
    "=",
    ";",
    "..",
    "-",
    "00",
    "ff",
    "2026-11-23T07:30:36.123456Z",
    "+262143-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "\"metadata\":{}",
    "\"event_type\":\"x\"",
    "\"workflow_state\":null",
];

/// A document with some bytes changed.
pub(crate) fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.choice(seeds).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(0..=bytes.len());
        let end = (at + rng.usize(0..24)).min(bytes.len());
        match rng.u8(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copied = bytes[at..end].to_vec();
                let to = rng.usize(0..=bytes.len());
                bytes.splice(to..to, copied);
            }
            4 | 5 => {
                let token = rng.choice(TOKENS).copied().unwrap_or_default();
                bytes.splice(at..at, token.bytes());
            }
            6 => {
                let token = rng.choice(TOKENS).copied().unwrap_or_default();
                bytes.splice(at..end, token.bytes());
            }
            7 => {
                let other = rng.choice(seeds).cloned().unwrap_or_default();
                let from = rng.usize(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let repeated = bytes[at..end].to_vec();
                for _ in 0..rng.usize(1..200) {
                    bytes.splice(at..at, repeated.iter().copied());
                    if bytes.len() > MAX_BYTES {
                        break;
                    }
                }
            }
        }
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

/// A JSON text: a document with bytes, or with values changed.
pub(crate) fn json(rng: &mut Rng, seeds: &[Value]) -> String {
    let mut value = rng.choice(seeds).cloned().unwrap_or_default();
    for _ in 0..rng.usize(0..5) {
        change(rng, &mut value, 0);
    }
    let text = value.to_string();
    if rng.u8(0..3) > 0 {
        return text;
    }
    String::from_utf8_lossy(&mutated(rng, &[text.into_bytes()])).into_owned()
}

/// Changes something somewhere in a value.
fn change(rng: &mut Rng, value: &mut Value, depth: usize) {
    let inner = match value {
        Value::Object(fields) if !fields.is_empty() => {
            let name = fields.keys().nth(rng.usize(0..fields.len())).cloned();
            let name = name.unwrap_or_default();
            match rng.u8(0..10) {
                0 => {
                    fields.remove(&name);
                    return;
                }
                1 => {
                    let taken = fields.remove(&name).unwrap_or_default();
                    fields.insert(text(rng), taken);
                    return;
                }
                2 => {
                    fields.insert(text(rng), leaf(rng));
                    return;
                }
                _ => fields.get_mut(&name),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = rng.usize(0..items.len());
            items.get_mut(at)
        }
        _ => None,
    };
    match inner {
        Some(inner) if depth < 6 && rng.bool() => change(rng, inner, depth + 1),
        Some(inner) => *inner = leaf(rng),
        None => *value = leaf(rng),
    }
}

pub(crate) fn text(rng: &mut Rng) -> String {
    match rng.u8(0..8) {
        0 => String::new(),
        1 => "x".repeat(rng.usize(0..600)),
        2 => "\u{1b}[2J\0\n".to_owned(),
        3 => (0..rng.usize(0..20)).map(|_| rng.char(..)).collect(),
        4 => "metadata".to_owned(),
        5 => "workflow_id".to_owned(),
        6 => rng.choice(TOKENS).copied().unwrap_or_default().to_owned(),
        _ => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
    }
}

/// Any JSON value, sometimes a deep one.
pub(crate) fn leaf(rng: &mut Rng) -> Value {
    match rng.u8(0..12) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.u64(..).into(),
        3 => rng.i64(..).into(),
        4 => f64::from_bits(rng.u64(..)).into(),
        5 => rng.f64().into(),
        6 => Value::Array(vec![leaf(rng); rng.usize(0..3)]),
        7 => Value::Object(Map::from_iter([(text(rng), leaf(rng))])),
        8 => (0..rng.usize(0..140)).fold(Value::Null, |inner, _| Value::Array(vec![inner])),
        9 => "2026-11-23T07:30:36.123456Z".into(),
        _ => text(rng).into(),
    }
}
