//! Commands that do a part of a worker's work: they deliver, send dead letters again, and ask the Temporal server.

use super::{
    TIMEOUT, code,
    dev_server::DevServer,
    program,
    stand_in::{StandIn, header},
    stderr, stdout,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use temporal_eventstore::{Event, EventReader, EventStore};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, UntypedWorkflow, WorkflowStartOptions,
    WorkflowTerminateOptions,
};
use temporalio_common::data_converters::{PayloadConverter, RawValue};
use wiremock::{Request, ResponseTemplate};

/// An endpoint that may refuse events of the type `odd`, with the ids that it took.
struct Endpoint {
    server: StandIn,
    taken: Arc<Mutex<Vec<String>>>,
    refuses: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
}

impl Endpoint {
    async fn start() -> Self {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let refuses = Arc::new(AtomicBool::new(true));
        let is_slow = Arc::new(AtomicBool::new(false));
        let (into, refuses_now, slow_now) = (taken.clone(), refuses.clone(), is_slow.clone());
        let answer = move |request: &Request| {
            let Some(id) = header(request, "ce-id") else {
                // It is asked whether it is there.
                return ResponseTemplate::new(204);
            };
            let is_odd = header(request, "ce-type") == Some("odd");
            if is_odd && refuses_now.load(Ordering::SeqCst) {
                return ResponseTemplate::new(422);
            }
            into.lock().unwrap().push(id.to_owned());
            match slow_now.load(Ordering::SeqCst) {
                true => ResponseTemplate::new(204).set_delay(Duration::from_millis(300)),
                false => ResponseTemplate::new(204),
            }
        };
        Self {
            server: StandIn::start(answer).await,
            taken,
            refuses,
            is_slow,
        }
    }

