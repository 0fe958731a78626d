//! What whoever publishes an event gets back.

use super::PublishError;
use crate::{event::EventId, journal};
use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

/// What became of a published event.
///
/// Publishing has happened when `publish` returns: dropping the receipt is fine and the usual thing.
/// Whoever wants to know awaits it; it resolves when the event is durable. In workflow code it
/// resolves at once, with the id that the event will have, so that nothing there can depend on the
/// store. Cancel safe.
pub struct Receipt(State);

enum State {
    Ready(Option<Result<EventId, PublishError>>),
    Journal(journal::Receipt),
    // Without a file as the journal, what is durable is what the sinks have.
    Sinks(Pin<Box<dyn Future<Output = Result<EventId, PublishError>> + Send>>),
}

impl Receipt {
    pub(crate) fn ready(result: Result<EventId, PublishError>) -> Self {
        Self(State::Ready(Some(result)))
    }

    pub(crate) fn waiting(receipt: journal::Receipt) -> Self {
        Self(State::Journal(receipt))
    }

    pub(crate) fn delivered(
        receipt: impl Future<Output = Result<EventId, PublishError>> + Send + 'static,
    ) -> Self {
        Self(State::Sinks(Box::pin(receipt)))
    }
}

impl Future for Receipt {
    type Output = Result<EventId, PublishError>;

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
                        Ok(appended) => Ok(appended.event_id),
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
