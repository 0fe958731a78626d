//! The task of one sink: reads a batch, hands it over until the sink is done with all of it, and moves the cursor.
//! Retries for ever, unless an event is at fault.

use super::{
    BatchOptions,
    fill::Fill,
    guard::call,
    judgement::Judgement,
    patience::{Patience, Tried},
    reading::{Reading, Standing},
    selection::Selection,
    status::Progress,
    suspects::{Suspect, Suspects},
};
use crate::{
    event::DeadLetter,
    journal::JournalError,
    sink::{Delivered, Filling, Rejection, RejectionKind, Sink, SinkError, SinkEvent},
};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Jitter included.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many characters of what a receiver said are kept.
const MOST_ANSWER: usize = 1000;
/// How long to wait when the journal cannot be read or written.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Task {
    pub(super) name: String,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) only: Selection,
    pub(super) reading: Arc<Reading>,
    pub(super) batch: BatchOptions,
    pub(super) filling: Option<Filling>,
    pub(super) patience: Patience,
    pub(super) progress: Arc<Progress>,
}

/// What the task remembers from one attempt to the next.
struct Attempts {
    suspects: Suspects,
    pauses: ExponentialBackoff,
    tried: Tried,
    /// How many events are handed over at once, at most.
    at_once: usize,
    /// Events up to this position that were passed over are counted.
    counted: u64,
    /// What cannot be sent is a dead letter up to this position, also where the cursor waits for a judgement before it.
    unsendable: u64,
    /// It was said that nobody is there who takes events.
    is_absence_said: bool,
}

/// How handing a batch over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandedOver {
    /// The sink has answered for all of it. What it refused may wait for a judgement.
    All,
    /// It begins again with what was refused, after a pause.
    Again,
}

