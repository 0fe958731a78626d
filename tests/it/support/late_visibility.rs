//! A line to the server on which visibility shows some runs late: while a run is hidden, no list of
//! runs names it. Everything else goes through as it is.

use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use temporalio_common::protos::temporal::api::workflowservice::v1::ListWorkflowExecutionsResponse;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Workflow ids.
type Hidden = Arc<Mutex<BTreeSet<String>>>;
type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, AnyError>>;

/// What stands before a message in a gRPC body: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The line; it ends when dropped.
pub struct LateVisibility {
    address: SocketAddr,
    hidden: Hidden,
    accepting: JoinHandle<()>,
}

impl LateVisibility {
    /// A line to the server that listens on `port` of this machine.
    pub async fn of(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hidden = Hidden::default();
        let accepting = tokio::spawn({
            let hidden = hidden.clone();
            async move {
                // Ends, with all its connections, when the line is dropped.
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(connection(stream, port, hidden.clone()));
                }
            }
        });
        Self {
            address,
            hidden,
            accepting,
        }
    }

    /// Where clients connect, those that compress nothing: what they get is read here.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// No list names the runs of this workflow id.
    pub fn hide(&self, workflow_id: &str) {
        self.hidden.lock().unwrap().insert(workflow_id.to_owned());
    }

    pub fn show(&self, workflow_id: &str) {
        self.hidden.lock().unwrap().remove(workflow_id);
    }
}

impl Drop for LateVisibility {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(stream: TcpStream, port: u16, hidden: Hidden) {
    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (sender, upstream) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(server))
            .await
            .unwrap();
    let service = service_fn(move |request| call(request, sender.clone(), hidden.clone()));
    let downstream = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = downstream => {}
        _ = upstream => {}
    }
}

async fn call(
    request: Request<Incoming>,
    mut server: hyper::client::conn::http2::SendRequest<Incoming>,
    hidden: Hidden,
) -> Result<Answer, AnyError> {
    let is_list = request.uri().path().ends_with("/ListWorkflowExecutions");
    let response = server.send_request(request).await?;
    if !is_list {
        return Ok(response.map(|body| body.map_err(AnyError::from).boxed_unsync()));
    }
    let (parts, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let bytes = body.to_bytes();
    let bytes = match bytes.get(PREFIX_BYTES..) {
        Some(message) => shown(message, &hidden)?,
        // An error has no message.
        None => bytes,
    };
    let body = Full::new(bytes)
        .map_err(AnyError::from)
        .with_trailers(std::future::ready(trailers.map(Ok)));
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

/// The answer without the runs that are hidden.
fn shown(message: &[u8], hidden: &Hidden) -> Result<Bytes, AnyError> {
    let mut list = ListWorkflowExecutionsResponse::decode(message)?;
    let hidden = hidden.lock().unwrap();
    list.executions.retain(|run| {
        let workflow_id = run.execution.as_ref().map(|run| run.workflow_id.as_str());
        workflow_id.is_none_or(|id| !hidden.contains(id))
    });
    let message = list.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len())?.to_be_bytes());
    bytes.extend(message);
    Ok(bytes.into())
}
