//! What the journal holds: names under which events wait for a verdict, and changes to what is stored.
//! Plain data.

use crate::{
    event::{DeadLetter, StoredEvent},
    record::Draft,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name under which events of a run wait for a verdict. `hold_id` tells the holds of one run apart, so
/// that what is said of one does not touch another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct RunKey {
    pub(crate) namespace: String,
    pub(crate) workflow_id: String,
    pub(crate) run_id: String,
    pub(crate) hold_id: Uuid,
}

/// Events to be held: behind those that are held under the same key already, all with this evidence.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) key: RunKey,
    /// What the verdict depends on, in the words of whoever holds. The journal only keeps it.
    pub(crate) evidence: String,
    pub(crate) drafts: Vec<Draft>,
}

/// What is held under one key, as JSON, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) key: RunKey,
    /// See [`Hold::evidence`].
    pub(crate) evidence: String,
    pub(crate) records: Vec<String>,
}

/// A change to what is stored, as the log has it. The order of the variants and of their fields is the
/// log's format: a new one comes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    Insert(Vec<StoredEvent>),
    Hold(RunKey, String, Vec<StoredEvent>),
    Release(RunKey),
    Replace(RunKey, Vec<StoredEvent>),
    Discard(RunKey),
}

impl Change {
    /// How many places it takes where changes wait: its events, or one.
    #[cfg(feature = "sqlite")]
    pub(super) fn weight(&self) -> usize {
        self.events().len().max(1)
    }

    /// About how many bytes its events take.
    #[cfg(feature = "sqlite")]
    pub(super) fn bytes(&self) -> usize {
        self.events().iter().map(bytes_of).sum()
    }

    /// The events that come with it.
    pub(super) fn events(&self) -> &[StoredEvent] {
        match self {
            Self::Insert(events) | Self::Hold(_, _, events) | Self::Replace(_, events) => events,
            Self::Release(_) | Self::Discard(_) => &[],
        }
    }

    /// Whether it says what becomes of something that is held.
    #[cfg(feature = "sqlite")]
    pub(super) fn settles(&self) -> bool {
        matches!(
            self,
            Self::Release(_) | Self::Replace(..) | Self::Discard(_)
        )
    }
}

/// About how many bytes an event takes in memory: its JSON, and its columns beside it.
#[cfg(feature = "sqlite")]
pub(super) fn bytes_of(event: &StoredEvent) -> usize {
    size_of::<StoredEvent>() + event.json.len() + 256
}

/// A note about delivery. It is about positions of one store, and no part of the log: a store that is made
/// anew from its log has other positions. What a crash loses of these is delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// A sink is done with everything up to a position.
    MoveCursor(String, u64),
    /// What a sink refused.
    Refuse(Vec<DeadLetter>),
    /// What a sink refused, it took after all.
    RemoveDeadLetter(String, u64),
}

/// What applying changes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) inserted: u64,
    pub(super) duplicates: u64,
    pub(super) removed: u64,
    /// How many more keys hold something than before.
    pub(super) held: i64,
    /// The position of the newest event that was inserted; 0 without any.
    pub(super) newest: u64,
}
