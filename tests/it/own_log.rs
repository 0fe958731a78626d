//! What the crate says in its log may be published by whoever reads the log: a `tracing` layer that
//! publishes each line into the same store. Nothing waits for itself, and nothing goes round without end.
//!
//! The layer is the program's own, so that it hears all threads: one process for all of these tests, and one
//! of them at a time.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use temporal_eventstore::{
    Event, EventStore, FilterAction, Health, JournalError, PublishError, Published,
};
use tracing::{Level, Subscriber, field::Visit};
use tracing_subscriber::{
    Layer, filter::LevelFilter, layer::Context, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// All of it together takes much less.
const WITHIN: Duration = Duration::from_secs(20);

/// Where the layer publishes to.
static STORE: Mutex<Option<EventStore>> = Mutex::new(None);
/// The newest lines.
static LINES: Mutex<VecDeque<(Level, String)>> = Mutex::new(VecDeque::new());
/// Whether the layer panics at the next line of the journal's thread.
static PANICS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Publishing;

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Publishing {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if event.metadata().target().starts_with("temporal_eventstore") {
            let mut lines = lock(&LINES);
            lines.push_back((*event.metadata().level(), message.0.clone()));
            if lines.len() > 1000 {
                lines.pop_front();
            }
        }
        if std::thread::current().name() == Some("eventstore-journal")
            && PANICS.swap(false, Ordering::Relaxed)
        {
            panic!("on purpose");
        }
        let store = lock(&STORE).clone();
        if let Some(store) = store {
            DEPTH.set(DEPTH.get() + 1);
            assert!(DEPTH.get() < 10, "it goes round: {}", message.0);
            drop(store.publish(Event::new("log").name(message.0)));
            drop(temporal_eventstore::publish(Event::new("log")));
            DEPTH.set(DEPTH.get() - 1);
        }
    }
}

/// From now on everything that is logged is published to `store`.
fn layer_on(store: &EventStore) {
    *lock(&STORE) = Some(store.clone());
}

fn says(level: Level, words: &str) -> usize {
    let lines = lock(&LINES);
    let said = lines
        .iter()
        .filter(|(at, text)| *at == level && text.contains(words));
    said.count()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < WITHIN / 2, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// On a thread of its own: what waits for itself is not ended by a timeout of its runtime.
fn in_time(test: impl Future<Output = ()> + Send + 'static) {
    static TURN: Mutex<()> = Mutex::new(());
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let _turn = lock(&TURN);
    INSTALLED.get_or_init(|| {
        tracing_subscriber::registry()
            .with(Publishing.with_filter(LevelFilter::TRACE))
            .init();
    });
    lock(&LINES).clear();
    let (done, ended) = std::sync::mpsc::channel();
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test);
        runtime.shutdown_background();
        done.send(()).ok();
    });
    let result = ended.recv_timeout(WITHIN);
    let store = lock(&STORE).take();
    drop(store);
    match result {
        Ok(()) => running.join().unwrap(),
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it waits for itself"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            running.join().unwrap();
        }
    }
}

#[test]
fn a_disabled_store_says_that_it_skips() {
    in_time(async {
        let store = EventStore::disabled();
        layer_on(&store);
        store.publish(Event::new("x")).await.unwrap();
        assert_eq!(says(Level::INFO, "events are skipped"), 1);
        store.shutdown(Duration::from_secs(5)).await.unwrap();
    });
}

#[test]
fn a_full_queue_is_said() {
    in_time(async {
        let store = EventStore::builder()
            .store("memory:")
            .queue_size(10)
            .build();
        let store = store.await.unwrap();
        layer_on(&store);
        until("full", || {
            for _ in 0..1000 {
                drop(store.publish(Event::new("x")));
            }
            store.stats().refused > 0
        })
        .await;
        assert_eq!(says(Level::WARN, "is full"), 1);
        store.shutdown(Duration::from_secs(5)).await.unwrap();
        until("closed", || says(Level::WARN, "the event store closed") > 0).await;
    });
}

#[test]
fn a_store_that_was_shut_down_says_what_it_refuses() {
    in_time(async {
        let store = EventStore::builder()
            .store("memory:")
            .build()
            .await
            .unwrap();
        store.shutdown(Duration::from_secs(5)).await.unwrap();
        layer_on(&store);
        let refused = store.publish(Event::new("x")).await;
        assert!(matches!(refused, Err(PublishError::ShutDown)));
        assert!(says(Level::DEBUG, "was shut down") > 0);
    });
}

#[test]
fn a_server_that_cannot_be_reached_is_said() {
    in_time(async {
        let directory = tempfile::tempdir().unwrap();
        let store = EventStore::builder()
            .store("redis://127.0.0.1:1/events")
            .journal(directory.path().join("journal.db"))
            .build()
            .await
            .unwrap();
        layer_on(&store);
        store.publish(Event::new("x")).await.unwrap();
        until("failing", || {
            matches!(store.health(), Health::SinksFailing { .. })
        })
        .await;
        assert!(store.shutdown(Duration::from_millis(300)).await.is_err());
        assert_eq!(says(Level::WARN, "the sink takes no events"), 1);
    });
}

#[test]
fn a_journal_whose_thread_is_gone_says_so() {
    in_time(async {
        // With a filter, the journal's thread does all of it.
        let store = EventStore::builder()
            .store("memory:")
            .filter(|_: &mut Event| FilterAction::Keep)
            .build()
            .await
            .unwrap();
        assert_eq!(store.health(), Health::Healthy);
        layer_on(&store);
        // An event that is too large is said there.
        PANICS.store(true, Ordering::Relaxed);
        let large = Event::new("x").metadata("large", "x".repeat(1_000_000));
        let lost = store.publish(large).await;
        assert!(
            matches!(lost, Err(PublishError::Journal(JournalError::Stopped(_)))),
            "{lost:?}"
        );
        until("stopped", || {
            matches!(store.health(), Health::Stopped { .. })
        })
        .await;
        for _ in 0..3 {
            let refused = store.publish(Event::new("x")).await.unwrap_err();
            assert!(
                refused.to_string().contains("its thread ended"),
                "{refused}"
            );
        }
        until("said", || {
            says(Level::ERROR, "the journal has stopped") == 1
        })
        .await;
        let ended = store.shutdown(Duration::from_secs(5)).await.unwrap_err();
        assert!(ended.to_string().contains("its thread ended"), "{ended}");
    });
}

#[test]
fn an_awaited_receipt_says_what_became_of_the_event() {
    in_time(async {
        let store = EventStore::builder()
            .store("memory:")
            .filter(|event: &mut Event| match event.event_type.as_str() {
                "debug" => FilterAction::Drop,
                _ => FilterAction::Keep,
            })
            .build()
            .await
            .unwrap();
        let kept = store.publish(Event::new("order")).await.unwrap();
        assert!(matches!(kept, Published::Stored(_)), "{kept:?}");
        assert!(kept.event_id().is_some());
        let dropped = store.publish(Event::new("debug")).await.unwrap();
        assert_eq!(dropped, Published::Filtered);
        assert_eq!(dropped.event_id(), None);
        let off = EventStore::builder().build().await.unwrap();
        let skipped = off.publish(Event::new("order")).await.unwrap();
        assert_eq!(skipped, Published::Skipped);
        let outside = temporal_eventstore::publish(Event::new("order"));
        assert_eq!(outside.await.unwrap(), Published::Skipped);
    });
}
