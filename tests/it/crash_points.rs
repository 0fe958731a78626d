//! A worker that dies at each step of the commit protocol, and what the store has in the end; and two
//! builds that leave a step out, which the comparison must catch.

use crate::support::{
    Ground, Program,
    compare::{Differences, Source, compare_with, state_of},
    example, handle, histories, rows, start_worker, workflows,
};
use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use temporal_eventstore::{Reconciler, ReconcilerOptions};
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowSignalOptions, WorkflowStartOptions, WorkflowTerminateOptions,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

const SIGABRT: i32 = 6;

fn command(ground: &Ground, failpoints: &str) -> Command {
    let mut command: Command = example("worker");
    command
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", ground.store_url())
        .env("FAILPOINTS", failpoints)
        .env("RUST_LOG", "off");
    command
}

fn worker(ground: &Ground, failpoints: &str) -> Program {
    start_worker(&mut command(ground, failpoints))
}

/// Waits until the process ended itself at its crash point.
async fn crashed(mut program: Program, point: &str) {
    let began = Instant::now();
    loop {
        if let Some(status) = program.0.try_wait().unwrap() {
            assert_eq!(status.signal(), Some(SIGABRT), "{point}: {status}");
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "the worker never came to {point}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start_some(client: &Client, kind: &str, number: usize) -> String {
    let converter = PayloadConverter::default();
    let input = match kind {
        "Chain" => RawValue::from_value(&1_u64, &converter),
        _ => RawValue::from_value(&(), &converter),
    };
    let id = format!("{kind}-{number}");
    let options = WorkflowStartOptions::new("orders", &id)
        .task_timeout(Duration::from_secs(1))
        .build();
    client
        .start_workflow(UntypedWorkflow::new(kind), input, options)
        .await
        .unwrap();
    id
}

async fn all_closed(ground: &Ground, client: &Client, at_least: usize) {
    let began = Instant::now();
    loop {
        let runs = ground.runs(client).await;
        if runs.len() >= at_least && runs.iter().all(|run| state_of(run.status()).is_some()) {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "workflows do not end"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn held(file: &Path) -> i64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
        .query_row("SELECT COUNT(*) FROM held", [], |row| row.get(0))
        .unwrap()
}

async fn settled(ground: &Ground) {
    let began = Instant::now();
    while held(&ground.file()) > 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "ends stay held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Compares what the workers left, then what the reconciler makes of it.
async fn differences(ground: &Ground, client: &Client) -> [Differences; 2] {
    let runs = histories(ground, client).await;
    let by_workers = compare_with(Source::Workers, &runs, &rows(&ground.file()));
    let events = ground.store().await;
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build();
    Reconciler::new(&events, client, options)
        .run_once()
        .await
        .unwrap();
    events.shutdown(Duration::from_secs(5)).await.unwrap();
    let whole = compare_with(Source::Reconciled, &runs, &rows(&ground.file()));
    [by_workers, whole]
}

/// Crashes at a point again and again, a little later each time, then lets a worker finish.
async fn crash_at(first: &str, then: &str) {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let mut count = 0;
    for number in 0..4 {
        for kind in ["Noop", "Order", "Fail", "Local", "Chain"] {
            start_some(&client, kind, number).await;
            count += 1;
        }
    }
    for (round, later) in [0, 3, 7].into_iter().enumerate() {
        // Something that is sure to come by, however far the others are.
        start_some(&client, "Noop", 100 + round).await;
        start_some(&client, "Order", 100 + round).await;
        count += 2;
        let program = worker(&ground, &format!("{first}={later}*off->return"));
        crashed(program, first).await;
        if !then.is_empty() {
            // It may end before it is ready.
            let begun = command(&ground, &format!("{then}=return")).spawn();
            crashed(Program(begun.unwrap()), then).await;
        }
    }
    let program = worker(&ground, "");
    all_closed(&ground, &client, count).await;
    settled(&ground).await;
    assert!(program.terminate().success());
    for found in differences(&ground, &client).await {
        assert!(found.is_empty(), "{first} {then}\n{found}");
    }
}

#[tokio::test]
async fn before_stage() {
    crash_at("before-stage", "").await;
}

#[tokio::test]
async fn after_stage() {
    crash_at("after-stage", "").await;
}

#[tokio::test]
async fn before_the_append() {
    crash_at("before-append", "").await;
}

/// Half of it is on the disk.
#[tokio::test]
async fn inside_the_append() {
    crash_at("inside-append", "").await;
}

#[tokio::test]
async fn after_the_append() {
    crash_at("after-append", "").await;
}

/// What is left is fed at the next start, which dies of it, too.
#[tokio::test]
async fn inside_the_append_and_then_while_what_is_left_is_fed() {
    crash_at("inside-append", "before-group-commit").await;
}

#[tokio::test]
async fn after_the_append_and_then_when_what_is_left_was_fed() {
    crash_at("after-append", "after-group-commit").await;
}

/// The store has it all, and its log is still there: when a worker ends, and when the next ones start.
#[tokio::test]
async fn before_a_file_of_the_log_is_removed() {
    let ground = Ground::new().await;
    let client = ground.client().await;
    for kind in ["Noop", "Order", "Local", "Chain"] {
        start_some(&client, kind, 0).await;
    }
    let program = worker(&ground, "before-removal=return");
    all_closed(&ground, &client, 4).await;
    program.signal("TERM");
    crashed(program, "before-removal").await;
    for _ in 0..2 {
        let begun = command(&ground, "before-removal=return").spawn();
        crashed(Program(begun.unwrap()), "before-removal").await;
    }
    let program = worker(&ground, "");
    settled(&ground).await;
    assert!(program.terminate().success());
    for found in differences(&ground, &client).await {
        assert!(found.is_empty(), "{found}");
    }
}

#[tokio::test]
async fn before_the_group_commit() {
    crash_at("before-group-commit", "").await;
}

#[tokio::test]
async fn inside_the_group_commit() {
    crash_at("inside-group-commit", "").await;
}

#[tokio::test]
async fn after_the_group_commit() {
    crash_at("after-group-commit", "").await;
}

#[tokio::test]
async fn after_commit_before_the_completion() {
    crash_at("before-completion", "").await;
}

#[tokio::test]
async fn after_the_completion_before_confirm() {
    crash_at("before-confirm", "").await;
}

#[tokio::test]
async fn inside_recovery() {
    crash_at("before-confirm", "inside-recovery").await;
}

#[tokio::test]
async fn an_activity_before_its_end_is_committed() {
    crash_at("activity-before-commit", "").await;
}

#[tokio::test]
async fn an_activity_after_its_end_is_committed() {
    crash_at("activity-after-commit", "").await;
}

/// Workflows that are terminated while their completion waits for the journal: the server never
/// accepts their end.
async fn terminated_while_they_end(failpoints: &str) -> Differences {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let slow = format!("before-append=sleep(600);{failpoints}");
    let program = worker(&ground, &slow);
    for number in 0..5 {
        let id = start_some(&client, "Wait", number).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        client
            .get_workflow_handle::<workflows::Wait>(&id)
            .signal(
                workflows::Wait::finish,
                (),
                WorkflowSignalOptions::default(),
            )
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        handle(&client, &id)
            .terminate(WorkflowTerminateOptions::default())
            .await
            .unwrap();
    }
    all_closed(&ground, &client, 5).await;
    assert!(program.terminate().success());
    // What is unclear is asked for again when a worker starts.
    let program = worker(&ground, "");
    settled(&ground).await;
    assert!(program.terminate().success());
    let [_, whole] = differences(&ground, &client).await;
    whole
}

#[tokio::test]
async fn a_build_without_the_confirm_step_is_caught() {
    let healthy = terminated_while_they_end("").await;
    assert!(healthy.is_empty(), "{healthy}");
    let broken = terminated_while_they_end("confirm=return").await;
    assert!(broken.wrong_outcome.len() >= 3, "{broken}");
}

/// A worker that is killed the moment the server says that its workflows are closed.
async fn killed_after_the_end(failpoints: &str) -> Differences {
    let ground = Ground::new().await;
    let client = ground.client().await;
    let slow = format!("before-append=sleep(300);{failpoints}");
    let mut count = 0;
    for round in 0..3 {
        let program = worker(&ground, &slow);
        for number in 0..4 {
            start_some(&client, "Noop", round * 10 + number).await;
            count += 1;
        }
        all_closed(&ground, &client, count).await;
        // Dropping a program is `kill -9`.
        drop(program);
    }
    let program = worker(&ground, "");
    settled(&ground).await;
    assert!(program.terminate().success());
    let [by_workers, _] = differences(&ground, &client).await;
    by_workers
}

#[tokio::test]
async fn a_build_without_the_commit_wait_is_caught() {
    let healthy = killed_after_the_end("").await;
    assert!(healthy.is_empty(), "{healthy}");
    let broken = killed_after_the_end("commit-wait=return").await;
    assert!(broken.missing.len() >= 3, "{broken}");
}
