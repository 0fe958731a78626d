//! The plugin: one value that installs the interceptors on a client and on the workers made from it.

use super::{
    metrics::Metrics,
    reconcile::ReconcilerOptions,
    registration::{Registration, Registrations},
    worker::{ActivityHooks, Hooks, WorkerEvents},
};
use crate::store::EventStore;
use std::{fmt, sync::Arc, time::Duration};
use temporalio_client::{
    ClientOptions, ClientPlugin, Connection, ConnectionOptions, ErasedClientPlugin, PluginError,
};
use temporalio_common::telemetry::metrics::CoreMeter;
use temporalio_sdk::{ClientAndWorkerPlugin, WorkerOptions, WorkerPlugin};

/// The name under which the plugin shows in diagnostics and worker heartbeats.
const NAME: &str = "temporal-eventstore";

/// The plugin that makes workers publish their lifecycle to a store. Created by [`EventStore::plugin`].
///
/// Register it once, on the client. Every worker made from that client then has it, and user frames travel with the
/// client's calls.
///
/// If you cannot configure the client, register the plugin on the worker's options. It then knows neither the
/// namespace nor the connection, so set both with [`namespace`](Self::namespace) and [`connection`](Self::connection).
///
/// Each clone is a separate registration. On another client, a clone learns that client's namespace and server. A
/// connection or an API key that is set later, with [`set_connection`](Self::set_connection) or
/// [`set_api_key`](Self::set_api_key), applies to all clones. If your clients are on several servers, create one
/// plugin for each server.
///
/// The plugin does nothing in a `WorkflowReplayer`.
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
#[must_use = "a plugin does nothing until it is given to a client or a worker"]
pub struct EventStorePlugin {
    store: EventStore,
    namespace: Option<String>,
    reconcile: Option<(ReconcilerOptions, Duration)>,
    metrics: Option<Arc<Metrics>>,
    registrations: Arc<Registrations>,
    registration: Arc<Registration>,
}

impl EventStore {
    /// Returns a new plugin that makes workers publish to this store.
    pub fn plugin(&self) -> EventStorePlugin {
        let registrations = Arc::<Registrations>::default();
        EventStorePlugin {
            store: self.clone(),
            namespace: None,
            reconcile: None,
            metrics: None,
            registration: registrations.register(),
            registrations,
        }
    }
}

impl EventStorePlugin {
    /// Sets the connection over which the plugin asks the server about runs. This is needed if the plugin cannot learn
    /// the connection by itself: if the client is created with `Client::new` instead of `Client::connect`, or if the
    /// plugin is registered only on a worker's options. The returned plugin no longer shares later changes with the
    /// plugin that it was cloned from.
    ///
    /// The plugin asks rarely: when the acknowledgement of a workflow's end is lost, after a crash, and for each
    /// end if `max_cached_workflows` is 0.
    pub fn connection(mut self, connection: &Connection) -> Self {
        self.registrations = Arc::new(Registrations::with_connection(connection.clone()));
        self.registration = self.registrations.register();
        self
    }

    /// Sets the namespace, for a plugin that is registered only on a worker's options. If the namespace is missing or
    /// wrong, the plugin learns it from the worker's first task. Until then it does not settle what an earlier worker
    /// left unsettled, and does not reconcile.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the connection over which this plugin and all its clones ask the server from now on. Can be called while
    /// workers run. If you pass the client's own connection, the plugin shares its key and headers, and so follows
    /// [`Connection::set_api_key`].
    ///
    /// If clones are registered on clients of several servers, the call changes nothing and logs a warning.
    pub fn set_connection(&self, connection: &Connection) {
        self.registrations.set_connection(connection);
    }

    /// Sets the API key with which this plugin and all its clones ask the server from now on. Can be called while
    /// workers run. The key applies to the connection that the plugin opens itself after `Client::connect`. A
    /// connection that was passed to [`set_connection`](Self::set_connection) or [`connection`](Self::connection)
    /// keeps its own key.
    ///
    /// If clones are registered on clients of several servers, the call changes nothing and logs a warning.
    pub fn set_api_key(&self, api_key: impl AsRef<str>) {
        self.registrations.set_api_key(api_key.as_ref());
    }

    /// Runs a [`Reconciler`](crate::Reconciler) in the background of each worker, with a pause of `every` between two
    /// passes. It looks at the worker's own task queue, unless the options name a queue or have a filter.
    pub fn reconcile(mut self, options: ReconcilerOptions, every: Duration) -> Self {
        self.reconcile = Some((options, every));
        self
    }

    /// Records the numbers of the store ([`EventStore::stats`]) on a meter, every 5 seconds while a worker runs and once
    /// more when it ends. With the meter of the worker's telemetry, they appear on the Prometheus endpoint or the OTLP
    /// exporter that the worker has already. The names begin with `eventstore_`. The labels are `namespace` and `sink`,
    /// and never a workflow id: `docs/metrics.md` lists them all.
    ///
    /// The numbers are those of the whole store. Pass a meter to one plugin of a store only: its clones share it, and
    /// count once.
    ///
    /// ```
    /// # async fn f(events: temporal_eventstore::EventStore) -> anyhow::Result<()> {
    /// use temporalio_common::telemetry::{PrometheusExporterOptions, start_prometheus_metric_exporter};
    ///
    /// let options = PrometheusExporterOptions::builder().socket_addr("127.0.0.1:9464".parse()?).build();
    /// let exporter = start_prometheus_metric_exporter(options)?;
    /// let plugin = events.plugin().meter(exporter.meter.clone());
    /// // The same meter in the runtime's telemetry options has the SDK's own metrics beside them.
    /// # let _ = plugin; Ok(()) }
    /// ```
    pub fn meter(mut self, meter: Arc<dyn CoreMeter>) -> Self {
        self.metrics = Some(Arc::new(Metrics::new(self.store.clone(), meter)));
        self
    }
}

impl Clone for EventStorePlugin {
    /// Returns a plugin with the same settings that is not registered yet.
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            namespace: self.namespace.clone(),
            reconcile: self.reconcile.clone(),
            metrics: self.metrics.clone(),
            registration: self.registrations.register(),
            registrations: self.registrations.clone(),
        }
    }
}

impl fmt::Debug for EventStorePlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStorePlugin")
            .field("store", &self.store)
            .field("namespace", &self.namespace)
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
        self.registration.connects(options);
        Ok(())
    }

    fn configure_client_options(&self, options: &mut ClientOptions) -> Result<(), PluginError> {
        let frames = self.registration.client(&options.namespace);
        options.client_interceptors.push(frames);
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
        let (server, namespace) = self.registrations.worker(&self.registration);
        let worker = Arc::new(WorkerEvents::new(
            &self.store,
            &server,
            namespace.as_deref().or(self.namespace.as_deref()),
            options,
            self.reconcile.clone(),
            self.metrics.clone(),
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
