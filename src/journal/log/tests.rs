//! The log's files, torn, failing, damaged and mixed up.

use super::{
    appender::SLOW,
    file::{Fault, HEADER},
    *,
};
use crate::{
    event::{Event, Execution, StoredEvent},
    journal::{JournalError, memory::Backlog, record::Change, status::Counters},
};
use proptest::prelude::*;
use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};
use uuid::Uuid;

fn event(number: u64, size: usize) -> StoredEvent {
    let data = serde_json::json!({ "n": number, "pad": "x".repeat(size) });
    let mut event = Event::new("test.event").data(data);
    event.metadata.event_id = Some(Uuid::from_u128(number.into()).into());
    event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
    StoredEvent::new(0, &event).unwrap()
}

fn insert(number: u64) -> Vec<Change> {
    vec![Change::Insert(vec![event(number, 10)])]
}

const STORE: Uuid = Uuid::from_u128(1);

fn place(position: u64) -> LogPosition {
    LogPosition {
        store_id: STORE,
        position,
        is_new: false,
    }
}

struct Scratch {
    directory: tempfile::TempDir,
    counters: Counters,
}

impl Scratch {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            counters: Counters::default(),
        }
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("events.db")
    }

    fn open(&self, place: LogPosition, syncs: bool) -> (Appender, Reader, Arc<Log>) {
        let left = recover(&self.journal(), place).unwrap();
        let backlog = Backlog::new(1_000, usize::MAX);
        open(&self.journal(), syncs, backlog, left).unwrap()
    }

    fn append(&self, appender: &mut Appender, number: u64) -> Result<(), JournalError> {
        appender.append(insert(number), &self.counters)
    }

    /// The names of all files.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Feeds everything, and gives back the numbers of the events and the last frame.
fn feed(reader: &mut Reader) -> (Vec<u64>, u64) {
    let mut numbers = Vec::new();
    let mut last = 0;
    while let Some(frames) = reader.next().unwrap() {
        for change in frames.changes {
            numbers.extend(change.events().iter().map(number));
        }
        last = frames.progress.last;
        reader.done_with(&frames.progress);
    }
    (numbers, last)
}

fn number(event: &StoredEvent) -> u64 {
    let json: serde_json::Value = serde_json::from_str(&event.json).unwrap();
    json["data"]["n"].as_u64().unwrap()
}

fn retry_now(appender: &mut Appender) {
    if let Some(failing) = &mut appender.failing {
        failing.retry_at = Instant::now();
    }
}

#[test]
fn what_is_appended_is_read_once_and_in_order() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, log) = scratch.open(place(0), false);
    for number in 1..=5 {
        scratch.append(&mut appender, number).unwrap();
    }
    assert!(reader.is_behind() && appender.is_behind() && log.unfed_bytes() > 0);
    assert_eq!(feed(&mut reader), (vec![1, 2, 3, 4, 5], 5));
    assert!(!reader.is_behind() && !appender.is_behind());
    assert_eq!(log.unfed_bytes(), 0);
    scratch.append(&mut appender, 6).unwrap();
    // The store did not take it, and gets it again.
    assert!(reader.next().unwrap().is_some());
    assert_eq!(feed(&mut reader), (vec![6], 6));
    reader.remove_all();
    assert!(scratch.names().is_empty());
}

#[test]
fn a_process_goes_on_where_the_last_one_was_killed() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, _) = scratch.open(place(0), false);
    for number in 1..=5 {
        scratch.append(&mut appender, number).unwrap();
    }
    let frames = reader.next().unwrap().unwrap();
    assert_eq!(frames.progress.last, 5);
    drop((appender, reader));
    // The store has some of it.
    let (mut appender, mut reader, _) = scratch.open(place(3), false);
    scratch.append(&mut appender, 6).unwrap();
    // It does not take what was left, and gets it again, before what came then.
    assert!(reader.next().unwrap().is_some());
    assert_eq!(feed(&mut reader), (vec![4, 5, 6], 6));
    assert_eq!(scratch.names(), ["events.db.log.2"]);
    // And when it has everything, nothing of it comes again.
    drop((appender, reader));
    let (_, mut reader, _) = scratch.open(place(6), false);
    assert!(!reader.is_behind());
    assert_eq!(feed(&mut reader), (vec![], 0));
}

