//! Where a plugin is registered: what the SDK shows of the clients that one registration is on, and what
//! follows from it for a worker. Knows nothing of what workers do.

use super::{client::ClientFrames, server::Server};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use temporalio_client::{Connection, ConnectionOptions};
use tracing::warn;
use url::Url;

/// How many servers are remembered that were tried for one client.
const TRIED: usize = 8;

/// One place that the plugin is put on: the options of a client, or of a worker.
#[derive(Default)]
pub(super) struct Registration {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    // To these the SDK connected, or tried to, for the client that is made next.
    tried: Vec<ConnectionOptions>,
    clients: Vec<SeenClient>,
    workers: Vec<Weak<Server>>,
}

struct SeenClient {
    // An interceptor lives as long as its client and the workers that are made from it.
    alive: Weak<ClientFrames>,
    namespace: String,
    options: Option<ConnectionOptions>,
    // One of several that were tried.
    is_guess: bool,
}

impl Registration {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The SDK is about to connect, for a client.
    pub(super) fn connects(&self, options: &ConnectionOptions) {
        let mut seen = self.seen();
        seen.tried.retain(|tried| tried.target != options.target);
        if seen.tried.len() >= TRIED {
            seen.tried.remove(0);
        }
        seen.tried.push(options.clone());
    }

    /// The SDK makes a client; the interceptor is to be part of it.
    pub(super) fn client(&self, namespace: &str) -> Arc<ClientFrames> {
        let frames = Arc::new(ClientFrames);
        let mut seen = self.seen();
        seen.clients.retain(SeenClient::is_alive);
        let tried = std::mem::take(&mut seen.tried);
        seen.clients.push(SeenClient {
            alive: Arc::downgrade(&frames),
            namespace: namespace.to_owned(),
            is_guess: tried.len() > 1,
            // The last one is it, unless several clients connect at the same time.
            options: tried.into_iter().next_back(),
        });
        frames
    }

