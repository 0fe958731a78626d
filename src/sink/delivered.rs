//! What a sink answers: what became of a batch. Knows no sink.

use super::SinkEvent;

/// An event that a sink rejects: it can never be delivered as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// Its index in the batch.
    pub index: usize,
    /// Why, for people; without secrets.
    pub reason: String,
}

impl Rejection {
    /// Returns the rejection of the event at `index` of the batch. `reason` is for people and must not contain a
    /// secret.
    pub fn new(index: usize, reason: impl Into<String>) -> Self {
        Self {
            index,
            reason: reason.into(),
        }
    }
}

/// What became of a batch: every event before index `taken` is in the sink, or was rejected. Those from there on are
/// delivered again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// How many events, counted from the first, are in the sink or rejected.
    pub taken: usize,
    /// Those among them that the sink rejected.
    pub rejected: Vec<Rejection>,
}

impl Delivered {
    /// The whole batch is in the sink.
    pub fn all(batch: &[SinkEvent]) -> Self {
        Self {
            taken: batch.len(),
            rejected: Vec::new(),
        }
    }

    /// The first `taken` events are in the sink, except those that it rejected, which `rejected` names.
    pub fn up_to(taken: usize, rejected: Vec<Rejection>) -> Self {
        Self { taken, rejected }
    }
}
