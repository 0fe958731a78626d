//! Serves the events of one workflow to a browser, those that are stored and then each that comes, as server-sent events.
//! A browser that was cut off goes on where it was: the id of each message is the event's position.
//!
//! ```text
//! cargo run --example live -- --store sqlite:events.db
//! ```
//!
//! Prints the address to open, with `?workflow=ID` to be added. It listens on loopback alone: it asks nobody who they are.

use anyhow::{Context as _, ensure};
use clap::Parser;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{convert::Infallible, net::SocketAddr, time::Duration};
use temporal_eventstore::{EventQuery, EventReader};
use tokio::net::TcpListener;

const PAGE: &str = include_str!("support/live.html");
/// How often something is sent in any case, so that a browser that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Arguments {
    /// What is read: `sqlite:PATH` or `postgres://…`.
    #[arg(long, env = "EVENTSTORE_URL")]
    store: String,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: SocketAddr,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.address.ip().is_loopback(),
        "{} is not loopback",
        arguments.address
    );
    let reader = EventReader::open(&arguments.store).await?;
    let listener = TcpListener::bind(arguments.address)
        .await
        .with_context(|| format!("{} is taken", arguments.address))?;
    let address = listener.local_addr()?;
    println!("http://{address}/");
    loop {
        let (connection, _) = listener.accept().await?;
        let reader = reader.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &reader, address);
                async { Ok::<_, Infallible>(answer) }
            });
            // A browser that goes away is no failure.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service)
                .await
                .ok();
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    reader: &EventReader,
    address: SocketAddr,
) -> Response<Body> {
    // Otherwise a page from elsewhere, whose name is made to lead here, could read along.
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let port = address.port();
    if host.is_none_or(|host| host != address.to_string() && host != format!("localhost:{port}")) {
        return text(StatusCode::FORBIDDEN, "this is for this machine alone\n");
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/" => {
            let page = Full::new(Bytes::from_static(PAGE.as_bytes()));
            with_type("text/html; charset=utf-8", page.boxed_unsync())
        }
        "/events" => {
            let query = request.uri().query().unwrap_or_default();
            let mut parameters = url::form_urlencoded::parse(query.as_bytes());
            let Some((_, workflow_id)) = parameters.find(|(name, _)| name == "workflow") else {
                return text(StatusCode::BAD_REQUEST, "add ?workflow=ID\n");
            };
            // What the browser had when it was cut off.
            let last = match request.headers().get("Last-Event-ID") {
                None => Some(0),
                Some(last) => last.to_str().ok().and_then(|last| last.parse().ok()),
            };
            let Some(last) = last else {
                return text(StatusCode::BAD_REQUEST, "Last-Event-ID is a position\n");
            };
            let query = EventQuery::new().workflow_id(workflow_id).after(last);
            with_type("text/event-stream", live(reader, query))
        }
        _ => text(StatusCode::NOT_FOUND, "there are / and /events\n"),
    }
}

/// Returns the events of a query as server-sent events. The JSON of an event is one line.
fn live(reader: &EventReader, query: EventQuery) -> Body {
    let events = reader.follow(query).map(|event| match event {
        Ok(event) => format!("id: {}\ndata: {}\n\n", event.position, event.json),
        // The stream ends here, and the browser comes back after a moment.
        Err(error) => {
            eprintln!("{error}");
            "retry: 2000\n\n".to_owned()
        }
    });
    // `None` ends both.
    let events = events.map(Some).chain(stream::iter([None]));
    let alive = stream::unfold((), async |()| {
        tokio::time::sleep(ALIVE).await;
        Some((Some(": \n\n".to_owned()), ()))
    });
    let parts = stream::select(events, alive.boxed())
        .take_while(|part| std::future::ready(part.is_some()))
        .filter_map(std::future::ready);
    StreamBody::new(parts.map(|part| Ok(Frame::data(Bytes::from(part))))).boxed_unsync()
}

fn with_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = with_type("text/plain; charset=utf-8", body.boxed_unsync());
    *response.status_mut() = status;
    response
}
