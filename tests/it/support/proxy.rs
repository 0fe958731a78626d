//! A network between a sink and its server that can hold back what is on its way.

use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Forwards connections to a port of this machine.
pub struct Proxy {
    port: u16,
    /// Each connection follows the switch that was there when it began.
    hold: Arc<std::sync::Mutex<watch::Sender<bool>>>,
}

impl Proxy {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hold = Arc::new(std::sync::Mutex::new(watch::channel(false).0));
        let switches = hold.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let held = switches.lock().unwrap().subscribe();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(forward(client, server, held));
            }
        });
        Self { port, hold }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds back what the clients of today's connections send. Those of later ones go through.
    pub fn hold_back(&self) -> watch::Sender<bool> {
        let mut hold = self.hold.lock().unwrap();
        hold.send_replace(true);
        std::mem::replace(&mut *hold, watch::channel(false).0)
    }
}

async fn forward(client: TcpStream, server: TcpStream, mut held: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        tokio::io::copy(&mut from_server, &mut to_client).await.ok();
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
