//! The durable local log. Whatever waits is written in one transaction by one thread, and all who
//! wait are answered; what is not known to be true yet is held until somebody says so.
//!
//! Knows nothing of what an event is, of Temporal, or of where events go next.

mod error;
#[cfg(feature = "sqlite")]
mod file;
mod log;
mod memory;
mod record;
mod removed;
#[cfg(feature = "sqlite")]
mod sqlite;
mod status;
mod writer;

#[cfg(test)]
mod tests;

pub use error::JournalError;
pub(crate) use record::{Draft, Held, Hold, Prepared, Refused, RunKey, Stored};
pub(crate) use removed::RemovedUntil;
pub(crate) use status::JournalStatus;

use crate::event::EventId;
use crossbeam_channel::Sender;
use status::Counters;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::oneshot;
use writer::Command;

/// How many bytes of events are read at once, and one event more.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// How long dropping the last handle waits for what is queued.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
    Memory,
}

/// SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) enum Synchronous {
    /// A killed process loses nothing.
    Normal,
    /// A power cut loses nothing either.
    Full,
}

/// How long events stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    Keep,
    For(Duration),
}

#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) struct JournalOptions {
    pub(crate) target: Target,
    pub(crate) queue_size: usize,
    pub(crate) batch_size: usize,
    /// How long what nobody waits for may wait for company.
    pub(crate) linger: Duration,
    pub(crate) synchronous: Synchronous,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) retention: Retention,
    /// The cursors of those who must have an event before age alone removes it.
    pub(crate) sinks: Vec<String>,
    /// Whether the log is itself the store, so that an event that leaves it for lack of room is lost
    /// even if others have it.
    pub(crate) is_store: bool,
}

/// Why the journal takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Full,
    Closed,
}

/// What became of one appended event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// Nil when the filter dropped the event.
    pub(crate) event_id: EventId,
}

/// An answer that is on its way. Dropping it changes nothing but who learns of it.
pub(crate) struct Answer<T> {
    receiver: oneshot::Receiver<Result<T, JournalError>>,
    // Tells the thread, once, that somebody waits, where it does not assume so.
    nudge: Option<Sender<()>>,
}

pub(crate) type AppendReceipt = Answer<Appended>;
pub(crate) type CommitReceipt = Answer<()>;

impl<T> Future for Answer<T> {
    type Output = Result<T, JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(nudge) = self.nudge.take() {
            // Full means that the thread is about to hear of it.
            nudge.try_send(()).ok();
        }
        Pin::new(&mut self.receiver).poll(cx).map(|answer| {
            answer.unwrap_or_else(|_| Err(JournalError::Stopped("its thread is gone".to_owned())))
        })
    }
}

/// A handle to the log; clones share it.
pub(crate) struct Journal<D: Draft> {
    inner: Arc<Inner<D>>,
}

/// See [`Journal::downgrade`].
pub(crate) struct WeakJournal<D: Draft>(Weak<Inner<D>>);

impl<D: Draft> WeakJournal<D> {
    /// The log, while somebody keeps it open.
    pub(crate) fn upgrade(&self) -> Option<Journal<D>> {
        self.0.upgrade().map(|inner| Journal { inner })
    }
}

struct Inner<D: Draft> {
    // None only while it is being dropped.
    commands: Option<Sender<Command<D>>>,
    nudge: Sender<()>,
    counters: Arc<Counters>,
    queue_size: usize,
    closed: AtomicBool,
    finished: crossbeam_channel::Receiver<()>,
}

impl<D: Draft> Clone for Journal<D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<D: Draft> Journal<D> {
    /// Opens or creates the log and starts its thread. Blocking.
    pub(crate) fn open(options: JournalOptions) -> Result<Self, JournalError> {
        let counters = Arc::new(Counters::default());
        let queue_size = options.queue_size;
        let writer::Started {
            commands,
            nudge,
            finished,
        } = writer::start(options, counters.clone())?;
        Ok(Self {
            inner: Arc::new(Inner {
                commands: Some(commands),
                nudge,
                counters,
                queue_size,
                closed: AtomicBool::new(false),
                finished,
            }),
        })
    }

    fn send<T>(
        &self,
        events: usize,
        limit: usize,
        command: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Command<D>,
    ) -> Result<Answer<T>, Rejected> {
        let inner = &self.inner;
        if inner.closed.load(Ordering::Acquire) {
            inner.counters.refuse(events);
            return Err(Rejected::Closed);
        }
        // Counted before it is queued, so that a flush never misses what is on its way.
        if !inner.counters.enqueue(events, limit) {
            inner.counters.refuse(events);
            return Err(Rejected::Full);
        }
        let (answer, receipt) = oneshot::channel();
        let sent = inner
            .commands
            .as_ref()
            .is_some_and(|commands| commands.send(command(answer)).is_ok());
        if sent {
            Ok(Answer {
                receiver: receipt,
                nudge: None,
            })
        } else {
            inner.counters.unqueue(events);
            inner.counters.refuse(events);
            Err(Rejected::Closed)
        }
    }

    /// Appends one event. Never blocks and never waits.
    pub(crate) fn append(&self, draft: D) -> Result<AppendReceipt, Rejected> {
        let mut receipt = self.send(1, self.inner.queue_size, |answer| Command::Append {
            draft,
            answer,
        })?;
        receipt.nudge = Some(self.inner.nudge.clone());
        Ok(receipt)
    }

