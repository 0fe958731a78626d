//! The journal's promises, on real files.

use super::{record::Record, *};
use crate::event::EventId;
use std::sync::atomic::AtomicUsize;
use uuid::Uuid;

/// A draft that is a record already, or something that cannot become one.
enum Plain {
    Record(Box<Record>),
    Drop,
    Invalid,
    Panic,
}

impl Draft for Plain {
    fn prepare(self) -> Prepared {
        match self {
            Self::Record(record) => Prepared::Record(*record),
            Self::Drop => Prepared::Dropped,
            Self::Invalid => Prepared::Invalid("on purpose".to_owned()),
            Self::Panic => panic!("on purpose"),
        }
    }
}

fn record(number: u128, lifecycle: bool) -> Record {
    Record {
        position: 0,
        event_id: Uuid::from_u128(number).into(),
        event_type: if lifecycle {
            "application_events"
        } else {
            "user"
        }
        .to_owned(),
        event_name: if lifecycle { "workflow_end" } else { "name" }.to_owned(),
        workflow_type: None,
        workflow_id: Some("w".to_owned()),
        workflow_run_id: None,
        workflow_state: None,
        activity_type: None,
        activity_id: None,
        attempt: Some(1),
        created_at: "2026-11-23T07:30:36.123456Z".to_owned(),
        json: format!("{{\"n\":{number}}}"),
    }
}

fn draft(number: u128) -> Plain {
    Plain::Record(Box::new(record(number, false)))
}

fn hold(key: RunKey, drafts: Vec<Plain>) -> Vec<Hold<Plain>> {
    vec![Hold {
        key,
        evidence: "what happened".to_owned(),
        drafts,
    }]
}

fn key(run: &str, hold: u128) -> RunKey {
    RunKey {
        namespace: "default".to_owned(),
        workflow_id: "w".to_owned(),
        run_id: run.to_owned(),
        hold_id: Uuid::from_u128(hold),
    }
}

fn options(target: Target) -> JournalOptions {
    JournalOptions {
        target,
        queue_size: 1_000,
        batch_size: 64,
        linger: Duration::from_millis(5),
        synchronous: Synchronous::Normal,
        max_bytes: None,
        retention: Retention::Keep,
        sinks: Vec::new(),
        is_store: true,
    }
}

async fn numbers<D: Draft>(journal: &Journal<D>) -> Vec<u64> {
    journal
        .read(0, 100_000)
        .await
        .unwrap()
        .iter()
        .map(|stored| {
            serde_json::from_str::<serde_json::Value>(&stored.record.json).unwrap()["n"]
                .as_u64()
                .unwrap()
        })
        .collect()
}

fn memory() -> Journal<Plain> {
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
async fn holds_and_releases(journal: Journal<Plain>) {
    journal
        .commit(vec![draft(1)], hold(key("r1", 1), vec![draft(2), draft(3)]))
        .unwrap()
        .await
        .unwrap();
    assert_eq!(numbers(&journal).await, [1]);
    assert_eq!(journal.status().held, 1);
    let held = journal.held().await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].key, key("r1", 1));
    assert_eq!(held[0].evidence, "what happened");
    assert_eq!(held[0].records, ["{\"n\":2}", "{\"n\":3}"]);

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
    let held = journal.held().await.unwrap();
    let evidence: Vec<_> = held.iter().map(|held| held.evidence.as_str()).collect();
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
    assert!(journal.held().await.unwrap().is_empty());
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
    let journal = memory();
    let dropped = journal.append(Plain::Drop).unwrap();
    let invalid = journal.append(Plain::Invalid).unwrap();
    let panicked = journal.append(Plain::Panic).unwrap();
    let fine = journal.append(draft(1)).unwrap();
    assert_eq!(dropped.await.unwrap().event_id, EventId::SKIPPED);
    assert!(matches!(
        invalid.await,
        Err(JournalError::Invalid { reason }) if reason == "on purpose"
    ));
    assert!(matches!(panicked.await, Err(JournalError::Invalid { .. })));
    assert_eq!(fine.await.unwrap().event_id, Uuid::from_u128(1).into());
    let status = journal.status();
    assert_eq!((status.filtered, status.invalid, status.written), (1, 2, 1));
}

#[tokio::test]
async fn memory_is_bounded_and_user_events_go_first() {
    let journal: Journal<Plain> = Journal::open(JournalOptions {
        queue_size: 3,
        ..options(Target::Memory)
    })
    .unwrap();
    journal
        .append(Plain::Record(Box::new(record(1, true))))
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
        journal.read(0, 1).await,
        Err(JournalError::Closed)
    ));
    assert_eq!(journal.status().refused, 1 + 1 - 1);
}

/// A draft that blocks the journal's thread until it is told to go on.
struct Gate(crossbeam_channel::Receiver<()>, Arc<AtomicUsize>);

