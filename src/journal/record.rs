//! What the journal holds: records, and the names under which they wait for a verdict. Plain data.

use crate::event::EventId;
pub(crate) use crate::event::StoredEvent as Record;
use uuid::Uuid;

/// What waits to be written. It becomes a record on the journal's own thread, so that no JSON is
/// made on the path of whoever appends.
pub(crate) trait Draft: Send + 'static {
    fn prepare(self) -> Prepared;
}

/// What became of a draft. It lives on the stack of one thread for a moment: boxing the record would
/// cost an allocation for each event.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    Record(Record),
    /// A filter dropped it.
    Dropped,
    /// It breaks a rule.
    Invalid(String),
}

/// The name under which events of a run wait for a verdict. `hold_id` tells the holds of one run apart, so
/// that what is said of one does not touch another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RunKey {
    pub(crate) namespace: String,
    pub(crate) workflow_id: String,
    pub(crate) run_id: String,
    pub(crate) hold_id: Uuid,
}

/// Events to be held: behind those that are held under the same key already, all with this evidence.
#[derive(Debug)]
pub(crate) struct Hold<D> {
    pub(crate) key: RunKey,
    /// What the verdict depends on, in the words of whoever holds. The journal only keeps it.
    pub(crate) evidence: String,
    pub(crate) drafts: Vec<D>,
}

/// What is held under one key, as JSON, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) key: RunKey,
    /// See [`Hold::evidence`].
    pub(crate) evidence: String,
    pub(crate) records: Vec<String>,
}

/// One event that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) seq: u64,
    pub(crate) record: Record,
}

/// An event that a receiver refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) sink: String,
    pub(crate) event_id: EventId,
    pub(crate) seq: u64,
    pub(crate) reason: String,
    pub(crate) json: String,
}

/// A change to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Insert(Vec<Record>),
    Hold(RunKey, String, Vec<Record>),
    Release(RunKey),
    Replace(RunKey, Vec<Record>),
    Discard(RunKey),
    MoveCursor(String, u64),
    Refuse(Vec<Refused>),
    /// What a receiver refused, it took after all.
    Bury(String, u64),
}

#[cfg(feature = "sqlite")]
impl Change {
    /// How many places it takes where changes wait: its events, its dead letters, or one.
    pub(super) fn weight(&self) -> usize {
        self.contents().max(1)
    }

    /// How many events and dead letters go with it.
    pub(super) fn contents(&self) -> usize {
        match self {
            Self::Refuse(refused) => refused.len(),
            change => change.records().len(),
        }
    }

    pub(super) fn records(&self) -> &[Record] {
        match self {
            Self::Insert(records) | Self::Hold(_, _, records) | Self::Replace(_, records) => {
                records
            }
            Self::Release(_)
            | Self::Discard(_)
            | Self::MoveCursor(..)
            | Self::Refuse(_)
            | Self::Bury(..) => &[],
        }
    }
}

/// What applying changes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) inserted: u64,
    pub(super) duplicates: u64,
    pub(super) removed: u64,
    /// Events that every sink has, and that made room.
    pub(super) removed_delivered: u64,
    /// How many more keys hold something than before.
    pub(super) held: i64,
    /// The position of the newest event that was inserted; 0 without any.
    pub(super) newest: u64,
}
