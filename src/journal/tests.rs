//! The journal's promises, on real files.

use super::{record::Change, *};
use crate::{
    context::Context,
    event::{Event, Execution},
    record::{Budget, Filter, FilterAction, Identity, Rules, Trimmed},
};
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

fn rules(filter: Option<Filter>) -> Arc<Rules> {
    Arc::new(Rules {
        application_name: "orders".to_owned(),
        filter,
        max_event_bytes: 1 << 20,
        trimmed: Trimmed::default(),
        budget: Budget::new(usize::MAX),
    })
}

fn event(number: u128, lifecycle: bool) -> Event {
    let number_in_json = u64::try_from(number).unwrap();
    let mut event = if lifecycle {
        Event::new("application_events").name("workflow_end")
    } else {
        Event::new("user").name("name")
    };
    event = event.data(serde_json::json!({ "n": number_in_json }));
    event.metadata.event_id = Some(Uuid::from_u128(number).into());
    event.metadata.workflow_id = Some("w".to_owned());
    event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
    event
}

fn stored(number: u128, lifecycle: bool) -> StoredEvent {
    StoredEvent::new(0, &event(number, lifecycle)).unwrap()
}

/// A draft of this event; of a lifecycle event if it is one.
fn of(rules: &Arc<Rules>, event: Event) -> Draft {
    if event.is_lifecycle() {
        Draft::finished(rules, event)
    } else {
        Draft::published(rules, event, Context::new(), Identity::Random)
    }
}

fn draft(number: u128) -> Draft {
    of(&rules(None), event(number, false))
}

fn hold(key: HoldKey, drafts: Vec<Draft>) -> Vec<Hold> {
    vec![Hold {
        key,
        evidence: "what happened".to_owned(),
        drafts,
    }]
}

fn number_of(json: &str) -> u64 {
    let event: serde_json::Value = serde_json::from_str(json).unwrap();
    event["data"]["n"].as_u64().unwrap()
}

fn key(run: &str, hold: u128) -> HoldKey {
    HoldKey {
        execution: Execution {
            namespace: "default".to_owned(),
            workflow_id: "w".to_owned(),
            run_id: run.to_owned(),
        },
        hold_id: Uuid::from_u128(hold),
    }
}

fn options(target: Target) -> JournalOptions {
    JournalOptions {
        target,
        queue_size: 1_000,
        max_queued_bytes: usize::MAX,
        batch_size: 64,
        linger: Duration::from_millis(5),
        synchronous: Synchronous::Normal,
        max_bytes: None,
        retention: Retention::Keep,
        sinks: Vec::new(),
        appends_inline: true,
        is_store: true,
    }
}

async fn read(journal: &Journal) -> Vec<StoredEvent> {
    let read = journal.ask(|store| store.read(None, 0, 100_000));
    read.await.unwrap()
}

async fn numbers(journal: &Journal) -> Vec<u64> {
    let events = read(journal).await;
    events.iter().map(|event| number_of(&event.json)).collect()
}

async fn held(journal: &Journal) -> Vec<Held> {
    journal.ask(|store| store.held()).await.unwrap()
}

fn memory() -> Journal {
    Journal::open(options(Target::Memory)).unwrap()
}

#[tokio::test]
async fn memory_remembers_up_to_when_it_removed_events() {
    let journal = Journal::open(JournalOptions {
        queue_size: 10,
        ..options(Target::Memory)
    })
    .unwrap();
    let now = std::time::SystemTime::now();
    for number in 0..10 {
        journal.append(draft(number)).unwrap().await.unwrap();
    }
    assert!(!journal.removed_until().has(false, now));
    journal.append(draft(10)).unwrap().await.unwrap();
    assert!(journal.removed_until().has(false, now));
    assert!(!journal.removed_until().has(true, now));
}

