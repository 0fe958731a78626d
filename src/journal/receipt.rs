//! The receipt of queued work: awaiting it is what has the work appended at once.

use super::{
    queue::{Answer, Slot},
    state::Shared,
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Resolves when the work it stands for is in the log. The first poll appends what is queued, or has the
/// journal's thread do so. Dropping it changes nothing about the work.
pub(crate) struct Receipt {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    is_asked: bool,
}

impl Receipt {
    pub(super) fn new(slot: Arc<Slot>, shared: Arc<Shared>) -> Self {
        Self {
            slot,
            shared,
            is_asked: false,
        }
    }

    /// Returns the answer, if it is there.
    pub(crate) fn try_take(&mut self) -> Option<Answer> {
        self.slot.state().answer.take()
    }
}

impl Future for Receipt {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.is_asked {
            self.is_asked = true;
            if let Some(answer) = self.try_take() {
                return Poll::Ready(answer);
            }
            // Somebody waits now.
            self.shared.append_now();
        }
        let mut state = self.slot.state();
        match state.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
