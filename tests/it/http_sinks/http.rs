//! What the HTTP sink does with each answer of an endpoint.

use crate::support::{
    conformance::batch,
    stand_in::{StandIn, header},
    target_http::cloud_events,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use temporal_eventstore::sink::{self, Delivered, RejectionKind, SinkEvent};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, pki_types::PrivateKeyDer},
};
use wiremock::ResponseTemplate;

/// An endpoint that answers alike to everything.
async fn always(answer: ResponseTemplate) -> StandIn {
    StandIn::start(move |_| answer.clone()).await
}

fn url(endpoint: &StandIn) -> String {
    format!("http://{}/in", endpoint.address())
}

#[tokio::test]
async fn a_batch_is_one_request_of_cloud_events() {
    let endpoint = always(ResponseTemplate::new(200)).await;
    let events = batch(1, 7);
    let sink = sink::open(&url(&endpoint)).unwrap();
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        header(&requests[0], "content-type"),
        Some("application/cloudevents-batch+json")
    );
    let sent = cloud_events(&requests[0]).unwrap();
    for (sent, event) in sent.into_iter().zip(&events) {
        assert_eq!(sent.specversion, "1.0");
        assert_eq!(sent.id, event.event_id.to_string());
        assert_eq!(sent.into_event(), event.event().unwrap());
    }
}

#[tokio::test]
async fn one_event_per_request_in_order() {
    for (mode, content_type) in [
        ("structured", "application/cloudevents+json"),
        ("binary", "application/json"),
    ] {
        let endpoint = always(ResponseTemplate::new(200)).await;
        let events = batch(1, 4);
        let sink = sink::open(&format!("{}?eventstore.mode={mode}", url(&endpoint))).unwrap();
        assert_eq!(
            sink.deliver(&events).await.unwrap(),
            Delivered::all(&events)
        );
        let requests = endpoint.requests();
        assert_eq!(requests.len(), 4);
        for (request, event) in requests.iter().zip(&events) {
            assert_eq!(header(request, "content-type"), Some(content_type));
            assert_eq!(request.url.query(), None);
            let sent = cloud_events(request).unwrap().remove(0);
            assert_eq!(sent.into_event(), event.event().unwrap());
            if mode == "binary" {
                assert_eq!(request.body, event.json.as_bytes());
                let id = event.event_id.to_string();
                assert_eq!(header(request, "ce-id"), Some(&*id));
            }
        }
    }
}

/// The request with its body as it was before it was compressed.
fn unpacked(mut request: wiremock::Request) -> wiremock::Request {
    assert_eq!(header(&request, "content-encoding"), Some("gzip"));
    let mut body = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&*request.body);
    std::io::Read::read_to_end(&mut decoder, &mut body).unwrap();
    request.body = body;
    request
}

#[tokio::test]
async fn a_compressed_body_is_the_same_when_it_is_unpacked() {
    for mode in ["batched", "structured", "binary"] {
        let endpoint = always(ResponseTemplate::new(200)).await;
        let events = batch(1, 20);
        let parameters = format!("eventstore.mode={mode}&eventstore.compress=");
        let deliver = async |compress: &str| {
            let sink = sink::open(&format!("{}?{parameters}{compress}", url(&endpoint))).unwrap();
            let delivered = sink.deliver(&events).await.unwrap();
            assert_eq!(delivered, Delivered::all(&events));
        };
        deliver("none").await;
        let plain = endpoint.requests();
        deliver("gzip").await;
        let packed = endpoint.requests().split_off(plain.len());
        assert_eq!(packed.len(), plain.len());
        for (packed, plain) in packed.into_iter().zip(plain) {
            assert_eq!(header(&plain, "content-encoding"), None);
            if mode == "batched" {
                assert!(packed.body.len() * 3 < plain.body.len());
            }
            let unpacked = unpacked(packed);
            assert_eq!(unpacked.body, plain.body);
            assert_eq!(
                header(&unpacked, "content-type"),
                header(&plain, "content-type")
            );
        }
    }
}

