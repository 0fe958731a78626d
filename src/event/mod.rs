//! Events: their fields, rules, ids and encodings.
//!
//! This module does not know where events come from or where they go.

mod canonical;
pub(crate) mod cloudevents;
mod error;
mod execution;
mod id;
pub mod lifecycle;
mod metadata;
mod rules;
mod stored;
mod traceparent;

pub use cloudevents::CloudEvent;
pub use error::EventError;
pub(crate) use execution::Execution;
pub use id::{EVENT_NAMESPACE, EventId, EventKey};
pub use lifecycle::{ActivityStatus, FailureDetails, LifecycleEvent};
pub use metadata::{EventMetadata, WorkflowState};
#[cfg(all(test, feature = "temporal"))]
pub(crate) use rules::MAX_DEPTH;
pub(crate) use rules::{has_nul, is_shallow};
pub use stored::{DeadLetter, StoredEvent};
pub(crate) use traceparent::is_traceparent;

use error::shortened;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The default limit for the size of one event, as JSON: 256 KiB. A larger event is refused. The usual brokers accept
/// messages of this size.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 256 * 1024;
/// The limit for the length of an event's type, name and topic, in characters.
pub const MAX_NAME_CHARACTERS: usize = 255;
/// The longest text of an error that a lifecycle event keeps, in bytes.
pub(crate) const MAX_ERROR_BYTES: usize = 16 * 1024;

/// An event: a type, a name, data, and metadata about where and when it happened.
///
/// ```
/// use temporal_eventstore::Event;
///
/// let event = Event::new("data.processed")
///     .name("DataProcessed")
///     .data(serde_json::json!({ "records": 1000 }))
///     .metadata("source", "nightly")
///     .correlation_id("c-42");
/// assert!(event.validate().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[must_use = "an event is stored only when it is published"]
pub struct Event {
    /// Where and when the event happened.
    #[serde(default)]
    pub metadata: EventMetadata,
    /// The type, such as `data.processed`.
    pub event_type: String,
    /// The name for people to read, such as `DataProcessed`. If it is empty, publishing sets it to the event type.
    #[serde(default)]
    pub event_name: String,
    /// What happened, as a JSON object.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// Top-level fields that this version does not know. They survive a round trip.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    // What a builder method was given and could not keep; `validate` reports it.
    #[serde(skip)]
    problem: Option<Box<EventError>>,
}

