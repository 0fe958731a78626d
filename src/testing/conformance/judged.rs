//! What the delivery makes of what a sink refuses. Knows the subject, and not what is behind it.

use super::{
    BrokenPromise, SinkUnderTest,
    broken_promise::ensure,
    events::{event, of_workflow},
    promises::{Outcome, RETURN_BOUND, holds},
};
use crate::{
    event::Event,
    sink::SinkEvent,
    store::{EventStore, Health},
};
use std::time::{Duration, Instant};

/// How many events the receiver refuses alike.
const REFUSED: u64 = 15;
/// How long the delivery may need to judge a single event.
pub(super) const JUDGEMENT_BOUND: Duration = Duration::from_secs(10);

/// An event that is refused, alone in its batch and with nothing behind it, becomes a dead letter and holds up nothing.
/// Where nothing is refused, there is nothing to show.
///
/// # Errors
/// [`BrokenPromise`] if the sink does not keep the promise.
pub async fn refused_alone<S: SinkUnderTest>() -> Outcome {
    let Some(poison) = S::poison() else {
        return Ok(());
    };
    let subject = S::begin().await;
    let store = store(&subject).await?;
    let mut good = Vec::new();
    for position in 1..=3 {
        if position == 2 {
            let poison = of_workflow(position, "order-0", poison.clone())?;
            deliver(&store, &poison).await?;
            flush(&store, JUDGEMENT_BOUND).await?;
        }
        let event = event(position, "order-0")?;
        deliver(&store, &event).await?;
        flush(&store, JUDGEMENT_BOUND).await?;
        good.push(event);
    }
    let letters = dead_letters(&store).await?;
    ensure(letters == 1, || {
        format!("{letters} dead letters instead of one")
    })?;
    end(store).await?;
    holds(&subject, &good).await
}

/// A receiver that refuses everything after it took events is away: no event is given up, and all arrive in order when it
/// takes events again. Where a receiver cannot be told to, there is nothing to show.
///
/// # Errors
/// As for [`refused_alone`].
pub async fn refused_alike<S: SinkUnderTest>() -> Outcome {
    let mut subject = S::begin().await;
    let store = store(&subject).await?;
    let first = event(1, "order-0")?;
    deliver(&store, &first).await?;
    flush(&store, JUDGEMENT_BOUND).await?;
    let mut events = vec![first];
    if !subject.refuse_all(true).await {
        return end(store).await;
    }
    let began = Instant::now();
    for position in 2..2 + REFUSED {
        let event = event(position, "order-0")?;
        // Not awaited one by one, so that they are refused in a row.
        drop(store.publish(event.event()?));
        events.push(event);
    }
    while store.health() == Health::Healthy {
        ensure(began.elapsed() < JUDGEMENT_BOUND, || {
            "what is refused alike is no outage".to_owned()
        })?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let letters = dead_letters(&store).await?;
    ensure(letters == 0, || format!("{letters} events were given up"))?;
    subject.refuse_all(false).await;
    flush(&store, RETURN_BOUND).await?;
    let letters = dead_letters(&store).await?;
    ensure(letters == 0, || format!("{letters} events were given up"))?;
    end(store).await?;
    holds(&subject, &events).await
}

async fn store<S: SinkUnderTest>(subject: &S) -> Result<EventStore, BrokenPromise> {
    let store = EventStore::builder().sink(subject.open()).build().await;
    store.map_err(|error| BrokenPromise::new(format!("no store can be built: {error}")))
}

/// Publishes an event, which is delivered soon.
pub(super) async fn deliver(store: &EventStore, event: &SinkEvent) -> Outcome {
    let event: Event = event.event()?;
    let bound = Duration::from_secs(1);
    match tokio::time::timeout(bound, store.publish(event)).await {
        // In memory a receipt waits for the sink, which may take its time with what it refuses.
        Ok(Err(crate::store::PublishError::SinksBehind { .. })) | Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(BrokenPromise::new(format!(
            "an event cannot be published: {error}"
        ))),
    }
}

pub(super) async fn flush(store: &EventStore, bound: Duration) -> Outcome {
    let flushed = store.flush(bound).await;
    flushed.map_err(|error| BrokenPromise::new(format!("{error}; {:?}", store.health())))
}

pub(super) async fn dead_letters(store: &EventStore) -> Result<usize, BrokenPromise> {
    match store.dead_letters(0, usize::MAX).await {
        Ok(letters) => Ok(letters.len()),
        Err(error) => Err(BrokenPromise::new(format!("no dead letters: {error}"))),
    }
}

pub(super) async fn end(store: EventStore) -> Outcome {
    let ended = store.shutdown(JUDGEMENT_BOUND).await;
    ended.map_err(|error| BrokenPromise::new(error.to_string()))
}
