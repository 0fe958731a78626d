//! Handlers: functions of the application that are called with events, at least once, in order per workflow, and without
//! any workflow that waits for them.

use crate::support::{Ground, outcome, until, with_example_worker, workflows};
use serde_json::json;
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use temporal_eventstore::{
    BuildError, ControlError, Event, EventQuery, EventStore, FlushError, HandleError, Handler,
    Health, JournalError, ReadError, Selection, StoredEvent,
    sink::{Delivered, Sink, SinkError, SinkEvent},
    testing::TestSink,
};

const TIMEOUT: Duration = Duration::from_secs(10);

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("events.db")
    }

    async fn store(&self) -> EventStore {
        let url = format!("sqlite:{}", self.file().display());
        EventStore::builder().store(url).build().await.unwrap()
    }
}

/// What a handler was called with, as `number` of the events.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u64>>>);

impl Seen {
    fn note(&self, event: &StoredEvent) {
        self.0.lock().unwrap().push(number(event));
    }

    fn numbers(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }
}

fn number(event: &StoredEvent) -> u64 {
    event.event().unwrap().data["number"].as_u64().unwrap()
}

fn numbered(workflow: &str, number: u64) -> Event {
    let mut event = Event::new("test.event").data(json!({ "number": number }));
    event.metadata.workflow_id = Some(workflow.to_owned());
    event
}

async fn publish(events: &EventStore, workflow: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        events.publish(numbered(workflow, number)).await.unwrap();
    }
}

/// A handler that takes everything.
fn noting(name: &str, seen: &Seen) -> Handler {
    let seen = seen.clone();
    Handler::new(name, Selection::only("user"), move |event| {
        seen.note(&event);
        async { Ok::<_, String>(()) }
    })
}

