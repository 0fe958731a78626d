//! The journal's thread: appends what no caller appended, feeds the store from the log, answers questions, and
//! maintains the files. Owns the store.

use super::{
    Ask, JournalError, JournalOptions, Question, Shared, State, Target,
    append::{self, Appender},
    memory::MemoryLog,
    queue::Slot,
    record::Note,
    status::Counters,
};
#[cfg(feature = "sqlite")]
use super::{
    Store as _,
    feed::HeldKeys,
    file::{Fed, FileStore},
    log,
    memory::Backlog,
};
#[cfg(feature = "sqlite")]
use std::sync::atomic::Ordering::Relaxed;
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often the thread wakes without work: to retry a broken file, remove old events, and prepare a log file.
const TICK: Duration = Duration::from_secs(1);
/// How long appended frames may wait before they are fed to the store.
const FEED_LINGER: Duration = Duration::from_millis(50);
/// The pause before a file that another program has locked is tried again.
#[cfg(feature = "sqlite")]
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How long opening and closing wait for a file that another program has locked. What the store lacks then stays
/// in the log.
#[cfg(feature = "sqlite")]
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the journal and starts its thread. Returns the shared state, and a channel that is disconnected when
/// the thread has ended.
pub(super) fn start(
    options: JournalOptions,
) -> Result<(Arc<Shared>, mpsc::Receiver<()>), JournalError> {
    let counters = Counters::default();
    let (queue_size, batch_size, linger) = (options.queue_size, options.batch_size, options.linger);
    let appends_inline = options.appends_inline;
    #[cfg(feature = "sqlite")]
    let max_log_bytes = log::max_bytes(options.max_bytes);
    let (place, appender) = Place::open(options, &counters)?;
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
        appends_inline: appends_inline && place.is_local(),
        #[cfg(feature = "sqlite")]
        log: place.log(),
        #[cfg(feature = "sqlite")]
        max_log_bytes,
        process: std::process::id(),
    });
    let (finished, done) = mpsc::channel();
    let thread = Thread {
        shared: shared.clone(),
        place,
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

/// Where events are stored.
enum Place {
    Memory(Arc<Mutex<MemoryLog>>),
    #[cfg(feature = "sqlite")]
    File(Box<FilePlace>),
}

#[cfg(feature = "sqlite")]
struct FilePlace {
    store: FileStore,
    reader: log::Reader,
    held: HeldKeys,
    is_local: bool,
    log: Arc<log::Log>,
}

impl Place {
    fn open(
        options: JournalOptions,
        #[cfg_attr(
            not(feature = "sqlite"),
            allow(unused_variables, reason = "memory counts later")
        )]
        counters: &Counters,
    ) -> Result<(Self, Appender), JournalError> {
        match &options.target {
            Target::Memory => {
                let memory = MemoryLog::new(options.queue_size, options.sinks);
                let memory = Arc::new(Mutex::new(memory));
                Ok((Self::Memory(memory.clone()), Appender::Memory(memory)))
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite(path) => {
                let path = path.clone();
                let (place, appender) = FilePlace::open(path, options, counters)?;
                Ok((
                    Self::File(Box::new(place)),
                    Appender::Log(Box::new(appender)),
                ))
            }
        }
    }

    /// Whether callers may append themselves: memory, or a local disk that need not be synced.
    fn is_local(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            #[cfg(feature = "sqlite")]
            Self::File(place) => place.is_local,
        }
    }

    /// Returns the log, if there is one.
    #[cfg(feature = "sqlite")]
    fn log(&self) -> Option<Arc<log::Log>> {
        match self {
            Self::Memory(_) => None,
            Self::File(place) => Some(place.log.clone()),
        }
    }

    /// Whether something was appended that the store does not have yet.
    fn is_behind(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::File(place) => place.reader.is_behind(),
        }
    }

    /// Whether as much waits in memory for the store as is fed at once.
    fn is_recent_full(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::File(place) => place.log.is_recent_full(),
        }
    }

    fn ask(&mut self, question: Ask) {
        match self {
            Self::Memory(memory) => {
                question(&mut *memory.lock().unwrap_or_else(PoisonError::into_inner));
            }
            #[cfg(feature = "sqlite")]
            Self::File(place) => question(&mut place.store),
        }
    }

    /// Looks after the file, where there is one; returns when it wants to be looked after again.
    #[cfg(feature = "sqlite")]
    fn tick(&mut self, counters: &Counters) -> Option<Instant> {
        match self {
            Self::Memory(_) => None,
            Self::File(place) => Some(place.store.tick(counters)),
        }
    }

    fn close(
        &mut self,
        appender: &Appender,
        notes: Vec<Note>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        match (self, appender) {
            #[cfg(feature = "sqlite")]
            (Self::File(place), Appender::Log(appender)) => place.close(appender, notes, counters),
            (place, _) => {
                let mut notes = notes;
                place.feed(&mut notes, counters);
                Ok(())
            }
        }
    }

    /// Feeds the store everything that was appended, and the notes. Notes that it does not take stay in
    /// `notes`.
    fn feed(&mut self, notes: &mut Vec<Note>, counters: &Counters) -> FedUp {
        match self {
            Self::Memory(memory) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.note(std::mem::take(notes), counters);
                FedUp::All
            }
            #[cfg(feature = "sqlite")]
            Self::File(place) => place.feed(notes, counters),
        }
    }
}

