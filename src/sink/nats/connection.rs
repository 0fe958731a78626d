//! A connection, and the stream that takes the subject. Knows nothing of events.

use super::{STEP_LIMIT, address::SubjectAddress};
use crate::sink::{SinkError, shared::hosts::LastThatWorked};
use async_nats::{
    AuthError, ConnectOptions, Event, ServerError,
    connection::State,
    jetstream::{self, context::GetStreamByNameErrorKind, response::Response, stream},
};
use serde::Deserialize;
use serde_json::json;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking};
use tracing::info;

/// For how long a stream that the sink creates remembers message ids. The server's own two minutes
/// are short for an outage; each id that is remembered takes memory of the server.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// A connection, and the stream that takes the subject.
pub(super) struct Connection {
    pub(super) context: jetstream::Context,
    /// The stream that is to acknowledge; none where each subject may have its own.
    pub(super) stream: Option<String>,
    objections: Objections,
}

/// A page of names of streams.
#[derive(Deserialize)]
struct Names {
    total: usize,
    streams: Option<Vec<String>>,
}

/// What the server objects to. It says so beside the answers, which then never come.
#[derive(Clone)]
struct Objections(watch::Receiver<Option<String>>);

impl Objections {
    /// Waits for the end of `work`, or until the server objects to it.
    async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        let mut said = self.0.clone();
        let objection = async {
            let said = said.wait_for(Option::is_some).await;
            said.ok().and_then(|text| text.clone())
        };
        tokio::select! {
            biased;
            end = work => end,
            Some(text) = objection => Err(SinkError::new(format!("NATS: {text}"))),
        }
    }
}

impl Connection {
    /// Connects to the first server that works.
    pub(super) async fn open(
        address: &SubjectAddress,
        last: &LastThatWorked,
    ) -> Result<Self, SinkError> {
        last.connect(&address.names, STEP_LIMIT, |index| Self::to(address, index))
            .await
    }

    pub(super) fn is_alive(&self) -> bool {
        self.context.client().connection_state() == State::Connected
    }

    /// Waits for the end of `work`, or until the server objects to it.
    pub(super) async fn unless_it_objects<T>(
        &self,
        work: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        self.objections.or(work).await
    }

    /// The streams that take what is published: the one that acknowledges, or all that take a subject of the pattern.
    pub(super) async fn streams(&self, pattern: &str) -> Result<Vec<String>, SinkError> {
        if let Some(stream) = &self.stream {
            return Ok(vec![stream.clone()]);
        }
        let failed = |error| SinkError::caused_by("NATS JetStream", error);
        let mut names = Vec::new();
        loop {
            let wanted = json!({ "offset": names.len(), "subject": pattern });
            let answer = self.context.request("STREAM.NAMES", &wanted).await;
            let page: Names = match answer.map_err(failed)? {
                Response::Ok(page) => page,
                Response::Err { error } => {
                    return Err(SinkError::caused_by("NATS JetStream", error));
                }
            };
            let more = page.streams.unwrap_or_default();
            let is_last = more.is_empty() || names.len() + more.len() >= page.total;
            names.extend(more);
            if is_last {
                return Ok(names);
            }
        }
    }

    async fn to(address: &SubjectAddress, index: usize) -> Result<Self, SinkError> {
        let server = address
            .servers
            .get(index)
            .cloned()
            .ok_or_else(|| SinkError::new("there is no such server"))?;
        let (say, said) = watch::channel(None);
        let connected = Arc::new(AtomicBool::new(false));
        let credentials = Arc::new(address.credentials.clone());
        // The client would reconnect by itself and send what it still has, though what it sent last
        // may be lost: later events would be stored before earlier ones. So it may connect once, and
        // what was not acknowledged is published again in order on a new connection.
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let again = connected.swap(true, Ordering::Relaxed);
            let credentials = credentials.clone();
            async move {
                match again {
                    true => Err(AuthError::new("the sink connects anew instead")),
                    false => credentials.auth(&nonce).await,
                }
            }
        })
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                say.send_replace(Some(match error {
                    ServerError::Other(text) => text,
                    error => error.to_string(),
                }));
            }
            std::future::ready(())
        })
        .ignore_discovered_servers()
        .max_reconnects(1)
        .name(env!("CARGO_PKG_NAME"))
        .connection_timeout(STEP_LIMIT)
        .request_timeout(Some(STEP_LIMIT))
        .require_tls(address.tls_required);
        let client = with_tls(options, address)
            .await?
            .connect(server)
            .await
            .map_err(|error| SinkError::caused_by("NATS cannot be reached", error))?;
        let mut context = match &address.domain {
            None => jetstream::new(client),
            Some(domain) => jetstream::with_domain(client, domain),
        };
        context.set_timeout(STEP_LIMIT);
        let objections = Objections(said);
        let stream = objections
            .or(find_or_create_stream(address, &context))
            .await?;
        Ok(Self {
            context,
            stream,
            objections,
        })
    }
}

/// Sets how the client speaks TLS.
async fn with_tls(
    options: ConnectOptions,
    address: &SubjectAddress,
) -> Result<ConnectOptions, SinkError> {
    let files = address.tls.files();
    let Some(roots) = &files.roots else {
        return Ok(options.tls_client_config(address.tls.config().await?));
    };
    // The client reads the certificates of this machine beside a configuration, and fails where it cannot. With files
    // of its own it does without; but then it takes the provider of cryptography from the process.
    let machine = spawn_blocking(|| rustls_native_certs::load_native_certs().errors);
    if machine.await.is_ok_and(|errors| errors.is_empty()) {
        return Ok(options.tls_client_config(address.tls.config().await?));
    }
    // An error says that there is one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let options = options.add_root_certificates(roots.clone());
    Ok(match &files.identity {
        None => options,
        Some((certificate, key)) => {
            options.add_client_certificate(certificate.clone(), key.clone())
        }
    })
}

async fn find_or_create_stream(
    address: &SubjectAddress,
    context: &jetstream::Context,
) -> Result<Option<String>, SinkError> {
    let subject = &address.pattern;
    let is_fixed = address.subject.is_fixed();
    let name = match &address.stream {
        Some(name) => name.clone(),
        None => match context.stream_by_subject(subject.as_str()).await {
            Ok(name) => return Ok(is_fixed.then_some(name)),
            Err(error) => match error.kind() {
                GetStreamByNameErrorKind::NotFound => {
                    let parts = subject.split('.').filter(|part| *part != "*");
                    parts.collect::<Vec<_>>().join("_")
                }
                _ => return Err(SinkError::caused_by("NATS JetStream", error)),
            },
        },
    };
    // The stream that is there is taken as it is, whatever its settings.
    let stream = context
        .get_or_create_stream(stream::Config {
            name: name.clone(),
            subjects: vec![subject.clone(), format!("{subject}.>")],
            duplicate_window: DUPLICATE_WINDOW,
            num_replicas: address.replicas,
            ..stream::Config::default()
        })
        .await
        .map_err(|error| {
            let problem = format!("the NATS stream {name} is not there and cannot be created");
            SinkError::caused_by(problem, error)
        })?;
    info!(
        stream = name,
        messages = stream.cached_info().state.messages,
        "publishing to the stream"
    );
    Ok((is_fixed || address.stream.is_some()).then_some(name))
}

/// Whether the server says that no stream takes a subject, as opposed to not answering now: while a stream has no leader,
/// nobody answers either.
pub(super) async fn is_unbound(connection: &Connection, subject: &str) -> bool {
    let asked = connection.context.stream_by_subject(subject).await;
    asked.is_err_and(|error| error.kind() == GetStreamByNameErrorKind::NotFound)
}
