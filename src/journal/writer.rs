//! The journal's thread: takes what waits, prepares it, writes it in one transaction, answers. Owns
//! the log; when the file cannot be written it keeps changes in memory and tries again.

use super::{
    Appended, JournalError, JournalOptions, Target,
    memory::MemoryLog,
    record::{Applied, Change, Draft, HeldRun, Prepared, Record, RunKey, Stored},
    status::Counters,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
#[cfg(feature = "sqlite")]
use {
    super::{
        memory::Backlog,
        sqlite::{Lock, OpenFailure, SqliteLog, Trouble},
    },
    std::path::{Path, PathBuf},
};

/// How often the thread wakes when nothing comes: to try a broken file again, and to make room.
const TICK: Duration = Duration::from_secs(1);
/// How long to wait before a broken file is tried again.
#[cfg(feature = "sqlite")]
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long a transaction waits before it is tried again while somebody else has the file locked.
#[cfg(feature = "sqlite")]
const BUSY_PAUSE: Duration = Duration::from_millis(20);

pub(super) type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// What the thread is asked to do, in order.
pub(super) enum Command<D> {
    Append {
        draft: D,
        answer: Reply<Appended>,
    },
    Commit {
        append: Vec<D>,
        hold: Option<(RunKey, Vec<D>)>,
        answer: Reply<()>,
    },
    Release {
        key: RunKey,
        answer: Reply<()>,
    },
    Replace {
        key: RunKey,
        drafts: Vec<D>,
        answer: Reply<()>,
    },
    Discard {
        key: RunKey,
        answer: Reply<()>,
    },
    Held {
        answer: Reply<Vec<HeldRun>>,
    },
    Read {
        after: u64,
        limit: usize,
        answer: Reply<Vec<Stored>>,
    },
    Flush {
        answer: Reply<()>,
    },
    Close {
        answer: Reply<()>,
    },
}

/// Opens the log and starts the thread. The second channel is disconnected when the thread is done.
pub(super) fn start<D: Draft>(
    options: JournalOptions,
    counters: Arc<Counters>,
) -> Result<(Sender<Command<D>>, Receiver<()>), JournalError> {
    let batch_size = options.batch_size.max(1);
    let log = Log::open(options, &counters)?;
    let (commands, incoming) = crossbeam_channel::unbounded();
    let (finished, done) = crossbeam_channel::bounded::<()>(0);
    let writer = Writer {
        log,
        counters,
        batch_size,
        incoming,
    };
    std::thread::Builder::new()
        .name("eventstore-journal".to_owned())
        .spawn(move || {
            writer.run();
            drop(finished);
        })
        .map_err(|error| JournalError::Stopped(error.to_string()))?;
    Ok((commands, done))
}

struct Writer<D> {
    log: Log,
    counters: Arc<Counters>,
    batch_size: usize,
    incoming: Receiver<Command<D>>,
}

/// Who waits for a batch, and what to say when it is written.
enum Waiting {
    Append(Reply<Appended>, Result<Appended, JournalError>),
    Commit(Reply<()>, Result<(), JournalError>),
}

/// What is written in one transaction.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    waiting: Vec<Waiting>,
    // How many places in the queue it frees.
    events: usize,
}

