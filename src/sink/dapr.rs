//! A Dapr sidecar over its HTTP API: a topic of a pub/sub component, or an output binding.
//! Documented in `docs/sinks/dapr.md`.

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    address::Address,
    attributes::Attributes,
    auth::{self, AuthHeader, AuthProvider},
    http_client::{
        Answer, HttpClient, REQUEST_TIMEOUT, Reply, Request, is_about_the_request, is_header_value,
        request_timeout,
    },
    parts::{self, Part, Receiver},
};
use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};
use url::Url;

/// What is allowed, for error messages.
const ALLOWED: &str = "`dapr://HOST[:PORT]/PUBSUB/TOPIC` or `dapr+binding://HOST[:PORT]/NAME`, with \
     the parameters `max_bytes` (of an event, from 1000) and `timeout` (up to `15s`)";
/// What `max_bytes` must leave for an event.
const LEAST_MAX_BYTES: usize = 1000;
/// Where a sidecar listens unless told otherwise.
const DEFAULT_PORT: u16 = 3500;
/// What Dapr reads, too: the token that the sidecar asks for.
const API_TOKEN: &str = "DAPR_API_TOKEN";
/// How long a component that is missing is taken for missing: a sidecar can load one later.
const MISSING_FOR: Duration = Duration::from_secs(30);

/// What events are handed to.
#[derive(Clone, Debug)]
enum Component {
    PubSub { name: String, topic: Vec<String> },
    Binding { name: String },
}

impl Component {
    fn name(&self) -> &str {
        match self {
            Self::PubSub { name, .. } | Self::Binding { name } => name,
        }
    }

    /// What the types of such components begin with.
    fn kind(&self) -> &'static str {
        match self {
            Self::PubSub { .. } => "pubsub.",
            Self::Binding { .. } => "bindings.",
        }
    }
}

/// What is known of the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Availability {
    /// Not asked yet, or something went wrong since.
    Unknown,
    Present,
    Missing(Instant),
}

/// Delivers to a Dapr sidecar.
struct DaprSink {
    name: String,
    sidecar: Url,
    component: Component,
    api_token: Option<AuthHeader>,
    client: HttpClient,
    max_bytes: Option<usize>,
    has_taken: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    availability: Availability,
    /// Whether it was said that events are passed over.
    said: bool,
}

impl fmt::Debug for DaprSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaprSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The sink of a `dapr:` or `dapr+binding:` URL.
pub(super) fn open(
    url: &str,
    given: Option<Arc<dyn AuthProvider>>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    open_with(url, given, std::env::var(API_TOKEN).ok())
}

fn open_with(
    url: &str,
    given: Option<Arc<dyn AuthProvider>>,
    api_token: Option<String>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = Address::parse(url, ALLOWED)?;
    if address.user()?.is_some() || address.password()?.is_some() {
        return Err(address.wrong(format!(
            "it holds a user name or password; the sidecar's token is read from {API_TOKEN}"
        )));
    }
    let parameters = address.parameters(&["max_bytes", "timeout"])?;
    let max_bytes = match parameters.text("max_bytes").map(str::parse::<usize>) {
        None => None,
        Some(Ok(most)) if most >= LEAST_MAX_BYTES => Some(most),
        Some(_) => return Err(address.wrong("`max_bytes` is no whole number from 1000")),
    };
    let timeout = match parameters.text("timeout") {
        Some(text) => request_timeout(text).map_err(|reason| address.wrong(reason))?,
        None => REQUEST_TIMEOUT,
    };
    let path = address.path()?;
    if path
        .iter()
        .any(|segment| matches!(segment.as_str(), "" | "." | ".."))
    {
        return Err(address.wrong("its path has an empty part, or one of dots"));
    }
    let (component, auth) = match (address.scheme(), path.as_slice()) {
        ("dapr+binding", [name]) => (
            Component::Binding { name: name.clone() },
            // Goes on to where the binding leads.
            match given {
                Some(given) => Some(given),
                None => auth::from_environment(url)?,
            },
        ),
        ("dapr+binding", _) => return Err(address.wrong("it does not name one binding")),
        // A topic of some brokers has slashes.
        (_, [name, topic @ ..]) if !topic.is_empty() => (
            Component::PubSub {
                name: name.clone(),
                topic: topic.to_vec(),
            },
            given,
        ),
        _ => return Err(address.wrong("it does not name a pub/sub component and a topic")),
    };
    let api_token = match api_token.filter(|token| !token.is_empty()) {
        Some(token) if !is_header_value(&token) => {
            return Err(address.wrong(format!("{API_TOKEN} does not fit into a header")));
        }
        token => token.map(|token| AuthHeader::new("dapr-api-token", token)),
    };
    let sidecar = Url::parse(&format!(
        "http://{}:{}",
        address.authority(),
        address.port_or(DEFAULT_PORT)
    ))
    .map_err(|error| address.wrong(error.to_string()))?;
    let name = match &component {
        Component::PubSub { name, topic } => format!("dapr {name} {}", topic.join("/")),
        Component::Binding { name } => format!("dapr binding {name}"),
    };
    Ok(Arc::new(DaprSink {
        name,
        client: HttpClient::new(&sidecar, timeout, None, auth)
            .map_err(|reason| address.wrong(reason))?,
        sidecar,
        component,
        api_token,
        max_bytes,
        has_taken: AtomicBool::new(false),
        state: Mutex::new(State {
            availability: Availability::Unknown,
            said: false,
        }),
    }))
}

