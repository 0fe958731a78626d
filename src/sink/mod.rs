//! Where events are delivered. One trait, [`Sink`]: it gets batches in the order of the journal, and returns what
//! became of them. A sink knows its own protocol and the format of events. It does not know Temporal or the journal,
//! or when a delivery is retried.
//!
//! A sink of this crate is a cargo feature that enables `sink`, a module here, and a row in the table of schemes.

mod causes;
#[cfg(feature = "dapr")]
mod dapr;
mod delivered;
mod error;
mod filling;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "object-store")]
mod objects;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod redacted;
#[cfg(feature = "redis")]
mod redis;
mod scheme;
#[cfg(feature = "segment")]
mod segment;
#[cfg(feature = "sink")]
#[cfg_attr(
    not(all(
        feature = "dapr",
        feature = "http",
        feature = "kafka",
        feature = "nats",
        feature = "object-store",
        feature = "postgres",
        feature = "redis",
        feature = "segment"
    )),
    allow(
        dead_code,
        unused_imports,
        reason = "each sink uses a part of what they share"
    )
)]
mod shared;
mod stdout;

pub use delivered::{Delivered, Rejection, RejectionKind};
pub use error::{SinkError, SinkUrlError};
pub use filling::Filling;
pub(crate) use redacted::redacted;
pub use scheme::open;
#[cfg(feature = "sink")]
pub use scheme::open_with_auth;
pub(crate) use scheme::{check_together, is_variable, knows, schemes, stands_alone, variables};
#[cfg(feature = "sink")]
pub use shared::auth::{AuthHeader, AuthProvider, ClientCredentials, StaticBearer};

pub use crate::event::StoredEvent as SinkEvent;

use async_trait::async_trait;
use std::{fmt, sync::Arc};

/// A receiver of events.
///
/// A batch may come again, as a whole or in part: after a lost acknowledgement, an outage, or a crash. A sink should use
/// the event id to store each event once, as far as its receiver allows.
///
/// A call may be dropped before it returns. Its batch is then delivered again.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug + 'static {
    /// A short name for logs and statistics, such as `nats` and the subject; without secrets.
    fn name(&self) -> &str;

    /// Tells the sink the id of the journal that its events come from, before the first of them. The id stays the same
    /// over restarts: with an event's position, which grows from event to event, a receiver's copy of it says how far this
    /// journal was delivered. Not called where nothing of the journal outlives the process. By default it is ignored.
    fn comes_from(&self, journal: &str) {
        let _ = journal;
    }

    /// Delivers a batch, which is never empty, in order.
    ///
    /// # Errors
    /// [`SinkError`] if it is not known that anything arrived, and the same batch may be tried again. For an event that
    /// cannot be sent, or that the receiver refuses for what it is, return a [`Rejection`] instead.
    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError>;

    /// Checks that the sink's server can be reached now.
    ///
    /// # Errors
    /// [`SinkError`], which says what is wrong.
    async fn check(&self) -> Result<(), SinkError>;

    /// Whether the sink takes this event at all. Others are passed over. By default it takes all.
    fn takes(&self, event: &SinkEvent) -> bool {
        let _ = event;
        true
    }

    /// How its batches are filled. By default they are as small and as prompt as the store's options say
    /// ([`batch_size`](crate::EventStoreOptions::batch_size), [`linger`](crate::EventStoreOptions::linger)).
    fn filling(&self) -> Option<Filling> {
        None
    }
}

/// A sink that its owner keeps a handle of.
#[async_trait]
impl<S: Sink + ?Sized> Sink for Arc<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn comes_from(&self, journal: &str) {
        (**self).comes_from(journal);
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        (**self).deliver(batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        (**self).check().await
    }

    fn takes(&self, event: &SinkEvent) -> bool {
        (**self).takes(event)
    }

    fn filling(&self) -> Option<Filling> {
        (**self).filling()
    }
}