#[test]
fn torn_at_any_byte_a_prefix_is_read_and_the_log_goes_on() {
    let whole = Scratch::new();
    let (mut appender, _reader, _) = whole.open(place(0), false);
    for number in 1..=3 {
        whole.append(&mut appender, number).unwrap();
    }
    let bytes = fs::read(whole.directory.path().join("events.db.log.1")).unwrap();
    let mut seen = Vec::new();
    for cut in 0..=bytes.len() {
        let scratch = Scratch::new();
        let file = scratch.directory.path().join("events.db.log.1");
        fs::write(&file, &bytes[..cut]).unwrap();
        let (mut appender, mut reader, _) = scratch.open(place(0), false);
        scratch.append(&mut appender, 9).unwrap();
        let (mut numbers, _) = feed(&mut reader);
        assert_eq!(numbers.pop(), Some(9), "cut at {cut}");
        assert!([1, 2, 3].starts_with(&numbers), "cut at {cut}");
        seen.push(numbers.len());
        assert_eq!(scratch.names(), ["events.db.log.2"], "cut at {cut}");
    }
    assert!(seen.is_sorted());
    assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&3)));
}

#[test]
fn a_short_write_at_any_byte_loses_nothing_whatever_comes_after_it() {
    let length = {
        let scratch = Scratch::new();
        let (mut appender, ..) = scratch.open(place(0), false);
        scratch.append(&mut appender, 2).unwrap();
        appender.buffer.len()
    };
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for bytes in 0..=length {
            for (size, reopens) in [(0, false), (1_000, false), (0, true), (1_000, true)] {
                let scratch = Scratch::new();
                let (mut appender, mut reader, _) = scratch.open(place(0), false);
                scratch.append(&mut appender, 1).unwrap();
                let file = appender.current.clone().unwrap();
                file.will(Fault::Write(bytes, kind));
                // It is kept, and said.
                let error = scratch.append(&mut appender, 2).unwrap_err();
                assert!(matches!(error, JournalError::Degraded { .. }), "{error}");
                assert!(!appender.is_plain());
                assert!(scratch.counters.status().degraded);
                scratch.append(&mut appender, 3).unwrap_err();
                assert_eq!(appender.backlog_events(), 2);
                retry_now(&mut appender);
                let more = vec![Change::Insert(vec![event(4, size)])];
                appender.append(more, &scratch.counters).unwrap();
                assert!(!scratch.counters.status().degraded);
                if !reopens {
                    assert_eq!(feed(&mut reader).0, [1, 2, 3, 4]);
                    continue;
                }
                // In another process all that anybody knows is in the files.
                drop((appender, reader));
                let (_, mut reader, _) = scratch.open(place(0), false);
                let (mut numbers, _) = feed(&mut reader);
                // What came back as failed may be there twice: the store keeps each event once.
                numbers.dedup();
                let twice = [1, 2, 2, 3, 4];
                assert!(
                    numbers == [1, 2, 3, 4] || numbers == twice,
                    "{kind:?} {bytes} {size}: {numbers:?}"
                );
            }
        }
    }
}

#[test]
fn a_sync_that_failed_is_not_repeated_on_its_file() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, _) = scratch.open(place(0), true);
    scratch.append(&mut appender, 1).unwrap();
    let failing = appender.current.clone().unwrap();
    failing.will(Fault::Sync);
    scratch.append(&mut appender, 2).unwrap_err();
    retry_now(&mut appender);
    scratch.append(&mut appender, 3).unwrap();
    let current = appender.current.clone().unwrap();
    assert_ne!(current.header.generation, failing.header.generation);
    assert_eq!(feed(&mut reader).0, [1, 2, 3]);
    assert!(!reader.is_behind());
    // The frame is in the old file, too, under another number: none of the new ones is taken for it.
    fs::remove_file(scratch.directory.path().join("events.db.log.1")).ok();
    drop((appender, reader));
    let (_, mut reader, _) = scratch.open(place(1), true);
    assert_eq!(feed(&mut reader).0, [2, 3]);
}

#[test]
fn damage_in_the_middle_is_kept_aside_and_the_rest_is_read() {
    let scratch = Scratch::new();
    let (mut appender, ..) = scratch.open(place(0), false);
    let mut ends = Vec::new();
    for number in 1..=3 {
        scratch.append(&mut appender, number).unwrap();
        ends.push(usize::try_from(appender.current.as_ref().unwrap().end()).unwrap());
    }
    drop(appender);
    let file = scratch.directory.path().join("events.db.log.1");
    let mut bytes = fs::read(&file).unwrap();
    bytes[ends[0] + 40] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let (_, mut reader, _) = scratch.open(place(0), false);
    assert_eq!(feed(&mut reader).0, [1, 3]);
    assert_eq!(
        scratch.names(),
        ["events.db.log.1.damaged", "events.db.log.2"]
    );
    assert_eq!(
        fs::read(scratch.directory.path().join("events.db.log.1.damaged")).unwrap(),
        bytes
    );
}

