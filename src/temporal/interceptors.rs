//! The interceptors one by one, for workers that do without the SDK's `experimental` feature. Without it there is no
//! plugin, and no hook that sees when a workflow task completes.

use super::{
    activity::{self, Staging},
    client::ClientFrames,
    resolve::{Completion, Resolver},
    run::Run,
    server::Server,
    stage::Mode,
    workflow::{OnReturn, WorkflowEvents},
};
use crate::{context::WorkerFrame, event::WorkflowState, store::EventStore};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::SystemTime,
};
use temporalio_client::{Client, ClientInterceptor, NamespacedClient as _};
use temporalio_sdk::{
    WorkflowContextView,
    interceptors::{ActivityInboundInterceptor, ExecuteActivityInput, ExecuteActivityOutput, Next},
    workflow_interceptors::WorkflowInterceptorConstructor,
};

/// The crate's interceptors, to be registered one by one.
///
/// With the cargo feature `plugin` (the default), use [`EventStore::plugin`](crate::EventStore::plugin) instead. It
/// registers everything in one line, and guarantees more. Without the plugin, no hook sees a workflow task before its
/// completion is sent. Therefore:
///
/// * Events of workflow code, and of local activities, go to the journal while the task runs. A task that fails and is
///   executed again publishes the same events with the same ids, and the store keeps each once. But an event that only
///   the failed execution published stays in the store.
/// * `workflow_end` is queued for the journal's log, and a crash before it is written there can lose it. The plugin
///   waits for the log before the completion is sent.
/// * `workflow_end` is stored when the server, asked in the background, says that the run is closed. The plugin rarely
///   has to ask.
/// * There are no `worker_start` and `worker_end` events, and the metadata has no `worker_identity` and no `build_id`.
/// * What `#[init]` publishes is skipped.
///
/// Take the workflow interceptor and the activity interceptor of a worker from the same `EventInterceptors`, since its
/// local activities need information about its runs. Do not register them on a `WorkflowReplayer`.
///
/// ```no_run
/// # use temporal_eventstore::{EventInterceptors, EventStore};
/// # use temporalio_client::{Client, ClientOptions, Connection};
/// # use temporalio_sdk::WorkerOptions;
/// # fn f(events: EventStore, connection: Connection) -> anyhow::Result<()> {
/// let client = Client::new(
///     connection,
///     ClientOptions::new("default")
///         .client_interceptors(vec![EventInterceptors::client()])
///         .build(),
/// )?;
/// let interceptors = EventInterceptors::new(&events, &client);
/// let options = WorkerOptions::new("orders")
///     .workflow_interceptor(interceptors.workflow())
///     .activity_inbound_interceptor(interceptors.activity())
///     .build();
/// # let _ = options; Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "interceptors do nothing until they are given to a worker"]
pub struct EventInterceptors {
    store: EventStore,
    resolver: Arc<Resolver>,
    runs: Arc<Runs>,
}

/// The runs that are in memory, for what their local activities need to know of them.
#[derive(Default)]
struct Runs(Mutex<HashMap<String, Weak<Run>>>);

impl Runs {
    fn add(&self, run: &Arc<Run>) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing here tells when a run is evicted.
        runs.retain(|_, run| run.strong_count() > 0);
        runs.insert(run.run_id().to_owned(), Arc::downgrade(run));
    }

    fn start_time(&self, run_id: &str) -> Option<SystemTime> {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(run_id)?.upgrade()?.start_time()
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").finish_non_exhaustive()
    }
}

impl EventInterceptors {
    /// Creates interceptors that publish to `events`, and ask the server of `client` about the state of runs.
    ///
    /// Also starts a background task that settles the held `workflow_end` events that an earlier process left. Must be
    /// called within a tokio runtime.
    pub fn new(events: &EventStore, client: &Client) -> Self {
        let server = Arc::new(Server::connected(client.connection().clone()));
        let resolver = Arc::new(Resolver::new(events.clone(), server));
        // Here, since no hook tells when a worker starts; the client knows the namespace.
        resolver.recover(&client.namespace());
        Self {
            store: events.clone(),
            resolver,
            runs: Arc::default(),
        }
    }

    /// Returns the interceptor for `ClientOptions::client_interceptors`. With it, user frames travel with every start,
    /// signal and update that the client sends.
    pub fn client() -> Arc<dyn ClientInterceptor> {
        Arc::new(ClientFrames)
    }

    /// Returns the interceptor for `WorkerOptions::workflow_interceptor`.
    pub fn workflow(&self) -> WorkflowInterceptorConstructor {
        let store = self.store.clone();
        let runs = self.runs.clone();
        let on_return = self.on_return();
        WorkflowInterceptorConstructor::new(move |view: &WorkflowContextView| {
            let run = Arc::new(Run::new(&store, &frame(), view, Mode::AtOnce));
            runs.add(&run);
            WorkflowEvents::unhooked(&store, run, on_return.clone())
        })
    }

    /// Returns the interceptor for `WorkerOptions::activity_inbound_interceptor`.
    pub fn activity(&self) -> ActivityEvents {
        ActivityEvents {
            store: self.store.clone(),
            runs: self.runs.clone(),
        }
    }

    /// Holds the end when workflow code returns, and settles it when the server says how the run
    /// stands.
    fn on_return(&self) -> OnReturn {
        let store = self.store.clone();
        let resolver = self.resolver.clone();
        Arc::new(move |run: &Run, state: WorkflowState| {
            if !store.is_enabled() || !store.lifecycle().workflow {
                return;
            }
            let end = run.end(state.clone());
            store.hold_without_waiting(run.hold(Some(state), vec![end]));
            let held = run.take_held().into_iter();
            let held = held.map(|it| (it.held, it.claim)).collect();
            resolver.resolve(held, Completion::OnItsWay);
        })
    }
}

/// What is known of the worker without a plugin.
fn frame() -> WorkerFrame {
    WorkerFrame {
        sdk_version: Some(super::SDK_VERSION.into()),
        ..WorkerFrame::default()
    }
}

/// The activity interceptor that [`EventInterceptors::activity`] returns.
#[derive(Clone)]
#[must_use = "an interceptor does nothing until it is given to a worker"]
pub struct ActivityEvents {
    store: EventStore,
    runs: Arc<Runs>,
}

impl fmt::Debug for ActivityEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivityEvents").finish_non_exhaustive()
    }
}

impl ActivityInboundInterceptor for ActivityEvents {
    fn execute_activity<'a>(
        &'a self,
        input: ExecuteActivityInput,
        next: Next<'a, ExecuteActivityInput, ExecuteActivityOutput<'a>>,
    ) -> ExecuteActivityOutput<'a> {
        if !self.store.is_enabled() {
            return next.run(input);
        }
        let info = input.activity_info();
        let run = info.workflow_run_id.as_deref().filter(|_| info.is_local);
        let staging = Staging::None(run.and_then(|run_id| self.runs.start_time(run_id)));
        activity::execute(self.store.clone(), &frame(), staging, input, next)
    }
}
