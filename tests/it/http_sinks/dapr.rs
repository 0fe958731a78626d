//! What is the Dapr sinks' alone: the reference's body, and components that are missing.

use crate::support::{
    conformance::batch,
    stand_in::{StandIn, header},
    target_dapr::{TOKEN, components, error, metadata},
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use temporal_eventstore::{
    Event,
    sink::{self, AuthHeader, AuthProvider, Delivered, SinkError, SinkEvent, StaticBearer},
};
use wiremock::ResponseTemplate;

/// A sidecar with these components, which answers everything else as given.
async fn sidecar(
    components: impl Fn() -> Value + Send + Sync + 'static,
    answer: impl Fn() -> ResponseTemplate + Send + Sync + 'static,
) -> StandIn {
    StandIn::start(move |request| match request.url.path() {
        "/v1.0/metadata" => metadata(&components()),
        "/v1.0/healthz/outbound" => ResponseTemplate::new(204),
        _ => answer(),
    })
    .await
}

fn binding(sidecar: &StandIn) -> String {
    format!("dapr+binding://{}/eventstore", sidecar.address())
}

/// The bodies that the reference sent to its binding.
fn reference() -> Vec<String> {
    let lines: Vec<String> = include_str!("../reference/wire.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["path"] == "/v1.0/bindings/eventstore")
        .map(|line| line["body"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(lines.len(), 10);
    lines
}

#[tokio::test]
async fn a_bindings_request_is_the_references() {
    let sidecar = sidecar(components, || ResponseTemplate::new(204)).await;
    let provider = Arc::new(StaticBearer::new("tok-123"));
    let sink = sink::open_with_auth(&binding(&sidecar), provider).unwrap();
    let bodies = reference();
    let mut events = batch(1, bodies.len().try_into().unwrap());
    for (event, body) in events.iter_mut().zip(&bodies) {
        // The reference's event, as text: what it holds is compared elsewhere.
        let (_, data) = body.split_once(r#","data":"#).unwrap();
        event.json = data.strip_suffix('}').unwrap().to_owned();
    }
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    let requests = sidecar.requests_to("/v1.0/bindings/eventstore");
    for (request, body) in requests.iter().zip(&bodies) {
        assert_eq!(request.method.as_str(), "POST");
        assert_eq!(header(request, "content-type"), Some("application/json"));
        assert_eq!(header(request, "authorization"), None);
        assert_eq!(std::str::from_utf8(&request.body).unwrap(), body);
    }
    assert_eq!(requests.len(), bodies.len());
}

#[tokio::test]
async fn the_native_event_is_the_bindings_data() {
    let sidecar = sidecar(components, || ResponseTemplate::new(204)).await;
    let events = batch(1, 1);
    sink::open(&binding(&sidecar))
        .unwrap()
        .deliver(&events)
        .await
        .unwrap();
    let requests = sidecar.requests_to("/v1.0/bindings/eventstore");
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(
        body["metadata"],
        json!({ "content-type": "application/json" })
    );
    let sent = Event::from_json(&body["data"].to_string()).unwrap();
    assert_eq!(sent, events[0].event().unwrap());
}

#[tokio::test]
async fn the_component_is_asked_for_once_and_again_after_an_error() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let sidecar = sidecar(components, move || {
        match count.fetch_add(1, Ordering::SeqCst) {
            3 => error(500, "ERR_INVOKE_OUTPUT_BINDING", "connection refused"),
            _ => ResponseTemplate::new(204),
        }
    })
    .await;
    let sink = sink::open(&binding(&sidecar)).unwrap();
    let events = batch(1, 3);
    sink.deliver(&events).await.unwrap();
    assert_eq!(sidecar.requests_to("/v1.0/metadata").len(), 1);
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("connection refused"), "{error}");
    assert_eq!(sidecar.requests_to("/v1.0/metadata").len(), 1);
    sink.deliver(&events).await.unwrap();
    sink.deliver(&events).await.unwrap();
    assert_eq!(sidecar.requests_to("/v1.0/metadata").len(), 2);
}

/// Counts what is said at a level or above.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_missing_component_is_passed_over_and_said_once() {
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // One of the name, of another kind.
    let others = || json!([{ "name": "eventstore", "type": "pubsub.redis", "version": "v1" }]);
    let sidecar = sidecar(others, || ResponseTemplate::new(204)).await;
    let sink = sink::open(&binding(&sidecar)).unwrap();
    let events = batch(1, 5);
    for _ in 0..3 {
        assert_eq!(
            sink.deliver(&events).await.unwrap(),
            Delivered::all(&events)
        );
    }
    assert_eq!(sidecar.requests_to("/v1.0/bindings/eventstore").len(), 0);
    let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    assert_eq!(said.matches("no such Dapr component").count(), 1, "{said}");
    let error = sink.check().await.unwrap_err();
    assert!(
        error.reason().contains("no component eventstore"),
        "{error}"
    );
}

#[tokio::test]
async fn a_sidecar_that_is_not_ready_is_an_outage() {
    let ready = Arc::new(AtomicUsize::new(0));
    let now = ready.clone();
    let sidecar = StandIn::start(move |request| {
        let ready = now.load(Ordering::SeqCst) == 1;
        match request.url.path() {
            "/v1.0/metadata" if ready => metadata(&components()),
            "/v1.0/metadata" => metadata(&json!([])),
            "/v1.0/healthz/outbound" => error(500, "ERR_OUTBOUND_HEALTH_NOT_READY", "not ready"),
            _ => ResponseTemplate::new(204),
        }
    })
    .await;
    let sink = sink::open(&binding(&sidecar)).unwrap();
    let events = batch(1, 5);
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("not ready"), "{error}");
    ready.store(1, Ordering::SeqCst);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(sidecar.requests_to("/v1.0/bindings/eventstore").len(), 5);
}

#[tokio::test]
async fn a_sidecar_that_keeps_its_metadata_to_itself_is_used() {
    for status in [403, 404] {
        let sidecar = StandIn::start(move |request| match request.url.path() {
            "/v1.0/metadata" => ResponseTemplate::new(status),
            _ => ResponseTemplate::new(204),
        })
        .await;
        let url = format!("dapr://{}/events/orders", sidecar.address());
        let events = batch(1, 2);
        let sink = sink::open(&url).unwrap();
        assert_eq!(
            sink.deliver(&events).await.unwrap(),
            Delivered::all(&events)
        );
        assert_eq!(sidecar.requests_to("/v1.0/publish/events/orders").len(), 2);
    }
}

#[tokio::test]
async fn a_sidecar_that_says_400_of_its_component_is_an_outage() {
    for code in ["ERR_PUBSUB_NOT_FOUND", "ERR_PUBSUB_NOT_CONFIGURED"] {
        let is_there = Arc::new(AtomicUsize::new(0));
        let now = is_there.clone();
        let sidecar = sidecar(components, move || match now.load(Ordering::SeqCst) {
            0 => error(400, code, "pubsub events is not found"),
            _ => ResponseTemplate::new(204),
        })
        .await;
        let sink = sink::open(&format!("dapr://{}/events/orders", sidecar.address())).unwrap();
        let events = batch(1, 3);
        let error = sink.deliver(&events).await.unwrap_err();
        assert!(error.reason().contains(code), "{error}");
        is_there.store(1, Ordering::SeqCst);
        assert_eq!(
            sink.deliver(&events).await.unwrap(),
            Delivered::all(&events)
        );
    }
}

#[tokio::test]
async fn what_is_larger_than_the_broker_takes_is_refused_here() {
    let sidecar = sidecar(components, || ResponseTemplate::new(204)).await;
    let mut events = batch(1, 3);
    let mut event = events[1].event().unwrap();
    event.data.insert("text".into(), "x".repeat(20_000).into());
    events[1] = SinkEvent::new(events[1].position, &event).unwrap();
    for (place, path) in [("dapr", "events/orders"), ("dapr+binding", "eventstore")] {
        let url = format!("{place}://{}/{path}?max_bytes=20000", sidecar.address());
        let delivered = sink::open(&url).unwrap().deliver(&events).await.unwrap();
        assert_eq!(delivered.taken, 3);
        let [refused] = &delivered.rejected[..] else {
            panic!("{delivered:?}");
        };
        assert_eq!(refused.index, 1);
        assert!(
            refused.reason.contains("`max_bytes` allows 20000"),
            "{refused:?}"
        );
    }
    for path in ["/v1.0/publish/events/orders", "/v1.0/bindings/eventstore"] {
        assert_eq!(sidecar.requests_to(path).len(), 2, "{path}");
    }
}

#[tokio::test]
async fn a_publication_continues_the_events_trace() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sidecar = sidecar(components, || ResponseTemplate::new(204)).await;
    let sink = sink::open(&format!("dapr://{}/events/orders", sidecar.address())).unwrap();
    let mut events = batch(1, 2);
    let mut event = events[1].event().unwrap();
    event.metadata.traceparent = Some(TRACE.to_owned());
    events[1] = SinkEvent::new(events[1].position, &event).unwrap();
    sink.deliver(&events).await.unwrap();
    let requests = sidecar.requests_to("/v1.0/publish/events/orders");
    let sent: Vec<_> = requests
        .iter()
        .map(|request| header(request, "traceparent"))
        .collect();
    assert_eq!(sent, [None, Some(TRACE)]);
}