impl DaprSink {
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.sidecar.clone();
        // Fails only for URLs without a host.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(path);
        }
        url
    }

    /// A request to the sidecar, with the token that it asks for.
    fn to_sidecar(&self, request: Request) -> Request {
        Request {
            secret_headers: self.api_token.iter().cloned().collect(),
            ..request
        }
    }

    /// Asks the sidecar whether it has the component.
    async fn ask(&self) -> Result<Availability, SinkError> {
        let request = Request::bare(Method::GET, self.url(&["v1.0", "metadata"]));
        let reply = self
            .client
            .send_with(&self.to_sidecar(request), &[])
            .await?;
        match (reply.status.as_u16(), reply.meaning) {
            (_, Ok(Answer::Accepted)) => {}
            // A sidecar can be told to keep this API to itself; publishing will tell.
            (403..=405, _) => return Ok(Availability::Present),
            (_, Ok(Answer::Refused(reason))) => return Err(SinkError::new(reason)),
            (_, Err(error)) => return Err(error),
        }
        let metadata: Value = serde_json::from_str(&reply.body).map_err(|error| {
            SinkError::new(format!("the sidecar's metadata is not readable: {error}"))
        })?;
        let text = |value: &Value, field: &str| {
            value
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let present = metadata
            .get("components")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|component| {
                text(component, "name") == self.component.name()
                    && text(component, "type").starts_with(self.component.kind())
            });
        if present {
            return Ok(Availability::Present);
        }
        // Before a sidecar is ready, it has components that it does not name yet.
        let request = Request::bare(Method::GET, self.url(&["v1.0", "healthz", "outbound"]));
        let reply = self
            .client
            .send_with(&self.to_sidecar(request), &[])
            .await?;
        if reply.status.is_server_error() {
            return Err(SinkError::new("the sidecar is not ready yet"));
        }
        Ok(Availability::Missing(Instant::now()))
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the component is there, asked if need be.
    async fn is_present(&self) -> Result<bool, SinkError> {
        let known = self.state().availability;
        let availability = match known {
            Availability::Present => known,
            Availability::Missing(since) if since.elapsed() < MISSING_FOR => known,
            _ => self.ask().await?,
        };
        let present = availability == Availability::Present;
        let mut say = false;
        self.set(|state| {
            state.availability = availability;
            say = state.said == present;
            state.said = !present;
        });
        if say && present {
            tracing::info!(sink = self.name, "the Dapr component is there now");
        } else if say {
            tracing::warn!(
                sink = self.name,
                "the sidecar has no such Dapr component: events are passed over"
            );
        }
        Ok(present)
    }

    async fn publish(&self, event: &SinkEvent, topic: &[String]) -> Result<Part, SinkError> {
        let attributes_and_body = Attributes::of(event).and_then(|attributes| {
            let mut body = Vec::new();
            attributes.write_around(event, &mut body)?;
            Ok((attributes, body))
        });
        let (attributes, body) = match attributes_and_body {
            Ok(both) => both,
            Err(error) => return Ok(Part::Unfit(error.to_string())),
        };
        if let Some(unfit) = self.too_large(body.len()) {
            return Ok(unfit);
        }
        let mut path = vec!["v1.0", "publish", self.component.name()];
        path.extend(topic.iter().map(String::as_str));
        let mut url = self.url(&path);
        if let Some(key) = event.key() {
            // What keeps a workflow's events in order where the broker has partitions.
            url.query_pairs_mut()
                .append_pair("metadata.partitionKey", key);
        }
        let mut request = self.to_sidecar(Request::post(url, "application/cloudevents+json", body));
        if let Some(traceparent) = attributes.traceparent {
            // The sidecar puts its own in the event's place, as the child of this one.
            request.headers.push(("traceparent", traceparent));
        }
        let reply = self.client.reply(&request).await?;
        match reply.meaning? {
            Answer::Accepted => Ok(Part::Taken),
            // About the component, and not about the event.
            Answer::Refused(reason) if reply.body.contains("ERR_PUBSUB_NOT_") => {
                Err(SinkError::new(reason))
            }
            Answer::Refused(reason) => Ok(Part::Refused(reason)),
        }
    }

    /// What a broker behind the sidecar finds too large, the sidecar answers like an outage.
    fn too_large(&self, bytes: usize) -> Option<Part> {
        let most = self.max_bytes.filter(|most| bytes > *most)?;
        Some(Part::Unfit(format!(
            "{bytes} bytes, of which `max_bytes` allows {most}"
        )))
    }

    async fn invoke(&self, event: &SinkEvent) -> Result<Part, SinkError> {
        if let Some(unfit) = self.too_large(event.json.len()) {
            return Ok(unfit);
        }
        let auth = self.client.auth_headers().await?;
        let reply = self.invoke_with(event, &auth).await?;
        if behind(&reply) != Some(StatusCode::UNAUTHORIZED) {
            return meaning(reply);
        }
        self.client.renew(&auth).await;
        let auth = self.client.auth_headers().await?;
        meaning(self.invoke_with(event, &auth).await?)
    }

    /// Hands an event to the binding, in the reference's form.
    async fn invoke_with(
        &self,
        event: &SinkEvent,
        auth: &[AuthHeader],
    ) -> Result<Reply, SinkError> {
        // By hand, because a map would sort its members.
        let mut metadata = r#""content-type":"application/json""#.to_owned();
        for header in auth {
            let name = Value::from(capitalized(header.name()));
            let value = Value::from(header.secret_value());
            metadata.push_str(&format!(",{name}:{value}"));
        }
        let body = format!(
            r#"{{"operation":"create","metadata":{{{metadata}}},"data":{}}}"#,
            event.json
        );
        let url = self.url(&["v1.0", "bindings", self.component.name()]);
        let request = Request {
            secret_body: auth.to_vec(),
            ..self.to_sidecar(Request::post(url, "application/json", body))
        };
        self.client.send_with(&request, &[]).await
    }
}

