//! What carries events to a receiver: the task of a sink, or that of a handler.

use super::{
    handler::Handling,
    reading::{Reading, Standing},
    task::Task,
};
use crate::journal::JournalError;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Clone)]
pub(super) enum Runner {
    Sink(Arc<Task>),
    Handler(Arc<Handling>),
}

impl Runner {
    /// Delivers until it is told to stop or the journal is closed. Ends at once if it is paused.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) {
        match self {
            Self::Sink(task) => task.run(stop).await,
            Self::Handler(handling) => handling.run(stop).await,
        }
    }

    /// Returns where it stands.
    pub(super) async fn standing(&self) -> Result<Standing, JournalError> {
        match self {
            Self::Sink(task) => task.standing().await,
            Self::Handler(handling) => handling.standing().await,
        }
    }

    /// Decides where a new one begins, and waits until that is written down.
    pub(super) async fn decide_begin(&self) -> Result<(), JournalError> {
        self.standing().await?;
        self.reading().flush().await
    }

    fn reading(&self) -> &Reading {
        match self {
            Self::Sink(task) => &task.reading,
            Self::Handler(handling) => &handling.reading,
        }
    }
}