#[tokio::test]
async fn a_component_among_thousands_is_found() {
    let thousands = || {
        let mut all: Vec<Value> = (0..4000)
            .map(|number| {
                json!({ "name": format!("component-{number}"), "type": "state.redis", "version": "v1" })
            })
            .collect();
        all.extend(components().as_array().unwrap().iter().cloned());
        Value::Array(all)
    };
    let sidecar = sidecar(thousands, || ResponseTemplate::new(204)).await;
    let events = batch(1, 2);
    sink::open(&binding(&sidecar))
        .unwrap()
        .deliver(&events)
        .await
        .unwrap();
    assert_eq!(sidecar.requests_to("/v1.0/bindings/eventstore").len(), 2);
}

/// A provider with a new token after each renewal.
#[derive(Debug, Default)]
struct Renewed(AtomicUsize);

#[async_trait]
impl AuthProvider for Renewed {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        let token = match self.0.load(Ordering::SeqCst) {
            0 => "s3cr3t-old",
            _ => TOKEN,
        };
        // Lower case, which a binding would not pass on.
        Ok(vec![AuthHeader::new(
            "authorization",
            format!("Bearer {token}"),
        )])
    }

    async fn renew(&self, refused: &[AuthHeader]) {
        assert_eq!(refused[0].secret_value(), "Bearer s3cr3t-old");
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_401_behind_the_binding_renews_the_token() {
    let sidecar = StandIn::start(|request| match request.url.path() {
        "/v1.0/metadata" => metadata(&components()),
        _ => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let sent = body["metadata"]["Authorization"].as_str().unwrap();
            if sent == format!("Bearer {TOKEN}") {
                return ResponseTemplate::new(204);
            }
            error(
                500,
                "ERR_INVOKE_OUTPUT_BINDING",
                &format!("{sent}: received status code 401"),
            )
        }
    })
    .await;
    let provider = Arc::new(Renewed::default());
    let sink = sink::open_with_auth(&binding(&sidecar), provider.clone()).unwrap();
    let events = batch(1, 3);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(provider.0.load(Ordering::SeqCst), 1);
    // A token that stays refused is an outage, and not shown.
    let stale = Arc::new(StaticBearer::new("s3cr3t-stale"));
    let sink = sink::open_with_auth(&binding(&sidecar), stale).unwrap();
    let error = sink.deliver(&events).await.unwrap_err();
    assert!(error.reason().contains("401"), "{error}");
    assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
}

