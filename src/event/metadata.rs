//! The metadata of an event: where and when it happened. Plain data; the names and types are part of the event format.
//! Other modules fill it.

use super::EventId;
use chrono::{DateTime, Datelike as _, SecondsFormat, Timelike as _, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::fmt;

/// The state of a workflow, as an event reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkflowState {
    /// The state is not known, or there is no workflow.
    #[default]
    Unknown,
    /// The run is running.
    Running,
    /// The run completed.
    Completed,
    /// The run failed.
    Failed,
    /// The run was cancelled.
    Cancelled,
    /// The run continued as new.
    ContinuedAsNew,
    /// The run was terminated.
    Terminated,
    /// The run timed out.
    TimedOut,
    /// A state that this version does not know, as it was read.
    Other(String),
}

impl WorkflowState {
    /// Returns the state as it is written in JSON, such as `continued_as_new`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unknown => "unknown",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::ContinuedAsNew => "continued_as_new",
            Self::Terminated => "terminated",
            Self::TimedOut => "timed_out",
            Self::Other(state) => state,
        }
    }
}

impl From<&str> for WorkflowState {
    fn from(state: &str) -> Self {
        match state {
            "unknown" => Self::Unknown,
            "running" => Self::Running,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            "continued_as_new" => Self::ContinuedAsNew,
            "terminated" => Self::Terminated,
            "timed_out" => Self::TimedOut,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for WorkflowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for WorkflowState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for WorkflowState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let state = Option::<String>::deserialize(deserializer)?;
        Ok(state.as_deref().map_or(Self::Unknown, Self::from))
    }
}

macro_rules! metadata {
    ($($(#[$doc:meta])* $name:ident : $type:ty),+ $(,)?) => {
        /// The metadata of an event: where and when it happened, and fields of your own.
        ///
        /// In JSON, fields without a value are left out, and `null` is read as absent.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct EventMetadata {
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$type>,
            )+
            /// When the event happened. In JSON it is an RFC 3339 time in UTC with microseconds.
            #[serde(
                skip_serializing_if = "Option::is_none",
                serialize_with = "serialize_time"
            )]
            pub created_at: Option<DateTime<Utc>>,
            /// The state of the workflow.
            pub workflow_state: WorkflowState,
            /// Fields of your own, and fields that this version does not know.
            #[serde(flatten)]
            pub custom: Map<String, Value>,
        }

        /// The places of the fields among the bits.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        enum Field {
            $($name),+
        }

        impl EventMetadata {
            /// Returns whether `name` is a field that this type defines, and not a custom one.
            pub fn is_known_field(name: &str) -> bool {
                matches!(name, $(stringify!($name))|+ | "created_at" | "workflow_state")
            }

            /// The bit that stands for the field `name` in [`Self::set_fields`]; none for a custom one,
            /// and for those that only an event itself has.
            pub(crate) fn field_bit(name: &str) -> Option<u64> {
                let field = match name {
                    $(stringify!($name) => Field::$name,)+
                    _ => return None,
                };
                Some(1 << field as u8)
            }

            /// Which fields are set, a bit each.
            pub(crate) fn set_fields(&self) -> u64 {
                0 $(| (u64::from(self.$name.is_some()) << Field::$name as u8))+
            }

            /// Sets the field `name` from JSON, a custom one if this type has none of that name.
            /// Gives back what the field takes if `value` does not fit.
            pub(crate) fn set_field(&mut self, name: &str, value: Value) -> Result<(), &'static str> {
                match name {
                    $(
                        stringify!($name) => {
                            self.$name = serde_json::from_value(value)
                                .map_err(|_| stringify!($type))?;
                        }
                    )+
                    "created_at" => {
                        self.created_at = serde_json::from_value(value)
                            .map_err(|_| "an RFC 3339 time")?;
                    }
                    "workflow_state" => {
                        self.workflow_state = serde_json::from_value(value)
                            .map_err(|_| "a workflow state")?;
                    }
                    _ => {
                        self.custom.insert(name.to_owned(), value);
                    }
                }
                Ok(())
            }

            /// Sets the field `name` if it is empty and what `value` gives fits; else leaves it.
            pub(crate) fn fill_field(&mut self, name: &str, value: impl FnOnce() -> Value) {
                let empty = match name {
                    $(stringify!($name) => self.$name.is_none(),)+
                    "created_at" => self.created_at.is_none(),
                    "workflow_state" => self.workflow_state == WorkflowState::Unknown,
                    _ => !self.custom.contains_key(name),
                };
                if empty {
                    // What does not fit is no reason to lose the event.
                    self.set_field(name, value()).ok();
                }
            }
        }
    };
}