/// The HTTP binding passes on as headers what begins with a capital letter.
fn capitalized(name: &str) -> String {
    let mut characters = name.chars();
    match characters.next() {
        Some(first) => first.to_ascii_uppercase().to_string() + characters.as_str(),
        None => String::new(),
    }
}

/// The status of the server behind an HTTP binding, of which the sidecar tells only in its error's
/// text, itself answering 500.
fn behind(reply: &Reply) -> Option<StatusCode> {
    if reply.status.is_success() {
        return None;
    }
    let (_, rest) = reply.body.split_once("received status code ")?;
    let digits = rest.trim_start_matches('\'').get(..3)?;
    StatusCode::from_bytes(digits.as_bytes()).ok()
}

fn meaning(reply: Reply) -> Result<Part, SinkError> {
    let rejected = behind(&reply).is_some_and(is_about_the_request);
    match reply.meaning {
        Ok(Answer::Accepted) => Ok(Part::Taken),
        Ok(Answer::Refused(reason)) => Ok(Part::Refused(reason)),
        Err(error) if rejected => Ok(Part::Refused(error.reason)),
        Err(error) => Err(error),
    }
}

impl Receiver for DaprSink {
    fn most(&self) -> usize {
        1
    }

    fn has_taken(&self) -> &AtomicBool {
        &self.has_taken
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let [event] = part else {
            return Ok(Part::Unfit("one event per request".to_owned()));
        };
        // Asked for each event: the first failure of a batch may be that the component went away.
        if !self.is_present().await? {
            return Ok(Part::PassedOver);
        }
        let answer = match &self.component {
            Component::PubSub { topic, .. } => self.publish(event, topic).await,
            Component::Binding { .. } => self.invoke(event).await,
        };
        if answer.is_err() {
            self.set(|state| state.availability = Availability::Unknown);
        }
        answer
    }
}

#[async_trait]
impl Sink for DaprSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        parts::deliver(self, batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        match self.ask().await? {
            Availability::Missing(_) => Err(SinkError::new(format!(
                "the sidecar has no component {} of the type {}*",
                self.component.name(),
                self.component.kind()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_passed_on_by_their_capital() {
        assert_eq!(capitalized("authorization"), "Authorization");
        assert_eq!(capitalized("x-api-key"), "X-api-key");
        assert_eq!(capitalized(""), "");
    }

    #[test]
    fn the_status_behind_a_binding_is_read() {
        for (status, body, wanted) in [
            (
                500,
                "binding eventstore: received status code 401",
                Some(401),
            ),
            (
                500,
                "binding eventstore: received status code '422'\"}",
                Some(422),
            ),
            (500, "received status code 4", None),
            (500, "connection refused", None),
            (200, "received status code 401", None),
        ] {
            let reply = Reply {
                status: StatusCode::from_u16(status).unwrap(),
                body: body.to_owned(),
                meaning: Ok(Answer::Accepted),
            };
            assert_eq!(
                behind(&reply).map(|status| status.as_u16()),
                wanted,
                "{body}"
            );
        }
    }

    #[test]
    fn the_sidecars_token_is_not_shown() {
        let sink = open_with("dapr://h/p/t", None, Some("hunter2".into())).unwrap();
        assert!(!format!("{sink:?}").contains("hunter2"));
        let error = open_with("dapr://h/p/t", None, Some("hunter2\n".into())).unwrap_err();
        assert!(error.reason.contains(API_TOKEN), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
