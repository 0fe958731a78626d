//! The promises, each as a function that says which one is broken. Knows the subject, and not what is behind it.

use super::{
    BrokenPromise, SinkUnderTest,
    broken_promise::ensure,
    events::{batch, of_workflow},
    subject::Received,
};
use crate::{
    event::Event,
    sink::{Delivered, Rejection, Sink, SinkError, SinkEvent},
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    future::{Future, poll_fn},
    ops::RangeBounds,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

/// How long a call may take when the server is away or does not answer.
const CALL_BOUND: Duration = Duration::from_secs(16);
/// How long a sink may need to find a server that is back.
pub(super) const RETURN_BOUND: Duration = Duration::from_secs(20);

pub(super) type Outcome = Result<(), BrokenPromise>;

/// Events arrive in the order of each workflow.
///
/// # Errors
/// [`BrokenPromise`] if the sink does not keep the promise.
pub async fn order_per_workflow<S: SinkUnderTest>() -> Outcome {
    let subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 180)?;
    for batch in events.chunks(60) {
        takes(&*sink, batch).await?;
    }
    holds(&subject, &events).await
}

/// A batch that comes again, as a whole or in part and also after a restart, spoils nothing. Where the sink can tell
/// duplicates, each event is there once.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn a_batch_that_comes_again<S: SinkUnderTest>() -> Outcome {
    let subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 50)?;
    takes(&*sink, of(&events, ..40)).await?;
    // The whole batch, as if its answer had been lost; then a part of it, with new events behind.
    takes(&*sink, of(&events, ..40)).await?;
    takes(&*sink, of(&events, 20..)).await?;
    // A program that was restarted before it wrote down that the batch was delivered.
    takes(&*subject.open(), of(&events, 20..)).await?;
    holds(&subject, &events).await?;
    let received = subject.received().await.len();
    ensure(!S::DEDUPES || received == events.len(), || {
        format!("{received} events are there, of {}", events.len())
    })
}

/// A sink whose server went away says so in time, and goes on when it is back.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn outage_and_return<S: SinkUnderTest>() -> Outcome {
    let mut subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 90)?;
    takes(&*sink, of(&events, ..30)).await?;
    subject.stop().await;
    for _ in 0..2 {
        fails(sink.deliver(of(&events, 30..60))).await?;
    }
    subject.start().await;
    takes_in_the_end(&*sink, of(&events, 30..60)).await?;
    takes(&*sink, of(&events, 60..)).await?;
    holds(&subject, &events).await
}

/// An event that can never be delivered is rejected, and no other one. Where there is none, an event that is hard to
/// carry arrives like the others.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn poison_is_rejected_alone<S: SinkUnderTest>() -> Outcome {
    let poisoned = [0, 7, 8, 19];
    let subject = S::begin().await;
    let sink = subject.open();
    let mut events = Vec::new();
    for (index, event) in batch(1, 20)?.into_iter().enumerate() {
        events.push(match poisoned.contains(&index) {
            false => event,
            true => of_workflow(
                event.position,
                "order-0",
                S::poison().unwrap_or_else(|| {
                    Event::new("data.odd")
                        .name("Größe\u{2028}\"x\"")
                        .data(serde_json::json!({ "a\0b\r\n": "\0\r\n\u{7f}\u{feff}\u{10ffff}" }))
                }),
            )?,
        });
    }
    if S::poison().is_some() {
        rejects(&subject, &*sink, &events, &poisoned).await
    } else {
        takes(&*sink, &events).await?;
        holds(&subject, &events).await
    }
}

/// An event that is too large is rejected, and no other one. Where nothing is too large, one of 4 MiB arrives.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn oversize<S: SinkUnderTest>() -> Outcome {
    const LARGE: usize = 4;
    let subject = S::begin().await;
    let sink = subject.open();
    let text = "x".repeat(S::oversize().unwrap_or(4 * 1024 * 1024));
    let mut events = Vec::new();
    for (index, event) in batch(1, 9)?.into_iter().enumerate() {
        events.push(if index == LARGE {
            let large = Event::new("large").data(serde_json::json!({ "text": &text }));
            of_workflow(event.position, "order-0", large)?
        } else {
            event
        });
    }
    if S::oversize().is_some() {
        rejects(&subject, &*sink, &events, &[LARGE]).await
    } else {
        takes_in_the_end(&*sink, &events).await?;
        holds(&subject, &events).await
    }
}

/// A sink whose server does not answer says so in time. What was on the way then spoils nothing.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn a_server_that_does_not_answer<S: SinkUnderTest>() -> Outcome {
    let mut subject = S::begin().await;
    let sink = subject.open();
    let events = batch(1, 90)?;
    takes(&*sink, of(&events, ..30)).await?;
    subject.pause().await;
    // Twice, so that the second one meets what the first one left on the way.
    for _ in 0..2 {
        fails(sink.deliver(of(&events, 30..60))).await?;
    }
    subject.resume().await;
    takes_in_the_end(&*sink, of(&events, 30..60)).await?;
    takes(&*sink, of(&events, 60..)).await?;
    // What was on the way when the server was paused would come now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    holds(&subject, &events).await
}

