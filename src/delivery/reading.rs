//! The journal as one sink sees it: the events that it reads, and its cursor. Does not keep the journal open.

use crate::{
    event::DeadLetter,
    journal::{Journal, JournalError, WeakJournal},
    sink::SinkEvent,
};
use std::time::Duration;
use tokio::sync::watch;

/// How long to wait for new events before looking anyway: a journal that could not be read for a moment does not
/// announce that it can be read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Returns the name of a sink's cursor in the journal.
pub(crate) fn cursor_name(sink: &str) -> String {
    format!("sink {sink}")
}

/// A sink's view of the journal.
pub(super) struct Reading {
    journal: WeakJournal,
    newest: watch::Receiver<u64>,
    sink: String,
}

impl Reading {
    pub(super) fn new(journal: &Journal, sink: &str) -> Self {
        Self {
            journal: journal.downgrade(),
            newest: journal.newest(),
            sink: sink.to_owned(),
        }
    }

    fn journal(&self) -> Result<Journal, JournalError> {
        self.journal.upgrade().ok_or(JournalError::Closed)
    }

    /// Returns the position up to which the sink is done.
    pub(super) async fn position(&self) -> Result<u64, JournalError> {
        let name = cursor_name(&self.sink);
        let journal = self.journal()?;
        let position = journal.ask(move |store| store.cursor(&name)).await?;
        Ok(position.unwrap_or_default())
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
