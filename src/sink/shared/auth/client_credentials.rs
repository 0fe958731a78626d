//! OAuth 2.0 client credentials (RFC 6749, section 4.4): a token that is fetched when it is needed,
//! kept, and renewed in time. One fetch at a time, however many ask.

use super::{AuthHeader, AuthProvider};
use crate::sink::{
    SinkError, SinkUrlError,
    shared::http_client::{answer, connector, is_header_value},
};
use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use std::{
    fmt,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use url::{Url, form_urlencoded};

/// How long a token server may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(8);
/// A token is renewed this long before it expires, or after nine tenths of its life if that is later.
const EARLY: Duration = Duration::from_secs(60);
/// After a failed renewal of a token that still holds, how long until the next attempt.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// A provider that gets its bearer token from an OAuth 2.0 token server with a client id and a
/// client secret.
pub struct ClientCredentials {
    token_url: Url,
    client_id: String,
    client_secret: SecretString,
    scope: Option<String>,
    client: reqwest::Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failed: Option<(Instant, SinkError)>,
}

struct Token {
    header: AuthHeader,
    renew_at: Option<Instant>,
    expires_at: Option<Instant>,
}

impl ClientCredentials {
    /// A provider that asks `token_url`, such as `https://login.example.org/oauth2/token`. Connects
    /// to nothing yet.
    ///
    /// # Errors
    /// [`SinkUrlError`] if `token_url` is no HTTP URL.
    pub fn new(
        token_url: &str,
        client_id: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> Result<Self, SinkUrlError> {
        const ALLOWED: &str = "the `https://…` or `http://…` URL of an OAuth 2.0 token server";
        let wrong = |reason: String| SinkUrlError::new(token_url, reason, ALLOWED);
        let url = Url::parse(token_url)
            .map_err(|error| wrong(format!("the token URL is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("the token URL is not one of HTTP".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "the token URL holds a user name; the client id and secret are given beside it"
                    .to_owned(),
            ));
        }
        Ok(Self {
            client: connector::connector(&url, FETCH_TIMEOUT, None).map_err(wrong)?,
            token_url: url,
            client_id: client_id.into(),
            client_secret: SecretString::from(client_secret.into()),
            scope: None,
            state: Mutex::default(),
        })
    }

    /// The same, asking for this scope.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into());
        self
    }

    fn form(&self) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.expose_secret());
        if let Some(scope) = &self.scope {
            form.append_pair("scope", scope);
        }
        form.finish()
    }

    async fn fetch(&self) -> Result<Token, SinkError> {
        let failed = |reason: &str| {
            SinkError::new(format!(
                "no access token from {}: {reason}",
                connector::origin(&self.token_url)
            ))
        };
        let asked = Instant::now();
        let response = self
            .client
            .post(self.token_url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(self.form())
            .send()
            .await
            .map_err(|error| {
                let error = error.without_url();
                failed(&connector::cause(&error)).with_source(error)
            })?;
        let status = response.status();
        let retry_after = answer::retry_after(response.headers());
        let body = answer::text(response).await;
        // Only members that the standard defines are looked at: a server may echo what it was sent.
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        if !status.is_success() {
            let code = answer
                .get("error")
                .and_then(Value::as_str)
                .filter(|code| ERROR_CODES.contains(code))
                .unwrap_or("no error code of the standard");
            return Err(failed(&format!("it answered {}, {code}", status.as_u16()))
                .with_retry_after(retry_after));
        }
        let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
            return Err(failed("its answer holds no access_token"));
        };
        let header = AuthHeader::bearer(token);
        if !is_header_value(header.secret_value()) {
            return Err(failed("its access_token does not fit into a header"));
        }
        // A number by the standard, a text by some servers; absent: until a receiver says 401.
        let life = answer.get("expires_in").and_then(|value| {
            value
                .as_u64()
                .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
                .map(Duration::from_secs)
        });
        Ok(Token {
            header,
            renew_at: life.and_then(|life| {
                asked.checked_add(life.saturating_sub(EARLY).max(life.mul_f64(0.9)))
            }),
            expires_at: life.and_then(|life| asked.checked_add(life)),
        })
    }
}

/// RFC 6749, section 5.2.
const ERROR_CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("token_server", &connector::origin(&self.token_url))
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl AuthProvider for ClientCredentials {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        let asked = Instant::now();
        // Held while the token is fetched: whoever comes meanwhile waits and finds it.
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(token) = &state.token
            && token.renew_at.is_none_or(|at| now < at)
        {
            return Ok(vec![token.header.clone()]);
        }
        // Those who waited for a fetch that failed share its failure, instead of asking one by one.
        if let Some((at, error)) = &state.failed
            && asked <= *at
        {
            return Err(error.clone());
        }
        match self.fetch().await {
            Ok(token) => {
                let header = token.header.clone();
                state.token = Some(token);
                state.failed = None;
                Ok(vec![header])
            }
            Err(error) => {
                let now = Instant::now();
                if let Some(token) = &mut state.token
                    && token.expires_at.is_none_or(|at| now < at)
                {
                    token.renew_at = now.checked_add(RENEWAL_PAUSE);
                    let header = token.header.clone();
                    drop(state);
                    tracing::debug!(
                        %error,
                        "the access token could not be renewed; it still holds"
                    );
                    return Ok(vec![header]);
                }
                state.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    async fn renew(&self, refused: &[AuthHeader]) {
        let mut state = self.state.lock().await;
        // Somebody else may have renewed it since: only the token that was refused is let go.
        let stale = state.token.as_ref().is_some_and(|token| {
            refused
                .iter()
                .any(|header| header.secret_value() == token.header.secret_value())
        });
        if stale {
            state.token = None;
        }
    }
}
