//! Whether the sidecar has the component: asked when it matters, and remembered for a while. Knows nothing of events.

use super::{address::Component, sidecar::Sidecar};
use crate::sink::{SinkError, shared::http_client::Verdict};
use serde_json::Value;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a component that is missing is taken for missing: a sidecar can load one later.
const MISSING_FOR: Duration = Duration::from_secs(5);

/// What a sidecar says of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    Present,
    Missing,
}

/// What is known of the component: what was said last, and when; none if nobody asked yet, or something went wrong
/// since.
#[derive(Default)]
pub(super) struct Knowledge {
    last: Mutex<Option<(Availability, Instant)>>,
}

impl Knowledge {
    fn last(&self) -> MutexGuard<'_, Option<(Availability, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is known: something went wrong.
    pub(super) fn forget(&self) {
        *self.last() = None;
    }

    /// Whether the component is there, asked if need be.
    pub(super) async fn is_present(
        &self,
        sidecar: &Sidecar,
        component: &Component,
    ) -> Result<bool, SinkError> {
        let known = *self.last();
        let availability = match known {
            Some((Availability::Present, _)) => Availability::Present,
            Some((Availability::Missing, since)) if since.elapsed() < MISSING_FOR => {
                Availability::Missing
            }
            _ => {
                let availability = ask(sidecar, component).await?;
                *self.last() = Some((availability, Instant::now()));
                availability
            }
        };
        Ok(availability == Availability::Present)
    }
}

/// Asks the sidecar whether it has the component.
pub(super) async fn ask(
    sidecar: &Sidecar,
    component: &Component,
) -> Result<Availability, SinkError> {
    let answer = sidecar.get(&["v1.0", "metadata"]).await?;
    match (answer.status.as_u16(), answer.verdict) {
        (_, Ok(Verdict::Accepted)) => {}
        // A sidecar can be told to keep this API to itself; publishing will tell.
        (403..=405, _) => return Ok(Availability::Present),
        (_, Ok(Verdict::Refused(refusal))) => return Err(SinkError::new(refusal.reason)),
        (_, Err(error)) => return Err(error),
    }
    let metadata: Value = serde_json::from_str(&answer.body)
        .map_err(|error| SinkError::caused_by("the sidecar's metadata is not readable", error))?;
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let present = metadata
        .get("components")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|one| {
            text(one, "name") == component.name() && text(one, "type").starts_with(component.kind())
        });
    if present {
        return Ok(Availability::Present);
    }
    // Before a sidecar is ready, it has components that it does not name yet.
    let health = sidecar.get(&["v1.0", "healthz", "outbound"]).await?;
    if health.status.is_server_error() {
        return Err(SinkError::new("the sidecar is not ready yet"));
    }
    Ok(Availability::Missing)
}
