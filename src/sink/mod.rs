//! Where events are delivered. One trait, [`Sink`]: it is handed batches in the order of the journal
//! and says what became of them. A sink knows its own protocol and the event's format; it knows
//! nothing of Temporal, of the journal, or of when it is tried again.

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

/// What became of a batch: every event before `taken` is in the sink or was rejected for good; what
/// comes from there on is handed out again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// How many events, from the first on, are done with.
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

    /// The first `taken` events are done with; `rejected` are those that were refused for good.
    pub fn up_to(taken: usize, rejected: Vec<Rejection>) -> Self {
        Self { taken, rejected }
    }
}

/// Somewhere that events are delivered to.
///
/// A batch may come again, whole or in part: after a lost acknowledgement, an outage, or a crash. The
/// event id tells what is there already; a sink uses it as far as its receiver can.
///
/// Cancel safe in this sense: a call that is dropped counts as not answered, and its batch is
/// delivered again.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug + 'static {
    /// A short name for logs and statistics, such as `nats` and the subject; without secrets.
    fn name(&self) -> &str;

    /// Delivers a batch, which is never empty, in order.
    ///
    /// # Errors
    /// [`SinkError`] when nothing is known to have arrived and the same batch may be tried again.
    /// What can never succeed is no error, but a [`Rejection`].
    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError>;

    /// Whether the sink's server can be reached now.
    ///
    /// # Errors
    /// [`SinkError`], saying what is wrong.
    async fn check(&self) -> Result<(), SinkError>;

    /// Whether the sink takes this event at all; those that it does not take are passed over. All, by
    /// default.
    fn takes(&self, event: &SinkEvent) -> bool {
        let _ = event;
        true
    }
}