#[test]
fn a_header_that_nobody_knows_is_kept_aside_each_time() {
    let scratch = Scratch::new();
    let file = scratch.directory.path().join("events.db.log.1");
    for names in [
        &["events.db.log.1.damaged"][..],
        &["events.db.log.1.damaged", "events.db.log.1.damaged.2"],
    ] {
        fs::write(&file, vec![7; HEADER * 3]).unwrap();
        let (_, mut reader, _) = scratch.open(place(0), false);
        assert!(!reader.is_behind());
        reader.remove_all();
        assert_eq!(scratch.names(), names);
    }
}

#[test]
fn the_log_of_another_store_is_set_aside() {
    let scratch = Scratch::new();
    let (mut appender, ..) = scratch.open(place(0), false);
    scratch.append(&mut appender, 1).unwrap();
    drop(appender);
    let other = LogPosition {
        store_id: Uuid::from_u128(2),
        ..place(0)
    };
    let (_, mut reader, _) = scratch.open(other, false);
    assert!(feed(&mut reader).0.is_empty());
    assert_eq!(
        scratch.names(),
        ["events.db.log.1.other", "events.db.log.2"]
    );
}

#[test]
fn a_new_store_adopts_the_log_beside_it() {
    let scratch = Scratch::new();
    let (mut appender, ..) = scratch.open(place(0), false);
    scratch.append(&mut appender, 1).unwrap();
    drop(appender);
    let new = LogPosition {
        store_id: Uuid::from_u128(2),
        position: 0,
        is_new: true,
    };
    let recovered = recover(&scratch.journal(), new).unwrap();
    assert_eq!(recovered.store_id, STORE);
    let (_, mut reader, _) = scratch.open(new, false);
    assert_eq!(feed(&mut reader).0, [1]);
}

/// Whatever position the store has that takes its place: what was appended beside a store that could not be read
/// is in none.
#[test]
fn what_was_appended_beside_a_damaged_store_is_for_any_that_takes_its_place() {
    let damaged = LogPosition {
        store_id: Uuid::nil(),
        ..place(0)
    };
    let scratch = Scratch::new();
    for number in 1..=2 {
        let (mut appender, mut reader, _) = scratch.open(damaged, false);
        reader.keep_files();
        scratch.append(&mut appender, number).unwrap();
        let expected: Vec<u64> = (1..=number).collect();
        assert_eq!(feed(&mut reader).0, expected);
        assert!(!reader.is_behind());
        reader.remove_all();
    }
    let (_, mut reader, _) = scratch.open(place(1_000), false);
    let (numbers, last) = feed(&mut reader);
    assert_eq!(numbers, [1, 2]);
    assert!(last > 1_000);
    assert_eq!(scratch.names(), ["events.db.log.3"]);
}

#[test]
fn files_follow_one_another_and_go_when_they_are_fed() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, log) = scratch.open(place(0), false);
    let mut fed = Vec::new();
    for number in 1..=60 {
        let large = vec![Change::Insert(vec![event(number, 500_000)])];
        appender.append(large, &scratch.counters).unwrap();
        appender.look_after(&scratch.counters, false);
        if number % 7 == 0 {
            fed.extend(feed(&mut reader).0);
        }
        assert!(scratch.names().len() <= 3, "{:?}", scratch.names());
    }
    fed.extend(feed(&mut reader).0);
    assert!(fed.iter().copied().eq(1..=60));
    assert_eq!(log.unfed_bytes(), 0);
    assert!(appender.current.unwrap().header.generation > 3);
}