/// A call may be dropped at any moment.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn cancellation_in_flight<S: SinkUnderTest>() -> Outcome {
    const BATCH: usize = 25;
    const MOMENTS: usize = 12;
    let subject = S::begin().await;
    let mut sink = subject.open();
    let events = batch(1, 4 * (BATCH * MOMENTS) as u64)?;
    for (round, batch) in events.chunks(BATCH).enumerate() {
        // A new connection is dropped at each of its steps, one that is in use at those of the batch;
        // at once, and after what was written had the time to arrive.
        if round < 2 * MOMENTS {
            sink = subject.open();
        }
        let hold = Duration::from_millis(if round % 2 == 0 { 0 } else { 10 });
        drop_at_poll(1 + round / 2 % MOMENTS, hold, sink.deliver(batch)).await;
        takes_in_the_end(&*sink, batch).await?;
    }
    // Dropped while the server works on it, and not waited for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    holds(&subject, &events).await
}

/// What a call that was given up had sent may arrive after what later calls sent, and spoils nothing.
///
/// `sink` reaches the server through a network. `hold_back` holds back what the connections of that moment send, while
/// those of later ones go through; what it returns lets it go.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn what_arrives_late<S: SinkUnderTest, R: FnOnce()>(
    subject: &S,
    sink: &dyn Sink,
    hold_back: impl FnOnce() -> R,
) -> Outcome {
    let events = batch(1, 90)?;
    takes(sink, of(&events, ..30)).await?;
    let let_go = hold_back();
    let limit = Duration::from_millis(500);
    let call = tokio::time::timeout(limit, sink.deliver(of(&events, 30..60))).await;
    ensure(call.is_err(), || {
        "a call ended whose batch was held back".to_owned()
    })?;
    // The same batch over another connection, and only then what the first call sent.
    takes_in_the_end(sink, of(&events, 30..60)).await?;
    let_go();
    tokio::time::sleep(Duration::from_millis(300)).await;
    takes(sink, of(&events, 60..)).await?;
    holds(subject, &events).await
}

/// Several sinks, each with workflows of its own, deliver to one server at once.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn several_sinks_at_once<S: SinkUnderTest>() -> Outcome {
    let subject = S::begin().await;
    let events = batch(1, 160)?;
    // Each workflow's events through one sink, as each is of one worker.
    let parts: Vec<Vec<_>> = (0..5)
        .map(|part| {
            let key = format!("order-{part}");
            let of_key = |event: &&SinkEvent| event.key() == Some(&*key);
            events.iter().filter(of_key).cloned().collect()
        })
        .collect();
    let sinks: Vec<_> = parts.iter().map(|_| subject.open()).collect();
    let calls = sinks
        .iter()
        .zip(&parts)
        .map(|(sink, part)| takes(&**sink, part));
    futures_util::future::try_join_all(calls).await?;
    holds(&subject, &events).await
}

/// A check says whether the server can be reached, and delivers nothing.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn check<S: SinkUnderTest>() -> Outcome {
    let mut subject = S::begin().await;
    let sink = subject.open();
    if let Err(error) = sink.check().await {
        return Err(BrokenPromise::new(format!(
            "a check finds no server: {error}"
        )));
    }
    subject.stop().await;
    fails(sink.check()).await?;
    subject.start().await;
    let started = Instant::now();
    while let Err(error) = sink.check().await {
        ensure(started.elapsed() < RETURN_BOUND, || {
            format!("not back: {error}")
        })?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let events = batch(1, 3)?;
    takes(&*sink, &events).await?;
    holds(&subject, &events).await
}

/// Neither the sink nor an error shows a secret, whatever goes wrong.
///
/// # Errors
/// As for [`order_per_workflow`].
pub async fn secrets_are_not_shown<S: SinkUnderTest>() -> Outcome {
    let mut subject = S::begin().await;
    let events = batch(1, 3)?;
    let sink = subject.open();
    let mut shown = vec![format!("{sink:?}"), sink.name().to_owned()];
    takes(&*sink, &events).await?;
    shown.push(format!("{sink:?}"));
    if let Some(sink) = subject.open_with_wrong_secret() {
        let error = fails(sink.deliver(&events)).await?;
        shown.push(format!("{sink:?} {}", all_of(&error)));
        shown.push(all_of(&fails(sink.check()).await?));
    }
    subject.stop().await;
    let error = fails(sink.deliver(&batch(4, 3)?)).await?;
    shown.push(all_of(&error));
    for text in shown {
        for secret in S::SECRETS {
            ensure(!text.contains(secret), || {
                format!("{secret:?} is shown: {text}")
            })?;
        }
    }
    Ok(())
}

/// Everything that an error shows, with its sources.
fn all_of(error: &SinkError) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    sources.fold(format!("{error} {error:?}"), |text, source| {
        format!("{text} {source} {source:?}")
    })
}

pub(super) fn of(events: &[SinkEvent], range: impl RangeBounds<usize>) -> &[SinkEvent] {
    let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
    events.get(bounds).unwrap_or_default()
}

