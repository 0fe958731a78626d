//! A client for programs that have none: connects to the server that Temporal's own variables and configuration file
//! name. Knows nothing of stores.

use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, NamespacedClient as _,
    envconfig::{ConfigError, LoadClientConfigProfileOptions},
    errors::ClientConnectError,
    tonic::{self, IntoRequest as _},
};
use temporalio_common::{
    envconfig::load_client_config_profile,
    protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest,
};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("what names the Temporal server makes no sense: {}", said(.0))]
    Configuration(ConfigError),
    #[error("no Temporal server answers at {address}: {source}")]
    Server {
        address: String,
        source: ClientConnectError,
    },
    #[error("the Temporal server at {address} does not show the namespace {namespace:?}: {}", source.message())]
    Namespace {
        address: String,
        namespace: String,
        source: Box<tonic::Status>,
    },
}

/// Says what is wrong with a configuration. What reads the file quotes the line at fault, which may hold a key.
fn said(error: &ConfigError) -> String {
    match error {
        ConfigError::LoadError(source) if !source.is::<std::io::Error>() => {
            "its configuration file, or one that this names, is not what it should be".to_owned()
        }
        error => error.to_string(),
    }
}

/// A connected client, and where it is connected to.
pub(crate) struct Connected {
    pub(crate) client: Client,
    pub(crate) address: String,
}

/// Connects to the server that `TEMPORAL_ADDRESS` and its like name, or the profile in Temporal's configuration file; what
/// is given here counts before them. Asks the server for the namespace, so that it is known to be there.
pub(crate) async fn connect(
    address: Option<&str>,
    namespace: Option<&str>,
) -> Result<Connected, ConnectError> {
    let mut profile = load_client_config_profile(LoadClientConfigProfileOptions::default(), None)
        .map_err(ConnectError::Configuration)?;
    if let Some(address) = address {
        profile.address = Some(address.to_owned());
    }
    let namespace = namespace
        .map(str::to_owned)
        .or_else(|| profile.namespace.clone())
        .unwrap_or_else(|| "default".to_owned());
    let options = ConnectionOptions::try_from(profile).map_err(ConnectError::Configuration)?;
    // Without a user or a password, which an address may have.
    let address = match (options.target.host_str(), options.target.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let options_of_client = ClientOptions::new(namespace).build();
    let client = Client::connect(options, options_of_client)
        .await
        .map_err(|source| ConnectError::Server {
            address: address.clone(),
            source,
        })?;
    let request = DescribeNamespaceRequest {
        namespace: client.namespace(),
        ..DescribeNamespaceRequest::default()
    };
    let mut service = client.connection().workflow_service();
    if let Err(status) = service.describe_namespace(request.into_request()).await {
        return Err(ConnectError::Namespace {
            address,
            namespace: client.namespace(),
            source: Box::new(status),
        });
    }
    Ok(Connected { client, address })
}
