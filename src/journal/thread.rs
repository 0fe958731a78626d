//! The journal's thread: appends what no caller appended, feeds the store from the log, answers questions, and
//! maintains the files. Owns the store.

use super::{
    JournalError, JournalOptions,
    append::{self, Appender},
    queue::Slot,
    record::Note,
    state::{Question, Shared, State, add_notes},
    status::Counters,
    storage::{FedUp, Storage},
};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often the thread wakes without work: to retry a broken file, remove old events, and prepare a log file.
const TICK: Duration = Duration::from_secs(1);
/// How long appended frames may wait before they are fed to the store.
const FEED_LINGER: Duration = Duration::from_millis(50);
/// Opens the journal and starts its thread. Returns the shared state, and a channel that is disconnected when
/// the thread has ended.
pub(super) fn start(
    options: JournalOptions,
) -> Result<(Arc<Shared>, mpsc::Receiver<()>), JournalError> {
    let counters = Counters::default();
    let (queue_size, batch_size, linger) = (options.queue_size, options.batch_size, options.linger);
    let appends_inline = options.appends_inline;
    #[cfg(feature = "sqlite")]
    let max_log_bytes = super::log::max_bytes(options.max_bytes);
    let (storage, appender) = Storage::open(options, &counters)?;
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            events: 0,
            appender: Some(Box::new(appender)),
            questions: Vec::new(),
            notes: Vec::new(),
            is_awaited: false,
            is_idle: false,
            wants_appender: false,
            is_closed: false,
            closing: None,
            stopped: None,
        }),
        wake: Condvar::new(),
        counters,
        queue_size,
        appends_inline: appends_inline && storage.is_local(),
        #[cfg(feature = "sqlite")]
        log: storage.log(),
        #[cfg(feature = "sqlite")]
        max_log_bytes,
        process: std::process::id(),
    });
    let (finished, done) = mpsc::channel();
    let thread = Thread {
        shared: shared.clone(),
        storage,
        batch_size: batch_size.max(1),
        linger,
        append_at: None,
        feed_at: None,
        fed_up: FedUp::All,
        tick_at: Instant::now() + TICK,
    };
    std::thread::Builder::new()
        .name("eventstore-journal".to_owned())
        .spawn(move || {
            thread.run();
            drop(finished);
        })
        .map_err(|error| JournalError::Stopped(error.to_string()))?;
    Ok((shared, done))
}

struct Thread {
    shared: Arc<Shared>,
    storage: Storage,
    batch_size: usize,
    linger: Duration,
    // When queued work is appended though nobody waits for it.
    append_at: Option<Instant>,
    // When the store is fed next.
    feed_at: Option<Instant>,
    // How the last feeding ended.
    fed_up: FedUp,
    tick_at: Instant,
}

/// What the thread has to do now.
#[derive(Default)]
struct Found {
    // With what is to be appended: nothing if the appender only needs its maintenance.
    appender: Option<(Box<Appender>, VecDeque<Arc<Slot>>)>,
    questions: Vec<Question>,
    notes: Vec<Note>,
    feeds: bool,
    ticks: bool,
    closing: Option<Closing>,
}

/// Where the result of closing goes; nowhere if the last handle was dropped.
struct Closing(Option<oneshot::Sender<Result<(), JournalError>>>);

impl Thread {
    fn run(mut self) {
        let worked = catch_unwind(AssertUnwindSafe(|| self.work()));
        if worked.is_err() {
            self.stopped(
                "its thread ended unexpectedly; nothing is stored until the program starts again",
            );
        }
    }

    /// Marks the journal as stopped, and tells everybody who waits. Nothing is stored any more.
    fn stopped(&self, reason: &str) {
        tracing::error!(
            reason,
            "the journal's thread has ended: nothing is stored any more"
        );
        self.shared.stop(reason);
    }

    fn work(&mut self) {
        loop {
            let found = self.wait();
            let shared = self.shared.clone();
            let counters = &shared.counters;
            if let Some((mut appender, queue)) = found.appender {
                let appended = append::append(&mut appender, queue, counters);
                if found.ticks || found.closing.is_some() {
                    appender.look_after(counters, found.closing.is_some());
                }
                shared.give_back(appender);
                appended.answer();
            }
            let mut notes = found.notes;
            let mut fed_up = FedUp::All;
            if found.feeds {
                fed_up = self.storage.feed(&mut notes, counters);
                self.fed_up = fed_up;
                self.feed_at = fed_up.pause().map(|pause| Instant::now() + pause);
            }
            let (answered, unanswered): (Vec<_>, Vec<_>) = found
                .questions
                .into_iter()
                .partition(|question| !question.is_about_all || !fed_up.is_busy());
            for question in answered {
                self.storage.ask(question.ask);
            }
            self.put_back(unanswered, notes);
            if found.ticks
                && let Some(next) = self.storage.tick(counters)
            {
                self.tick_at = next;
            }
            if let Some(Closing(closing)) = found.closing {
                let closed = self.close();
                if let Some(closing) = closing {
                    closing.send(closed).ok();
                }
                return;
            }
        }
    }