    /// Appends some events and holds others, in one transaction. Never blocks; may go to twice the
    /// queue's size, since these matter more than what applications publish.
    pub(crate) fn commit(
        &self,
        append: Vec<D>,
        holds: Vec<Hold<D>>,
    ) -> Result<CommitReceipt, Rejected> {
        let held: usize = holds.iter().map(|hold| hold.drafts.len()).sum();
        let events = append.len() + held;
        self.send(events, self.inner.queue_size.saturating_mul(2), |answer| {
            Command::Commit {
                append,
                holds,
                answer,
            }
        })
    }

    /// Moves what is held under `key` to the log. What is not held (any more) is no error.
    pub(crate) fn release(&self, key: RunKey) -> Result<CommitReceipt, Rejected> {
        self.send(0, usize::MAX, |answer| Command::Release { key, answer })
    }

    /// Appends `drafts` instead of what is held under `key`, if that is still held.
    pub(crate) fn replace(&self, key: RunKey, drafts: Vec<D>) -> Result<CommitReceipt, Rejected> {
        self.send(drafts.len(), usize::MAX, |answer| Command::Replace {
            key,
            drafts,
            answer,
        })
    }

    /// Forgets what is held under `key`.
    pub(crate) fn discard(&self, key: RunKey) -> Result<CommitReceipt, Rejected> {
        self.send(0, usize::MAX, |answer| Command::Discard { key, answer })
    }

    /// Everything that is held.
    pub(crate) async fn held(&self) -> Result<Vec<Held>, JournalError> {
        self.ask(|answer| Command::Held { answer }).await
    }

    /// At most `limit` events after `after`, in order.
    pub(crate) async fn read(&self, after: u64, limit: usize) -> Result<Vec<Stored>, JournalError> {
        self.read_for(None, after, limit).await
    }

    /// As [`Self::read`], for the sink with the cursor `reader`: what it has in hand goes last when room
    /// runs out.
    pub(crate) async fn read_for(
        &self,
        reader: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, JournalError> {
        self.ask(|answer| Command::Read {
            reader,
            after,
            limit,
            answer,
        })
        .await
    }

    /// Those of `ids` that no event in the log has, in the same order.
    pub(crate) async fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError> {
        self.ask(|answer| Command::Missing { ids, answer }).await
    }

    /// Those events in the log that have one of `ids`, as JSON.
    pub(crate) async fn find(&self, ids: Vec<EventId>) -> Result<Vec<String>, JournalError> {
        self.ask(|answer| Command::Find { ids, answer }).await
    }

    /// Where the cursor `name` stands, if it was ever moved.
    pub(crate) async fn cursor(&self, name: String) -> Result<Option<u64>, JournalError> {
        self.ask(|answer| Command::Cursor { name, answer }).await
    }

    /// Moves the cursor `name`, and notes what its sink refused; durable with what was appended before.
    pub(crate) async fn move_cursor(
        &self,
        name: String,
        position: u64,
        refused: Vec<Refused>,
    ) -> Result<(), JournalError> {
        self.ask_now(|answer| Command::MoveCursor {
            name,
            position,
            refused,
            answer,
        })
        .await
    }

    /// What sinks refused, of one or of all, in the order of positions; at most `limit`, and all that
    /// there are of the last event.
    pub(crate) async fn refused(
        &self,
        sink: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Refused>, JournalError> {
        self.ask(|answer| Command::Refused {
            sink,
            after,
            limit,
            answer,
        })
        .await
    }

    /// Removes what a sink refused and took after all.
    pub(crate) async fn bury(&self, sink: String, position: u64) -> Result<(), JournalError> {
        self.ask_now(|answer| Command::Bury {
            sink,
            position,
            answer,
        })
        .await
    }

    /// The position of the newest event, as it grows.
    pub(crate) fn newest(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.counters.newest()
    }

    /// A handle that does not keep the log open.
    pub(crate) fn downgrade(&self) -> WeakJournal<D> {
        WeakJournal(Arc::downgrade(&self.inner))
    }

    /// Resolves when everything queued before is durable, or failed.
    pub(crate) async fn flush(&self) -> Result<(), JournalError> {
        self.ask(|answer| Command::Flush { answer }).await
    }

    /// Flushes, checkpoints and gives the file back. The second time it does nothing.
    pub(crate) async fn close(&self) -> Result<(), JournalError> {
        let receipt = self.send(0, usize::MAX, |answer| Command::Close { answer });
        self.inner.closed.store(true, Ordering::Release);
        match receipt {
            Ok(receipt) => receipt.await,
            Err(_) => Ok(()),
        }
    }

    /// Up to when what was stored has been removed.
    pub(crate) fn removed_until(&self) -> RemovedUntil {
        self.inner.counters.removed_until()
    }

    pub(crate) fn status(&self) -> JournalStatus {
        self.inner.counters.status()
    }

    /// As [`Self::ask`], for a change that would otherwise linger.
    async fn ask_now<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Command<D>,
    ) -> Result<T, JournalError> {
        let mut answer = self
            .send(0, usize::MAX, command)
            .map_err(|_| JournalError::Closed)?;
        answer.nudge = Some(self.inner.nudge.clone());
        answer.await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Command<D>,
    ) -> Result<T, JournalError> {
        match self.send(0, usize::MAX, command) {
            Ok(answer) => answer.await,
            Err(_) => Err(JournalError::Closed),
        }
    }
}

impl<D: Draft> Drop for Inner<D> {
    // Local work only, and bounded: a program that ends without a shutdown still keeps its events.
    fn drop(&mut self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        drop(self.commands.take());
        if self.finished.recv_timeout(DROP_TIMEOUT)
            == Err(crossbeam_channel::RecvTimeoutError::Timeout)
        {
            tracing::error!("the journal is too slow to be flushed while its handle is dropped");
        }
    }
}
