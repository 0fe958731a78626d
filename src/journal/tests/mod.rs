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
        queue_size: 1_000,
        batch_size: 64,
        linger: Duration::from_millis(5),
        ..JournalOptions::small(target)
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

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn dead_letter(position: u64) -> crate::event::DeadLetter {
    crate::event::DeadLetter {
        sink: "s".to_owned(),
        position,
        event_id: crate::event::EventId::new(),
        reason: "too large".to_owned(),
        event: "{}".to_owned(),
    }
}

/// Returns the positions of the dead letters.
async fn refused_positions(journal: &Journal) -> Vec<u64> {
    let letters = journal.ask(|store| store.dead_letters(None, 0, 10_000));
    let letters = letters.await.unwrap();
    letters.iter().map(|letter| letter.position).collect()
}

#[tokio::test]
async fn memory_removes_old_dead_letters_after_their_retention() {
    let journal = Journal::open(JournalOptions {
        dead_letter_retention: Retention::For(Duration::from_secs(2)),
        ..options(Target::Memory)
    })
    .unwrap();
    let refuse = |position| {
        let refused = vec![dead_letter(position)];
        journal.move_cursor("sink s".to_owned(), position, refused)
    };
    refuse(7).unwrap();
    assert_eq!(refused_positions(&journal).await, [7]);
    until("the old dead letter stays", || {
        journal.status().expired_dead_letters == 1
    })
    .await;
    refuse(8).unwrap();
    assert_eq!(refused_positions(&journal).await, [8]);
    assert_eq!(journal.status().lost, 0);
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
mod file;
