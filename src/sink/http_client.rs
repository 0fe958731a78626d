//! What every sink that speaks HTTP has in common: how a request is sent and what its answer means.
//! Knows neither events nor bodies.

use super::{
    SinkError,
    auth::{AuthHeader, AuthProvider},
    tls,
};
use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use std::{
    error::Error as _,
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take, unless a sink's URL says less.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of an answer is read, for how long, and how much of it is shown.
const READ_BYTES: usize = 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(3);
const SHOWN_CHARACTERS: usize = 200;
/// Nobody is left alone for longer than this, whatever a receiver asks for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// One request.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Headers that are not the provider's and not to be shown.
    pub(super) secret_headers: Vec<AuthHeader>,
    /// What the body holds that is not to be shown, should the receiver echo it.
    pub(super) secret_body: Vec<AuthHeader>,
    pub(super) body: Bytes,
}

impl Request {
    /// A POST of a body.
    pub(super) fn post(url: Url, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
            ..Self::bare(Method::POST, url)
        }
    }

    /// A request without a body.
    pub(super) fn bare(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            secret_headers: Vec::new(),
            secret_body: Vec::new(),
            body: Bytes::new(),
        }
    }
}

/// What a receiver answered to a request that it will not answer otherwise next time.
#[derive(Debug)]
pub(super) enum Answer {
    /// 2xx.
    Accepted,
    /// It refuses what was sent: status and the beginning of the body, for people.
    Refused(String),
}

/// An answer as it came, and what it means.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// The beginning of the body, with whatever secrets it echoes.
    #[allow(dead_code, reason = "not every sink reads it")]
    pub(super) body: String,
    pub(super) meaning: Result<Answer, SinkError>,
}

/// Sends requests, with headers that prove who sends.
pub(super) struct HttpClient {
    client: reqwest::Client,
    auth: Option<Arc<dyn AuthProvider>>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client for requests to `url`, each of at most `timeout`, that trusts the certificates in the
    /// file `roots`, or those of this machine. Connects to nothing.
    pub(super) fn new(
        url: &Url,
        timeout: Duration,
        roots: Option<&Path>,
        auth: Option<Arc<dyn AuthProvider>>,
    ) -> Result<Self, String> {
        Ok(Self {
            client: connector(url, timeout, roots)?,
            auth,
        })
    }

