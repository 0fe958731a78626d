//! The programs that users copy, as processes of their own: the worker, the starter, the quickstart.

use crate::support::{
    self, Ground,
    compare::{compare, state_of},
    example, histories, rows, start_worker, until,
};
use serde_json::Value;
use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

fn worker(ground: &Ground) -> Command {
    let mut command = example("worker");
    command
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", ground.store_url())
        .env_remove("EVENTSTORE_JOURNAL");
    command
}

fn starter(ground: &Ground, arguments: &[&str]) -> Command {
    let mut command = example("starter");
    command
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .args(arguments);
    command
}

/// Runs the starter and reads its line.
fn started(ground: &Ground, arguments: &[&str]) -> Value {
    let output = starter(ground, arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn the_bare_worker_runs_every_workflow() {
    let ground = Ground::new().await;
    let worker = start_worker(worker(&ground).arg("--bare"));
    for (workflow, outcome) in [
        ("Noop", "completed"),
        ("Order", "completed"),
        ("Fail", "failed"),
        ("Chain", "completed"),
        ("Parent", "completed"),
        ("Local", "completed"),
        ("Slow", "completed"),
    ] {
        let line = started(
            &ground,
            &[
                "--workflow",
                workflow,
                "--id-prefix",
                workflow,
                "--count",
                "2",
                "--concurrency",
                "2",
                "--wait",
                "--input",
                "1",
            ],
        );
        assert_eq!(line["started"], 2, "{workflow}");
        assert_eq!(line[outcome], 2, "{workflow}: {line}");
        assert!(line["p50_ms"].as_f64().unwrap() <= line["p95_ms"].as_f64().unwrap());
    }
    assert!(worker.terminate().success());
    assert!(!ground.file().exists(), "a bare worker has no store");
}

#[tokio::test]
async fn the_starter_says_which_workflows_there_are() {
    let ground = Ground::new().await;
    let output = starter(&ground, &["--workflow", "Nope"]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Nope") && text.contains("Chain"), "{text}");
}

#[tokio::test]
async fn a_worker_with_a_wrong_store_says_so_and_does_not_start() {
    let ground = Ground::new().await;
    for (variable, value, told) in [
        ("EVENTSTORE_URL", "ftp://u:hunter2@h/x", "sqlite:PATH"),
        (
            "EVENTSTORE_URL",
            "sqlite:/nowhere/at/all/e.db",
            "does not exist",
        ),
        ("EVENTSTORE_QUEUE_SIZE", "many", "whole number"),
    ] {
        let output = worker(&ground).env(variable, value).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(told), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// `ready` is a promise: a supervisor may stop the worker the moment after.
#[tokio::test]
async fn a_worker_that_is_stopped_right_after_ready_exits_0() {
    let ground = Ground::new().await;
    for _ in 0..8 {
        let worker = start_worker(worker(&ground).arg("--bare"));
        let status = worker.terminate();
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn a_worker_in_a_namespace_that_is_not_there_is_never_ready() {
    let ground = Ground::new().await;
    let output = worker(&ground)
        .args(["--bare", "--namespace", "nowhere"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("`nowhere`"), "{text}");
}

#[tokio::test]
async fn a_workflow_whose_server_is_gone_is_not_counted_as_failed() {
    let ground = Ground::new().await;
    // No worker: it is still waiting when the server ends.
    let starter = starter(&ground, &["--workflow", "Noop", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = ground.client().await;
    // The list of executions lags behind; the history of the run itself does not.
    let mut started = false;
    for _ in 0..100 {
        started = support::handle(&client, "order-0")
            .describe(Default::default())
            .await
            .is_ok();
        if started {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started, "the starter never started its workflow");
    drop(ground);
    let output = starter.wait_with_output().unwrap();
    assert!(!output.status.success());
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["started"], 1, "{line}");
    assert_eq!(line["failed"], 0, "{line}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("unknown"), "{text}");
}

#[tokio::test]
async fn a_mixed_load_of_500_workflows_is_in_the_store_exactly_as_the_server_has_it() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let worker = start_worker(&mut worker(&ground));
    let load = |workflow: &'static str, count: &'static str, input: &'static str| {
        starter(
            &ground,
            &[
                "--workflow",
                workflow,
                "--id-prefix",
                workflow,
                "--count",
                count,
                "--concurrency",
                "10",
                "--wait",
                "--input",
                input,
            ],
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
    };
    let mut starters = vec![
        load("Noop", "200", "0"),
        load("Order", "100", "0"),
        load("Fail", "60", "0"),
        load("Local", "60", "0"),
        load("Parent", "40", "0"),
        load("Chain", "20", "2"),
        load("Slow", "10", "1"),
    ];
    // 10 more that are ended from outside.
    let waiting = started(
        &ground,
        &[
            "--workflow",
            "Wait",
            "--id-prefix",
            "Wait",
            "--count",
            "10",
            "--concurrency",
            "10",
        ],
    );
    assert_eq!(waiting["started"], 10);
    for number in 0..10 {
        let wait = support::handle(&client, &format!("Wait-{number}"));
        wait.cancel(temporalio_client::WorkflowCancelOptions::default())
            .await
            .unwrap();
    }
    for starter in &mut starters {
        assert!(starter.wait().unwrap().success());
    }
    for number in 0..10 {
        support::handle(&client, &format!("Wait-{number}"))
            .get_result(Default::default())
            .await
            .unwrap_err();
    }
    // The children of `Parent` and the runs of `Chain` are runs too.
    let expected = 500 + 40 + 20 * 2;
    let mut runs = Vec::new();
    for _ in 0..100 {
        runs = histories(&ground, &client).await;
        if runs.len() == expected && runs.iter().all(|run| state_of(run.status).is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(runs.len(), expected);
    assert!(worker.terminate().success());

    let rows = rows(&ground.file());
    let differences = compare(&runs, &rows);
    assert!(differences.is_empty(), "{differences}");
    let ends = rows
        .iter()
        .filter(|row| row.event_name == "workflow_end")
        .count();
    assert_eq!(ends, expected);
    let shipped = rows
        .iter()
        .filter(|row| row.event_type == "order.shipped")
        .count();
    assert_eq!(shipped, 100);
}

#[tokio::test]
async fn a_second_worker_on_the_same_file_is_refused_with_a_reason() {
    let ground = Ground::new().await;
    let first = start_worker(&mut worker(&ground));
    let output = worker(&ground).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("in use by another event store"), "{text}");
    assert!(first.terminate().success());
}

/// A worker that is killed leaves its file to the next one, which ends what was begun.
#[tokio::test]
async fn after_kill_9_the_next_worker_completes_the_store() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut first = start_worker(&mut worker(&ground));
    let mut load = starter(
        &ground,
        &[
            "--workflow",
            "Noop",
            "--id-prefix",
            "Noop",
            "--count",
            "60",
            "--concurrency",
            "20",
            "--wait",
        ],
    )
    .stdout(Stdio::null())
    .spawn()
    .unwrap();
    let file = ground.file();
    until("some workflows have ended", || {
        rows(&file)
            .iter()
            .filter(|row| row.event_name == "workflow_end")
            .count()
            > 10
    })
    .await;
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let second = start_worker(&mut worker(&ground));
    // What the killed worker was at times out on the server, and is tried again.
    assert!(load.wait().unwrap().success());
    assert!(second.terminate().success());
    let runs = histories(&ground, &client).await;
    let differences = compare(&runs, &rows(&file));
    assert!(differences.is_empty(), "{differences}");
}

/// The quickstart in a process group of its own, so that whatever it starts can be found.
fn quickstart() -> Command {
    let mut command = example("quickstart");
    command.process_group(0);
    command
}

/// Nothing of a group may still run; a test that finds something ends it before it fails.
fn assert_nothing_left_of_group(group: u32) {
    let left = left_of_group(group);
    if !left.is_empty() {
        Command::new("kill")
            .args(["-KILL", "--", &format!("-{group}")])
            .status()
            .unwrap();
    }
    assert_eq!(left, Vec::<String>::new());
}

/// The processes of a group that still run, by their command lines.
fn left_of_group(group: u32) -> Vec<String> {
    let output = Command::new("ps")
        .args(["-A", "-o", "pgid=,stat=,args="])
        .output()
        .unwrap();
    assert!(output.status.success(), "`ps` of procps is needed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(&group.to_string())
                && words.next().is_some_and(|stat| !stat.starts_with('Z'))
        })
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_quickstart_shows_a_timeline_and_leaves_nothing_behind() {
    let child = quickstart()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let group = child.id();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for expected in [
        "workflow_start",
        "completed",
        "failed",
        "cancelled",
        "OrderShipped",
        "continued_as_new",
        "sqlite3 ",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    assert_nothing_left_of_group(group);
}

/// SIGTERM, not only Ctrl-C, which a terminal sends to the server as well.
#[tokio::test]
async fn a_quickstart_that_is_interrupted_ends_its_server() {
    let mut child: Child = quickstart()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let group = child.id();
    until("the quickstart has started a server", || {
        left_of_group(group)
            .iter()
            .any(|line| line.contains("start-dev"))
    })
    .await;
    let killed = Command::new("kill")
        .args(["-TERM", &group.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    assert_nothing_left_of_group(group);
    assert_eq!(status.code(), Some(1), "{status}");
}

#[tokio::test]
async fn the_reconcile_program_finds_what_a_bare_worker_did() {
    let ground = Ground::new().await;
    let worker = start_worker(worker(&ground).arg("--bare"));
    started(&ground, &["--workflow", "Noop", "--count", "3", "--wait"]);
    assert!(worker.terminate().success());
    // Runs that closed just now are left to their workers for a while; a time range is meant as it is.
    let reconcile = || {
        let output = example("reconcile")
            .env("TEMPORAL_ADDRESS", ground.server.address())
            .env("EVENTSTORE_URL", ground.store_url())
            .args(["--task-queue", "orders", "--since", "1h"])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let client = ground.client().await;
    let mut found = reconcile();
    for _ in 0..50 {
        // Visibility follows a moment later.
        if rows(&ground.file()).len() == 12 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        found = reconcile();
    }
    assert_eq!(found["runs"], 3);
    let differences = compare(&histories(&ground, &client).await, &rows(&ground.file()));
    assert!(differences.is_empty(), "{differences}");
    assert_eq!(reconcile()["workflow_ends"], 0, "nothing twice");
}
