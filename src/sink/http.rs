//! The CloudEvents 1.0 HTTP binding: a batch in one request, or one event per request, structured or
//! binary. Documented in `docs/sinks/http.md`.

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        attributes::Attributes,
        auth::{self, AuthHeader, AuthProvider, Basic, FromFile, Scheme, Signer},
        encoding::Encoding,
        headers::cloud_event_headers,
        http_client::{
            Head, HttpClient, REQUEST_TIMEOUT, Request, Verdict, is_header_value, origin,
            request_timeout,
        },
        parts::{self, Part, Receiver},
        route::Route,
        template::NONE,
        tls::TlsFiles,
    },
};
use crate::event::EventError;
use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use percent_encoding::percent_decode_str;
use reqwest::{Method, header::HeaderName};
use std::{fmt, io::Write as _, sync::Arc};
use url::Url;

/// What is allowed, for error messages.
const ALLOWED: &str = "`https://[USER:PASSWORD@]HOST[:PORT]/PATH` or `http://…`; its parameters are \
     passed on, except `eventstore.mode` (`batched`, `structured` or `binary`), \
     `eventstore.timeout` (up to `15s`), `eventstore.compress` (`gzip` or `none`), `eventstore.tls_ca` (a file of \
     certificates), `eventstore.tls_cert` with `eventstore.tls_key` (files with a certificate and its key), \
     `eventstore.password_file`, `eventstore.auth` (the name of credentials, or `none`) and `eventstore.header.NAME` (a header); \
     its path may have fields of the event in it (`/in/{workflow_type}`)";
/// The beginning of parameters that are headers.
const HEADER: &str = "eventstore.header.";
/// Parameters that are ours; every other one is the receiver's.
const OWN: &str = "eventstore.";
/// How many bytes an event's attributes may take as headers in binary mode. Of the widespread servers, none takes more
/// than 16 KiB of headers unless told so (Node.js; nginx, Apache and Tomcat take 8 KiB in one).
const MOST_HEADER_BYTES: usize = 16 * 1024;
/// About how many bytes the attributes around an event take.
const ATTRIBUTES: usize = 512;

/// How events are put into requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Batched,
    Structured,
    Binary,
}

/// Delivers to an HTTP endpoint.
struct HttpSink {
    name: String,
    /// Without what the path holds of an event.
    url: Url,
    path: Route,
    mode: Mode,
    is_compressed: bool,
    client: HttpClient,
    signer: Option<Signer>,
    /// The user's own, which may be secret.
    headers: Vec<AuthHeader>,
}

// Without the URL: its path and parameters can hold a key.
impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink")
            .field("name", &self.name)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// The sink of an `http:` or `https:` URL; without a provider given, the URL's user name and
