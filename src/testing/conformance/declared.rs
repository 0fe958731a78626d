//! What the delivery makes of what a sink's URL declares. Knows the subject, and not what is behind it.

use super::{
    BrokenPromise, SinkUnderTest,
    broken_promise::ensure,
    events::event,
    judged::{dead_letters, deliver, end, flush},
    promises::{Outcome, RETURN_BOUND, are_these, holds},
};
use crate::{event::EventId, store::EventStore};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// After how many attempts an event is given up.
const ATTEMPTS: u32 = 2;
/// How long so many attempts may take with a server that is away.
const ATTEMPTS_BOUND: Duration = Duration::from_secs(45);

/// A new sink that is declared with `eventstore.from=now` takes nothing that was published before, and everything after,
/// also after a restart. Where no URL names the sink, or without the feature `sqlite`, there is nothing to show.
///
/// # Errors
/// [`BrokenPromise`] if the sink does not keep the promise.
pub async fn begins_now<S: SinkUnderTest>() -> Outcome {
    let subject = S::begin().await;
    let Some(url) = subject.url().filter(|_| cfg!(feature = "sqlite")) else {
        return Ok(());
    };
    let scratch = Scratch::new()?;
    let journal = format!("sqlite:{}", scratch.0.join("events.db").display());
    let url = with(&url, "eventstore.from=now");
    let mut taken = Vec::new();
    let mut position = 0;
    for urls in [&[&*journal][..], &[&*journal, &*url], &[&*journal, &*url]] {
        let store = open(urls).await?;
        for _ in 0..3 {
            position += 1;
            let event = event(position, "order-0")?;
            deliver(&store, &event).await?;
            if urls.len() > 1 {
                taken.push(event);
            }
        }
        flush(&store, RETURN_BOUND).await?;
        end(store).await?;
    }
    holds(&subject, &taken).await
}

/// An event that could not be delivered in `eventstore.max_attempts` attempts is a dead letter; what comes before and
/// after it arrives. Where no URL names the sink, there is nothing to show.
///
/// # Errors
/// As for [`begins_now`].
pub async fn gives_up<S: SinkUnderTest>() -> Outcome {
    let mut subject = S::begin().await;
    let Some(url) = subject.url() else {
        return Ok(());
    };
    let store = open(&[&with(&url, &format!("eventstore.max_attempts={ATTEMPTS}"))]).await?;
    let events = [
        event(1, "order-0")?,
        event(2, "order-1")?,
        event(3, "order-0")?,
    ];
    let [before, given_up, after] = &events;
    deliver(&store, before).await?;
    flush(&store, RETURN_BOUND).await?;
    subject.stop().await;
    deliver(&store, given_up).await?;
    let began = Instant::now();
    while dead_letters(&store).await? == 0 {
        ensure(began.elapsed() < ATTEMPTS_BOUND, || {
            format!("it is not given up; {:?}", store.health())
        })?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    subject.start().await;
    // Only then: a server that is not quite back would cost this one its attempts.
    let began = Instant::now();
    while subject.open().check().await.is_err() {
        ensure(began.elapsed() < RETURN_BOUND, || "not back".to_owned())?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    deliver(&store, after).await?;
    flush(&store, RETURN_BOUND).await?;
    let letters = dead_letters(&store).await?;
    ensure(letters == 1, || {
        format!("{letters} dead letters instead of one")
    })?;
    end(store).await?;
    // A server that was only cut off may have it after all.
    let mut received = subject.received().await;
    received.retain(|one| one.event_id != given_up.event_id.to_string());
    are_these(&received, &[before.clone(), after.clone()], S::DEDUPES)
}

/// A URL with one more parameter.
fn with(url: &str, parameter: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}{parameter}")
}

async fn open(urls: &[&str]) -> Result<EventStore, BrokenPromise> {
    let builder = EventStore::builder();
    let builder = urls
        .iter()
        .fold(builder, |builder, url| builder.store(*url));
    let store = builder.build().await;
    store.map_err(|error| BrokenPromise::new(format!("no store can be built: {error}")))
}

/// A directory that ends with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, BrokenPromise> {
        let path = std::env::temp_dir().join(format!("eventstore-{}", EventId::new()));
        make(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn make(path: &Path) -> Outcome {
    let made = std::fs::create_dir(path);
    made.map_err(|error| BrokenPromise::new(format!("no directory can be made: {error}")))
}
