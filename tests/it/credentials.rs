//! A server that demands a key, and a key that changes while the worker runs: unclear ends are still
//! settled, and what is refused is said.

use crate::support::{
    Ground,
    dev_server::DevServer,
    log::Log,
    lossy_line::{Keys, LossyLine},
    outcome, start, until, with_worker, workflows,
};
use std::{sync::Arc, time::Duration};
use temporal_eventstore::{EventStore, EventStorePlugin, ReconcilerOptions};
use temporalio_client::{Client, ClientOptions, ConnectionOptions, WorkflowTerminateOptions};

const TIMEOUT: Duration = Duration::from_secs(5);
const FIRST: &str = "hunter2-first";
const SECOND: &str = "hunter2-second";

async fn guarded(server: &DevServer) -> (LossyLine, Keys) {
    let keys = Keys::default();
    take(&keys, &[FIRST]);
    let line = LossyLine::guarded(server.port(), Arc::new(|_| None), keys.clone()).await;
    (line, keys)
}

fn take(keys: &Keys, taken: &[&str]) {
    *keys.lock().unwrap() = taken.iter().map(|key| (*key).to_owned()).collect();
}

async fn client_through(line: &LossyLine, plugin: &EventStorePlugin) -> Client {
    let connection = ConnectionOptions::new(line.url().parse::<url::Url>().unwrap())
        .api_key(FIRST)
        .build();
    let options = ClientOptions::new("default").plugin(plugin.clone()).build();
    Client::connect(connection, options).await.unwrap()
}

/// The client and its worker go on all the time; from now on only the second key is taken.
async fn rotate(client: &Client, keys: &Keys) {
    take(keys, &[FIRST, SECOND]);
    client.connection().set_api_key(Some(SECOND.to_owned()));
    // What was sent with the first key has arrived by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    take(keys, &[SECOND]);
}

/// With a worker that keeps no workflow in memory, so that each end is asked for.
async fn asking<T>(client: &Client, test: impl Future<Output = T>) -> T {
    let options = workflows::worker_options("orders", 0).unwrap();
    with_worker(client, options, test).await
}

async fn run(client: &Client, workflow_id: &str) {
    outcome(client, workflows::Noop::run, (), workflow_id)
        .await
        .unwrap();
}

async fn settled(events: &EventStore) {
    until("the end is settled", || events.stats().held == 0).await;
}

fn ends(ground: &Ground, state: &str) -> usize {
    ground
        .events()
        .iter()
        .filter(|row| {
            row.event_name == "workflow_end" && row.workflow_state.as_deref() == Some(state)
        })
        .count()
}

fn refused_questions(line: &LossyLine) -> usize {
    let faults = line.faults();
    let questions = [
        "GetWorkflowExecutionHistoryReverse",
        "DescribeWorkflowExecution",
        "ListWorkflowExecutions",
        "GetSystemInfo",
    ];
    questions
        .iter()
        .filter_map(|name| faults.get(&format!("Refuse {name}")))
        .sum()
}

#[tokio::test]
async fn with_the_clients_connection_a_new_key_is_nothing_to_the_plugin() {
    let ground = Ground::new().await;
    let (line, keys) = guarded(&ground.server).await;
    let events = ground.store().await;
    let plugin = events.plugin();
    let client = client_through(&line, &plugin).await;
    plugin.set_connection(client.connection());
    asking(&client, async {
        run(&client, "before").await;
        settled(&events).await;
        rotate(&client, &keys).await;
        run(&client, "after").await;
        settled(&events).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "completed"), 2);
    assert_eq!(refused_questions(&line), 0, "{:?}", line.faults());
}

/// The plugin has connected by itself before the key changes, or connects only afterwards.
async fn a_key_is_told(asks_before: bool) {
    let ground = Ground::new().await;
    let (line, keys) = guarded(&ground.server).await;
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let plugin = events.plugin();
    let client = client_through(&line, &plugin).await;
    if !asks_before {
        rotate(&client, &keys).await;
    }
    asking(&client, async {
        if asks_before {
            run(&client, "before").await;
            settled(&events).await;
            rotate(&client, &keys).await;
        }
        run(&client, "after").await;
        until("the question is refused", || refused_questions(&line) > 1).await;
        assert_eq!(events.stats().held, 1);
        assert!(log.says("refuses the credentials"), "{log}");
        assert!(log.says("EventStorePlugin::set_connection"), "{log}");
        plugin.set_api_key(SECOND);
        settled(&events).await;
        let refused = refused_questions(&line);
        run(&client, "again").await;
        settled(&events).await;
        assert_eq!(refused_questions(&line), refused);
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "completed"), 2 + usize::from(asks_before));
    assert_eq!(
        log.to_string().matches("refuses the credentials").count(),
        1
    );
    assert!(!log.says("hunter2"), "{log}");
    assert!(!format!("{plugin:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_new_key_is_told_to_the_plugins_own_connection() {
    a_key_is_told(true).await;
}

#[tokio::test]
async fn a_new_key_is_told_before_the_plugin_connects() {
    a_key_is_told(false).await;
}

#[tokio::test]
async fn the_reconciler_goes_on_with_the_connection_that_is_given() {
    let ground = Ground::new().await;
    let (line, keys) = guarded(&ground.server).await;
    let events = ground.store().await;
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build();
    let plugin = events
        .plugin()
        .reconcile(options, Duration::from_millis(200));
    let client = client_through(&line, &plugin).await;
    let terminate = async |workflow_id: &str| {
        client
            .start_workflow(workflows::Wait::run, (), start(workflow_id))
            .await
            .unwrap()
            .terminate(WorkflowTerminateOptions::default())
            .await
            .unwrap();
    };
    asking(&client, async {
        terminate("before").await;
        until("the first end is found", || {
            ends(&ground, "terminated") == 1
        })
        .await;
        rotate(&client, &keys).await;
        terminate("after").await;
        until("the question is refused", || refused_questions(&line) > 1).await;
        plugin.set_connection(client.connection());
        until("the second end is found", || {
            ends(&ground, "terminated") == 2
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn what_is_for_one_server_is_not_shown_to_another() {
    let ground = Ground::new().await;
    let other = DevServer::start().await.unwrap();
    let (line, _keys) = guarded(&ground.server).await;
    let (other_line, other_keys) = guarded(&other).await;
    take(&other_keys, &[FIRST, SECOND]);
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let plugin = events.plugin();
    let client = client_through(&line, &plugin).await;
    let other_client = client_through(&other_line, &plugin).await;
    let at_start = log.to_string();
    plugin.set_api_key(SECOND);
    plugin.set_connection(other_client.connection());
    assert_eq!(
        log.to_string().matches("nothing is changed").count(),
        2,
        "{log}"
    );
    assert_eq!(at_start, "");
    asking(&client, async {
        run(&client, "noop").await;
        settled(&events).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "completed"), 1);
    assert!(
        log.says("namespace of the same name on several servers"),
        "{log}"
    );
}
