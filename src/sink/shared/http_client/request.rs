//! One HTTP request, with what of it must not be shown. Knows neither events nor answers.

use super::answer::Head;
use crate::sink::{SinkError, shared::auth::AuthHeader};
use bytes::Bytes;
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use url::Url;

/// One request.
pub(in crate::sink) struct Request {
    pub(in crate::sink) method: Method,
    pub(in crate::sink) url: Url,
    pub(in crate::sink) headers: Vec<(&'static str, String)>,
    /// Whether the URL or these headers are made from the event.
    pub(in crate::sink) head: Head,
    /// Headers that are not the provider's and not to be shown.
    pub(in crate::sink) secret_headers: Vec<AuthHeader>,
    /// What the body holds that is not to be shown, should the receiver echo it.
    pub(in crate::sink) secret_body: Vec<AuthHeader>,
    pub(in crate::sink) body: Bytes,
}

impl Request {
    /// A POST of a body.
    pub(in crate::sink) fn post(url: Url, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
            ..Self::bare(Method::POST, url)
        }
    }

    /// A request without a body.
    pub(in crate::sink) fn bare(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            head: Head::default(),
            secret_headers: Vec::new(),
            secret_body: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Returns how many bytes its own headers take.
    pub(in crate::sink) fn header_bytes(&self) -> usize {
        let headers = self.headers.iter();
        headers.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Its headers with the provider's. The secret ones are marked, so that no library shows them.
    pub(super) fn headers(&self, auth: &[AuthHeader]) -> Result<HeaderMap, SinkError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let value = header_value(name, value)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        // Last, so that a provider's `Authorization` wins over a sink's own.
        for header in self.secret_headers.iter().chain(auth) {
            let name = HeaderName::from_bytes(header.name().as_bytes())
                .map_err(|_| SinkError::new("the auth provider gave a header without a name"))?;
            let mut value = header_value(header.name(), header.secret_value())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// Whether a text can be a header's value.
pub(in crate::sink) fn is_header_value(text: &str) -> bool {
    HeaderValue::from_str(text).is_ok()
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, SinkError> {
    HeaderValue::from_str(value).map_err(|_| {
        SinkError::new(format!(
            "the value of the header {name} does not fit into a header"
        ))
    })
}
