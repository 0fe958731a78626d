//! Segment's HTTP Tracking API: the lifecycle events of workflows and activities, as the reference
//! sends them. Documented in `docs/sinks/segment.md`.

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        address::Address,
        auth::{self, AuthProvider, Basic, FromFile, SecretFile},
        http_client::{HttpClient, REQUEST_TIMEOUT, Request, Verdict, request_timeout},
        parts::{self, Part, Receiver},
        tls::TlsFiles,
    },
};
use crate::event::{Event, LifecycleEvent, WorkflowState};
use async_trait::async_trait;
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use std::{fmt, sync::Arc};
use url::Url;

/// What is allowed, for error messages.
const ALLOWED: &str = "`segment://[WRITE_KEY@][HOST[:PORT]]`, with the write key there or in \
     EVENTSTORE_SEGMENT_WRITE_KEY or the file that EVENTSTORE_SEGMENT_WRITE_KEY_FILE names, and the parameters `user_id`, `tls` (`true` or `false`) and \
     `timeout` (up to `15s`)";
/// Where Segment listens unless told otherwise.
const DEFAULT_HOST: &str = "api.segment.io";
const WRITE_KEY: &str = "EVENTSTORE_SEGMENT_WRITE_KEY";
/// The same in a file, which is read again when it changes.
const WRITE_KEY_FILE: &str = "EVENTSTORE_SEGMENT_WRITE_KEY_FILE";

/// Segment's limits: it answers 200 and drops what is above them.
const MOST_EVENTS: usize = 2_500;
const MOST_BATCH_BYTES: usize = 500_000;
const MOST_EVENT_BYTES: usize = 32 * 1024;

/// Delivers to Segment.
struct SegmentSink {
    name: String,
    url: Url,
    /// Whom all events are about; without it, each its workflow.
    user_id: Option<String>,
    client: HttpClient,
}

impl fmt::Debug for SegmentSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentSink")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The sink of a `segment:` URL.
pub(super) fn open(
    url: &str,
    given: Option<Arc<dyn AuthProvider>>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    open_with(url, given, |name| std::env::var(name).ok())
}

fn open_with(
    url: &str,
    given: Option<Arc<dyn AuthProvider>>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let address = Address::parse(&with_host(url), ALLOWED)?;
    if address.password()?.is_some() {
        return Err(address.wrong("it holds a password; the write key stands in place of the user"));
    }
    if !address.path()?.is_empty() {
        return Err(address.wrong("it has a path"));
    }
    if address.user()?.is_none() && is_like_a_key(&address.host()) {
        return Err(address.wrong(
            "its host has no dot and is not this machine; a write key stands before an `@`",
        ));
    }
    let parameters = address.parameters(&["user_id", "tls", "timeout"])?;
    let scheme = match parameters.text("tls") {
        None | Some("true") => "https",
        Some("false") => "http",
        Some(_) => return Err(address.wrong("`tls` is neither `true` nor `false`")),
    };
    let timeout = match parameters.text("timeout") {
        Some(text) => request_timeout(text).map_err(|reason| address.wrong(reason))?,
        None => REQUEST_TIMEOUT,
    };
    let auth: Arc<dyn AuthProvider> = match (given, address.user()?) {
        (Some(_), Some(_)) => {
            return Err(address.wrong("it holds a write key beside an auth provider"));
        }
        (Some(given), None) => given,
        (None, Some(key)) => Arc::new(Basic::new(&key, "")),
        (None, None) => {
            let variable = |name| variable(name).filter(|value| !value.is_empty());
            match (variable(WRITE_KEY), variable(WRITE_KEY_FILE)) {
                (Some(key), None) => Arc::new(Basic::new(&key, "")),
                (None, Some(file)) => {
                    Arc::new(FromFile::new(SecretFile::new(file), auth::Scheme::User))
                }
                (Some(_), Some(_)) => {
                    return Err(
                        address.wrong(format!("{WRITE_KEY} is set together with {WRITE_KEY_FILE}"))
                    );
                }
                (None, None) => {
                    return Err(address.wrong(format!(
                        "there is no write key in it, nor in {WRITE_KEY} or {WRITE_KEY_FILE}"
                    )));
                }
            }
        }
    };
    let port = match scheme {
        "http" => address.port_or(80),
        _ => address.port_or(443),
    };
    let url = Url::parse(&format!(
        "{scheme}://{}:{port}/v1/batch",
        address.authority()
    ))
    .map_err(|error| address.wrong(error.to_string()))?;
    Ok(Arc::new(SegmentSink {
        name: format!("segment {}", address.authority()),
        user_id: parameters.text("user_id").map(str::to_owned),
        client: HttpClient::new(&url, timeout, TlsFiles::default(), Some(auth))
            .map_err(|reason| address.wrong(reason))?,
        url,
    }))
}