#[tokio::test]
async fn who_takes_no_compressed_body_is_an_outage() {
    let endpoint = StandIn::start(|request| {
        let is_packed = header(request, "content-encoding").is_some();
        ResponseTemplate::new(if is_packed { 415 } else { 200 })
    })
    .await;
    let sink = sink::open(&format!("{}?eventstore.compress=gzip", url(&endpoint))).unwrap();
    let error = sink.deliver(&batch(1, 4)).await.unwrap_err();
    assert!(error.reason().contains("415"), "{error}");
    assert_eq!(endpoint.requests().len(), 1);
}

#[tokio::test]
async fn a_password_in_a_file_is_read_for_each_request() {
    let endpoint = always(ResponseTemplate::new(200)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let path = file.display();
    let open = |login: &str| {
        sink::open(&format!(
            "http://{login}{}/in?eventstore.password_file={path}",
            endpoint.address()
        ))
    };
    let error = open("tester@").unwrap_err();
    assert!(error.reason.contains(&*path.to_string()), "{error}");
    std::fs::write(&file, "one\n").unwrap();
    let sink = open("tester@").unwrap();
    for (password, sent) in [("one", "dGVzdGVyOm9uZQ=="), ("two", "dGVzdGVyOnR3bw==")] {
        std::fs::write(&file, password).unwrap();
        sink.deliver(&batch(1, 1)).await.unwrap();
        let requests = endpoint.requests();
        let basic = header(requests.last().unwrap(), "authorization");
        assert_eq!(basic, Some(&*format!("Basic {sent}")));
    }
    for (login, reason) in [
        ("tester:hunter2@", "a password and"),
        ("", "needs a user name"),
    ] {
        let error = open(login).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn what_passes_is_an_error_and_nothing_is_given_up() {
    for status in [
        301, 307, 401, 403, 404, 405, 408, 414, 415, 425, 429, 431, 500, 502, 503, 504,
    ] {
        let endpoint = always(ResponseTemplate::new(status)).await;
        let sink = sink::open(&url(&endpoint)).unwrap();
        let error = sink.deliver(&batch(1, 4)).await.unwrap_err();
        assert!(error.reason().contains(&status.to_string()), "{error}");
        assert_eq!(error.retry_after(), None);
        assert_eq!(endpoint.requests().len(), 1, "{status} is not asked again");
    }
}

#[tokio::test]
async fn what_is_refused_is_told_with_what_was_said() {
    for status in [400, 409, 413, 422] {
        let endpoint =
            always(ResponseTemplate::new(status).set_body_string("no\n way".repeat(100))).await;
        let sink = sink::open(&url(&endpoint)).unwrap();
        let delivered = sink.deliver(&batch(2, 3)).await.unwrap();
        assert_eq!((delivered.taken, delivered.rejected.len()), (3, 3));
        for (index, rejection) in delivered.rejected.iter().enumerate() {
            assert_eq!(rejection.index, index);
            assert_eq!(rejection.kind, RejectionKind::Refused);
            assert!(
                rejection.reason.contains(&status.to_string()),
                "{rejection:?}"
            );
            assert!(!rejection.reason.contains("way"), "{rejection:?}");
            let answer = rejection.answer.as_deref().unwrap();
            assert!(answer.contains("no way") && answer.len() < 500, "{answer}");
        }
    }
}

#[tokio::test]
async fn who_refuses_everything_is_not_asked_about_everything() {
    let endpoint = always(ResponseTemplate::new(400)).await;
    let sink = sink::open(&url(&endpoint)).unwrap();
    let delivered = sink.deliver(&batch(1, 500)).await.unwrap();
    assert_eq!((delivered.taken, delivered.rejected.len()), (10, 10));
    assert!(endpoint.requests().len() < 40);
}

/// Headers that are made from the event can be too much for a server, without the server being at fault.
#[tokio::test]
async fn headers_that_are_too_large_are_the_events() {
    let endpoint = StandIn::start(|request| {
        let headers = request.headers.iter();
        let bytes: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        ResponseTemplate::new(if bytes > 8000 { 431 } else { 200 })
    })
    .await;
    let mut events = batch(1, 3);
    let with_id = |event: &SinkEvent, length: usize| {
        let mut changed = event.event().unwrap();
        changed.metadata.workflow_id = Some("ö".repeat(length));
        SinkEvent::new(event.position, &changed).unwrap()
    };
    // Each letter takes six bytes, and stands there twice.
    events[0] = with_id(&events[0], 1000);
    events[1] = with_id(&events[1], 2000);
    let sink = sink::open(&format!("{}?eventstore.mode=binary", url(&endpoint))).unwrap();
    let delivered = sink.deliver(&events).await.unwrap();
    let kinds: Vec<_> = delivered
        .rejected
        .iter()
        .map(|one| (one.index, one.kind))
        .collect();
    assert_eq!(
        kinds,
        [(0, RejectionKind::Refused), (1, RejectionKind::Unsendable)]
    );
    assert!(
        delivered.rejected[1].reason.contains("16384"),
        "{delivered:?}"
    );
    assert_eq!(endpoint.requests().len(), 2, "one was not sent at all");
    // In the body, all of them have room.
    let sink = sink::open(&format!("{}?eventstore.mode=structured", url(&endpoint))).unwrap();
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
}

/// Answers each request with these bytes and then does as it is told, without reading the body.
async fn raw(answer: &'static str, then_closes: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                stream.read_exact(&mut [0; 16]).await.ok();
                stream.write_all(answer.as_bytes()).await.ok();
                count.fetch_add(1, Ordering::Relaxed);
                if !then_closes {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            });
        }
    });
    (url, answered)
}

