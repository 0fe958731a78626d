//! What starts and ends of runs say, if they are asked to, of how the run was started: search attributes, memo, the
//! schedule. Interceptors and reconciler say the same.

use crate::support::{Ground, Row, outcome, rows, start, until, with_example_worker, workflows};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use temporal_eventstore::{EventStore, EventStoreOptions, Reconciler, ReconcilerOptions};
use temporalio_client::{
    Client, ClientOptions, WorkflowGetResultOptions, WorkflowStartOptions,
    schedules::{CreateScheduleOptions, ScheduleAction, ScheduleSpec},
};
use temporalio_common::{
    HasWorkflowDefinition, MemoValues,
    data_converters::{
        DataConverter, DefaultFailureConverter, PayloadCodec, PayloadConversionError,
        PayloadConverter, SerializationContextData,
    },
    protos::temporal::api::common::v1::Payload,
    search_attributes::{SearchAttributeKey, SearchAttributes},
};

const TIMEOUT: Duration = Duration::from_secs(5);
const CUSTOMER: SearchAttributeKey<String> = SearchAttributeKey::keyword("CustomerId");
const PRIORITY: SearchAttributeKey<i64> = SearchAttributeKey::int("Priority");

async fn ground() -> Ground {
    let attributes = ["CustomerId=Keyword", "Priority=Int"];
    let arguments = attributes.map(|it| ["--search-attribute", it]).concat();
    Ground::with_lasting_server_and(&arguments).await
}

/// With what the stores of these tests are opened.
fn asking(url: String) -> EventStoreOptions {
    EventStore::builder()
        .application_name("test")
        .store(url)
        .search_attributes(["CustomerId", "Priority", "TemporalScheduledById", "None"])
        .memo(["order", "none"])
        .options()
}

fn with_fields(workflow_id: &str) -> WorkflowStartOptions {
    let mut memo = MemoValues::new();
    memo.insert("order", HashMap::from([("parcels", 2)]));
    memo.insert("other", "private");
    let mut options = start(workflow_id);
    options.memo = Some(memo);
    options.search_attributes = Some(SearchAttributes::new([
        CUSTOMER.value_set("c-7".to_owned()),
        PRIORITY.value_set(3),
    ]));
    options
}