metadata! {
    /// The event's id.
    event_id: EventId,
    /// The application that published the event.
    application_name: String,
    /// When the event happened, in whole seconds since the Unix epoch.
    created_timestamp: i64,
    /// The topic, for brokers that have topics. Publishing sets it to the event type if it is not set. Sinks whose address
    /// has `{topic_name}` in it deliver to this topic, such as `dapr://host/pubsub/{topic_name}`.
    topic_name: String,
    /// The Temporal namespace.
    namespace: String,
    /// The task queue.
    task_queue: String,
    /// The identity of the worker.
    worker_identity: String,
    /// The build id of the worker.
    build_id: String,
    /// The name and version of the Temporal SDK.
    sdk_version: String,
    /// The workflow type.
    workflow_type: String,
    /// The workflow id.
    workflow_id: String,
    /// The run id of the workflow.
    workflow_run_id: String,
    /// The attempt of the run under the workflow's retry policy, from 1.
    workflow_attempt: u32,
    /// The run id of the first run in the chain.
    first_execution_run_id: String,
    /// The run id of the run that this one continues.
    continued_from_run_id: String,
    /// The parent's workflow id, for a child workflow.
    parent_workflow_id: String,
    /// The parent's run id, for a child workflow.
    parent_run_id: String,
    /// The workflow id of the root of the tree of child workflows.
    root_workflow_id: String,
    /// The number of the event among the workflow-side events of its run, from 1.
    sequence: u64,
    /// The activity type.
    activity_type: String,
    /// The activity id.
    activity_id: String,
    /// The activity attempt, from 1.
    attempt: u32,
    /// Whether the activity is a local activity.
    is_local: bool,
    /// The W3C trace context.
    traceparent: String,
}

impl EventMetadata {
    /// Creates metadata without any field.
    pub fn new() -> Self {
        Self::default()
    }

    /// `created_at` as it stands on the wire.
    pub(crate) fn created_at_text(&self) -> Option<String> {
        let time = self.created_at.as_ref()?;
        let Some(digits) = time_digits(time) else {
            return Some(rare_time(time));
        };
        std::str::from_utf8(&digits).ok().map(str::to_owned)
    }
}

