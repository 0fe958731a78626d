//! The journal's data: the keys under which events are held until a verdict, the changes that the log carries
//! to the store, and notes about delivery. Plain data.

use crate::{
    event::{DeadLetter, Execution, StoredEvent},
    record::Draft,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The key under which events of a run are held until a verdict. `hold_id` tells the holds of one run apart,
/// so that the verdict on one does not touch another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct HoldKey {
    pub(crate) execution: Execution,
    pub(crate) hold_id: Uuid,
}

/// Events to be held, after those that are held under the same key already. The evidence replaces theirs.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) key: HoldKey,
    /// What the verdict depends on. The journal keeps it as it is and does not read it.
    pub(crate) evidence: String,
    pub(crate) drafts: Vec<Draft>,
}

/// What is held under one key, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) key: HoldKey,
    /// See [`Hold::evidence`].
    pub(crate) evidence: String,
    pub(crate) records: Vec<String>,
}

/// A change to what is stored, as the log carries it. The order of the variants and of their fields is part
/// of the log's format: add a variant at the end only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    Insert(Vec<StoredEvent>),
    Hold(HoldKey, String, Vec<StoredEvent>),
    Release(HoldKey),
    Replace(HoldKey, Vec<StoredEvent>),
    Discard(HoldKey),
}

impl Change {
    /// What it counts as in the backlog: its number of events, at least one.
    #[cfg(feature = "sqlite")]
    pub(super) fn weight(&self) -> usize {
        self.events().len().max(1)
    }

    /// Returns about how many bytes its events take in memory.
    #[cfg(feature = "sqlite")]
    pub(super) fn bytes(&self) -> usize {
        self.events().iter().map(bytes_of).sum()
    }

    /// Returns the events that it brings.
    #[cfg(feature = "sqlite")]
    pub(super) fn events(&self) -> &[StoredEvent] {
        match self {
            Self::Insert(events) | Self::Hold(_, _, events) | Self::Replace(_, events) => events,
            Self::Release(_) | Self::Discard(_) => &[],
        }
    }

    /// Whether it decides what becomes of something held.
    #[cfg(feature = "sqlite")]
    pub(super) fn settles(&self) -> bool {
        matches!(
            self,
            Self::Release(_) | Self::Replace(..) | Self::Discard(_)
        )
    }
}

/// Returns about how many bytes an event takes in memory, with its JSON and its columns.
#[cfg(feature = "sqlite")]
pub(super) fn bytes_of(event: &StoredEvent) -> usize {
    size_of::<StoredEvent>() + event.json.len() + 256
}

/// A note about delivery. It refers to positions in one store, and so is not in the log: a store that is
/// rebuilt from the log has other positions. If a crash loses a note, events are delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The cursor of this name is at this position.
    MoveCursor(String, u64),
    /// A sink refused these events for good.
    Refuse(Vec<DeadLetter>),
    /// A sink took a dead letter after all: the sink's name, and the position.
    RemoveDeadLetter(String, u64),
}

/// The effect of applying changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) inserted: u64,
    pub(super) duplicates: u64,
    pub(super) removed: u64,
    /// By how much the number of keys that hold something grew.
    pub(super) held: i64,
    /// The position of the newest inserted event; 0 if none was inserted.
    pub(super) newest: u64,
}