/// That the sink takes the whole batch now.
pub(super) async fn takes(sink: &dyn Sink, batch: &[SinkEvent]) -> Outcome {
    let delivered = sink.deliver(batch).await;
    ensure(delivered == Ok(Delivered::all(batch)), || {
        format!("of {} events: {delivered:?}", batch.len())
    })
}

/// Delivers as the delivery would: again and again, from where the sink left off.
pub(super) async fn takes_in_the_end(sink: &dyn Sink, batch: &[SinkEvent]) -> Outcome {
    let started = Instant::now();
    let mut rest = batch;
    while !rest.is_empty() {
        match sink.deliver(rest).await {
            Ok(delivered) => {
                ensure(delivered.rejected.is_empty(), || {
                    format!("rejected: {:?}", delivered.rejected)
                })?;
                ensure(delivered.taken <= rest.len(), || {
                    format!("{} of {} are taken", delivered.taken, rest.len())
                })?;
                rest = of(rest, delivered.taken..);
            }
            Err(error) => {
                ensure(started.elapsed() < RETURN_BOUND, || {
                    format!("not back: {error}")
                })?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(())
}

/// A call's error, which has to come within the bound.
pub(super) async fn fails<T: Debug>(
    call: impl Future<Output = Result<T, SinkError>>,
) -> Result<SinkError, BrokenPromise> {
    match tokio::time::timeout(CALL_BOUND, call).await {
        Err(_) => Err(BrokenPromise::new(format!(
            "a call did not end within {CALL_BOUND:?}"
        ))),
        Ok(Ok(answer)) => Err(BrokenPromise::new(format!(
            "a call that cannot succeed did: {answer:?}"
        ))),
        Ok(Err(error)) => {
            ensure(!error.reason().is_empty(), || {
                "an error gives no reason".to_owned()
            })?;
            Ok(error)
        }
    }
}

/// That the sink takes the batch except for these events.
async fn rejects<S: SinkUnderTest>(
    subject: &S,
    sink: &dyn Sink,
    events: &[SinkEvent],
    poisoned: &[usize],
) -> Outcome {
    let delivered = sink
        .deliver(events)
        .await
        .map_err(|error| BrokenPromise::new(format!("nothing was taken: {error}")))?;
    ensure(delivered.taken == events.len(), || {
        format!("{} of {} are taken", delivered.taken, events.len())
    })?;
    let rejected: Vec<_> = delivered.rejected.iter().map(|one| one.index).collect();
    ensure(rejected == poisoned, || {
        format!("{rejected:?} are rejected instead of {poisoned:?}")
    })?;
    for Rejection { index, reason, .. } in &delivered.rejected {
        ensure(!reason.is_empty(), || {
            format!("the rejection of {index} gives no reason")
        })?;
        ensure(reason.len() < 1000, || {
            format!("the rejection of {index} quotes the event")
        })?;
    }
    let good: Vec<_> = events
        .iter()
        .enumerate()
        .filter(|(index, _)| !poisoned.contains(index))
        .map(|(_, event)| event.clone())
        .collect();
    holds(subject, &good).await
}

/// That the server holds `sent`: each event, in order per workflow, and each once if the sink can tell duplicates.
pub(super) async fn holds<S: SinkUnderTest>(subject: &S, sent: &[SinkEvent]) -> Outcome {
    are_these(&subject.received().await, sent, S::DEDUPES)
}

/// The same, of what was received.
pub(super) fn are_these(received: &[Received], sent: &[SinkEvent], dedupes: bool) -> Outcome {
    let wanted = per_key(
        sent.iter()
            .map(|event| (event.key(), event.event_id.to_string())),
    );
    let mut found = per_key(
        received
            .iter()
            .map(|Received { event_id, key }| (key.as_deref(), event_id.clone())),
    );
    if !dedupes {
        // The first time that an event came is the one that counts.
        for ids in found.values_mut() {
            let mut seen = HashSet::new();
            ids.retain(|id| seen.insert(id.clone()));
        }
    }
    for (key, ids) in &wanted {
        let found = found.get(key).map_or(&[][..], Vec::as_slice);
        let first = ids.iter().zip(found).position(|(id, found)| id != found);
        ensure(ids == found, || {
            format!(
                "{key:?}: {} events instead of {}; the first that differs is {first:?}",
                found.len(),
                ids.len()
            )
        })?;
    }
    ensure(found.len() == wanted.len(), || {
        "keys that nobody sent".to_owned()
    })
}

/// The ids per key, in order.
fn per_key<'a>(
    events: impl Iterator<Item = (Option<&'a str>, String)>,
) -> BTreeMap<Option<&'a str>, Vec<String>> {
    let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, id) in events {
        keys.entry(key).or_default().push(id);
    }
    keys
}

/// Polls a future so many times, unless it is done before, holds it for a while, and drops it.
async fn drop_at_poll(polls: usize, hold: Duration, future: impl Future) {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        polled += 1;
        let poll = future.as_mut().poll(context);
        if polled >= polls || poll.is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    tokio::time::sleep(hold).await;
}
