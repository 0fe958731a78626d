// The pages link to files. These definitions come first and override the pages' own, so that here the links lead to
// modules.
#![cfg_attr(doc, doc = include_str!("guide/links.md"))]
#![cfg_attr(
    all(feature = "plugin", feature = "sqlite"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(feature = "plugin", feature = "sqlite")),
    doc = "Lifecycle events for Temporal workers; see the README."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(feature = "temporal"),
    allow(
        dead_code,
        unused_imports,
        reason = "what a worker holds, and settles later, comes with the SDK"
    )
)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod context;
mod crash_point;
mod delivery;
pub mod event;
#[cfg(test)]
mod fuzz;
#[cfg(any(doc, all(doctest, feature = "plugin", feature = "sqlite")))]
pub mod guide;
mod journal;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod reader;
mod record;
mod said;
pub mod sink;
mod store;
#[cfg(feature = "temporal")]
mod temporal;
#[cfg(feature = "testing")]
pub mod testing;

pub use context::Frame;
pub use delivery::{ControlError, HandleError, Handler, RedeliverError, Selection, SinkCheck};
pub use event::{DeadLetter, Event, EventId, EventMetadata, StoredEvent, WorkflowState};
pub use journal::JournalError;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use reader::{EventQuery, EventReader, ReadError, SinkPosition};
pub use record::{Filter, FilterAction};
pub use store::{
    Append, BuildError, DEFAULT_BATCH_SIZE, DEFAULT_COMMIT_TIMEOUT, DEFAULT_LINGER,
    DEFAULT_MAX_QUEUED_BYTES, DEFAULT_QUEUE_SIZE, Durability, EventStore, EventStoreOptions,
    EventStoreOptionsBuilder, FailingSink, FlushError, Health, LifecycleSelection, PublishError,
    Published, Receipt, SinkStats, Stats, event_store_options_builder, publish,
};
#[cfg(feature = "plugin")]
pub use temporal::EventStorePlugin;
#[cfg(feature = "temporal")]
pub use temporal::{
    ActivityEvents, EventInterceptors, ReconcileError, Reconciled, Reconciler, ReconcilerOptions,
    ReconcilerOptionsBuilder, reconciler_options_builder,
};