/// The same behaviour in memory and in a file.
async fn holds_and_releases(journal: Journal) {
    journal
        .commit(vec![draft(1)], hold(key("r1", 1), vec![draft(2), draft(3)]))
        .unwrap()
        .await
        .unwrap();
    assert_eq!(numbers(&journal).await, [1]);
    assert_eq!(journal.status().held, 1);
    let held_now = held(&journal).await;
    assert_eq!(held_now.len(), 1);
    assert_eq!(held_now[0].key, key("r1", 1));
    assert_eq!(held_now[0].evidence, "what happened");
    let records = held_now[0].records.iter().map(|json| number_of(json));
    assert_eq!(records.collect::<Vec<_>>(), [2, 3]);

    // A key of an earlier hold of the run changes nothing.
    journal.discard(key("r1", 9)).unwrap().await.unwrap();
    journal.release(key("r1", 9)).unwrap().await.unwrap();
    assert_eq!(numbers(&journal).await, [1]);

    // A second hold of the run is another one; more under the same key comes behind.
    journal
        .commit(vec![], hold(key("r1", 2), vec![draft(4)]))
        .unwrap()
        .await
        .unwrap();
    journal
        .commit(vec![], hold(key("r1", 1), vec![draft(9)]))
        .unwrap()
        .await
        .unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.status().held, 2);

    // What is known of it may change; of what is not held, nothing is.
    let known = |hold| Hold {
        key: key("r1", hold),
        evidence: "what happened then".to_owned(),
        drafts: Vec::new(),
    };
    journal
        .commit(vec![], vec![known(1), known(7)])
        .unwrap()
        .await
        .unwrap();
    let held_now = held(&journal).await;
    let evidence: Vec<_> = held_now.iter().map(|held| held.evidence.as_str()).collect();
    assert_eq!(evidence, ["what happened then", "what happened"]);
    journal.release(key("r1", 2)).unwrap().await.unwrap();
    assert_eq!(numbers(&journal).await, [1, 4]);
    assert_eq!(journal.status().held, 1);
    journal.release(key("r1", 1)).unwrap().await.unwrap();
    assert_eq!(numbers(&journal).await, [1, 4, 2, 3, 9]);
    assert_eq!(journal.status().held, 0);

    // Releasing again, or what never was: nothing.
    journal.release(key("r1", 2)).unwrap().await.unwrap();
    assert_eq!(numbers(&journal).await, [1, 4, 2, 3, 9]);

    // Replaced and discarded.
    journal
        .commit(vec![], hold(key("r2", 3), vec![draft(5)]))
        .unwrap()
        .await
        .unwrap();
    journal
        .replace(key("r2", 3), vec![draft(6)])
        .unwrap()
        .await
        .unwrap();
    journal
        .replace(key("r2", 3), vec![draft(7)])
        .unwrap()
        .await
        .unwrap();
    journal
        .commit(vec![], hold(key("r3", 4), vec![draft(8)]))
        .unwrap()
        .await
        .unwrap();
    journal.discard(key("r3", 4)).unwrap().await.unwrap();
    assert_eq!(numbers(&journal).await, [1, 4, 2, 3, 9, 6]);
    assert!(held(&journal).await.is_empty());
    journal.close().await.unwrap();
}

#[tokio::test]
async fn ends_are_held_and_released_in_memory() {
    holds_and_releases(memory()).await;
}

#[tokio::test]
async fn an_event_is_kept_once_and_in_order() {
    let journal = memory();
    for number in [3, 1, 2, 1, 3] {
        drop(journal.append(draft(number)).unwrap());
    }
    journal.flush().await.unwrap();
    assert_eq!(numbers(&journal).await, [3, 1, 2]);
    let status = journal.status();
    assert_eq!((status.written, status.duplicates), (3, 2));
    assert_eq!(status.queued, 0);
}

#[tokio::test]
async fn what_cannot_be_prepared_harms_nobody_else() {
    for target in targets() {
        let rules = rules(Some(Filter::new(|event: &mut Event| {
            match event.event_name.as_str() {
                "drop" => FilterAction::Drop,
                "panic" => panic!("on purpose"),
                _ => FilterAction::Keep,
            }
        })));
        let journal = Journal::open(JournalOptions {
            appends_inline: false,
            ..options(target.1)
        })
        .unwrap();
        let named = |name: &str| of(&rules, event(9, false).name(name));
        let dropped = journal.append(named("drop")).unwrap();
        let invalid = journal.append(named("\n")).unwrap();
        let panicked = journal.append(named("panic")).unwrap();
        let fine = journal.append(of(&rules, event(1, false))).unwrap();
        assert_eq!(dropped.await.unwrap().event_id, None);
        assert!(matches!(
            invalid.await,
            Err(JournalError::Invalid { reason }) if reason.contains("event_name")
        ));
        assert!(matches!(panicked.await, Err(JournalError::Invalid { .. })));
        assert_eq!(
            fine.await.unwrap().event_id,
            Some(Uuid::from_u128(1).into())
        );
        journal.flush().await.unwrap();
        let status = journal.status();
        assert_eq!((status.filtered, status.invalid, status.written), (1, 2, 1));
    }
}