/// A time of which the calendar or the clock is not the usual one.
fn rare_time(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A time as it stands on the wire, without the general formatter's cost: every event has it twice. None
/// for a year that has not four digits, and for a leap second.
fn time_digits(time: &DateTime<Utc>) -> Option<[u8; 27]> {
    let time = time.naive_utc();
    let year = u32::try_from(time.year()).ok().filter(|it| *it <= 9999)?;
    let nanoseconds = Some(time.nanosecond()).filter(|it| *it < 1_000_000_000)?;
    let (month, day) = (time.month(), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let micros = nanoseconds / 1_000;
    // Of a remainder by ten, which fits.
    let digit = |number: u32, unit: u32| b'0' + (number / unit % 10) as u8;
    Some([
        digit(year, 1_000),
        digit(year, 100),
        digit(year, 10),
        digit(year, 1),
        b'-',
        digit(month, 10),
        digit(month, 1),
        b'-',
        digit(day, 10),
        digit(day, 1),
        b'T',
        digit(hour, 10),
        digit(hour, 1),
        b':',
        digit(minute, 10),
        digit(minute, 1),
        b':',
        digit(second, 10),
        digit(second, 1),
        b'.',
        digit(micros, 100_000),
        digit(micros, 10_000),
        digit(micros, 1_000),
        digit(micros, 100),
        digit(micros, 10),
        digit(micros, 1),
        b'Z',
    ])
}

fn serialize_time<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let Some(time) = time else {
        return serializer.serialize_none();
    };
    let digits = time_digits(time);
    match digits.as_ref().map(|digits| std::str::from_utf8(digits)) {
        Some(Ok(text)) => serializer.serialize_str(text),
        _ => serializer.serialize_str(&rare_time(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn null_and_absent_are_the_same_and_are_left_out() {
        let read: EventMetadata =
            serde_json::from_value(json!({ "workflow_id": null, "workflow_state": null })).unwrap();
        assert_eq!(read, EventMetadata::default());
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            json!({ "workflow_state": "unknown" })
        );
    }

    #[test]
    fn custom_fields_survive() {
        let text = json!({ "workflow_state": "running", "release_id": "", "nested": { "a": [1] } });
        let read: EventMetadata = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), text);
    }

    #[test]
    fn a_state_of_a_newer_version_survives() {
        let read: EventMetadata =
            serde_json::from_value(json!({ "workflow_state": "paused" })).unwrap();
        assert_eq!(read.workflow_state, WorkflowState::Other("paused".into()));
        assert_eq!(
            serde_json::to_value(&read).unwrap()["workflow_state"],
            "paused"
        );
    }

    #[test]
    fn fill_leaves_what_is_there_and_what_does_not_fit() {
        let mut metadata = EventMetadata::default();
        metadata.fill_field("workflow_id", || json!("a"));
        metadata.fill_field("workflow_id", || json!("b"));
        metadata.fill_field("attempt", || json!("no number"));
        metadata.fill_field("tenant", || json!("acme"));
        metadata.fill_field("tenant", || json!("other"));
        assert_eq!(metadata.workflow_id.as_deref(), Some("a"));
        assert_eq!(metadata.attempt, None);
        assert_eq!(metadata.custom["tenant"], "acme");
    }

    #[test]
    fn rare_times_are_written_too() {
        for text in [
            "+262142-12-31T23:59:59Z",
            "-0001-01-01T00:00:00Z",
            "2016-12-31T23:59:60.5Z",
        ] {
            let metadata = EventMetadata {
                created_at: Some(text.parse().unwrap()),
                ..EventMetadata::default()
            };
            let written = serde_json::to_value(&metadata).unwrap();
            assert_eq!(written["created_at"], *metadata.created_at_text().unwrap());
            let read: EventMetadata = serde_json::from_value(written).unwrap();
            assert_eq!(read.created_at, metadata.created_at);
        }
    }

    #[test]
    fn a_field_has_a_bit_of_its_own() {
        let mut metadata = EventMetadata::default();
        assert_eq!(metadata.set_fields(), 0);
        metadata.event_id = Some(EventId::from(uuid::Uuid::nil()));
        metadata.traceparent = Some(String::new());
        let bits = ["event_id", "traceparent"].map(|name| EventMetadata::field_bit(name).unwrap());
        assert_eq!(metadata.set_fields(), bits[0] | bits[1]);
        assert_ne!(bits[0], bits[1]);
        assert_eq!(EventMetadata::field_bit("tenant"), None);
    }

    proptest! {
        #[test]
        fn times_are_written_as_the_general_formatter_does(
            seconds in -62_167_219_200_i64..253_402_300_800,
            nanoseconds in 0_u32..1_000_000_000,
        ) {
            let time = DateTime::from_timestamp(seconds, nanoseconds).unwrap();
            let digits = time_digits(&time).unwrap();
            prop_assert_eq!(std::str::from_utf8(&digits).unwrap(), rare_time(&time));
        }
    }
}