/// Whether a host may be a write key that was put in its place.
fn is_like_a_key(host: &str) -> bool {
    host != "localhost" && !host.contains(['.', ':'])
}

/// The URL with Segment's own host where it names none, which no parser takes.
fn with_host(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, parameters) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.is_empty() || authority.ends_with('@') {
        format!("{scheme}://{authority}{DEFAULT_HOST}{parameters}")
    } else {
        url.to_owned()
    }
}

/// One event as Segment takes it; the members and their order are the reference's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Track<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    anonymous_id: Option<&'a str>,
    event: &'a str,
    properties: Properties<'a>,
    timestamp: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    message_id: String,
}

#[derive(Serialize)]
struct Properties<'a> {
    value: f64,
    metric_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sdk_version: Option<&'a str>,
    send_to_segment: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_type: Option<&'a str>,
    workflow_state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    /// The error's type, and not its message: Segment is somebody else's, and a message can be
    /// private.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<&'a str>,
    description: String,
}

/// The name that Segment is given: the reference's, except that only a workflow that completed is
/// called completed.
fn track_name(event: &Event) -> Option<String> {
    let name = match LifecycleEvent::from_name(&event.event_name)? {
        LifecycleEvent::WorkflowStart => "workflow_started",
        LifecycleEvent::ActivityStart => "activity_started",
        LifecycleEvent::ActivityEnd => "activity_ended",
        LifecycleEvent::WorkflowEnd => match &event.metadata.workflow_state {
            // Says no more than that it ended.
            WorkflowState::Unknown | WorkflowState::Running => "workflow_ended",
            state => return Some(format!("workflow_{state}")),
        },
        _ => return None,
    };
    Some(name.to_owned())
}

impl SegmentSink {
    /// An event as Segment takes it; `None` if it is none of those that are sent.
    fn track(&self, sink_event: &SinkEvent) -> Result<Option<String>, String> {
        let event = sink_event.event().map_err(|error| error.to_string())?;
        let Some(name) = track_name(&event) else {
            return Ok(None);
        };
        let metadata = &event.metadata;
        let text = |field: &str| event.data.get(field).and_then(Value::as_str);
        let anonymous_id = [
            metadata.workflow_id.as_deref(),
            metadata.worker_identity.as_deref(),
            metadata.application_name.as_deref(),
        ]
        .into_iter()
        .flatten()
        .find(|id| !id.is_empty())
        .unwrap_or("unknown");
        let track = Track {
            user_id: self.user_id.as_deref(),
            anonymous_id: self.user_id.is_none().then_some(anonymous_id),
            event: &name,
            properties: Properties {
                value: 1.0,
                metric_type: "counter",
                sdk_version: metadata.sdk_version.as_deref(),
                send_to_segment: "true",
                workflow_id: metadata.workflow_id.as_deref(),
                workflow_run_id: metadata.workflow_run_id.as_deref(),
                workflow_type: metadata.workflow_type.as_deref(),
                workflow_state: metadata.workflow_state.as_str(),
                activity_id: metadata.activity_id.as_deref(),
                activity_type: metadata.activity_type.as_deref(),
                attempt: metadata.attempt.map(|attempt| attempt.to_string()),
                application_name: metadata.application_name.as_deref(),
                namespace: metadata.namespace.as_deref(),
                task_queue: metadata.task_queue.as_deref(),
                duration_ms: event.data.get("duration_ms").map(ToString::to_string),
                status: text("status"),
                error_type: event
                    .data
                    .get("error")
                    .and_then(|error| error.get("type"))
                    .and_then(Value::as_str),
                description: format!("Lifecycle event: {name}"),
            },
            timestamp: &sink_event.created_at,
            kind: "track",
            message_id: sink_event.event_id.to_string(),
        };
        let json = serde_json::to_string(&track).map_err(|error| error.to_string())?;
        if json.len() > MOST_EVENT_BYTES {
            return Err(format!(
                "{} bytes, of which Segment takes {MOST_EVENT_BYTES} in one event",
                json.len()
            ));
        }
        Ok(Some(json))
    }
}

