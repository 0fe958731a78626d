//! The journal as delivery sees it: where events come from, and where it notes how far it came.

use crate::{
    delivery::{DeadLetter, Source, SourceError},
    journal::{Journal, JournalError, Refused, Stored, WeakJournal},
    record::Draft,
    sink::SinkEvent,
};
use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::watch;

/// How long to wait for more before looking anyhow: a journal that is away for a moment says nothing
/// when it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The journal of a store, which it does not keep open.
pub(super) struct JournalSource {
    journal: WeakJournal<Draft>,
    newest: watch::Receiver<u64>,
}

impl JournalSource {
    pub(super) fn new(journal: &Journal<Draft>) -> Self {
        Self {
            journal: journal.downgrade(),
            newest: journal.newest(),
        }
    }

    fn journal(&self) -> Result<Journal<Draft>, SourceError> {
        self.journal.upgrade().ok_or(SourceError::Closed)
    }
}

/// The cursor of a sink in the journal.
pub(super) fn cursor_name(sink: &str) -> String {
    format!("sink {sink}")
}

fn failed(error: JournalError) -> SourceError {
    match error {
        JournalError::Closed | JournalError::Stopped(_) => SourceError::Closed,
        error => SourceError::Failed(error.to_string()),
    }
}

fn at_its_position(stored: Stored) -> SinkEvent {
    let mut event = stored.record;
    event.position = stored.seq;
    event
}

pub(super) fn dead_letter(refused: Refused) -> DeadLetter {
    DeadLetter {
        sink: refused.sink,
        event_id: refused.event_id,
        position: refused.seq,
        reason: refused.reason,
        event: refused.json,
    }
}

#[async_trait]
impl Source for JournalSource {
    async fn position(&self, name: &str) -> Result<u64, SourceError> {
        let position = self.journal()?.cursor(cursor_name(name)).await;
        Ok(position.map_err(failed)?.unwrap_or_default())
    }

    async fn read(
        &self,
        name: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<SinkEvent>, SourceError> {
        let stored = self
            .journal()?
            .read_for(Some(cursor_name(name)), after, limit)
            .await
            .map_err(failed)?;
        Ok(stored.into_iter().map(at_its_position).collect())
    }

    async fn settle(
        &self,
        name: &str,
        position: u64,
        dead: Vec<DeadLetter>,
    ) -> Result<(), SourceError> {
        let refused = dead
            .into_iter()
            .map(|letter| Refused {
                sink: letter.sink,
                event_id: letter.event_id,
                seq: letter.position,
                reason: letter.reason,
                json: letter.event,
            })
            .collect();
        match self
            .journal()?
            .move_cursor(cursor_name(name), position, refused)
            .await
        {
            // It is in memory, and is written with everything else when the file can be again. If it
            // never is, the batch comes again.
            Err(JournalError::Degraded { .. }) => Ok(()),
            settled => settled.map_err(failed),
        }
    }

    async fn more(&self, position: u64) {
        let mut newest = self.newest.clone();
        let wait = newest.wait_for(|newest| *newest > position);
        // Time being up, or a journal that is gone: whoever reads next finds out.
        tokio::time::timeout(LOOK_AGAIN, wait).await.ok();
    }

    async fn dead_letters(
        &self,
        name: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, SourceError> {
        let refused = self
            .journal()?
            .refused(Some(name.to_owned()), after, limit)
            .await
            .map_err(failed)?;
        Ok(refused.into_iter().map(dead_letter).collect())
    }

    async fn bury(&self, name: &str, position: u64) -> Result<(), SourceError> {
        self.journal()?
            .bury(name.to_owned(), position)
            .await
            .map_err(failed)
    }
}
