//! What an operator tells one sink: to pause, to go on, to leave events out. Each ends the sink's task first, so that
//! nothing is under way, and starts it anew. A command runs in a task of its own: if its caller goes away, it is
//! carried out all the same, and leaves no sink without its task.

use super::{Delivery, Line, UnknownSink};
use crate::journal::JournalError;
use std::sync::PoisonError;

/// Why a sink was not paused, resumed or moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No sink has that name.
    #[error("no sink is called {name:?}; there are {known}")]
    UnknownSink {
        /// The name that was asked for.
        name: String,
        /// The names of the sinks.
        known: String,
    },
    /// A sink can only be moved forward, and not further than the journal goes.
    #[error("{position} is no position to go to; allowed: {least} to {most}")]
    InvalidPosition {
        /// The position that was asked for.
        position: u64,
        /// Where the sink stands.
        least: u64,
        /// The position of the newest event.
        most: u64,
    },
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<UnknownSink> for ControlError {
    fn from(UnknownSink { name, known }: UnknownSink) -> Self {
        Self::UnknownSink { name, known }
    }
}

impl Delivery {
    /// Ends a sink's deliveries until they are resumed, also over a restart.
    pub(crate) async fn pause(&self, name: &str) -> Result<(), ControlError> {
        let line = self.line(name)?;
        whole(async move {
            let _one = line.commands.lock().await;
            line.end().await;
            line.reading.pause(true)?;
            line.progress.pause(true);
            Ok(())
        })
        .await?;
        // Not before it is written. Whoever resumes the sink does not wait for that.
        Ok(self.line(name)?.reading.flush().await?)
    }

    /// Goes on with a sink's deliveries.
    pub(crate) async fn resume(&self, name: &str) -> Result<(), ControlError> {
        let line = self.line(name)?;
        whole(async move {
            let _one = line.commands.lock().await;
            line.end().await;
            let noted = line.reading.pause(false);
            if noted.is_ok() {
                line.progress.pause(false);
            }
            line.begin();
            Ok(noted?)
        })
        .await
    }

    /// Moves a sink forward, as if it had everything up to `position`. `newest` is the position of the newest event.
    /// Returns how many positions it leaves out.
    pub(crate) async fn skip(
        &self,
        name: &str,
        position: u64,
        newest: u64,
    ) -> Result<u64, ControlError> {
        let line = self.line(name)?;
        whole(async move {
            let _one = line.commands.lock().await;
            line.end().await;
            let stood = line.runner.standing().await;
            let moved = stood.map_err(ControlError::from).and_then(|stood| {
                if !(stood.position..=newest).contains(&position) {
                    return Err(ControlError::InvalidPosition {
                        position,
                        least: stood.position,
                        most: newest,
                    });
                }
                line.reading.settle(position, Vec::new())?;
                line.progress.move_to(position);
                Ok(position - stood.position)
            });
            // It goes on in any case; if it is paused, it learns that and ends.
            line.begin();
            moved
        })
        .await
    }
}

/// Runs a command to its end, also if its caller goes away meanwhile.
async fn whole<T: Send + 'static>(
    command: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::spawn(command).await {
        Ok(done) => done,
        // The runtime is shut down.
        Err(error) => Err(JournalError::Stopped(error.to_string()).into()),
    }
}

impl Line {
    fn begin(&self) {
        let running = tokio::spawn(self.runner.clone().run(self.stop.clone()));
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    }

    /// Ends its task. A batch in flight is given up, and delivered again.
    pub(super) async fn end(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(running) = running {
            running.abort();
            // Cancelled, which is what was asked for, or over already.
            running.await.ok();
        }
    }
}
