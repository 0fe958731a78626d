//! The program `eventstore`, run as people run it: against a sample store, and beside a store that writes.

#[cfg(all(feature = "http", feature = "temporal"))]
#[path = "../examples/support/dev_server.rs"]
mod dev_server;
#[cfg(feature = "postgres")]
#[path = "it/support/servers.rs"]
mod servers;
#[cfg(all(feature = "http", feature = "temporal"))]
#[path = "it/support/stand_in.rs"]
mod stand_in;
#[cfg(all(feature = "http", feature = "temporal"))]
#[path = "program/work.rs"]
mod work;

use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use temporal_eventstore::{Event, EventQuery, EventReader, EventStore};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A sample that all tests read, and none changes.
struct Sample {
    _directory: tempfile::TempDir,
    file: PathBuf,
}

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = make_sample(directory.path());
        Sample {
            _directory: directory,
            file,
        }
    })
}

fn make_sample(directory: &Path) -> PathBuf {
    let file = directory.join("events.db");
    let output = program().arg("demo").arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    file
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventstore"));
    // What the machine has set does not count.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EVENTSTORE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

/// Runs it against the sample.
fn run(arguments: &[&str]) -> Output {
    let store = &sample().file;
    program()
        .arg("--store")
        .arg(store)
        .args(arguments)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(arguments)).unwrap()
}

fn lines(arguments: &[&str]) -> Vec<Value> {
    let text = text(arguments);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn runs_are_listed_with_their_outcomes() {
    let runs = json(&["ls", "-o", "json"]);
    let runs = runs.as_array().unwrap();
    let states: std::collections::BTreeSet<&str> = runs
        .iter()
        .map(|run| run["state"].as_str().unwrap())
        .collect();
    let expected = [
        "cancelled",
        "completed",
        "continued_as_new",
        "failed",
        "running",
        "terminated",
        "timed_out",
    ];
    assert_eq!(states.into_iter().collect::<Vec<_>>(), expected);
    for name in [
        "workflow_id",
        "run_id",
        "workflow_type",
        "started_at",
        "took_ms",
    ] {
        assert!(!runs[0][name].is_null(), "{name}");
    }
    let failed = lines(&["ls", "--failed", "-o", "jsonl"]);
    assert!(!failed.is_empty() && failed.len() < runs.len());
    let declined = failed
        .iter()
        .find(|run| run["error"]["type"] == "CardDeclined");
    assert!(declined.is_some(), "{failed:?}");
    let stuck = json(&["ls", "--open", "--older-than", "10m", "-o", "json"]);
    let stuck: Vec<_> = stuck
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["workflow_id"])
        .collect();
    assert_eq!(stuck, ["reminder-weekly", "invoice-2026-11"]);
    let orders = json(&[
        "ls",
        "--type",
        "Order",
        "--state",
        "cancelled",
        "-n",
        "1",
        "-o",
        "json",
    ]);
    assert_eq!(orders.as_array().unwrap().len(), 1);
    // In a pipe there is no table, and nothing is cut.
    let plain = text(&["ls"]);
    assert_eq!(plain.lines().count(), runs.len() + 1);
    assert!(
        plain.lines().all(|line| line.matches('\t').count() == 6),
        "{plain}"
    );
    assert!(!plain.contains('\u{1b}'));
}

#[test]
fn a_run_is_a_tree_with_children_attempts_waits_and_errors() {
    let tree = text(&["show", "order-1"]);
    for part in [
        "order-1  Order  ✓ completed",
        "correlation_id customer-",
        "reserve  ✓ completed  4 attempts",
        "#1  ✗ failed",
        "Timeout: the warehouse did not answer within 5 s",
        "waited 2.00 s",
        "order-1/payment  Payment  ✓ completed",
        "│  ├─",
        "◆ OrderShipped (order.shipped)  {\"parcels\":",
    ] {
        assert!(tree.contains(part), "{part}: {tree}");
    }
    let run = &json(&["show", "order-1", "-o", "json"])[0];
    let attempts = &run["activities"][0]["attempts"];
    assert_eq!(attempts.as_array().unwrap().len(), 4);
    assert_eq!(attempts[1]["waited_ms"], 1000.0);
    assert_eq!(run["children"][0]["workflow_type"], "Payment");
    assert_eq!(run["events"][0]["event_type"], "order.received");
    // Three runs of one workflow, of which the newest is shown.
    let output = run_of("catalog-import", &[]);
    assert_eq!(output.as_array().unwrap().len(), 1);
    let all = run_of("catalog-import", &["--run", "all"]);
    let states: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["state"])
        .collect();
    assert_eq!(
        states,
        ["continued_as_new", "continued_as_new", "completed"]
    );
    let first = all[0]["run_id"].as_str().unwrap();
    let one = run_of("catalog-import", &["--run", &first[..8]]);
    assert_eq!(one[0]["run_id"], first);
}

