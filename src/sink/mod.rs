//! Where events are delivered. One trait, [`Sink`]: it gets batches in the order of the journal, and returns what
//! became of them. A sink knows its own protocol and the format of events. It does not know Temporal or the journal,
//! or when a delivery is retried.

#[cfg(any(
    feature = "dapr",
    feature = "kafka",
    feature = "nats",
    feature = "postgres",
    feature = "redis",
    feature = "segment"
))]
#[cfg_attr(
    not(all(feature = "nats", feature = "postgres", feature = "redis")),
    allow(dead_code, reason = "each sink reads its own pieces of a URL")
)]
mod address;
#[cfg(any(
    feature = "dapr",
    feature = "http",
    feature = "kafka",
    feature = "nats"
))]
mod attributes;
#[cfg(feature = "http-client")]
mod auth;
#[cfg(feature = "dapr")]
mod dapr;
mod error;
#[cfg(any(feature = "http", feature = "nats"))]
mod headers;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http-client")]
mod http_client;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "http-client")]
mod parts;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "kafka", feature = "redis"))]
mod recent;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "segment")]
mod segment;
mod stdout;
#[cfg(any(
    feature = "http-client",
    feature = "nats",
    feature = "postgres",
    feature = "redis"
))]
mod tls;
mod url;

#[cfg(feature = "http-client")]
pub use auth::{AuthHeader, AuthProvider, ClientCredentials, StaticBearer};
pub use error::{SinkError, SinkUrlError};
pub use url::open;
#[cfg(feature = "http-client")]
pub use url::open_with_auth;
pub(crate) use url::{knows, redacted, schemes};

pub use crate::event::StoredEvent as SinkEvent;

use async_trait::async_trait;
use std::fmt;

/// An event that a sink will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its index in the batch.
    pub index: usize,
    /// Why, for people; without secrets.
    pub reason: String,
}

/// What became of a batch: every event before index `taken` is in the sink, or was rejected for good. Those from there
/// on are delivered again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// How many events, counted from the first, are in the sink or rejected.
    pub taken: usize,
    /// Those among them that the sink refused for good.
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

    /// The first `taken` events are in the sink, except those that it refused for good, which `rejected` names.
    pub fn up_to(taken: usize, rejected: Vec<Rejection>) -> Self {
        Self { taken, rejected }
    }
}

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

    /// Delivers a batch, which is never empty, in order.
    ///
    /// # Errors
    /// [`SinkError`] if it is not known that anything arrived, and the same batch may be tried again. For an event that
    /// can never succeed, return a [`Rejection`] instead.
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
}
