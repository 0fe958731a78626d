//! The journal under fire: torn writes, a full disk, a file that is read-only, deleted, replaced or in
//! use, and clocks that jump. Workflows go on, what is lost is counted and said, nothing is invented.

use crate::support::{
    Ground, Program,
    compare::{compare, state_of},
    example, histories, outcome, rows, start_worker, until, workflows,
};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use temporal_eventstore::{Event, EventStore, Health, JournalError};
use temporalio_client::Client;

const TIMEOUT: Duration = Duration::from_secs(5);

async fn open(file: &Path) -> EventStore {
    EventStore::builder()
        .store(format!("sqlite:{}", file.display()))
        .build()
        .await
        .unwrap()
}

/// Publishes `count` events, one after the other, and gives back their ids.
async fn publish(events: &EventStore, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        let event = Event::new("test.event").data(serde_json::json!({ "number": number }));
        ids.push(
            events
                .publish(event)
                .await
                .unwrap()
                .event_id()
                .unwrap()
                .to_string(),
        );
    }
    ids
}

fn ids(file: &Path) -> Vec<String> {
    rows(file).into_iter().map(|row| row.event_id).collect()
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

fn delete(file: &Path) {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        fs::remove_file(beside(file, suffix)).ok();
    }
}

/// The header of a WAL, and of each frame in it; <https://www.sqlite.org/fileformat.html#walformat>.
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

#[tokio::test]
async fn a_wal_that_is_torn_anywhere_gives_a_prefix_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let events = open(&file).await;
    let mut written = Vec::new();
    for _ in 0..12 {
        written.extend(publish(&events, 1).await);
        // In a transaction of its own.
        events.flush(TIMEOUT).await.unwrap();
    }
    // While the store is open and idle the files hold still, as after a crash.
    let (main, wal) = (
        fs::read(&file).unwrap(),
        fs::read(beside(&file, "-wal")).unwrap(),
    );
    events.shutdown(TIMEOUT).await.unwrap();
    let page = usize::from(u16::from_be_bytes([main[16], main[17]]));
    let frame = FRAME_HEADER + page;
    let frames = (wal.len() - WAL_HEADER) / frame;
    assert!(frames > 24, "{frames} frames are too few to tear");

    let torn = directory.path().join("torn.db");
    let mut seen = Vec::new();
    for cut in 0..=frames {
        let boundary = WAL_HEADER + cut * frame;
        // At the boundary; within the next page; and with rubbish instead of what was not written.
        let mut variants = vec![wal[..boundary].to_vec()];
        if cut < frames {
            variants.push(wal[..boundary + frame / 2].to_vec());
            let mut rubbish = wal.clone();
            rubbish[boundary + FRAME_HEADER..].fill(0xA5);
            variants.push(rubbish);
        }
        for variant in variants {
            delete(&torn);
            fs::write(&torn, &main).unwrap();
            fs::write(beside(&torn, "-wal"), variant).unwrap();
            let events = open(&torn).await;
            assert_eq!(events.health(), Health::Healthy);
            let after = publish(&events, 1).await;
            events.shutdown(TIMEOUT).await.unwrap();
            let mut found = ids(&torn);
            assert_eq!(found.pop(), after.first().cloned(), "it can be written");
            assert_eq!(found, written[..found.len()], "a prefix, cut at {cut}");
            seen.push(found.len());
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&12)));
}

#[tokio::test]
async fn a_deleted_file_is_written_anew_with_all_that_was_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let events = open(&file).await;
    let mut written = publish(&events, 5).await;
    delete(&file);
    written.extend(publish(&events, 5).await);
    until("the file is there again", || file.exists()).await;
    written.extend(publish(&events, 5).await);
    assert_eq!(events.health(), Health::Healthy);
    assert_eq!(events.stats().lost, 0);
    let second = EventStore::builder()
        .store(format!("sqlite:{}", file.display()))
        .build()
        .await;
    assert!(second.is_err(), "the new file is locked as the old one was");
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ids(&file), written);
}

