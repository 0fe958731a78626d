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
use std::{fmt, sync::Arc};
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
/// * A crash between the server's acceptance and the journal's next transaction can lose
///   `workflow_end`; the plugin waits for the journal first.
/// * `workflow_end` is released when the server, asked in the background, says that the run is
///   closed; with the plugin no question is needed.
/// * There is no `worker_start` and no `worker_end`, and worker fields are left out of metadata.
/// * What `#[init]` publishes is skipped.
///
/// Do not register these on a `WorkflowReplayer`.
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
pub struct EventInterceptors {
    store: EventStore,
    resolver: Arc<Resolver>,
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
        let on_return = self.on_return();
        WorkflowInterceptorConstructor::new(move |view: &WorkflowContextView| {
            let run = Run::new(&store, &frame(), view, Mode::AtOnce);
            WorkflowEvents::unhooked(&store, Arc::new(run), on_return.clone())
        })
    }

    /// For `WorkerOptions::activity_inbound_interceptor`.
    pub fn activity(&self) -> ActivityEvents {
        ActivityEvents {
            store: self.store.clone(),
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
pub struct ActivityEvents {
    store: EventStore,
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
        activity::execute(self.store.clone(), &frame(), Staging::None, input, next)
    }
}