/// Runs a workflow that was started with them. A server that has just started may not know the attributes yet.
async fn run_with_fields<W>(
    client: &Client,
    workflow: impl Fn() -> W,
    input: W::Input,
    workflow_id: &str,
) where
    W: HasWorkflowDefinition,
    W::Input: Send + Copy,
    W::Output: std::fmt::Debug,
{
    let began = Instant::now();
    let run = loop {
        match client
            .start_workflow(workflow(), input, with_fields(workflow_id))
            .await
        {
            Ok(run) => break run,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let options = WorkflowGetResultOptions::default();
    run.get_result(options).await.unwrap();
}

/// What the reconciler makes of the server's histories alone, for a store that asks for the same.
async fn reconciled(ground: &Ground, client: &Client, runs: usize) -> Vec<Row> {
    let file = ground.directory.path().join("reconciled.db");
    let url = format!("sqlite:{}", file.display());
    let events = EventStore::from_options(asking(url)).await.unwrap();
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build();
    let mut found = 0;
    // Visibility follows the history a moment later.
    for _ in 0..100 {
        let pass = Reconciler::new(&events, client, options.clone());
        found += pass.run_once().await.unwrap().workflow_ends;
        if found >= runs as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    events.shutdown(TIMEOUT).await.unwrap();
    rows(&file)
}

/// The data of each start and end, under its id; without the duration, which the worker measures to its last task.
fn of_runs(rows: &[Row]) -> HashMap<&str, (String, Value)> {
    let of_run = rows
        .iter()
        .filter(|row| row.event_name.starts_with("workflow_"));
    let told = of_run.map(|row| {
        let mut data = row.event["data"].clone();
        data.as_object_mut().unwrap().remove("duration_ms");
        let what = format!("{} {}", row.workflow_id.as_deref().unwrap(), row.event_name);
        (row.event_id.as_str(), (what, data))
    });
    told.collect()
}

fn find<'a>(rows: &'a [Row], workflow_id: &str, name: &str) -> &'a Row {
    let mut found = rows
        .iter()
        .filter(|row| row.is_of(workflow_id) && row.event_name == name);
    found.next().unwrap()
}

#[tokio::test]
async fn starts_and_ends_have_the_fields_that_are_asked_for_and_the_reconciler_finds_the_same() {
    let ground = ground().await;
    let events = EventStore::from_options(asking(ground.store_url()))
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        run_with_fields(&client, || workflows::Order::run, (), "order").await;
        // Its two runs have the fields, too.
        run_with_fields(&client, || workflows::Chain::run, 1, "chain").await;
        outcome(&client, workflows::Fail::run, (), "bare")
            .await
            .unwrap_err();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let fields = json!({
        "search_attributes": { "CustomerId": "c-7", "Priority": 3 },
        "memo": { "order": { "parcels": 2 } },
    });
    for id in ["order", "chain"] {
        assert_eq!(find(&rows, id, "workflow_start").event["data"], fields);
        let end = find(&rows, id, "workflow_end");
        assert_eq!(end.data("search_attributes"), &fields["search_attributes"]);
        assert_eq!(end.data("memo"), &fields["memo"]);
    }
    assert_eq!(
        find(&rows, "bare", "workflow_start").event["data"],
        json!({})
    );
    // Nothing of what nobody asked for, and nothing anywhere else.
    for row in &rows {
        let text = row.event.to_string();
        assert!(!text.contains("private"), "{text}");
        let has = text.contains("c-7");
        assert!(!has || row.event_name.starts_with("workflow_"), "{text}");
    }
    let found = reconciled(&ground, &client, 4).await;
    assert_eq!(of_runs(&rows).len(), 8);
    assert_eq!(of_runs(&found), of_runs(&rows));
}

#[tokio::test]
async fn without_the_options_nothing_of_it_is_told() {
    let ground = ground().await;
    let events = ground.store().await;
    let client = ground.client_with(&events).await;
    with_example_worker(&client, async {
        run_with_fields(&client, || workflows::Noop::run, (), "noop").await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        find(&rows, "noop", "workflow_start").event["data"],
        json!({})
    );
    let end = find(&rows, "noop", "workflow_end").event["data"]
        .as_object()
        .unwrap();
    assert_eq!(end.keys().collect::<Vec<_>>(), ["duration_ms", "status"]);
}

#[tokio::test]
async fn a_run_that_a_schedule_started_says_so() {
    let ground = ground().await;
    // Nobody has to ask for it.
    let events = ground.store().await;
    let client = ground.client_with(&events).await;
    let began = chrono::Utc::now();
    with_example_worker(&client, async {
        let action =
            ScheduleAction::start_workflow(workflows::Noop::run, (), "orders", "nightly-run");
        let options = CreateScheduleOptions::builder()
            .action(action)
            .spec(ScheduleSpec::from_interval(Duration::from_secs(3600)))
            .trigger_immediately(true)
            .build();
        client.create_schedule("nightly", options).await.unwrap();
        outcome(&client, workflows::Noop::run, (), "by-hand")
            .await
            .unwrap();
        until("both have ended", || {
            let ends = ground.events().into_iter();
            ends.filter(|row| row.event_name == "workflow_end").count() == 2
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let scheduled: Vec<&Row> = rows
        .iter()
        .filter(|row| row.event["data"].get("scheduled_by").is_some())
        .collect();
    let names: Vec<&str> = scheduled.iter().map(|row| &*row.event_name).collect();
    assert_eq!(names, ["workflow_start", "workflow_end"]);
    for row in scheduled {
        assert!(
            row.workflow_id
                .as_deref()
                .unwrap()
                .starts_with("nightly-run")
        );
        let by = row.data("scheduled_by");
        assert_eq!(by["schedule_id"], "nightly");
        let time = by["scheduled_time"].as_str().unwrap();
        assert!(time.ends_with(".000000Z"), "{time}");
        let time: chrono::DateTime<chrono::Utc> = time.parse().unwrap();
        assert!((time - began).num_seconds().abs() < 60, "{time}");
    }
    // The reconciler's store also asks for the attribute by name.
    let mut found = reconciled(&ground, &client, 2).await;
    for row in &mut found {
        let data = row.event["data"].as_object_mut().unwrap();
        if let Some(listed) = data.remove("search_attributes") {
            assert_eq!(listed, json!({ "TemporalScheduledById": "nightly" }));
        }
    }
    assert_eq!(of_runs(&found), of_runs(&rows));
}

/// A codec that turns every bit around, and keeps what the encoding was.
struct Inverting;

fn inverted(mut payload: Payload, from: &str, to: &str) -> Payload {
    payload.data.iter_mut().for_each(|byte| *byte = !*byte);
    if let Some(encoding) = payload.metadata.remove(from) {
        payload.metadata.insert(to.to_owned(), encoding);
    }
    payload
}

impl PayloadCodec for Inverting {
    fn encode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        let encoded = payloads.into_iter().map(|it| {
            let mut it = inverted(it, "encoding", "was");
            let encrypted = "binary/encrypted".into();
            it.metadata.insert("encoding".to_owned(), encrypted);
            it
        });
        let encoded = encoded.collect();
        Box::pin(async { Ok(encoded) })
    }

    fn decode(
        &self,
        _: &SerializationContextData,
        payloads: Vec<Payload>,
    ) -> BoxFuture<'static, Result<Vec<Payload>, PayloadConversionError>> {
        let decoded = payloads.into_iter().map(|it| {
            if it.metadata.contains_key("was") {
                inverted(it, "was", "encoding")
            } else {
                it
            }
        });
        let decoded = decoded.collect();
        Box::pin(async { Ok(decoded) })
    }
}

/// The SDK decodes before the interceptors see it, and the reconciler has no codec.
#[tokio::test]
async fn a_codec_encrypts_the_memo_for_the_reconciler_and_not_for_the_worker() {
    let ground = ground().await;
    let events = EventStore::from_options(asking(ground.store_url()))
        .await
        .unwrap();
    let converter = DataConverter::new(
        PayloadConverter::default(),
        DefaultFailureConverter::default(),
        Inverting,
    );
    let options = ClientOptions::new("default")
        .data_converter(converter)
        .plugin(events.plugin())
        .build();
    let client = ground.connect(options).await;
    with_example_worker(&client, async {
        run_with_fields(&client, || workflows::Noop::run, (), "noop").await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    let start = find(&rows, "noop", "workflow_start");
    let attributes = json!({ "CustomerId": "c-7", "Priority": 3 });
    assert_eq!(
        start.event["data"],
        json!({ "search_attributes": attributes, "memo": { "order": { "parcels": 2 } } })
    );
    let found = reconciled(&ground, &client, 1).await;
    let start = find(&found, "noop", "workflow_start");
    assert_eq!(
        start.event["data"],
        json!({ "search_attributes": attributes })
    );
}
