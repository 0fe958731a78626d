//! Where objects are kept: a folder, or a bucket that is reached over HTTP. Knows nothing of events and names.

use super::address::Endpoint;
use crate::sink::{SinkError, causes::with_causes, shared::tls};
use object_store::{
    ClientConfigKey, ClientOptions, Error, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long connecting may take, and a request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of what a server said is kept.
const MOST_SAID: usize = 300;

/// Where objects are kept.
pub(super) enum Place {
    /// It has to be there: where nothing is mounted now, nothing is to be written.
    Folder(PathBuf),
    Bucket(Arc<dyn ObjectStore>),
}

impl Place {
    /// A bucket of S3, or of a server that speaks as S3 does. What is not given comes from `AWS_…`.
    pub(super) fn s3(
        bucket: &str,
        keys: Option<(&str, &str)>,
        region: Option<&str>,
        endpoint: Option<Endpoint>,
        roots: Option<PathBuf>,
    ) -> Result<Self, String> {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            // Two writers of one name: the first one wins.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(no_retries());
        if let Some((key, secret)) = keys {
            builder = builder
                .with_access_key_id(key)
                .with_secret_access_key(secret);
        }
        if let Some(region) = region {
            builder = builder.with_region(region);
        }
        let mut is_here = false;
        if let Some(endpoint) = endpoint {
            is_here = endpoint.is_here;
            builder = builder
                .with_endpoint(endpoint.url.as_str().trim_end_matches('/'))
                .with_allow_http(endpoint.allows_http);
        }
        let connector = Connector { roots, is_here };
        bucket_of(builder.with_http_connector(connector).build())
    }

    /// A bucket of Google Cloud Storage, with what `GOOGLE_…` says.
    pub(super) fn gs(bucket: &str, roots: Option<PathBuf>) -> Result<Self, String> {
        let builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(bucket)
            .with_retry(no_retries())
            .with_http_connector(Connector::to_elsewhere(roots));
        bucket_of(builder.build())
    }

    /// A container of Azure Blob Storage, with what `AZURE_…` says.
    pub(super) fn az(
        container: &str,
        account: Option<&str>,
        roots: Option<PathBuf>,
    ) -> Result<Self, String> {
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_container_name(container)
            .with_retry(no_retries())
            .with_http_connector(Connector::to_elsewhere(roots));
        if let Some(account) = account {
            builder = builder.with_account(account);
        }
        if builder
            .get_config_value(&AzureConfigKey::AccountName)
            .is_none()
        {
            return Err(
                "it names no `account`, and neither does AZURE_STORAGE_ACCOUNT_NAME".into(),
            );
        }
        bucket_of(builder.build())
    }

    /// Returns the store, of a folder if that is there.
    pub(super) async fn open(&self) -> Result<Arc<dyn ObjectStore>, SinkError> {
        let folder = match self {
            Self::Bucket(store) => return Ok(store.clone()),
            Self::Folder(folder) => folder.clone(),
        };
        let opened = tokio::task::spawn_blocking(move || open_folder(&folder)).await;
        let opened = opened.unwrap_or_else(|_| Err("the folder was not opened".to_owned()));
        opened.map_err(SinkError::new)
    }
}

fn open_folder(folder: &Path) -> Result<Arc<dyn ObjectStore>, String> {
    let wrong = |reason: &dyn std::fmt::Display| format!("the folder {folder:?}: {reason}");
    let metadata = std::fs::metadata(folder).map_err(|error| wrong(&error))?;
    if !metadata.is_dir() {
        return Err(wrong(&"it is no folder"));
    }
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| wrong(&error))?;
    // What the journal's cursor has passed must not be lost with the power.
    Ok(Arc::new(store.with_fsync(true)))
}

fn bucket_of(built: object_store::Result<impl ObjectStore>) -> Result<Place, String> {
    match built {
        Ok(store) => Ok(Place::Bucket(Arc::new(store))),
        Err(error) => Err(text_of(&error)),
    }
}

/// The delivery tries again, with pauses.
fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        retry_timeout: REQUEST_TIMEOUT,
        ..RetryConfig::default()
    }
}

/// Makes the HTTP client, with the TLS of all sinks.
#[derive(Debug)]
struct Connector {
    /// The authorities to trust, instead of those of this machine.
    roots: Option<PathBuf>,
    /// Whether the server is on this machine.
    is_here: bool,
}

impl Connector {
    fn to_elsewhere(roots: Option<PathBuf>) -> Self {
        let is_here = false;
        Self { roots, is_here }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let allows_http = allows_http.as_deref() == Some("true");
        let config = match &self.roots {
            // Plain HTTP does not wait for the machine's certificates to be read.
            None if self.is_here && allows_http => tls::without_roots(),
            roots => tls::client_config(roots.as_deref()),
        };
        let wrong = |source: String| Error::Generic {
            store: "HTTP",
            source: source.into(),
        };
        let mut builder = reqwest::Client::builder();
        if self.is_here {
            builder = builder.no_proxy();
        }
        let client = builder
            .tls_backend_preconfigured(config.map_err(wrong)?)
            .https_only(!allows_http)
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            .build()
            .map_err(|error| wrong(with_causes(&error.without_url())))?;
        Ok(HttpClient::new(client))
    }
}

/// Returns the failure of a request. Without its source, which quotes all that the server said.
pub(super) fn failed(what: &str, error: &Error) -> SinkError {
    SinkError::new(format!("{what}: {}", text_of(error)))
}

/// Returns an error's text, and of what the server said no more than its code: the rest may quote what it was sent.
fn text_of(error: &Error) -> String {
    let text = with_causes(error);
    let (mut said, body) = match text.find(['<', '{']) {
        Some(body) => text.split_at(body),
        None => (&*text, ""),
    };
    if let Some((end, _)) = said.char_indices().nth(MOST_SAID) {
        said = said.get(..end).unwrap_or_default();
    }
    let said = said.trim_end_matches([' ', ':', '-']);
    let code = body.split_once("<Code>").and_then(|(_, rest)| {
        let code = rest.split_once("</Code>")?.0;
        let is_code = code.len() < 60 && code.chars().all(|c| c.is_ascii_alphanumeric());
        is_code.then_some(code)
    });
    match code {
        Some(code) => format!("{said}: {code}"),
        None => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_server_said_its_code_alone_is_shown() {
        let error = |said: &str| Error::Generic {
            store: "S3",
            source: format!("status code: 403 Forbidden: {said}").into(),
        };
        let said = "<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Key>hunter2</Key>";
        let text = text_of(&error(said));
        assert!(
            text.ends_with("403 Forbidden: InvalidAccessKeyId"),
            "{text}"
        );
        let text = text_of(&error("{ \"error\": \"hunter2\" }"));
        assert!(text.ends_with("403 Forbidden"), "{text}");
        assert!(text_of(&error(&"x".repeat(1000))).len() < 400);
    }
}