impl Receiver for SegmentSink {
    fn most(&self) -> usize {
        MOST_EVENTS
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let mut events = Vec::with_capacity(part.len());
        for event in part {
            match self.track(event) {
                Ok(event) => events.extend(event),
                Err(reason) => return Ok(Part::Unsendable(reason)),
            }
        }
        if events.is_empty() {
            return Ok(Part::PassedOver);
        }
        let body = format!(r#"{{"batch":[{}]}}"#, events.join(","));
        if body.len() > MOST_BATCH_BYTES {
            // One event never is, so that halves are what goes out.
            return Ok(Part::Unsendable(format!(
                "more than {MOST_BATCH_BYTES} bytes in one batch"
            )));
        }
        let request = Request::post(self.url.clone(), "application/json", body);
        Ok(match self.client.send(&request).await? {
            Verdict::Accepted => Part::Taken,
            Verdict::Refused(refusal) => Part::Refused(refusal),
        })
    }
}

#[async_trait]
impl Sink for SegmentSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        parts::deliver(self, batch).await
    }

    /// Asks with HEAD, which Segment refuses and which sends nothing.
    async fn check(&self) -> Result<(), SinkError> {
        self.client
            .reach(&Request::bare(Method::HEAD, self.url.clone()))
            .await
    }

    /// Starts and ends of workflows and activities; by name, as in the reference.
    fn takes(&self, event: &SinkEvent) -> bool {
        matches!(
            LifecycleEvent::from_name(&event.event_name),
            Some(
                LifecycleEvent::WorkflowStart
                    | LifecycleEvent::WorkflowEnd
                    | LifecycleEvent::ActivityStart
                    | LifecycleEvent::ActivityEnd
            )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_write_key_comes_from_the_url_or_the_environment() {
        let set = |names: &'static [&str], value: &'static str| {
            move |name: &str| names.contains(&name).then(|| value.to_owned())
        };
        open_with("segment://key@", None, set(&[], "")).unwrap();
        for name in [&[WRITE_KEY], &[WRITE_KEY_FILE]] {
            open_with("segment://", None, set(name, "key")).unwrap();
            open_with("segment://?user_id=u", None, set(name, "key")).unwrap();
        }
        for (names, value) in [
            (&[WRITE_KEY][..], ""),
            (&[], "key"),
            (&[WRITE_KEY, WRITE_KEY_FILE], "key"),
        ] {
            let error = open_with("segment://", None, set(names, value)).unwrap_err();
            assert!(error.reason.contains(WRITE_KEY), "{error}");
        }
    }

    #[test]
    fn a_write_key_in_place_of_the_host_is_not_shown() {
        for url in [
            "segment://hunter2",
            "segment://hunter2?tls=false",
            "segment://hunter2/",
        ] {
            let error = open_with(url, None, |_| Some("key".to_owned())).unwrap_err();
            assert!(error.reason.contains("before an `@`"), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let sink = open_with("segment://localhost", None, |name| {
            (name == WRITE_KEY).then(|| "key".to_owned())
        });
        assert_eq!(sink.unwrap().name(), "segment localhost");
    }

    #[test]
    fn the_host_is_segments_unless_another_is_named() {
        for (url, wanted) in [
            ("segment://", "segment://api.segment.io"),
            (
                "segment://k@?user_id=u",
                "segment://k@api.segment.io?user_id=u",
            ),
            ("segment:///", "segment://api.segment.io/"),
            ("segment://h:1", "segment://h:1"),
        ] {
            assert_eq!(with_host(url), wanted);
        }
    }
}
