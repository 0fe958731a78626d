//! Histories as no server would write them: of any order, with any numbers, times and bytes.

use super::history::HistoryReader;
use crate::{
    event::{Event, Execution},
    fuzz,
    record::Finished,
    store::EventStore,
};
use fastrand::Rng;
use prost::Message as _;
use std::collections::HashMap;
use temporalio_common::protos::{
    coresdk::{
        common::build_local_activity_marker_details, external_data::LocalActivityMarkerData,
    },
    temporal::api::{
        common::v1::{ActivityType, Header, Payload, WorkflowExecution, WorkflowType},
        enums::v1::WorkflowTaskFailedCause,
        failure::v1::{ApplicationFailureInfo, Failure, TimeoutFailureInfo, failure::FailureInfo},
        history::v1::{history_event::Attributes, *},
        taskqueue::v1::TaskQueue,
    },
};

const RUN: &str = "01a20b96-02ea-7aa1-9ec1-8dd8f6c97773";
/// Of each history so many events are encoded and read again.
const PREPARED: usize = 2;

fn header() -> Option<Header> {
    let payload = |data: &str| Payload {
        data: data.as_bytes().to_vec(),
        ..Payload::default()
    };
    let trace = r#"{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#;
    Some(Header {
        fields: HashMap::from([
            (
                "temporal-eventstore".to_owned(),
                payload(r#"{"correlation_id":"c-42","topic_name":"orders","n":{"a":[1.5]}}"#),
            ),
            ("_tracer-data".to_owned(), payload(trace)),
        ]),
    })
}

fn failure() -> Option<Failure> {
    Some(Failure {
        message: "no more bolts".to_owned(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(
            ApplicationFailureInfo {
                r#type: "OutOfStock".to_owned(),
                non_retryable: true,
                ..ApplicationFailureInfo::default()
            },
        )),
        ..Failure::default()
    })
}

fn timeout() -> Option<Failure> {
    Some(Failure {
        failure_info: Some(FailureInfo::TimeoutFailureInfo(
            TimeoutFailureInfo::default(),
        )),
        cause: failure().map(Box::new),
        ..Failure::default()
    })
}

/// A history with everything that is read.
fn whole() -> Vec<HistoryEvent> {
    let queue = || {
        Some(TaskQueue {
            name: "orders".to_owned(),
            ..TaskQueue::default()
        })
    };
    let scheduled = |id: &str| {
        Attributes::ActivityTaskScheduledEventAttributes(ActivityTaskScheduledEventAttributes {
            activity_id: id.to_owned(),
            activity_type: Some(ActivityType {
                name: "Orders::noop".to_owned(),
            }),
            task_queue: queue(),
            header: header(),
            ..ActivityTaskScheduledEventAttributes::default()
        })
    };
    let started = |scheduled_event_id, attempt| {
        Attributes::ActivityTaskStartedEventAttributes(ActivityTaskStartedEventAttributes {
            scheduled_event_id,
            attempt,
            identity: "1@host".to_owned(),
            last_failure: if attempt % 2 == 0 {
                failure()
            } else {
                timeout()
            },
            ..ActivityTaskStartedEventAttributes::default()
        })
    };
    let local = LocalActivityMarkerData {
        seq: 1,
        attempt: 2,
        activity_id: "1".to_owned(),
        activity_type: "Orders::noop".to_owned(),
        ..LocalActivityMarkerData::default()
    };
    let attributes = vec![
        Attributes::WorkflowExecutionStartedEventAttributes(
            WorkflowExecutionStartedEventAttributes {
                workflow_type: Some(WorkflowType {
                    name: "Order".to_owned(),
                }),
                task_queue: queue(),
                attempt: 1,
                original_execution_run_id: "another".to_owned(),
                first_execution_run_id: RUN.to_owned(),
                continued_execution_run_id: RUN.to_owned(),
                parent_workflow_execution: Some(WorkflowExecution {
                    workflow_id: "parent".to_owned(),
                    run_id: RUN.to_owned(),
                }),
                header: header(),
                ..WorkflowExecutionStartedEventAttributes::default()
            },
        ),
        scheduled("a"),
        started(2, 1),
        Attributes::ActivityTaskCompletedEventAttributes(ActivityTaskCompletedEventAttributes {
            scheduled_event_id: 2,
            started_event_id: 3,
            ..ActivityTaskCompletedEventAttributes::default()
        }),
        Attributes::WorkflowTaskFailedEventAttributes(WorkflowTaskFailedEventAttributes {
            cause: WorkflowTaskFailedCause::ResetWorkflow.into(),
            ..WorkflowTaskFailedEventAttributes::default()
        }),
        scheduled("b"),
        started(6, 3),
        Attributes::ActivityTaskFailedEventAttributes(ActivityTaskFailedEventAttributes {
            scheduled_event_id: 6,
            failure: failure(),
            ..ActivityTaskFailedEventAttributes::default()
        }),
        scheduled("c"),
        started(9, 2),
        Attributes::ActivityTaskTimedOutEventAttributes(ActivityTaskTimedOutEventAttributes {
            scheduled_event_id: 9,
            failure: timeout(),
            ..ActivityTaskTimedOutEventAttributes::default()
        }),
        scheduled("d"),
        started(12, 1),
        Attributes::ActivityTaskCanceledEventAttributes(ActivityTaskCanceledEventAttributes {
            scheduled_event_id: 12,
            ..ActivityTaskCanceledEventAttributes::default()
        }),
        Attributes::MarkerRecordedEventAttributes(MarkerRecordedEventAttributes {
            marker_name: "core_local_activity".to_owned(),
            details: build_local_activity_marker_details(local, None),
            failure: failure(),
            ..MarkerRecordedEventAttributes::default()
        }),
        Attributes::WorkflowExecutionFailedEventAttributes(
            WorkflowExecutionFailedEventAttributes {
                failure: failure(),
                ..WorkflowExecutionFailedEventAttributes::default()
            },
        ),
        Attributes::WorkflowExecutionTerminatedEventAttributes(
            WorkflowExecutionTerminatedEventAttributes {
                reason: "the customer left".to_owned(),
                ..WorkflowExecutionTerminatedEventAttributes::default()
            },
        ),
        Attributes::WorkflowExecutionContinuedAsNewEventAttributes(
            WorkflowExecutionContinuedAsNewEventAttributes::default(),
        ),
    ];
    (1..)
        .zip(attributes)
        .map(|(event_id, attributes)| {
            let mut event = HistoryEvent {
                event_id,
                attributes: Some(attributes),
                ..HistoryEvent::default()
            };
            let time = event.event_time.get_or_insert_default();
            time.seconds = 1_795_490_710 + event_id;
            time.nanos = 472_198_363;
            event
        })
        .collect()
}

/// An event with other numbers, another time, or other bytes.
fn changed(rng: &mut Rng, event: &HistoryEvent) -> HistoryEvent {
    let numbers = [
        0,
        1,
        -1,
        2,
        6,
        9,
        12,
        1_001,
        i64::from(i32::MAX),
        i64::MAX,
        i64::MIN,
    ];
    let number = |rng: &mut Rng| rng.choice(numbers).unwrap_or_default();
    let mut event = event.clone();
    match rng.u8(0..8) {
        0 => event.event_id = number(rng),
        1 => event.event_time = None,
        2 => event.event_time.get_or_insert_default().seconds = number(rng),
        3 => event.event_time.get_or_insert_default().seconds = rng.i64(..),
        4 => event.event_time.get_or_insert_default().nanos = rng.i32(..),
        5 => {
            if let Some(Attributes::ActivityTaskStartedEventAttributes(started)) =
                &mut event.attributes
            {
                started.attempt = i32::try_from(number(rng)).unwrap_or(rng.i32(..));
                started.scheduled_event_id = number(rng);
            }
        }
        _ => {
            let bytes = fuzz::mutated(rng, &[event.encode_to_vec()]);
            if let Ok(read) = HistoryEvent::decode(&*bytes) {
                event = read;
            }
        }
    }
    event
}

#[test]
fn fuzz_histories() {
    let store = EventStore::disabled();
    let seed = whole();
    fuzz::run("histories", |rng| {
        // Its begin, and a part of the rest.
        let from = rng.usize(1..seed.len());
        let to = (from + rng.usize(1..8)).min(seed.len());
        let mut history: Vec<HistoryEvent> = seed
            .iter()
            .take(1)
            .chain(&seed[from..to])
            .cloned()
            .collect();
        for _ in 0..rng.usize(1..6) {
            if history.is_empty() {
                break;
            }
            let at = rng.usize(0..history.len());
            match rng.u8(0..6) {
                0 => drop(history.remove(at)),
                1 => {
                    let other = rng.usize(0..history.len());
                    history.swap(at, other);
                }
                2 => {
                    let copy = history[at].clone();
                    history.push(copy);
                }
                _ => history[at] = changed(rng, &history[at]),
            }
        }
        let execution = Execution {
            namespace: "default".to_owned(),
            workflow_id: "order-1".to_owned(),
            run_id: if rng.bool() { RUN } else { "another" }.to_owned(),
        };
        let mut reader = HistoryReader::new(&store, execution);
        let mut found = Vec::new();
        for event in history {
            reader.read(event, &mut found);
        }
        // Each activity has at most so many attempts.
        assert!(found.len() <= 24 * 1_010, "{}", found.len());
        for draft in found.into_iter().rev().take(PREPARED) {
            let id = draft.derived_id();
            let Finished::Stored(record) = draft.finish() else {
                panic!("a lifecycle event is refused");
            };
            assert_eq!(id, Some(record.event_id));
            let event = Event::from_json(&record.json).unwrap();
            assert_eq!(event.validate(), Ok(()));
        }
    });
}
