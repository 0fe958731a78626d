//! What a sink answers: what became of a batch. Knows no sink.

use super::SinkEvent;

/// Who is the reason that an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The event: the sink knows by itself that it can never be sent as it is (too large, not encodable). It becomes a
    /// dead letter.
    Unsendable,
    /// The receiver refused it. Whether the event or the receiver is at fault, the delivery judges by what becomes of the
    /// other events; `docs/sinks.md` has the rule.
    Refused,
}

/// An event that a sink rejects: it was not taken, and would not be as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// Its index in the batch.
    pub index: usize,
    /// Whether the sink knows by itself that it cannot be sent, or the receiver refused it.
    pub kind: RejectionKind,
    /// Why, for people. It is logged: without secrets, and without anything of the event.
    pub reason: String,
    /// What the receiver said, which may quote the event. Goes into the dead letter, and nowhere else.
    pub answer: Option<String>,
}

impl Rejection {
    /// Returns the rejection of the event at `index` of the batch, which can never be sent as it is. `reason` is for
    /// people and must not contain a secret.
    pub fn new(index: usize, reason: impl Into<String>) -> Self {
        Self {
            index,
            kind: RejectionKind::Unsendable,
            reason: reason.into(),
            answer: None,
        }
    }

    /// Returns the rejection of the event at `index` of the batch, which the receiver refused. `reason` is for people and
    /// must contain neither a secret nor what the receiver may have quoted of the event; see
    /// [`with_answer`](Self::with_answer).
    pub fn refused(index: usize, reason: impl Into<String>) -> Self {
        Self {
            kind: RejectionKind::Refused,
            ..Self::new(index, reason)
        }
    }

    /// Sets what the receiver said, in at most a few hundred characters and without secrets.
    #[must_use]
    pub fn with_answer(mut self, answer: impl Into<Option<String>>) -> Self {
        self.answer = answer.into();
        self
    }
}

/// What became of a batch: every event before index `taken` is in the sink, or was rejected. Those from there on are
/// delivered again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// How many events, counted from the first, are in the sink or rejected.
    pub taken: usize,
    /// Those among them that the sink rejected, in order.
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
