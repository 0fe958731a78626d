//! The errors of events.

use super::{MAX_NAME_CHARACTERS, rules::MAX_DEPTH};

/// The error when an event breaks a rule, or when a text is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event type is empty.
    #[error("event_type is empty; it must name what happened, such as `data.processed`")]
    EmptyType,
    /// A type, name or topic is too long.
    #[error("{field} {value:?} has {characters} characters; {MAX_NAME_CHARACTERS} are allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        value: String,
        /// Its length in characters.
        characters: usize,
    },
    /// A type, name or topic has a control character.
    #[error("{field} {value:?} has a control character; only printable text is allowed")]
    ControlCharacter {
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        value: String,
    },
    /// The data is JSON, but not an object.
    #[error("data is {found}; it must be a JSON object")]
    DataIsNoObject {
        /// The kind of JSON value that was given.
        found: &'static str,
    },
    /// The data cannot be written as JSON.
    #[error("data cannot be written as JSON: {reason}")]
    DataIsNotJson {
        /// The reason.
        reason: String,
    },
    /// A metadata field that this crate defines was given a value that it cannot hold, or has none where one is
    /// needed.
    #[error("the metadata field {field} was given {value}; it takes {allowed}")]
    InvalidField {
        /// The field.
        field: String,
        /// The value, shortened.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A custom or unknown field has a name that the event format defines.
    #[error("{name} is a name of the event format; set the field of that name instead")]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A field nests deeper than 100 levels. Common JSON parsers stop at 128.
    #[error("the field {field:?} nests deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// The field, shortened.
        field: String,
    },
    /// The encoded event is too large.
    #[error("the event has {bytes} bytes; {limit} are allowed")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A text is not an event in the encoding that was expected.
    #[error("not an event: {reason}")]
    NotAnEvent {
        /// The reason.
        reason: String,
    },
}

/// A text as an error shows it: its first characters.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
