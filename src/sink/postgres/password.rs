//! Where the password of a server comes from. Knows no other part of the URL.

use super::{pass_file::PassFile, service::Service};
use crate::sink::{SinkError, shared::auth::secret::Secret};
use secrecy::SecretString;
use std::sync::Arc;
use tokio_postgres::Config;

/// Where a password comes from. Files are read for each connection.
#[derive(Clone, Debug)]
pub(super) enum Password {
    Given(Secret),
    OfService(Arc<Service>),
    InPassFile(Arc<PassFile>),
}

impl Password {
    /// Returns the password for a server as it is now; none if there is none for it.
    pub(super) async fn read(&self, server: &Config) -> Result<Option<SecretString>, SinkError> {
        let password = match self {
            Self::Given(secret) => return secret.read().await.map(Some),
            Self::OfService(service) => {
                let service = service.clone();
                tokio::task::spawn_blocking(move || service.password().map_err(SinkError::new))
                    .await
            }
            Self::InPassFile(file) => {
                let (file, server) = (file.clone(), server.clone());
                tokio::task::spawn_blocking(move || Ok(file.password(&server))).await
            }
        };
        password.unwrap_or_else(|_| Err(SinkError::new("the file of the password was not read")))
    }
}