/// Memory, and a file in a directory that lives as long.
fn targets() -> Vec<(Option<tempfile::TempDir>, Target)> {
    let memory = (None, Target::Memory);
    #[cfg(feature = "sqlite")]
    {
        let directory = tempfile::tempdir().unwrap();
        let file = Target::Sqlite(directory.path().join("events.db"));
        vec![memory, (Some(directory), file)]
    }
    #[cfg(not(feature = "sqlite"))]
    vec![memory]
}

#[tokio::test]
async fn memory_is_bounded_and_user_events_go_first() {
    let journal: Journal = Journal::open(JournalOptions {
        queue_size: 3,
        ..options(Target::Memory)
    })
    .unwrap();
    journal
        .append(of(&rules(None), event(1, true)))
        .unwrap()
        .await
        .unwrap();
    for number in 2..=5 {
        journal.append(draft(number)).unwrap().await.unwrap();
    }
    assert_eq!(numbers(&journal).await, [1, 4, 5]);
    assert_eq!(journal.status().lost, 2);
}

#[tokio::test]
async fn closing_is_final_and_may_be_repeated() {
    let journal = memory();
    journal.append(draft(1)).unwrap().await.unwrap();
    journal.close().await.unwrap();
    journal.close().await.unwrap();
    assert_eq!(journal.append(draft(2)).err(), Some(Rejected::Closed));
    assert!(matches!(
        journal.ask(|store| store.read(None, 0, 1)).await,
        Err(JournalError::Closed)
    ));
    assert_eq!(journal.status().refused, 1 + 1 - 1);
}

