//! The Dapr sinks for the conformance suite, with a stand-in for a sidecar that has one pub/sub
//! component and one HTTP binding, whose server asks for a token.

use crate::support::{
    conformance::{Received, Target},
    stand_in::{StandIn, header},
};
use serde_json::{Value, json};
use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use temporal_eventstore::{
    Event,
    event::CloudEvent,
    sink::{self, Sink, StaticBearer},
};
use wiremock::{Request, ResponseTemplate};

/// What the server behind the binding asks for.
pub const TOKEN: &str = "s3cr3t-of-the-binding";
/// The largest request that a sidecar takes unless told otherwise.
const MOST_BYTES: usize = 4 * 1024 * 1024;

pub trait Kind {
    const SCHEME: &'static str;
    const PATH: &'static str;
}

pub struct PubSub;
pub struct Binding;

impl Kind for PubSub {
    const SCHEME: &'static str = "dapr";
    const PATH: &'static str = "events/orders/all%20of%20them";
}

impl Kind for Binding {
    const SCHEME: &'static str = "dapr+binding";
    const PATH: &'static str = "eventstore";
}

pub struct DaprTarget<K> {
    sidecar: StandIn,
    received: Arc<Mutex<Vec<Received>>>,
    refuses: Arc<AtomicBool>,
    kind: PhantomData<K>,
}

/// What a sidecar says of itself.
pub fn metadata(components: &Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "id": "app", "runtimeVersion": "1.15.5", "components": components
    }))
}

/// The components that the tests use.
pub fn components() -> Value {
    json!([
        { "name": "events", "type": "pubsub.redis", "version": "v1", "capabilities": [] },
        { "name": "eventstore", "type": "bindings.http", "version": "v1", "capabilities": [] },
    ])
}

/// A sidecar's error.
pub fn error(status: u16, code: &str, message: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({ "errorCode": code, "message": message }))
}

fn answer(request: &Request, received: &Mutex<Vec<Received>>) -> ResponseTemplate {
    if request.body.len() > MOST_BYTES {
        return ResponseTemplate::new(413);
    }
    match (request.method.as_str(), request.url.path()) {
        ("GET", "/v1.0/metadata") => metadata(&components()),
        ("POST", "/v1.0/publish/events/orders/all%20of%20them") => {
            assert_eq!(
                header(request, "content-type"),
                Some("application/cloudevents+json")
            );
            let event = CloudEvent::from_json(std::str::from_utf8(&request.body).unwrap()).unwrap();
            if event.event_type == "poison" {
                return error(
                    400,
                    "ERR_PUBSUB_CLOUD_EVENTS_SER",
                    "cannot create cloudevent",
                );
            }
            let key = request
                .url
                .query_pairs()
                .find(|(name, _)| name == "metadata.partitionKey")
                .map(|(_, key)| key.into_owned());
            assert_eq!(key, event.partitionkey);
            received.lock().unwrap().push(Received {
                event_id: event.id,
                key,
            });
            ResponseTemplate::new(204)
        }
        ("POST", "/v1.0/bindings/eventstore") => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(body["operation"], "create");
            assert_eq!(body["metadata"]["content-type"], "application/json");
            let event = Event::from_json(&body["data"].to_string()).unwrap();
            let refused = |status: u16| {
                error(
                    500,
                    "ERR_INVOKE_OUTPUT_BINDING",
                    &format!(
                        "error invoking output binding eventstore: received status code {status}"
                    ),
                )
            };
            if body["metadata"]["Authorization"] != format!("Bearer {TOKEN}") {
                return refused(401);
            }
            if event.event_type == "poison" {
                return refused(422);
            }
            received.lock().unwrap().push(Received {
                event_id: event.metadata.event_id.unwrap().to_string(),
                key: event.metadata.workflow_id,
            });
            ResponseTemplate::new(204)
        }
        _ => ResponseTemplate::new(404),
    }
}

impl<K: Kind> Target for DaprTarget<K> {
    const DEDUPES: bool = false;
    const SECRETS: &'static [&'static str] = &[TOKEN];

    async fn begin() -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let refuses = Arc::new(AtomicBool::new(false));
        let (into, refuses_now) = (received.clone(), refuses.clone());
        let sidecar = StandIn::start(move |request| {
            match refuses_now.load(Ordering::SeqCst) && request.method.as_str() == "POST" {
                true => error(400, "ERR_MALFORMED_REQUEST", "nobody passes"),
                false => answer(request, &into),
            }
        });
        Self {
            sidecar: sidecar.await,
            received,
            refuses,
            kind: PhantomData,
        }
    }

    fn url(&self) -> String {
        format!(
            "{}://{}/{}?timeout=2s",
            K::SCHEME,
            self.sidecar.address(),
            K::PATH
        )
    }

    fn open_url(&self, url: &str) -> Arc<dyn Sink> {
        sink::open_with_auth(url, Arc::new(StaticBearer::new(TOKEN))).unwrap()
    }

    fn whole_url(&self) -> Option<String> {
        // Who the binding is shown as is said in code.
        (K::SCHEME == PubSub::SCHEME).then(|| self.url())
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        None
    }

    async fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn stop(&mut self) {
        self.sidecar.stop().await;
    }

    async fn start(&mut self) {
        self.sidecar.start_again().await;
    }

    async fn pause(&mut self) {
        self.sidecar.pause();
    }

    async fn resume(&mut self) {
        self.sidecar.resume();
    }

    async fn refuse_all(&mut self, refuses: bool) -> bool {
        self.refuses.store(refuses, Ordering::SeqCst);
        true
    }

    fn poison() -> Option<Event> {
        Some(Event::new("poison"))
    }

    fn oversize() -> Option<usize> {
        Some(MOST_BYTES)
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        vec![
            ("dapr://", "host"),
            ("dapr://h", "topic"),
            ("dapr://h/events", "topic"),
            ("dapr://h/events//topic", "empty part"),
            ("dapr+binding://h", "one binding"),
            ("dapr+binding://h/a/b", "one binding"),
            ("dapr://u:hunter2@h/events/orders", "DAPR_API_TOKEN"),
            ("dapr://h/events/orders?timeout=hunter2", "timeout"),
            ("dapr://h/events/orders?max_bytes=hunter2", "max_bytes"),
            ("dapr://h/events/orders?hunter2=1", "unknown parameter"),
        ]
    }
}
