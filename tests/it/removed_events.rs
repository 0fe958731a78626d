//! What the store removed for its age or for lack of room does not come back by the reconciler or by a
//! replay, also not after a restart; what it never had still does.

use crate::support::{
    Ground, Row, handle, lifecycle, outcome, start, until, with_example_worker, workflows,
};
use std::{collections::HashSet, time::Duration};
use temporal_eventstore::{
    Event, EventStore, EventStoreOptions, Frame, Reconciled, Reconciler, ReconcilerOptions,
};
use temporalio_client::{Client, WorkflowSignalOptions, WorkflowTerminateOptions};

const TIMEOUT: Duration = Duration::from_secs(5);

async fn open(ground: &Ground, options: EventStoreOptions) -> EventStore {
    let defaults = EventStore::builder().store(ground.store_url()).options();
    EventStore::from_options(options.or(defaults))
        .await
        .unwrap()
}

fn ids(rows: &[Row]) -> HashSet<String> {
    rows.iter().map(|row| row.event_id.clone()).collect()
}

/// Looks at everything that is closed, as a reconciler that never looked before.
async fn reconcile(events: &EventStore, client: &Client, runs: u64) -> Reconciled {
    for page_size in 10..60 {
        // With a filter of its own each has a checkpoint of its own.
        let options = ReconcilerOptions::builder()
            .grace(Duration::ZERO)
            .requests_per_second(500)
            .filter(format!(
                "HistoryLength > 0 AND HistoryLength < {page_size}00"
            ))
            .build();
        let found = Reconciler::new(events, client, options)
            .run_once()
            .await
            .unwrap();
        // Visibility follows the history a moment later.
        if found.runs >= runs || found.added() > 0 {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the server never shows {runs} runs");
}

#[tokio::test]
async fn what_made_room_does_not_come_back_by_the_reconciler() {
    let ground = Ground::new().await;
    let small = || EventStore::builder().max_journal_bytes(300_000).options();
    let events = open(&ground, small()).await;
    let client = ground.client_with(&events).await;
    let large = Frame::new().field("ballast", "x".repeat(7_000));
    let mut all = HashSet::new();
    with_example_worker(&client, async {
        for number in 0..20 {
            let id = format!("noop-{number}");
            large
                .clone()
                .scope(outcome(&client, workflows::Noop::run, (), &id))
                .await
                .unwrap();
            until("the end is stored", || {
                let rows = ground.events();
                all.extend(ids(&rows));
                rows.iter()
                    .any(|row| row.is_of(&id) && row.event_name == "workflow_end")
            })
            .await;
        }
    })
    .await;
    until("room is made", || events.stats().lost > 0).await;
    events.shutdown(TIMEOUT).await.unwrap();

    let events = open(&ground, small()).await;
    let client = ground.client().await;
    let before = ids(&ground.events());
    assert!(
        before.len() < all.len(),
        "{} of {}",
        before.len(),
        all.len()
    );
    let found = reconcile(&events, &client, 20).await;
    assert_eq!(found.added(), 0, "{found:?}");
    assert_eq!(ids(&ground.events()), before);

    // What no worker could report is still found.
    tokio::time::sleep(Duration::from_secs(3)).await;
    client
        .start_workflow(workflows::Wait::run, (), start("terminated"))
        .await
        .unwrap();
    let options = WorkflowTerminateOptions::builder().reason("test").build();
    handle(&client, "terminated")
        .terminate(options)
        .await
        .unwrap();
    let found = reconcile(&events, &client, 21).await;
    assert_eq!((found.workflow_starts, found.workflow_ends), (1, 1));
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn what_was_removed_does_not_come_back_by_a_replay() {
    let ground = Ground::new().await;
    let repairing = || {
        EventStore::builder()
            .repair_on_replay(true)
            .max_journal_bytes(200_000)
            .options()
    };
    let events = open(&ground, repairing()).await;
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        for id in ["published", "lost"] {
            client
                .start_workflow(workflows::Wait::run, (), start(id))
                .await
                .unwrap();
        }
        until("both have started", || {
            let rows = ground.events();
            ["published", "lost"]
                .iter()
                .all(|id| !lifecycle(&rows, id).is_empty())
        })
        .await;
        // Lifecycle events go last, and only when there is nothing else.
        for _ in 0..100 {
            events
                .publish(Event::new("flood").data(serde_json::json!({ "b": "x".repeat(7_000) })))
                .await
                .unwrap();
        }
        until("room is made", || events.stats().lost > 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    // A disk that forgot one event: nothing of the interceptors' was removed, so that it is missing.
    let file = rusqlite::Connection::open(ground.file()).unwrap();
    file.execute("DELETE FROM events WHERE workflow_id = 'lost'", [])
        .unwrap();
    drop(file);

    let events = open(&ground, repairing()).await;
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        for id in ["published", "lost"] {
            client
                .get_workflow_handle::<workflows::Wait>(id)
                .signal(
                    workflows::Wait::finish,
                    (),
                    WorkflowSignalOptions::default(),
                )
                .await
                .unwrap();
            until("it has ended", || {
                lifecycle(&ground.events(), id)
                    .last()
                    .is_some_and(|it| it.contains("end"))
            })
            .await;
        }
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    for id in ["published", "lost"] {
        let started = lifecycle(&rows, id);
        assert_eq!(
            started,
            ["workflow_start running", "workflow_end completed"],
            "{id}"
        );
    }
    let start = |id: &str| {
        rows.iter()
            .find(|row| row.is_of(id) && row.event_name == "workflow_start")
            .unwrap()
    };
    assert_eq!(start("lost").metadata("detected_by"), "replay");
}

#[tokio::test]
async fn what_aged_does_not_come_back_by_a_replay() {
    let ground = Ground::new().await;
    let aging = || {
        EventStore::builder()
            .repair_on_replay(true)
            .retention(Duration::from_secs(2))
            .options()
    };
    let events = open(&ground, aging()).await;
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        client
            .start_workflow(workflows::Wait::run, (), start("wait"))
            .await
            .unwrap();
        until("it has started", || {
            !lifecycle(&ground.events(), "wait").is_empty()
        })
        .await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        // The newest event is never removed.
        events.publish(Event::new("newest")).await.unwrap();
        until("the start is gone", || {
            lifecycle(&ground.events(), "wait").is_empty()
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();

    // What is kept for longer now, was removed all the same.
    let longer = || EventStore::builder().repair_on_replay(true).options();
    let events = open(&ground, longer()).await;
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        client
            .get_workflow_handle::<workflows::Wait>("wait")
            .signal(
                workflows::Wait::finish,
                (),
                WorkflowSignalOptions::default(),
            )
            .await
            .unwrap();
        until("it has ended", || {
            !lifecycle(&ground.events(), "wait").is_empty()
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "wait"),
        ["workflow_end completed"]
    );
}