impl Task {
    /// Delivers until it is told to stop or the journal is closed. Ends at once if the sink is paused.
    pub(super) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            // An error means that the delivery is gone, and this task with it.
            _ = stop.wait_for(|stop| *stop) => {}
            _ = self.deliver_all() => {}
        }
    }

    /// Returns where the sink stands, and tells it where its events come from. The journal is asked once: its file may be
    /// behind what is known here.
    pub(super) async fn standing(&self) -> Result<Standing, JournalError> {
        match self.progress.standing() {
            Some(known) => Ok(known),
            None => {
                let (standing, journal) = self.reading.standing().await?;
                if let Some(journal) = journal {
                    let tell = || self.sink.comes_from(&journal.to_string());
                    // If it panics, it is not told.
                    catch_unwind(AssertUnwindSafe(tell)).ok();
                }
                Ok(self.progress.learn(standing))
            }
        }
    }

    async fn deliver_all(&self) -> Result<(), JournalError> {
        // How far it has read: further than the cursor while events wait for a judgement.
        let Standing {
            mut position,
            is_paused,
        } = self.insist(|| self.standing()).await?;
        if is_paused {
            return Ok(());
        }
        let mut is_looked_for = position > 0;
        let mut attempts = Attempts {
            suspects: Suspects::default(),
            pauses: pauses(),
            tried: Tried::default(),
            at_once: usize::MAX,
            counted: position,
            unsendable: position,
            is_absence_said: false,
        };
        let mut ahead = None;
        loop {
            let batch = match ahead.take() {
                Some(batch) => batch,
                // Who refuses everything is asked about one event, and about more only if it refuses that.
                None if attempts.suspects.is_outage() && attempts.suspects.is_empty() => {
                    self.insist(|| self.reading.read(position, 1)).await?
                }
                None => match self.filling.filter(|_| attempts.suspects.is_empty()) {
                    Some(filling) => self.fill(position, filling).await?,
                    None => self.next(position).await?,
                },
            };
            if let Some(first) = batch.first().filter(|_| is_looked_for) {
                is_looked_for = false;
                self.say_missing(first.position.saturating_sub(position + 1));
            }
            let Some(last) = batch.last().map(|event| event.position) else {
                if attempts.suspects.is_empty() {
                    self.reading.more(position).await;
                } else {
                    position = self.judge_the_last(position, &mut attempts).await?;
                }
                continue;
            };
            let before = batch.len();
            let mut selected = batch;
            let mut passed_over = 0;
            selected.retain(|event| {
                let is_selected = self.only.contains(event) && takes(&*self.sink, event);
                passed_over += u64::from(!is_selected && event.position > attempts.counted);
                is_selected
            });
            attempts.counted = attempts.counted.max(last);
            self.progress.passed_over.fetch_add(passed_over, Relaxed);
            let suspected = attempts.suspects.first().map(|first| &first.created_at);
            let oldest = suspected.or_else(|| selected.first().map(|event| &event.created_at));
            self.progress.wait_since(oldest.cloned());
            // If there is more, read the next batch while this one is delivered.
            let is_full = self.filling.is_none() && before >= self.batch.size;
            let (handed_over, next) =
                tokio::join!(self.hand_over(&selected, &mut attempts), async {
                    match is_full {
                        true => self.insist(|| self.read(last)).await,
                        false => Ok(Vec::new()),
                    }
                });
            if handed_over? == HandedOver::Again {
                // What was given up may be all that it had read.
                let done = position.max(self.progress.position());
                position = attempts.suspects.rewind().unwrap_or(done);
                continue;
            }
            position = last;
            if attempts.suspects.is_empty() {
                self.progress.wait_since(None);
                self.settle(position, Vec::new())?;
            }
            ahead = Some(next?).filter(|next| next.len() >= self.batch.size);
        }
    }

    fn say_missing(&self, missing: u64) {
        if missing > 0 {
            warn!(
                sink = self.name,
                missing,
                "events that were removed from the journal while this sink was not named are not \
                 delivered to it"
            );
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

    /// Reads the next batch for a sink that wants large ones.
    async fn fill(&self, position: u64, filling: Filling) -> Result<Vec<SinkEvent>, JournalError> {
        let wanted = self.progress.wanted();
        let mut fill = Fill::new(&self.reading, filling, self.batch.most_waiting, wanted);
        loop {
            match fill.go_on(position).await {
                // Says that the journal does not answer, and waits until it does.
                Err(_) => drop(self.insist(|| self.reading.read(position, 1)).await?),
                batch => return batch,
            }
        }
    }

    /// Judges refused events behind which there is nothing up to `position`. Returns where to go on.
    async fn judge_the_last(
        &self,
        position: u64,
        attempts: &mut Attempts,
    ) -> Result<u64, JournalError> {
        match attempts.suspects.judge(false) {
            Judgement::EventsAtFault => {
                let dead = self.bury(attempts.suspects.give_up());
                attempts.pauses = pauses();
                self.progress.recovered();
                self.settle(position, dead)?;
                return Ok(position);
            }
            Judgement::PlaceAtFault => {
                self.blame_place(attempts).await?;
                if attempts.suspects.is_empty() {
                    self.settle(position, Vec::new())?;
                }
            }
            Judgement::AskAgain | Judgement::LookFurther => {
                self.pause(attempts, None).await;
            }
        }
        Ok(attempts.suspects.rewind().unwrap_or(position))
    }

    /// Hands events over until the sink has answered for all of them. After a failure it hands over fewer at once: the
    /// batch may have been too large to be taken in time, and would fail again for ever.
    async fn hand_over(
        &self,
        mut events: &[SinkEvent],
        attempts: &mut Attempts,
    ) -> Result<HandedOver, JournalError> {
        while !events.is_empty() {
            if attempts.suspects.judge(true) == Judgement::PlaceAtFault {
                self.blame_place(attempts).await?;
                return Ok(HandedOver::Again);
            }
            let began = Instant::now();
            let (batch, rest) = events.split_at(attempts.at_once.clamp(1, events.len()));
            let error = match call(self.sink.deliver(batch)).await {
                Ok(delivered) if delivered.taken > 0 => {
                    // What was refused says nothing of how much it takes at once.
                    if delivered.rejected.len() < delivered.taken {
                        attempts.at_once = attempts.at_once.saturating_mul(2);
                    }
                    // What it was not given, it did not take.
                    let delivered = Delivered {
                        taken: delivered.taken.min(batch.len()),
                        ..delivered
                    };
                    events = self.answered(events, delivered, attempts, began)?;
                    continue;
                }
                Ok(_) => SinkError::new("it took nothing, and said nothing"),
                Err(error) if error.is_absent() && self.passes_over(attempts) => {
                    if !std::mem::replace(&mut attempts.is_absence_said, true) {
                        warn!(sink = self.name, %error, "nobody is there yet: events are passed over");
                    }
                    let passed_over = batch.len() as u64;
                    self.progress.passed_over.fetch_add(passed_over, Relaxed);
                    self.progress.recovered();
                    events = rest;
                    continue;
                }
                Err(error) => error,
            };
            // After a single event failed, the whole batch again: the sink may take others of it.
            attempts.at_once = if batch.len() > 1 {
                batch.len() / 2
            } else {
                usize::MAX
            };
            if self.progress.failed(error.reason().to_owned()) {
                warn!(
                    sink = self.name,
                    %error,
                    "the sink takes no events; they wait in the journal, and it is tried again"
                );
            } else {
                debug!(sink = self.name, %error, "the sink still takes no events");
            }
            // What was refused before an outage says nothing after it.
            attempts.suspects.forget_hearings();
            if !attempts.suspects.is_empty() {
                self.give_up_suspects(attempts)?;
                self.pause(attempts, error.retry_after()).await;
                return Ok(HandedOver::Again);
            }
            events = self.give_up(events, attempts, &error)?;
            self.pause(attempts, error.retry_after()).await;
        }
        Ok(HandedOver::All)
    }

    /// Whether events for a receiver that is not there are passed over: it never took one.
    fn passes_over(&self, attempts: &Attempts) -> bool {
        attempts.suspects.is_empty() && !self.reading.has_taken()
    }

    /// Gives up the first events of those that wait, as far as the sink's URL says so. Returns the others.
    fn give_up<'a>(
        &self,
        events: &'a [SinkEvent],
        attempts: &mut Attempts,
        error: &SinkError,
    ) -> Result<&'a [SinkEvent], JournalError> {
        if let Some(first) = events.first() {
            attempts.tried.failed(first.position);
        }
        let mut given_up = Vec::new();
        for event in events {
            let tried = attempts.tried;
            let is_over = self
                .patience
                .is_over(event.position, &event.created_at, tried);
            let Some(why) = is_over else {
                break;
            };
            let reason = format!("{why}: {}", error.reason());
            given_up.push(self.suspect(event, Rejection::new(0, reason)));
        }
        let (given_up_events, waiting) = events.split_at(given_up.len());
        if let Some(last) = given_up_events.last() {
            let dead = self.bury(given_up);
            self.settle(last.position, dead)?;
        }
        Ok(waiting)
    }

    /// The same for events that were refused, if the place seems to be at fault or fails behind them.
    fn give_up_suspects(&self, attempts: &mut Attempts) -> Result<(), JournalError> {
        if let Some(first) = attempts.suspects.first() {
            attempts.tried.failed(first.letter.position);
        }
        let mut given_up = Vec::new();
        while let Some(first) = attempts.suspects.first()
            && let Some(why) =
                self.patience
                    .is_over(first.letter.position, &first.created_at, attempts.tried)
            && let Some(mut suspect) = attempts.suspects.take_first()
        {
            suspect.letter.reason = format!("{why}: {}", suspect.letter.reason);
            suspect.reason = format!("{why}: {}", suspect.reason);
            given_up.push(suspect);
        }
        if let Some(last) = given_up.last().map(|last| last.letter.position) {
            let dead = self.bury(given_up);
            self.settle(last, dead)?;
        }
        Ok(())
    }

    async fn blame_place(&self, attempts: &mut Attempts) -> Result<(), JournalError> {
        let suspects = &mut attempts.suspects;
        suspects.blame_place();
        let first = suspects.first().map(|first| &*first.reason);
        let taken = match self.reading.has_taken() {
            true => "it takes none of them",
            false => "it never took an event yet, so that the place may be wrong",
        };
        let reason = format!(
            "{} (of {} events in a row; {taken})",
            first.unwrap_or_default(),
            suspects.refused()
        );
        if self.progress.failed(reason.clone()) {
            warn!(
                sink = self.name,
                reason,
                "the sink refuses events alike; they wait in the journal, and it is tried again"
            );
        }
        self.give_up_suspects(attempts)?;
        self.pause(attempts, None).await;
        Ok(())
    }

    async fn pause(&self, attempts: &mut Attempts, at_least: Option<Duration>) {
        let pause = attempts.pauses.next().unwrap_or(LONGEST_PAUSE);
        let pause = pause.min(LONGEST_PAUSE).max(at_least.unwrap_or_default());
        self.progress.retries.fetch_add(1, Relaxed);
        tokio::time::sleep(pause).await;
    }

    /// Notes what became of the first events of a batch. Returns the rest.
    fn answered<'a>(
        &self,
        events: &'a [SinkEvent],
        delivered: Delivered,
        attempts: &mut Attempts,
        began: Instant,
    ) -> Result<&'a [SinkEvent], JournalError> {
        let (answered, rest) = events.split_at(delivered.taken.min(events.len()));
        let mut rejected = delivered.rejected;
        rejected.sort_by_key(|rejection| rejection.index);
        rejected.dedup_by_key(|rejection| rejection.index);
        let mut rejected = rejected.into_iter().peekable();
        let suspects = &mut attempts.suspects;
        let mut at_fault = Vec::new();
        let mut taken: Option<u64> = None;
        let mut accepted = 0;
        let mut has_taken = self.reading.has_taken();
        for (index, event) in answered.iter().enumerate() {
            let Some(rejection) = rejected.next_if(|rejection| rejection.index == index) else {
                at_fault.append(&mut suspects.taken());
                has_taken = true;
                accepted += 1;
                taken.get_or_insert(event.position);
                continue;
            };
            let is_refused = rejection.kind == RejectionKind::Refused;
            if is_refused {
                suspects.refuse(self.suspect(event, rejection), has_taken);
            } else if event.position > attempts.unsendable {
                // Needs no judgement, and may be one of very many: it does not wait for those before it.
                attempts.unsendable = event.position;
                at_fault.push(self.suspect(event, rejection));
            }
        }
        if let Some(position) = taken {
            self.reading.taken(position)?;
            self.progress.delivered.fetch_add(accepted, Relaxed);
            if let Some(outage) = self.progress.succeeded(began.elapsed()) {
                warn!(sink = self.name, ?outage, "the sink takes events again");
            }
            if std::mem::take(&mut attempts.is_absence_said) {
                info!(sink = self.name, "the sink takes events now");
            }
            attempts.pauses = pauses();
        } else if suspects.is_empty() {
            self.progress.recovered();
        }
        let dead = self.bury(at_fault);
        let done = match (attempts.suspects.first(), answered.last()) {
            (Some(first), _) => first.letter.position.checked_sub(1),
            // The caller moves the cursor to the end of the batch, past events that were passed over there.
            (None, Some(last)) if !rest.is_empty() || !dead.is_empty() => Some(last.position),
            _ => None,
        };
        if let Some(done) = done.filter(|done| !dead.is_empty() || *done > self.progress.position())
        {
            self.settle(done, dead)?;
        }
        Ok(rest)
    }

    fn suspect(&self, event: &SinkEvent, rejection: Rejection) -> Suspect {
        let Rejection { reason, answer, .. } = rejection;
        let whole = match answer {
            Some(answer) => {
                let answer: String = answer.chars().take(MOST_ANSWER).collect();
                format!("{reason}: {answer}")
            }
            None => reason.clone(),
        };
        Suspect {
            letter: DeadLetter::new(&self.name, event, whole),
            created_at: event.created_at.clone(),
            reason,
        }
    }

    /// Returns the dead letters of events that are at fault, counted and said.
    fn bury(&self, at_fault: Vec<Suspect>) -> Vec<DeadLetter> {
        if let Some(first) = at_fault.first() {
            warn!(
                sink = self.name,
                events = at_fault.len(),
                event_id = %first.letter.event_id,
                reason = first.reason,
                "the sink rejected events; they are dead letters now"
            );
        }
        let rejected = at_fault.len() as u64;
        self.progress.rejected.fetch_add(rejected, Relaxed);
        at_fault.into_iter().map(|suspect| suspect.letter).collect()
    }

    fn settle(&self, position: u64, dead: Vec<DeadLetter>) -> Result<(), JournalError> {
        self.reading.settle(position, dead)?;
        self.progress.move_to(position);
        Ok(())
    }

    async fn insist<T, F: Future<Output = Result<T, JournalError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, JournalError> {
        insist(&self.name, &self.progress, ask).await
    }
}

/// Asks the journal until it answers or is closed.
pub(super) async fn insist<T, F: Future<Output = Result<T, JournalError>>>(
    sink: &str,
    progress: &Progress,
    ask: impl Fn() -> F,
) -> Result<T, JournalError> {
    let mut has_failed = false;
    loop {
        match ask().await {
            Err(error) if !matches!(error, JournalError::Closed | JournalError::Stopped(_)) => {
                has_failed = true;
                let reason = format!("the journal does not answer: {error}");
                if progress.failed(reason.clone()) {
                    warn!(sink, "nothing is delivered now: {reason}");
                }
                tokio::time::sleep(JOURNAL_PAUSE).await;
            }
            answer => {
                if has_failed {
                    progress.recovered();
                }
                return answer;
            }
        }
    }
}

/// Whether the sink takes the event. If it panics when asked, it gets the event: delivery then reports what is
/// wrong.
fn takes(sink: &dyn Sink, event: &SinkEvent) -> bool {
    catch_unwind(AssertUnwindSafe(|| sink.takes(event))).unwrap_or(true)
}

pub(super) fn pauses() -> ExponentialBackoff {
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