/// How feeding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FedUp {
    /// The store has everything.
    All,
    /// Another program has the file locked for a moment.
    #[cfg(feature = "sqlite")]
    Busy,
    /// The file cannot be written.
    #[cfg(feature = "sqlite")]
    Broken,
}

impl FedUp {
    fn is_busy(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Busy => true,
            _ => false,
        }
    }

    /// Returns how long to wait before the next try; none if there is nothing left to feed.
    fn pause(self) -> Option<Duration> {
        match self {
            Self::All => None,
            #[cfg(feature = "sqlite")]
            Self::Busy => Some(BUSY_PAUSE),
            #[cfg(feature = "sqlite")]
            Self::Broken => Some(TICK),
        }
    }
}

#[cfg(feature = "sqlite")]
impl FilePlace {
    fn open(
        path: std::path::PathBuf,
        options: JournalOptions,
        counters: &Counters,
    ) -> Result<(Self, log::Appender), JournalError> {
        let unusable = |error: std::io::Error| JournalError::Open {
            path: path.clone(),
            reason: format!("its log cannot be read: {error}"),
            source: Some(Arc::new(error)),
        };
        let syncs = options.synchronous == super::Synchronous::Full;
        let backlog = Backlog::new(options.queue_size, options.max_queued_bytes / 2);
        let is_local = !syncs && log::is_local(&path);
        let store = FileStore::open(path.clone(), options, counters)?;
        let place = store.place()?;
        let recovered = log::recover(&path, place).map_err(unusable)?;
        if recovered.store_id != place.store_id {
            store.adopt(recovered.store_id)?;
        }
        let held = HeldKeys::new(hold_ids(&store));
        let is_behind = recovered.last_number > recovered.position;
        let (appender, mut reader, log) = log::open(&path, syncs, backlog, recovered)?;
        if store.is_damaged() {
            reader.keep_files();
        }
        let mut place = Self {
            store,
            reader,
            held,
            is_local,
            log,
        };
        if is_behind {
            place.recover(counters);
        }
        Ok((place, appender))
    }

