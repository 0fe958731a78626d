//! One worker with the plugin: `worker_start` and `worker_end`, and the hooks that drive the commit
//! protocol. Emits; decides nothing about workflow ends itself.

use super::{
    activity::{self, Staging},
    commit::Commit,
    metrics::Metrics,
    reconcile::{Reconciler, ReconcilerOptions},
    resolve::Resolver,
    server::Server,
    workflow::WorkflowEvents,
};
use crate::{
    context::{Context, WorkerFrame},
    event::{Event, lifecycle},
    record::{Draft, Identity},
    store::{EventStore, Outlet, Place, Receipt},
};
use futures_util::future::LocalBoxFuture;
use serde_json::{Map, Value, json};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use temporalio_common::protos::coresdk::{
    workflow_activation::WorkflowActivation, workflow_completion::WorkflowActivationCompletion,
};
use temporalio_sdk::{
    WorkerOptions, WorkflowContextView,
    error::WorkerRunError,
    interceptors::{
        ActivityInboundInterceptor, ExecuteActivityInput, ExecuteActivityOutput, Next,
        RunWorkerInput, WorkerInterceptor,
    },
    workflow_interceptors::WorkflowInterceptorConstructor,
};
use tokio::sync::watch;
use tracing::warn;

/// How long a worker that stops waits for the server's word on its last ends.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the interceptors of one worker share.
pub(super) struct WorkerEvents {
    store: EventStore,
    server: Arc<Server>,
    resolver: Arc<Resolver>,
    commit: Commit,
    description: Map<String, Value>,
    frame: WorkerFrame,
    reconcile: Option<(ReconcilerOptions, Duration)>,
    metrics: Option<Arc<Metrics>>,
    // As it was told, until the SDK shows it.
    namespace: watch::Sender<Option<Arc<str>>>,
    is_shown: AtomicBool,
    // The frame with what is known only when the worker runs.
    running: OnceLock<WorkerFrame>,
    // The same store's plugin is on this worker twice, and this is the inner one.
    silent: AtomicBool,
}

