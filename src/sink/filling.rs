//! How a sink wants its batches: larger than others, at the price of a delay. Knows no sink.

use std::time::Duration;

/// When a batch is handed over to a sink that wants large ones: as soon as one of the bounds is reached, somebody waits
/// for its events ([`flush`](crate::EventStore::flush), [`shutdown`](crate::EventStore::shutdown)), or a journal without
/// much room would run full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filling {
    /// The bytes of JSON that make a batch full. It holds the event that reaches the bound, too.
    pub bytes: usize,
    /// How long the first event of a batch waits for others at most, counted from when the delivery first reads it.
    pub age: Duration,
}

impl Filling {
    /// Returns both bounds.
    pub fn new(bytes: usize, age: Duration) -> Self {
        Self { bytes, age }
    }
}