/// password or the environment's.
pub(super) fn open(
    text: &str,
    given: Option<Arc<dyn AuthProvider>>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let wrong = |reason: String| SinkUrlError::new(text, reason, ALLOWED);
    let mut url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if url.fragment().is_some() {
        return Err(wrong(
            "it has a part after `#`, which means nothing here".to_owned(),
        ));
    }
    let mut mode = Mode::Batched;
    let mut timeout = REQUEST_TIMEOUT;
    let mut is_compressed = false;
    let (mut roots, mut certificate, mut key) = (None, None, None);
    let mut password_file = None;
    let mut named = None;
    let mut headers = Vec::new();
    let mut passed_on = Vec::new();
    // Pair by pair as it is written: a signature over the parameters survives.
    for pair in url.query().into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !name.starts_with(OWN) {
            passed_on.push(pair);
            continue;
        }
        match name {
            "eventstore.mode" => {
                mode = match value {
                    "batched" => Mode::Batched,
                    "structured" => Mode::Structured,
                    "binary" => Mode::Binary,
                    _ => return Err(wrong("`eventstore.mode` names no mode".to_owned())),
                };
            }
            "eventstore.compress" => {
                is_compressed = match value {
                    "gzip" => true,
                    "none" => false,
                    _ => {
                        return Err(wrong(
                            "`eventstore.compress` is neither `gzip` nor `none`".to_owned(),
                        ));
                    }
                };
            }
            "eventstore.tls_ca" | "eventstore.tls_cert" | "eventstore.tls_key"
                if url.scheme() != "https" =>
            {
                return Err(wrong(format!("`{name}` is of use with `https:` only")));
            }
            "eventstore.tls_ca" => roots = Some(decoded(value)),
            "eventstore.tls_cert" => certificate = Some(decoded(value)),
            "eventstore.tls_key" => key = Some(decoded(value)),
            "eventstore.password_file" => password_file = Some(decoded(value)),
            auth::AUTH => named = Some(decoded(value)),
            "eventstore.timeout" => timeout = request_timeout(value).map_err(wrong)?,
            _ if name.starts_with(HEADER) => headers.push(own_header(name, value).map_err(wrong)?),
            // Not shown: it may hold what it should not.
            _ => {
                return Err(wrong(
                    "it has an unknown parameter `eventstore.…`".to_owned(),
                ));
            }
        }
    }
    let query = passed_on.join("&");
    let files = TlsFiles::of(roots.as_deref(), certificate.as_deref(), key.as_deref()).ok_or_else(
        || wrong("`eventstore.tls_cert` and `eventstore.tls_key` go together".to_owned()),
    )?;
    let own = own_credentials(&url, password_file.as_deref()).map_err(wrong)?;
    url.set_query((!query.is_empty()).then_some(query.as_str()));
    // Both fail only for URLs that cannot have a user name, and then there is none.
    url.set_username("").ok();
    url.set_password(None).ok();
    let place = auth::Place {
        text,
        receiver: &url,
        auth: named.as_deref(),
        roots: files.roots.as_deref(),
    };
    let signer = auth::signer(place)?;
    // The parser of URLs encodes braces, and a brace of the path is written in a template twice.
    let path = url.path().replace("%7B", "{").replace("%7D", "}");
    let path = Route::parse(&path, Encoding::SEGMENT).map_err(|error| wrong(error.to_string()))?;
    let auth = match (given, own) {
        (Some(_), Some(_)) => {
            return Err(wrong(
                "it holds a user name or password beside an auth provider".to_owned(),
            ));
        }
        (Some(_), _) | (_, Some(_)) if named.is_some() => {
            return Err(wrong(
                "`eventstore.auth` is there beside an auth provider, or a user name or password"
                    .to_owned(),
            ));
        }
        (Some(given), None) => Some(given),
        (None, Some(own)) => Some(own),
        (None, None) => auth::from_environment(place)?,
    };
    Ok(Arc::new(HttpSink {
        name: origin(&url),
        client: HttpClient::new(&url, timeout, files, auth).map_err(wrong)?,
        url,
        path,
        mode,
        is_compressed,
        signer,
        headers,
    }))
}

fn decoded(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// The user name of a URL with its password, or with the one in a file; none if there is no user name.
fn own_credentials(
    url: &Url,
    password_file: Option<&str>,
) -> Result<Option<Arc<dyn AuthProvider>>, String> {
    let basic = Basic::of(url);
    let Some(path) = password_file else {
        return Ok(basic.map(|basic| Arc::new(basic) as Arc<dyn AuthProvider>));
    };
    if url.password().is_some() {
        return Err("it has a password and an `eventstore.password_file`".to_owned());
    }
    if basic.is_none() {
        return Err("`eventstore.password_file` needs a user name".to_owned());
    }
    let user = decoded(url.username());
    let file = FromFile::checked(path, Scheme::PasswordOf(user))?;
    Ok(Some(Arc::new(file)))
}

/// A header that the URL names, with its value percent-encoded.
fn own_header(parameter: &str, value: &str) -> Result<AuthHeader, String> {
    let name = parameter
        .strip_prefix(HEADER)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let is_ours = ["ce-", "webhook-"]
        .iter()
        .any(|ours| name.starts_with(ours))
        || [
            "content-type",
            "content-length",
            "content-encoding",
            "host",
            "transfer-encoding",
            "connection",
        ]
        .contains(&&*name);
    let value = decoded(value);
    if is_ours || HeaderName::from_bytes(name.as_bytes()).is_err() || !is_header_value(&value) {
        return Err(format!(
            "`{HEADER}NAME` names no header that may be set, or its value is none"
        ));
    }
    Ok(AuthHeader::new(name, value))
}

/// Why an event cannot be put into a request.
struct Unsendable(String);

impl From<EventError> for Unsendable {
    fn from(error: EventError) -> Self {
        Self(error.to_string())
    }
}

/// What names a request for whoever tells repetitions: the same events have the same name.
fn message_id(part: &[SinkEvent]) -> String {
    match part {
        [] => String::new(),
        [event] => event.event_id.to_string(),
        [first, ..] => format!("{}_{}", first.event_id, part.len()),
    }
}

/// Compresses a body, on a thread that nobody waits for.
async fn gzip(body: Bytes) -> Result<Bytes, SinkError> {
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&body)?;
        encoder.finish()
    });
    match compressed.await {
        Ok(Ok(compressed)) => Ok(compressed.into()),
        Ok(Err(error)) => Err(SinkError::caused_by("the body was not compressed", error)),
        Err(_) => Err(SinkError::new("the body was not compressed")),
    }
}