    /// Puts questions and notes that could not be dealt with back in front of newer ones.
    fn put_back(&self, questions: Vec<Question>, mut notes: Vec<Note>) {
        if questions.is_empty() && notes.is_empty() {
            return;
        }
        // Bounded as the queue is. Each cursor has one note, so that nearly all of them are dead letters.
        let surplus = notes.len().saturating_sub(self.shared.queue_size);
        let lost = notes.drain(..surplus).len();
        {
            let mut state = self.shared.state();
            state.questions.splice(0..0, questions);
            let newer = std::mem::replace(&mut state.notes, notes);
            add_notes(&mut state.notes, newer);
        }
        if lost > 0 {
            tracing::warn!(
                lost,
                "the journal's store takes nothing, and memory has no more room for dead letters"
            );
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self) -> Found {
        let shared = self.shared.clone();
        let mut state = shared.state();
        loop {
            let now = Instant::now();
            let is_closing = state.is_closed;
            // First, so that whoever asks all the time does not put it off.
            if state.queue.is_empty() {
                self.append_at = None;
            } else {
                self.append_at.get_or_insert(now + self.linger);
            }
            if self.storage.is_behind() || !state.notes.is_empty() {
                self.feed_at.get_or_insert(now + FEED_LINGER);
            }
            let asks_about_all = state.questions.iter().any(|it| it.is_about_all);
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let ticks = self.tick_at <= now;
            let appends = !state.queue.is_empty()
                && (state.is_awaited
                    || asks_about_all
                    || is_due(self.append_at)
                    || state.events >= self.batch_size);
            if (appends || asks_about_all || is_closing) && state.appender.is_none() {
                // Whoever has it is about to give it back; what it appends was queued before.
                state.wants_appender = true;
                state = wait_on(&shared.wake, state, TICK);
                continue;
            }
            // What is in memory is fed before there is too much of it, unless the store takes nothing.
            let is_full = self.fed_up == FedUp::All && self.storage.is_recent_full();
            let feeds = is_due(self.feed_at) || is_full;
            // While the file is locked, questions about everything wait for the next try.
            let is_locked = self.fed_up.is_busy() && !feeds;
            let asks = state
                .questions
                .iter()
                .any(|it| !it.is_about_all || !is_locked);
            if appends || asks || feeds || ticks || is_closing {
                return self.found(&mut state, appends, is_locked, feeds, ticks);
            }
            state.is_idle = self.append_at.is_none() && self.feed_at.is_none();
            let until = [self.append_at, self.feed_at]
                .into_iter()
                .flatten()
                .fold(self.tick_at, Instant::min);
            state = wait_on(&shared.wake, state, until.saturating_duration_since(now));
            state.is_idle = false;
        }
    }

    fn found(
        &mut self,
        state: &mut State,
        appends: bool,
        is_locked: bool,
        feeds: bool,
        ticks: bool,
    ) -> Found {
        let mut found = Found {
            feeds: feeds || state.is_closed,
            ticks,
            ..Found::default()
        };
        if ticks {
            self.tick_at = Instant::now() + TICK;
        }
        if (appends || ticks || state.is_closed)
            && let Some(appender) = state.appender.take()
        {
            let at_most = match state.is_closed {
                true => usize::MAX,
                false => self.batch_size,
            };
            let mut queue = VecDeque::new();
            let mut events = 0;
            while (appends || state.is_closed)
                && events < at_most
                && queue.len() < at_most
                && let Some(slot) = state.queue.pop_front()
            {
                events += slot.events;
                queue.push_back(slot);
            }
            state.events = state.events.saturating_sub(events);
            if state.queue.is_empty() {
                state.is_awaited = false;
                self.append_at = None;
            }
            found.appender = Some((appender, queue));
        }
        // A question about everything waits until everything is appended.
        let waits = !state.queue.is_empty() || is_locked;
        let (later, now): (Vec<_>, Vec<_>) = std::mem::take(&mut state.questions)
            .into_iter()
            .partition(|question| question.is_about_all && waits);
        state.questions = later;
        found.feeds |= now.iter().any(|question| question.is_about_all);
        found.questions = now;
        if found.feeds {
            found.notes = std::mem::take(&mut state.notes);
        }
        if state.is_closed {
            found.closing = Some(Closing(state.closing.take()));
        }
        found
    }

    /// Takes the appender for good, and closes the file with everything in it, if that is possible.
    fn close(&mut self) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        let appender = {
            let mut state = shared.state();
            loop {
                match state.appender.take() {
                    Some(appender) => break appender,
                    None => {
                        state.wants_appender = true;
                        state = wait_on(&shared.wake, state, TICK);
                    }
                }
            }
        };
        let notes = std::mem::take(&mut shared.state().notes);
        self.storage.close(&appender, notes, &shared.counters)
    }
}

fn wait_on<'a>(
    wake: &Condvar,
    state: MutexGuard<'a, State>,
    at_most: Duration,
) -> MutexGuard<'a, State> {
    match wake.wait_timeout(state, at_most) {
        Ok((state, _)) => state,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
