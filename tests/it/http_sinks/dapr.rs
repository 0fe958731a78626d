//! What is the Dapr sinks' alone: the reference's body, and components that are missing.

use crate::support::{
    conformance::batch,
    log::Log,
    stand_in::{StandIn, header},
    target_dapr::{TOKEN, components, error, metadata},
    until,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use temporal_eventstore::{
    Event, EventStore, Health,
    sink::{
        self, AuthHeader, AuthProvider, Delivered, RejectionKind, SinkError, SinkEvent,
        StaticBearer,
    },
};
use wiremock::ResponseTemplate;

const TIMEOUT: Duration = Duration::from_secs(5);

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
    assert!(
        error.reason().contains("ERR_INVOKE_OUTPUT_BINDING"),
        "{error}"
    );
    assert!(!error.reason().contains("connection refused"), "{error}");
    assert_eq!(sidecar.requests_to("/v1.0/metadata").len(), 1);
    sink.deliver(&events).await.unwrap();
    sink.deliver(&events).await.unwrap();
    assert_eq!(sidecar.requests_to("/v1.0/metadata").len(), 2);
}

/// A store that delivers to the binding.
async fn store(sidecar: &StandIn, journal: &Path) -> EventStore {
    EventStore::builder()
        .store(binding(sidecar))
        .journal(journal)
        .build()
        .await
        .unwrap()
}

fn numbered(number: usize) -> Event {
    Event::new("test.event").data(json!({ "number": number }))
}

fn sent(sidecar: &StandIn) -> Vec<u64> {
    let requests = sidecar.requests_to("/v1.0/bindings/eventstore");
    requests
        .iter()
        .map(|request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            body["data"]["data"]["number"].as_u64().unwrap()
        })
        .collect()
}

#[tokio::test]
async fn a_component_that_was_never_there_is_passed_over_and_said_once() {
    let (log, _guard) = Log::capture();
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.db");
    let is_there = Arc::new(AtomicBool::new(false));
    let now = is_there.clone();
    // One of the name, of another kind.
    let others = move || match now.load(Ordering::SeqCst) {
        true => components(),
        false => json!([{ "name": "eventstore", "type": "pubsub.redis", "version": "v1" }]),
    };
    let sidecar = sidecar(others, || ResponseTemplate::new(204)).await;
    let sink = sink::open(&binding(&sidecar)).unwrap();
    let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
    assert!(error.is_absent() && error.reason().contains("no component eventstore"));
    assert!(sink.check().await.unwrap_err().is_absent());
    // Also over a restart: what was passed over was not taken.
    for round in 0..2 {
        let events = store(&sidecar, &journal).await;
        for number in 0..5 {
            events.publish(numbered(number)).await.unwrap();
            events.flush(TIMEOUT).await.unwrap();
        }
        let stats = &events.stats().sinks[0];
        assert_eq!((stats.passed_over, stats.delivered), (5, 0));
        assert_eq!(events.health(), Health::Healthy);
        events.shutdown(TIMEOUT).await.unwrap();
        let said = log.to_string().matches("nobody is there yet").count();
        assert_eq!(said, 1 + round, "{log}");
    }
    assert_eq!(sent(&sidecar), [0_u64; 0]);
    is_there.store(true, Ordering::SeqCst);
    let events = store(&sidecar, &journal).await;
    events.publish(numbered(7)).await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    assert_eq!(sent(&sidecar), [7]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_component_that_took_an_event_once_is_away_and_nothing_is_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.db");
    let is_there = Arc::new(AtomicBool::new(true));
    let (now, answers) = (is_there.clone(), is_there.clone());
    let loaded = move || match now.load(Ordering::SeqCst) {
        true => components(),
        false => json!([]),
    };
    let sidecar = sidecar(loaded, move || match answers.load(Ordering::SeqCst) {
        true => ResponseTemplate::new(204),
        false => error(
            500,
            "ERR_INVOKE_OUTPUT_BINDING",
            "couldn't find output binding eventstore",
        ),
    })
    .await;
    let events = store(&sidecar, &journal).await;
    events.publish(numbered(0)).await.unwrap();
    events.flush(TIMEOUT).await.unwrap();
    // A reload, with a restart of the program in its midst.
    is_there.store(false, Ordering::SeqCst);
    events.publish(numbered(1)).await.unwrap();
    let failing = |events: &EventStore| format!("{:?}", events.health());
    until("it is an outage", || {
        failing(&events).contains("no component eventstore")
    })
    .await;
    events.shutdown(TIMEOUT / 10).await.unwrap_err();
    let events = store(&sidecar, &journal).await;
    events.publish(numbered(2)).await.unwrap();
    until("it is an outage", || {
        failing(&events).contains("no component eventstore")
    })
    .await;
    assert_eq!(events.stats().sinks[0].passed_over, 0);
    is_there.store(true, Ordering::SeqCst);
    events.flush(TIMEOUT * 4).await.unwrap();
    let taken: Vec<u64> = {
        let mut sent = sent(&sidecar);
        sent.dedup();
        sent
    };
    assert_eq!(taken, [0, 1, 2]);
    events.shutdown(TIMEOUT).await.unwrap();
}

#[tokio::test]
async fn a_component_name_is_never_the_events_fault_but_a_long_key_is() {
    // The sidecar takes 4 KiB of request line and headers unless told otherwise.
    let sidecar = StandIn::start(|request| match request.url.path() {
        "/v1.0/metadata" => metadata(&components()),
        _ if request.url.as_str().len() > 4096 => ResponseTemplate::new(431),
        _ => ResponseTemplate::new(204),
    })
    .await;
    let mut events = batch(1, 3);
    let mut event = events[1].event().unwrap();
    event.metadata.workflow_id = Some("ö".repeat(1000));
    // What a later version of the standard may not hold either.
    event.metadata.traceparent =
        Some("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-a\u{1}b".to_owned());
    events[1] = SinkEvent::new(events[1].position, &event).unwrap();
    let sink = sink::open(&format!("dapr://{}/events/orders", sidecar.address())).unwrap();
    let delivered = sink.deliver(&events).await.unwrap();
    assert_eq!(delivered.taken, 3);
    let [refused] = &delivered.rejected[..] else {
        panic!("{delivered:?}");
    };
    assert_eq!((refused.index, refused.kind), (1, RejectionKind::Refused));
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

#[tokio::test]
async fn the_sidecars_token_in_a_file_is_read_for_each_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "one\n").unwrap();
    for url in [
        "dapr://HOST/events/orders",
        "dapr+binding://HOST/eventstore",
    ] {
        let sidecar = sidecar(components, || ResponseTemplate::new(204)).await;
        let url = url.replace("HOST", &sidecar.address());
        let sink = sink::open(&format!("{url}?token_file={}", path.display())).unwrap();
        for token in ["one", "two"] {
            std::fs::write(&path, token).unwrap();
            let before = sidecar.requests().len();
            sink.deliver(&batch(1, 1)).await.unwrap();
            let requests = sidecar.requests().split_off(before);
            assert!(!requests.is_empty());
            for request in &requests {
                assert_eq!(header(request, "dapr-api-token"), Some(token));
            }
        }
        std::fs::remove_file(&path).unwrap();
        let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
        assert!(error.reason().contains("token"), "{error}");
        std::fs::write(&path, "one").unwrap();
    }
    let missing = sink::open("dapr://h/events/orders?token_file=/no/such/file").unwrap_err();
    assert!(missing.reason.contains("/no/such/file"), "{missing}");
}