fn run_of(workflow: &str, more: &[&str]) -> Value {
    json(&[&["show", workflow, "-o", "json"], more].concat())
}

#[test]
fn numbers_are_those_of_the_events() {
    let stats = json(&["stats", "-o", "json"]);
    let rows = json(&[
        "sql",
        "SELECT workflow_type AS type, COUNT(*) AS n, SUM(workflow_state = 'failed') AS failed \
         FROM events WHERE event_name = 'workflow_end' GROUP BY 1",
        "-o",
        "json",
    ]);
    for row in rows.as_array().unwrap() {
        let of_type = &stats["workflows"][row["type"].as_str().unwrap()];
        let ended = of_type["count"].as_i64().unwrap() - of_type["running"].as_i64().unwrap();
        assert_eq!(row["n"], ended, "{row}");
    }
    let reserve = &stats["activities"]["reserve"];
    assert!(reserve["retries"].as_u64().unwrap() > 0);
    let times =
        ["p50_ms", "p95_ms", "p99_ms", "max_ms"].map(|name| reserve[name].as_f64().unwrap());
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn exit_codes_say_what_happened_and_errors_what_to_do() {
    let cases: [(&[&str], i32, &str); 12] = [
        (&["ls"], 0, ""),
        (&["show", "nobody"], 3, "eventstore ls"),
        (&["show", "order-1", "--run", "zzz"], 3, "--run all"),
        (&["ls", "--type", "Nothing"], 3, "leave out a condition"),
        (&["tail", "--only", "a*b"], 2, "beginnings of either"),
        (&["ls", "--state", "done"], 2, "timed_out"),
        (&["ls", "--since", "yesterday"], 2, "2days"),
        (&["sql", "DELETE FROM events"], 2, "SELECT"),
        (&["sql", "SELECT nonsense"], 1, "nonsense"),
        (&["dead-letters", "delete", "--all"], 2, "--yes"),
        (&["frobnicate"], 2, "Usage"),
        (&["check"], 4, ""),
    ];
    for (arguments, expected, said) in cases {
        let output = run(arguments);
        let stderr = stderr(&output);
        assert_eq!(code(&output), expected, "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    let missing = program()
        .args(["--store", "missing.db", "ls"])
        .output()
        .unwrap();
    assert_eq!(code(&missing), 1);
    assert!(
        stderr(&missing).contains("no such file"),
        "{}",
        stderr(&missing)
    );
    assert!(!Path::new("missing.db").exists());
    let none = program().arg("ls").output().unwrap();
    assert_eq!(code(&none), 2);
    assert!(stderr(&none).contains("EVENTSTORE_URL"));
    let secret = "postgres://u:hunter2@127.0.0.1:1/d";
    let away = program().args(["--store", secret, "ls"]).output().unwrap();
    assert!(matches!(code(&away), 1 | 2));
    assert!(!stderr(&away).contains("hunter2"), "{}", stderr(&away));
    for secret in [
        "postgresql+asyncpg://u:hunter2@h/d",
        "my_user:hunter2@h/d",
        "my_user:hun/hunter2@h/d",
    ] {
        let output = program().args(["--store", secret, "ls"]).output().unwrap();
        assert_eq!(code(&output), 2, "{secret}");
        assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
    }
}

#[test]
fn the_store_is_found_in_the_environment() {
    let file = sample().file.display();
    let list = format!("stdout:,sqlite:{file}");
    for (name, value) in [
        ("EVENTSTORE_URL", list),
        ("EVENTSTORE_JOURNAL", file.to_string()),
    ] {
        let output = program()
            .env(name, value)
            .args(["stats", "-o", "jsonl"])
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
    }
}

#[test]
fn a_closed_pipe_is_silent() {
    let store = &sample().file;
    for arguments in [
        &["export"][..],
        &["tail", "--from", "start"],
        &["ls"],
        &["sql", "SELECT event FROM events"],
    ] {
        let mut child = program()
            .arg("--store")
            .arg(store)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::with_capacity(1, child.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        assert!(!first.is_empty());
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

#[test]
fn what_is_private_is_masked_everywhere() {
    let secrets = [
        "customer-",
        "ending in 4242",
        "warehouse did not answer",
        "must not be negative",
        "parcels\":1",
    ];
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    let page = page.to_str().unwrap();
    let commands: [&[&str]; 8] = [
        &["show", "order-1"],
        &["show", "order-2", "-o", "json"],
        &["ls", "--failed"],
        &["tail", "--from", "start", "-n", "200", "-o", "jsonl"],
        &["export"],
        &["export", "--format", "csv"],
        &["export", "--format", "trace"],
        &["dead-letters", "list", "-o", "json"],
    ];
    for arguments in commands {
        let masked = text(&[arguments, &["--redact"]].concat());
        assert!(masked.contains("***"), "{arguments:?}");
        assert!(
            masked.contains("order-2") || masked.contains("order-1"),
            "{arguments:?}"
        );
        for secret in secrets {
            assert!(!masked.contains(secret), "{arguments:?} shows {secret}");
        }
    }
    text(&["html", "--redact", "-o", page]);
    let page = std::fs::read_to_string(page).unwrap();
    for secret in secrets {
        assert!(!page.contains(secret), "{secret}");
    }
    let output = run(&["sql", "SELECT event FROM events", "--redact"]);
    assert_eq!(code(&output), 2);
}

#[test]
fn colors_are_for_those_who_want_them() {
    let colored = |arguments: &[&str], no_color: bool| {
        let mut command = program();
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let output = command
            .arg("--store")
            .arg(&sample().file)
            .args(arguments)
            .output()
            .unwrap();
        stdout(&output).contains('\u{1b}')
    };
    assert!(colored(&["show", "order-1", "--color", "always"], false));
    assert!(!colored(&["show", "order-1", "--color", "never"], false));
    assert!(!colored(&["show", "order-1"], false));
    assert!(!colored(&["show", "order-1"], true));
    assert!(!colored(&["ls", "-o", "json", "--color", "always"], false));
}

#[test]
fn events_are_exported_whole() {
    let events = lines(&["export"]);
    let count = json(&["sql", "SELECT COUNT(*) AS n FROM events", "-o", "json"])[0]["n"].as_u64();
    assert_eq!(Some(events.len() as u64), count);
    assert!(
        events
            .iter()
            .all(|event| event["metadata"]["event_id"].is_string())
    );
    let cloud = lines(&["export", "--format", "cloudevents"]);
    assert!(cloud.iter().all(|event| event["specversion"] == "1.0"));
    assert_eq!(cloud[0]["data"], events[0]);
    let table = text(&["export", "--format", "csv", "--workflow", "order-1"]);
    assert!(
        table.starts_with("position,event_id,event_type,"),
        "{table}"
    );
    let shipped = lines(&["export", "--only", "order.shipped"]);
    assert!(
        shipped
            .iter()
            .all(|event| event["event_type"] == "order.shipped")
    );
    let trace = json(&["export", "--format", "trace"]);
    let slices = trace["traceEvents"].as_array().unwrap().iter();
    let slices: Vec<_> = slices.filter(|event| event["ph"] == "X").collect();
    assert!(slices.iter().any(|slice| slice["name"] == "reserve #4"));
    assert!(
        slices
            .iter()
            .all(|slice| slice["dur"].as_i64().unwrap() >= 0)
    );
    let ends = lines(&[
        "tail",
        "--from",
        "start",
        "--only",
        "workflow_end",
        "-n",
        "3",
        "-o",
        "jsonl",
    ]);
    assert_eq!(ends.len(), 3);
    assert!(ends[0]["position"].as_u64() < ends[1]["position"].as_u64());
}

#[test]
fn dead_letters_are_found_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let store = make_sample(directory.path());
    let run = |arguments: &[&str]| {
        program()
            .arg("--store")
            .arg(&store)
            .args(arguments)
            .output()
            .unwrap()
    };
    let sinks: Value = serde_json::from_slice(&run(&["sinks", "-o", "json"]).stdout).unwrap();
    let names: Vec<_> = sinks
        .as_array()
        .unwrap()
        .iter()
        .map(|sink| &sink["name"])
        .collect();
    assert_eq!(names, ["audit", "warehouse"]);
    assert!(sinks[0]["behind"].as_u64().unwrap() > 0);
    assert_eq!(sinks[1]["behind"], 0);
    let list = run(&["dead-letters", "list", "-o", "json"]);
    let letters: Value = serde_json::from_slice(&list.stdout).unwrap();
    let letters = letters.as_array().unwrap();
    assert_eq!(sinks[1]["dead_letters"], letters.len());
    assert_eq!(letters[0]["event"]["event_type"], "order.refunded");
    let position = letters[0]["position"].to_string();
    let shown = run(&["dead-letters", "show", &position]);
    assert!(stdout(&shown).contains("must not be negative"));
    let wrong = run(&["dead-letters", "delete", "999999", "--yes"]);
    assert_eq!(code(&wrong), 3);
    assert_eq!(
        code(&run(&["dead-letters", "delete", &position, "--yes"])),
        0
    );
    let kept = run(&["dead-letters", "export"]);
    assert_eq!(stdout(&kept).lines().count(), letters.len() - 1);
    assert_eq!(code(&run(&["dead-letters", "delete", "--all", "--yes"])), 0);
    assert_eq!(code(&run(&["dead-letters", "list"])), 3);
    let check: Value = serde_json::from_slice(
        &run(&["check", "-o", "json", "--thorough", "--max-lag", "10s"]).stdout,
    )
    .unwrap();
    let unhealthy = check["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["healthy"] == false);
    let unhealthy: Vec<_> = unhealthy.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(unhealthy, ["sink audit"], "{check}");
    let patient = run(&["check", "--max-lag", "1day"]);
    assert_eq!(code(&patient), 0, "{}", stdout(&patient));
}

#[test]
fn a_sample_replaces_nothing_of_somebodys() {
    let directory = tempfile::tempdir().unwrap();
    let file = make_sample(directory.path());
    let demo = |more: &[&str]| {
        program()
            .arg("demo")
            .arg(&file)
            .args(more)
            .output()
            .unwrap()
    };
    assert_eq!(code(&demo(&[])), 2);
    assert_eq!(code(&demo(&["--force"])), 0);
    let other = directory.path().join("other.txt");
    std::fs::write(&other, "a letter").unwrap();
    let output = program()
        .arg("demo")
        .arg(&other)
        .arg("--force")
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "a letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_replaces_no_store_that_is_empty_or_open() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let url = format!("sqlite:{}", file.display());
    let demo = || {
        let mut demo = program();
        demo.arg("demo").arg(&file).arg("--force").output().unwrap()
    };
    let store = EventStore::builder().store(&url).build().await.unwrap();
    let of_a_worker = demo();
    store.publish(Event::new("order.packed"));
    store.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(code(&of_a_worker), 1, "{}", stderr(&of_a_worker));
    let reader = EventReader::open(&url).await.unwrap();
    let found = reader.read(&EventQuery::new()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].event_type, "order.packed");

    // A sample, which somebody has open.
    std::fs::remove_file(&file).unwrap();
    let store = EventStore::builder().application_name("eventstore-demo");
    let store = store.store(&url).build().await.unwrap();
    store.publish(Event::new("order.packed"));
    store.flush(TIMEOUT).await.unwrap();
    let open = demo();
    store.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(code(&open), 1, "{}", stderr(&open));
    assert!(file.exists());
    assert_eq!(code(&demo()), 0);
}

#[test]
fn shells_and_man_are_served() {
    for shell in ["bash", "zsh", "fish"] {
        let output = program().args(["completions", shell]).output().unwrap();
        assert!(stdout(&output).contains("dead-letters"), "{shell}");
    }
    let page = program().arg("man").output().unwrap();
    assert!(stdout(&page).contains(".TH eventstore"));
    let directory = tempfile::tempdir().unwrap();
    let pages = program()
        .args(["man", "--directory"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(code(&pages), 0);
    assert!(directory.path().join("eventstore-show.1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_read_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("events.db").display());
    let store = EventStore::builder().store(&url).build().await.unwrap();
    store.publish(Event::new("order.packed").metadata("workflow_id", "w-1"));
    store.flush(TIMEOUT).await.unwrap();
    let reader = EventReader::open(&url).await.unwrap();
    let found = reader
        .read(&EventQuery::new().workflow_id("w-1"))
        .await
        .unwrap();
    assert_eq!(found[0].event_type, "order.packed");
    let mut tail = program()
        .args([
            "--store", &url, "tail", "--from", "1", "-n", "1", "-o", "jsonl",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    store.publish(Event::new("order.shipped"));
    store.flush(TIMEOUT).await.unwrap();
    let began = Instant::now();
    while tail.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < TIMEOUT, "nothing comes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = tail.wait_with_output().unwrap();
    let event: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(event["event"]["event_type"], "order.shipped");
    assert_eq!(event["position"], 2);
    store.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn who_follows_up_to_a_position_gets_no_more() {
    use futures::TryStreamExt as _;
    let url = format!("sqlite:{}", sample().file.display());
    let reader = EventReader::open(&url).await.unwrap();
    let events = reader.follow(EventQuery::new().up_to(3));
    let events: Vec<_> = tokio::time::timeout(TIMEOUT, events.try_collect())
        .await
        .expect("it ends")
        .unwrap();
    let positions: Vec<u64> = events.iter().map(|event| event.position).collect();
    assert_eq!(positions, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_run_is_followed_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("events.db").display());
    let store = EventStore::builder().store(&url).build().await.unwrap();
    let event = |name: &str, workflow_id: &str| {
        let event = Event::new("application_events")
            .name(name)
            .metadata("workflow_id", workflow_id);
        event.metadata("workflow_run_id", format!("run of {workflow_id}"))
    };
    store.publish(event("workflow_start", "w"));
    store.flush(TIMEOUT).await.unwrap();
    let mut show = program()
        .args(["--store", &url, "show", "w", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(show.stdout.take().unwrap()).lines();
    let tree: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
    assert!(tree[2].ends_with("it goes on"), "{tree:?}");
    store.publish(event("workflow_start", "other"));
    store.publish(event("workflow_start", "child").metadata("parent_workflow_id", "w"));
    store.publish(Event::new("order.shipped").metadata("workflow_id", "child"));
    store.publish(event("workflow_end", "w"));
    store.publish(event("workflow_end", "child"));
    store.flush(TIMEOUT).await.unwrap();
    let names: Vec<String> = lines
        .map(|line| line.unwrap().split('\t').nth(2).unwrap().to_owned())
        .collect();
    assert_eq!(names, ["workflow_start", "order.shipped", "workflow_end"]);
    assert!(show.wait().unwrap().success());
    store.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_found_that_was_stored_before_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("events.db").display());
    let store = EventStore::builder().store(&url).build().await.unwrap();
    let start = |workflow_id: &str, parent: Option<&str>| {
        let event = Event::new("application_events").name("workflow_start");
        let event = event.metadata("workflow_id", workflow_id);
        let event = event.metadata("workflow_run_id", format!("run of {workflow_id}"));
        match parent {
            Some(parent) => event.metadata("parent_workflow_id", parent),
            None => event,
        }
    };
    for (workflow_id, parent) in [
        ("grandchild", Some("child")),
        ("child", Some("w")),
        ("stranger", Some("other")),
        ("w", None),
    ] {
        store.publish(start(workflow_id, parent));
        store.flush(TIMEOUT).await.unwrap();
    }
    store.shutdown(TIMEOUT).await.unwrap();
    let output = program()
        .args(["--store", &url, "show", "w"])
        .output()
        .unwrap();
    let tree = stdout(&output);
    assert!(tree.contains("  child  "), "{tree}");
    assert!(tree.contains("  grandchild  "), "{tree}");
    assert!(!tree.contains("stranger"), "{tree}");
}

/// What Chromium says to a page, and the picture that it takes.
fn look(page: &str, size: &str, picture: &Path) -> Option<String> {
    let profile = picture.with_extension("profile");
    let output = Command::new("chromium")
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .args([
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={size}"))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(page)
        .output();
    let output = output.ok()?;
    let said = stderr(&output);
    assert!(!said.contains("CONSOLE"), "{said}");
    Some(stdout(&output))
}

#[test]
fn the_timeline_has_no_error_in_a_browser() {
    if Command::new("chromium").arg("--version").output().is_err() {
        eprintln!("chromium is not installed, and the page is not looked at");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("timeline.html");
    text(&["html", "-o", page.to_str().unwrap()]);
    let tree = &json(&["show", "order-2", "-o", "json"])[0];
    let event = tree["end_event_id"].as_str().unwrap();
    let link = format!("file://{}#event={event}", page.display());
    for size in ["1440,900", "820,1100", "500,850"] {
        let picture = directory.path().join(format!("{size}.png"));
        let seen = look(&link, size, &picture).unwrap();
        // What the link names is shown, with its ids.
        for part in [
            event,
            "PaymentFailed: the order could not be paid",
            "aria-label=\"Copy run id\"",
        ] {
            assert!(seen.contains(part), "{part}");
        }
        assert!(
            std::fs::metadata(&picture).unwrap().len() > 20_000,
            "an empty picture"
        );
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use crate::servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER};
    use futures::StreamExt as _;
    use tokio_postgres::{Client, Config, NoTls};

    async fn client(server: &Server) -> Client {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(server.port())
            .user(USER)
            .password(PASSWORD)
            .dbname(DATABASE);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn lifecycle(name: &str, workflow_id: &str, seconds: i64) -> Event {
        let mut event = Event::new("application_events").name(name);
        event = event
            .metadata("workflow_id", workflow_id)
            .metadata("workflow_type", "Order");
        event = event.metadata("workflow_run_id", format!("run of {workflow_id}"));
        event.metadata.created_at =
            chrono::DateTime::from_timestamp(1_795_419_036 + seconds, 123_456_000);
        event
    }

    /// Copies a row, as another program's delivery adds one.
    const ANOTHER: &str = "INSERT INTO events (event_id, position, event_type, event_name, created_at, event) \
         SELECT gen_random_uuid(), position, event_type, $1, created_at, event FROM events ORDER BY seq LIMIT 1";

    #[tokio::test(flavor = "multi_thread")]
    async fn a_table_is_read_as_a_file_is() {
        let server = Server::postgres();
        let url = format!(
            "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}",
            server.port()
        );
        let run = |arguments: &[&str]| {
            program()
                .env("EVENTSTORE_URL", &url)
                .args(arguments)
                .output()
                .unwrap()
        };
        let early = run(&["ls"]);
        assert_eq!(code(&early), 1);
        assert!(
            stderr(&early).contains("has no table events"),
            "{}",
            stderr(&early)
        );
        let store = EventStore::builder().store(&url).build().await.unwrap();
        store.publish(lifecycle("workflow_start", "w-1", 0));
        store.publish(
            Event::new("order.packed")
                .data(serde_json::json!({ "b": 1, "a": 2.50 }))
                .metadata("workflow_id", "w-1"),
        );
        let end = lifecycle("workflow_end", "w-1", 2);
        store.publish(end.data(serde_json::json!({ "status": "failed", "duration_ms": 2000.0 })));
        store.publish(lifecycle("workflow_start", "w-2", 5));
        store.shutdown(TIMEOUT).await.unwrap();

        let runs: Value =
            serde_json::from_slice(&run(&["ls", "--type", "Order", "-o", "json"]).stdout).unwrap();
        assert_eq!(runs.as_array().unwrap().len(), 2);
        assert_eq!(runs[0]["state"], "failed");
        assert_eq!(runs[0]["started_at"], "2026-11-23T07:30:36.123456Z");
        assert_eq!(runs[1]["state"], "running");
        let since = run(&["ls", "--since", "2026-11-23T07:30:40Z", "-o", "jsonl"]);
        assert_eq!(stdout(&since).lines().count(), 1, "{}", stdout(&since));
        let exported = run(&["export", "--only", "order.*,workflow_e*"]);
        assert!(
            stdout(&exported).starts_with("{\"metadata\":{\"event_id\":"),
            "{}",
            stdout(&exported)
        );
        assert!(
            stdout(&exported).contains("\"data\":{\"a\":2.5,\"b\":1}"),
            "{}",
            stdout(&exported)
        );
        assert_eq!(stdout(&exported).lines().count(), 2);
        let rows = run(&[
            "sql",
            "SELECT seq, event -> 'data' AS data, true AS yes, NULL AS none FROM events ORDER BY seq LIMIT 3",
            "-n",
            "2",
            "-o",
            "json",
        ]);
        let rows: Value = serde_json::from_slice(&rows.stdout).unwrap();
        assert_eq!(rows[1]["data"]["a"], 2.5);
        assert_eq!(
            (&rows[0]["yes"], &rows[0]["none"]),
            (&Value::Bool(true), &Value::Null)
        );
        for statement in [
            "DELETE FROM events",
            "SELECT 1; COMMIT; DELETE FROM events",
            "COMMIT",
        ] {
            run(&["sql", statement]);
        }
        assert_eq!(run(&["check"]).status.code(), Some(0));
        assert_eq!(run(&["dead-letters", "list"]).status.code(), Some(2));
        assert_eq!(run(&["sinks"]).status.code(), Some(3));
        assert!(stdout(&run(&["show", "w-1"])).contains("◆ order.packed"));
        assert!(!stderr(&run(&["show", "w-9"])).contains(PASSWORD_IN_URL));

        // A number that was given first may be committed last.
        let reader = EventReader::open(&url).await.unwrap();
        let newest = reader.newest().await.unwrap();
        assert_eq!(newest, 4, "nothing was deleted");
        let mut slow = client(&server).await;
        let quick = client(&server).await;
        let transaction = slow.transaction().await.unwrap();
        transaction.execute(ANOTHER, &[&"first"]).await.unwrap();
        quick.execute(ANOTHER, &[&"second"]).await.unwrap();
        let mut live = std::pin::pin!(reader.follow(EventQuery::new().after(newest)));
        let early = tokio::time::timeout(Duration::from_secs(2), live.next()).await;
        assert!(early.is_err(), "{early:?}");
        transaction.commit().await.unwrap();
        for position in [newest + 1, newest + 2] {
            let event = tokio::time::timeout(TIMEOUT, live.next()).await.unwrap();
            assert_eq!(event.unwrap().unwrap().position, position);
        }
        // A number that was given in vain is passed over.
        let transaction = slow.transaction().await.unwrap();
        transaction.execute(ANOTHER, &[&"never"]).await.unwrap();
        transaction.rollback().await.unwrap();
        quick.execute(ANOTHER, &[&"fourth"]).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(8), live.next())
            .await
            .unwrap();
        assert_eq!(event.unwrap().unwrap().position, newest + 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_follows_from_the_start_passes_over_nothing() {
        let server = Server::postgres();
        let url = format!(
            "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}",
            server.port()
        );
        let store = EventStore::builder().store(&url).build().await.unwrap();
        store.publish(lifecycle("workflow_start", "w-1", 0));
        store.shutdown(TIMEOUT).await.unwrap();
        let mut slow = client(&server).await;
        let quick = client(&server).await;
        // Many numbers that were given in vain, and then one that is not committed yet.
        for _ in 0..10 {
            quick
                .execute(
                    "SELECT nextval(pg_get_serial_sequence('events', 'seq'))",
                    &[],
                )
                .await
                .unwrap();
            quick.execute(ANOTHER, &[&"historic"]).await.unwrap();
        }
        let transaction = slow.transaction().await.unwrap();
        transaction.execute(ANOTHER, &[&"first"]).await.unwrap();
        quick.execute(ANOTHER, &[&"second"]).await.unwrap();
        let reader = EventReader::open(&url).await.unwrap();
        let mut live = std::pin::pin!(reader.follow(EventQuery::new()));
        let mut positions = Vec::new();
        let commit = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            transaction.commit().await.unwrap();
        };
        let read = async {
            while positions.last() != Some(&23) {
                positions.push(live.next().await.unwrap().unwrap().position);
            }
        };
        // All of the gaps together are waited for once, and not each.
        let both = async { tokio::join!(commit, read) };
        tokio::time::timeout(Duration::from_secs(6), both)
            .await
            .unwrap();
        let expected: Vec<u64> = (1..22).step_by(2).chain([22, 23]).collect();
        assert_eq!(positions, expected);
    }
}