#[tokio::test]
async fn it_hears_of_a_workflow_that_failed() {
    let (_ground, events, client) = Ground::with_plugin().await;
    let failed = Arc::new(Mutex::new(Vec::new()));
    let heard = failed.clone();
    events
        .handle(
            "notify-on-failure",
            Selection::only("workflow_end"),
            move |event: StoredEvent| {
                let heard = heard.clone();
                async move {
                    if event.workflow_state.as_deref() == Some("failed") {
                        heard.lock().unwrap().push(event.workflow_id);
                    }
                    Ok::<_, std::io::Error>(())
                }
            },
        )
        .await
        .unwrap();
    with_example_worker(&client, async {
        outcome(&client, workflows::Noop::run, (), "fine")
            .await
            .unwrap();
        outcome(&client, workflows::Fail::run, (), "broken")
            .await
            .unwrap_err();
        until("it is heard", || !failed.lock().unwrap().is_empty()).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(*failed.lock().unwrap(), [Some("broken".to_owned())]);
    let stats = events.stats().sinks;
    // Two ends; what begins, and activities, are passed over.
    assert_eq!(
        (stats[0].name.as_str(), stats[0].delivered),
        ("notify-on-failure", 2)
    );
    assert!(
        stats[0].passed_over >= 4 && stats[0].behind == 0,
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_new_one_begins_now_or_where_it_is_told_and_goes_on_after_a_restart() {
    let scratch = Scratch::new();
    let [now, all, later] = [(); 3].map(|()| Seen::default());
    let events = scratch.store().await;
    publish(&events, "w", 0..3).await;
    // Not flushed: what is in the log alone is before `now`, too.
    events.add_handler(noting("now", &now)).await.unwrap();
    events
        .add_handler(noting("all", &all).from_beginning())
        .await
        .unwrap();
    let hour = Duration::from_secs(60 * 60);
    let later_on = noting("later", &later).from_time(std::time::SystemTime::now() + hour);
    events.add_handler(later_on).await.unwrap();
    publish(&events, "w", 3..5).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(now.numbers(), [3, 4]);
    assert_eq!(all.numbers(), [0, 1, 2, 3, 4]);
    // While no handler is named, events wait for it.
    let events = scratch.store().await;
    publish(&events, "w", 5..6).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let events = scratch.store().await;
    events.add_handler(noting("now", &now)).await.unwrap();
    events.add_handler(noting("all", &all)).await.unwrap();
    publish(&events, "w", 6..7).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(now.numbers(), [3, 4, 5, 6]);
    assert_eq!(all.numbers(), [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn each_workflow_is_in_order_and_several_go_side_by_side() {
    let scratch = Scratch::new();
    let events = scratch.store().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (noted, running, most) = (
        seen.clone(),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (is_running, most_running) = (running.clone(), most.clone());
    let handler = Handler::new("order", Selection::all(), move |event: StoredEvent| {
        let (noted, running, most) = (noted.clone(), is_running.clone(), most_running.clone());
        async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(1 + event.position % 5)).await;
            running.fetch_sub(1, SeqCst);
            // Now and then one fails: those behind it wait.
            let attempts = noted
                .lock()
                .unwrap()
                .iter()
                .filter(|it| it == &&(event.key().unwrap().to_owned(), number(&event), false))
                .count();
            let is_handled = !event.position.is_multiple_of(17) || attempts > 0;
            noted.lock().unwrap().push((
                event.key().unwrap().to_owned(),
                number(&event),
                is_handled,
            ));
            if is_handled { Ok(()) } else { Err("not yet") }
        }
    });
    events.add_handler(handler.max_concurrent(3)).await.unwrap();
    for number in 0..20 {
        for workflow in ["a", "b", "c", "d", "e"] {
            drop(events.publish(numbered(workflow, number)));
        }
    }
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(most.load(SeqCst), 3, "as many as it may, and no more");
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() > 100, "none was tried again");
    for workflow in ["a", "b", "c", "d", "e"] {
        let handled = seen
            .iter()
            .filter(|(of, _, is_handled)| of == workflow && *is_handled);
        let numbers: Vec<u64> = handled.map(|(_, number, _)| *number).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "{workflow}");
        // One that fails holds back those behind it.
        let mut all: Vec<u64> = seen
            .iter()
            .filter(|it| it.0 == workflow)
            .map(|it| it.1)
            .collect();
        all.dedup();
        assert_eq!(all, numbers, "{workflow}");
    }
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn an_event_that_is_not_managed_is_a_dead_letter_and_the_rest_goes_on() {
    let scratch = Scratch::new();
    let events = scratch.store().await;
    let seen = Seen::default();
    let is_mended = Arc::new(AtomicBool::new(false));
    let (noted, mended) = (seen.clone(), is_mended.clone());
    let handler = Handler::new("h", Selection::all(), move |event: StoredEvent| {
        noted.note(&event);
        let is_mended = mended.load(SeqCst);
        async move {
            match number(&event) {
                1 if !is_mended => Err("no such recipient"),
                2 if !is_mended => panic!("on purpose"),
                3 if !is_mended => std::future::pending().await,
                _ => Ok(()),
            }
        }
    });
    let handler = handler.max_attempts(3).timeout(Duration::from_millis(50));
    events.add_handler(handler).await.unwrap();
    publish(&events, "w", 0..5).await;
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(seen.numbers(), [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
    let letters = events.dead_letters(0, 10).await.unwrap();
    let reasons: Vec<&str> = letters.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(
        reasons,
        [
            "given up after 3 attempts: no such recipient",
            "given up after 3 attempts: it panicked",
            "given up after 3 attempts: it did not return within 50ms",
        ]
    );
    let stats = &events.stats().sinks[0];
    assert_eq!((stats.delivered, stats.rejected, stats.retries), (2, 3, 6));
    assert_eq!(events.health(), Health::Healthy);
    assert_eq!(events.redeliver("h").await.unwrap(), 0);
    is_mended.store(true, SeqCst);
    assert_eq!(events.redeliver("h").await.unwrap(), 3);
    assert!(events.dead_letters(0, 10).await.unwrap().is_empty());
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn one_that_fails_holds_back_its_workflow_alone_and_health_says_so() {
    let scratch = Scratch::new();
    let events = scratch.store().await;
    let seen = Seen::default();
    let is_up = Arc::new(AtomicBool::new(false));
    let (noted, up) = (seen.clone(), is_up.clone());
    let handler = Handler::new("h", Selection::all(), move |event: StoredEvent| {
        let is_away = event.key() == Some("stuck") && !up.load(SeqCst);
        if !is_away {
            noted.note(&event);
        }
        async move {
            match is_away {
                true => Err("it is away"),
                false => Ok(()),
            }
        }
    });
    // One that waits for its next attempt takes nobody's place.
    events
        .add_handler(handler.max_attempts(None).max_concurrent(1))
        .await
        .unwrap();
    publish(&events, "stuck", 0..2).await;
    publish(&events, "other", 2..50).await;
    until("the others are handled", || seen.numbers().len() == 48).await;
    let Health::SinksFailing { sinks } = events.health() else {
        panic!("{:?}", events.health());
    };
    assert_eq!((&*sinks[0].name, &*sinks[0].reason), ("h", "it is away"));
    // The cursor is below it, so that a crash does not lose it.
    assert_eq!(events.stats().sinks[0].position, 0);
    let error = events.flush(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, FlushError::SinksBehind { .. }), "{error}");
    is_up.store(true, SeqCst);
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(seen.numbers()[48..], [0, 1]);
    assert_eq!(events.health(), Health::Healthy);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn what_happened_too_long_ago_is_given_up() {
    let scratch = Scratch::new();
    let events = scratch.store().await;
    let handler = Handler::new("h", Selection::all(), |_| async { Err("away") });
    let handler = handler.max_attempts(None).max_age(Duration::from_secs(60));
    events.add_handler(handler).await.unwrap();
    let mut event = numbered("w", 0);
    event.metadata.created_at = Some(chrono::Utc::now() - Duration::from_secs(3600));
    events.publish(event).await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    let letters = events.dead_letters(0, 10).await.unwrap();
    assert!(
        letters[0].reason.contains("age of"),
        "{}",
        letters[0].reason
    );
    events.shutdown(TIMEOUT).await.unwrap();
}

/// Behind an event that is tried again, one is given up. A restart before the cursor is there does not call it again.
#[tokio::test]
async fn a_dead_letter_above_the_cursor_stays_one_after_a_restart() {
    let scratch = Scratch::new();
    let seen = Seen::default();
    let handler = |attempts: Option<u32>| {
        let noted = seen.clone();
        let handler = Handler::new("h", Selection::all(), move |event: StoredEvent| {
            let number = number(&event);
            if number == 1 {
                noted.note(&event);
            }
            async move {
                match number {
                    // Not given up by then.
                    0 => std::future::pending().await,
                    1 => Err("no"),
                    _ => Ok(()),
                }
            }
        });
        handler.max_attempts(attempts)
    };
    let events = scratch.store().await;
    events.add_handler(handler(Some(1))).await.unwrap();
    publish(&events, "a", 0..1).await;
    publish(&events, "b", 1..3).await;
    until("it is given up", || events.stats().sinks[0].rejected == 1).await;
    events.shutdown(TIMEOUT / 20).await.unwrap_err();
    let events = scratch.store().await;
    events.add_handler(handler(None)).await.unwrap();
    until("it is read", || events.stats().sinks[0].delivered == 1).await;
    assert_eq!(seen.numbers(), [1]);
    assert_eq!(events.dead_letters(0, 10).await.unwrap().len(), 1);
    events.shutdown(TIMEOUT / 20).await.unwrap_err();
}

/// Counts calls that are over, however they ended.
struct Call(Arc<AtomicUsize>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_running_and_then_stops() {
    let scratch = Scratch::new();
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let dropped = Arc::new(AtomicUsize::new(0));
    let slow = |pause: Duration| {
        let (begun, ended, dropped) = (begun.clone(), ended.clone(), dropped.clone());
        Handler::new("slow", Selection::all(), move |_| {
            let (begun, ended) = (begun.clone(), ended.clone());
            let call = Call(dropped.clone());
            async move {
                let _call = call;
                begun.fetch_add(1, SeqCst);
                tokio::time::sleep(pause).await;
                ended.fetch_add(1, SeqCst);
                Ok::<_, String>(())
            }
        })
    };
    let events = scratch.store().await;
    let short = Duration::from_millis(400);
    events.add_handler(slow(short)).await.unwrap();
    publish(&events, "w", 0..1).await;
    until("it runs", || begun.load(SeqCst) == 1).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ended.load(SeqCst), 1);
    // One that does not come to an end in time is stopped, and the event comes again.
    let events = scratch.store().await;
    let long = Duration::from_secs(30);
    events.add_handler(slow(long)).await.unwrap();
    publish(&events, "w", 1..2).await;
    until("it runs", || begun.load(SeqCst) == 2).await;
    let before = Instant::now();
    let error = events.shutdown(short).await.unwrap_err();
    assert!(error.to_string().contains("slow (1)"), "{error}");
    assert!(before.elapsed() < TIMEOUT);
    assert_eq!(dropped.load(SeqCst), 2, "it still runs");
    let error = events.add_handler(slow(short)).await.unwrap_err();
    assert!(matches!(error, HandleError::NameTaken { .. }), "{error}");
    let error = events.add_handler(noting("new", &Seen::default())).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, HandleError::Journal(JournalError::Closed)),
        "{error}"
    );
    let events = scratch.store().await;
    events.add_handler(slow(Duration::ZERO)).await.unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((begun.load(SeqCst), ended.load(SeqCst)), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shutdown_none_runs() {
    let scratch = Scratch::new();
    let events = scratch.store().await;
    let (begun, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (runs, over) = (begun.clone(), dropped.clone());
    let handler = Handler::new("h", Selection::all(), move |_| {
        let (runs, call) = (runs.clone(), Call(over.clone()));
        async move {
            let _call = call;
            runs.fetch_add(1, SeqCst);
            loop {
                // What blocks its thread ends at the next `await`.
                std::thread::sleep(Duration::from_millis(300));
                tokio::task::yield_now().await;
                if runs.load(SeqCst) == 0 {
                    return Ok::<_, String>(());
                }
            }
        }
    });
    events.add_handler(handler).await.unwrap();
    publish(&events, "w", 0..1).await;
    until("it runs", || begun.load(SeqCst) == 1).await;
    events.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(dropped.load(SeqCst), 1, "it still runs");
}

#[tokio::test]
async fn names_and_selections_that_are_not_allowed_are_refused() {
    let scratch = Scratch::new();
    let seen = Seen::default();
    let builder = || EventStore::builder().store(format!("sqlite:{}", scratch.file().display()));
    for wrong in [
        builder()
            .handler(noting("one", &seen))
            .handler(noting("one", &seen)),
        builder()
            .handler(noting("one", &seen))
            .sink(TestSink::new("one")),
    ] {
        let error = wrong.build().await.unwrap_err();
        let BuildError::Handler(HandleError::NameTaken { name }) = &error else {
            panic!("{error}");
        };
        assert_eq!(name, "one");
    }
    let events = builder()
        .handler(noting("one", &seen))
        .sink(TestSink::new("two"))
        .build()
        .await
        .unwrap();
    for taken in ["one", "two"] {
        let error = events.add_handler(noting(taken, &seen)).await.unwrap_err();
        assert!(matches!(&error, HandleError::NameTaken { name } if name == taken));
    }
    let wrong = Selection::only("workflow_*_end");
    let error = events.handle("three", wrong, async |_| Ok::<_, String>(()));
    let error = error.await.unwrap_err().to_string();
    assert!(
        error.contains("workflow_*_end") && error.contains("`lifecycle`"),
        "{error}"
    );
    // What was refused has left nothing behind.
    publish(&events, "w", 0..1).await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(seen.numbers(), [0]);
    assert_eq!(events.stats().sinks.len(), 2);
}

#[tokio::test]
async fn operators_pause_it_as_they_pause_a_sink() {
    let scratch = Scratch::new();
    let seen = Seen::default();
    let events = scratch.store().await;
    events.add_handler(noting("h", &seen)).await.unwrap();
    publish(&events, "w", 0..1).await;
    events.flush(TIMEOUT).await.unwrap();
    events.pause_sink("h").await.unwrap();
    publish(&events, "w", 1..4).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let events = scratch.store().await;
    events.add_handler(noting("h", &seen)).await.unwrap();
    until("it is known", || events.stats().sinks[0].is_paused).await;
    assert_eq!(seen.numbers(), [0]);
    assert_eq!(events.skip_sink("h", 2).await.unwrap(), 1);
    events.resume_sink("h").await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(seen.numbers(), [0, 2, 3]);
    let error = events.pause_sink("other").await.unwrap_err();
    assert!(matches!(error, ControlError::UnknownSink { .. }), "{error}");
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn events_in_memory_are_handled_and_nobody_who_publishes_waits_for_it() {
    let events = EventStore::builder()
        .store("memory:")
        .build()
        .await
        .unwrap();
    let seen = Seen::default();
    events.add_handler(noting("h", &seen)).await.unwrap();
    let stuck = Handler::new("stuck", Selection::all(), async |_| {
        std::future::pending::<Result<(), String>>().await
    });
    events.add_handler(stuck).await.unwrap();
    let before = Instant::now();
    publish(&events, "w", 0..3).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    until("they are handled", || seen.numbers() == [0, 1, 2]).await;
    // Memory that is the store keeps what is handled.
    assert_eq!(events.read_after(0, 10).await.unwrap().len(), 3);
    let error = events.read(&EventQuery::new()).await.unwrap_err();
    assert!(matches!(error, ReadError::NoFile), "{error}");
    events.shutdown(TIMEOUT / 20).await.unwrap_err();
    // Without a store there is nothing to handle, and that is no error.
    let disabled = EventStore::disabled();
    disabled.add_handler(noting("h", &seen)).await.unwrap();
    let error = disabled.add_handler(noting(" ", &seen)).await.unwrap_err();
    assert!(matches!(error, HandleError::InvalidName { .. }), "{error}");
}

/// A sink that is quick, so that only the handler can keep an event.
#[derive(Debug)]
struct Quick;

#[async_trait::async_trait]
impl Sink for Quick {
    fn name(&self) -> &str {
        "quick"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        Ok(Delivered::all(batch))
    }

    async fn check(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

#[tokio::test]
async fn retention_removes_nothing_that_it_has_not_handled() {
    let scratch = Scratch::new();
    let seen = Seen::default();
    let events = EventStore::builder()
        .journal(scratch.file())
        .sink(Quick)
        .retention(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    events.add_handler(noting("h", &seen)).await.unwrap();
    // So that it has nothing in hand.
    events.pause_sink("h").await.unwrap();
    publish(&events, "w", 0..3).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    events.resume_sink("h").await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(seen.numbers(), [0, 1, 2]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_store_is_read_with_queries_and_followed() {
    use futures::StreamExt as _;
    let scratch = Scratch::new();
    let events = scratch.store().await;
    publish(&events, "a", 0..2).await;
    publish(&events, "b", 2..3).await;
    let query = EventQuery::new().workflow_id("b");
    // What was published before is there.
    let read = events.read(&query).await.unwrap();
    assert_eq!(read.iter().map(number).collect::<Vec<_>>(), [2]);
    let reader = events.reader().await.unwrap();
    let newest = reader.newest().await.unwrap();
    assert_eq!(newest, 3);
    let mut live = std::pin::pin!(reader.follow(EventQuery::new().after(newest)));
    publish(&events, "a", 3..4).await;
    let next = tokio::time::timeout(TIMEOUT, live.next()).await.unwrap();
    assert_eq!(number(&next.unwrap().unwrap()), 3);
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(events.read(&query).await.unwrap(), read);
    let error = EventStore::disabled().read(&query).await.unwrap_err();
    assert!(error.to_string().contains("`sqlite:`"), "{error}");
}

/// Where the child process of the next test has its file; without it, the child is no test.
const CHILD: &str = "EVENTSTORE_TEST_HANDLER";

/// The process that is killed. It says what it handles, and goes on with each line that it is told.
#[tokio::test]
async fn child_that_handles() {
    let Some(file) = std::env::var_os(CHILD) else {
        return;
    };
    let url = format!("sqlite:{}", Path::new(&file).display());
    let events = EventStore::builder().store(url).build().await.unwrap();
    let handler = Handler::new(
        "h",
        Selection::only("user"),
        |event: StoredEvent| async move {
            println!("\nbegins {}", number(&event));
            let told = tokio::task::spawn_blocking(|| {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).map(|_| line)
            });
            told.await.unwrap()?;
            println!("\nhandled {}", number(&event));
            Ok::<_, std::io::Error>(())
        },
    );
    events
        .add_handler(handler.max_concurrent(1).from_beginning())
        .await
        .unwrap();
    std::future::pending::<()>().await;
}

struct Handling {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Handling {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "handlers::child_that_handles", "--nocapture"])
            .env(CHILD, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    fn go(&mut self) {
        use std::io::Write as _;
        let mut stdin = self.child.stdin.as_ref().unwrap();
        stdin.write_all(b"go\n").unwrap();
    }

    /// The next thing that it says.
    fn says(&mut self) -> String {
        let mut said = self.said.by_ref().map(Result::unwrap);
        said.find(|line| line.starts_with("begins") || line.starts_with("handled"))
            .expect("it ended")
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        // SIGKILL.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn killed_between_handling_and_the_cursor_it_handles_again_and_misses_nothing() {
    let scratch = Scratch::new();
    let events = scratch.store().await;
    publish(&events, "w", 0..4).await;
    events.shutdown(TIMEOUT).await.unwrap();
    let file = scratch.file();
    let mut handled = Vec::new();
    tokio::task::spawn_blocking(move || {
        let mut first = Handling::start(&file);
        assert_eq!(first.says(), "begins 0");
        first.go();
        assert_eq!(first.says(), "handled 0");
        assert_eq!(first.says(), "begins 1");
        until_cursor(&file, 1);
        // Nobody can write the cursor now.
        let locked = rusqlite::Connection::open(&file).unwrap();
        locked.execute_batch("BEGIN IMMEDIATE").unwrap();
        first.go();
        assert_eq!(first.says(), "handled 1");
        drop(first);
        locked.execute_batch("ROLLBACK").unwrap();
        drop(locked);
        handled.extend([0, 1]);
        let mut second = Handling::start(&file);
        for number in 1..4 {
            assert_eq!(second.says(), format!("begins {number}"));
            second.go();
            assert_eq!(second.says(), format!("handled {number}"));
            handled.push(number);
        }
        until_cursor(&file, 4);
        assert_eq!(handled, [0, 1, 1, 2, 3]);
        assert_eq!(handled.into_iter().collect::<BTreeSet<_>>().len(), 4);
    })
    .await
    .unwrap();
}

fn until_cursor(file: &Path, wanted: u64) {
    let began = Instant::now();
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.busy_timeout(TIMEOUT).unwrap();
    loop {
        let cursor =
            connection.query_row("SELECT seq FROM cursors WHERE name = 'sink h'", [], |row| {
                row.get::<_, u64>(0)
            });
        if cursor.is_ok_and(|cursor| cursor == wanted) {
            return;
        }
        assert!(began.elapsed() < TIMEOUT, "the cursor never is {wanted}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