impl<D: Draft> Writer<D> {
    fn run(mut self) {
        loop {
            let first = match self.incoming.recv_timeout(TICK) {
                Ok(command) => command,
                Err(RecvTimeoutError::Timeout) => {
                    self.log.tick(&self.counters);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Some(answer) = self.work(first) {
                self.log.close(&self.counters);
                answer.send(Ok(())).ok();
                self.refuse_the_rest();
                return;
            }
            self.log.tick(&self.counters);
        }
        self.log.close(&self.counters);
    }

    /// Does one command and what waits behind it, up to a batch. Gives back whom to answer when the
    /// journal is to close.
    fn work(&mut self, first: Command<D>) -> Option<Reply<()>> {
        let mut batch = Batch::default();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append { draft, answer } => {
                    batch.events += 1;
                    let mut records = Vec::with_capacity(1);
                    let result = self.prepare(draft, &mut records);
                    if !records.is_empty() {
                        batch.changes.push(Change::Insert(records));
                    }
                    batch.waiting.push(Waiting::Append(answer, result));
                }
                Command::Commit {
                    append,
                    hold,
                    answer,
                } => {
                    batch.events += append.len();
                    let (records, mut result) = self.prepare_all(append);
                    if !records.is_empty() {
                        batch.changes.push(Change::Insert(records));
                    }
                    if let Some((key, drafts)) = hold {
                        batch.events += drafts.len();
                        let (records, held) = self.prepare_all(drafts);
                        result = result.and(held);
                        batch.changes.push(Change::Hold(key, records));
                    }
                    batch.waiting.push(Waiting::Commit(answer, result));
                }
                Command::Release { key, answer } => {
                    batch.changes.push(Change::Release(key));
                    batch.waiting.push(Waiting::Commit(answer, Ok(())));
                }
                Command::Replace {
                    key,
                    drafts,
                    answer,
                } => {
                    batch.events += drafts.len();
                    let (records, result) = self.prepare_all(drafts);
                    batch.changes.push(Change::Replace(key, records));
                    batch.waiting.push(Waiting::Commit(answer, result));
                }
                Command::Discard { key, answer } => {
                    batch.changes.push(Change::Discard(key));
                    batch.waiting.push(Waiting::Commit(answer, Ok(())));
                }
                Command::Held { answer } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.held()).ok();
                }
                Command::Read {
                    after,
                    limit,
                    answer,
                } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.read(after, limit)).ok();
                }
                Command::Flush { answer } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.durable()).ok();
                }
                Command::Close { answer } => {
                    self.write(batch);
                    return Some(answer);
                }
            }
            next = if batch.events < self.batch_size && batch.waiting.len() < self.batch_size {
                self.incoming.try_recv().ok()
            } else {
                None
            };
        }
        self.write(batch);
        None
    }

    fn prepare(&self, draft: D, records: &mut Vec<Record>) -> Result<Appended, JournalError> {
        // The user's filter runs in there.
        match catch_unwind(AssertUnwindSafe(|| draft.prepare())) {
            Ok(Prepared::Record(record)) => {
                let event_id = record.event_id;
                records.push(record);
                Ok(Appended { event_id })
            }
            Ok(Prepared::Dropped) => {
                self.counters.filtered.fetch_add(1, Relaxed);
                Ok(Appended {
                    event_id: uuid::Uuid::nil(),
                })
            }
            Ok(Prepared::Invalid(reason)) => Err(self.invalid(reason)),
            Err(_) => Err(self.invalid("the filter panicked".to_owned())),
        }
    }

    fn invalid(&self, reason: String) -> JournalError {
        self.counters.invalid.fetch_add(1, Relaxed);
        tracing::warn!(reason, "an event was refused");
        JournalError::Invalid { reason }
    }

    fn prepare_all(&self, drafts: Vec<D>) -> (Vec<Record>, Result<(), JournalError>) {
        let mut records = Vec::with_capacity(drafts.len());
        let mut result = Ok(());
        for draft in drafts {
            result = result.and(self.prepare(draft, &mut records).map(drop));
        }
        (records, result)
    }

    fn write(&mut self, batch: Batch) {
        if batch.events == 0 && batch.waiting.is_empty() {
            return;
        }
        let durable = if batch.changes.is_empty() {
            Ok(())
        } else {
            self.log.apply(batch.changes, &self.counters)
        };
        self.counters.unqueue(batch.events);
        for waiting in batch.waiting {
            // Who has gone away does not want to know.
            match waiting {
                Waiting::Append(answer, result) => {
                    answer
                        .send(result.and_then(|appended| durable.clone().map(|()| appended)))
                        .ok();
                }
                Waiting::Commit(answer, result) => {
                    answer.send(result.and_then(|()| durable.clone())).ok();
                }
            }
        }
    }

    /// What was queued between the order to close and its execution.
    fn refuse_the_rest(&self) {
        while let Ok(command) = self.incoming.try_recv() {
            let events = match command {
                Command::Append { answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    1
                }
                Command::Commit {
                    append,
                    hold,
                    answer,
                } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    append.len() + hold.map_or(0, |(_, drafts)| drafts.len())
                }
                Command::Replace { drafts, answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    drafts.len()
                }
                Command::Release { answer, .. }
                | Command::Discard { answer, .. }
                | Command::Flush { answer }
                | Command::Close { answer } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
                Command::Held { answer } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
                Command::Read { answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
            };
            self.counters.unqueue(events);
            self.counters.refuse(events);
        }
    }
}

/// Where changes go now.
enum Log {
    Memory(MemoryLog),
    #[cfg(feature = "sqlite")]
    File(FileLog),
}

impl Log {
    fn open(options: JournalOptions, counters: &Counters) -> Result<Self, JournalError> {
        match &options.target {
            Target::Memory => Ok(Self::Memory(MemoryLog::new(options.queue_size))),
            #[cfg(feature = "sqlite")]
            Target::Sqlite(path) => {
                let path = path.clone();
                Ok(Self::File(FileLog::open(path, options, counters)?))
            }
        }
    }

