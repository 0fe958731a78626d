//! A Dapr sidecar over its HTTP API: a topic of a pub/sub component, or an output binding.
//! Documented in `docs/sinks/dapr.md`.

mod address;
mod availability;
mod binding;
mod pub_sub;
mod sidecar;

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        auth::{self, AuthProvider},
        http_client::HttpClient,
        parts::{self, Part, Receiver},
        tls::TlsFiles,
    },
};
use address::{Component, ComponentAddress};
use async_trait::async_trait;
use availability::{Availability, Knowledge};
use sidecar::Sidecar;
use std::{fmt, sync::Arc};

/// What Dapr reads, too: the token that the sidecar asks for.
const API_TOKEN: &str = "DAPR_API_TOKEN";

/// Delivers to a Dapr sidecar.
struct DaprSink {
    name: String,
    sidecar: Sidecar,
    component: Component,
    max_bytes: Option<usize>,
    knowledge: Knowledge,
}

impl fmt::Debug for DaprSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaprSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The sink of a `dapr:` or `dapr+binding:` URL.
pub(super) fn open(
    url: &str,
    given: Option<Arc<dyn AuthProvider>>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    open_with(url, given, std::env::var(API_TOKEN).ok())
}

fn open_with(
    url: &str,
    given: Option<Arc<dyn AuthProvider>>,
    api_token: Option<String>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = ComponentAddress::parse(url)?;
    let auth = match (given, &address.component) {
        (Some(_), _) if address.auth.is_some() => {
            return Err(address.wrong("`eventstore.auth` is there beside an auth provider"));
        }
        // Goes on to where the binding leads, by way of the sidecar.
        (None, Component::Binding { .. }) => auth::from_environment(auth::Place {
            text: url,
            receiver: &address.sidecar,
            auth: address.auth.as_deref(),
            roots: None,
        })?,
        (given, _) => given,
    };
    let client = HttpClient::new(&address.sidecar, address.timeout, TlsFiles::default(), auth)
        .map_err(|reason| address.wrong(reason))?;
    // The URL's own wins, as everywhere.
    let api_token = match &address.token {
        Some(file) => Some(file.clone()),
        None => sidecar::given(api_token).map_err(|reason| address.wrong(reason))?,
    };
    let sidecar = Sidecar::new(address.sidecar.clone(), client, api_token);
    Ok(Arc::new(DaprSink {
        name: address.sink_name(),
        sidecar,
        component: address.component,
        max_bytes: address.max_bytes,
        knowledge: Knowledge::default(),
    }))
}

impl DaprSink {
    fn absence(&self) -> String {
        format!(
            "the sidecar has no component {} of the type {}*",
            self.component.name(),
            self.component.kind()
        )
    }
}

/// What a broker behind the sidecar finds too large, the sidecar answers like an outage.
fn too_large(bytes: usize, max_bytes: Option<usize>) -> Option<Part> {
    let most = max_bytes.filter(|most| bytes > *most)?;
    Some(Part::Unsendable(format!(
        "{bytes} bytes, of which `max_bytes` allows {most}"
    )))
}

impl Receiver for DaprSink {
    fn most(&self) -> usize {
        1
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let [event] = part else {
            return Ok(Part::Unsendable("one event per request".to_owned()));
        };
        // Asked for each event: the first failure of a batch may be that the component went away.
        if !self
            .knowledge
            .is_present(&self.sidecar, &self.component)
            .await?
        {
            return Err(SinkError::absent(self.absence()));
        }
        let (sidecar, max_bytes) = (&self.sidecar, self.max_bytes);
        let part = match &self.component {
            Component::PubSub { name, topic } => {
                pub_sub::publish(sidecar, name, topic, max_bytes, event).await
            }
            Component::Binding { name } => binding::invoke(sidecar, name, max_bytes, event).await,
        };
        if part.is_err() {
            self.knowledge.forget();
        }
        part
    }
}

#[async_trait]
impl Sink for DaprSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let batch = match &self.component {
            Component::PubSub { topic, .. } => topic.admitted(batch)?,
            Component::Binding { .. } => batch,
        };
        parts::deliver(self, batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        match availability::ask(&self.sidecar, &self.component).await? {
            Availability::Missing => Err(SinkError::absent(self.absence())),
            Availability::Present => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecars_token_is_not_shown() {
        let sink = open_with("dapr://h/p/t", None, Some("hunter2".into())).unwrap();
        assert!(!format!("{sink:?}").contains("hunter2"));
        let error = open_with("dapr://h/p/t", None, Some("hunter2\n".into())).unwrap_err();
        assert!(error.reason.contains(API_TOKEN), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