#[tokio::test]
async fn an_answer_holds_whatever_becomes_of_its_body() {
    // The body never comes: the events were taken all the same.
    let (url, answered) = raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", false).await;
    let sink = sink::open(&url).unwrap();
    let events = batch(1, 3);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(answered.load(Ordering::Relaxed), 1);
    // It breaks off.
    let (url, _) = raw("HTTP/1.1 503 Away\r\ncontent-length: 9\r\n\r\nno", true).await;
    let error = sink::open(&url)
        .unwrap()
        .deliver(&events)
        .await
        .unwrap_err();
    assert!(error.reason().contains("answered 503"), "{error}");
}

#[tokio::test]
async fn a_pause_is_handed_on_in_seconds_and_as_a_date() {
    for (value, seconds) in [
        ("17".to_owned(), 17..=17),
        (
            httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60)),
            50..=60,
        ),
    ] {
        for status in [429, 503] {
            let answer = ResponseTemplate::new(status).insert_header("retry-after", &*value);
            let endpoint = always(answer).await;
            let sink = sink::open(&url(&endpoint)).unwrap();
            let error = sink.deliver(&batch(1, 2)).await.unwrap_err();
            let pause = error.retry_after().unwrap().as_secs();
            assert!(seconds.contains(&pause), "{value}: {pause}");
        }
    }
}

