//! The ground that the tests stand on: a real dev server, workers in this process, the examples as
//! child processes, histories, and the store as the `sqlite3` program sees it.

pub mod broken;
pub mod compare;
pub mod conformance;
#[path = "../../../examples/support/dev_server.rs"]
pub mod dev_server;
pub mod kafka_broker;
#[cfg(feature = "kafka-tls")]
pub mod kafka_gate;
pub mod late_visibility;
pub mod log;
pub mod lossy_line;
pub mod proxy;
pub mod python;
pub mod servers;
pub mod stand_in;
pub mod target_dapr;
pub mod target_http;
pub mod target_kafka;
pub mod target_nats;
pub mod target_objects;
pub mod target_postgres;
pub mod target_redis;
pub mod target_segment;
pub mod witness;
#[path = "../../../examples/support/workflows.rs"]
pub mod workflows;

use dev_server::DevServer;
use rusqlite::OpenFlags;
use serde_json::Value;
use std::{
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use temporal_eventstore::EventStore;
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, NamespacedClient as _, UntypedWorkflow,
    WorkflowGetResultOptions, WorkflowHandle, WorkflowStartOptions, errors::WorkflowGetResultError,
    tonic::IntoRequest as _,
};
use temporalio_common::HasWorkflowDefinition;
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution,
    enums::v1::EventType,
    history::v1::HistoryEvent,
    workflow::v1::WorkflowExecutionInfo,
    workflowservice::v1::{GetWorkflowExecutionHistoryRequest, ListWorkflowExecutionsRequest},
};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};

/// A dev server and a directory for one test.
pub struct Ground {
    pub server: DevServer,
    pub directory: tempfile::TempDir,
    /// With what the server is started, and started again.
    arguments: Vec<String>,
}

impl Ground {
    pub async fn new() -> Self {
        broken::as_told();
        Self {
            server: DevServer::start().await.unwrap(),
            directory: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
        }
    }

    /// A server that keeps its workflows in a file, so that it can be restarted.
    pub async fn with_lasting_server() -> Self {
        Self::with_lasting_server_and(&[]).await
    }

    /// The same, with more arguments for the server.
    pub async fn with_lasting_server_and(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.db").display().to_string();
        let mut arguments = vec!["--db-filename".to_owned(), file];
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = DevServer::start_with(&given).await.unwrap();
        Self {
            server,
            directory,
            arguments,
        }
    }

    /// Kills the server, and starts it again after a pause.
    pub async fn restart_server(&mut self, pause: Duration) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.server.restart(&arguments, pause).await.unwrap();
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join("events.db")
    }

    pub fn store_url(&self) -> String {
        format!("sqlite:{}", self.file().display())
    }

    /// A store in this test's file.
    pub async fn store(&self) -> EventStore {
        EventStore::builder()
            .application_name("test")
            .store(self.store_url())
            .build()
            .await
            .unwrap()
    }

    /// A client without the plugin.
    pub async fn client(&self) -> Client {
        self.connect(ClientOptions::new("default").build()).await
    }

    /// A client with the plugin of `events`.
    pub async fn client_with(&self, events: &EventStore) -> Client {
        self.connect(
            ClientOptions::new("default")
                .plugin(events.plugin())
                .build(),
        )
        .await
    }

    /// A ground, a store, and a client with its plugin.
    pub async fn with_plugin() -> (Self, EventStore, Client) {
        let ground = Self::new().await;
        let events = ground.store().await;
        let client = ground.client_with(&events).await;
        (ground, events, client)
    }

    pub async fn connect(&self, options: ClientOptions) -> Client {
        let connection = ConnectionOptions::new(self.server.url().unwrap()).build();
        Client::connect(connection, options).await.unwrap()
    }

    /// What is in the store now.
    pub fn events(&self) -> Vec<Row> {
        rows(&self.file())
    }

    /// Every run that the server knows, in pages.
    pub async fn runs(&self, client: &Client) -> Vec<WorkflowExecutionInfo> {
        let mut service = client.connection().workflow_service();
        let mut runs = Vec::new();
        let mut next_page_token = Vec::new();
        loop {
            let response = service
                .list_workflow_executions(
                    ListWorkflowExecutionsRequest {
                        namespace: client.namespace(),
                        page_size: 500,
                        next_page_token,
                        ..ListWorkflowExecutionsRequest::default()
                    }
                    .into_request(),
                )
                .await
                .unwrap()
                .into_inner();
            runs.extend(response.executions);
            next_page_token = response.next_page_token;
            if next_page_token.is_empty() {
                return runs;
            }
        }
    }
}

