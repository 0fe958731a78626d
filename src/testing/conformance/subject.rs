//! What the suite needs to know of a sink and its server. Knows no promise.

use crate::{event::Event, sink::Sink};
use std::{future::Future, sync::Arc};

/// A sink and the server behind it, as the suite sees them.
///
/// The suite calls the methods in the thread of the test. A method that cannot do what it says may panic: it is a part
/// of the test.
pub trait SinkUnderTest: Sized {
    /// Whether an event that comes again is there once.
    const DEDUPES: bool;
    /// What must never be shown, such as a password, in all its spellings.
    const SECRETS: &'static [&'static str];

    /// Starts the server.
    fn begin() -> impl Future<Output = Self>;

    /// Returns a new sink, as after a restart of the program.
    fn open(&self) -> Arc<dyn Sink>;

    /// Returns a URL that names the sink, if [`sink::open`](crate::sink::open) knows it. What the delivery reads out of a
    /// URL is shown with it.
    fn url(&self) -> Option<String> {
        None
    }

    /// Returns a new sink that does not prove who it is, as with a wrong password. None if there is no such thing.
    fn open_with_wrong_secret(&self) -> Option<Arc<dyn Sink>> {
        None
    }

    /// Returns what the server holds, in its order, read without the sink.
    fn received(&self) -> impl Future<Output = Vec<Received>>;

    /// Ends the server.
    fn stop(&mut self) -> impl Future<Output = ()>;

    /// Starts it again with what it held.
    fn start(&mut self) -> impl Future<Output = ()>;

    /// Lets the server take connections and not answer.
    fn pause(&mut self) -> impl Future<Output = ()>;

    /// Lets it go on, with what came meanwhile.
    fn resume(&mut self) -> impl Future<Output = ()>;

    /// Lets the server refuse every event for what it is, as a validation does that went wrong, until it is told not to.
    /// Returns false if it cannot be told to.
    fn refuse_all(&mut self, refuses: bool) -> impl Future<Output = bool> {
        let _ = refuses;
        std::future::ready(false)
    }

    /// Returns an event that this sink can never take, of whatever size. None if it takes all.
    fn poison() -> Option<Event>;

    /// Returns how many bytes of data the server refuses. None if it takes all that a journal may hold.
    fn oversize() -> Option<usize>;
}

/// An event as the server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The event's id.
    pub event_id: String,
    /// The key that orders events, as the server has it.
    pub key: Option<String>,
}
