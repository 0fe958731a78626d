//! The examples that consume events: the automation, and the events of a workflow in a browser.

use crate::support::{Ground, Program, example, outcome, workflows};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{ChildStdout, Stdio},
    time::Duration,
};
use temporal_eventstore::{Event, EventStore};

const WITHIN: Duration = Duration::from_secs(10);

fn start(command: &mut std::process::Command) -> (Program, Lines<BufReader<ChildStdout>>) {
    let mut program = Program(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    (program, lines)
}

#[tokio::test]
async fn the_automation_says_which_workflow_failed() {
    let ground = Ground::new().await;
    let (program, mut lines) = start(
        example("handlers")
            .env("TEMPORAL_ADDRESS", ground.server.address())
            .env("EVENTSTORE_URL", ground.store_url())
            .env_remove("EVENTSTORE_JOURNAL"),
    );
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let client = ground.client().await;
    outcome(&client, workflows::Noop::run, (), "fine")
        .await
        .unwrap();
    outcome(&client, workflows::Fail::run, (), "broken")
        .await
        .unwrap_err();
    let line = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap());
    let line = tokio::time::timeout(WITHIN, line).await.unwrap().unwrap();
    assert!(
        line.contains(" broken failed: ") && line.contains("no more bolts"),
        "{line}"
    );
    assert!(program.terminate().success());
}

/// A request to the example, with what it answers.
async fn get(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> hyper::Response<hyper::body::Incoming> {
    let connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(path);
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request = request.header("Host", address);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    // Its connection lives as long as what it sends.
    tokio::spawn(async move {
        sender.ready().await.ok();
        std::future::pending::<()>().await;
        drop(sender);
    });
    answer
}

/// The events that a browser would have: ids and data.
struct Live {
    answer: hyper::Response<hyper::body::Incoming>,
    text: String,
}

impl Live {
    async fn open(address: &str, last: Option<&str>) -> Self {
        let last = last.map(|last| ("Last-Event-ID", last));
        let headers: Vec<(&str, &str)> = last.into_iter().collect();
        let answer = get(address, "/events?workflow=order%201", &headers).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            answer,
            text: String::new(),
        }
    }

    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let (message, rest) = (message.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                    return (id.to_owned(), serde_json::from_str(data).unwrap());
                }
                continue;
            }
            let frame = tokio::time::timeout(WITHIN, self.answer.frame()).await;
            let frame = frame.expect("nothing comes").unwrap().unwrap();
            let part = frame.into_data().unwrap();
            self.text += std::str::from_utf8(&part).unwrap();
        }
    }
}

fn of(workflow: &str, number: u64) -> Event {
    let mut event = Event::new("order.step").data(json!({ "number": number, "text": "a\nb" }));
    event.metadata.workflow_id = Some(workflow.to_owned());
    event
}

#[tokio::test]
async fn a_browser_follows_a_workflow_and_goes_on_where_it_was_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("events.db").display());
    let events = EventStore::builder().store(&*url).build().await.unwrap();
    events.publish(of("order 1", 0)).await.unwrap();
    events.publish(of("other", 1)).await.unwrap();
    events.flush(WITHIN).await.unwrap();
    let (_program, mut lines) = start(
        example("live")
            .args(["--store", &url, "--address", "127.0.0.1:0"])
            .env_remove("EVENTSTORE_URL"),
    );
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("http://").unwrap();
    let address = address.strip_suffix('/').unwrap();

    let page = get(address, "/?workflow=x", &[]).await;
    let page = page.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&page).unwrap().contains("EventSource"));

    let mut live = Live::open(address, None).await;
    let (first, event) = live.next().await;
    assert_eq!((event["data"]["number"].as_u64(), &*first), (Some(0), "1"));
    // What comes while it listens, and nothing of others.
    events.publish(of("other", 2)).await.unwrap();
    events.publish(of("order 1", 3)).await.unwrap();
    let (second, event) = live.next().await;
    assert_eq!(event["data"], json!({ "number": 3, "text": "a\nb" }));
    drop(live);
    events.publish(of("order 1", 4)).await.unwrap();
    let mut live = Live::open(address, Some(&second)).await;
    events.publish(of("order 1", 5)).await.unwrap();
    for number in [4, 5] {
        assert_eq!(live.next().await.1["data"]["number"], number);
    }

    for (path, headers, status) in [
        ("/events", &[][..], StatusCode::BAD_REQUEST),
        (
            "/events?workflow=x",
            &[("Last-Event-ID", "x")],
            StatusCode::BAD_REQUEST,
        ),
        ("/", &[("Host", "elsewhere.example")], StatusCode::FORBIDDEN),
        ("/other", &[], StatusCode::NOT_FOUND),
    ] {
        assert_eq!(get(address, path, headers).await.status(), status, "{path}");
    }
    events.shutdown(WITHIN).await.unwrap();
    let output = example("live")
        .args(["--store", &url, "--address", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
}
