//! Names that are made from an event: `orders.{workflow_type}`. Knows the fields of an event, and no kind of target.

use super::encoding::Encoding;
use crate::{event::EventError, sink::SinkEvent};
use serde::Deserialize;
use std::borrow::Cow;

/// What stands for a field that an event does not have, or that is empty.
pub(in crate::sink) const NONE: &str = "none";
/// A placeholder's name that is longer may be something else, and is not shown.
const LONGEST_SHOWN: usize = 40;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::sink) enum TemplateError {
    #[error(
        "`{{{name}}}` is no field that can stand in a template; known are {}",
        Field::all()
    )]
    UnknownField { name: String },
    #[error("a placeholder in it names no field; known are {}", Field::all())]
    NoField,
    #[error(
        "a `{{` in it is not closed; fields stand in braces, and a brace itself is written twice"
    )]
    NotClosed,
    #[error("a `}}` in it closes nothing; a brace itself is written twice")]
    NotOpened,
}

macro_rules! fields {
    ($($variant:ident $name:literal),+ $(,)?) => {
        /// A field of an event that can stand in a template.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field {
            $($variant),+
        }

        impl Field {
            #[cfg(test)]
            const NAMES: &'static [&'static str] = &[$($name),+];

            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Their names, for error messages.
            fn all() -> &'static str {
                concat!($("`{", $name, "}` "),+).trim_ascii_end()
            }
        }
    };
}

fields! {
    EventType "event_type",
    EventName "event_name",
    TopicName "topic_name",
    WorkflowType "workflow_type",
    WorkflowId "workflow_id",
    WorkflowRunId "workflow_run_id",
    ActivityType "activity_type",
    ActivityId "activity_id",
    Namespace "namespace",
    TaskQueue "task_queue",
    ApplicationName "application_name",
}

impl Field {
    /// Whether a [`SinkEvent`] holds it outside of its JSON.
    fn is_at_hand(self) -> bool {
        !matches!(
            self,
            Self::TopicName | Self::Namespace | Self::TaskQueue | Self::ApplicationName
        )
    }

    fn of<'a>(self, event: &'a SinkEvent, origin: &'a Origin<'_>) -> Option<&'a str> {
        let value = match self {
            Self::EventType => Some(event.event_type.as_str()),
            Self::EventName => Some(event.event_name.as_str()),
            // As `Event::topic_name` has it.
            Self::TopicName => Some(origin.topic_name.as_deref().unwrap_or(&event.event_type)),
            Self::WorkflowType => event.workflow_type.as_deref(),
            Self::WorkflowId => event.workflow_id.as_deref(),
            Self::WorkflowRunId => event.workflow_run_id.as_deref(),
            Self::ActivityType => event.activity_type.as_deref(),
            Self::ActivityId => event.activity_id.as_deref(),
            Self::Namespace => origin.namespace.as_deref(),
            Self::TaskQueue => origin.task_queue.as_deref(),
            Self::ApplicationName => origin.application_name.as_deref(),
        };
        value.filter(|value| !value.is_empty())
    }
}

/// Of an event's JSON, the fields that a [`SinkEvent`] does not hold.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    metadata: Origin<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Origin<'a> {
    #[serde(borrow)]
    topic_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    task_queue: Option<Cow<'a, str>>,
    #[serde(borrow)]
    application_name: Option<Cow<'a, str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(Field),
}

/// A template: text with fields of the event in braces.
#[derive(Clone, Debug)]
pub(in crate::sink) struct Template {
    /// As it was written.
    text: String,
    pieces: Vec<Piece>,
    /// The name itself, where no field is in it.
    fixed: Option<String>,
}

impl Template {
    /// Reads a template. A brace that is to be there itself is written twice: `{{`, `}}`.
    pub(in crate::sink) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some(after) = brace.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or(TemplateError::NotClosed)?;
                let field = Field::named(name).ok_or_else(|| unknown(name))?;
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Field(field));
                rest = after;
            } else {
                return Err(TemplateError::NotOpened);
            }
        }
        literal.push_str(rest);
        let fixed = pieces.is_empty().then(|| literal.clone());
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self {
            text: text.to_owned(),
            pieces,
            fixed,
        })
    }

    /// Returns how the template is called: the name itself if it is always the same, otherwise as it was written.
    pub(in crate::sink) fn shown(&self) -> &str {
        self.fixed.as_deref().unwrap_or(&self.text)
    }

    /// Whether the name is the same for every event.
    pub(in crate::sink) fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    /// Returns the template with `word` in the place of each field.
    pub(in crate::sink) fn with_each(&self, word: &str) -> String {
        let pieces = self.pieces.iter();
        pieces
            .map(|piece| match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Field(_) => word,
            })
            .collect()
    }

    /// Returns the name for an event, with what its fields hold written as `encoding` says; borrowed if there is nothing
    /// to fill in.
    ///
    /// # Errors
    /// [`EventError`] if the event's JSON is needed and is none.
    pub(in crate::sink) fn render(
        &self,
        event: &SinkEvent,
        encoding: Encoding,
    ) -> Result<Cow<'_, str>, EventError> {
        if let Some(fixed) = &self.fixed {
            return Ok(Cow::Borrowed(fixed));
        }
        let is_at_hand =
            |piece: &Piece| !matches!(piece, Piece::Field(field) if !field.is_at_hand());
        let origin = match self.pieces.iter().all(is_at_hand) {
            true => Origin::default(),
            false => {
                serde_json::from_str::<Whole<'_>>(&event.json)
                    .map_err(|error| EventError::NotAnEvent {
                        reason: error.to_string(),
                    })?
                    .metadata
            }
        };
        let mut name = String::with_capacity(self.text.len() + 16);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => name.push_str(text),
                Piece::Field(field) => match field.of(event, &origin) {
                    Some(value) => encoding.write(value, &mut name),
                    None => name.push_str(NONE),
                },
            }
        }
        Ok(Cow::Owned(name))
    }
}