    fn apply(&mut self, changes: Vec<Change>, counters: &Counters) -> Result<(), JournalError> {
        match self {
            Self::Memory(log) => {
                let applied = log.apply(&changes);
                count(counters, applied);
                if applied.removed > 0 {
                    counters.lost.fetch_add(applied.removed, Relaxed);
                }
                counters.held.store(log.held_count(), Relaxed);
                counters.depth.store(log.depth(), Relaxed);
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.apply(changes, counters),
        }
    }

    fn durable(&self) -> Result<(), JournalError> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.durable(),
        }
    }

    fn held(&self) -> Result<Vec<HeldRun>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.held()),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.held(),
        }
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Stored>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.read(after, limit)),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.read(after, limit),
        }
    }

    fn tick(&mut self, counters: &Counters) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.tick(counters),
        }
    }

    fn close(&mut self, counters: &Counters) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.close(counters),
        }
    }
}

fn count(counters: &Counters, applied: Applied) {
    counters.transactions.fetch_add(1, Relaxed);
    counters.written.fetch_add(applied.inserted, Relaxed);
    counters.duplicates.fetch_add(applied.duplicates, Relaxed);
}

/// The file, or what is kept until it can be written again.
#[cfg(feature = "sqlite")]
struct FileLog {
    path: PathBuf,
    options: JournalOptions,
    state: FileState,
    backlog: Backlog,
    last_tick: Instant,
}

#[cfg(feature = "sqlite")]
enum FileState {
    Open(SqliteLog),
    /// Closed because it could not be written; `None` for a damaged file, which stays as it is.
    Broken {
        reason: String,
        retry_at: Option<Instant>,
        _lock: Option<Lock>,
    },
}

#[cfg(feature = "sqlite")]
impl FileLog {
    fn open(
        path: PathBuf,
        options: JournalOptions,
        counters: &Counters,
    ) -> Result<Self, JournalError> {
        let backlog = Backlog::new(options.queue_size);
        let state = match open_file(&path, &options) {
            Ok(log) => FileState::Open(log),
            Err(OpenFailure::Refused(error)) => return Err(error),
            Err(OpenFailure::Damaged(reason, lock)) => {
                say_broken(&path, &reason, "the file is damaged");
                counters.degrade(Some(reason.clone()));
                FileState::Broken {
                    reason,
                    retry_at: None,
                    _lock: Some(lock),
                }
            }
        };
        let mut log = Self {
            path,
            options,
            state,
            backlog,
            last_tick: Instant::now(),
        };
        log.measure(counters);
        Ok(log)
    }

    fn apply(&mut self, changes: Vec<Change>, counters: &Counters) -> Result<(), JournalError> {
        let FileState::Open(log) = &mut self.state else {
            return self.keep(changes, counters);
        };
        loop {
            match log.apply(&changes) {
                Ok(applied) => {
                    count(counters, applied);
                    counters.depth.fetch_add(applied.inserted, Relaxed);
                    if changes
                        .iter()
                        .any(|change| !matches!(change, Change::Insert(_)))
                        && let Ok(held) = log.held_count()
                    {
                        counters.held.store(held, Relaxed);
                    }
                    return Ok(());
                }
                // Whoever has the lock will let go; those who wait bound their own patience.
                Err(Trouble::Busy) => std::thread::sleep(BUSY_PAUSE),
                Err(trouble) => {
                    self.break_off(trouble, counters);
                    return self.keep(changes, counters);
                }
            }
        }
    }

    fn keep(&mut self, changes: Vec<Change>, counters: &Counters) -> Result<(), JournalError> {
        let lost = self.backlog.keep(changes);
        if lost > 0 {
            let all = counters.lost.fetch_add(lost, Relaxed) + lost;
            tracing::warn!(
                lost,
                all,
                "memory has no more room for events: some are lost"
            );
        }
        Err(self.degraded())
    }

    fn degraded(&self) -> JournalError {
        JournalError::Degraded {
            reason: match &self.state {
                FileState::Open(_) => String::new(),
                FileState::Broken { reason, .. } => reason.clone(),
            },
        }
    }

    fn durable(&self) -> Result<(), JournalError> {
        if self.backlog.is_empty() {
            Ok(())
        } else {
            Err(self.degraded())
        }
    }

