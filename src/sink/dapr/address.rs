//! What a Dapr URL names. Knows neither events nor the sidecar's API.

use super::API_TOKEN;
use crate::sink::{
    SinkUrlError,
    shared::{
        address::Address,
        auth::{AUTH, secret::Secret},
        encoding::Encoding,
        http_client::{REQUEST_TIMEOUT, request_timeout},
        route::{MAX_TARGETS, Route},
    },
};
use std::time::Duration;
use url::Url;

/// What is allowed, for error messages.
const ALLOWED: &str = "`dapr://HOST[:PORT]/PUBSUB/TOPIC` or `dapr+binding://HOST[:PORT]/NAME`, with \
     the parameters `max_bytes` (of an event, from 1000), `timeout` (up to `15s`), `token_file` (with the \
     sidecar's token) and, of a binding, `eventstore.auth` (the name of credentials, or `none`); the topic may have \
     fields of the event in it (`{topic_name}`), with `max_targets`";
/// What `max_bytes` must leave for an event.
const LEAST_MAX_BYTES: usize = 1000;
/// Where a sidecar listens unless told otherwise.
const DEFAULT_PORT: u16 = 3500;

/// What events are handed to.
#[derive(Debug)]
pub(super) enum Component {
    PubSub { name: String, topic: Route },
    Binding { name: String },
}

impl Component {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::PubSub { name, .. } | Self::Binding { name } => name,
        }
    }

    /// What the types of such components begin with.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::PubSub { .. } => "pubsub.",
            Self::Binding { .. } => "bindings.",
        }
    }
}

/// A component, and how it is reached.
pub(super) struct ComponentAddress {
    pub(super) component: Component,
    pub(super) sidecar: Url,
    pub(super) timeout: Duration,
    pub(super) max_bytes: Option<usize>,
    /// A file with the sidecar's token.
    pub(super) token: Option<Secret>,
    /// The name of the credentials.
    pub(super) auth: Option<String>,
    address: Address,
}

impl ComponentAddress {
    /// Reads a `dapr:` or `dapr+binding:` URL.
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        let address = Address::parse(url, ALLOWED)?;
        if address.user()?.is_some() || address.password()?.is_some() {
            return Err(address.wrong(format!(
                "it holds a user name or password; the sidecar's token is read from {API_TOKEN}, or from a `token_file`"
            )));
        }
        let parameters = address.parameters(match address.scheme() {
            "dapr+binding" => &["max_bytes", "timeout", "token_file", AUTH],
            _ => &["max_bytes", "timeout", "token_file", MAX_TARGETS],
        })?;
        let auth = parameters.text(AUTH).map(str::to_owned);
        let max_bytes = match parameters.text("max_bytes").map(str::parse::<usize>) {
            None => None,
            Some(Ok(most)) if most >= LEAST_MAX_BYTES => Some(most),
            Some(_) => return Err(address.wrong("`max_bytes` is no whole number from 1000")),
        };
        let timeout = match parameters.text("timeout") {
            Some(text) => request_timeout(text).map_err(|reason| address.wrong(reason))?,
            None => REQUEST_TIMEOUT,
        };
        let token = parameters
            .text("token_file")
            .map(Secret::in_file)
            .transpose()
            .map_err(|reason| address.wrong(reason))?;
        let path = address.path()?;
        if path
            .iter()
            .any(|segment| matches!(segment.as_str(), "" | "." | ".."))
        {
            return Err(address.wrong("its path has an empty part, or one of dots"));
        }
        let component = match (address.scheme(), path.as_slice()) {
            ("dapr+binding", [name]) => Component::Binding { name: name.clone() },
            ("dapr+binding", _) => return Err(address.wrong("it does not name one binding")),
            // A topic of some brokers has slashes.
            (_, [name, topic @ ..]) if !topic.is_empty() => Component::PubSub {
                name: name.clone(),
                topic: Route::bounded(
                    &topic.join("/"),
                    Encoding::TOPIC,
                    (&address, &parameters),
                    "topics",
                )?,
            },
            _ => return Err(address.wrong("it does not name a pub/sub component and a topic")),
        };
        let sidecar = Url::parse(&format!(
            "http://{}:{}",
            address.authority(),
            address.port_or(DEFAULT_PORT)
        ))
        .map_err(|error| address.wrong(error.to_string()))?;
        Ok(Self {
            component,
            sidecar,
            timeout,
            max_bytes,
            token,
            auth,
            address,
        })
    }

    /// An error about this URL.
    pub(super) fn wrong(&self, reason: impl Into<String>) -> SinkUrlError {
        self.address.wrong(reason)
    }

    /// The sink's name.
    pub(super) fn sink_name(&self) -> String {
        match &self.component {
            Component::PubSub { name, topic } => format!("dapr {name} {}", topic.shown()),
            Component::Binding { name } => format!("dapr binding {name}"),
        }
    }
}