    fn feed(&mut self, notes: &mut Vec<Note>, counters: &Counters) -> FedUp {
        if self.store.is_broken() {
            return FedUp::Broken;
        }
        loop {
            let frames = match self.reader.next() {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::error!(%error, "the journal's log cannot be read; it is tried again");
                    return FedUp::Broken;
                }
            };
            let Some(frames) = frames else {
                if notes.is_empty() {
                    return FedUp::All;
                }
                let fed = self.store.apply(&mut Vec::new(), notes, None, counters);
                return self.fed_up(fed).unwrap_or(FedUp::All);
            };
            let (mut changes, delta) = self.held.condense(frames.changes);
            let position = Some(frames.progress.last);
            let fed = self.store.apply(&mut changes, notes, position, counters);
            if let Some(fed_up) = self.fed_up(fed) {
                return fed_up;
            }
            self.held.apply(&delta);
            self.reader.done_with(&frames.progress);
        }
    }

    /// Feeds what an earlier process left, so that it is there when the store is open. What cannot be fed now is
    /// fed later.
    fn recover(&mut self, counters: &Counters) {
        let began = Instant::now();
        while self.feed(&mut Vec::new(), counters) == FedUp::Busy && began.elapsed() < LOCK_TIMEOUT
        {
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// Feeds what is left, retrying a locked file for a while, and closes the file.
    fn close(
        &mut self,
        appender: &log::Appender,
        mut notes: Vec<Note>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        let began = Instant::now();
        self.store.settle_down(counters);
        let fed_up = loop {
            let fed_up = self.feed(&mut notes, counters);
            if fed_up != FedUp::Busy || began.elapsed() > LOCK_TIMEOUT {
                break fed_up;
            }
            std::thread::sleep(BUSY_PAUSE);
        };
        let reason = self.store.durable().err().map(|error| error.to_string());
        let closed = self.store.close(counters);
        if fed_up == FedUp::All {
            self.reader.remove_all();
        }
        let lost = appender.backlog_events();
        let result = if lost > 0 {
            counters.lost.fetch_add(lost, Relaxed);
            Err(JournalError::Lost {
                events: lost,
                reason: appender.reason(),
            })
        } else if fed_up != FedUp::All || self.reader.keeps_files() {
            Err(JournalError::NotStored {
                reason: reason.unwrap_or_else(|| "another program has it locked".to_owned()),
            })
        } else {
            closed
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the journal closes, and its store does not have everything");
        }
        result
    }

    /// Returns why feeding ends now; none if it goes on.
    fn fed_up(&mut self, fed: Fed) -> Option<FedUp> {
        match fed {
            Fed::Stored => None,
            Fed::InMemory => {
                self.reader.keep_files();
                None
            }
            Fed::Busy => Some(FedUp::Busy),
            Fed::Broken => Some(FedUp::Broken),
        }
    }
}

#[cfg(feature = "sqlite")]
fn hold_ids(store: &FileStore) -> Vec<uuid::Uuid> {
    let held = store.held().unwrap_or_default();
    held.into_iter().map(|held| held.key.hold_id).collect()
}

struct Thread {
    shared: Arc<Shared>,
    place: Place,
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
                fed_up = self.place.feed(&mut notes, counters);
                self.fed_up = fed_up;
                self.feed_at = fed_up.pause().map(|pause| Instant::now() + pause);
            }
            let (answered, unanswered): (Vec<_>, Vec<_>) = found
                .questions
                .into_iter()
                .partition(|question| !question.is_about_all || !fed_up.is_busy());
            for question in answered {
                self.place.ask(question.ask);
            }
            self.put_back(unanswered, notes);
            #[cfg(feature = "sqlite")]
            if found.ticks
                && let Some(next) = self.place.tick(counters)
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
            super::add_notes(&mut state.notes, newer);
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
            if self.place.is_behind() || !state.notes.is_empty() {
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
            let is_full = self.fed_up == FedUp::All && self.place.is_recent_full();
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
        self.place.close(&appender, notes, &shared.counters)
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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::journal::{Retention, Synchronous, record::Change};

    /// A disk that stays full to the end: what only memory has is lost, counted, and an error.
    #[test]
    fn what_could_not_be_written_to_the_end_is_lost_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let counters = Counters::default();
        let options = JournalOptions {
            target: Target::Sqlite(path.clone()),
            queue_size: 100,
            max_queued_bytes: usize::MAX,
            batch_size: 10,
            linger: Duration::ZERO,
            synchronous: Synchronous::Normal,
            max_bytes: None,
            retention: Retention::Keep,
            sinks: Vec::new(),
            appends_inline: true,
            is_store: true,
        };
        let (mut place, mut appender) = FilePlace::open(path, options, &counters).unwrap();
        appender.fails_from_now_on();
        let mut event = crate::event::Event::new("x");
        event.metadata.event_id = Some(crate::event::EventId::new());
        event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
        let event = crate::event::StoredEvent::new(0, &event).unwrap();
        let append = appender.append(vec![Change::Insert(vec![event])], &counters);
        assert!(matches!(append, Err(JournalError::Degraded { .. })));
        appender.look_after(&counters, true);
        let closed = place.close(&appender, Vec::new(), &counters);
        assert!(
            matches!(closed, Err(JournalError::Lost { events: 1, .. })),
            "{closed:?}"
        );
        assert_eq!(counters.status().lost, 1);
    }
}
