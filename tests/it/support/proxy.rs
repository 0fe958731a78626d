//! A network between a sink and its server that can hold back what is on its way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The speed at which nothing comes back.
const LOSES: u64 = u64::MAX;

/// Forwards connections to a port of this machine.
pub struct Proxy {
    port: u16,
    /// Where later connections lead to.
    server: Arc<AtomicU16>,
    /// How many bytes a second come back; 0 is without a bound.
    speed: Arc<AtomicU64>,
    /// Each connection follows the switch that was there when it began.
    hold: Arc<std::sync::Mutex<watch::Sender<bool>>>,
}

impl Proxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hold = Arc::new(std::sync::Mutex::new(watch::channel(false).0));
        let switches = hold.clone();
        let server = Arc::new(AtomicU16::new(server));
        let speed = Arc::new(AtomicU64::new(0));
        let (leads_to, goes_at) = (server.clone(), speed.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let held = switches.lock().unwrap().subscribe();
                let server = ("127.0.0.1", leads_to.load(Ordering::Relaxed));
                // A server that is away takes the connection with it.
                if let Ok(server) = TcpStream::connect(server).await {
                    tokio::spawn(forward(client, server, held, goes_at.clone()));
                }
            }
        });
        Self {
            port,
            server,
            speed,
            hold,
        }
    }

    /// Leads later connections to another server, as a name does that is given away.
    pub fn lead_to(&self, server: u16) {
        self.server.store(server, Ordering::Relaxed);
    }

    /// Lets so many bytes a second come back.
    pub fn slow_down_to(&self, bytes: u64) {
        self.speed.store(bytes, Ordering::Relaxed);
    }

    /// Lets nothing come back, as if it were lost on the way, or everything again. A connection that lost something is of
    /// no use any more.
    pub fn lose_answers(&self, loses: bool) {
        let speed = if loses { LOSES } else { 0 };
        self.speed.store(speed, Ordering::Relaxed);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds back what the clients of later connections send, until [`hold_back`](Self::hold_back) is called: what that
    /// returns lets it go.
    pub fn hold_back_later(&self) {
        self.hold.lock().unwrap().send_replace(true);
    }

    /// Holds back what the clients of today's connections send. Those of later ones go through.
    pub fn hold_back(&self) -> watch::Sender<bool> {
        let mut hold = self.hold.lock().unwrap();
        hold.send_replace(true);
        std::mem::replace(&mut *hold, watch::channel(false).0)
    }
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    mut held: watch::Receiver<bool>,
    speed: Arc<AtomicU64>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if speed.load(Ordering::Relaxed) == LOSES {
                continue;
            }
            if to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
            let speed = speed.load(Ordering::Relaxed);
            if let Some(pause) = (length as u64 * 1_000_000).checked_div(speed) {
                tokio::time::sleep(Duration::from_micros(pause)).await;
            }
        }
        // What tokio's own copy does at the end.
        to_client.shutdown().await.ok();
    });
    let mut buffer = vec![0; 64 * 1024];
    // What is held is read all the same, as a network would: the client sees it as sent.
    let mut waiting = Vec::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        if !*held.borrow_and_update() && !waiting.is_empty() {
            if to_server.write_all(&waiting).await.is_err() {
                return;
            }
            waiting.clear();
            continue;
        }
        tokio::select! {
            length = from_client.read(&mut buffer), if open => match length {
                Ok(length @ 1..) => waiting.extend_from_slice(&buffer[..length]),
                _ => open = false,
            },
            changed = held.changed() => if changed.is_err() { return },
        }
    }
}
