//! What a failed test says. Knows no promise.

use crate::event::EventError;
use std::fmt;

/// A promise that a sink does not keep, in words for people.
///
/// `Debug` is the same text, since that is what a test that returns it prints.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokenPromise(String);

impl BrokenPromise {
    /// Returns what the sink did, or did not do.
    pub fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

impl fmt::Display for BrokenPromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BrokenPromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokenPromise {}

impl From<EventError> for BrokenPromise {
    fn from(error: EventError) -> Self {
        Self(format!("an event cannot be made: {error}"))
    }
}

/// Fails with `problem` unless it holds.
pub(super) fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), BrokenPromise> {
    match holds {
        true => Ok(()),
        false => Err(BrokenPromise(problem())),
    }
}