impl WorkerEvents {
    pub(super) fn new(
        store: &EventStore,
        server: &Arc<Server>,
        namespace: Option<&str>,
        options: &WorkerOptions,
        reconcile: Option<(ReconcilerOptions, Duration)>,
        metrics: Option<Arc<Metrics>>,
    ) -> Self {
        let resolver = Arc::new(Resolver::new(store.clone(), server.clone()));
        let deployment = &options.deployment_options;
        let build_id = Some(deployment.version.build_id.as_str()).filter(|id| !id.is_empty());
        let mut description = Map::new();
        // The names and types of the reference's `worker_start`, as far as a Rust worker knows them.
        for (name, value) in [
            ("version", json!("v1")),
            ("application_name", json!(store.application_name())),
            ("task_queue", json!(options.task_queue)),
            (
                "workflow_count",
                json!(options.workflows().workflow_definitions().count()),
            ),
            ("build_id", json!(build_id)),
            (
                "use_worker_versioning",
                json!(deployment.use_worker_versioning),
            ),
            ("max_cached_workflows", json!(options.max_cached_workflows)),
        ] {
            description.insert(name.to_owned(), value);
        }
        if !deployment.version.deployment_name.is_empty() {
            description.insert(
                "deployment_name".to_owned(),
                json!(deployment.version.deployment_name),
            );
        }
        let frame = WorkerFrame {
            namespace: namespace.map(Into::into),
            task_queue: Some(options.task_queue.as_str().into()),
            worker_identity: options.client_identity_override.as_deref().map(Into::into),
            build_id: build_id.map(Into::into),
            sdk_version: Some(super::SDK_VERSION.into()),
        };
        Self {
            commit: Commit::new(store.clone(), resolver.clone()),
            store: store.clone(),
            server: server.clone(),
            resolver,
            description,
            frame,
            reconcile,
            metrics,
            namespace: watch::Sender::new(namespace.map(Into::into)),
            is_shown: AtomicBool::new(false),
            running: OnceLock::new(),
            silent: AtomicBool::new(false),
        }
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    fn frame(&self) -> &WorkerFrame {
        self.running.get().unwrap_or(&self.frame)
    }

    /// The constructor of this worker's workflow interceptors.
    pub(super) fn workflow_interceptors(self: &Arc<Self>) -> WorkflowInterceptorConstructor {
        let worker = self.clone();
        WorkflowInterceptorConstructor::new(move |view: &WorkflowContextView| {
            let run = (!worker.is_silent()).then(|| {
                worker.runs_in(view.namespace());
                worker.commit.adopt(worker.frame(), view)
            });
            WorkflowEvents::hooked(&worker.store, run)
        })
    }

    /// The SDK shows in which namespace the worker is: that counts, whatever the plugin was told.
    fn runs_in(&self, namespace: &str) {
        if self.is_shown.load(Ordering::Relaxed) || namespace.is_empty() {
            return;
        }
        self.is_shown.store(true, Ordering::Relaxed);
        if self.namespace.borrow().as_deref() != Some(namespace) {
            self.namespace.send_replace(Some(namespace.into()));
        }
    }

    /// Stays beside the worker while it runs: reconciles, and begins anew when its namespace turns out
    /// to be another one than it was `told`.
    async fn attend(
        self: Arc<Self>,
        mut told: Option<Arc<str>>,
        mut namespace: watch::Receiver<Option<Arc<str>>>,
    ) {
        loop {
            let other = async {
                if namespace.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            match told.as_deref().and_then(|told| self.reconciler(told)) {
                Some((reconciler, every)) => reconciler.run(every, other).await,
                None => other.await,
            }
            let Some(shown) = namespace.borrow_and_update().clone() else {
                continue;
            };
            if let Some(told) = &told {
                warn!(
                    told = &**told,
                    namespace = &*shown,
                    "the worker runs in another namespace than the plugin was told: from now on its \
                     own counts. Make each client with ClientOptions::new(namespace), and with a \
                     clone of the plugin"
                );
            }
            self.resolver.recover(&shown);
            told = Some(shown);
        }
    }

    /// Records the store's numbers while the worker runs, if a meter is given.
    fn record_metrics(&self) -> Option<AbortOnDrop> {
        let metrics = self.metrics.clone()?;
        let namespace = self.namespace.borrow().clone();
        let recording = async move { metrics.run(namespace.as_deref()).await };
        Some(AbortOnDrop(tokio::spawn(recording)))
    }

    fn record_metrics_once(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.record(self.namespace.borrow().as_deref());
        }
    }

    /// The reconciler that runs beside the worker, if one is wanted.
    fn reconciler(&self, namespace: &str) -> Option<(Reconciler, Duration)> {
        let (mut options, every) = self.reconcile.clone()?;
        let frame = self.frame();
        if options.task_queue.is_none() && options.filter.is_none() {
            options.task_queue = frame.task_queue.as_deref().map(str::to_owned);
        }
        let reconciler = Reconciler::with_server(
            self.store.clone(),
            self.server.clone(),
            namespace.to_owned(),
            options,
        );
        Some((reconciler, every))
    }

    fn event(&self, context: &Context, event: Event) -> Draft {
        Draft::lifecycle(self.store.rules(), event, context.clone())
    }

    async fn emit_start(&self, context: &Context) {
        let mut data = self.description.clone();
        if let Some(namespace) = &self.frame().namespace {
            data.insert("namespace".to_owned(), json!(&**namespace));
        }
        if let Some((host, port)) = self.server.source().address() {
            data.insert(
                "connection_string".to_owned(),
                json!(format!("{host}:{port}")),
            );
            data.insert("host".to_owned(), json!(host));
            data.insert("port".to_owned(), json!(port.to_string()));
        }
        let start = self.event(context, lifecycle::worker_start(data));
        self.store.commit(vec![start], Vec::new()).await;
    }

    async fn emit_end(
        &self,
        context: &Context,
        started: Instant,
        result: &Result<(), WorkerRunError>,
    ) {
        let mut data = Map::new();
        data.insert(
            "task_queue".to_owned(),
            json!(self.frame().task_queue.as_deref()),
        );
        data.insert(
            "duration_ms".to_owned(),
            json!((started.elapsed().as_secs_f64() * 100_000.0).round() / 100.0),
        );
        data.insert(
            "reason".to_owned(),
            json!(if result.is_ok() { "shutdown" } else { "error" }),
        );
        if let Err(error) = result
            && self.store.keeps_error_messages()
        {
            data.insert("error".to_owned(), json!({ "message": error.to_string() }));
        }
        let end = self.event(context, lifecycle::worker_end(data));
        self.store.commit(vec![end], Vec::new()).await;
    }

    /// What is known now that the worker runs: whose identity it has when nobody set one.
    fn running_frame(&self) -> WorkerFrame {
        let mut frame = self.frame.clone();
        if frame.worker_identity.is_none() && self.server.is_known() {
            // The SDK's own default, `{pid}@{hostname}`, where neither worker nor client has one.
            let identity = self.server.source().identity().unwrap_or_else(|| {
                format!(
                    "{}@{}",
                    std::process::id(),
                    gethostname::gethostname().to_string_lossy()
                )
            });
            frame.worker_identity = Some(identity.into());
        }
        frame
    }
}

/// The interceptors of one worker; see [`WorkerEvents`].
pub(super) struct Hooks(pub(super) Arc<WorkerEvents>);

#[async_trait::async_trait(?Send)]
impl WorkerInterceptor for Hooks {
    fn run_worker<'a>(
        &'a self,
        input: RunWorkerInput<'a>,
        next: Next<'a, RunWorkerInput<'a>, LocalBoxFuture<'a, Result<(), WorkerRunError>>>,
    ) -> LocalBoxFuture<'a, Result<(), WorkerRunError>> {
        let worker = &self.0;
        Box::pin(async move {
            let around = Context::current();
            // The same worker, and not one that runs in an activity of another one.
            let itself = std::ptr::from_ref(&*input.worker) as usize;
            let is_registered_twice = around
                .extension::<Outlet>()
                .and_then(|outlet| outlet.of(&worker.store)?.place.worker())
                .is_some_and(|outer| outer == itself);
            if is_registered_twice {
                warn!(
                    "the event store's plugin is registered twice, on the client and on the worker \
                     or twice on one of them; once is enough, the second is ignored"
                );
                worker.silent.store(true, Ordering::Relaxed);
                return next.run(input).await;
            }
            // A worker runs once, so that the cell is empty here.
            let frame = worker.running.get_or_init(|| worker.running_frame());
            let context = Context::new().push(frame.clone());
            if worker.store.lifecycle().worker {
                worker.emit_start(&context).await;
            }
            let mut namespace = worker.namespace.subscribe();
            let told = namespace.borrow_and_update().clone();
            match &told {
                Some(told) => worker.resolver.recover(told),
                None => warn!(
                    "the event store's plugin knows no namespace: it learns it from the worker's \
                     first task, and only then settles what an earlier worker left, and \
                     reconciles. Register it on the client, or tell it with \
                     EventStorePlugin::namespace"
                ),
            }
            if !worker.server.is_known() {
                warn!(
                    "the event store's plugin knows no connection to ask the server with: a \
                     workflow end whose acknowledgement is lost will stay held. Connect with \
                     Client::connect, or give the plugin a connection"
                );
            }
            let outlet = Outlet::new(&worker.store, Arc::new(WorkerItself(itself)), &around);
            let scope = context.clone().with_extension(outlet);
            let started = Instant::now();
            let recording = worker.record_metrics();
            let attending = AbortOnDrop(tokio::spawn(worker.clone().attend(told, namespace)));
            // Also when the worker is dropped while it runs: its last tasks are settled all the same.
            let stopping = Stopping(worker);
            let watch = worker.commit.watch();
            let running = scope.scope(async move { next.run(input).await });
            let result = tokio::select! {
                biased;
                result = running => result,
                never = watch => match never {},
            };
            drop(attending);
            drop(stopping);
            worker.resolver.idle(SETTLE_TIMEOUT).await;
            if worker.store.lifecycle().worker {
                let mut frame = frame.clone();
                frame.namespace = worker.namespace.borrow().clone();
                let context = Context::new().push(frame);
                worker.emit_end(&context, started, &result).await;
            }
            if let Some(recording) = recording {
                recording.end().await;
                worker.record_metrics_once();
            }
            result
        })
    }

    async fn on_workflow_activation(
        &self,
        activation: &WorkflowActivation,
    ) -> Result<(), anyhow::Error> {
        if !self.0.is_silent() {
            self.0.commit.activation(activation);
        }
        // An error here would end the worker.
        Ok(())
    }

    async fn on_workflow_activation_completion(&self, completion: &WorkflowActivationCompletion) {
        if !self.0.is_silent() {
            self.0.commit.completion(completion).await;
        }
    }
}

