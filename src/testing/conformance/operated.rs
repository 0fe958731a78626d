//! What an operator does to the server behind a sink, and what the sink makes of it. Knows no kind of server.

use super::{
    events::batch,
    promises::{Outcome, are_these, fails, of, takes, takes_in_the_end},
    subject::Received,
};
use crate::sink::Sink;
use std::{future::Future, sync::Arc};

/// A sink with a user of its own, on a server that another one can take the place of.
///
/// As for [`SinkUnderTest`](super::SinkUnderTest), a method that cannot do what it says may panic.
pub trait OperatedSink: Sized {
    /// Whether an event that comes again is there once.
    const DEDUPES: bool;

    /// Starts the servers.
    fn begin() -> impl Future<Output = Self>;

    /// Returns a new sink.
    fn open(&self) -> Arc<dyn Sink>;

    /// Returns what the server holds that takes events now, in its order, read without the sink.
    fn received(&self) -> impl Future<Output = Vec<Received>>;

    /// Takes the server away that takes events, and lets another one take them that has what the first one had.
    fn fail_over(&mut self) -> impl Future<Output = ()>;

    /// Takes from the sink's user the right to deliver, or gives it back.
    fn permit(&mut self, permits: bool) -> impl Future<Output = ()>;

    /// Changes the user's password, where the sink finds it, too, and ends the user's connections.
    fn rotate_credential(&mut self) -> impl Future<Output = ()>;
}

/// A sink goes on with the server that takes the place of the one it delivered to. What was delivered is there, in order.
///
/// # Errors
/// [`BrokenPromise`](super::BrokenPromise) if the sink does not keep the promise.
pub async fn failover<S: OperatedSink>() -> Outcome {
    let mut subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 90)?;
    takes_in_the_end(&*sink, of(&events, ..30)).await?;
    subject.fail_over().await;
    takes_in_the_end(&*sink, of(&events, 30..60)).await?;
    takes(&*sink, of(&events, 60..)).await?;
    are_these(&subject.received().await, &events, S::DEDUPES)
}

/// A sink whose user may not deliver says so in time and gives up no event, and goes on when he may.
///
/// # Errors
/// As for [`failover`].
pub async fn permission_lost_and_given_back<S: OperatedSink>() -> Outcome {
    let mut subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 90)?;
    takes_in_the_end(&*sink, of(&events, ..30)).await?;
    subject.permit(false).await;
    for _ in 0..2 {
        fails(sink.deliver(of(&events, 30..60))).await?;
    }
    subject.permit(true).await;
    takes_in_the_end(&*sink, of(&events, 30..60)).await?;
    takes(&*sink, of(&events, 60..)).await?;
    are_these(&subject.received().await, &events, S::DEDUPES)
}

/// A sink goes on when its user's password is another one.
///
/// # Errors
/// As for [`failover`].
pub async fn credential_rotates<S: OperatedSink>() -> Outcome {
    let mut subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 90)?;
    takes_in_the_end(&*sink, of(&events, ..30)).await?;
    subject.rotate_credential().await;
    takes_in_the_end(&*sink, of(&events, 30..60)).await?;
    takes(&*sink, of(&events, 60..)).await?;
    are_these(&subject.received().await, &events, S::DEDUPES)
}
