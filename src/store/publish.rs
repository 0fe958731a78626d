//! The receipt that publishing returns.

use super::PublishError;
use crate::{event::EventId, journal};
use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

/// What became of a published event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Published {
    /// The event is durable, under this id.
    Stored(EventId),
    /// Workflow code or a local activity published the event. It is stored under this id once the server is known to
    /// have accepted the workflow task. If the worker does not have the plugin of the store that it was published to, that
    /// store has queued it instead: it does not learn what becomes of the task.
    Staged(EventId),
    /// The [filter](crate::Filter) dropped the event.
    Filtered,
    /// The event was not stored, because no store is configured, or because [`publish`](crate::publish) was called
    /// outside of any store's context.
    Skipped,
}

impl Published {
    /// Returns the event's id, or `None` if the event was filtered or skipped.
    pub fn event_id(self) -> Option<EventId> {
        match self {
            Self::Stored(id) | Self::Staged(id) => Some(id),
            Self::Filtered | Self::Skipped => None,
        }
    }

    pub(crate) fn by_journal(event_id: Option<EventId>) -> Self {
        event_id.map_or(Self::Filtered, Self::Stored)
    }
}

/// A future that resolves, once a published event is durable, to what became of the event.
///
/// The event is queued when `publish` returns, whether the receipt is awaited or dropped. Most callers drop it.
///
/// Awaiting the receipt writes the event, and everything that was queued before it, to the journal's log at once. This
/// happens on the calling thread if that is cheap and safe (see [`Append`](crate::Append)), otherwise on the journal's
/// thread. The store's file has the event a little later; [`flush`](crate::EventStore::flush) waits for that. If the
/// journal is in memory and there are sinks, the receipt resolves when every sink has the event.
///
/// In workflow code, the receipt resolves at once to [`Published::Staged`] with the id that the event will have.
/// Workflow code can therefore not depend on the state of the store.
///
/// Cancel safe. Resolves to a [`PublishError`] if the event was not stored; a receipt that is awaited a second time
/// resolves to [`PublishError::AlreadyAwaited`].
///
/// ```
/// use temporal_eventstore::{Event, EventStore, Published};
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// # let events = EventStore::builder().store("memory:").build().await?;
/// let published = events.publish(Event::new("order.packed")).await?;
/// assert!(matches!(published, Published::Stored(_)));
/// # events.shutdown(std::time::Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
pub struct Receipt(State);

enum State {
    Ready(Option<Result<Published, PublishError>>),
    Journal(journal::Receipt),
    // Without a journal file, only what the sinks have is durable.
    Sinks(Pin<Box<dyn Future<Output = Result<Published, PublishError>> + Send>>),
}

impl Receipt {
    pub(crate) fn ready(result: Result<Published, PublishError>) -> Self {
        Self(State::Ready(Some(result)))
    }

    pub(crate) fn waiting(receipt: journal::Receipt) -> Self {
        Self(State::Journal(receipt))
    }

    pub(crate) fn delivered(
        receipt: impl Future<Output = Result<Published, PublishError>> + Send + 'static,
    ) -> Self {
        Self(State::Sinks(Box::pin(receipt)))
    }
}

impl Future for Receipt {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => {
                Poll::Ready(result.take().unwrap_or(Err(PublishError::AlreadyAwaited)))
            }
            State::Sinks(receipt) => match receipt.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    self.0 = State::Ready(None);
                    Poll::Ready(result)
                }
            },
            State::Journal(receipt) => match Pin::new(receipt).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    self.0 = State::Ready(None);
                    Poll::Ready(match result {
                        Ok(appended) => Ok(Published::by_journal(appended.event_id)),
                        Err(error) => Err(PublishError::from(error)),
                    })
                }
            },
        }
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.0 {
            State::Ready(Some(Ok(_))) => "accepted",
            State::Ready(Some(Err(_))) => "refused",
            State::Ready(None) => "awaited",
            State::Journal(_) | State::Sinks(_) => "waiting",
        };
        f.debug_tuple("Receipt").field(&state).finish()
    }
}