/// The worker's own code, as a place to publish from; with the address of that worker.
struct WorkerItself(usize);

impl Place for WorkerItself {
    fn publish(
        &self,
        store: &EventStore,
        _is_own: bool,
        event: Event,
        context: Context,
    ) -> Receipt {
        store.append(Draft::published(
            store.rules(),
            event,
            context.without_extension(),
            Identity::Random,
        ))
    }

    fn worker(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// Settles what a worker leaves, when it stops and when it is dropped.
struct Stopping<'a>(&'a WorkerEvents);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.commit.stopped();
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    /// Ends the task, and waits until it has ended.
    async fn end(mut self) {
        self.0.abort();
        // Its own end is no error here.
        (&mut self.0).await.ok();
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The activity side of a worker; see [`WorkerEvents`].
pub(super) struct ActivityHooks(pub(super) Arc<WorkerEvents>);

impl ActivityInboundInterceptor for ActivityHooks {
    fn execute_activity<'a>(
        &'a self,
        input: ExecuteActivityInput,
        next: Next<'a, ExecuteActivityInput, ExecuteActivityOutput<'a>>,
    ) -> ExecuteActivityOutput<'a> {
        if self.0.is_silent() {
            return next.run(input);
        }
        let info = input.activity_info();
        self.0.runs_in(&info.namespace);
        let commit = &self.0.commit;
        commit.activity_begins(info);
        let staging = match info.workflow_run_id.as_deref() {
            Some(run_id) if info.is_local => {
                commit.run(run_id).map_or(Staging::Forgotten, Staging::With)
            }
            _ => Staging::None(None),
        };
        activity::execute(self.0.store.clone(), self.0.frame(), staging, input, next)
    }
}