/// An error that shows what was written only if it looks like a name: in a URL, it may be something else.
fn unknown(name: &str) -> TemplateError {
    let is_name = !name.is_empty()
        && name.len() <= LONGEST_SHOWN
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match is_name {
        true => TemplateError::UnknownField {
            name: name.to_owned(),
        },
        false => TemplateError::NoField,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::event::{Event, EventId};

    /// An event of a workflow of this type.
    pub(in crate::sink::shared) fn of_type(workflow_type: Option<&str>) -> SinkEvent {
        let mut event = Event::new("data.processed").name("DataProcessed");
        let metadata = &mut event.metadata;
        metadata.event_id = Some(EventId::new());
        metadata.created_at = Some(chrono::Utc::now());
        metadata.workflow_type = workflow_type.map(str::to_owned);
        SinkEvent::new(1, &event).unwrap()
    }

    #[test]
    fn each_field_is_filled_in() {
        let event = Event::new("the event_type").name("the event_name");
        let mut event = Field::NAMES
            .iter()
            .filter(|name| !name.starts_with("event_"))
            .fold(event, |event, name| {
                event.metadata(*name, format!("the {name}"))
            });
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        let event = SinkEvent::new(1, &event).unwrap();
        for name in Field::NAMES {
            let template = Template::parse(&format!("a-{{{name}}}.b")).unwrap();
            let rendered = template.render(&event, Encoding::PLAIN).unwrap();
            assert_eq!(rendered, format!("a-the {name}.b"));
        }
    }

    #[test]
    fn what_an_event_lacks_has_a_word_and_the_topic_is_the_type() {
        let event = of_type(None);
        for (template, wanted) in [
            ("{workflow_type}/{activity_id}", "none/none"),
            ("{namespace}", "none"),
            ("{topic_name}", "data.processed"),
            (
                "{event_name}{{{event_type}}}",
                "DataProcessed{data.processed}",
            ),
        ] {
            let template = Template::parse(template).unwrap();
            assert!(!template.is_fixed());
            assert_eq!(template.render(&event, Encoding::PLAIN).unwrap(), wanted);
        }
    }

    #[test]
    fn nothing_is_copied_where_nothing_is_filled_in() {
        let template = Template::parse("{{orders}}:events").unwrap();
        let name = template.render(&of_type(None), Encoding::PLAIN).unwrap();
        assert!(matches!(name, Cow::Borrowed("{orders}:events")), "{name}");
        assert_eq!(template.shown(), "{orders}:events");
        let template = Template::parse("{{a}}.{event_type}").unwrap();
        assert_eq!(template.shown(), "{{a}}.{event_type}");
        assert_eq!(template.with_each("*"), "{a}.*");
    }

    #[test]
    fn errors_name_the_field_and_those_that_are_known() {
        let error = Template::parse("a.{workflow}").unwrap_err();
        assert_eq!(
            error,
            TemplateError::UnknownField {
                name: "workflow".into()
            }
        );
        let text = error.to_string();
        assert!(text.contains("`{workflow}`"), "{text}");
        for name in Field::NAMES {
            assert!(text.contains(&format!("`{{{name}}}`")), "{text}");
        }
        for (text, wanted) in [
            ("{", TemplateError::NotClosed),
            ("a{{{event_type", TemplateError::NotClosed),
            ("a}b", TemplateError::NotOpened),
            ("{}", TemplateError::NoField),
            ("{hunter2}", TemplateError::NoField),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!(error, wanted, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn json_that_is_none_is_an_error_only_where_it_is_needed() {
        let mut event = of_type(Some("Order"));
        event.json = "{".to_owned();
        let render = |text: &str| {
            let template = Template::parse(text).unwrap();
            template
                .render(&event, Encoding::PLAIN)
                .map(Cow::into_owned)
        };
        assert_eq!(render("{workflow_type}").unwrap(), "Order");
        assert!(render("{topic_name}").is_err());
    }
}
