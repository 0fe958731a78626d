//! One plugin in several places: each client and each worker it is put on has its own namespace and its
//! own way to the server, and what cannot be known is said.

use crate::support::{
    self, Ground, dev_server::DevServer, log::Log, outcome, start, until, with_example_worker,
    with_worker, workflows,
};
use std::{sync::Arc, time::Duration};
use temporal_eventstore::{EventStore, EventStorePlugin, ReconcilerOptions};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, WorkflowTerminateOptions,
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, ClientAndWorkerPlugin, Runtime, Worker, WorkerOptions, WorkflowContext,
    WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

const TIMEOUT: Duration = Duration::from_secs(5);
const BOTH: [&str; 2] = ["default", "second"];

/// A server with the namespaces `default` and `second`.
async fn two_namespaces() -> Ground {
    Ground::with_lasting_server_and(&["--namespace", "second"]).await
}

fn reconciling(plugin: EventStorePlugin) -> EventStorePlugin {
    let options = ReconcilerOptions::builder()
        .grace(Duration::ZERO)
        .requests_per_second(500)
        .build();
    plugin.reconcile(options, Duration::from_secs(2))
}

async fn client_of(ground: &Ground, namespace: &str, plugin: EventStorePlugin) -> Client {
    ground
        .connect(ClientOptions::new(namespace).plugin(plugin).build())
        .await
}

/// Three runs that nobody but the reconciler can see the end of.
async fn terminate_three(client: &Client) {
    for number in 0..3 {
        let run = client
            .start_workflow(
                workflows::Wait::run,
                (),
                start(&format!("terminated-{number}")),
            )
            .await
            .unwrap();
        run.terminate(WorkflowTerminateOptions::default())
            .await
            .unwrap();
    }
}

fn ends(ground: &Ground, namespace: &str, state: &str) -> usize {
    ground
        .events()
        .iter()
        .filter(|row| {
            row.event_name == "workflow_end"
                && row.workflow_state.as_deref() == Some(state)
                && row.metadata("namespace").as_str() == Some(namespace)
        })
        .count()
}

async fn terminated_are_found(ground: &Ground) {
    for namespace in BOTH {
        until(&format!("the terminated runs of {namespace}"), || {
            ends(ground, namespace, "terminated") == 3
        })
        .await;
    }
}

/// Workers that do not keep a workflow in memory: each end is asked for.
fn without_cache() -> WorkerOptions {
    workflows::worker_options("orders", 0).unwrap()
}

