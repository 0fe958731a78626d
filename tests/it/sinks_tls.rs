//! Sinks over TLS: a server with a certificate of a known authority is delivered to, any other one
//! never sees a password.

use crate::support::servers::{Certificate, DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;
use temporal_eventstore::{
    Event, EventId,
    sink::{self, Delivered, SinkError, SinkEvent},
};

/// An authority whose certificate is in a file, and a server's certificate of it.
struct Authority {
    directory: tempfile::TempDir,
    server: Certificate,
}

impl Authority {
    fn for_server(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(parameters, key);
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&server_key, &issuer)
            .unwrap();
        Self {
            directory,
            server: Certificate {
                certificate: server.pem(),
                key: server_key.serialize_pem(),
            },
        }
    }

    fn file(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }
}

async fn deliver(url: &str) -> Result<(), SinkError> {
    let mut event = Event::new("data.processed");
    event.metadata.event_id = Some(EventId::new());
    event.metadata.created_at = Some(chrono::Utc::now());
    let batch = [SinkEvent::new(1, &event).unwrap()];
    let sink = sink::open(url).unwrap();
    sink.check().await?;
    assert_eq!(sink.deliver(&batch).await?, Delivered::all(&batch));
    Ok(())
}

/// With the right authority it works; without it, and under another name, it does not.
async fn verifies(
    begin: impl Fn(Certificate) -> Server,
    url: impl Fn(u16, Option<&str>) -> String,
) {
    let authority = Authority::for_server("127.0.0.1");
    let server = begin(authority.server.clone());
    deliver(&url(server.port(), Some(&authority.file())))
        .await
        .unwrap();
    let stranger = Authority::for_server("127.0.0.1");
    for roots in [None, Some(stranger.file())] {
        refused(&url(server.port(), roots.as_deref())).await;
    }
    drop(server);
    let elsewhere = Authority::for_server("elsewhere.example");
    let server = begin(elsewhere.server.clone());
    refused(&url(server.port(), Some(&elsewhere.file()))).await;
}

async fn refused(url: &str) {
    let text = deliver(url).await.unwrap_err().to_string();
    assert!(text.contains("certificate"), "{text}");
    assert!(!text.contains(PASSWORD), "{text}");
}

#[tokio::test]
async fn postgres() {
    for mode in ["prefer", "require", "verify-full"] {
        verifies(Server::postgres_with, |port, roots| {
            let roots = roots.map_or(String::new(), |file| format!("&sslrootcert={file}"));
            format!(
                "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{port}/{DATABASE}\
                 ?sslmode={mode}{roots}"
            )
        })
        .await;
    }
}

#[tokio::test]
async fn postgres_without_tls_is_no_server_for_who_requires_it() {
    let server = Server::postgres();
    let url = |mode: &str| {
        format!(
            "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}?sslmode={mode}",
            server.port()
        )
    };
    deliver(&url("prefer")).await.unwrap();
    deliver(&url("require")).await.unwrap_err();
    deliver(&url("verify-full")).await.unwrap_err();
}

#[tokio::test]
async fn nats() {
    // A server that demands TLS gets it with either scheme.
    for scheme in ["nats", "nats+tls"] {
        verifies(Server::nats_with, |port, roots| {
            let roots = roots.map_or(String::new(), |file| format!("?tls_ca={file}"));
            format!("{scheme}://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{port}/events{roots}")
        })
        .await;
    }
    let server = Server::nats();
    let url = format!(
        "nats+tls://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/events",
        server.port()
    );
    deliver(&url).await.unwrap_err();
}

#[tokio::test]
async fn redis() {
    verifies(Server::redis_with, |port, roots| {
        let roots = roots.map_or(String::new(), |file| format!("?tls_ca={file}"));
        format!("rediss://:{PASSWORD_IN_URL}@127.0.0.1:{port}/events{roots}")
    })
    .await;
}

#[test]
fn a_file_without_certificates_is_no_authority() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    for url in [
        "postgres://u:p@h/d?sslrootcert=",
        "nats+tls://h/events?tls_ca=",
        "rediss://h/events?tls_ca=",
    ] {
        let error = sink::open(&format!("{url}{}", file.display())).unwrap_err();
        assert!(error.reason.contains("no certificate"), "{error}");
    }
}