    /// The headers that prove who sends; none without a provider.
    pub(super) async fn auth_headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        match &self.auth {
            Some(auth) => auth.headers().await,
            None => Ok(Vec::new()),
        }
    }

    /// Tells the provider that a receiver refused its headers.
    pub(super) async fn renew(&self, refused: &[AuthHeader]) {
        if let Some(auth) = &self.auth {
            auth.renew(refused).await;
        }
    }

    #[cfg(any(feature = "http", feature = "segment"))]
    /// Sends a request with the provider's headers; after a 401, once more with new ones.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer, SinkError> {
        self.reply(request).await?.meaning
    }

    #[cfg(any(feature = "http", feature = "segment"))]
    /// Whether a request that changes nothing reaches somebody who would take others: any answer
    /// will do that speaks neither of the credentials nor of an outage.
    pub(super) async fn reach(&self, request: &Request) -> Result<(), SinkError> {
        let Reply {
            status, meaning, ..
        } = self.reply(request).await?;
        match meaning {
            Err(error)
                if matches!(status.as_u16(), 401 | 403 | 407 | 429 | 431)
                    || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// As [`send`](Self::send), with all of the answer.
    pub(super) async fn reply(&self, request: &Request) -> Result<Reply, SinkError> {
        let headers = self.auth_headers().await?;
        let answer = self.send_with(request, &headers).await?;
        if answer.status != StatusCode::UNAUTHORIZED || self.auth.is_none() {
            return Ok(answer);
        }
        self.renew(&headers).await;
        let headers = self.auth_headers().await?;
        self.send_with(request, &headers).await
    }

    /// Sends a request with these headers, once.
    pub(super) async fn send_with(
        &self,
        request: &Request,
        auth: &[AuthHeader],
    ) -> Result<Reply, SinkError> {
        let place = place(&request.url);
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let value = header_value(name, value)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        // Last, so that a provider's `Authorization` wins over a sink's own.
        for header in request.secret_headers.iter().chain(auth) {
            let name = HeaderName::from_bytes(header.name().as_bytes())
                .map_err(|_| SinkError::new("the auth provider gave a header without a name"))?;
            let mut value = header_value(header.name(), header.secret_value())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let failed = |error: reqwest::Error| SinkError::new(format!("{place}: {}", cause(error)));
        let response = self
            .client
            .request(request.method.clone(), request.url.clone())
            .headers(headers)
            .body(request.body.clone())
            .send()
            .await
            .map_err(failed)?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = text(response).await;
        if status.is_success() {
            return Ok(Reply {
                status,
                body,
                meaning: Ok(Answer::Accepted),
            });
        }
        let said = shown(
            &body,
            request
                .secret_headers
                .iter()
                .chain(&request.secret_body)
                .chain(auth),
        );
        let text = if said.is_empty() {
            format!("{place} answered {}", status.as_u16())
        } else {
            format!("{place} answered {}: {said}", status.as_u16())
        };
        let meaning = if is_about_the_request(status) {
            Ok(Answer::Refused(text))
        } else {
            let mut error = SinkError::new(text);
            error.retry_after = retry_after;
            Err(error)
        };
        Ok(Reply {
            status,
            body,
            meaning,
        })
    }
}

/// Whether a status says that this very request will never do. Those that speak of the sender (401,
/// 403, 407), of the place (404, 405, 410, 421), of the way of sending (415, 426) or of the moment are
/// answered alike to every event: to give up events for them would empty the journal into nothing.
pub(super) fn is_about_the_request(status: StatusCode) -> bool {
    status.is_client_error()
        && !matches!(
            status.as_u16(),
            401 | 402
                | 403
                | 404
                | 405
                | 407
                | 408
                | 410
                | 415
                | 421
                | 423
                | 424
                | 425
                | 426
                | 428
                | 429
                | 431
                | 451
        )
}

/// A reqwest client that trusts the certificates in the file `roots`, or those of this machine, follows
/// no redirect (which could carry a secret elsewhere, and turns POST into GET), is bounded in time, and
/// reaches this machine without a proxy.
pub(super) fn connector(
    url: &Url,
    timeout: Duration,
    roots: Option<&Path>,
) -> Result<reqwest::Client, String> {
    // Plain HTTP does not wait for the machine's certificates to be read.
    let config = match url.scheme() {
        "https" => tls::client_config(roots)?,
        _ => tls::without_roots()?,
    };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let builder = reqwest::Client::builder();
    let builder = if is_here { builder.no_proxy() } else { builder };
    builder
        .tls_backend_preconfigured(config)
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
        .build()
        .map_err(|error| format!("no HTTP client can be made: {}", cause(error)))
}

/// The value of a parameter that says how long a request may take.
pub(super) fn request_timeout(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value)
        .ok()
        .filter(|timeout| !timeout.is_zero() && *timeout <= REQUEST_TIMEOUT)
        .ok_or_else(|| "the timeout is no duration of at most 15s".to_owned())
}

/// Where a URL leads, without what may be secret: user name, password, path and parameters.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// An error with its causes, without the URL, whose parameters may be secret.
pub(super) fn cause(error: reqwest::Error) -> String {
    let timed_out = error.is_timeout();
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    if timed_out && !text.contains("timed out") {
        text.push_str(": timed out");
    }
    text
}

/// The beginning of an answer's body, as far as it comes: what the status says holds without it.
pub(super) async fn text(mut response: Response) -> String {
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut bytes = Vec::new();
    while bytes.len() < READ_BYTES
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(READ_BYTES);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(pause.min(LONGEST_RETRY_AFTER))
}

/// Whether a text can be a header's value.
pub(super) fn is_header_value(text: &str) -> bool {
    HeaderValue::from_str(text).is_ok()
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, SinkError> {
    HeaderValue::from_str(value).map_err(|_| {
        SinkError::new(format!(
            "the value of the header {name} does not fit into a header"
        ))
    })
}

/// The beginning of a body, on one line, without the secrets of the request: receivers echo.
fn shown<'a>(body: &str, secrets: impl Iterator<Item = &'a AuthHeader>) -> String {
    let mut body = body.to_owned();
    for secret in secrets {
        // The whole value, and the token of `Bearer TOKEN`.
        let value = secret.secret_value();
        let token = value.rsplit(' ').next().unwrap_or_default();
        for hidden in [value, token] {
            if !hidden.is_empty() {
                body = body.replace(hidden, "***");
            }
        }
    }
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn a_pause_is_read_in_seconds_and_as_a_date() {
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        let soon = SystemTime::now() + Duration::from_secs(90);
        let read = pause(&httpdate::fmt_http_date(soon)).unwrap();
        assert!((85..=90).contains(&read.as_secs()), "{read:?}");
        assert_eq!(pause("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("999999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(pause("soon"), None);
    }

    #[test]
    fn what_a_receiver_echoes_is_shown_without_the_secrets_and_short() {
        let sent = [AuthHeader::bearer("hunter2")];
        assert_eq!(
            shown("you sent\n hunter2 (Bearer hunter2)", sent.iter()),
            "you sent *** (***)"
        );
        assert_eq!(shown(&"é".repeat(500), sent.iter()).chars().count(), 201);
    }

    #[test]
    fn only_statuses_about_the_request_reject_it() {
        for (status, rejects) in [
            (400, true),
            (409, true),
            (413, true),
            (422, true),
            (301, false),
            (401, false),
            (403, false),
            (404, false),
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_about_the_request(status), rejects, "{status}");
        }
    }
}
