//! A line between worker and server that loses, delays and cuts gRPC calls, as a plan says, and refuses
//! those without a key that it takes. Speaks HTTP/2 to both, and knows of a call only its name and its key.

use http_body_util::{BodyExt as _, Either, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server does it, and its answer is lost.
    LoseAnswer,
    /// The server does it, and the whole connection breaks before the answer arrives.
    CutConnection,
    /// It never reaches the server.
    LoseCall,
    /// It reaches the server late.
    DelayCall(Duration),
    /// The answer comes late.
    DelayAnswer(Duration),
}

/// Says what happens to the next call of that name, such as `RespondWorkflowTaskCompleted`.
pub type Plan = Arc<dyn Fn(&str) -> Option<Fault> + Send + Sync>;

/// The line; it ends when dropped.
pub struct LossyLine {
    address: SocketAddr,
    faults: Arc<Mutex<BTreeMap<String, usize>>>,
    accepting: JoinHandle<()>,
}

/// The keys that are taken now; none are asked for where there are none.
pub type Keys = Arc<Mutex<Vec<String>>>;

#[derive(Clone)]
struct Ends {
    server: SocketAddr,
    plan: Plan,
    keys: Keys,
    faults: Arc<Mutex<BTreeMap<String, usize>>>,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl LossyLine {
    /// A line to the server that listens on `port` of this machine.
    pub async fn to(port: u16, plan: Plan) -> Self {
        Self::guarded(port, plan, Keys::default()).await
    }

    /// A line that lets only calls with one of the keys through.
    pub async fn guarded(port: u16, plan: Plan, keys: Keys) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let ends = Ends {
            server: ([127, 0, 0, 1], port).into(),
            plan,
            keys,
            faults: faults.clone(),
        };
        let accepting = tokio::spawn(async move {
            // Ends, with all its connections, when the line is dropped.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, ends.clone()));
            }
        });
        Self {
            address,
            faults,
            accepting,
        }
    }

    /// Where workers connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many faults each kind of call met.
    pub fn faults(&self) -> BTreeMap<String, usize> {
        self.faults.lock().unwrap().clone()
    }
}

impl Drop for LossyLine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(stream: TcpStream, ends: Ends) {
    stream.set_nodelay(true).ok();
    // A server that is away is a connection that breaks.
    let Ok(server) = TcpStream::connect(ends.server).await else {
        return;
    };
    server.set_nodelay(true).ok();
    let Ok((sender, upstream)) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(server)).await
    else {
        return;
    };
    let cut = Arc::new(Notify::new());
    let service = service_fn({
        let cut = cut.clone();
        move |request| call(request, sender.clone(), ends.clone(), cut.clone())
    });
    let downstream = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = downstream => {}
        _ = upstream => {}
        () = cut.notified() => {}
    }
}

async fn call(
    request: Request<Incoming>,
    mut server: hyper::client::conn::http2::SendRequest<Incoming>,
    ends: Ends,
    cut: Arc<Notify>,
) -> Result<Response<Either<Incoming, Full<Bytes>>>, AnyError> {
    let name = request
        .uri()
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let count = |kind: &str| {
        let mut faults = ends.faults.lock().unwrap();
        *faults.entry(format!("{kind} {name}")).or_default() += 1;
    };
    if !is_taken(&request, &ends.keys) {
        count("Refuse");
        let refusal = Response::builder()
            .header("content-type", "application/grpc")
            // UNAUTHENTICATED
            .header("grpc-status", "16")
            .header("grpc-message", "the key is not valid");
        return Ok(refusal.body(Either::Right(Full::default()))?);
    }
    let fault = (ends.plan)(&name);
    if let Some(fault) = fault {
        let kind = format!("{fault:?}");
        count(kind.split('(').next().unwrap_or_default());
    }
    match fault {
        Some(Fault::LoseCall) => return Err("lost on the way".into()),
        Some(Fault::DelayCall(pause)) => tokio::time::sleep(pause).await,
        _ => {}
    }
    let response = server.send_request(request).await?;
    match fault {
        Some(Fault::LoseAnswer) => {
            // Read to its end, so that the server is known to have done it.
            response.into_body().collect().await?;
            Err("the answer was lost".into())
        }
        Some(Fault::CutConnection) => {
            response.into_body().collect().await?;
            cut.notify_one();
            Err("the connection was cut".into())
        }
        Some(Fault::DelayAnswer(pause)) => {
            tokio::time::sleep(pause).await;
            Ok(response.map(Either::Left))
        }
        _ => Ok(response.map(Either::Left)),
    }
}

fn is_taken(request: &Request<Incoming>, keys: &Keys) -> bool {
    let keys = keys.lock().unwrap();
    let shown = request.headers().get("authorization");
    keys.is_empty()
        || keys
            .iter()
            .any(|key| shown.is_some_and(|shown| *shown == format!("Bearer {key}")))
}
