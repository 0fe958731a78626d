//! Which events a sink gets: by name and type, as its URL says.

use crate::sink::SinkEvent;

/// The event type of lifecycle events.
const APPLICATION_EVENTS: &str = "application_events";

/// A selection of events. An empty one selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Lifecycle,
    User,
    /// This event name or type.
    Exactly(String),
    /// Names and types that begin with this.
    Beginning(String),
}

impl Selection {
    /// Parses a comma-separated list of `lifecycle`, `user`, event names, event types, and beginnings of either
    /// followed by `*`. None for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split(',')
            .map(pattern)
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Whether the event is selected.
    pub(crate) fn contains(&self, event: &SinkEvent) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(event))
    }
}

fn pattern(text: &str) -> Option<Pattern> {
    match text.trim() {
        "" | "*" => None,
        "lifecycle" => Some(Pattern::Lifecycle),
        "user" => Some(Pattern::User),
        text => match text.strip_suffix('*') {
            Some(beginning) if !beginning.contains('*') => {
                Some(Pattern::Beginning(beginning.to_owned()))
            }
            None if !text.contains('*') => Some(Pattern::Exactly(text.to_owned())),
            _ => None,
        },
    }
}

impl Pattern {
    fn matches(&self, event: &SinkEvent) -> bool {
        match self {
            Self::Lifecycle => event.event_type == APPLICATION_EVENTS,
            Self::User => event.event_type != APPLICATION_EVENTS,
            Self::Exactly(text) => event.event_name == *text || event.event_type == *text,
            Self::Beginning(text) => {
                event.event_name.starts_with(text) || event.event_type.starts_with(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId};

    fn event(event_type: &str, event_name: &str) -> SinkEvent {
        let mut event = Event::new(event_type).name(event_name);
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        SinkEvent::new(1, &event).unwrap()
    }

    #[test]
    fn names_types_beginnings_and_the_two_words_select() {
        let end = event("application_events", "workflow_end");
        let shipped = event("order.shipped", "OrderShipped");
        for (text, of_end, of_shipped) in [
            ("lifecycle", true, false),
            ("user", false, true),
            ("workflow_end", true, false),
            ("order.*", false, true),
            ("OrderShipped, workflow_*", true, true),
            ("other", false, false),
        ] {
            let selection = Selection::parse(text).unwrap();
            assert_eq!(selection.contains(&end), of_end, "{text}");
            assert_eq!(selection.contains(&shipped), of_shipped, "{text}");
        }
        assert!(Selection::default().contains(&end));
    }

    #[test]
    fn what_selects_nothing_sensible_is_refused() {
        for text in ["", "*", "a,,b", "a*b", "*a"] {
            assert_eq!(Selection::parse(text), None, "{text}");
        }
    }
}
