//! Which events a sink or a handler gets: by name and type.

use crate::sink::SinkEvent;

/// The event type of lifecycle events.
const APPLICATION_EVENTS: &str = "application_events";

/// Which events are wanted.
///
/// ```
/// use temporal_eventstore::Selection;
///
/// let selection = Selection::only("workflow_end,order.*");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Result<Vec<Pattern>, String>);

impl Default for Selection {
    fn default() -> Self {
        Self::all()
    }
}

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
    /// What [`only`](Self::only) takes, for errors.
    pub(crate) const ALLOWED: &str = "`lifecycle`, `user`, event names, event types, and beginnings of either with \
                                      `*` at the end, with commas between them";

    /// Selects all events.
    pub fn all() -> Self {
        Self(Ok(Vec::new()))
    }

    /// Selects what a comma-separated list names, as the parameter `eventstore.only` of a sink's URL does: `lifecycle`,
    /// `user`, event names, event types, and beginnings of either followed by `*`.
    ///
    /// Anything else is an error where the selection is used ([`HandleError`](crate::HandleError)).
    pub fn only(list: impl AsRef<str>) -> Self {
        let list = list.as_ref();
        Self::parse(list).unwrap_or_else(|| Self(Err(list.to_owned())))
    }

    /// Returns the list that is none, if so.
    pub(crate) fn check(&self) -> Result<(), &str> {
        self.0.as_ref().map(|_| ()).map_err(String::as_str)
    }

    /// Parses a comma-separated list of `lifecycle`, `user`, event names, event types, and beginnings of either
    /// followed by `*`. None for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split(',')
            .map(pattern)
            .collect::<Option<_>>()
            .map(|patterns| Self(Ok(patterns)))
    }

    /// Whether the event is selected.
    pub(crate) fn contains(&self, event: &SinkEvent) -> bool {
        self.0.as_ref().is_ok_and(|patterns| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(event))
        })
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
            assert_eq!(Selection::only(text).check(), Err(text));
        }
    }
}
