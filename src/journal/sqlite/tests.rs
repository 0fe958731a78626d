//! The file: its positions, its plans, and what is refused.

use super::{
    connect::{flags, set_up},
    *,
};
use crate::{
    event::{DeadLetter, StoredEvent},
    journal::{Synchronous, Target},
};
use std::path::PathBuf;

fn options(path: &Path) -> JournalOptions {
    JournalOptions::small(Target::Sqlite(path.to_owned()))
}

fn open(path: &Path) -> SqliteLog {
    SqliteLog::open(path, &options(path)).ok().unwrap()
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.db");
    (directory, path)
}

fn insert(number: u128) -> Change {
    let mut event = crate::event::Event::new("user");
    event.metadata.event_id = Some(Uuid::from_u128(number).into());
    event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
    Change::Insert(vec![StoredEvent::new(0, &event).unwrap()])
}

fn dead_letter(position: u64) -> Note {
    let Change::Insert(mut events) = insert(1) else {
        unreachable!()
    };
    events[0].position = position;
    Note::Refuse(vec![DeadLetter::new(
        "s",
        &events[0],
        "on purpose".to_owned(),
    )])
}

fn apply(log: &mut SqliteLog, changes: &[Change]) -> Applied {
    log.apply(changes, &[], None).ok().unwrap()
}

fn note(log: &mut SqliteLog, notes: &[Note]) {
    log.apply(&[], notes, None).ok().unwrap();
}

/// What another program does to it.
fn execute(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[cfg(unix)]
#[test]
fn a_place_without_wal_is_refused_with_what_to_do() {
    let (_directory, path) = file();
    // It has no shared memory, like a file system that cannot map files.
    let without = Connection::open_with_flags_and_vfs(&path, flags(), "unix-dotfile").unwrap();
    let failure = set_up(without, &path, Synchronous::Normal).err().unwrap();
    let ConnectFailure::Refused(error) = failure else {
        panic!("not refused")
    };
    let text = error.to_string();
    for words in ["events.db", "WAL", "delete", "put it on a local disk"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn who_asks_for_a_workflow_id_never_reads_all_events() {
    let (_directory, path) = file();
    let mut log = open(&path);
    for number in 1..=3 {
        apply(&mut log, &[insert(number)]);
    }
    drop(log);
    // What SQLite counts in a small file says that blocks are not few against events.
    execute(&path, "ANALYZE");
    drop(open(&path));
    let other = Connection::open(&path).unwrap();
    for rest in [
        "",
        "ORDER BY seq",
        "ORDER BY seq DESC LIMIT 1",
        "AND workflow_run_id = 'r' ORDER BY seq",
        "AND event_name = 'workflow_end' AND created_at > '2026' ORDER BY created_at",
    ] {
        let sql =
            format!("EXPLAIN QUERY PLAN SELECT event FROM events WHERE workflow_id = 'w' {rest}");
        let plan: String = other.query_row(&sql, [], |row| row.get(3)).unwrap();
        assert!(plan.contains("events_by_workflow"), "{rest}: {plan}");
    }
}

#[test]
fn positions_go_on_behind_the_cursors_of_a_file_that_was_emptied() {
    for (sql, after) in [
        ("DELETE FROM events", 7),
        // Others than sinks keep something else there.
        (
            "DELETE FROM events; DELETE FROM cursors WHERE name = 'sink s'",
            5,
        ),
        (
            "DELETE FROM events WHERE seq > 2; DELETE FROM dead_letters",
            7,
        ),
        (
            "DELETE FROM events WHERE seq > 2; DELETE FROM cursors; DELETE FROM dead_letters",
            2,
        ),
    ] {
        let (_directory, path) = file();
        let mut log = open(&path);
        for number in 1..=7 {
            apply(&mut log, &[insert(number)]);
        }
        let notes = [
            Note::MoveCursor("sink s".to_owned(), 7),
            Note::MoveCursor("closed runs default".to_owned(), 1_795_419_036_000_000),
            dead_letter(5),
        ];
        note(&mut log, &notes);
        drop(log);
        execute(&path, sql);
        let mut log = open(&path);
        // As when a file can be written again.
        log.go_on_after(0);
        note(&mut log, &[dead_letter(5)]);
        let applied = apply(&mut log, &[insert(8)]);
        assert_eq!(applied.newest, after + 1, "{sql}");
        assert_eq!(apply(&mut log, &[insert(9)]).newest, after + 2);
        let read = log.read(after, 10).ok().unwrap();
        assert_eq!(read.len(), 2, "{sql}");
    }
}

#[test]
fn positions_go_on_behind_the_cursors_also_in_the_file_that_takes_the_place_of_one() {
    let (directory, path) = file();
    let mut log = open(&path);
    for number in 1..=3 {
        apply(&mut log, &[insert(number)]);
    }
    note(&mut log, &[Note::MoveCursor("sink s".to_owned(), 3)]);
    drop(log);
    execute(&path, "DELETE FROM events");
    let mut log = open(&path);
    let other = directory.path().join("other.db");
    for number in 4..=6 {
        apply(&mut open(&other), &[insert(number)]);
    }
    std::fs::rename(&other, &path).unwrap();
    assert!(!log.is_at(&path));
    log.move_to(&path, Synchronous::Normal).ok().unwrap();
    assert_eq!(apply(&mut log, &[insert(7)]).newest, 7);
    let stored = log.read(3, 10).ok().unwrap();
    let positions: Vec<u64> = stored.iter().map(|stored| stored.position).collect();
    assert_eq!(positions, [4, 5, 6, 7]);
}

#[test]
fn positions_go_on_where_they_were_in_a_file_that_is_emptied_while_it_is_open() {
    let (_directory, path) = file();
    let mut log = open(&path);
    for number in 1..=3 {
        apply(&mut log, &[insert(number)]);
    }
    execute(&path, "DELETE FROM events");
    let applied = apply(&mut log, &[insert(4), insert(5)]);
    assert_eq!((applied.inserted, applied.newest), (2, 5));
    assert_eq!(log.read(0, 10).ok().unwrap().len(), 2);
    execute(&path, "DELETE FROM events WHERE seq = 5");
    assert_eq!(apply(&mut log, &[insert(6)]).newest, 6);
}
