//! The HTTP client of the library: whom it trusts, how long it waits, and what its errors may show. Knows neither
//! requests nor answers.

use crate::sink::{
    causes::with_causes,
    shared::tls::{self, TlsFiles},
};
use std::{path::Path, time::Duration};
use url::{Host, Url};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take, unless a sink's URL says less.
pub(in crate::sink) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Whose certificates are trusted.
#[derive(Clone, Copy, Debug)]
pub(in crate::sink) enum Roots<'a> {
    /// Those of this machine.
    Machine,
    /// Those that these files name, to which the client shows their certificate, if they have one.
    Files(&'a TlsFiles),
    /// Those of this machine, and those in this file.
    With(&'a Path),
}

/// A reqwest client that trusts the certificates of `roots`, follows no redirect (which could carry a secret elsewhere,
/// and turns POST into GET), is bounded in time, and reaches this machine without a proxy.
pub(in crate::sink) fn connector(
    url: &Url,
    timeout: Duration,
    roots: Roots<'_>,
) -> Result<reqwest::Client, String> {
    // Plain HTTP does not wait for the machine's certificates to be read.
    let config = match (url.scheme(), roots) {
        ("https", Roots::Machine) => tls::client_config(None)?,
        ("https", Roots::Files(files)) => files.config()?,
        ("https", Roots::With(file)) => tls::client_config_with(file)?,
        _ => tls::without_roots()?,
    };
    let builder = reqwest::Client::builder();
    let builder = if is_here(url) {
        builder.no_proxy()
    } else {
        builder
    };
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
        .map_err(|error| {
            format!(
                "no HTTP client can be made: {}",
                cause(&error.without_url())
            )
        })
}

/// Whether a URL leads to this machine, so that nobody listens on the way.
pub(in crate::sink) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // Of a scheme that is not one of the web's, hosts are not told apart.
        None => false,
    }
}

/// The value of a parameter that says how long a request may take.
pub(in crate::sink) fn request_timeout(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value)
        .ok()
        .filter(|timeout| !timeout.is_zero() && *timeout <= REQUEST_TIMEOUT)
        .ok_or_else(|| "the timeout is no duration of at most 15s".to_owned())
}

/// Where a URL leads, without what may be secret: user name, password, path and parameters.
pub(in crate::sink) fn origin(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// An error with its causes, which has to be without its URL, whose parameters may be secret.
pub(in crate::sink) fn cause(error: &reqwest::Error) -> String {
    let mut text = with_causes(error);
    if error.is_timeout() && !text.contains("timed out") {
        text.push_str(": timed out");
    }
    text
}