/// Every run that the server knows, with its history.
pub async fn histories(ground: &Ground, client: &Client) -> Vec<compare::RunHistory> {
    let mut runs = Vec::new();
    for run in ground.runs(client).await {
        let execution = run.execution.unwrap_or_default();
        let events = history(client, &execution.workflow_id, &execution.run_id).await;
        // The list of runs follows the histories a moment later.
        let status = compare::status_of(&events);
        runs.push(compare::RunHistory {
            workflow_id: execution.workflow_id,
            run_id: execution.run_id,
            status,
            events,
            reset_activities: Default::default(),
        });
    }
    runs
}

/// The whole history of a run, all pages.
pub async fn history(client: &Client, workflow_id: &str, run_id: &str) -> Vec<HistoryEvent> {
    let mut service = client.connection().workflow_service();
    let mut events = Vec::new();
    let mut next_page_token = Vec::new();
    loop {
        let response = service
            .get_workflow_execution_history(
                GetWorkflowExecutionHistoryRequest {
                    namespace: client.namespace(),
                    execution: Some(WorkflowExecution {
                        workflow_id: workflow_id.to_owned(),
                        run_id: run_id.to_owned(),
                    }),
                    next_page_token,
                    ..GetWorkflowExecutionHistoryRequest::default()
                }
                .into_request(),
            )
            .await
            .unwrap()
            .into_inner();
        events.extend(response.history.unwrap_or_default().events);
        next_page_token = response.next_page_token;
        if next_page_token.is_empty() {
            return events;
        }
    }
}

/// The last workflow task of a run that a worker began, as the journal names what is held of it.
pub async fn last_task(client: &Client, workflow_id: &str, run_id: &str) -> String {
    let recorded = history(client, workflow_id, run_id).await;
    let started = recorded
        .iter()
        .rfind(|event| event.event_type() == EventType::WorkflowTaskStarted)
        .unwrap();
    let at = SystemTime::try_from(started.event_time.unwrap()).unwrap();
    let at = chrono::DateTime::<chrono::Utc>::from(at);
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    format!("{}@{at}", started.event_id)
}

/// One row of the table `events`.
#[derive(Clone, Debug)]
pub struct Row {
    pub event_id: String,
    pub event_type: String,
    pub event_name: String,
    pub workflow_id: Option<String>,
    pub workflow_run_id: Option<String>,
    pub workflow_state: Option<String>,
    pub activity_type: Option<String>,
    pub activity_id: Option<String>,
    pub attempt: Option<u32>,
    pub event: Value,
}

impl Row {
    pub fn metadata(&self, field: &str) -> &Value {
        &self.event["metadata"][field]
    }

    pub fn data(&self, field: &str) -> &Value {
        &self.event["data"][field]
    }

    /// Whether it is about a local activity.
    pub fn is_local(&self) -> bool {
        self.metadata("is_local").as_bool() == Some(true)
    }

    /// Whether the reconciler made it of the history.
    pub fn is_of_reconciler(&self) -> bool {
        self.metadata("detected_by").as_str() == Some("reconciler")
    }

    /// The activity and the attempt that it is about.
    pub fn attempt_key(&self) -> (&str, u32) {
        let id = self.activity_id.as_deref().unwrap_or_default();
        (id, self.attempt.unwrap_or_default())
    }

    pub fn status(&self) -> &str {
        self.data("status").as_str().unwrap_or_default()
    }

    pub fn is_of(&self, workflow_id: &str) -> bool {
        self.workflow_id.as_deref() == Some(workflow_id)
    }
}

