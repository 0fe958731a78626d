//! Fills a batch for a sink that wants large ones: reads on until it is full, old, wanted, or too much for the journal to
//! keep back. Events are in no other place meanwhile: whoever ends it loses nothing. Knows no sink.

use super::reading::Reading;
use crate::{
    journal::JournalError,
    sink::{Filling, SinkEvent},
};
use std::time::Instant;
use tokio::sync::watch;

/// How many events are read at once. The journal's thread does nothing else meanwhile.
const READ_AT_ONCE: usize = 2000;

/// A batch that is being filled.
pub(super) struct Fill<'a> {
    pub(super) reading: &'a Reading,
    pub(super) filling: Filling,
    /// How many events, and bytes of them, may wait.
    pub(super) most_waiting: (usize, usize),
    /// The furthest position that somebody waits for.
    pub(super) wanted: watch::Receiver<u64>,
    batch: Vec<SinkEvent>,
    bytes: usize,
    since: Instant,
}

impl<'a> Fill<'a> {
    pub(super) fn new(
        reading: &'a Reading,
        filling: Filling,
        most_waiting: (usize, usize),
        wanted: watch::Receiver<u64>,
    ) -> Self {
        Self {
            reading,
            filling,
            most_waiting,
            wanted,
            batch: Vec::new(),
            bytes: 0,
            since: Instant::now(),
        }
    }

    /// Reads on after `position` until the batch is to be handed over. Returns none if there is nothing to read. May be
    /// called again after an error, with the same position.
    pub(super) async fn go_on(&mut self, position: u64) -> Result<Vec<SinkEvent>, JournalError> {
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let after = self.batch.last().map_or(position, |last| last.position);
            let limit = self.most_waiting.0.clamp(1, READ_AT_ONCE);
            let more = self.reading.read(after, limit).await?;
            let is_all = more.len() < limit;
            if self.batch.is_empty() {
                self.since = Instant::now();
            }
            for event in more {
                if self.is_full() {
                    break;
                }
                self.bytes = self.bytes.saturating_add(event.json.len());
                self.batch.push(event);
            }
            let left = self.filling.age.saturating_sub(self.since.elapsed());
            let (Some(first), Some(last)) = (self.batch.first(), self.batch.last()) else {
                return Ok(Vec::new());
            };
            let (first, last) = (first.position, last.position);
            if self.is_full() || left.is_zero() {
                break;
            }
            if !is_all {
                continue;
            }
            if wanted >= first {
                break;
            }
            let wanted = self.wanted.wait_for(|wanted| *wanted >= first);
            tokio::select! {
                () = self.reading.more(last) => {}
                () = tokio::time::sleep(left) => {}
                // An error means that the delivery is gone.
                _ = wanted => {}
            }
        }
        Ok(std::mem::take(&mut self.batch))
    }

    fn is_full(&self) -> bool {
        let (events, bytes) = self.most_waiting;
        !self.batch.is_empty()
            && (self.bytes >= self.filling.bytes.min(bytes) || self.batch.len() >= events)
    }
}
