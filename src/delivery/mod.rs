//! From the journal to the sinks: one task per sink, each with its own cursor, so that a sink that is away does
//! not hold back the others. No workflow and no activity waits for anything here.

mod guard;
mod reading;
mod selection;
mod status;
mod task;

pub(crate) use reading::cursor_name;
pub(crate) use selection::Selection;
pub use status::SinkStats;

use crate::{
    journal::{Journal, JournalError},
    sink::{Sink, SinkError},
};
use guard::call;
use reading::Reading;
use status::Progress;
use std::{sync::Arc, time::Duration};
use task::Task;
use tokio::{sync::watch, task::JoinHandle};

/// How many dead letters are read at once to be sent again.
const DEAD_LETTERS_AT_ONCE: usize = 100;

/// A sink, and which events it gets.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The name under which the sink's cursor and dead letters are kept.
    pub(crate) name: String,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) only: Selection,
}

/// The bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchOptions {
    pub(crate) size: usize,
    /// How long an event may wait for others to be delivered with.
    pub(crate) linger: Duration,
}

/// The delivering tasks. They end when this is dropped.
pub(crate) struct Delivery {
    lines: Vec<Line>,
    stop: watch::Sender<bool>,
}

struct Line {
    name: String,
    sink: Arc<dyn Sink>,
    reading: Arc<Reading>,
    progress: Arc<Progress>,
    task: JoinHandle<()>,
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
    #[error("the dead letters cannot be read: {reason}")]
    Journal {
        /// What went wrong.
        reason: String,
    },
}

impl From<JournalError> for RedeliverError {
    fn from(error: JournalError) -> Self {
        Self::Journal {
            reason: error.to_string(),
        }
    }
}

impl Delivery {
    /// Starts one task per target. Must be called within a tokio runtime.
    pub(crate) fn start(targets: Vec<Target>, journal: &Journal, batch: BatchOptions) -> Self {
        let (stop, stopped) = watch::channel(false);
        let lines = targets
            .into_iter()
            .map(|target| {
                let progress = Arc::new(Progress::default());
                let reading = Arc::new(Reading::new(journal, &target.name));
                let task = Task {
                    name: target.name.clone(),
                    sink: target.sink.clone(),
                    only: target.only,
                    reading: reading.clone(),
                    batch,
                    progress: progress.clone(),
                };
                Line {
                    name: target.name,
                    sink: target.sink,
                    reading,
                    progress,
                    task: tokio::spawn(task.run(stopped.clone())),
                }
            })
            .collect();
        Self { lines, stop }
    }

    /// Resolves when every sink is done with everything up to `position`. Cancel safe.
    pub(crate) async fn reached(&self, position: u64) {
        for line in &self.lines {
            line.progress.reached(position).await;
        }
    }

    /// Returns the position up to which every sink is done.
    pub(crate) fn position(&self) -> u64 {
        let positions = self.lines.iter().map(|line| line.progress.position());
        positions.min().unwrap_or(u64::MAX)
    }

    /// Returns the numbers of each sink. `newest` is the position of the newest event in the journal.
    pub(crate) fn stats(&self, newest: u64) -> Vec<SinkStats> {
        self.lines
            .iter()
            .map(|line| {
                let mut stats = line.progress.stats(&line.name, newest);
                if line.task.is_finished() && !*self.stop.borrow() {
                    stats.failing = Some("its task ended, with the runtime it ran in".to_owned());
                }
                stats
            })
            .collect()
    }

    /// Asks each sink whether its server can be reached now.
    pub(crate) async fn check(&self) -> Vec<(String, Result<(), SinkError>)> {
        let checks = self
            .lines
            .iter()
            .map(|line| async { (line.name.clone(), call(line.sink.check()).await) });
        futures_util::future::join_all(checks).await
    }

    /// Ends the tasks. A batch in flight is given up, and delivered again after the next start.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Sends a sink's dead letters again. Returns how many of them it took.
    pub(crate) async fn redeliver(&self, name: &str) -> Result<u64, RedeliverError> {
        let Some(line) = self.lines.iter().find(|line| line.name == name) else {
            let known: Vec<&str> = self.lines.iter().map(|line| &*line.name).collect();
            return Err(RedeliverError::UnknownSink {
                name: name.to_owned(),
                known: known.join(", "),
            });
        };
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
            // One by one, so that a refusal concerns no other event.
            for letter in letters {
                let Ok(event) = letter.stored_event() else {
                    continue;
                };
                let position = event.position;
                let delivered = call(line.sink.deliver(&[event])).await;
                let delivered = delivered.map_err(|error| RedeliverError::Sink {
                    name: name.to_owned(),
                    error,
                })?;
                if delivered.taken > 0 && delivered.rejected.is_empty() {
                    line.reading.remove_dead_letter(position)?;
                    taken += 1;
                }
            }
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        for line in &self.lines {
            line.task.abort();
        }
    }
}
