//! What every sink has to do, whatever it delivers to. A sink is entered by implementing [`Target`]
//! and naming it in [`conformance!`], which gives each promise a test of its own.

use crate::support::proxy::Proxy;
use chrono::Utc;
use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Event, EventId,
    sink::{self, Delivered, Sink, SinkError, SinkEvent},
};

/// How long a call may take when the server is away or does not answer.
const CALL_BOUND: Duration = Duration::from_secs(15);
/// How long a sink may need to find a server that is back.
const RETURN_BOUND: Duration = Duration::from_secs(20);

/// A sink and the server behind it, as the suite sees them.
#[allow(async_fn_in_trait, reason = "only the tests call it")]
pub trait Target: Sized {
    /// Whether an event that comes again is there once.
    const DEDUPES: bool;
    /// What stands in the URL and must never be shown.
    const SECRETS: &'static [&'static str];

    /// Starts the server.
    async fn begin() -> Self;
    /// Where the sink delivers to, with the secrets.
    fn url(&self) -> String;
    /// The same with a wrong secret; none if there is no such thing.
    fn url_with_wrong_secret(&self) -> Option<String>;
    /// What the server holds, in its order, read with a client of its own.
    async fn received(&self) -> Vec<Received>;
    /// Ends the server.
    async fn stop(&mut self);
    /// Starts it again with what it held.
    async fn start(&mut self);
    /// Lets the server take connections and not answer.
    async fn pause(&mut self);
    /// Lets it go on, with what came meanwhile.
    async fn resume(&mut self);
    /// An event that this sink can never take, of whatever size; none if it takes all.
    fn poison() -> Option<Event>;
    /// How large an event has to be for the server to refuse it; none if it takes all that a journal
    /// may hold.
    fn oversize() -> Option<usize>;
    /// URLs that must not open, each with a word that the reason has to contain.
    fn wrong_urls() -> Vec<(&'static str, &'static str)>;

    /// A new sink, as after a restart of the program.
    fn open(&self) -> Arc<dyn Sink> {
        self.open_url(&self.url())
    }

    /// A new sink at this URL.
    fn open_url(&self, url: &str) -> Arc<dyn Sink> {
        sink::open(url).unwrap()
    }

    /// Starts the server with a network before it.
    async fn begin_behind_network() -> (Self, Proxy) {
        let target = Self::begin().await;
        let network = Proxy::to(target.port()).await;
        (target, network)
    }

    /// The server's own port.
    fn port(&self) -> u16 {
        url::Url::parse(&self.url()).unwrap().port().unwrap()
    }
}

/// An event as the server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub event_id: String,
    pub key: Option<String>,
}

/// One test per promise for a [`Target`]. One that sends its clients to its own address, whatever is
/// before it, is `without_network`.
macro_rules! conformance {
    ($module:ident, $target:ty) => {
        $crate::support::conformance::conformance!($module, $target, {
            #[tokio::test]
            async fn what_arrives_late() {
                suite::what_arrives_late::<$target>().await;
            }
        });
    };
    ($module:ident, $target:ty, without_network) => {
        $crate::support::conformance::conformance!($module, $target, {});
    };
    ($module:ident, $target:ty, { $($behind_network:item)* }) => {
        mod $module {
            use super::*;
            use $crate::support::conformance as suite;

            #[tokio::test]
            async fn order_per_workflow() {
                suite::order_per_workflow::<$target>().await;
            }
            #[tokio::test]
            async fn a_batch_that_comes_again() {
                suite::a_batch_that_comes_again::<$target>().await;
            }
            #[tokio::test]
            async fn outage_and_return() {
                suite::outage_and_return::<$target>().await;
            }
            #[tokio::test]
            async fn poison_is_rejected_alone() {
                suite::poison_is_rejected_alone::<$target>().await;
            }
            #[tokio::test]
            async fn oversize() {
                suite::oversize::<$target>().await;
            }
            #[tokio::test]
            async fn a_server_that_does_not_answer() {
                suite::a_server_that_does_not_answer::<$target>().await;
            }
            #[tokio::test]
            async fn cancellation_in_flight() {
                suite::cancellation_in_flight::<$target>().await;
            }
            $($behind_network)*
            #[tokio::test]
            async fn several_sinks_at_once() {
                suite::several_sinks_at_once::<$target>().await;
            }
            #[tokio::test]
            async fn check() {
                suite::check::<$target>().await;
            }
            #[tokio::test]
            async fn secrets_are_not_shown() {
                suite::secrets_are_not_shown::<$target>().await;
            }
            // Outside of a runtime: opening starts nothing.
            #[test]
            fn wrong_urls() {
                suite::wrong_urls::<$target>();
            }
        }
    };
}
pub(crate) use conformance;

