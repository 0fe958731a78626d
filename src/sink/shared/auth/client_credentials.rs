//! OAuth 2.0 client credentials (RFC 6749, section 4.4): a token that is fetched when it is needed,
//! kept, and renewed in time. One fetch at a time, however many ask.

use super::{AuthHeader, AuthProvider, SecretFile, secret::Secret};
use crate::sink::{
    SinkError, SinkUrlError,
    shared::http_client::{
        answer,
        connector::{self, Roots},
        is_header_value,
    },
};
use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use url::{Url, form_urlencoded};

/// How long a token server may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(8);
/// A token is renewed this long before it expires, or after nine tenths of its life if that is later.
const EARLY: Duration = Duration::from_secs(60);
/// After a failed renewal of a token that still holds, how long until the next attempt.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// What is allowed, for error messages.
const ALLOWED: &str = "the `https://…` or `http://…` URL of an OAuth 2.0 token server";

/// A provider that gets its bearer token from an OAuth 2.0 token server with a client id and a
/// client secret.
///
/// While a token holds, its renewal delays nobody: the token is used until the new one is there.
pub struct ClientCredentials {
    server: Arc<TokenServer>,
}

/// The server, and the token that it gave.
struct TokenServer {
    token_url: Url,
    client_id: String,
    client_secret: Secret,
    scope: Option<String>,
    client: reqwest::Client,
    // Held while a token is fetched by whoever cannot go on without one: one request, however many wait.
    fetching: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failed: Option<(Instant, SinkError)>,
    is_renewing: bool,
}

#[derive(Clone)]
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
        let secret = Secret::Given(SecretString::from(client_secret.into()));
        Self::with_secret(token_url, client_id.into(), secret, None)
    }

    /// The same with a client secret that stands in a file, which is read again when it changes.
    ///
    /// # Errors
    /// As for [`new`](Self::new). A file that cannot be read is an error of the delivery, and it is tried again.
    pub fn with_secret_file(
        token_url: &str,
        client_id: impl Into<String>,
        client_secret: impl Into<PathBuf>,
    ) -> Result<Self, SinkUrlError> {
        let secret = Secret::File(SecretFile::new(client_secret));
        Self::with_secret(token_url, client_id.into(), secret, None)
    }

    /// A provider that trusts the certificates in the file `roots`, too.
    pub(in crate::sink) fn with_secret(
        token_url: &str,
        client_id: String,
        client_secret: Secret,
        roots: Option<&Path>,
    ) -> Result<Self, SinkUrlError> {
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
        let roots = roots.map_or(Roots::Machine, Roots::With);
        Ok(Self {
            server: Arc::new(TokenServer {
                client: connector::connector(&url, FETCH_TIMEOUT, roots).map_err(wrong)?,
                token_url: url,
                client_id,
                client_secret,
                scope: None,
                fetching: tokio::sync::Mutex::default(),
                state: Mutex::default(),
            }),
        })
    }

    /// The same, asking for this scope.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        let TokenServer {
            token_url,
            client_id,
            client_secret,
            client,
            ..
        } = &*self.server;
        Self {
            server: Arc::new(TokenServer {
                token_url: token_url.clone(),
                client_id: client_id.clone(),
                client_secret: client_secret.clone(),
                scope: Some(scope.into()),
                client: client.clone(),
                fetching: tokio::sync::Mutex::default(),
                state: Mutex::default(),
            }),
        }
    }
}

impl TokenServer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn form(&self) -> Result<String, SinkError> {
        let secret = self.client_secret.read().await?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", secret.expose_secret());
        if let Some(scope) = &self.scope {
            form.append_pair("scope", scope);
        }
        Ok(form.finish())
    }

    async fn fetch(&self) -> Result<Token, SinkError> {
        let failed = |reason: &str| {
            SinkError::new(format!(
                "no access token from {}: {reason}",
                connector::origin(&self.token_url)
            ))
        };
        let form = self.form().await?;
        let asked = Instant::now();
        let response = self
            .client
            .post(self.token_url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(form)
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

    /// Fetches a token in place of one that still holds. Delays nobody.
    async fn renew(self: Arc<Self>) {
        let renewed = self.fetch().await;
        let mut state = self.state();
        state.is_renewing = false;
        match renewed {
            Ok(token) => state.token = Some(token),
            Err(error) => {
                let again = Instant::now().checked_add(RENEWAL_PAUSE);
                if let Some(token) = &mut state.token {
                    token.renew_at = again;
                }
                drop(state);
                tracing::debug!(%error, "the access token could not be renewed; it still holds");
            }
        }
    }

    /// The header of a token that holds; none if there is no such token.
    fn held(self: &Arc<Self>) -> Option<AuthHeader> {
        let now = Instant::now();
        let mut state = self.state();
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let token = state
            .token
            .clone()
            .filter(|token| !is_over(token.expires_at))?;
        if is_over(token.renew_at) && !std::mem::replace(&mut state.is_renewing, true) {
            tokio::spawn(self.clone().renew());
        }
        Some(token.header)
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
            .field("token_server", &connector::origin(&self.server.token_url))
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl AuthProvider for ClientCredentials {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        let server = &self.server;
        if let Some(header) = server.held() {
            return Ok(vec![header]);
        }
        let asked = Instant::now();
        let _fetching = server.fetching.lock().await;
        // Whoever waited finds the token that was fetched meanwhile.
        if let Some(header) = server.held() {
            return Ok(vec![header]);
        }
        // Those who waited for a fetch that failed share its failure, instead of asking one by one.
        let failed = server.state().failed.clone();
        if let Some((at, error)) = failed
            && asked <= at
        {
            return Err(error);
        }
        let fetched = server.fetch().await;
        let mut state = server.state();
        match fetched {
            Ok(token) => {
                let header = token.header.clone();
                state.token = Some(token);
                state.failed = None;
                // Should the renewal's runtime be gone, another one may renew the next token.
                state.is_renewing = false;
                Ok(vec![header])
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn renew(&self, refused: &[AuthHeader]) {
        let mut state = self.server.state();
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