/// The rows of a store's file, while it may be in use.
pub fn rows(path: &Path) -> Vec<Row> {
    let connection =
        rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let mut statement = connection
        .prepare(
            "SELECT event_id, event_type, event_name, workflow_id, workflow_run_id, \
             workflow_state, activity_type, activity_id, attempt, event FROM events ORDER BY seq",
        )
        .unwrap();
    statement
        .query_map([], |row| {
            Ok(Row {
                event_id: row.get(0)?,
                event_type: row.get(1)?,
                event_name: row.get(2)?,
                workflow_id: row.get(3)?,
                workflow_run_id: row.get(4)?,
                workflow_state: row.get(5)?,
                activity_type: row.get(6)?,
                activity_id: row.get(7)?,
                attempt: row.get(8)?,
                event: serde_json::from_str(&row.get::<_, String>(9)?).unwrap(),
            })
        })
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// The lifecycle of one workflow id, one short line per event, in the order of the store:
/// `workflow_start running`, `activity_end Orders::noop 1 completed`.
pub fn lifecycle(rows: &[Row], workflow_id: &str) -> Vec<String> {
    rows.iter()
        .filter(|row| row.is_of(workflow_id) && row.event_type == "application_events")
        .map(|row| match &row.activity_type {
            None => format!(
                "{} {}",
                row.event_name,
                row.workflow_state.as_deref().unwrap_or_default()
            ),
            Some(activity) => {
                let status = row.data("status").as_str().unwrap_or_default();
                format!(
                    "{} {activity} {} {status}",
                    row.event_name,
                    row.attempt.unwrap_or_default()
                )
                .trim_end()
                .to_owned()
            }
        })
        .collect()
}

/// Runs a worker in this process while `test` runs, then shuts it down gracefully.
pub async fn with_worker<T>(
    client: &Client,
    options: WorkerOptions,
    test: impl Future<Output = T>,
) -> T {
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut worker = Worker::new(&runtime, client.clone(), options).unwrap();
    let stop = worker.shutdown_handle();
    // A worker that fails ends the test at once: nobody would do what it waits for.
    let ((), result) = tokio::try_join!(worker.run(), async {
        let result = test.await;
        stop();
        Ok(result)
    })
    .unwrap();
    result
}

/// Runs a worker with the example workflows.
pub async fn with_example_worker<T>(client: &Client, test: impl Future<Output = T>) -> T {
    with_worker(
        client,
        workflows::worker_options("orders", 1000).unwrap(),
        test,
    )
    .await
}

/// Options to start a workflow on the queue that the tests' workers poll.
pub fn start(workflow_id: &str) -> WorkflowStartOptions {
    WorkflowStartOptions::new("orders", workflow_id).build()
}

/// Starts a workflow and waits for its end.
pub async fn outcome<W>(
    client: &Client,
    workflow: W,
    input: W::Input,
    workflow_id: &str,
) -> Result<W::Output, WorkflowGetResultError>
where
    W: HasWorkflowDefinition,
    W::Input: Send,
{
    client
        .start_workflow(workflow, input, start(workflow_id))
        .await
        .unwrap()
        .get_result(WorkflowGetResultOptions::default())
        .await
}

/// A handle by id alone.
pub fn handle(client: &Client, workflow_id: &str) -> WorkflowHandle<Client, UntypedWorkflow> {
    client.get_workflow_handle::<UntypedWorkflow>(workflow_id)
}

/// Waits until `done` is true, and says what was waited for if it never is.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A running example program; killed when dropped.
pub struct Program(pub Child);

impl Program {
    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(status.unwrap().success());
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "the program does not stop"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The command of an example, as cargo built it beside the tests.
pub fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        program.is_file(),
        "{} is missing; build it with `cargo build --examples`",
        program.display()
    );
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Starts the example worker and waits for its `ready`.
pub fn start_worker(command: &mut Command) -> Program {
    use std::io::BufRead as _;
    let mut program = Program(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    std::io::BufReader::new(program.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    program
}
