//! A handler: a function of the application that is called with each event that is selected for it. Says what a handler
//! is, and which one is allowed; [`Handling`] calls it. Knows no journal.

mod error;
mod handling;
mod window;

pub use error::HandleError;
pub(super) use handling::Handling;

use super::{Begin, Patience, Selection, subscription};
use crate::sink::{Delivered, Rejection, Sink, SinkError, SinkEvent};
use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use std::{
    error::Error,
    fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How often a handler is called with an event before it is a dead letter, unless it is told otherwise. With the pauses
/// between them that takes six minutes or more, so that a receiver may be away for a while.
const DEFAULT_MAX_ATTEMPTS: u32 = 20;
/// How long a call may take unless it is told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How many calls may be under way unless it is told otherwise.
const DEFAULT_MAX_CONCURRENT: usize = 8;
/// The bounds of the options.
const MOST_CONCURRENT: usize = 1000;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
const LEAST_AGE: Duration = Duration::from_secs(1);
/// How many characters of an error are kept.
const MOST_REASON: usize = 1000;

type Function =
    dyn Fn(SinkEvent) -> BoxFuture<'static, Result<(), Box<dyn Error + Send + Sync>>> + Send + Sync;

/// A function that is called with each event that is selected for it, in the order of the journal for each workflow, and at
/// least once. [`EventStore::handle`](crate::EventStore::handle) is the short form; this type has the options.
///
/// The function returns a `Result`. After an error, a panic, or when [`timeout`](Self::timeout) is over, it is called again,
/// after pauses that grow from 100 ms to 30 s. After [`max_attempts`](Self::max_attempts) or
/// [`max_age`](Self::max_age) the event is a [dead letter](crate::DeadLetter), and the next event of its workflow follows.
/// The text of the error is logged, and is in the dead letter: it must not contain a secret.
///
/// ```
/// use temporal_eventstore::{EventStore, Handler, Selection};
/// # async fn page(_: &str) -> std::io::Result<()> { Ok(()) }
/// # #[tokio::main] async fn main() -> anyhow::Result<()> {
/// let handler = Handler::new("page-on-failure", Selection::only("workflow_end"), async |event| {
///     match event.workflow_state.as_deref() {
///         Some("failed") => page(event.workflow_id.as_deref().unwrap_or_default()).await,
///         _ => Ok(()),
///     }
/// });
/// let events = EventStore::builder()
///     .store("memory:")
///     .handler(handler.max_attempts(5).max_concurrent(2))
///     .build()
///     .await?;
/// # events.shutdown(std::time::Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a handler is called once a store has it: `EventStore::add_handler`"]
pub struct Handler {
    name: String,
    selection: Selection,
    function: Arc<Function>,
    begin: Begin,
    max_attempts: Option<u32>,
    max_age: Option<Duration>,
    max_concurrent: usize,
    timeout: Duration,
}

impl Handler {
    /// Returns a handler. Its cursor and its dead letters are kept under `name`, which no other handler and no sink of the
    /// store has: 1 to 100 characters. Under another name it begins anew.
    pub fn new<F, Fut, E>(name: impl Into<String>, selection: Selection, function: F) -> Self
    where
        F: Fn(SinkEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self {
            name: name.into(),
            selection,
            function: Arc::new(move |event| {
                function(event).map(|done| done.map_err(Into::into)).boxed()
            }),
            begin: Begin::Now,
            max_attempts: Some(DEFAULT_MAX_ATTEMPTS),
            max_age: None,
            max_concurrent: DEFAULT_MAX_CONCURRENT,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Begins with the first event that the journal has, if the journal does not know the name yet. Without this, a new
    /// handler begins behind the newest event: nobody wants to be told of the failures of the last year.
    pub fn from_beginning(mut self) -> Self {
        self.begin = Begin::Beginning;
        self
    }

    /// Begins with the first event that was stored at this time or later, to the second, if the journal does not know the
    /// name yet.
    pub fn from_time(mut self, time: SystemTime) -> Self {
        self.begin = Begin::At(time);
        self
    }

    /// Sets how many calls with one event may fail before the event is a dead letter, from 1; `None` for any number. By
    /// default 20, which takes at least six minutes. A restart of the program begins to count anew.
    pub fn max_attempts(mut self, attempts: impl Into<Option<u32>>) -> Self {
        self.max_attempts = attempts.into();
        self
    }

    /// Makes an event a dead letter after a call that failed, if the event happened so long ago; at least a second. By
    /// default age does not matter.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets how many calls may be under way at once, from 1 to 1000; by default 8. Events of one workflow are handled one
    /// after the other in any case. Events that wait to be tried again do not count. With 1, a handler sees all events in the
    /// order of the journal, but for those that are tried again.
    pub fn max_concurrent(mut self, calls: usize) -> Self {
        self.max_concurrent = calls;
        self
    }

    /// Sets how long a call may take, up to a day; by default a minute. A call that takes longer is dropped at its next
    /// `await`, and counts as failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks everything that it was given.
    pub(crate) fn check(&self) -> Result<(), HandleError> {
        if !subscription::is_name(&self.name) {
            return Err(HandleError::InvalidName {
                name: self.name.chars().take(80).collect(),
                allowed: subscription::allowed_name(),
            });
        }
        if let Err(selection) = self.selection.check() {
            return Err(HandleError::InvalidSelection {
                handler: self.name.clone(),
                selection: selection.chars().take(80).collect(),
                allowed: Selection::ALLOWED,
            });
        }
        let wrong = |option, value, allowed| HandleError::InvalidOption {
            handler: self.name.clone(),
            option,
            value,
            allowed,
        };
        if self.max_attempts == Some(0) {
            return Err(wrong(
                "max_attempts",
                "0".to_owned(),
                "a number from 1, or `None`",
            ));
        }
        if !(1..=MOST_CONCURRENT).contains(&self.max_concurrent) {
            let value = self.max_concurrent.to_string();
            return Err(wrong("max_concurrent", value, "1 to 1000"));
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            let value = humantime::format_duration(self.timeout).to_string();
            return Err(wrong("timeout", value, "more than nothing, up to a day"));
        }
        match self.max_age {
            Some(age) if age < LEAST_AGE => {
                let value = humantime::format_duration(age).to_string();
                Err(wrong("max_age", value, "a second or more"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn begin(&self) -> Begin {
        self.begin
    }

    fn patience(&self) -> Patience {
        Patience {
            attempts: self.max_attempts,
            age: self.max_age,
        }
    }

    /// Calls the function once. Returns why that failed, if so.
    async fn call(&self, event: SinkEvent) -> Result<(), String> {
        // The function itself may panic as well as what it returns.
        let called = AssertUnwindSafe(async { (self.function)(event).await }).catch_unwind();
        match tokio::time::timeout(self.timeout, called).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => {
                let mut reason = error.to_string();
                let mut cause = error.source();
                while let Some(error) = cause {
                    reason = format!("{reason}: {error}");
                    cause = error.source();
                }
                Err(reason.chars().take(MOST_REASON).collect())
            }
            Ok(Err(_)) => Err("it panicked".to_owned()),
            Err(_) => Err(format!("it did not return within {:?}", self.timeout)),
        }
    }
}

/// What dead letters that are sent again go to.
#[async_trait]
impl Sink for Handler {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut rejected = Vec::new();
        for (index, event) in batch.iter().enumerate() {
            if let Err(reason) = self.call(event.clone()).await {
                rejected.push(Rejection::refused(index, reason));
            }
        }
        Ok(Delivered::up_to(batch.len(), rejected))
    }

    async fn check(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("name", &self.name)
            .field("selection", &self.selection)
            .field("begin", &self.begin)
            .field("max_attempts", &self.max_attempts)
            .field("max_age", &self.max_age)
            .field("max_concurrent", &self.max_concurrent)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &str) -> Handler {
        Handler::new(name, Selection::all(), async |_| Ok::<_, String>(()))
    }

    #[test]
    fn what_is_not_allowed_is_named_with_what_is() {
        handler("fine").check().unwrap();
        handler("fine").max_attempts(None).check().unwrap();
        let mut of_nothing = handler("x");
        of_nothing.selection = Selection::only("workflow_end,,");
        let hour = Duration::from_secs(60 * 60);
        for (wrong, text) in [
            (handler(" "), "1 to 100"),
            (handler("a\nb"), "1 to 100"),
            (of_nothing, "workflow_end,,"),
            (handler("x").max_attempts(0), "max_attempts"),
            (handler("x").max_concurrent(0), "max_concurrent"),
            (handler("x").max_concurrent(1001), "1001"),
            (handler("x").timeout(Duration::ZERO), "timeout"),
            (handler("x").timeout(hour * 25), "1day 1h"),
            (handler("x").max_age(Duration::ZERO), "max_age"),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
