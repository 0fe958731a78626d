//! Sends requests, with headers that prove who sends. Knows neither events nor bodies.

use super::{
    answer::{Answer, Verdict},
    certified::Certified,
    connector,
    request::Request,
};
use crate::sink::{
    SinkError,
    shared::{
        auth::{AuthHeader, AuthProvider},
        tls::TlsFiles,
    },
};
use reqwest::StatusCode;
use std::{fmt, sync::Arc, time::Duration};
use url::Url;

/// Sends requests, with headers that prove who sends.
pub(in crate::sink) struct HttpClient {
    client: Certified,
    auth: Option<Arc<dyn AuthProvider>>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client for requests to `url`, each of at most `timeout`, with the certificates in
    /// `files`, which are read again for each. Connects to nothing.
    pub(in crate::sink) fn new(
        url: &Url,
        timeout: Duration,
        files: TlsFiles,
        auth: Option<Arc<dyn AuthProvider>>,
    ) -> Result<Self, String> {
        Ok(Self {
            client: Certified::new(url, timeout, files)?,
            auth,
        })
    }

    /// The headers that prove who sends; none without a provider.
    pub(in crate::sink) async fn auth_headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        match &self.auth {
            Some(auth) => auth.headers().await,
            None => Ok(Vec::new()),
        }
    }

    /// Tells the provider that a receiver refused its headers.
    pub(in crate::sink) async fn renew(&self, refused: &[AuthHeader]) {
        if let Some(auth) = &self.auth {
            auth.renew(refused).await;
        }
    }

    /// Sends a request with the provider's headers; after a 401, once more with new ones.
    pub(in crate::sink) async fn send(&self, request: &Request) -> Result<Verdict, SinkError> {
        self.answer(request).await?.verdict
    }

    /// Whether a request that changes nothing reaches somebody who would take others: any answer
    /// will do that speaks neither of the credentials nor of an outage.
    pub(in crate::sink) async fn reach(&self, request: &Request) -> Result<(), SinkError> {
        let Answer {
            status, verdict, ..
        } = self.answer(request).await?;
        match verdict {
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
    pub(in crate::sink) async fn answer(&self, request: &Request) -> Result<Answer, SinkError> {
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
    pub(in crate::sink) async fn send_with(
        &self,
        request: &Request,
        auth: &[AuthHeader],
    ) -> Result<Answer, SinkError> {
        let receiver = connector::origin(&request.url);
        let response = self
            .client
            .client()
            .await?
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers(auth)?)
            .body(request.body.clone())
            .send()
            .await
            .map_err(|error| {
                let error = error.without_url();
                let cause = connector::cause(&error);
                SinkError::new(format!("{receiver}: {cause}")).with_source(error)
            })?;
        let secrets = request.secret_headers.iter().chain(&request.secret_body);
        Ok(Answer::read(response, &receiver, request.head, secrets.chain(auth)).await)
    }
}
