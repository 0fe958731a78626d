//! The interceptors one by one, for workers that do without the SDK's `experimental` feature: no
//! plugin, and no hook that sees a workflow task complete. Knows how to do without it.

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

/// The crate's interceptors, to be registered by hand.
///
/// With the cargo feature `plugin` (the default) use
/// [`EventStore::plugin`](crate::EventStore::plugin) instead: it registers everything in one line and
/// guarantees more. What is lost here, since no hook sees a workflow task before it is sent:
///
/// * Events of workflow code go to the journal while the task runs. A task that fails and is
///   executed again publishes the same events with the same ids, which the store keeps once; but an
///   event that only the failed execution published stays.
/// * `workflow_end` is queued for the journal's log, and a crash before it is written there can lose it; the
///   plugin waits for the log before the server is told.
/// * `workflow_end` is released when the server, asked in the background, says that the run is
///   closed; the plugin rarely has to ask.
/// * There is no `worker_start` and no `worker_end`, and worker fields are left out of metadata.
/// * What `#[init]` publishes is skipped.
///
/// Take both interceptors of a worker from one value: its local activities need to know of its runs. Do not
/// register them on a `WorkflowReplayer`.
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
    /// Interceptors that publish to `events` and ask the server behind `client` how runs stand.
    /// Settles, in the background, the ends that an earlier process left; call it within a tokio
    /// runtime.
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

    /// For `ClientOptions::client_interceptors`: user frames travel with every start, signal and
    /// update.
    pub fn client() -> Arc<dyn ClientInterceptor> {
        Arc::new(ClientFrames)
    }

    /// For `WorkerOptions::workflow_interceptor`.
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

    /// For `WorkerOptions::activity_inbound_interceptor`.
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

/// The activity interceptor of [`EventInterceptors`].
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