#[tokio::test]
async fn a_full_queue_refuses_and_counts_but_has_room_for_commits() {
    // A filter that holds the journal's thread until it is told to go on.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let rules = rules(Some(Filter::new(move |_: &mut Event| {
        gate.lock().unwrap().recv().ok();
        FilterAction::Keep
    })));
    let made = AtomicUsize::new(1);
    let next = || {
        of(
            &rules,
            event(made.fetch_add(1, Ordering::Relaxed) as u128, false),
        )
    };
    let journal: Journal = Journal::open(JournalOptions {
        queue_size: 2,
        appends_inline: false,
        linger: Duration::from_secs(20),
        ..options(Target::Memory)
    })
    .unwrap();
    drop(journal.append(next()).unwrap());
    drop(journal.append(next()).unwrap());
    assert_eq!(journal.append(next()).err(), Some(Rejected::Full));
    let commit = journal.commit(vec![next(), next()], Vec::new()).unwrap();
    assert!(matches!(
        journal.commit(vec![next()], Vec::new()),
        Err(Rejected::Full)
    ));
    assert_eq!(journal.status().refused, 2);
    assert_eq!(journal.status().queued, 4);
    drop(open);
    commit.await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(
        journal.status().lost,
        2,
        "memory holds as much as the queue"
    );
    assert_eq!(journal.status().written, 4);
    assert_eq!(journal.status().queued, 0);
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_together_and_what_is_awaited_at_once() {
    let journal: Journal = Journal::open(JournalOptions {
        linger: Duration::from_secs(20),
        ..options(Target::Memory)
    })
    .unwrap();
    for number in 0..10 {
        drop(journal.append(draft(number)).unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(journal.status().transactions, 0);
    // A commit takes along what lingers.
    let began = std::time::Instant::now();
    journal
        .commit(vec![draft(10)], Vec::new())
        .unwrap()
        .await
        .unwrap();
    assert_eq!(journal.status().written, 11);
    assert_eq!(journal.status().transactions, 1);
    // So does an append that is awaited.
    drop(journal.append(draft(11)).unwrap());
    journal.append(draft(12)).unwrap().await.unwrap();
    assert_eq!(journal.status().written, 13);
    // And closing does not wait.
    drop(journal.append(draft(13)).unwrap());
    journal.close().await.unwrap();
    assert_eq!(journal.status().written, 14);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "somebody lingered"
    );
}

#[cfg(feature = "sqlite")]
mod file {
    use super::*;
    use std::{
        path::{Path, PathBuf},
        time::Instant,
    };

    fn open(path: &Path) -> Journal {
        Journal::open(options(Target::Sqlite(path.to_owned()))).unwrap()
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        (directory, path)
    }

    #[tokio::test]
    async fn ends_are_held_and_released() {
        let (_directory, path) = scratch();
        holds_and_releases(open(&path)).await;
    }

    #[tokio::test]
    async fn what_was_written_and_held_is_there_after_reopening() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        journal
            .commit(vec![draft(1)], hold(key("r", 1), vec![draft(2)]))
            .unwrap()
            .await
            .unwrap();
        journal.close().await.unwrap();
        let journal = open(&path);
        assert_eq!(numbers(&journal).await, [1]);
        assert_eq!(journal.status().held, 1);
        assert_eq!(journal.status().depth, 1);
        journal.append(draft(1)).unwrap().await.unwrap();
        journal.release(key("r", 1)).unwrap().await.unwrap();
        assert_eq!(numbers(&journal).await, [1, 2]);
    }

    #[tokio::test]
    async fn dropping_the_last_handle_writes_what_is_queued() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        for number in 0..500 {
            drop(journal.append(draft(number)).unwrap());
        }
        drop(journal);
        let journal = open(&path);
        assert_eq!(numbers(&journal).await.len(), 500);
    }

    #[tokio::test]
    async fn a_crash_keeps_what_was_acknowledged() {
        let (directory, path) = scratch();
        let journal = open(&path);
        journal
            .commit(vec![draft(1)], hold(key("r", 1), vec![draft(2)]))
            .unwrap()
            .await
            .unwrap();
        // The files as they are while the first store is alive: what a killed process leaves.
        let after = directory.path().join("after.db");
        for suffix in ["", "-wal", ".log.1"] {
            std::fs::copy(
                format!("{}{suffix}", path.display()),
                format!("{}{suffix}", after.display()),
            )
            .unwrap();
        }
        let survivor = open(&after);
        assert_eq!(numbers(&survivor).await, [1]);
        assert_eq!(held(&survivor).await[0].key, key("r", 1));
    }

    #[tokio::test]
    async fn a_second_store_on_the_file_is_refused() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        let error = Journal::open(options(Target::Sqlite(path.clone())))
            .err()
            .unwrap();
        assert!(matches!(error, JournalError::InUse { .. }));
        assert!(error.to_string().contains("events.db"), "{error}");
        journal.close().await.unwrap();
        open(&path);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn files_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let (directory, path) = scratch();
        let journal = open(&path);
        journal.append(draft(1)).unwrap().await.unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn unusable_places_say_what_to_do() {
        let (directory, _) = scratch();
        let error = |path: PathBuf| {
            Journal::open(options(Target::Sqlite(path)))
                .err()
                .unwrap()
                .to_string()
        };
        let missing = error(directory.path().join("nowhere/events.db"));
        assert!(missing.contains("does not exist; create it"), "{missing}");
        let is_directory = error(directory.path().to_owned());
        assert!(is_directory.contains("is a directory"), "{is_directory}");
    }

    #[test]
    fn another_programs_database_is_left_alone() {
        let (_directory, path) = scratch();
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE mine (a)")
            .unwrap();
        let error = Journal::open(options(Target::Sqlite(path))).err().unwrap();
        assert!(matches!(error, JournalError::NotAJournal { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_older_schema_is_refused() {
        let (_directory, path) = scratch();
        open(&path).close().await.unwrap();
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
            .unwrap();
        let error = Journal::open(options(Target::Sqlite(path))).err().unwrap();
        assert!(
            matches!(error, JournalError::OlderSchema { found: 1, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let (_directory, path) = scratch();
        open(&path).close().await.unwrap();
        rusqlite::Connection::open(&path)
            .unwrap()
            .execute_batch("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
            .unwrap();
        let error = Journal::open(options(Target::Sqlite(path))).err().unwrap();
        assert!(
            matches!(error, JournalError::NewerSchema { found: 99, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_damaged_file_turns_the_journal_to_memory() {
        let (_directory, path) = scratch();
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        let journal = open(&path);
        // It is durable, beside the damaged file, and can be read.
        journal.append(draft(1)).unwrap().await.unwrap();
        assert_eq!(numbers(&journal).await, [1]);
        assert!(journal.flush().await.is_err());
        let status = journal.status();
        assert!(status.degraded);
        assert!(status.last_error.is_some());
        assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 8192]);
        let error = journal.close().await.unwrap_err();
        assert!(matches!(error, JournalError::NotStored { .. }), "{error}");
        assert_eq!(journal.status().lost, 0);
        // Still damaged, and still nothing is lost.
        let journal = open(&path);
        journal.append(draft(2)).unwrap().await.unwrap();
        assert_eq!(numbers(&journal).await, [1, 2]);
        journal.close().await.unwrap_err();
        // A file that is whole takes it all.
        std::fs::remove_file(&path).unwrap();
        let journal = open(&path);
        assert_eq!(numbers(&journal).await, [1, 2]);
        journal.close().await.unwrap();
        assert!(!log_is_there(&path));
    }

    fn log_is_there(path: &Path) -> bool {
        let mut entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
        entries.any(|entry| entry.unwrap().path().to_string_lossy().contains(".log."))
    }

    #[tokio::test]
    async fn a_file_locked_by_somebody_else_is_waited_for() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        // It is durable all the same, and nobody waits for the file.
        journal.append(draft(1)).unwrap().await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(400), journal.flush())
                .await
                .is_err(),
            "stored although the file is locked"
        );
        other.execute_batch("COMMIT").unwrap();
        journal.flush().await.unwrap();
        assert!(!journal.status().degraded);
        assert_eq!(numbers(&journal).await, [1]);
    }

    #[tokio::test]
    async fn people_can_read_while_it_is_written() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        journal.append(draft(1)).unwrap().await.unwrap();
        let reader = rusqlite::Connection::open(&path).unwrap();
        let columns: Vec<String> = reader
            .prepare("SELECT * FROM events")
            .unwrap()
            .column_names()
            .map(str::to_owned)
            .collect();
        assert_eq!(
            columns.join(", "),
            "seq, event_id, event_type, event_name, workflow_type, workflow_id, workflow_run_id, \
             workflow_state, activity_type, activity_id, attempt, created_at, stored_at, event"
        );
        journal.append(draft(2)).unwrap().await.unwrap();
        journal.flush().await.unwrap();
        let count: i64 = reader
            .query_row("SELECT COUNT(*) FROM events", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 2);
    }

    async fn until(what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn at_the_size_cap_user_events_go_first() {
        let (_directory, path) = scratch();
        let journal: Journal = Journal::open(JournalOptions {
            max_bytes: Some(400_000),
            ..options(Target::Sqlite(path))
        })
        .unwrap();
        let rules = rules(None);
        let large = |number: u128, lifecycle| {
            let mut event = event(number, lifecycle);
            event.data.insert("pad".to_owned(), "x".repeat(500).into());
            of(&rules, event)
        };
        for number in 0..100 {
            drop(journal.append(large(number, true)).unwrap());
        }
        for number in 100..1_000 {
            journal.append(large(number, false)).unwrap().await.unwrap();
        }
        until("the journal stays over its cap", || {
            journal.status().lost > 0 && journal.status().bytes <= 400_000
        })
        .await;
        let left = numbers(&journal).await;
        assert_eq!(left.len() as u64, journal.status().depth);
        assert_eq!(left.len() as u64 + journal.status().lost, 1_000);
        assert_eq!(left.iter().filter(|number| **number < 100).count(), 100);
    }

    #[tokio::test]
    async fn old_events_go_after_the_retention() {
        let (_directory, path) = scratch();
        let open = || {
            Journal::open(JournalOptions {
                retention: Retention::For(Duration::from_secs(3600)),
                ..options(Target::Sqlite(path.clone()))
            })
            .unwrap()
        };
        let journal = open();
        journal.append(draft(1)).unwrap().await.unwrap();
        journal.append(draft(2)).unwrap().await.unwrap();
        journal.close().await.unwrap();
        let file = rusqlite::Connection::open(&path).unwrap();
        file.execute(
            "UPDATE events SET stored_at = stored_at - 3700 WHERE seq = 1",
            [],
        )
        .unwrap();
        drop(file);
        let journal = open();
        until("the old event stays", || journal.status().depth == 1).await;
        assert_eq!(numbers(&journal).await, [2]);
        assert_eq!(journal.status().lost, 0, "retention is no loss");
    }

    /// A file whose disk is full: SQLite refuses to let it grow.
    #[test]
    fn a_full_disk_is_told_from_damage_and_rolls_back() {
        use super::super::sqlite::{SqliteLog, Trouble};
        let (_directory, path) = scratch();
        let Ok(mut log) = SqliteLog::open(&path, &options(Target::Sqlite(path.clone()))) else {
            panic!("the file cannot be opened");
        };
        log.apply(&[Change::Insert(vec![stored(1, true)])], &[], None)
            .unwrap();
        log.limit_pages(1);
        let many = (2..200).map(|number| stored(number, true)).collect();
        let trouble = log.apply(&[Change::Insert(many)], &[], None).unwrap_err();
        assert!(
            matches!(&trouble, Trouble::Passing(reason) if reason.contains("full")),
            "{trouble:?}"
        );
        assert_eq!(log.read(0, 10).unwrap().len(), 1);
    }

    fn refused(sink: &str, position: u64, size: usize) -> DeadLetter {
        let event = StoredEvent {
            position,
            json: "x".repeat(size),
            ..stored(position.into(), false)
        };
        DeadLetter::new(sink, &event, "no".to_owned())
    }

    async fn dead_letters(
        journal: &Journal,
        sink: Option<&'static str>,
        after: u64,
        limit: usize,
    ) -> Vec<DeadLetter> {
        let read = journal.ask(move |store| store.dead_letters(sink, after, limit));
        read.await.unwrap()
    }

    #[tokio::test]
    async fn dead_letters_go_before_what_is_still_to_be_delivered() {
        let (_directory, path) = scratch();
        let journal: Journal = Journal::open(JournalOptions {
            max_bytes: Some(800_000),
            sinks: vec!["one".to_owned(), "away".to_owned()],
            is_store: false,
            ..options(Target::Sqlite(path))
        })
        .unwrap();
        for number in 1..=100 {
            journal.append(draft(number)).unwrap().await.unwrap();
        }
        let letters = (1..=1_000).map(|seq| refused("one", seq, 1_000)).collect();
        journal.move_cursor("one".to_owned(), 100, letters).unwrap();
        journal.flush().await.unwrap();
        until("the journal stays over its cap", || {
            journal.status().lost > 0 && journal.status().bytes <= 800_000
        })
        .await;
        assert_eq!(numbers(&journal).await.len(), 100, "these go later");
        let left = dead_letters(&journal, None, 0, 1_000).await;
        assert!(!left.is_empty());
        assert_eq!(left.len() as u64 + journal.status().lost, 1_000);
        assert_eq!(left.last().unwrap().position, 1_000, "the oldest go first");
        assert_eq!(journal.status().depth, 100);
    }

    #[tokio::test]
    async fn the_dead_letters_of_one_event_are_never_parted() {
        let (_directory, path) = scratch();
        for target in [Target::Memory, Target::Sqlite(path)] {
            let journal: Journal = Journal::open(options(target)).unwrap();
            // The faster sink first, as it is in the life of a store.
            for (sink, seqs) in [("fast", 1..=3), ("slow", 1..=2)] {
                let letters = seqs.map(|seq| refused(sink, seq, 1)).collect();
                journal.move_cursor(sink.to_owned(), 3, letters).unwrap();
            }
            let mut found = Vec::new();
            let mut after = 0;
            loop {
                let page = dead_letters(&journal, None, after, 1).await;
                let Some(last) = page.last() else { break };
                after = last.position;
                found.extend(
                    page.into_iter()
                        .map(|letter| (letter.position, letter.sink)),
                );
            }
            let wanted = [
                (1, "fast"),
                (1, "slow"),
                (2, "fast"),
                (2, "slow"),
                (3, "fast"),
            ];
            assert_eq!(found, wanted.map(|(seq, sink)| (seq, sink.to_owned())));
            journal.remove_dead_letter("fast".to_owned(), 1).unwrap();
            let of_fast = dead_letters(&journal, Some("fast"), 0, 10).await;
            assert_eq!(of_fast.len(), 2);
            let all = dead_letters(&journal, None, 0, 10).await;
            assert_eq!(all.len(), 4);
        }
    }

    /// What an outage made large becomes small again.
    #[test]
    fn free_pages_are_given_back() {
        use super::super::sqlite::SqliteLog;
        let (_directory, path) = scratch();
        let options = JournalOptions {
            max_bytes: Some(1_000_000),
            ..options(Target::Sqlite(path.clone()))
        };
        let Ok(mut log) = SqliteLog::open(&path, &options) else {
            panic!("the file cannot be opened");
        };
        for number in 0..1_500 {
            let large = StoredEvent {
                json: "x".repeat(10_000),
                ..stored(number, true)
            };
            log.apply(&[Change::Insert(vec![large])], &[], None)
                .unwrap();
        }
        log.checkpoint();
        let before = std::fs::metadata(&path).unwrap().len();
        let mut lost = 0;
        let started = Instant::now();
        loop {
            let (removed, result) = log.make_room();
            result.unwrap();
            lost += removed.lost;
            log.checkpoint();
            if !removed.is_unfinished && std::fs::metadata(&path).unwrap().len() < before / 2 {
                break;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "it stays large"
            );
        }
        assert!(log.live_bytes().unwrap() <= 1_000_000);
        assert_eq!(log.counts().unwrap().0 + lost, 1_500);
    }

    /// A sink that has seen position 3 must not miss what another file has there.
    #[test]
    fn positions_go_on_in_another_file() {
        use super::super::sqlite::SqliteLog;
        let (_directory, path) = scratch();
        let Ok(mut log) = SqliteLog::open(&path, &options(Target::Sqlite(path.clone()))) else {
            panic!("the file cannot be opened");
        };
        log.go_on_after(3);
        // Also when the first that comes was held.
        let key = key("r", 1);
        log.apply(
            &[Change::Hold(
                key.clone(),
                String::new(),
                vec![stored(1, true)],
            )],
            &[],
            None,
        )
        .unwrap();
        assert_eq!(log.newest(), 0);
        log.apply(&[Change::Release(key)], &[], None).unwrap();
        log.apply(&[Change::Insert(vec![stored(2, true)])], &[], None)
            .unwrap();
        let seqs: Vec<u64> = log
            .read(0, 10)
            .unwrap()
            .iter()
            .map(|it| it.position)
            .collect();
        assert_eq!(seqs, [4, 5]);
        // Where it is further already, nothing changes.
        log.go_on_after(3);
        log.apply(&[Change::Insert(vec![stored(3, true)])], &[], None)
            .unwrap();
        assert_eq!(log.newest(), 6);
    }

    #[test]
    fn while_the_disk_is_full_what_is_in_the_file_can_be_read() {
        use super::super::file::{Fed, FileStore};
        let (_directory, path) = scratch();
        let counters = Counters::default();
        let Ok(mut store) = FileStore::open(path.clone(), options(Target::Sqlite(path)), &counters)
        else {
            panic!("the file cannot be opened");
        };
        let mut first = vec![Change::Insert(vec![stored(1, true)])];
        let fed = store.apply(&mut first, &mut Vec::new(), Some(1), &counters);
        assert_eq!((fed, first.len()), (Fed::Stored, 0));
        store.limit_pages(1);
        let mut many = vec![Change::Insert(
            (2..200).map(|it| stored(it, true)).collect(),
        )];
        let mut notes = vec![Note::MoveCursor("sink".to_owned(), 4_999)];
        for _ in 0..5 {
            let fed = store.apply(&mut many, &mut notes, Some(2), &counters);
            assert_eq!((fed, many.len(), notes.len()), (Fed::Broken, 1, 1));
        }
        assert_eq!(counters.status().lost, 0);
        assert_eq!(store.read(None, 0, 10).unwrap().len(), 1);
        assert_eq!(
            store.log_position().unwrap().position,
            0,
            "it is not known now"
        );
        store.limit_pages(1_000_000);
        let started = Instant::now();
        while store.durable().is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "not repaired");
            std::thread::sleep(Duration::from_millis(100));
            store.tick(&counters);
        }
        assert_eq!(store.log_position().unwrap().position, 1);
        let fed = store.apply(&mut many, &mut notes, Some(2), &counters);
        assert_eq!((fed, many.len(), notes.len()), (Fed::Stored, 0, 0));
        assert_eq!(store.read(None, 0, 1_000).unwrap().len(), 199);
        assert_eq!(store.cursor("sink").unwrap(), Some(4_999));
        assert_eq!(store.log_position().unwrap().position, 2);
    }
}