#[tokio::test]
async fn a_deleted_file_is_saved_at_the_latest_when_the_store_closes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let events = open(&file).await;
    let written = publish(&events, 5).await;
    delete(&file);
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ids(&file), written);
}

#[tokio::test]
async fn a_file_that_is_replaced_gets_what_the_old_one_held() {
    let directory = tempfile::tempdir().unwrap();
    let (file, other) = (
        directory.path().join("events.db"),
        directory.path().join("other.db"),
    );
    let older = open(&other).await;
    let restored = publish(&older, 3).await;
    older.shutdown(TIMEOUT).await.unwrap();
    let events = open(&file).await;
    let mut all = publish(&events, 4).await;
    // The side files of the old one stay where they are.
    fs::rename(&other, &file).unwrap();
    until("what was in the old file is in the new one", || {
        ids(&file).len() == 7
    })
    .await;
    // Positions that somebody has read up to still mean the same: what came along is behind.
    all.extend(restored);
    all.extend(publish(&events, 2).await);
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ids(&file), all);
}

#[tokio::test]
async fn only_the_main_file_deleted_or_moved_away() {
    for moves in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("events.db");
        let events = open(&file).await;
        let mut written = publish(&events, 300).await;
        if moves {
            fs::rename(&file, directory.path().join("backup.db")).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        written.extend(publish(&events, 10).await);
        until("the file is there again", || {
            file.exists() && fs::metadata(&file).unwrap().len() > 0
        })
        .await;
        written.extend(publish(&events, 10).await);
        assert_eq!(events.stats().lost, 0);
        assert_eq!(events.health(), Health::Healthy);
        events.shutdown(TIMEOUT).await.unwrap();
        assert_eq!(ids(&file), written, "moved: {moves}");
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_is_said_and_healed_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("events.db");
    let events = open(&file).await;
    let mut written = publish(&events, 3).await;
    fs::remove_dir_all(&inner).unwrap();
    until("the store says so", || {
        matches!(events.health(), Health::Degraded { .. })
    })
    .await;
    let Health::Degraded { reason } = events.health() else {
        panic!("it healed by itself");
    };
    assert!(reason.contains("does not exist"), "{reason}");
    // What is written now would be gone with this process, and the receipt says so.
    for number in 0..3 {
        let event = Event::new("test.event").data(serde_json::json!({ "later": number }));
        let error = events.publish(event).await.unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
    events.flush(TIMEOUT).await.unwrap_err();
    fs::create_dir(&inner).unwrap();
    until("it is healed", || events.health() == Health::Healthy).await;
    written.extend(publish(&events, 3).await);
    events.shutdown(TIMEOUT).await.unwrap();
    let ids = ids(&file);
    assert_eq!(ids.len(), 9);
    assert_eq!((&ids[..3], &ids[6..]), (&written[..3], &written[3..]));
}

fn worker(ground: &Ground) -> Command {
    let mut command = example("worker");
    command
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", ground.store_url());
    command
}

/// The same program, started by a shell after `preparation`.
fn prepared(command: &Command, preparation: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("{preparation}; exec \"$0\" \"$@\""))
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell
}

async fn run_noops(client: &Client, from: usize, to: usize) {
    let all = (from..to).map(|number| async move {
        let id = format!("noop-{number}");
        outcome(client, workflows::Noop::run, (), &id)
            .await
            .unwrap();
    });
    futures::future::join_all(all).await;
}

async fn closed(ground: &Ground, client: &Client, runs: usize) {
    let began = Instant::now();
    while ground
        .runs(client)
        .await
        .iter()
        .filter(|run| state_of(run.status()).is_some())
        .count()
        < runs
    {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ends the program and gives back whether it was content, and what it wrote to its log.
fn ended(mut program: Program) -> (bool, String) {
    program.signal("TERM");
    let mut log = String::new();
    program
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    (program.0.wait().unwrap().success(), log)
}

/// Files of this process may have so many kilobytes, and no signal says when they are full: as on a
/// disk that is.
const SMALL_DISK: &str = "trap '' XFSZ; ulimit -S -f";

#[tokio::test]
async fn a_full_disk_stops_no_workflow_and_loses_nothing_once_there_is_room() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    // POSIX counts in blocks of 512 bytes.
    let mut command = prepared(&worker(&ground), &format!("{SMALL_DISK} 300"));
    let program = start_worker(command.stderr(Stdio::piped()));
    run_noops(&client, 0, 120).await;
    closed(&ground, &client, 120).await;
    let ends = |ground: &Ground| {
        let rows = ground.events();
        rows.iter()
            .filter(|row| row.event_name == "workflow_end")
            .count()
    };
    assert!(ends(&ground) < 120, "the disk was not small enough");
    let room = Command::new("prlimit")
        .args(["--pid", &program.0.id().to_string(), "--fsize=unlimited"])
        .status();
    assert!(room.unwrap().success());
    until("what memory held is in the file", || ends(&ground) == 120).await;
    run_noops(&client, 120, 130).await;
    let (content, log) = ended(program);
    assert!(content, "{log}");
    assert!(log.contains("turns to memory"), "{log}");
    assert!(log.contains("can write its file again"), "{log}");
    let runs = histories(&ground, &client).await;
    let differences = compare(&runs, &ground.events());
    assert!(differences.is_empty(), "{differences}");
}

/// Where only the store has no room, for it is one file and the log goes on in others, the next start has
/// everything.
#[tokio::test]
async fn a_store_that_stays_full_is_said_and_the_next_start_has_everything() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut command = prepared(&worker(&ground), &format!("{SMALL_DISK} 300"));
    let program = start_worker(command.stderr(Stdio::piped()).env("NO_COLOR", "1"));
    run_noops(&client, 0, 120).await;
    closed(&ground, &client, 120).await;
    let (content, log) = ended(program);
    assert!(!content, "its shutdown says that the store lacks events");
    assert!(
        log.contains("what it lacks is in the log beside it"),
        "{log}"
    );
    assert!(!log.contains("lost="), "{log}");
    assert!(
        ground.events().len() < 120 * 4,
        "the disk was not small enough"
    );
    assert!(start_worker(&mut worker(&ground)).terminate().success());
    let runs = histories(&ground, &client).await;
    let differences = compare(&runs, &ground.events());
    assert!(differences.is_empty(), "{differences}");
}

/// A file system of two megabytes, and what fills it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(ground: &Ground) -> Self {
        let place = ground.directory.path().join("small");
        fs::create_dir(&place).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(&place)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "a small file system cannot be mounted; run this test as root, with CAP_SYS_ADMIN"
        );
        Self(place)
    }

    fn file(&self) -> PathBuf {
        self.0.join("events.db")
    }

    fn worker(&self, ground: &Ground) -> Command {
        let mut command = worker(ground);
        command.env(
            "EVENTSTORE_URL",
            format!("sqlite:{}", self.file().display()),
        );
        command
    }

    fn fill(&self) {
        let mut ballast = fs::File::create(self.0.join("ballast")).unwrap();
        while std::io::Write::write_all(&mut ballast, &[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It is in use for as long as a program of the test is.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[tokio::test]
async fn a_disk_that_stays_full_is_said_and_counted() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let disk = SmallDisk::new(&ground);
    let mut command = disk.worker(&ground);
    let program = start_worker(command.stderr(Stdio::piped()).env("NO_COLOR", "1"));
    run_noops(&client, 0, 20).await;
    disk.fill();
    run_noops(&client, 20, 120).await;
    closed(&ground, &client, 120).await;
    let (content, log) = ended(program);
    assert!(
        !content,
        "the worker's shutdown says that events are missing"
    );
    assert!(log.contains("turns to memory"), "{log}");
    // What the store lacks and the log has, it gets when there is room.
    disk.make_room();
    open(&disk.file()).await.shutdown(TIMEOUT).await.unwrap();
    let runs = histories(&ground, &client).await;
    let stored = rows(&disk.file());
    let differences = compare(&runs, &stored);
    assert!(differences.phantom.is_empty() && differences.wrong_outcome.is_empty());
    assert!(differences.duplicate.is_empty(), "{differences}");
    assert!(!differences.missing.is_empty());
    // Each workflow has two events and its activity two; the worker has its own two.
    // An end that was held when the disk filled up is still there, for the next start.
    let held: usize = rusqlite::Connection::open(disk.file())
        .unwrap()
        .query_row("SELECT COUNT(*) FROM held", [], |row| row.get(0))
        .unwrap();
    let lost = 120 * 4 + 2 - stored.len() - held;
    assert!(
        log.contains(&format!("lost={lost} ")),
        "{lost} of them:\n{log}"
    );
}

#[tokio::test]
async fn a_disk_that_was_full_costs_nothing_also_when_the_worker_is_killed_afterwards() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let disk = SmallDisk::new(&ground);
    let program = start_worker(&mut disk.worker(&ground));
    run_noops(&client, 0, 10).await;
    disk.fill();
    run_noops(&client, 10, 30).await;
    closed(&ground, &client, 30).await;
    disk.make_room();
    // The log is tried again every second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    run_noops(&client, 30, 40).await;
    drop(program);
    whole_afterwards(&ground, &client, &mut disk.worker(&ground), &disk.file()).await;
}

/// A worker that was killed left this file: the next one makes it agree with the server.
async fn whole_afterwards(ground: &Ground, client: &Client, worker: &mut Command, file: &Path) {
    let program = start_worker(worker);
    let count = || -> i64 {
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.busy_timeout(TIMEOUT).unwrap();
        connection
            .query_row("SELECT COUNT(*) FROM held", [], |row| row.get(0))
            .unwrap()
    };
    until("ends stay held", || count() == 0).await;
    assert!(program.terminate().success());
    let runs = histories(ground, client).await;
    let differences = compare(&runs, &rows(file));
    assert!(differences.is_empty(), "{differences}");
}

/// The files of the log that are there now.
fn log_files(file: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}.log.", file.display());
    let entries = fs::read_dir(file.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_str().unwrap().starts_with(&prefix))
        .collect()
}

