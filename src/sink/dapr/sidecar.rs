//! The sidecar: where it is, and the token that it asks for. Knows neither components nor events.

use super::API_TOKEN;
use crate::sink::{
    SinkError,
    shared::{
        auth::AuthHeader,
        http_client::{Answer, HttpClient, Request, is_header_value},
    },
};
use reqwest::Method;
use url::Url;

/// A sidecar, and the client that speaks with it.
pub(super) struct Sidecar {
    pub(super) client: HttpClient,
    url: Url,
    api_token: Option<AuthHeader>,
}

impl Sidecar {
    /// The sidecar at `url`. The error says what is wrong with the token.
    pub(super) fn new(
        url: Url,
        client: HttpClient,
        api_token: Option<String>,
    ) -> Result<Self, String> {
        let api_token = match api_token.filter(|token| !token.is_empty()) {
            Some(token) if !is_header_value(&token) => {
                return Err(format!("{API_TOKEN} does not fit into a header"));
            }
            token => token.map(|token| AuthHeader::new("dapr-api-token", token)),
        };
        Ok(Self {
            client,
            url,
            api_token,
        })
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
    pub(super) fn request(&self, request: Request) -> Request {
        Request {
            secret_headers: self.api_token.iter().cloned().collect(),
            ..request
        }
    }

    /// Asks one of its APIs, without the provider's headers, which are for somebody else.
    pub(super) async fn get(&self, path: &[&str]) -> Result<Answer, SinkError> {
        let request = self.request(Request::bare(Method::GET, self.url(path)));
        self.client.send_with(&request, &[]).await
    }
}
