//! The way to the server: a connection that the user gave, or one that is made with the options of the
//! user's client. Knows how to connect and with whose credentials, and nothing of what is asked.

use super::request_error::RequestError;
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use temporalio_client::{Connection, ConnectionOptions};
use tracing::{info, warn};

/// See the module's description. Connects on the first question.
#[derive(Default)]
pub(super) struct Source {
    way: Mutex<Way>,
    // The server refused the credentials when it was asked last.
    refused: AtomicBool,
}

#[derive(Default)]
struct Way {
    // The user's own: its clones share one set of headers, so that it has the present key always.
    given: Option<Connection>,
    options: Option<Box<ConnectionOptions>>,
    // Made with the options.
    own: Option<Connection>,
}

impl Source {
    pub(super) fn given(connection: Connection) -> Self {
        let source = Self::default();
        source.way().given = Some(connection);
        source
    }

    #[cfg(feature = "plugin")]
    pub(super) fn options(options: Option<ConnectionOptions>) -> Self {
        let source = Self::default();
        source.way().options = options.map(Box::new);
        source
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this connection is used, whatever was known before.
    #[cfg(feature = "plugin")]
    pub(super) fn give(&self, connection: Connection) {
        // What is dropped is dropped when the lock is free: it is the SDK's code that runs then.
        let earlier = self.way().given.replace(connection);
        drop(earlier);
    }

    /// Replaces the key of the client's options. A connection that was given keeps its own.
    #[cfg(feature = "plugin")]
    pub(super) fn set_api_key(&self, api_key: &str) {
        let mut way = self.way();
        if let Some(options) = &mut way.options {
            options.api_key = Some(api_key.to_owned());
        }
        if let Some(own) = &way.own {
            own.set_api_key(Some(api_key.to_owned()));
        }
    }

    pub(super) fn is_known(&self) -> bool {
        let way = self.way();
        way.given.is_some() || way.options.is_some()
    }

    /// The identity that the client reports to the server, if it is known and set.
    #[cfg(feature = "plugin")]
    pub(super) fn identity(&self) -> Option<String> {
        let way = self.way();
        let identity = match (&way.given, &way.options) {
            (Some(connection), _) => connection.identity(),
            (None, Some(options)) => &options.identity,
            (None, None) => return None,
        };
        Some(identity.to_owned()).filter(|identity| !identity.is_empty())
    }

    /// Host and port of the server, if they are known.
    #[cfg(feature = "plugin")]
    pub(super) fn address(&self) -> Option<(String, u16)> {
        let way = self.way();
        let target = &way.options.as_ref()?.target;
        Some((
            target.host_str()?.to_owned(),
            target.port_or_known_default()?,
        ))
    }

    pub(super) async fn connection(&self) -> Result<Connection, RequestError> {
        let options = {
            let way = self.way();
            if let Some(known) = way.given.as_ref().or(way.own.as_ref()) {
                return Ok(known.clone());
            }
            way.options.clone().ok_or(RequestError::NotConnected)?
        };
        // Two questions at once may both connect; the second connection is dropped unused.
        let made = Connection::connect(*options).await?;
        let mut way = self.way();
        if let Some(known) = way.given.as_ref().or(way.own.as_ref()) {
            return Ok(known.clone());
        }
        // The key may be another one than when the connecting began.
        made.set_api_key(
            way.options
                .as_ref()
                .and_then(|options| options.api_key.clone()),
        );
        way.own = Some(made.clone());
        Ok(made)
    }

    /// Says when the server begins to refuse the credentials, and when it takes them again.
    pub(super) fn answered<T>(&self, answer: &Result<T, RequestError>) {
        match answer {
            Err(error) if error.is_about_credentials() => {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    warn!(
                        %error,
                        "the server refuses the credentials with which it is asked about workflow \
                         runs; it is asked again with those that are there then. Give the plugin \
                         the client's connection, with EventStorePlugin::set_connection, or the \
                         new key, with EventStorePlugin::set_api_key"
                    );
                }
            }
            Ok(_) | Err(RequestError::Gone) => {
                if self.refused.load(Ordering::Relaxed)
                    && self.refused.swap(false, Ordering::Relaxed)
                {
                    info!("the server takes the credentials again");
                }
            }
            Err(_) => {}
        }
    }
}