#[tokio::test]
async fn a_log_that_somebody_interferes_with_costs_nothing_when_the_worker_is_killed_afterwards() {
    type Interference = fn(&Path);
    let kinds: [(&str, Interference); 4] = [
        ("deleted", |path| fs::remove_file(path).unwrap()),
        ("moved away", |path| {
            fs::rename(path, path.with_extension("bak")).unwrap()
        }),
        ("replaced", |path| {
            let other = path.with_extension("other");
            fs::write(&other, [0x5a; 300]).unwrap();
            fs::rename(&other, path).unwrap();
        }),
        ("emptied", |path| fs::write(path, b"").unwrap()),
    ];
    for (kind, interfere) in kinds {
        let ground = Ground::new().await;
        let client = ground.client().await;
        let program = start_worker(&mut worker(&ground));
        run_noops(&client, 0, 3).await;
        let before = log_files(&ground.file());
        assert_eq!(before.len(), 1, "{before:?}");
        // The store has it all.
        tokio::time::sleep(Duration::from_millis(300)).await;
        interfere(&before[0]);
        run_noops(&client, 3, 6).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let after = log_files(&ground.file());
        assert!(
            after.iter().any(|path| !before.contains(path)),
            "{kind}: {after:?}"
        );
        run_noops(&client, 6, 9).await;
        drop(program);
        whole_afterwards(&ground, &client, &mut worker(&ground), &ground.file()).await;
    }
}