/// What the test below does in a process of its own, whose environment has the tokens.
#[ignore = "run by the test below"]
#[tokio::test]
async fn as_a_child_with_tokens() {
    let sidecar = std::env::var("TEST_SIDECAR").unwrap();
    let events: Vec<SinkEvent> = batch(1, 1);
    for url in [
        format!("dapr://{sidecar}/events/orders"),
        format!("dapr+binding://{sidecar}/eventstore"),
    ] {
        sink::open(&url).unwrap().deliver(&events).await.unwrap();
    }
}

#[tokio::test]
async fn the_sidecars_token_and_the_receivers_come_from_the_environment() {
    let sidecar = sidecar(components, || ResponseTemplate::new(204)).await;
    let program = std::env::current_exe().unwrap();
    let address = sidecar.address();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(program)
            .args([
                "--ignored",
                "--exact",
                "http_sinks::dapr::as_a_child_with_tokens",
            ])
            .env("TEST_SIDECAR", address)
            .env("DAPR_API_TOKEN", "of-the-sidecar")
            .env("EVENTSTORE_AUTH_TOKEN", "of-the-receiver")
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{output:?}");
    let requests = sidecar.requests();
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert_eq!(header(request, "dapr-api-token"), Some("of-the-sidecar"));
        assert_eq!(header(request, "authorization"), None);
    }
    let requests = sidecar.requests_to("/v1.0/bindings/eventstore");
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(body["metadata"]["Authorization"], "Bearer of-the-receiver");
}
