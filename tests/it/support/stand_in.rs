//! A stand-in for a server that speaks HTTP, which answers as the documented API does. It can be
//! stopped and started again on its port, and paused: it then takes requests and answers too late.
#![allow(dead_code, reason = "each program uses its part")]

use std::{
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers::any};

/// The user of every stand-in.
pub const USER: &str = "tester";
/// Its password; it must never be seen in an error.
pub const PASSWORD: &str = "s3cr3t/of the?tests";
/// The same, as it stands in a URL.
pub const PASSWORD_IN_URL: &str = "s3cr3t%2Fof%20the%3Ftests";
/// The two as a header has them.
pub const BASIC: &str = "Basic dGVzdGVyOnMzY3IzdC9vZiB0aGU/dGVzdHM=";

type Answer = dyn Fn(&Request) -> ResponseTemplate + Send + Sync;

/// A running stand-in; ends when dropped.
pub struct StandIn {
    port: u16,
    server: Option<MockServer>,
    responder: Responder,
}

#[derive(Clone)]
struct Responder {
    answer: Arc<Answer>,
    paused: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Respond for Responder {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        self.requests.lock().unwrap().push(request.clone());
        let answer = (self.answer)(request);
        if self.paused.load(Ordering::SeqCst) {
            return answer.set_delay(Duration::from_secs(60));
        }
        answer
    }
}

impl StandIn {
    /// Starts one that answers as `answer` says.
    pub async fn start(
        answer: impl Fn(&Request) -> ResponseTemplate + Send + Sync + 'static,
    ) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut stand_in = Self {
            port,
            server: None,
            responder: Responder {
                answer: Arc::new(answer),
                paused: Arc::default(),
                requests: Arc::default(),
            },
        };
        stand_in.start_again().await;
        stand_in
    }

    /// `127.0.0.1` with the port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.responder.requests.lock().unwrap().clone()
    }

    /// What it was asked at a path so far.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.url.path() == path);
        requests
    }

    pub async fn stop(&mut self) {
        self.server = None;
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(started.elapsed() < Duration::from_secs(10), "it goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let server = MockServer::builder().listener(listener).start().await;
        Mock::given(any())
            .respond_with(self.responder.clone())
            .mount(&server)
            .await;
        self.server = Some(server);
    }

    pub fn pause(&self) {
        self.responder.paused.store(true, Ordering::SeqCst);
    }

    pub fn resume(&self) {
        self.responder.paused.store(false, Ordering::SeqCst);
    }
}

/// A request's header.
pub fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}
