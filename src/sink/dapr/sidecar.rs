//! The sidecar: where it is, and the token that it asks for. Knows neither components nor events.

use super::API_TOKEN;
use crate::sink::{
    SinkError,
    shared::{
        auth::{AuthHeader, secret::Secret},
        http_client::{Answer, HttpClient, Request, is_header_value},
    },
};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use url::Url;

/// Longer than any that the sidecar has.
const LONGEST_CODE: usize = 64;

/// A sidecar, and the client that speaks with it.
pub(super) struct Sidecar {
    pub(super) client: HttpClient,
    url: Url,
    api_token: Option<Secret>,
}

impl Sidecar {
    /// The sidecar at `url`.
    pub(super) fn new(url: Url, client: HttpClient, api_token: Option<Secret>) -> Self {
        Self {
            client,
            url,
            api_token,
        }
    }

    /// The URL of one of its APIs.
    pub(super) fn url(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        // Fails only for URLs without a host.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(path);
        }
        url
    }

    /// A request with the token that the sidecar asks for.
    pub(super) async fn request(&self, request: Request) -> Result<Request, SinkError> {
        let mut secret_headers = Vec::new();
        if let Some(token) = &self.api_token {
            let token = token.read().await?;
            secret_headers.push(AuthHeader::new("dapr-api-token", token.expose_secret()));
        }
        Ok(Request {
            secret_headers,
            ..request
        })
    }

    /// Asks one of its APIs, without the provider's headers, which are for somebody else.
    pub(super) async fn get(&self, path: &[&str]) -> Result<Answer, SinkError> {
        let request = self
            .request(Request::bare(Method::GET, self.url(path)))
            .await?;
        self.client.send_with(&request, &[]).await
    }
}

/// The token that the environment gives, if any. The error says what is wrong with it.
pub(super) fn given(api_token: Option<String>) -> Result<Option<Secret>, String> {
    match api_token.filter(|token| !token.is_empty()) {
        Some(token) if !is_header_value(&token) => {
            Err(format!("{API_TOKEN} does not fit into a header"))
        }
        token => Ok(token.map(|token| Secret::Given(token.into()))),
    }
}

/// The error of a sidecar's answer with the code that it names. Of what else it says, nothing is shown: it quotes what
/// the server behind a component answered.
pub(super) fn with_code(answer: &Answer, error: SinkError) -> SinkError {
    match code(&answer.body) {
        Some(code) => SinkError::new(format!("{}, {code}", error.reason()))
            .with_retry_after(error.retry_after()),
        None => error,
    }
}

/// The code in the body of a sidecar's error, such as `ERR_PUBSUB_NOT_FOUND`.
fn code(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let code = body.get("errorCode")?.as_str()?;
    let is_code = code.starts_with("ERR_")
        && code.len() <= LONGEST_CODE
        && code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_code.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_is_shown() {
        let body = |code: &str| format!(r#"{{"errorCode":"{code}","message":"hunter2"}}"#);
        let known = "ERR_PUBSUB_NOT_FOUND";
        assert_eq!(code(&body(known)).as_deref(), Some(known));
        for other in [
            "hunter2",
            "ERR_hunter2",
            "",
            &format!("ERR_{}", "X".repeat(100)),
        ] {
            assert_eq!(code(&body(other)), None);
        }
        assert_eq!(code("hunter2"), None);
    }
}