/// Whether a URL leaves out, or takes for its parent, a segment of a path.
fn is_dots(segment: &str) -> bool {
    let decoded = percent_decode_str(segment).decode_utf8_lossy();
    matches!(&*decoded, "." | "..")
}

impl HttpSink {
    /// Where an event goes.
    fn url(&self, event: &SinkEvent) -> Result<Url, Unsendable> {
        let mut url = self.url.clone();
        if !self.path.is_fixed() {
            let path = self.path.target(event)?;
            if path.split('/').any(is_dots) {
                return Err(Unsendable(
                    "a segment of its URL's path would have dots alone".to_owned(),
                ));
            }
            url.set_path(&path);
        }
        Ok(url)
    }

    fn request(&self, part: &[SinkEvent]) -> Result<Option<Request>, Unsendable> {
        let Some(first) = part.first() else {
            return Ok(None);
        };
        let url = self.url(first)?;
        let head = match (self.path.is_fixed(), self.mode) {
            (false, _) => Head::OfEventAndPath,
            (true, Mode::Binary) => Head::OfEvent,
            (true, _) => Head::Fixed,
        };
        let request = self.request_to(url, part)?;
        Ok(request.map(|request| Request { head, ..request }))
    }

    fn request_to(&self, url: Url, part: &[SinkEvent]) -> Result<Option<Request>, EventError> {
        Ok(match self.mode {
            Mode::Batched => {
                let size: usize = part.iter().map(|event| event.json.len() + ATTRIBUTES).sum();
                let mut body = Vec::with_capacity(size);
                for event in part {
                    body.push(if body.is_empty() { b'[' } else { b',' });
                    Attributes::of(event)?.write_around(event, &mut body)?;
                }
                body.push(b']');
                Some(Request::post(
                    url,
                    "application/cloudevents-batch+json",
                    body,
                ))
            }
            Mode::Structured => match part {
                [event] => {
                    let mut body = Vec::with_capacity(event.json.len() + ATTRIBUTES);
                    Attributes::of(event)?.write_around(event, &mut body)?;
                    Some(Request::post(url, "application/cloudevents+json", body))
                }
                _ => None,
            },
            Mode::Binary => match part {
                [event] => Some(Request {
                    headers: cloud_event_headers(event)?,
                    body: event.json.clone().into(),
                    ..Request::bare(Method::POST, url)
                }),
                _ => None,
            },
        })
    }
}

impl Receiver for HttpSink {
    fn most(&self) -> usize {
        match self.mode {
            Mode::Batched => usize::MAX,
            Mode::Structured | Mode::Binary => 1,
        }
    }

    fn is_together(&self, one: &SinkEvent, next: &SinkEvent) -> bool {
        self.path.is_fixed() || self.path.target(one) == self.path.target(next)
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let request = match self.request(part) {
            Ok(Some(request)) if request.header_bytes() > MOST_HEADER_BYTES => {
                return Ok(Part::Unsendable(format!(
                    "its attributes take {} bytes as headers, of which {MOST_HEADER_BYTES} are allowed; \
                     `eventstore.mode=structured` has them in the body",
                    request.header_bytes()
                )));
            }
            Ok(Some(request)) => request,
            Ok(None) => return Ok(Part::Unsendable("one event per request".to_owned())),
            Err(Unsendable(reason)) => return Ok(Part::Unsendable(reason)),
        };
        let mut request = request;
        request.secret_headers.clone_from(&self.headers);
        if let Some(signer) = &self.signer {
            let signed = signer.headers(&message_id(part), &request.body).await?;
            request.headers.extend(signed);
        }
        if self.is_compressed {
            request.body = gzip(request.body).await?;
            request
                .headers
                .push(("content-encoding", "gzip".to_owned()));
        }
        Ok(match self.client.send(&request).await? {
            Verdict::Accepted => Part::Taken,
            Verdict::Refused(refusal) => Part::Refused(refusal),
        })
    }
}

#[async_trait]
impl Sink for HttpSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        parts::deliver(self, batch).await
    }

    /// Asks with HEAD, which changes nothing. An endpoint that only knows POST refuses it, and is
    /// there; one that refuses the credentials is of no use.
    async fn check(&self) -> Result<(), SinkError> {
        let mut url = self.url.clone();
        if !self.path.is_fixed() {
            url.set_path(&self.path.with_each(NONE));
        }
        let request = Request {
            secret_headers: self.headers.clone(),
            ..Request::bare(Method::HEAD, url)
        };
        self.client.reach(&request).await
    }
}
