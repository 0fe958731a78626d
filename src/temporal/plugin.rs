//! The plugin: one value that installs everything on a client and on the workers made from it.

use super::{
    client::ClientFrames,
    reconcile::ReconcilerOptions,
    server::Server,
    worker::{ActivityHooks, Hooks, WorkerEvents},
};
use crate::store::EventStore;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use temporalio_client::{
    ClientOptions, ClientPlugin, Connection, ConnectionOptions, ErasedClientPlugin, PluginError,
};
use temporalio_sdk::{ClientAndWorkerPlugin, WorkerOptions, WorkerPlugin};

/// The name under which the plugin shows in diagnostics and worker heartbeats.
const NAME: &str = "temporal-eventstore";

/// Installs the crate's interceptors; made by [`EventStore::plugin`].
///
/// Register it once, on the client: every worker made from that client has it, and user frames
/// travel with the client's calls. It can be registered on a worker's options instead, where the
/// client is not yours; then it knows neither namespace nor connection, unless it is told.
///
/// Under `WorkflowReplayer` it does nothing.
///
/// ```no_run
/// # async fn f() -> anyhow::Result<()> {
/// use temporal_eventstore::EventStore;
/// use temporalio_client::{Client, ClientOptions, ConnectionOptions};
///
/// let events = EventStore::from_env().await?;
/// let client = Client::connect(
///     ConnectionOptions::new("http://127.0.0.1:7233".parse::<url::Url>()?).build(),
///     ClientOptions::new("default").plugin(events.plugin()).build(),
/// )
/// .await?;
/// # let _ = client; Ok(()) }
/// ```
#[derive(Clone)]
pub struct EventStorePlugin {
    store: EventStore,
    server: Arc<Server>,
    namespace: Arc<Mutex<Option<String>>>,
    reconcile: Option<(ReconcilerOptions, Duration)>,
}

impl EventStore {
    /// The plugin that makes workers publish to this store.
    pub fn plugin(&self) -> EventStorePlugin {
        EventStorePlugin {
            store: self.clone(),
            server: Arc::new(Server::unknown()),
            namespace: Arc::default(),
            reconcile: None,
        }
    }
}

impl EventStorePlugin {
    /// Tells the plugin the connection with which to ask how a run stands, where it cannot learn it
    /// by itself: with `Client::new` instead of `Client::connect`, or on a worker's options alone.
    ///
    /// The question is asked rarely: when the acknowledgement of a workflow's end is lost, after a
    /// crash, and for each end when `max_cached_workflows` is 0.
    #[must_use]
    pub fn connection(self, connection: &Connection) -> Self {
        self.server.learn_connection(connection.clone());
        self
    }

    /// Tells the plugin the namespace, where it is registered on a worker's options alone.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        self.set_namespace(namespace.into());
        self
    }

    /// Runs a [`Reconciler`](crate::Reconciler) in the background of each worker, every so often. It
    /// looks at the worker's own task queue, unless the options name a queue or have a filter.
    #[must_use]
    pub fn reconcile(mut self, options: ReconcilerOptions, every: Duration) -> Self {
        self.reconcile = Some((options, every));
        self
    }

    fn set_namespace(&self, namespace: String) {
        *self
            .namespace
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(namespace);
    }

    fn known_namespace(&self) -> Option<String> {
        self.namespace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for EventStorePlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStorePlugin")
            .field("store", &self.store)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl ClientPlugin for EventStorePlugin {
    fn name(&self) -> &str {
        NAME
    }

    fn configure_connection_options(
        &self,
        options: &mut ConnectionOptions,
    ) -> Result<(), PluginError> {
        self.server.learn_options(options);
        Ok(())
    }

    fn configure_client_options(&self, options: &mut ClientOptions) -> Result<(), PluginError> {
        self.set_namespace(options.namespace.clone());
        options.client_interceptors.push(Arc::new(ClientFrames));
        Ok(())
    }
}

impl WorkerPlugin for EventStorePlugin {
    fn name(&self) -> &str {
        NAME
    }

    fn configure_worker_options(&self, options: &mut WorkerOptions) -> Result<(), PluginError> {
        if !self.store.is_enabled() {
            return Ok(());
        }
        let worker = Arc::new(WorkerEvents::new(
            &self.store,
            &self.server,
            self.known_namespace().as_deref(),
            options,
            self.reconcile.clone(),
        ));
        options.workflow_interceptor(worker.workflow_interceptors());
        options.activity_inbound_interceptor(ActivityHooks(worker.clone()));
        options.worker_interceptor(Hooks(worker));
        Ok(())
    }

    // `configure_workflow_replayer_options` stays empty: a replay is not an execution.
}

impl From<EventStorePlugin> for ErasedClientPlugin {
    fn from(plugin: EventStorePlugin) -> Self {
        ClientAndWorkerPlugin::new(plugin).into()
    }
}