#[tokio::test]
async fn a_directory_that_was_gone_costs_nothing_when_the_worker_is_killed_afterwards() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let inner = ground.directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let file = inner.join("events.db");
    let mut command = worker(&ground);
    command.env("EVENTSTORE_URL", format!("sqlite:{}", file.display()));
    let program = start_worker(&mut command);
    run_noops(&client, 0, 3).await;
    fs::remove_dir_all(&inner).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    run_noops(&client, 3, 6).await;
    fs::create_dir(&inner).unwrap();
    until("the file is there again", || {
        file.exists() && !log_files(&file).is_empty()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    run_noops(&client, 6, 9).await;
    drop(program);
    whole_afterwards(&ground, &client, &mut command, &file).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_an_error_at_the_start() {
    let ground = Ground::new().await;
    let file = ground.file();
    open(&file).await.shutdown(TIMEOUT).await.unwrap();
    for suffix in ["", ".lock"] {
        let mut permissions = fs::metadata(beside(&file, suffix)).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(beside(&file, suffix), permissions).unwrap();
    }
    let command = worker(&ground);
    let is_root = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout)
        .unwrap()
        .trim()
        == "0";
    // Permissions mean nothing to root, unless it gives that up.
    let output = if is_root {
        let mut humble = Command::new("setpriv");
        humble
            .args([
                "--bounding-set",
                "-dac_override",
                "--inh-caps",
                "-dac_override",
            ])
            .arg(command.get_program())
            .env("TEMPORAL_ADDRESS", ground.server.address())
            .env("EVENTSTORE_URL", ground.store_url())
            .output()
    } else {
        worker(&ground).output()
    }
    .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&file.display().to_string()), "{text}");
    assert!(text.contains("writable"), "{text}");
}