#[test]
fn what_is_too_large_for_a_frame_is_several() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, _) = scratch.open(place(0), false);
    let many = vec![
        Change::Insert((1..=5).map(|it| event(it, 7_000_000)).collect()),
        Change::Insert(vec![event(6, 1)]),
    ];
    appender.append(many, &scratch.counters).unwrap();
    assert!(appender.next_number > 3);
    assert_eq!(feed(&mut reader).0, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_file_that_is_gone_is_fed_all_the_same_and_left_for_a_new_one() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, _) = scratch.open(place(0), false);
    scratch.append(&mut appender, 1).unwrap();
    fs::remove_file(scratch.directory.path().join("events.db.log.1")).unwrap();
    scratch.append(&mut appender, 2).unwrap();
    appender.look_after(&scratch.counters, false);
    scratch.append(&mut appender, 3).unwrap();
    assert_eq!(scratch.names(), ["events.db.log.2"]);
    assert_eq!(feed(&mut reader).0, [1, 2, 3]);
}

/// Memory has room for some of what cannot be written; what goes is counted, and what is left at the end.
#[test]
fn what_is_lost_while_nothing_can_be_written_is_counted() {
    let scratch = Scratch::new();
    let left = recover(&scratch.journal(), place(0)).unwrap();
    let backlog = Backlog::new(10, usize::MAX);
    let (mut appender, mut reader, _) = open(&scratch.journal(), false, backlog, left).unwrap();
    let file = appender.current.clone().unwrap();
    for number in 1..=15 {
        file.will(Fault::Write(0, io::ErrorKind::StorageFull));
        retry_now(&mut appender);
        scratch.append(&mut appender, number).unwrap_err();
    }
    // What settles something held is kept in any case.
    file.will(Fault::Write(0, io::ErrorKind::StorageFull));
    retry_now(&mut appender);
    let key = crate::journal::HoldKey {
        execution: Execution {
            namespace: "default".to_owned(),
            workflow_id: "w".to_owned(),
            run_id: "r".to_owned(),
        },
        hold_id: Uuid::nil(),
    };
    let release = vec![Change::Release(key)];
    appender
        .append(release.clone(), &scratch.counters)
        .unwrap_err();
    let lost = scratch.counters.status().lost;
    assert!(lost >= 5, "{lost}");
    assert_eq!(appender.backlog_events() + lost, 15);
    retry_now(&mut appender);
    scratch.append(&mut appender, 16).unwrap();
    let mut changes = Vec::new();
    while let Some(frames) = reader.next().unwrap() {
        changes.extend(frames.changes);
        reader.done_with(&frames.progress);
    }
    assert!(changes.contains(&release[0]));
    let events = changes.iter().flat_map(Change::events).map(number);
    assert!(events.eq(lost + 1..=16), "the oldest went");
}

#[test]
fn a_file_that_was_emptied_is_left_for_a_new_one_and_holds_nothing_up() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, log) = scratch.open(place(0), false);
    scratch.append(&mut appender, 1).unwrap();
    assert_eq!(feed(&mut reader).0, [1]);
    scratch.append(&mut appender, 2).unwrap();
    fs::write(scratch.directory.path().join("events.db.log.1"), "").unwrap();
    scratch.append(&mut appender, 3).unwrap();
    appender.look_after(&scratch.counters, false);
    scratch.append(&mut appender, 4).unwrap();
    let (numbers, _) = feed(&mut reader);
    assert_eq!(numbers.last(), Some(&4));
    assert!(!reader.is_behind());
    assert_eq!(log.unfed_bytes(), 0);
}

#[test]
fn a_disk_that_fails_for_long_leaves_no_files_behind() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, _) = scratch.open(place(0), true);
    for _ in 0..20 {
        appender.file().unwrap();
        appender.leave_file();
        assert!(scratch.names().is_empty(), "{:?}", scratch.names());
    }
    scratch.append(&mut appender, 1).unwrap();
    assert_eq!(feed(&mut reader).0, [1]);
    // One with a frame is not left to anybody but the store.
    appender.leave_file();
    assert_eq!(scratch.names().len(), 1);
}

/// A file that was created ahead comes before those that were created after it.
#[test]
fn files_follow_one_another_by_their_generations() {
    let scratch = Scratch::new();
    let (mut appender, ..) = scratch.open(place(0), false);
    let large = vec![Change::Insert(vec![event(1, 5_000_000)])];
    appender.append(large, &scratch.counters).unwrap();
    appender.look_after(&scratch.counters, false);
    fs::remove_file(scratch.directory.path().join("events.db.log.1")).unwrap();
    appender.look_after(&scratch.counters, false);
    scratch.append(&mut appender, 2).unwrap();
    let generation = |appender: &Appender| appender.current.as_ref().unwrap().header.generation;
    assert_eq!(generation(&appender), 2, "{:?}", scratch.names());
    // And one that is gone is not used.
    let large = vec![Change::Insert(vec![event(3, 5_000_000)])];
    appender.append(large, &scratch.counters).unwrap();
    appender.look_after(&scratch.counters, false);
    fs::remove_file(scratch.directory.path().join("events.db.log.3")).unwrap();
    fs::remove_file(scratch.directory.path().join("events.db.log.2")).unwrap();
    appender.look_after(&scratch.counters, false);
    scratch.append(&mut appender, 4).unwrap();
    assert_eq!(generation(&appender), 4);
    assert_eq!(scratch.names(), ["events.db.log.4"]);
}