#[tokio::test]
async fn what_was_taken_before_a_failure_is_not_sent_again() {
    let asked = AtomicUsize::new(0);
    let endpoint = StandIn::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        2 => ResponseTemplate::new(503),
        _ => ResponseTemplate::new(200),
    })
    .await;
    let sink = sink::open(&format!("{}?eventstore.mode=binary", url(&endpoint))).unwrap();
    let events = batch(1, 4);
    let delivered = sink.deliver(&events).await.unwrap();
    assert_eq!(delivered, Delivered::up_to(2, vec![]));
    let rest = &events[delivered.taken..];
    assert_eq!(sink.deliver(rest).await.unwrap(), Delivered::all(rest));
    let ids: Vec<_> = endpoint
        .requests()
        .iter()
        .map(|request| header(request, "ce-id").unwrap().to_owned())
        .collect();
    let wanted: Vec<_> = [0, 1, 2, 2, 3]
        .map(|index: usize| events[index].event_id.to_string())
        .into();
    assert_eq!(ids, wanted);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = always(ResponseTemplate::new(200)).await;
    let endpoint =
        always(ResponseTemplate::new(307).insert_header("location", &*url(&elsewhere))).await;
    let url = format!("http://u:hunter2@{}/in", endpoint.address());
    sink::open(&url)
        .unwrap()
        .deliver(&batch(1, 1))
        .await
        .unwrap_err();
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_slow_endpoint_costs_no_more_than_the_bound() {
    let endpoint = always(ResponseTemplate::new(200).set_delay(Duration::from_secs(60))).await;
    let sink = sink::open(&url(&endpoint)).unwrap();
    let started = Instant::now();
    let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
    let took = started.elapsed();
    assert!(error.reason().contains("timed out"), "{error}");
    // The default, which no URL can raise.
    assert!((14..=19).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn a_batch_of_slow_requests_stays_within_the_bound() {
    let endpoint = always(ResponseTemplate::new(200).set_delay(Duration::from_secs(4))).await;
    let sink = sink::open(&format!("{}?eventstore.mode=binary", url(&endpoint))).unwrap();
    let started = Instant::now();
    let delivered = sink.deliver(&batch(1, 20)).await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(delivered, Delivered::up_to(4, vec![]));
}

#[tokio::test]
async fn check_tells_an_endpoint_from_an_outage() {
    for (status, reached) in [(200, true), (404, true), (405, true), (501, true)]
        .into_iter()
        .chain([(401, false), (403, false), (500, false), (503, false)])
    {
        let endpoint = always(ResponseTemplate::new(status)).await;
        let sink = sink::open(&url(&endpoint)).unwrap();
        assert_eq!(sink.check().await.is_ok(), reached, "{status}");
        assert_eq!(endpoint.requests()[0].method.as_str(), "HEAD");
    }
}

/// An endpoint that speaks TLS with a certificate for `localhost`, answers 200, and counts. Gives its
/// port and its certificate as PEM.
pub(super) async fn with_tls(served: Arc<AtomicUsize>) -> (u16, String) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    // Named, since a test's process may have two.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = vec![0; 64 * 1024];
            if stream.read(&mut request).await.unwrap_or_default() > 0 {
                served.fetch_add(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.ok();
            }
        }
    });
    (port, own.cert.pem())
}

#[tokio::test]
async fn tls_with_a_certificate_that_is_trusted_and_with_that_of_a_stranger() {
    let served = Arc::new(AtomicUsize::new(0));
    let (port, certificate) = with_tls(served.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let trusted = format!("?eventstore.tls_ca={}", file.display());
    let events = batch(1, 2);
    let sink = sink::open(&format!("https://localhost:{port}/in{trusted}")).unwrap();
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(served.load(Ordering::SeqCst), 1);
    // Not trusted, and trusted under another name.
    for url in [
        format!("https://localhost:{port}/in"),
        format!("https://127.0.0.1:{port}/in{trusted}"),
    ] {
        let sink = sink::open(&url).unwrap();
        let error = sink.deliver(&events).await.unwrap_err();
        assert!(error.reason().contains("certificate"), "{error}");
    }
    assert_eq!(served.load(Ordering::SeqCst), 1);
    let missing = format!("https://localhost:{port}/in?eventstore.tls_ca=/no/such/file");
    let error = sink::open(&missing).unwrap_err();
    assert!(error.reason.contains("/no/such/file"), "{error}");
}

#[test]
fn a_provider_beside_a_password_is_an_error() {
    let provider = Arc::new(sink::StaticBearer::new("hunter2"));
    let error = sink::open_with_auth("https://u:hunter2@h/", provider).unwrap_err();
    assert!(error.reason.contains("provider"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}
