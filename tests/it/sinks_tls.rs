//! Sinks over TLS: a server with a certificate of a known authority is delivered to, any other one
//! never sees a password.

use crate::support::servers::{Certificate, DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::Path;
use temporal_eventstore::{
    Event, EventId,
    sink::{self, Delivered, SinkError, SinkEvent},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

/// An authority whose certificate is in a file, and a server's certificate of it.
struct Authority {
    directory: tempfile::TempDir,
    server: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn for_server(name: &str) -> Self {
        let mut server = CertificateParams::new(vec![name.to_owned()]).unwrap();
        // OpenSSL takes what has the name of its issuer for its own issuer.
        server.distinguished_name.push(DnType::CommonName, "server");
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(parameters, key);
        let server_key = KeyPair::generate().unwrap();
        let server = server.signed_by(&server_key, &issuer).unwrap();
        Self {
            directory,
            server: Certificate {
                certificate: server.pem(),
                key: server_key.serialize_pem(),
            },
            issuer,
        }
    }

    /// Writes a client's certificate and key, and returns where they are.
    fn client(&self, name: &str) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str, text: &str| {
            let path = self.directory.path().join(format!("client.{kind}"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        [
            file("crt", &certificate.pem()),
            file("key", &key.serialize_pem()),
        ]
    }

    /// A server that takes nobody without a certificate of this authority.
    fn asking(&self) -> ServerConfig {
        let certificate = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.text())).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![certificate(&self.server.certificate)],
                PrivateKeyDer::from_pem_slice(self.server.key.as_bytes()).unwrap(),
            )
            .unwrap()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("ca.pem")).unwrap()
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

/// The machine's own certificates may be missing, or broken.
#[test]
fn nats_does_without_the_machines_certificates() {
    let authority = Authority::for_server("127.0.0.1");
    let server = Server::nats_with(authority.server.clone());
    let reaches = |parameters: &str| {
        let port = server.port();
        let url = format!("nats://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{port}/events{parameters}");
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "conformance::checks_the_sink_of_its_environment",
            ])
            .env("SINK_URL", url)
            .env("SSL_CERT_FILE", "/no/such/file")
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(reaches(&format!("?tls_ca={}", authority.file())));
    assert!(!reaches(""));
    let stranger = Authority::for_server("127.0.0.1");
    assert!(!reaches(&format!("?tls_ca={}", stranger.file())));
}

#[tokio::test]
async fn nats_with_an_authority_speaks_nothing_but_tls() {
    let authority = Authority::for_server("127.0.0.1");
    let server = Server::nats();
    let (port, file) = (server.port(), authority.file());
    let url = format!("nats://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{port}/events?tls_ca={file}");
    deliver(&url).await.unwrap_err();
}

/// With a certificate it works, also after it was renewed; without one it does not.
async fn asks_for_a_certificate(authority: &Authority, url: impl Fn(&str) -> String) {
    let [certificate, key] = authority.client(USER);
    let url = |with: bool| match with {
        true => url(&format!("&CERT={certificate}&KEY={key}")),
        false => url(""),
    };
    let sink = sink::open(&url(true)).unwrap();
    let error = deliver(&url(false)).await.unwrap_err();
    assert!(!format!("{error:?}").contains(PASSWORD), "{error}");
    let stranger = Authority::for_server("127.0.0.1");
    let [wrong, wrong_key] = stranger.client(USER);
    std::fs::copy(wrong, &certificate).unwrap();
    std::fs::copy(wrong_key, &key).unwrap();
    sink.check().await.unwrap_err();
    authority.client(USER);
    sink.check().await.unwrap();
    deliver(&url(true)).await.unwrap();
}

#[tokio::test]
async fn redis_that_asks_for_a_certificate() {
    let authority = Authority::for_server("127.0.0.1");
    let (ca, server) = (authority.file(), authority.server.clone());
    let arguments = ["--tls-auth-clients", "yes", "--tls-ca-cert-file", &ca];
    let server = Server::redis_of(Some(server), &arguments);
    asks_for_a_certificate(&authority, |more| {
        let more = more.replace("CERT", "tls_cert").replace("KEY", "tls_key");
        let port = server.port();
        format!("rediss://:{PASSWORD_IN_URL}@127.0.0.1:{port}/events?tls_ca={ca}{more}")
    })
    .await;
}

#[tokio::test]
async fn nats_that_asks_for_a_certificate() {
    let authority = Authority::for_server("127.0.0.1");
    let ca = authority.file();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let server = Server::nats_of(&format!(
        "jetstream {{ store_dir: \"DIRECTORY/jetstream\" }}\n\
         tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{ca}\", verify: true }}\n",
        file("certificate", &authority.server.certificate),
        file("key", &authority.server.key),
    ));
    asks_for_a_certificate(&authority, |more| {
        let more = more.replace("CERT", "tls_cert").replace("KEY", "tls_key");
        format!(
            "nats://127.0.0.1:{}/events?tls_ca={ca}{more}",
            server.port()
        )
    })
    .await;
}

#[tokio::test]
async fn http_that_asks_for_a_certificate() {
    let authority = Authority::for_server("127.0.0.1");
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(authority.asking()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // Each connection stays open, so that one with an old certificate could be used again.
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut request = vec![0; 64 * 1024];
                while stream.read(&mut request).await? > 0 {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    asks_for_a_certificate(&authority, |more| {
        let more = more
            .replace("CERT", "eventstore.tls_cert")
            .replace("KEY", "eventstore.tls_key");
        let ca = authority.file();
        format!("https://127.0.0.1:{port}/in?eventstore.tls_ca={ca}{more}")
    })
    .await;
    // Also when it was let in before: the connection is not used on.
    let [certificate, key] = authority.client(USER);
    let files = format!("&eventstore.tls_cert={certificate}&eventstore.tls_key={key}");
    let ca = authority.file();
    let url = format!("https://127.0.0.1:{port}/in?eventstore.tls_ca={ca}{files}");
    let sink = sink::open(&url).unwrap();
    sink.check().await.unwrap();
    std::fs::write(&key, "").unwrap();
    let error = sink.check().await.unwrap_err();
    assert!(error.reason().contains("client.key"), "{error}");
    authority.client(USER);
    sink.check().await.unwrap();
    server.abort();
    for (parameters, reason) in [
        (
            format!("https://h/?eventstore.tls_cert={certificate}"),
            "go together",
        ),
        (format!("http://h/?{files}"), "with `https:` only"),
        (
            format!("https://h/?eventstore.tls_cert=/no&eventstore.tls_key={key}"),
            "/no",
        ),
    ] {
        let error = sink::open(&parameters).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    }
}

#[cfg(feature = "kafka-tls")]
#[tokio::test]
async fn kafka_that_asks_for_a_certificate() {
    use crate::support::{
        kafka_broker::{Broker, Kind, free_port},
        kafka_gate::Gate,
    };

    let authority = Authority::for_server("127.0.0.1");
    let config = authority.asking();
    let (port, gate) = (free_port(), Gate::new());
    let _broker = Broker::start_behind(Kind::Tansu, port, gate.port());
    let place = format!("127.0.0.1:{}", gate.port());
    gate.speak_tls(port, config);
    asks_for_a_certificate(&authority, |more| {
        let more = more.replace("CERT", "tls_cert").replace("KEY", "tls_key");
        let ca = authority.file();
        format!(
            "kafka+tls://{place}/events?partitions=1&replication=1&timeout=4s&tls_ca={ca}{more}"
        )
    })
    .await;
}

#[tokio::test]
async fn postgres_that_asks_for_a_certificate() {
    let authority = Authority::for_server("127.0.0.1");
    let server = Server::postgres_with(authority.server.clone());
    let ca = server.write("ca", &authority.text());
    // Once it reads this, a certificate is all that it takes.
    server.write("data/pg_hba.conf", "hostssl all all 127.0.0.1/32 cert\n");
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(server.port())
        .user(USER)
        .password(PASSWORD)
        .dbname(DATABASE)
        .connect(tokio_postgres::NoTls)
        .await
        .map(|(client, connection)| (client, tokio::spawn(connection)))
        .unwrap();
    for statement in [
        &*format!("ALTER SYSTEM SET ssl_ca_file = '{}'", ca.display()),
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    // The server's main process has read it when it is back from sleep.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    asks_for_a_certificate(&authority, |more| {
        let more = more.replace("CERT", "sslcert").replace("KEY", "sslkey");
        let (port, ca) = (server.port(), authority.file());
        format!(
            "postgres://{USER}@127.0.0.1:{port}/{DATABASE}?sslmode=require&sslrootcert={ca}{more}"
        )
    })
    .await;
    connection.abort();
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