impl Draft for Gate {
    fn prepare(self) -> Prepared {
        self.0.recv().ok();
        let number = self.1.fetch_add(1, Ordering::Relaxed) as u128;
        Prepared::Record(record(number, false))
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_counts_but_has_room_for_commits() {
    let (open, gate) = crossbeam_channel::bounded(0);
    let made = Arc::new(AtomicUsize::new(1));
    let next = || Gate(gate.clone(), made.clone());
    let journal: Journal<Gate> = Journal::open(JournalOptions {
        queue_size: 2,
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
    assert_eq!(journal.status().written, 4);
    assert_eq!(journal.status().queued, 0);
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_together_and_what_is_awaited_at_once() {
    let journal: Journal<Plain> = Journal::open(JournalOptions {
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

    fn open(path: &Path) -> Journal<Plain> {
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
        for suffix in ["", "-wal"] {
            std::fs::copy(
                format!("{}{suffix}", path.display()),
                format!("{}{suffix}", after.display()),
            )
            .unwrap();
        }
        let survivor = open(&after);
        assert_eq!(numbers(&survivor).await, [1]);
        assert_eq!(survivor.held().await.unwrap()[0].key, key("r", 1));
    }

    #[tokio::test]
    async fn a_second_store_on_the_file_is_refused() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        let error = Journal::<Plain>::open(options(Target::Sqlite(path.clone())))
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
            Journal::<Plain>::open(options(Target::Sqlite(path)))
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
        let error = Journal::<Plain>::open(options(Target::Sqlite(path)))
            .err()
            .unwrap();
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
        let error = Journal::<Plain>::open(options(Target::Sqlite(path)))
            .err()
            .unwrap();
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
        let error = Journal::<Plain>::open(options(Target::Sqlite(path)))
            .err()
            .unwrap();
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
        let answer = journal.append(draft(1)).unwrap().await;
        assert!(matches!(answer, Err(JournalError::Degraded { .. })));
        let status = journal.status();
        assert!(status.degraded);
        assert!(status.last_error.is_some());
        assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 8192]);
        let lost = journal.close().await.unwrap_err();
        assert!(
            matches!(lost, JournalError::Lost { events: 1, .. }),
            "{lost}"
        );
        assert_eq!(journal.status().lost, 1);
    }

    #[tokio::test]
    async fn a_file_locked_by_somebody_else_is_waited_for() {
        let (_directory, path) = scratch();
        let journal = open(&path);
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut answer = journal.append(draft(1)).unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(400), &mut answer)
                .await
                .is_err(),
            "written although the file is locked"
        );
        other.execute_batch("COMMIT").unwrap();
        answer.await.unwrap();
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
        let journal: Journal<Plain> = Journal::open(JournalOptions {
            max_bytes: Some(200_000),
            ..options(Target::Sqlite(path))
        })
        .unwrap();
        let large = |number: u128, lifecycle| {
            Plain::Record(Box::new(Record {
                json: format!("{{\"n\":{number},\"pad\":\"{}\"}}", "x".repeat(500)),
                ..record(number, lifecycle)
            }))
        };
        for number in 0..100 {
            drop(journal.append(large(number, true)).unwrap());
        }
        for number in 100..1_000 {
            journal.append(large(number, false)).unwrap().await.unwrap();
        }
        until("the journal stays over its cap", || {
            journal.status().lost > 0 && journal.status().bytes <= 200_000
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
            Journal::<Plain>::open(JournalOptions {
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
        use super::super::{
            record::Change,
            sqlite::{SqliteLog, Trouble},
        };
        let (_directory, path) = scratch();
        let Ok(mut log) = SqliteLog::open(&path, &options(Target::Sqlite(path.clone()))) else {
            panic!("the file cannot be opened");
        };
        log.apply(&[Change::Insert(vec![record(1, true)])]).unwrap();
        log.limit_pages(1);
        let many = (2..200).map(|number| record(number, true)).collect();
        let trouble = log.apply(&[Change::Insert(many)]).unwrap_err();
        assert!(
            matches!(&trouble, Trouble::Passing(reason) if reason.contains("full")),
            "{trouble:?}"
        );
        assert_eq!(log.read(0, 10).unwrap().len(), 1);
    }
    fn refused(sink: &str, seq: u64, size: usize) -> Refused {
        Refused {
            sink: sink.to_owned(),
            event_id: Uuid::from_u128(seq.into()).into(),
            seq,
            reason: "no".to_owned(),
            json: "x".repeat(size),
        }
    }

    #[tokio::test]
    async fn dead_letters_go_before_what_is_still_to_be_delivered() {
        let (_directory, path) = scratch();
        let journal: Journal<Plain> = Journal::open(JournalOptions {
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
        journal
            .move_cursor("one".to_owned(), 100, letters)
            .await
            .unwrap();
        until("the journal stays over its cap", || {
            journal.status().lost > 0 && journal.status().bytes <= 800_000
        })
        .await;
        assert_eq!(numbers(&journal).await.len(), 100, "these go later");
        let left = journal.refused(None, 0, 1_000).await.unwrap();
        assert!(!left.is_empty());
        assert_eq!(left.len() as u64 + journal.status().lost, 1_000);
        assert_eq!(left.last().unwrap().seq, 1_000, "the oldest go first");
        assert_eq!(journal.status().depth, 100);
    }

    #[tokio::test]
    async fn the_dead_letters_of_one_event_are_never_parted() {
        let (_directory, path) = scratch();
        for target in [Target::Memory, Target::Sqlite(path)] {
            let journal: Journal<Plain> = Journal::open(options(target)).unwrap();
            // The faster sink first, as it is in the life of a store.
            for (sink, seqs) in [("fast", 1..=3), ("slow", 1..=2)] {
                let letters = seqs.map(|seq| refused(sink, seq, 1)).collect();
                journal
                    .move_cursor(sink.to_owned(), 3, letters)
                    .await
                    .unwrap();
            }
            let mut found = Vec::new();
            let mut after = 0;
            loop {
                let page = journal.refused(None, after, 1).await.unwrap();
                let Some(last) = page.last() else { break };
                after = last.seq;
                found.extend(page.into_iter().map(|letter| (letter.seq, letter.sink)));
            }
            let wanted = [
                (1, "fast"),
                (1, "slow"),
                (2, "fast"),
                (2, "slow"),
                (3, "fast"),
            ];
            assert_eq!(found, wanted.map(|(seq, sink)| (seq, sink.to_owned())));
            journal.bury("fast".to_owned(), 1).await.unwrap();
            let of_fast = journal
                .refused(Some("fast".to_owned()), 0, 10)
                .await
                .unwrap();
            assert_eq!(of_fast.len(), 2);
            let all = journal.refused(None, 0, 10).await.unwrap();
            assert_eq!(all.len(), 4);
        }
    }

    /// What an outage made large becomes small again.
    #[test]
    fn free_pages_are_given_back() {
        use super::super::{record::Change, sqlite::SqliteLog};
        let (_directory, path) = scratch();
        let options = JournalOptions {
            max_bytes: Some(1_000_000),
            ..options(Target::Sqlite(path.clone()))
        };
        let Ok(mut log) = SqliteLog::open(&path, &options) else {
            panic!("the file cannot be opened");
        };
        for number in 0..1_500 {
            let large = Record {
                json: "x".repeat(10_000),
                ..record(number, true)
            };
            log.apply(&[Change::Insert(vec![large])]).unwrap();
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
        use super::super::{record::Change, sqlite::SqliteLog};
        let (_directory, path) = scratch();
        let Ok(mut log) = SqliteLog::open(&path, &options(Target::Sqlite(path.clone()))) else {
            panic!("the file cannot be opened");
        };
        log.go_on_after(3);
        // Also when the first that comes was held.
        let key = key("r", 1);
        log.apply(&[Change::Hold(
            key.clone(),
            String::new(),
            vec![record(1, true)],
        )])
        .unwrap();
        assert_eq!(log.newest(), 0);
        log.apply(&[Change::Release(key)]).unwrap();
        log.apply(&[Change::Insert(vec![record(2, true)])]).unwrap();
        let seqs: Vec<u64> = log.read(0, 10).unwrap().iter().map(|it| it.seq).collect();
        assert_eq!(seqs, [4, 5]);
        // Where it is further already, nothing changes.
        log.go_on_after(3);
        log.apply(&[Change::Insert(vec![record(3, true)])]).unwrap();
        assert_eq!(log.newest(), 6);
    }

    #[test]
    fn while_the_disk_is_full_what_is_in_the_file_can_be_read() {
        use super::super::{file::FileLog, record::Change, status::Counters};
        let (_directory, path) = scratch();
        let counters = Counters::default();
        let Ok(mut log) = FileLog::open(path.clone(), options(Target::Sqlite(path)), &counters)
        else {
            panic!("the file cannot be opened");
        };
        log.apply(vec![Change::Insert(vec![record(1, true)])], &counters)
            .unwrap();
        log.limit_pages(1);
        let many = (2..200).map(|number| record(number, true)).collect();
        log.apply(vec![Change::Insert(many)], &counters)
            .unwrap_err();
        for position in 0..5_000 {
            let moved = Change::MoveCursor("sink".to_owned(), position);
            log.apply(vec![moved], &counters).unwrap_err();
        }
        assert_eq!(
            counters.status().lost,
            0,
            "a cursor takes no room of events"
        );
        assert_eq!(log.read(None, 0, 10).unwrap().len(), 1);
        log.limit_pages(1_000_000);
        let started = Instant::now();
        while log.durable().is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "not repaired");
            std::thread::sleep(Duration::from_millis(100));
            log.tick(&counters);
        }
        assert_eq!(log.read(None, 0, 1_000).unwrap().len(), 199);
        assert_eq!(log.cursor("sink").unwrap(), Some(4_999));
    }
}
