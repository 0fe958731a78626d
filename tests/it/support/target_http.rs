//! The HTTP sink in each of its modes for the conformance suite, with an endpoint that takes
//! CloudEvents and asks for a password.

use crate::support::{
    conformance::{Received, Target},
    stand_in::{BASIC, PASSWORD, PASSWORD_IN_URL, StandIn, USER, header},
};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use temporal_eventstore::{Event, event::CloudEvent};
use wiremock::{Request, ResponseTemplate};

/// The largest body that the endpoint takes.
const MOST_BYTES: usize = 512 * 1024;

pub trait Mode {
    const NAME: &'static str;
}

pub struct Batched;
pub struct Structured;
pub struct Binary;

impl Mode for Batched {
    const NAME: &'static str = "batched";
}

impl Mode for Structured {
    const NAME: &'static str = "structured";
}

impl Mode for Binary {
    const NAME: &'static str = "binary";
}

pub struct HttpTarget<M> {
    endpoint: StandIn,
    received: Arc<Mutex<Vec<Received>>>,
    refuses: Arc<AtomicBool>,
    mode: std::marker::PhantomData<M>,
}

/// The events of a request, by the rules of the binding; none if it breaks them.
pub fn cloud_events(request: &Request) -> Option<Vec<CloudEvent>> {
    let body = std::str::from_utf8(&request.body).ok()?;
    match header(request, "content-type")? {
        "application/cloudevents-batch+json" => serde_json::from_str(body).ok(),
        "application/cloudevents+json" => Some(vec![CloudEvent::from_json(body).ok()?]),
        "application/json" => {
            let mut event = serde_json::Map::new();
            for (name, value) in &request.headers {
                let name = name.as_str();
                let value = percent_decode_str(value.to_str().ok()?)
                    .decode_utf8()
                    .ok()?;
                if let Some(attribute) = name.strip_prefix("ce-") {
                    event.insert(attribute.to_owned(), Value::from(&*value));
                }
            }
            event.insert("datacontenttype".into(), "application/json".into());
            event.insert("data".into(), serde_json::from_str(body).ok()?);
            Some(vec![serde_json::from_value(event.into()).ok()?])
        }
        _ => None,
    }
}

fn answer(request: &Request, received: &Mutex<Vec<Received>>) -> ResponseTemplate {
    let authorization = header(request, "authorization").unwrap_or_default();
    if authorization != BASIC {
        // Some servers tell more than they should.
        return ResponseTemplate::new(401).set_body_string(format!("not {authorization}"));
    }
    if request.method.as_str() == "HEAD" {
        return ResponseTemplate::new(405);
    }
    if request.url.query() != Some("tenant=a%20b&sig=x/y%3D") {
        return ResponseTemplate::new(404);
    }
    if request.body.len() > MOST_BYTES {
        return ResponseTemplate::new(413);
    }
    let Some(events) = cloud_events(request) else {
        return ResponseTemplate::new(415).set_body_string("no CloudEvents");
    };
    if events.iter().any(|event| event.data.event_type == "poison") {
        return ResponseTemplate::new(422).set_body_string("poison is not taken here");
    }
    received
        .lock()
        .unwrap()
        .extend(events.into_iter().map(|event| Received {
            event_id: event.id,
            key: event.partitionkey,
        }));
    ResponseTemplate::new(202)
}

impl<M: Mode> HttpTarget<M> {
    fn url_with(&self, password: &str) -> String {
        format!(
            "http://{USER}:{password}@{}/in?tenant=a%20b&eventstore.mode={}&sig=x/y%3D&eventstore.timeout=2s",
            self.endpoint.address(),
            M::NAME
        )
    }
}

impl<M: Mode> Target for HttpTarget<M> {
    // The endpoint tells duplicates by their id, if at all; this one does not.
    const DEDUPES: bool = false;
    const SECRETS: &'static [&'static str] = &[
        PASSWORD,
        PASSWORD_IN_URL,
        "hunter2",
        "dGVzdGVy",
        "sig=",
        "a%20b",
    ];

    async fn begin() -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let refuses = Arc::new(AtomicBool::new(false));
        let (into, refuses_now) = (received.clone(), refuses.clone());
        let endpoint = StandIn::start(move |request| {
            match refuses_now.load(Ordering::SeqCst) && request.method.as_str() == "POST" {
                true => ResponseTemplate::new(400),
                false => answer(request, &into),
            }
        });
        Self {
            endpoint: endpoint.await,
            received,
            refuses,
            mode: std::marker::PhantomData,
        }
    }

    fn url(&self) -> String {
        self.url_with(PASSWORD_IN_URL)
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        Some(self.url_with("hunter2"))
    }

    async fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn stop(&mut self) {
        self.endpoint.stop().await;
    }

    async fn start(&mut self) {
        self.endpoint.start_again().await;
    }

    async fn pause(&mut self) {
        self.endpoint.pause();
    }

    async fn resume(&mut self) {
        self.endpoint.resume();
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
            ("http://", "host"),
            ("http://u:hunter2@h:99999/", "port"),
            ("https://u:hunter2@h/?eventstore.mode=one", "mode"),
            ("https://u:hunter2@h/?eventstore.timeout=1h", "timeout"),
            ("https://u:hunter2@h/?eventstore.timeout=0s", "timeout"),
            ("http://u:hunter2@h/?eventstore.tls_ca=/x", "https"),
            ("https://u:hunter2@h/?eventstore.mod=binary", "eventstore."),
            ("https://u:hunter2@h/?eventstore.hunter2=1", "eventstore."),
        ]
    }
}
