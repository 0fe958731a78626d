//! From the journal to the sinks: one task per sink, each with its own cursor, so that a sink that is away does
//! not hold back the others; and one per handler, which is a function of the application. No workflow and no activity
//! waits for anything here.

mod begin;
mod control;
mod fill;
mod guard;
mod handler;
mod judgement;
mod patience;
mod reading;
mod runner;
mod selection;
mod status;
mod subscription;
mod suspects;
mod task;

pub(crate) use begin::Begin;
pub use control::ControlError;
pub use handler::{HandleError, Handler};
pub(crate) use patience::Patience;
pub(crate) use reading::cursor_name;
pub use selection::Selection;
pub use status::SinkStats;
pub(crate) use subscription::{Subscription, SubscriptionError};

use crate::{
    event::DeadLetter,
    journal::{Journal, JournalError},
    sink::{Sink, SinkError},
};
use guard::call;
use handler::Handling;
use reading::Reading;
use runner::Runner;
use status::Progress;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use task::Task;
use tokio::{sync::watch, task::JoinHandle};

/// How many dead letters are read at once to be sent again.
const DEAD_LETTERS_AT_ONCE: usize = 100;

/// How long the start waits for a journal that has to say where a new sink begins. The sink's task asks on.
const LONGEST_BEGIN: Duration = Duration::from_secs(5);

/// The bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchOptions {
    pub(crate) size: usize,
    /// How long an event may wait for others to be delivered with.
    pub(crate) linger: Duration,
    /// How many events, and bytes of them, may wait in the journal for a batch that its sink wants large.
    pub(crate) most_waiting: (usize, usize),
}

/// The delivering tasks. They end when this is dropped.
pub(crate) struct Delivery {
    lines: Mutex<Vec<Arc<Line>>>,
    // One handler is added at a time.
    adding: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
}

struct Line {
    name: String,
    sink: Arc<dyn Sink>,
    reading: Arc<Reading>,
    progress: Arc<Progress>,
    runner: Runner,
    // None while an operator's command ends it.
    running: Mutex<Option<JoinHandle<()>>>,
    // One command of an operator at a time.
    commands: tokio::sync::Mutex<()>,
    // Also over when the delivery is gone.
    stop: watch::Receiver<bool>,
}

/// What a sink answered when it was asked whether its server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkCheck {
    /// The sink's name.
    pub name: String,
    /// The answer. The error says what is wrong.
    pub result: Result<(), SinkError>,
}

/// Why dead letters were not sent again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedeliverError {
    /// No sink has that name.
    #[error("no sink is called {name:?}; there are {known}")]
    UnknownSink {
        /// The name that was asked for.
        name: String,
        /// The names of the sinks.
        known: String,
    },
    /// The sink failed. Events that it had not taken by then stay dead letters.
    #[error("the sink {name:?} failed: {error}")]
    Sink {
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        error: SinkError,
    },
    /// The journal could not be read or written.
    #[error("the dead letters cannot be read: {0}")]
    Journal(#[from] JournalError),
}

