//! The Segment sink with a stand-in that takes what Segment takes, and keeps each `messageId` once.

use crate::support::{
    conformance::{Received, Target},
    stand_in::StandIn,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use temporal_eventstore::Event;
use wiremock::{Request, ResponseTemplate};

const KEY: &str = "s3cr3t-key";
/// `KEY:` in base 64.
const BASIC: &str = "Basic czNjcjN0LWtleTo=";

pub struct SegmentTarget {
    server: StandIn,
    received: Arc<Mutex<Vec<Received>>>,
}

fn answer(request: &Request, received: &Mutex<Vec<Received>>) -> ResponseTemplate {
    if request.headers["authorization"] != BASIC {
        return ResponseTemplate::new(401);
    }
    if (request.method.as_str(), request.url.path()) != ("POST", "/v1/batch") {
        return ResponseTemplate::new(405);
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let mut received = received.lock().unwrap();
    for track in body["batch"].as_array().unwrap() {
        let event = Received {
            event_id: track["messageId"].as_str().unwrap().to_owned(),
            key: track["properties"]["workflow_id"]
                .as_str()
                .map(str::to_owned),
        };
        if !received.contains(&event) {
            received.push(event);
        }
    }
    ResponseTemplate::new(200).set_body_json(json!({ "success": true }))
}

impl Target for SegmentTarget {
    const DEDUPES: bool = true;
    const SECRETS: &'static [&'static str] = &[KEY];

    async fn begin() -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let into = received.clone();
        Self {
            server: StandIn::start(move |request| answer(request, &into)).await,
            received,
        }
    }

    fn url(&self) -> String {
        let address = self.server.address();
        format!("segment://{KEY}@{address}?tls=false&timeout=2s")
    }

    fn url_with_wrong_secret(&self) -> Option<String> {
        Some(self.url().replace(KEY, "hunter2"))
    }

    async fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn stop(&mut self) {
        self.server.stop().await;
    }

    async fn start(&mut self) {
        self.server.start_again().await;
    }

    async fn pause(&mut self) {
        self.server.pause();
    }

    async fn resume(&mut self) {
        self.server.resume();
    }

    fn poison() -> Option<Event> {
        None
    }

    fn oversize() -> Option<usize> {
        None
    }

    fn wrong_urls() -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
}
