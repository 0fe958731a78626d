//! What stands before a Kafka broker that knows neither TLS nor OAUTHBEARER. Speaks the protocol's own frames.

use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// The keys of the two requests of SASL.
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
const AUTHENTICATION_FAILED: i16 = 58;

/// A place to listen at, which a broker can name before anybody stands there.
pub struct Gate {
    listener: std::net::TcpListener,
}

impl Gate {
    pub fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Speaks TLS to clients, and plain Kafka to the broker.
    pub fn speak_tls(self, broker: u16, config: ServerConfig) {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::from_std(self.listener).unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who has no certificate is sent away here.
                    let Ok(mut client) = acceptor.accept(client).await else {
                        return;
                    };
                    let mut broker = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
                    copy_bidirectional(&mut client, &mut broker).await.ok();
                });
            }
        });
    }

    /// Answers what is about OAUTHBEARER itself, and lets in whoever has `token`. Returns how many it let in.
    pub fn ask_for(self, token: &'static str, broker: u16) -> Arc<Mutex<usize>> {
        let let_in = Arc::new(Mutex::new(0));
        let count = let_in.clone();
        let listener = TcpListener::from_std(self.listener).unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let broker = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
                tokio::spawn(guard(client, broker, token, count.clone()));
            }
        });
        let_in
    }
}

async fn guard(
    client: TcpStream,
    broker: TcpStream,
    token: &'static str,
    let_in: Arc<Mutex<usize>>,
) -> Option<()> {
    let (mut requests, mut answers) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    // The client asks one thing at a time until it is in.
    loop {
        let request = frame(&mut requests).await?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let correlation = &request[4..8];
        match number(0) {
            SASL_HANDSHAKE => {
                let mut answer = correlation.to_vec();
                answer.extend(0i16.to_be_bytes());
                answer.extend(1i32.to_be_bytes());
                answer.extend(11i16.to_be_bytes());
                answer.extend(b"OAUTHBEARER");
                send(&mut answers, &answer).await?;
            }
            SASL_AUTHENTICATE => {
                let said = String::from_utf8_lossy(&request);
                let is_known = said.contains(&format!("\u{1}auth=Bearer {token}\u{1}"));
                let mut answer = correlation.to_vec();
                answer.extend(if is_known { 0 } else { AUTHENTICATION_FAILED }.to_be_bytes());
                // No message, and nothing more to say.
                answer.extend((-1i16).to_be_bytes());
                answer.extend(0i32.to_be_bytes());
                if number(2) > 0 {
                    answer.extend(0i64.to_be_bytes());
                }
                send(&mut answers, &answer).await?;
                if is_known {
                    *let_in.lock().unwrap() += 1;
                    break;
                }
            }
            // Which requests the broker knows.
            _ => {
                send(&mut to_broker, &request).await?;
                let answer = frame(&mut from_broker).await?;
                send(&mut answers, &answer).await?;
            }
        }
    }
    tokio::spawn(async move { copy(&mut from_broker, &mut answers).await });
    copy(&mut requests, &mut to_broker).await.ok();
    Some(())
}

async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = from.read_u32().await.ok()?;
    let mut frame = vec![0; length as usize];
    from.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn send(to: &mut OwnedWriteHalf, frame: &[u8]) -> Option<()> {
    to.write_u32(frame.len() as u32).await.ok()?;
    to.write_all(frame).await.ok()
}
