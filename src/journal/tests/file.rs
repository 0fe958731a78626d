//! A journal in a file.

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
async fn how_long_the_oldest_is_held_is_measured() {
    let (_directory, path) = scratch();
    let journal = open(&path);
    assert_eq!(journal.status().oldest_held, None);
    let happened = |number, seconds| {
        let mut event = event(number, false);
        event.metadata.created_at = Some(chrono::Utc::now() - chrono::TimeDelta::seconds(seconds));
        of(&rules(None), event)
    };
    let held = hold(key("r", 1), vec![happened(1, 5), happened(2, 30)]);
    journal.commit(vec![], held).unwrap().await.unwrap();
    let oldest = |journal: &Journal| journal.status().oldest_held;
    until("it is measured", || oldest(&journal).is_some()).await;
    let age = oldest(&journal).unwrap();
    assert!((30..40).contains(&age.as_secs()), "{age:?}");
    journal.release(key("r", 1)).unwrap().await.unwrap();
    until("nothing is held", || oldest(&journal).is_none()).await;
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

/// The error of opening a file whose schema has that version.
async fn opened_with_schema(version: u32) -> JournalError {
    let (_directory, path) = scratch();
    open(&path).close().await.unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute(
            "UPDATE meta SET value = ?1 WHERE key = 'schema_version'",
            [version.to_string()],
        )
        .unwrap();
    Journal::open(options(Target::Sqlite(path))).err().unwrap()
}

#[tokio::test]
async fn an_older_schema_is_refused() {
    let error = opened_with_schema(1).await;
    assert!(
        matches!(error, JournalError::OlderSchema { found: 1, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let error = opened_with_schema(99).await;
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
    let counters = crate::journal::status::Counters::default();
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