    fn break_off(&mut self, trouble: Trouble, counters: &Counters) {
        let (reason, retry_at, what) = match trouble {
            Trouble::Damaged(reason) => (reason, None, "the file is damaged"),
            Trouble::Passing(reason) => (
                reason,
                Some(Instant::now() + RETRY_PAUSE),
                "it is tried again every few seconds",
            ),
            Trouble::Busy => return,
        };
        say_broken(&self.path, &reason, what);
        counters.degrade(Some(reason.clone()));
        // The connection goes, and with it this store's lock on the file.
        self.state = FileState::Broken {
            reason,
            retry_at,
            _lock: None,
        };
    }

    /// Writes what memory holds back to the file, if it can be written again.
    fn repair(&mut self, counters: &Counters) {
        let Ok(mut log) = open_file(&self.path, &self.options) else {
            return;
        };
        let changes = self.backlog.take();
        match log.apply(&changes) {
            Ok(applied) => {
                count(counters, applied);
                tracing::info!(
                    path = %self.path.display(),
                    events = applied.inserted,
                    "the journal can write its file again; what memory held is in it"
                );
                self.state = FileState::Open(log);
                counters.degrade(None);
                self.measure(counters);
            }
            Err(_) => {
                self.backlog.keep(changes);
            }
        }
    }

    fn tick(&mut self, counters: &Counters) {
        if self.last_tick.elapsed() < TICK {
            return;
        }
        self.last_tick = Instant::now();
        match &mut self.state {
            FileState::Broken {
                retry_at: Some(at), ..
            } if Instant::now() >= *at => {
                *at = Instant::now() + RETRY_PAUSE;
                self.repair(counters);
            }
            FileState::Broken { .. } => {}
            FileState::Open(log) => match log.make_room() {
                Ok((aged, crowded_out)) => {
                    counters.depth.fetch_sub(aged + crowded_out, Relaxed);
                    if crowded_out > 0 {
                        let all = counters.lost.fetch_add(crowded_out, Relaxed) + crowded_out;
                        tracing::warn!(
                            lost = crowded_out,
                            all,
                            "the journal reached its size cap: the oldest events were removed"
                        );
                    }
                    if let Ok(bytes) = log.live_bytes() {
                        counters.bytes.store(bytes, Relaxed);
                    }
                }
                Err(Trouble::Busy) => {}
                Err(trouble) => self.break_off(trouble, counters),
            },
        }
    }

    fn measure(&mut self, counters: &Counters) {
        if let FileState::Open(log) = &self.state {
            if let Ok((depth, held)) = log.counts() {
                counters.depth.store(depth, Relaxed);
                counters.held.store(held, Relaxed);
            }
            if let Ok(bytes) = log.live_bytes() {
                counters.bytes.store(bytes, Relaxed);
            }
        }
    }

    fn held(&self) -> Result<Vec<HeldRun>, JournalError> {
        match &self.state {
            FileState::Open(log) => log.held().map_err(read_error),
            // What is held in the file cannot be seen now; that is no reason to stop.
            FileState::Broken { .. } => Ok(Vec::new()),
        }
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Stored>, JournalError> {
        match &self.state {
            FileState::Open(log) => log.read(after, limit).map_err(read_error),
            FileState::Broken { .. } => Err(self.degraded()),
        }
    }

    fn close(&mut self, counters: &Counters) {
        if !self.backlog.is_empty() {
            self.repair(counters);
        }
        let lost = self.backlog.events() as u64;
        if lost > 0 {
            counters.lost.fetch_add(lost, Relaxed);
            tracing::error!(
                path = %self.path.display(),
                lost,
                "the journal closes while its file cannot be written: what memory held is lost"
            );
        }
        if let FileState::Open(log) = &self.state {
            log.checkpoint();
        }
        self.state = FileState::Broken {
            reason: "closed".to_owned(),
            retry_at: None,
            _lock: None,
        };
    }
}

#[cfg(feature = "sqlite")]
fn open_file(path: &Path, options: &JournalOptions) -> Result<SqliteLog, OpenFailure> {
    SqliteLog::open(
        path,
        options.synchronous,
        options.max_bytes,
        options.retention,
    )
}

#[cfg(feature = "sqlite")]
fn say_broken(path: &Path, reason: &str, what: &str) {
    tracing::error!(
        path = %path.display(),
        reason,
        "the journal cannot be written and turns to memory: {what}"
    );
}

#[cfg(feature = "sqlite")]
fn read_error(trouble: Trouble) -> JournalError {
    JournalError::Read {
        reason: match trouble {
            Trouble::Busy => "another program has it locked".to_owned(),
            Trouble::Passing(reason) | Trouble::Damaged(reason) => reason,
        },
    }
}