impl Event {
    /// Creates an event of this type. It gets its time and its id when it is published.
    pub fn new(event_type: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            ..Self::default()
        }
    }

    /// Sets the name for people to read. Without one, the event is named after its type.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.event_name = name.into();
        self
    }

    /// Sets the data to a value that serializes to a JSON object.
    ///
    /// Any other value is not kept: [`validate`](Self::validate) returns an error, and publishing refuses the event.
    pub fn data(mut self, data: impl Serialize) -> Self {
        match serde_json::to_value(data) {
            Ok(Value::Object(fields)) => self.data = fields,
            Ok(other) => {
                self.problem = Some(Box::new(EventError::DataIsNoObject {
                    found: kind(&other),
                }));
            }
            Err(error) => {
                self.problem = Some(Box::new(EventError::DataIsNotJson {
                    reason: error.to_string(),
                }));
            }
        }
        self
    }

    /// Sets a metadata field: the field of [`EventMetadata`] with this name, or else a custom field.
    ///
    /// A value that the field of [`EventMetadata`] cannot hold is not kept: [`validate`](Self::validate) returns an
    /// error, and publishing refuses the event.
    pub fn metadata(mut self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        let field = field.into();
        let value = value.into();
        let text = shortened(&value.to_string());
        if let Err(allowed) = self.metadata.set_field(&field, value) {
            self.problem = Some(Box::new(EventError::InvalidField {
                field,
                value: text,
                allowed,
            }));
        }
        self
    }

    /// Sets the metadata field `correlation_id`.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.metadata("correlation_id", id.into())
    }

    /// Returns the topic: the metadata field `topic_name`, or else the event type.
    pub fn topic_name(&self) -> &str {
        self.metadata
            .topic_name
            .as_deref()
            .unwrap_or(&self.event_type)
    }

    /// Returns whether the event has the type and the name of a lifecycle event that the interceptors or the
    /// reconciler emit.
    pub fn is_lifecycle(&self) -> bool {
        is_lifecycle(&self.event_type, &self.event_name)
    }

    /// Whether `name` is a top-level field of the format.
    pub(crate) fn is_known_field(name: &str) -> bool {
        matches!(name, "metadata" | "event_type" | "event_name" | "data")
    }

    /// Brings what it says, data and custom metadata, into the one order and the one way of writing
    /// numbers in which it is hashed and stored. For an event that was found valid, since it goes as deep
    /// as the fields do.
    pub(crate) fn make_canonical(&mut self) {
        canonical::make_canonical(&mut self.data);
        canonical::make_canonical(&mut self.metadata.custom);
    }

    /// Forgets what a builder method could not keep; gives back whether there was something.
    pub(crate) fn forget_problem(&mut self) -> bool {
        self.problem.take().is_some()
    }

    /// Checks the rules that every event must keep:
    ///
    /// * Type, name and topic have at most [`MAX_NAME_CHARACTERS`] characters, and no control characters.
    /// * The type is not empty.
    /// * The data is a JSON object.
    /// * `traceparent` has the [syntax of the W3C](https://www.w3.org/TR/trace-context/#traceparent-header).
    /// * No custom or unknown field has a name that the event format defines.
    /// * No field nests deeper than 100 levels.
    ///
    /// # Errors
    /// Returns an [`EventError`] for the first rule that the event breaks.
    pub fn validate(&self) -> Result<(), EventError> {
        if let Some(problem) = &self.problem {
            return Err(EventError::clone(problem));
        }
        if self.event_type.is_empty() {
            return Err(EventError::EmptyType);
        }
        let reserved = self
            .metadata
            .custom
            .keys()
            .find(|name| EventMetadata::is_known_field(name))
            .or_else(|| self.extra.keys().find(|name| Self::is_known_field(name)));
        if let Some(name) = reserved {
            return Err(EventError::ReservedName { name: name.clone() });
        }
        check_name("event_type", &self.event_type)?;
        check_name("event_name", &self.event_name)?;
        if let Some(topic) = &self.metadata.topic_name {
            check_name("topic_name", topic)?;
        }
        if let Some(text) = &self.metadata.traceparent
            && !is_traceparent(text)
        {
            return Err(EventError::InvalidField {
                field: "traceparent".to_owned(),
                value: shortened(text),
                allowed: traceparent::ALLOWED,
            });
        }
        let fields = [&self.data, &self.metadata.custom, &self.extra];
        let deep = fields
            .into_iter()
            .flatten()
            .find(|(_, value)| !is_shallow(value));
        if let Some((name, _)) = deep {
            return Err(EventError::TooDeep {
                field: shortened(name),
            });
        }
        Ok(())
    }

    /// Returns the native JSON.
    ///
    /// # Errors
    /// [`EventError::TooLarge`] if it has more than [`DEFAULT_MAX_EVENT_BYTES`].
    pub fn to_json(&self) -> Result<String, EventError> {
        self.to_json_within(DEFAULT_MAX_EVENT_BYTES)
    }

    /// Returns the native JSON, which may have at most `limit` bytes.
    ///
    /// # Errors
    /// [`EventError::TooLarge`] if it has more than `limit` bytes.
    pub fn to_json_within(&self, limit: usize) -> Result<String, EventError> {
        let json = serde_json::to_string(self).map_err(|error| EventError::DataIsNotJson {
            reason: error.to_string(),
        })?;
        if json.len() > limit {
            return Err(EventError::TooLarge {
                bytes: json.len(),
                limit,
            });
        }
        Ok(json)
    }

    /// Parses the native JSON. If the name is absent or empty, the event is named after its type.
    ///
    /// # Errors
    /// [`EventError::NotAnEvent`] if the text is not an event.
    pub fn from_json(json: &str) -> Result<Self, EventError> {
        let mut event: Self =
            serde_json::from_str(json).map_err(|error| EventError::NotAnEvent {
                reason: error.to_string(),
            })?;
        if event.event_name.is_empty() {
            event.event_name.clone_from(&event.event_type);
        }
        Ok(event)
    }
}

/// Whether an event of this type and name is one of those that the interceptors emit.
fn is_lifecycle(event_type: &str, event_name: &str) -> bool {
    event_type == lifecycle::APPLICATION_EVENTS
        && LifecycleEvent::from_name(event_name)
            .is_some_and(LifecycleEvent::is_emitted_by_interceptors)
}

/// Whether a text may be an event's type, name or topic.
pub(crate) fn check_name(field: &'static str, text: &str) -> Result<(), EventError> {
    // Counting characters only where the bytes leave a doubt.
    if text.len() > MAX_NAME_CHARACTERS {
        let characters = text.chars().count();
        if characters > MAX_NAME_CHARACTERS {
            return Err(EventError::TooLong {
                field,
                value: shortened(text),
                characters,
            });
        }
    }
    if text.chars().any(char::is_control) {
        return Err(EventError::ControlCharacter {
            field,
            value: shortened(text),
        });
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