#[tokio::test]
async fn a_second_process_gets_a_clear_error_and_does_no_harm() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let first = start_worker(&mut worker(&ground));
    let second = worker(&ground).output().unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("in use by another event store"), "{text}");
    run_noops(&client, 0, 3).await;
    assert!(first.terminate().success());
    let runs = histories(&ground, &client).await;
    let differences = compare(&runs, &ground.events());
    assert!(differences.is_empty(), "{differences}");
    assert!(matches!(
        open_twice(&ground).await,
        temporal_eventstore::BuildError::Journal(JournalError::InUse { .. })
    ));
}

async fn open_twice(ground: &Ground) -> temporal_eventstore::BuildError {
    let _first = ground.store().await;
    EventStore::builder()
        .store(ground.store_url())
        .build()
        .await
        .unwrap_err()
}

/// The library that shows a program another clock.
fn faketime() -> PathBuf {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    places
        .iter()
        .map(|place| PathBuf::from(format!("/usr/lib/{place}/faketime/libfaketimeMT.so.1")))
        .find(|library| library.is_file())
        .expect("libfaketime is missing; install it with `apt-get install libfaketime`")
}

#[tokio::test]
async fn clocks_that_jump_lose_nothing_and_change_no_outcome() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let clock = ground.directory.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let mut command = worker(&ground);
    command
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        // Events age by a clock that does not jump.
        .env("EVENTSTORE_RETENTION", "1h")
        .env("RUST_LOG", "off");
    let program = start_worker(&mut command);
    let mut number = 0;
    for jump in ["+0", "+10y", "-10y", "+0", "-1h"] {
        fs::write(&clock, jump).unwrap();
        run_noops(&client, number, number + 5).await;
        number += 5;
        // Time for the journal to remove what it takes to be old.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    assert!(program.terminate().success());
    let runs = histories(&ground, &client).await;
    assert_eq!(runs.len(), 25);
    let rows = ground.events();
    let years: std::collections::BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row.metadata("created_at").as_str()?.get(..4))
        .collect();
    assert!(years.len() >= 3, "the clock did not jump: {years:?}");
    let differences = compare(&runs, &rows);
    assert!(differences.is_empty(), "{differences}");
}
