//! The task of one sink: reads a batch, hands it over until the sink is done with all of it, and moves the cursor.
//! Retries for ever, unless the sink rejects an event.

use super::guard::call;
use super::{BatchOptions, reading::Reading, selection::Selection, status::Progress};
use crate::{
    event::DeadLetter,
    journal::JournalError,
    sink::{Delivered, Sink, SinkError, SinkEvent},
};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tracing::{debug, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Jitter included.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long to wait when the journal cannot be read or written.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    pub(super) name: String,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) only: Selection,
    pub(super) reading: Arc<Reading>,
    pub(super) batch: BatchOptions,
    pub(super) progress: Arc<Progress>,
}

impl Task {
    /// Delivers until it is told to stop or the journal is closed.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            // An error means that the delivery is gone, and this task with it.
            _ = stop.wait_for(|stop| *stop) => {}
            _ = self.deliver_all() => {}
        }
    }

    async fn deliver_all(&self) -> Result<(), JournalError> {
        let mut position = self.insist(|| self.reading.position()).await?;
        self.progress.move_to(position);
        let mut is_looked_for = position > 0;
        let mut ahead = None;
        loop {
            let batch = match ahead.take() {
                Some(batch) => batch,
                None => self.next(position).await?,
            };
            if let Some(first) = batch.first().filter(|_| is_looked_for) {
                is_looked_for = false;
                let missing = first.position.saturating_sub(position + 1);
                if missing > 0 {
                    warn!(
                        sink = self.name,
                        missing,
                        "events that were removed from the journal while this sink was not named \
                         are not delivered to it"
                    );
                }
            }
            let Some(last) = batch.last().map(|event| event.position) else {
                self.reading.more(position).await;
                continue;
            };
            let before = batch.len();
            let mut selected = batch;
            selected.retain(|event| self.only.contains(event) && takes(&*self.sink, event));
            let passed_over = (before - selected.len()) as u64;
            self.progress.passed_over.fetch_add(passed_over, Relaxed);
            // If there is more, read the next batch while this one is delivered.
            let is_full = before >= self.batch.size;
            let (handed_over, next) = tokio::join!(self.hand_over(&selected), async {
                match is_full {
                    true => self.insist(|| self.read(last)).await,
                    false => Ok(Vec::new()),
                }
            });
            handed_over?;
            position = last;
            self.settle(position, Vec::new())?;
            ahead = Some(next?).filter(|next| next.len() >= self.batch.size);
        }
    }

    async fn read(&self, after: u64) -> Result<Vec<SinkEvent>, JournalError> {
        self.reading.read(after, self.batch.size).await
    }

    /// Reads the next batch. If it is not full, waits a little for more events.
    async fn next(&self, position: u64) -> Result<Vec<SinkEvent>, JournalError> {
        let read = || self.read(position);
        let batch = self.insist(read).await?;
        if batch.is_empty() || batch.len() >= self.batch.size || self.batch.linger.is_zero() {
            return Ok(batch);
        }
        tokio::time::sleep(self.batch.linger).await;
        self.insist(read).await
    }

    /// Hands events over until the sink is done with all of them. After a failure it hands over fewer at once:
    /// the batch may have been too large to be taken in time, and would fail again for ever.
    async fn hand_over(&self, mut events: &[SinkEvent]) -> Result<(), JournalError> {
        let mut pauses = pauses();
        let mut at_once = events.len();
        while !events.is_empty() {
            let began = Instant::now();
            let (batch, _) = events.split_at(at_once.clamp(1, events.len()));
            let error = match call(self.sink.deliver(batch)).await {
                Ok(delivered) if delivered.taken > 0 => {
                    at_once = at_once.saturating_mul(2);
                    if let Some(outage) = self.progress.succeeded(began.elapsed()) {
                        warn!(sink = self.name, ?outage, "the sink takes events again");
                    }
                    pauses = self::pauses();
                    let taken = delivered.taken.min(batch.len());
                    events = self.done_with(events, taken, delivered).await?;
                    continue;
                }
                Ok(_) => SinkError::new("it took nothing, and said nothing"),
                Err(error) => error,
            };
            // After a single event failed, the whole batch again: the sink may take others of it.
            at_once = if batch.len() > 1 {
                batch.len() / 2
            } else {
                events.len()
            };
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
            let pause = pause.max(error.retry_after().unwrap_or_default());
            self.progress.retries.fetch_add(1, Relaxed);
            if self.progress.failed(error.reason().to_owned()) {
                warn!(
                    sink = self.name,
                    %error,
                    "the sink takes no events; they wait in the journal, and it is tried again"
                );
            } else {
                debug!(sink = self.name, %error, ?pause, "the sink still takes no events");
            }
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Notes what became of the first events of a batch. Returns the rest.
    async fn done_with<'a>(
        &self,
        events: &'a [SinkEvent],
        taken: usize,
        delivered: Delivered,
    ) -> Result<&'a [SinkEvent], JournalError> {
        let (taken, rest) = events.split_at(taken.min(events.len()));
        let dead: Vec<DeadLetter> = delivered
            .rejected
            .into_iter()
            .filter_map(|rejection| {
                let event = taken.get(rejection.index)?;
                Some(DeadLetter::new(&self.name, event, rejection.reason))
            })
            .collect();
        if let Some(first) = dead.first() {
            warn!(
                sink = self.name,
                events = dead.len(),
                event_id = %first.event_id,
                reason = first.reason,
                "the sink rejected events; they are dead letters now"
            );
        }
        let rejected = dead.len() as u64;
        self.progress.rejected.fetch_add(rejected, Relaxed);
        let accepted = (taken.len() as u64).saturating_sub(rejected);
        self.progress.delivered.fetch_add(accepted, Relaxed);
        // The caller moves the cursor to the end of the batch, past events that were passed over there.
        if let Some(last) = taken.last()
            && (!rest.is_empty() || !dead.is_empty())
        {
            self.settle(last.position, dead)?;
        }
        Ok(rest)
    }

    fn settle(&self, position: u64, dead: Vec<DeadLetter>) -> Result<(), JournalError> {
        self.reading.settle(position, dead)?;
        self.progress.move_to(position);
        Ok(())
    }

    /// Asks the journal until it answers or is closed.
    async fn insist<T, F: Future<Output = Result<T, JournalError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, JournalError> {
        let mut has_failed = false;
        loop {
            match ask().await {
                Err(error) if !matches!(error, JournalError::Closed | JournalError::Stopped(_)) => {
                    has_failed = true;
                    let reason = format!("the journal does not answer: {error}");
                    if self.progress.failed(reason.clone()) {
                        warn!(sink = self.name, "nothing is delivered now: {reason}");
                    }
                    tokio::time::sleep(JOURNAL_PAUSE).await;
                }
                answer => {
                    if has_failed {
                        self.progress.recovered();
                    }
                    return answer;
                }
            }
        }
    }
}

/// Whether the sink takes the event. If it panics when asked, it gets the event: delivery then reports what is
/// wrong.
fn takes(sink: &dyn Sink, event: &SinkEvent) -> bool {
    catch_unwind(AssertUnwindSafe(|| sink.takes(event))).unwrap_or(true)
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ_from_program_to_program() {
        let of_one: Vec<Duration> = pauses().take(12).collect();
        let of_another: Vec<Duration> = pauses().take(12).collect();
        assert_ne!(of_one, of_another);
        for (exponent, pause) in (0..).zip(&of_one) {
            let least = (FIRST_PAUSE * 2_u32.pow(exponent)).min(LONGEST_PAUSE);
            assert!(*pause >= least && *pause <= least * 2, "{of_one:?}");
        }
    }
}