    fn url(&self) -> String {
        format!(
            "http://{}/events?eventstore.mode=binary&eventstore.timeout=2s",
            self.server.address()
        )
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

/// Runs it on another thread, so that what it talks to goes on.
async fn output(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap()
}

async fn run(file: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.arg("--store").arg(file).args(arguments);
    output(command).await
}

async fn store(file: &Path, sink: Option<&str>) -> EventStore {
    let mut builder = EventStore::builder().store(format!("sqlite:{}", file.display()));
    if let Some(sink) = sink {
        builder = builder.store(sink);
    }
    builder.build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_delivered_without_a_worker() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let mut endpoint = Endpoint::start().await;
    let url = endpoint.url();
    endpoint.server.stop().await;
    let events = store(&file, Some(&url)).await;
    for _ in 0..50 {
        events.publish(Event::new("order.paid")).await.unwrap();
    }
    events
        .shutdown(Duration::from_millis(300))
        .await
        .unwrap_err();

    let away = run(
        &file,
        &["drain", "--to", &url, "--timeout", "1s", "-o", "json"],
    )
    .await;
    assert_eq!(code(&away), 4, "{}", stderr(&away));
    let away: Value = serde_json::from_str(&stdout(&away)).unwrap();
    assert_eq!(away[0]["behind"], 50, "{away}");
    assert!(away[0]["failing"].is_string(), "{away}");

    endpoint.server.start_again().await;
    let there = run(&file, &["drain", "--to", &url, "-o", "json"]).await;
    assert_eq!(code(&there), 0, "{}", stderr(&there));
    let there: Value = serde_json::from_str(&stdout(&there)).unwrap();
    assert_eq!(there[0]["delivered"], 50, "{there}");
    let taken = endpoint.taken();
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 50);
    assert_eq!(taken.len(), 50);

    // As a worker names its sinks.
    let mut again = program();
    again
        .env("EVENTSTORE_URL", format!("sqlite:{},{url}", file.display()))
        .arg("drain");
    let again = output(again).await;
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    assert_eq!(endpoint.taken().len(), 50);
    // What was delivered is still in the store.
    let reader = EventReader::open(&format!("sqlite:{}", file.display())).await;
    assert_eq!(reader.unwrap().newest().await.unwrap(), 50);
}

/// One program at a time delivers to one sink: what the other lacks stays, however old it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_sink_lacks_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let (one, mut other) = (Endpoint::start().await, Endpoint::start().await);
    let urls = [one.url(), other.url()];
    other.server.stop().await;
    let worker = |urls: &[String]| {
        let mut builder = EventStore::builder().journal(&file);
        for url in urls {
            builder = builder.store(url);
        }
        builder.build()
    };
    let events = worker(&urls).await.unwrap();
    for _ in 0..10 {
        events.publish(Event::new("order.paid")).await.unwrap();
    }
    events.shutdown(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(one.taken().len(), 10);
    let drain = |url: &str, more: &[&str]| {
        let mut command = program();
        command
            .env("EVENTSTORE_JOURNAL", &file)
            .env("EVENTSTORE_RETENTION", "1s")
            .env("EVENTSTORE_BATCH_SIZE", "1")
            .env("EVENTSTORE_URL", url)
            .arg("drain")
            .args(more);
        output(command)
    };
    // A new name begins anew, and is slow enough for the journal to look for what is old.
    let renamed = format!("{}&eventstore.name=renamed", urls[0]);
    let unknown = drain(&renamed, &[]).await;
    assert_eq!(code(&unknown), 2, "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("--new"), "{}", stderr(&unknown));
    one.is_slow.store(true, Ordering::SeqCst);
    let renamed = drain(&renamed, &["--new"]).await;
    assert_eq!(code(&renamed), 0, "{}", stderr(&renamed));

    other.server.start_again().await;
    let late = drain(&urls[1], &[]).await;
    assert_eq!(code(&late), 0, "{}", stderr(&late));
    assert_eq!(other.taken().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let endpoint = Endpoint::start().await;
    let url = endpoint.url();
    let events = store(&file, Some(&url)).await;
    for name in ["order.paid", "odd", "order.paid", "odd", "order.paid"] {
        events.publish(Event::new(name)).await.unwrap();
    }
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(endpoint.taken().len(), 3);

    let unknown = ["dead-letters", "send", "7", "--to", &url];
    let unknown = run(&file, &unknown).await;
    assert_eq!(code(&unknown), 3, "{}", stderr(&unknown));
    let elsewhere = run(&file, &["dead-letters", "send", "--all", "--to", "stdout:"]).await;
    assert_eq!(code(&elsewhere), 2);
    assert!(
        stderr(&elsewhere).contains("never delivered"),
        "{}",
        stderr(&elsewhere)
    );
    let refused = run(&file, &["dead-letters", "send", "--all", "--to", &url]).await;
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("refused again"),
        "{}",
        stderr(&refused)
    );

    endpoint.refuses.store(false, Ordering::SeqCst);
    let one = run(&file, &["dead-letters", "send", "2", "--to", &url]).await;
    assert_eq!(code(&one), 0, "{}", stderr(&one));
    assert_eq!(endpoint.taken().len(), 4);
    let rest = run(&file, &["dead-letters", "send", "--all", "--to", &url]).await;
    assert_eq!(code(&rest), 0, "{}", stderr(&rest));
    assert_eq!(endpoint.taken().len(), 5);
    let none = run(&file, &["dead-letters", "list"]).await;
    assert_eq!(code(&none), 3, "{}", stdout(&none));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_open_or_not_there_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    let missing = run(&file, &["drain", "--to", "stdout:"]).await;
    assert_eq!(code(&missing), 1);
    assert!(
        stderr(&missing).contains("there is no file"),
        "{}",
        stderr(&missing)
    );
    assert!(!file.exists());
    let events = store(&file, None).await;
    let open = run(&file, &["drain", "--to", "stdout:"]).await;
    assert_eq!(code(&open), 1, "{}", stderr(&open));
    assert!(stderr(&open).contains("stop it first"), "{}", stderr(&open));
    events.shutdown(TIMEOUT).await.unwrap();
    let nowhere = run(&file, &["drain"]).await;
    assert_eq!(code(&nowhere), 2, "{}", stderr(&nowhere));
    assert!(stderr(&nowhere).contains("--to"), "{}", stderr(&nowhere));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_has_is_added_without_a_worker() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.db");
    store(&file, None).await.shutdown(TIMEOUT).await.unwrap();
    let server = DevServer::start().await.unwrap();
    let connection = ConnectionOptions::new(server.url().unwrap()).build();
    let client = Client::connect(connection, ClientOptions::new("default").build());
    let client = client.await.unwrap();
    let nothing = RawValue::from_value(&(), &PayloadConverter::default());
    let run_of = client
        .start_workflow(
            UntypedWorkflow::new("Order"),
            nothing,
            WorkflowStartOptions::new("orders", "order-1").build(),
        )
        .await
        .unwrap();
    run_of
        .terminate(WorkflowTerminateOptions::default())
        .await
        .unwrap();

    let address = format!("127.0.0.1:{}", server.port());
    let connected = ["check", "--connect", "--address", &address];
    let connected = run(&file, &connected).await;
    assert_eq!(code(&connected), 0, "{}", stdout(&connected));
    assert!(
        stdout(&connected).contains(&address),
        "{}",
        stdout(&connected)
    );
    let strange = [
        "check",
        "--connect",
        "--address",
        &address,
        "--namespace",
        "strange",
    ];
    let strange = run(&file, &strange).await;
    assert_eq!(code(&strange), 4);
    assert!(
        stdout(&strange).contains("\"strange\""),
        "{}",
        stdout(&strange)
    );

    let began = Instant::now();
    loop {
        let mut command = program();
        command
            .env("TEMPORAL_ADDRESS", &address)
            .arg("--store")
            .arg(&file)
            .args(["reconcile", "--since", "1h", "-o", "json"]);
        let output = output(command).await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
        if found["workflow_ends_added"] == 1 {
            assert_eq!(found["workflow_starts_added"], 1, "{found}");
            break;
        }
        assert!(began.elapsed() < TIMEOUT, "{found}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let list = run(&file, &["ls", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&stdout(&list)).unwrap();
    assert_eq!(list[0]["state"], "terminated", "{list}");

    drop(server);
    let gone = run(&file, &["reconcile", "--address", &address]).await;
    assert_eq!(code(&gone), 1);
    assert!(
        stderr(&gone).contains("no Temporal server answers"),
        "{}",
        stderr(&gone)
    );
}