/// Leaves one end of each namespace held: its worker knew nobody to ask.
async fn leave_ends_held(ground: &Ground, namespaces: &[&str]) {
    let events = ground.store().await;
    for namespace in namespaces {
        let client = ground.connect(ClientOptions::new(*namespace).build()).await;
        let options = with_plugin(without_cache(), &events.plugin());
        with_worker(&client, options, async {
            outcome(&client, workflows::Noop::run, (), "left")
                .await
                .unwrap();
        })
        .await;
    }
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(events.stats().held, namespaces.len() as u64);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// The same options with the plugin on them.
fn with_plugin(options: WorkerOptions, plugin: &EventStorePlugin) -> WorkerOptions {
    WorkerOptions::new(options.task_queue.clone())
        .max_cached_workflows(options.max_cached_workflows)
        .register_activities(workflows::Orders)
        .register_workflow::<workflows::Noop>()
        .unwrap()
        .register_workflow::<workflows::Wait>()
        .unwrap()
        .worker_plugin(plugin.clone())
        .build()
}

#[tokio::test]
async fn clones_on_two_clients_serve_both_namespaces() {
    let ground = two_namespaces().await;
    leave_ends_held(&ground, &BOTH).await;
    let events = ground.store().await;
    let plugin = reconciling(events.plugin());
    let first = client_of(&ground, "default", plugin.clone()).await;
    let second = client_of(&ground, "second", plugin.clone()).await;
    terminate_three(&first).await;
    terminate_three(&second).await;
    with_example_worker(
        &first,
        with_example_worker(&second, async {
            until("what was left is settled", || events.stats().held == 0).await;
            terminated_are_found(&ground).await;
        }),
    )
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    for namespace in BOTH {
        assert_eq!(ends(&ground, namespace, "completed"), 1, "{namespace}");
    }
}

#[tokio::test]
async fn clones_on_clients_of_two_servers_ask_each_its_own() {
    let ground = Ground::new().await;
    let other = DevServer::start().await.unwrap();
    let events = ground.store().await;
    let plugin = events.plugin();
    let first = client_of(&ground, "default", plugin.clone()).await;
    let second = Client::connect(
        ConnectionOptions::new(other.url().unwrap()).build(),
        ClientOptions::new("default").plugin(plugin).build(),
    )
    .await
    .unwrap();
    with_worker(
        &first,
        without_cache(),
        with_worker(&second, without_cache(), async {
            for client in [&first, &second] {
                outcome(client, workflows::Noop::run, (), "noop")
                    .await
                    .unwrap();
            }
            until("both ends are settled", || {
                ends(&ground, "default", "completed") == 2
            })
            .await;
        }),
    )
    .await;
    assert_eq!(events.stats().held, 0);
    events.shutdown(TIMEOUT).await.unwrap();
}

/// The options hold one registration, which the SDK hands to both clients.
#[tokio::test]
async fn one_client_options_value_serves_two_namespaces() {
    let ground = two_namespaces().await;
    leave_ends_held(&ground, &BOTH).await;
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let options = ClientOptions::new("default")
        .plugin(reconciling(events.plugin()))
        .build();
    let mut of_second = options.clone();
    of_second.namespace = "second".to_owned();
    let first = ground.connect(options).await;
    let second = ground.connect(of_second).await;
    terminate_three(&first).await;
    terminate_three(&second).await;
    with_example_worker(
        &first,
        with_example_worker(&second, async {
            // Each worker learns its namespace from the first thing that it does.
            for client in [&first, &second] {
                outcome(client, workflows::Noop::run, (), "noop")
                    .await
                    .unwrap();
            }
            until("what was left is settled", || events.stats().held == 0).await;
            terminated_are_found(&ground).await;
        }),
    )
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert!(log.says("give each client a plugin of its own"), "{log}");
}

#[tokio::test]
async fn one_client_options_value_for_two_servers_is_said_and_asks_neither() {
    let ground = Ground::new().await;
    let other = DevServer::start().await.unwrap();
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let options = ClientOptions::new("default")
        .plugin(events.plugin())
        .build();
    let first = ground.connect(options.clone()).await;
    let second = Client::connect(
        ConnectionOptions::new(other.url().unwrap()).build(),
        options,
    )
    .await
    .unwrap();
    with_worker(
        &first,
        without_cache(),
        with_worker(&second, without_cache(), async {
            for client in [&first, &second] {
                outcome(client, workflows::Noop::run, (), "noop")
                    .await
                    .unwrap();
            }
        }),
    )
    .await;
    assert!(log.says("clients of several servers"), "{log}");
    assert!(!log.says("does not know the run"), "{log}");
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(events.stats().held, 2);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn options_that_connect_again_elsewhere_serve_the_client_that_is_left() {
    let ground = Ground::new().await;
    let other = DevServer::start().await.unwrap();
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let options = ClientOptions::new("default")
        .plugin(events.plugin())
        .build();
    drop(
        Client::connect(
            ConnectionOptions::new(other.url().unwrap()).build(),
            options.clone(),
        )
        .await
        .unwrap(),
    );
    let nobody = ConnectionOptions::new("http://127.0.0.1:1".parse::<url::Url>().unwrap());
    assert!(
        Client::connect(nobody.build(), options.clone())
            .await
            .is_err()
    );
    let client = ground.connect(options).await;
    with_worker(&client, without_cache(), async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
        until("the end is settled", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "default", "completed"), 1);
    assert_eq!(log.to_string(), "");
}

/// The plugin is not told of a client that is made of another one's options.
#[tokio::test]
async fn a_namespace_that_turns_out_to_be_another_one_is_corrected() {
    let ground = two_namespaces().await;
    leave_ends_held(&ground, &["second"]).await;
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let client = client_of(&ground, "default", reconciling(events.plugin())).await;
    let mut options = client.options().clone();
    options.namespace = "second".to_owned();
    let second = Client::new(client.connection().clone(), options).unwrap();
    terminate_three(&second).await;
    with_example_worker(&second, async {
        outcome(&second, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
        until("what was left is settled", || events.stats().held == 0).await;
        until("the terminated runs", || {
            ends(&ground, "second", "terminated") == 3
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert!(
        log.says("another namespace than the plugin was told"),
        "{log}"
    );
    let last = ground.events().pop().unwrap();
    assert_eq!(last.event_name, "worker_end");
    assert_eq!(last.metadata("namespace"), "second");
}

#[tokio::test]
async fn on_worker_options_alone_the_namespace_is_learned() {
    let ground = two_namespaces().await;
    leave_ends_held(&ground, &["second"]).await;
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let client = ground.connect(ClientOptions::new("second").build()).await;
    let plugin = reconciling(events.plugin()).connection(client.connection());
    terminate_three(&client).await;
    let options = with_plugin(without_cache(), &plugin);
    with_worker(&client, options, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
        until("what was left is settled", || events.stats().held == 0).await;
        until("the terminated runs", || {
            ends(&ground, "second", "terminated") == 3
        })
        .await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert!(log.says("EventStorePlugin::namespace"), "{log}");
}

/// The SDK's wrapper shares one plugin value between clients and workers.
#[tokio::test]
async fn the_sdks_wrapper_on_two_clients_serves_both_namespaces() {
    let ground = two_namespaces().await;
    let events = ground.store().await;
    let plugin = ClientAndWorkerPlugin::new(reconciling(events.plugin()));
    let [first, second] = futures::future::join_all(BOTH.map(|namespace| {
        ground.connect(ClientOptions::new(namespace).plugin(plugin.clone()).build())
    }))
    .await
    .try_into()
    .unwrap();
    terminate_three(&first).await;
    terminate_three(&second).await;
    with_example_worker(
        &first,
        with_example_worker(&second, async {
            for client in [&first, &second] {
                outcome(client, workflows::Noop::run, (), "noop")
                    .await
                    .unwrap();
            }
            terminated_are_found(&ground).await;
        }),
    )
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
}

/// The SDK does not show the plugin a connection that a client is made with.
#[tokio::test]
async fn a_client_on_the_connection_of_another_one_asks_the_same_server() {
    let ground = two_namespaces().await;
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let plugin = events.plugin();
    let first = client_of(&ground, "default", plugin.clone()).await;
    let options = ClientOptions::new("second").plugin(plugin.clone()).build();
    let second = Client::new(first.connection().clone(), options).unwrap();
    with_worker(&second, without_cache(), async {
        outcome(&second, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
        until("the end is settled", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "second", "completed"), 1);
    assert_eq!(log.to_string(), "");
}

#[tokio::test]
async fn a_worker_asks_the_server_of_the_client_that_has_a_clone() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let plugin = events.plugin();
    let client = ground
        .connect(
            ClientOptions::new("default")
                .client_plugin(plugin.clone())
                .build(),
        )
        .await;
    let options = with_plugin(without_cache(), &plugin);
    with_worker(&client, options, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
        until("the end is settled", || events.stats().held == 0).await;
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "default", "completed"), 1);
}

/// An activity that runs another worker, with the plugin of the same store.
struct Nesting {
    inner: Client,
}

#[activities]
impl Nesting {
    #[activity]
    async fn run_worker(
        self: Arc<Self>,
        _ctx: ActivityContext,
        _input: (),
    ) -> Result<(), ActivityError> {
        // A worker's future is not `Send`, and its own thread has the context that was carried there.
        let inner = self.inner.clone();
        let work = temporal_eventstore::context::carry(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let options = WorkerOptions::new("inner")
                    .register_activities(workflows::Orders)
                    .register_workflow::<workflows::Noop>()
                    .unwrap()
                    .build();
                with_worker(&inner, options, async {
                    let options =
                        temporalio_client::WorkflowStartOptions::new("inner", "inner").build();
                    inner
                        .start_workflow(workflows::Noop::run, (), options)
                        .await
                        .unwrap()
                        .get_result(Default::default())
                        .await
                        .unwrap();
                })
                .await;
            });
        });
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| anyhow::anyhow!(error))?;
        Ok(())
    }
}

#[workflow]
#[derive(Default)]
struct Outer;

#[workflow_methods]
impl Outer {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(30)).build();
        ctx.execute_activity(Nesting::run_worker, (), options)
            .await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_worker_inside_of_another_ones_activity_has_its_own_events() {
    let ground = Ground::new().await;
    let (log, _guard) = Log::capture();
    let events: EventStore = ground.store().await;
    let client = ground.client_with(&events).await;
    let inner = ground.client_with(&events).await;
    let options = WorkerOptions::new("orders")
        .register_activities(Nesting { inner })
        .register_workflow::<Outer>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        outcome(&client, Outer::run, (), "outer").await.unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    assert_eq!(
        support::lifecycle(&rows, "inner"),
        [
            "workflow_start running",
            "activity_start Orders::noop 1",
            "activity_end Orders::noop 1 completed",
            "workflow_end completed",
        ],
        "{log}"
    );
    let workers: Vec<_> = rows
        .iter()
        .filter(|row| row.event_name.starts_with("worker_"))
        .map(|row| {
            // The inner worker is no part of the activity that runs it.
            assert_eq!(row.workflow_id, None);
            let queue = row.metadata("task_queue").as_str().unwrap_or_default();
            format!("{} {queue}", row.event_name)
        })
        .collect();
    assert_eq!(
        workers,
        [
            "worker_start orders",
            "worker_start inner",
            "worker_end inner",
            "worker_end orders",
        ]
    );
}

#[tokio::test]
async fn registered_twice_around_another_stores_plugin_it_works_once() {
    let ground = Ground::new().await;
    let (log, _guard) = Log::capture();
    let events = ground.store().await;
    let other = EventStore::builder()
        .application_name("other")
        .store("memory:")
        .build()
        .await
        .unwrap();
    let client = ground.client_with(&events).await;
    let options = WorkerOptions::new("orders")
        .register_activities(workflows::Orders)
        .register_workflow::<workflows::Noop>()
        .unwrap()
        .worker_plugin(other.plugin())
        .worker_plugin(events.plugin())
        .build();
    with_worker(&client, options, async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
    })
    .await;
    assert!(log.says("registered twice"), "{log}");
    events.flush(TIMEOUT).await.unwrap();
    let stats = events.stats();
    assert_eq!((stats.written, stats.duplicates), (6, 0));
    events.shutdown(TIMEOUT).await.unwrap();
    other.shutdown(TIMEOUT).await.unwrap();
}

/// `Worker` and `Connection` are what a program has at hand that makes its client itself.
#[tokio::test]
async fn a_worker_that_starts_before_the_connection_is_given_is_reached() {
    let ground = Ground::new().await;
    let events = ground.store().await;
    let plugin = events.plugin();
    let connection =
        Connection::connect(ConnectionOptions::new(ground.server.url().unwrap()).build())
            .await
            .unwrap();
    let options = ClientOptions::new("default").plugin(plugin.clone()).build();
    let client = Client::new(connection.clone(), options).unwrap();
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut worker = Worker::new(&runtime, client.clone(), without_cache()).unwrap();
    plugin.set_connection(&connection);
    let stop = worker.shutdown_handle();
    tokio::try_join!(worker.run(), async {
        outcome(&client, workflows::Noop::run, (), "noop")
            .await
            .unwrap();
        until("the end is settled", || events.stats().held == 0).await;
        stop();
        Ok(())
    })
    .unwrap();
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(ends(&ground, "default", "completed"), 1);
}