#[test]
fn a_slow_disk_is_left_to_the_thread_until_it_is_quick_again() {
    let scratch = Scratch::new();
    let (mut appender, ..) = scratch.open(place(0), false);
    appender.note_speed(SLOW * 2);
    assert!(appender.is_plain(), "one slow append proves nothing");
    appender.note_speed(Duration::ZERO);
    appender.note_speed(SLOW * 2);
    appender.note_speed(SLOW * 2);
    assert!(!appender.is_plain());
    appender.slow_until = Some(Instant::now());
    appender.note_speed(Duration::ZERO);
    assert!(appender.is_plain());
}

proptest! {
    /// However the disk fails, and wherever the process ends: what was acknowledged is there, in order.
    #[test]
    fn what_was_acknowledged_is_there(
        steps in prop::collection::vec((0_u8..5, 0_usize..400, 0_usize..300), 1..25)
    ) {
        let scratch = Scratch::new();
        let (mut appender, reader, _) = scratch.open(place(0), false);
        let mut acknowledged = Vec::new();
        for (number, (fault, bytes, size)) in (1..).zip(steps) {
            if let Some(file) = &appender.current {
                match fault {
                    0 => file.will(Fault::Write(bytes, io::ErrorKind::StorageFull)),
                    1 => file.will(Fault::Write(bytes, io::ErrorKind::Other)),
                    _ => {}
                }
            }
            retry_now(&mut appender);
            let change = vec![Change::Insert(vec![event(number, size)])];
            if appender.append(change, &scratch.counters).is_ok() {
                // With everything before it.
                acknowledged = (1..=number).collect();
            }
        }
        drop((appender, reader));
        let (_, mut reader, _) = scratch.open(place(0), false);
        let (numbers, _) = feed(&mut reader);
        let mut seen = std::collections::HashSet::new();
        let once: Vec<u64> = numbers.into_iter().filter(|number| seen.insert(*number)).collect();
        prop_assert!(once.starts_with(&acknowledged), "{once:?} lacks some of {acknowledged:?}");
    }
}

#[test]
fn what_was_just_appended_is_not_read_back() {
    let scratch = Scratch::new();
    let (mut appender, mut reader, _log) = scratch.open(place(0), false);
    for number in 1..=3 {
        scratch.append(&mut appender, number).unwrap();
    }
    let file = appender.current.clone().unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(file.path())
        .unwrap()
        .set_len(HEADER as u64)
        .unwrap();
    assert_eq!(feed(&mut reader), (vec![1, 2, 3], 3));
}

/// What happens between appends.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An event of so many bytes is appended.
    Append(usize),
    /// The store takes everything.
    Feed,
    /// The store does not take what it is handed, so that it is read again.
    Refuse,
    /// Nothing of what was appended is in memory.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..200).prop_map(Step::Append),
        1 => (FEED_BYTES / 3..FEED_BYTES + 9).prop_map(Step::Append),
        2 => Just(Step::Feed),
        1 => Just(Step::Refuse),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whether frames come from memory or from the files: each once, in order.
    #[test]
    fn from_memory_and_from_files_comes_the_same(steps in prop::collection::vec(step(), 1..40)) {
        let scratch = Scratch::new();
        let (mut appender, mut reader, log) = scratch.open(place(0), false);
        let (mut appended, mut fed) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Append(size) => {
                    appended += 1;
                    let changes = vec![Change::Insert(vec![event(appended, size)])];
                    appender.append(changes, &scratch.counters).unwrap();
                }
                Step::Feed => fed.extend(feed(&mut reader).0),
                Step::Refuse => {
                    reader.next().unwrap();
                }
                Step::Forget => *lock(&log.recent) = Recent::default(),
            }
        }
        fed.extend(feed(&mut reader).0);
        prop_assert_eq!(fed, (1..=appended).collect::<Vec<_>>());
        prop_assert!(!reader.is_behind());
    }
}