    /// What is known of a worker that is being made; `others` is for clients whose connection the SDK
    /// does not show. Says what is not known.
    fn worker(&self, others: Option<ConnectionOptions>) -> WorkerPlace {
        let mut seen = self.seen();
        seen.clients.retain(SeenClient::is_alive);
        seen.workers.retain(|server| server.strong_count() > 0);
        let alive = || seen.clients.iter().filter(|client| client.is_alive());
        let newest = alive().rev().find_map(|client| client.options.as_ref());
        let is_one_server = alive().count() < 2
            || alive().all(|client| {
                !client.is_guess
                    && client
                        .target()
                        .is_none_or(|target| newest.is_some_and(|newest| newest.target == *target))
            });
        let mut namespaces: Vec<_> = alive().map(|client| client.namespace.clone()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        let options = newest.cloned().or(others).filter(|_| is_one_server);
        let server = Arc::new(Server::of(options));
        seen.workers.push(Arc::downgrade(&server));
        drop(seen);
        if !is_one_server {
            warn!(
                "one registration of the event store's plugin is on clients of several servers: \
                 it cannot tell which one a worker belongs to and asks none, so that workflow ends \
                 whose fate is unclear stay held; give each client a plugin of its own (a clone \
                 on options of its own)"
            );
        }
        if namespaces.len() > 1 {
            warn!(
                ?namespaces,
                "one registration of the event store's plugin is on clients of several namespaces: \
                 a worker learns its own from its first task, and only then settles what an earlier \
                 one left, and reconciles; give each client a plugin of its own (a clone on options \
                 of its own)"
            );
            namespaces.clear();
        }
        WorkerPlace {
            server,
            namespace: namespaces.pop(),
            is_one_server,
        }
    }

    /// Namespaces of the clients that are there, and how they connected.
    fn connected(&self) -> Vec<(String, ConnectionOptions)> {
        let seen = self.seen();
        let alive = seen.clients.iter().filter(|client| client.is_alive());
        alive
            .filter_map(|client| Some((client.namespace.clone(), client.options.clone()?)))
            .collect()
    }

    fn workers(&self) -> Vec<Arc<Server>> {
        self.seen()
            .workers
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    fn set_api_key(&self, api_key: &str) {
        for options in self
            .seen()
            .clients
            .iter_mut()
            .filter_map(|client| client.options.as_mut())
        {
            options.api_key = Some(api_key.to_owned());
        }
        // A worker that is being made took the key from there, or is among these.
        for server in self.workers() {
            server.source().set_api_key(api_key);
        }
    }
}

/// Where a worker is, as far as its registration tells.
struct WorkerPlace {
    server: Arc<Server>,
    namespace: Option<String>,
    is_one_server: bool,
}

impl SeenClient {
    fn is_alive(&self) -> bool {
        self.alive.strong_count() > 0
    }

    fn target(&self) -> Option<&Url> {
        self.options.as_ref().map(|options| &options.target)
    }
}

/// What the clones of one plugin share: where they are registered, and the connection that was given to
/// them.
#[derive(Default)]
pub(super) struct Registrations {
    connection: Mutex<Option<Connection>>,
    all: Mutex<Vec<Weak<Registration>>>,
}

impl Registrations {
    pub(super) fn with_connection(connection: Connection) -> Self {
        Self {
            connection: Mutex::new(Some(connection)),
            all: Mutex::default(),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Registration>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// A new registration, of which nothing is known.
    pub(super) fn register(&self) -> Arc<Registration> {
        let registration = Arc::new(Registration::default());
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|registration| registration.strong_count() > 0);
        all.push(Arc::downgrade(&registration));
        registration
    }

    /// What is known of a worker that is being made with `registration`.
    pub(super) fn worker(&self, registration: &Registration) -> (Arc<Server>, Option<String>) {
        let WorkerPlace {
            server,
            namespace,
            is_one_server,
        } = registration.worker(self.only_server());
        // `set_connection` reaches it from here on, so that none is missed.
        let given = self.connection().clone().filter(|_| is_one_server);
        if let Some(connection) = given {
            server.source().give(connection);
        }
        if let Some(namespace) = &namespace {
            self.say_if_ambiguous(namespace);
        }
        (server, namespace)
    }

    /// Ends are held, and the reconciler's place is kept, by the name of the namespace alone.
    fn say_if_ambiguous(&self, namespace: &str) {
        let servers = self.servers(|of| of == namespace);
        if servers.len() > 1 {
            warn!(
                namespace,
                "one event store has workers of a namespace of the same name on several servers: \
                 what a worker leaves unconfirmed may be asked of the other server, and stays held; \
                 use a store of its own for each server"
            );
        }
    }

    fn connected(&self) -> Vec<(String, ConnectionOptions)> {
        self.all().iter().flat_map(|it| it.connected()).collect()
    }

    fn servers(&self, is_asked_for: impl Fn(&str) -> bool) -> Vec<Url> {
        let connected = self.connected().into_iter();
        let mut servers: Vec<Url> = connected
            .filter(|(namespace, _)| is_asked_for(namespace))
            .map(|(_, options)| options.target)
            .collect();
        servers.sort_unstable();
        servers.dedup();
        servers
    }

    /// How the clients connected, if all of them are on one server.
    fn only_server(&self) -> Option<ConnectionOptions> {
        let mut connected = self.connected();
        let (_, newest) = connected.pop()?;
        connected
            .iter()
            .all(|(_, options)| options.target == newest.target)
            .then_some(newest)
    }

    /// Whether what is given now is for one server. A connection says nothing of where it leads to, and a
    /// key is not to be shown to another server.
    fn is_for_one_server(&self, what: &str) -> bool {
        let is_one = self.servers(|_| true).len() < 2;
        if !is_one {
            warn!(
                "the event store's plugin is on clients of several servers and cannot tell for \
                 which of them the {what} is: nothing is changed. Make a plugin for each server \
                 with EventStore::plugin, and keep it"
            );
        }
        is_one
    }

    pub(super) fn set_connection(&self, connection: &Connection) {
        if !self.is_for_one_server("connection") {
            return;
        }
        // What is dropped is dropped when the lock is free: it is the SDK's code that runs then.
        let earlier = self.connection().replace(connection.clone());
        drop(earlier);
        for server in self.all().iter().flat_map(|it| it.workers()) {
            server.source().give(connection.clone());
        }
    }

    pub(super) fn set_api_key(&self, api_key: &str) {
        if !self.is_for_one_server("key") {
            return;
        }
        for registration in self.all() {
            registration.set_api_key(api_key);
        }
    }
}