/// An event of a workflow, as the journal hands it out.
pub fn event(position: u64, workflow_id: &str) -> SinkEvent {
    sink_event(
        position,
        workflow_id,
        Event::new("data.processed")
            .name("DataProcessed")
            .data(serde_json::json!({ "position": position, "text": "Größe \"x\"\n" })),
    )
}

fn sink_event(position: u64, workflow_id: &str, mut event: Event) -> SinkEvent {
    event.metadata.event_id = Some(EventId::new());
    event.metadata.created_at = Some(Utc::now());
    event.metadata.namespace = Some("default".into());
    event.metadata.application_name = Some("test".into());
    event.metadata.workflow_type = Some("Order".into());
    event.metadata.workflow_id = Some(workflow_id.into());
    event.metadata.sequence = Some(position);
    SinkEvent::new(position, &event).unwrap()
}

/// `count` events of five workflows, one after the other.
pub fn batch(first: u64, count: u64) -> Vec<SinkEvent> {
    (first..first + count)
        .map(|position| event(position, &format!("order-{}", position % 5)))
        .collect()
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

/// That the server holds `sent`: each event, in order per workflow, and each once if the sink can
/// tell duplicates.
async fn assert_received<T: Target>(target: &T, sent: &[SinkEvent]) {
    let received = target.received().await;
    let wanted = per_key(
        sent.iter()
            .map(|event| (event.key(), event.event_id.to_string())),
    );
    let mut found = per_key(
        received
            .iter()
            .map(|event| (event.key.as_deref(), event.event_id.clone())),
    );
    if !T::DEDUPES {
        // The first time that an event came is the one that counts.
        for ids in found.values_mut() {
            let mut seen = std::collections::HashSet::new();
            ids.retain(|id| seen.insert(id.clone()));
        }
    }
    for (key, ids) in &wanted {
        let found = found.get(key).map_or(&[][..], Vec::as_slice);
        let first = ids.iter().zip(found).position(|(id, found)| id != found);
        assert!(
            ids == found,
            "{key:?}: {} events instead of {}; the first that differs is {first:?}",
            found.len(),
            ids.len()
        );
    }
    assert_eq!(found.len(), wanted.len(), "keys that nobody sent");
}

fn assert_all(delivered: Result<Delivered, SinkError>, batch: &[SinkEvent]) {
    assert_eq!(delivered.unwrap(), Delivered::all(batch));
}

/// Delivers as the delivery would: again and again, from where the sink left off.
async fn deliver_until_taken(sink: &dyn Sink, batch: &[SinkEvent]) {
    let started = Instant::now();
    let mut rest = batch;
    while !rest.is_empty() {
        match sink.deliver(rest).await {
            Ok(delivered) => {
                assert_eq!(delivered.rejected, []);
                rest = &rest[delivered.taken..];
            }
            Err(error) => {
                assert!(started.elapsed() < RETURN_BOUND, "not back: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A call's error, which has to come within the bound.
async fn error_within_bound<T: std::fmt::Debug>(
    call: impl Future<Output = Result<T, SinkError>>,
) -> SinkError {
    let started = Instant::now();
    let error = tokio::time::timeout(CALL_BOUND + Duration::from_secs(1), call)
        .await
        .expect("a call that ends")
        .unwrap_err();
    eprintln!("an error after {:?}: {error}", started.elapsed());
    assert!(!error.reason().is_empty());
    error
}

pub async fn order_per_workflow<T: Target>() {
    let target = T::begin().await;
    let sink = target.open();
    let events = batch(1, 180);
    for batch in events.chunks(60) {
        assert_all(sink.deliver(batch).await, batch);
    }
    assert_received(&target, &events).await;
}

pub async fn a_batch_that_comes_again<T: Target>() {
    let target = T::begin().await;
    let sink = target.open();
    let events = batch(1, 50);
    assert_all(sink.deliver(&events[..40]).await, &events[..40]);
    // The whole batch, as if its answer had been lost; then a part of it, with new events behind.
    assert_all(sink.deliver(&events[..40]).await, &events[..40]);
    assert_all(sink.deliver(&events[20..]).await, &events[20..]);
    // A program that was restarted before it wrote down that the batch was delivered.
    assert_all(target.open().deliver(&events[20..]).await, &events[20..]);
    assert_received(&target, &events).await;
    if T::DEDUPES {
        assert_eq!(target.received().await.len(), events.len());
    }
}

pub async fn outage_and_return<T: Target>() {
    let mut target = T::begin().await;
    let sink = target.open();
    let events = batch(1, 90);
    assert_all(sink.deliver(&events[..30]).await, &events[..30]);
    target.stop().await;
    for _ in 0..2 {
        error_within_bound(sink.deliver(&events[30..60])).await;
    }
    target.start().await;
    deliver_until_taken(&*sink, &events[30..60]).await;
    assert_all(sink.deliver(&events[60..]).await, &events[60..]);
    assert_received(&target, &events).await;
}

pub async fn poison_is_rejected_alone<T: Target>() {
    let target = T::begin().await;
    let sink = target.open();
    let mut events = batch(1, 20);
    let poisoned = [0, 7, 8, 19];
    for index in poisoned {
        let position = u64::try_from(index).unwrap() + 1;
        // Where nothing is poison, what is hard to carry arrives like everything else.
        let event = T::poison().unwrap_or_else(|| {
            Event::new("data.odd")
                .name("Größe\u{2028}\"x\"")
                .data(serde_json::json!({ "a\0b\r\n": "\0\r\n\u{7f}\u{feff}\u{10ffff}" }))
        });
        events[index] = sink_event(position, "order-0", event);
    }
    if T::poison().is_some() {
        assert_rejected(&target, &*sink, &events, &poisoned).await;
    } else {
        assert_all(sink.deliver(&events).await, &events);
        assert_received(&target, &events).await;
    }
}

pub async fn oversize<T: Target>() {
    let target = T::begin().await;
    let sink = target.open();
    let mut events = batch(1, 9);
    let bytes = T::oversize().unwrap_or(4 * 1024 * 1024);
    events[4] = sink_event(
        5,
        "order-0",
        Event::new("large").data(serde_json::json!({ "text": "x".repeat(bytes) })),
    );
    if T::oversize().is_some() {
        assert_rejected(&target, &*sink, &events, &[4]).await;
    } else {
        deliver_until_taken(&*sink, &events).await;
        assert_received(&target, &events).await;
    }
}

async fn assert_rejected<T: Target>(
    target: &T,
    sink: &dyn Sink,
    events: &[SinkEvent],
    poisoned: &[usize],
) {
    let delivered = sink.deliver(events).await.unwrap();
    assert_eq!(delivered.taken, events.len());
    let rejected: Vec<_> = delivered.rejected.iter().map(|one| one.index).collect();
    assert_eq!(rejected, poisoned);
    for rejection in &delivered.rejected {
        eprintln!("rejected: {}", rejection.reason);
        assert!(!rejection.reason.is_empty());
        assert!(rejection.reason.len() < 1000, "the event is not quoted");
    }
    let good: Vec<_> = events
        .iter()
        .enumerate()
        .filter(|(index, _)| !poisoned.contains(index))
        .map(|(_, event)| event.clone())
        .collect();
    assert_received(target, &good).await;
}

pub async fn a_server_that_does_not_answer<T: Target>() {
    let mut target = T::begin().await;
    let sink = target.open();
    let events = batch(1, 90);
    assert_all(sink.deliver(&events[..30]).await, &events[..30]);
    target.pause().await;
    // Twice, so that the second one meets what the first one left on the way.
    for _ in 0..2 {
        error_within_bound(sink.deliver(&events[30..60])).await;
    }
    target.resume().await;
    deliver_until_taken(&*sink, &events[30..60]).await;
    assert_all(sink.deliver(&events[60..]).await, &events[60..]);
    // What was on the way when the server was paused would come now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_received(&target, &events).await;
}

pub async fn cancellation_in_flight<T: Target>() {
    const BATCH: usize = 25;
    const MOMENTS: usize = 12;
    let target = T::begin().await;
    let mut sink = target.open();
    let events = batch(1, 4 * (BATCH * MOMENTS) as u64);
    for (round, batch) in events.chunks(BATCH).enumerate() {
        // A new connection is dropped at each of its steps, one that is in use at those of the batch;
        // at once, and after what was written had the time to arrive.
        if round < 2 * MOMENTS {
            sink = target.open();
        }
        let hold = Duration::from_millis(if round % 2 == 0 { 0 } else { 10 });
        drop_at_poll(1 + round / 2 % MOMENTS, hold, sink.deliver(batch)).await;
        deliver_until_taken(&*sink, batch).await;
    }
    // Dropped while the server works on it, and not waited for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_received(&target, &events).await;
}

/// Polls a future so many times, unless it is done before, holds it for a while, and drops it.
async fn drop_at_poll(polls: usize, hold: Duration, future: impl Future) {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        let poll = future.as_mut().poll(context);
        if left == 0 || poll.is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    tokio::time::sleep(hold).await;
}

pub async fn what_arrives_late<T: Target>() {
    let (target, network) = T::begin_behind_network().await;
    let [server, before_it] = [target.port(), network.port()].map(|port| format!(":{port}/"));
    let sink = target.open_url(&target.url().replace(&server, &before_it));
    let events = batch(1, 90);
    assert_all(sink.deliver(&events[..30]).await, &events[..30]);
    let held = network.hold_back();
    tokio::time::timeout(Duration::from_millis(500), sink.deliver(&events[30..60]))
        .await
        .expect_err("nothing arrives");
    // The same batch over another connection, and only then what the first call sent.
    deliver_until_taken(&*sink, &events[30..60]).await;
    held.send_replace(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_all(sink.deliver(&events[60..]).await, &events[60..]);
    assert_received(&target, &events).await;
}

pub async fn several_sinks_at_once<T: Target>() {
    let target = T::begin().await;
    let events = batch(1, 160);
    // Each workflow's events through one sink, as each is of one worker.
    let parts: Vec<Vec<_>> = (0..5)
        .map(|part| {
            let key = format!("order-{part}");
            let of_key = |event: &&SinkEvent| event.key() == Some(&*key);
            events.iter().filter(of_key).cloned().collect()
        })
        .collect();
    let sinks: Vec<_> = parts.iter().map(|_| target.open()).collect();
    let calls = sinks.iter().zip(&parts).map(|(sink, part)| async {
        assert_all(sink.deliver(part).await, part);
    });
    futures::future::join_all(calls).await;
    assert_received(&target, &events).await;
}

pub async fn check<T: Target>() {
    let mut target = T::begin().await;
    let sink = target.open();
    sink.check().await.unwrap();
    target.stop().await;
    error_within_bound(sink.check()).await;
    target.start().await;
    let started = Instant::now();
    while let Err(error) = sink.check().await {
        assert!(started.elapsed() < RETURN_BOUND, "not back: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A check delivers nothing.
    let events = batch(1, 3);
    assert_all(sink.deliver(&events).await, &events);
    assert_received(&target, &events).await;
}

pub async fn secrets_are_not_shown<T: Target>() {
    let mut target = T::begin().await;
    let events = batch(1, 3);
    let sink = target.open();
    let mut shown = vec![format!("{sink:?}"), sink.name().to_owned()];
    assert_all(sink.deliver(&events).await, &events);
    shown.push(format!("{sink:?}"));
    if let Some(url) = target.url_with_wrong_secret() {
        let sink = sink::open(&url).unwrap();
        let error = error_within_bound(sink.deliver(&events)).await;
        shown.push(format!("{sink:?} {error} {error:?}"));
        let error = error_within_bound(sink.check()).await;
        shown.push(format!("{error} {error:?}"));
    }
    target.stop().await;
    let error = error_within_bound(sink.deliver(&batch(4, 3))).await;
    shown.push(format!("{error} {error:?}"));
    let error = sink::open(&format!("{}#x", target.url())).unwrap_err();
    shown.push(format!("{error} {error:?}"));
    for text in shown {
        for secret in T::SECRETS {
            assert!(!text.contains(secret), "{secret:?} is shown: {text}");
        }
    }
}

pub fn wrong_urls<T: Target>() {
    for (url, word) in T::wrong_urls() {
        let Err(error) = sink::open(url) else {
            panic!("{url} opens");
        };
        let text = error.to_string();
        assert!(error.reason.contains(word), "{url}: {text}");
        assert!(!error.allowed.is_empty(), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{url}: {text}");
        assert!(!format!("{error:?}").contains("hunter2"), "{url}: {text}");
    }
}