impl Delivery {
    /// Starts one task per subscription. Where a new sink begins is decided and written down by then, unless the journal
    /// cannot be read or written. Must be called within a tokio runtime.
    pub(crate) async fn start(
        subscriptions: Vec<Subscription>,
        journal: &Journal,
        batch: BatchOptions,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut lines = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let Subscription {
                name,
                sink,
                only,
                begin,
                patience,
            } = subscription;
            let progress = Arc::new(Progress::default());
            let reading = Arc::new(Reading::new(journal, &name, begin));
            let runner = Runner::Sink(Arc::new(Task {
                name: name.clone(),
                sink: sink.clone(),
                only,
                reading: reading.clone(),
                batch,
                filling: sink.filling(),
                patience,
                progress: progress.clone(),
            }));
            if begin != Begin::Beginning {
                // Whoever publishes next may mean it for this sink.
                tokio::time::timeout(LONGEST_BEGIN, runner.decide_begin())
                    .await
                    .ok();
            }
            let running = tokio::spawn(runner.clone().run(stopped.clone()));
            lines.push(Arc::new(Line {
                name,
                sink,
                reading,
                progress,
                runner,
                running: Mutex::new(Some(running)),
                commands: tokio::sync::Mutex::default(),
                stop: stopped.clone(),
            }));
        }
        Self {
            lines: Mutex::new(lines),
            adding: tokio::sync::Mutex::default(),
            stop,
        }
    }

    /// Adds a handler, and starts its task. Where a new one begins is decided and written down by then, unless the journal
    /// cannot be read or written. Must be called within a tokio runtime.
    pub(crate) async fn add(&self, handler: Handler, journal: &Journal) -> Result<(), HandleError> {
        handler.check()?;
        let _one = self.adding.lock().await;
        let name = handler.name().to_owned();
        if self.line(&name).is_ok() {
            return Err(HandleError::NameTaken { name });
        }
        if *self.stop.borrow() {
            return Err(JournalError::Closed.into());
        }
        let begin = handler.begin();
        let handler = Arc::new(handler);
        let progress = Arc::new(Progress::default());
        let reading = Arc::new(Reading::new(journal, &name, begin));
        let runner = Runner::Handler(Arc::new(Handling {
            handler: handler.clone(),
            reading: reading.clone(),
            progress: progress.clone(),
        }));
        let ready = async {
            reading.keep().await?;
            match begin {
                Begin::Beginning => Ok(()),
                // Whoever publishes next may mean it for this handler.
                _ => runner.decide_begin().await,
            }
        };
        // Whatever else goes wrong, its task asks on.
        if let Ok(Err(error @ (JournalError::Closed | JournalError::Stopped(_)))) =
            tokio::time::timeout(LONGEST_BEGIN, ready).await
        {
            return Err(error.into());
        }
        let stopped = self.stop.subscribe();
        let running = tokio::spawn(runner.clone().run(stopped.clone()));
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(Arc::new(Line {
            name,
            sink: handler,
            reading,
            progress,
            runner,
            running: Mutex::new(Some(running)),
            commands: tokio::sync::Mutex::default(),
            stop: stopped,
        }));
        Ok(())
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clone()
    }

    fn sinks(&self) -> Vec<Arc<Line>> {
        let mut lines = self.lines();
        lines.retain(|line| matches!(line.runner, Runner::Sink(_)));
        lines
    }

    /// Whether there are sinks, which are places where events are kept. Handlers are none.
    pub(crate) fn has_sinks(&self) -> bool {
        !self.sinks().is_empty()
    }

    /// Resolves when every sink and handler is done with everything up to `position`, whatever handlers are. Cancel safe.
    pub(crate) async fn reached_by_sinks(&self, position: u64) {
        for line in self.sinks() {
            line.progress.reached(position).await;
        }
    }

    /// Resolves when every sink is done with everything up to `position`. Cancel safe.
    pub(crate) async fn reached(&self, position: u64) {
        for line in self.lines() {
            line.progress.reached(position).await;
        }
    }

    /// Returns the position up to which every sink and handler is done.
    pub(crate) fn position(&self) -> u64 {
        let lines = self.lines();
        let positions = lines.iter().map(|line| line.progress.position());
        positions.min().unwrap_or(u64::MAX)
    }

    /// Returns the numbers of each sink. `newest` is the position of the newest event in the journal.
    pub(crate) fn stats(&self, newest: u64) -> Vec<SinkStats> {
        self.lines()
            .iter()
            .map(|line| {
                let mut stats = line.progress.stats(&line.name, newest);
                if line.has_ended() && !stats.is_paused && !*self.stop.borrow() {
                    stats.failing = Some("its task ended, with the runtime it ran in".to_owned());
                }
                stats
            })
            .collect()
    }

    /// Asks each sink whether its server can be reached now.
    pub(crate) async fn check(&self) -> Vec<SinkCheck> {
        let lines = self.lines();
        let checks = lines.iter().map(|line| async {
            SinkCheck {
                name: line.name.clone(),
                result: call(line.sink.check()).await,
            }
        });
        futures_util::future::join_all(checks).await
    }

    /// Ends the tasks. A batch in flight is given up, and delivered again after the next start.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when no handler runs any more, after [`stop`](Self::stop).
    pub(crate) async fn ended(&self) {
        for line in self.lines() {
            if matches!(line.runner, Runner::Handler(_)) {
                line.end().await;
            }
        }
    }

    fn line(&self, name: &str) -> Result<Arc<Line>, UnknownSink> {
        let lines = self.lines();
        let line = lines.iter().find(|line| line.name == name);
        line.cloned().ok_or_else(|| {
            let known: Vec<&str> = lines.iter().map(|line| &*line.name).collect();
            UnknownSink {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    /// Sends a sink's dead letters again. Returns how many of them it took.
    pub(crate) async fn redeliver(&self, name: &str) -> Result<u64, RedeliverError> {
        let line = self.line(name)?;
        let mut taken = 0;
        let mut after = 0;
        loop {
            let letters = line
                .reading
                .dead_letters(after, DEAD_LETTERS_AT_ONCE)
                .await?;
            let Some(last) = letters.last() else {
                return Ok(taken);
            };
            after = last.position;
            // One by one, so that a rejection concerns no other event.
            for letter in letters {
                taken += u64::from(line.send_again(&letter).await?);
            }
        }
    }

    /// Sends one dead letter of a sink again. Returns whether the sink took it; none if there is no such letter.
    pub(crate) async fn redeliver_one(
        &self,
        name: &str,
        position: u64,
    ) -> Result<Option<bool>, RedeliverError> {
        let line = self.line(name)?;
        let letters = line
            .reading
            .dead_letters(position.saturating_sub(1), 1)
            .await?;
        match letters.first().filter(|letter| letter.position == position) {
            Some(letter) => line.send_again(letter).await.map(Some),
            None => Ok(None),
        }
    }
}

/// No sink has that name.
struct UnknownSink {
    name: String,
    known: String,
}

impl From<UnknownSink> for RedeliverError {
    fn from(UnknownSink { name, known }: UnknownSink) -> Self {
        Self::UnknownSink { name, known }
    }
}

impl Line {
    /// Sends a dead letter again. Returns whether the sink took it.
    async fn send_again(&self, letter: &DeadLetter) -> Result<bool, RedeliverError> {
        let Ok(event) = letter.stored_event() else {
            return Ok(false);
        };
        // If the sink was not told yet where its events come from.
        self.runner.standing().await?;
        let position = event.position;
        let delivered = call(self.sink.deliver(&[event])).await;
        let delivered = delivered.map_err(|error| RedeliverError::Sink {
            name: self.name.clone(),
            error,
        })?;
        let is_taken = delivered.taken > 0 && delivered.rejected.is_empty();
        if is_taken {
            self.reading.taken(position)?;
            self.reading.remove_dead_letter(position)?;
        }
        Ok(is_taken)
    }

    fn has_ended(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        for line in self.lines() {
            let running = line.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(running) = &*running {
                running.abort();
            }
        }
    }
}
