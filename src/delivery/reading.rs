//! The journal as one sink sees it: the events that it reads, and its cursor. Does not keep the journal open.

use super::Begin;
use crate::{
    event::DeadLetter,
    journal::{Journal, JournalError, WeakJournal},
    sink::SinkEvent,
};
use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// How long to wait for new events before looking anyway: a journal that could not be read for a moment does not
/// announce that it can be read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Returns the name of a sink's cursor in the journal.
pub(crate) fn cursor_name(sink: &str) -> String {
    format!("sink {sink}")
}

/// Returns the name under which the journal remembers that the sink took an event once: a cursor alone may have passed
/// over all of them.
fn taken_name(sink: &str) -> String {
    format!("taken {sink}")
}

/// Returns the name under which the journal remembers that nothing is to be delivered to the sink: 1 while it is so.
fn paused_name(sink: &str) -> String {
    format!("paused {sink}")
}

/// Where a sink stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// The position up to which it is done.
    pub(super) position: u64,
    pub(super) is_paused: bool,
}

/// A sink's view of the journal.
pub(super) struct Reading {
    journal: WeakJournal,
    newest: watch::Receiver<u64>,
    sink: String,
    begin: Begin,
    has_taken: AtomicBool,
}

impl Reading {
    pub(super) fn new(journal: &Journal, sink: &str, begin: Begin) -> Self {
        Self {
            journal: journal.downgrade(),
            newest: journal.newest(),
            sink: sink.to_owned(),
            begin,
            has_taken: AtomicBool::new(false),
        }
    }

    fn journal(&self) -> Result<Journal, JournalError> {
        self.journal.upgrade().ok_or(JournalError::Closed)
    }

    /// Returns where the sink stands, and the id of the journal, if it outlives the process. A new sink begins where it was
    /// told to. Learns whether it ever took an event.
    pub(super) async fn standing(&self) -> Result<(Standing, Option<Uuid>), JournalError> {
        let [cursor, taken, paused] =
            [cursor_name, taken_name, paused_name].map(|name_of| name_of(&self.sink));
        let begin = self.begin;
        let journal = self.journal()?;
        let asked = journal.ask(move |store| {
            let known = store.cursor(&cursor)?;
            let position = match (known, begin) {
                (Some(position), _) => position,
                (None, Begin::Beginning) => 0,
                (None, Begin::Now) => store.position_before(None)?,
                (None, Begin::At(time)) => store.position_before(Some(time))?,
            };
            let is_paused = store.cursor(&paused)? == Some(1);
            let has_taken = store.cursor(&taken)?.is_some();
            Ok((position, known.is_none(), has_taken, is_paused, store.id()?))
        });
        let (position, is_new, has_taken, is_paused, id) = asked.await?;
        if has_taken {
            self.has_taken.store(true, Relaxed);
        }
        // So that where a new sink begins is decided once, and readers know of one that never takes anything.
        if is_new || begin != Begin::Beginning {
            self.settle(position, Vec::new())?;
        }
        let standing = Standing {
            position,
            is_paused,
        };
        Ok((standing, id))
    }

    /// Has the journal keep the events that are not handled yet, as it does for the sinks that it was opened with.
    pub(super) async fn keep(&self) -> Result<(), JournalError> {
        let name = cursor_name(&self.sink);
        self.journal()?
            .ask_as_it_is(move |store| {
                store.keep_for(name);
                Ok(())
            })
            .await
    }

    /// Waits until what was noted is in the store; an error if it is not.
    pub(super) async fn flush(&self) -> Result<(), JournalError> {
        self.journal()?.flush().await
    }

    /// Remembers whether nothing is to be delivered.
    pub(super) fn pause(&self, is_paused: bool) -> Result<(), JournalError> {
        self.journal()?
            .move_cursor(paused_name(&self.sink), u64::from(is_paused), Vec::new())
    }

    /// Whether the sink ever took an event, also before the program was started.
    pub(super) fn has_taken(&self) -> bool {
        self.has_taken.load(Relaxed)
    }

    /// Notes that the sink took the event at this position.
    pub(super) fn taken(&self, position: u64) -> Result<(), JournalError> {
        if self.has_taken.swap(true, Relaxed) {
            return Ok(());
        }
        self.journal()?
            .move_cursor(taken_name(&self.sink), position, Vec::new())
    }

    /// Reads the next events after a position, in order: at most `limit`, and fewer if they are large. Only sees
    /// what the store has already.
    pub(super) async fn read(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<SinkEvent>, JournalError> {
        let name = cursor_name(&self.sink);
        self.journal()?
            .ask_as_it_is(move |store| store.read(Some(&name), after, limit))
            .await
    }

    /// Notes that the sink is done with everything up to `position`, and what it rejected. The store's next
    /// transaction writes the note. After a crash before that, the sink gets the same events again.
    pub(super) fn settle(&self, position: u64, dead: Vec<DeadLetter>) -> Result<(), JournalError> {
        self.journal()?
            .move_cursor(cursor_name(&self.sink), position, dead)
    }

    /// Resolves when there may be events after `position`.
    pub(super) async fn more(&self, position: u64) {
        let mut newest = self.newest.clone();
        let wait = newest.wait_for(|newest| *newest > position);
        // If the time is up, or the journal gone, the next read finds out.
        tokio::time::timeout(LOOK_AGAIN, wait).await.ok();
    }

    /// Returns the sink's dead letters after a position, in order.
    pub(super) async fn dead_letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        let sink = self.sink.clone();
        self.journal()?
            .ask(move |store| store.dead_letters(Some(&sink), after, limit))
            .await
    }

    /// Removes a dead letter, since the sink took it after all.
    pub(super) fn remove_dead_letter(&self, position: u64) -> Result<(), JournalError> {
        self.journal()?
            .remove_dead_letter(self.sink.clone(), position)
    }
}
