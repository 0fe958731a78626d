//! The journal's thread: takes what waits, prepares it, writes it in one transaction, answers. Owns
//! the log; when the file cannot be written it keeps changes in memory and tries again.

use super::{
    Appended, JournalError, JournalOptions,
    log::Log,
    record::{Change, Draft, Held, Hold, Prepared, Record, Refused, RunKey, Stored},
    status::Counters,
};
use crate::crash_point::crash_point;
use crate::event::EventId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often the thread wakes when nothing comes: to try a broken file again, and to make room.
const TICK: Duration = Duration::from_secs(1);

pub(super) type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// What the thread is asked to do, in order.
pub(super) enum Command<D> {
    Append {
        draft: D,
        answer: Reply<Appended>,
    },
    Commit {
        append: Vec<D>,
        holds: Vec<Hold<D>>,
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
        answer: Reply<Vec<Held>>,
    },
    Read {
        /// The cursor of the sink that reads, if one does.
        reader: Option<String>,
        after: u64,
        limit: usize,
        answer: Reply<Vec<Stored>>,
    },
    Missing {
        ids: Vec<EventId>,
        answer: Reply<Vec<EventId>>,
    },
    Find {
        ids: Vec<EventId>,
        answer: Reply<Vec<String>>,
    },
    Cursor {
        name: String,
        answer: Reply<Option<u64>>,
    },
    /// Moves a cursor and notes what its sink refused, in one transaction.
    MoveCursor {
        name: String,
        position: u64,
        refused: Vec<Refused>,
        answer: Reply<()>,
    },
    Refused {
        sink: Option<String>,
        after: u64,
        limit: usize,
        answer: Reply<Vec<Refused>>,
    },
    Bury {
        sink: String,
        position: u64,
        answer: Reply<()>,
    },
    Flush {
        answer: Reply<()>,
    },
    Close {
        answer: Reply<()>,
    },
}

/// The ways to a thread that runs.
pub(super) struct Started<D> {
    pub(super) commands: Sender<Command<D>>,
    /// Says that somebody waits for what was sent.
    pub(super) nudge: Sender<()>,
    /// Disconnected when the thread is done.
    pub(super) finished: Receiver<()>,
}

/// Opens the log and starts the thread.
pub(super) fn start<D: Draft>(
    options: JournalOptions,
    counters: Arc<Counters>,
) -> Result<Started<D>, JournalError> {
    let batch_size = options.batch_size.max(1);
    let linger = options.linger;
    let log = Log::open(options, &counters)?;
    let (commands, incoming) = crossbeam_channel::unbounded();
    let (nudge, nudges) = crossbeam_channel::bounded(1);
    let (finished, done) = crossbeam_channel::bounded::<()>(0);
    let writer = Writer {
        log,
        counters,
        batch_size,
        linger,
        incoming,
        nudges,
    };
    std::thread::Builder::new()
        .name("eventstore-journal".to_owned())
        .spawn(move || {
            writer.run();
            drop(finished);
        })
        .map_err(|error| JournalError::Stopped(error.to_string()))?;
    Ok(Started {
        commands,
        nudge,
        finished: done,
    })
}

struct Writer<D> {
    log: Log,
    counters: Arc<Counters>,
    batch_size: usize,
    linger: Duration,
    incoming: Receiver<Command<D>>,
    nudges: Receiver<()>,
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
    // Whether somebody waits for it to be durable.
    is_awaited: bool,
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
                let closed = self.log.close(&self.counters);
                answer.send(closed).ok();
                self.refuse_the_rest();
                return;
            }
            self.log.tick(&self.counters);
        }
        // Nobody is there to be told; it has been logged.
        self.log.close(&self.counters).ok();
    }

    /// Does one command and what waits behind it, up to a batch. Gives back whom to answer when the
    /// journal is to close.
    fn work(&mut self, first: Command<D>) -> Option<Reply<()>> {
        let mut batch = Batch::default();
        let write_at = Instant::now() + self.linger;
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
                    holds,
                    answer,
                } => {
                    batch.is_awaited = true;
                    batch.events += append.len();
                    let (records, mut result) = self.prepare_all(append);
                    if !records.is_empty() {
                        batch.changes.push(Change::Insert(records));
                    }
                    for hold in holds {
                        batch.events += hold.drafts.len();
                        let (records, held) = self.prepare_all(hold.drafts);
                        result = result.and(held);
                        let change = Change::Hold(hold.key, hold.evidence, records);
                        batch.changes.push(change);
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
                    reader,
                    after,
                    limit,
                    answer,
                } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.read(reader, after, limit)).ok();
                }
                Command::Missing { ids, answer } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.missing(ids)).ok();
                }
                Command::Find { ids, answer } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.find(&ids)).ok();
                }
                Command::Cursor { name, answer } => {
                    self.write(std::mem::take(&mut batch));
                    answer.send(self.log.cursor(&name)).ok();
                }
                Command::MoveCursor {
                    name,
                    position,
                    refused,
                    answer,
                } => {
                    if !refused.is_empty() {
                        batch.changes.push(Change::Refuse(refused));
                    }
                    batch.changes.push(Change::MoveCursor(name, position));
                    batch.waiting.push(Waiting::Commit(answer, Ok(())));
                }
                Command::Refused {
                    sink,
                    after,
                    limit,
                    answer,
                } => {
                    self.write(std::mem::take(&mut batch));
                    let refused = self.log.refused(sink.as_deref(), after, limit);
                    answer.send(refused).ok();
                }
                Command::Bury {
                    sink,
                    position,
                    answer,
                } => {
                    batch.changes.push(Change::Bury(sink, position));
                    batch.waiting.push(Waiting::Commit(answer, Ok(())));
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
            next = self.next(&mut batch, write_at);
        }
        self.write(batch);
        None
    }

    /// What else goes into the batch: whatever waits already, and while nobody waits for the batch,
    /// what comes until it is time to write.
    fn next(&self, batch: &mut Batch, write_at: Instant) -> Option<Command<D>> {
        if batch.events >= self.batch_size || batch.waiting.len() >= self.batch_size {
            return None;
        }
        if let Ok(command) = self.incoming.try_recv() {
            return Some(command);
        }
        while !batch.is_awaited && !batch.waiting.is_empty() {
            crossbeam_channel::select! {
                recv(self.incoming) -> command => return command.ok(),
                recv(self.nudges) -> _ => batch.is_awaited = true,
                default(write_at.saturating_duration_since(Instant::now())) => return None,
            }
        }
        self.incoming.try_recv().ok()
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
                    event_id: EventId::SKIPPED,
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
        crash_point("before-group-commit");
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
                    holds,
                    answer,
                } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    append.len() + holds.iter().map(|hold| hold.drafts.len()).sum::<usize>()
                }
                Command::Replace { drafts, answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    drafts.len()
                }
                Command::Missing { answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
                Command::Find { answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
                Command::Cursor { answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
                Command::Refused { answer, .. } => {
                    answer.send(Err(JournalError::Closed)).ok();
                    0
                }
                Command::Bury { answer, .. }
                | Command::Release { answer, .. }
                | Command::Discard { answer, .. }
                | Command::MoveCursor { answer, .. }
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
