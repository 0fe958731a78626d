//! Which events are to be read, and the conditions in SQL that say so. Knows no database: what differs between them
//! is in a [`Dialect`].

use super::ReadError;
use chrono::{DateTime, SecondsFormat, Utc};

/// How many events a call returns unless it is told otherwise.
const DEFAULT_LIMIT: usize = 1000;
/// The event type of lifecycle events.
const APPLICATION_EVENTS: &str = "application_events";

/// Which events to read. An empty query selects all; each method narrows it.
///
/// ```
/// use temporal_eventstore::EventQuery;
///
/// let query = EventQuery::new().workflow_id("order-1").only("workflow_*,order.shipped")?.limit(10);
/// # Ok::<(), temporal_eventstore::ReadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct EventQuery {
    pub(super) after: u64,
    pub(super) up_to: Option<u64>,
    pub(super) limit: usize,
    workflow_id: Option<String>,
    workflow_run_id: Option<String>,
    workflow_type: Option<String>,
    parent_workflow_id: Option<String>,
    has_parent: bool,
    pub(super) since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    only: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Lifecycle,
    User,
    Exactly(String),
    Beginning(String),
}

impl Default for EventQuery {
    fn default() -> Self {
        Self {
            after: 0,
            up_to: None,
            limit: DEFAULT_LIMIT,
            workflow_id: None,
            workflow_run_id: None,
            workflow_type: None,
            parent_workflow_id: None,
            has_parent: false,
            since: None,
            until: None,
            only: Vec::new(),
        }
    }
}

impl EventQuery {
    /// Returns a query that selects all events, from the oldest on, 1000 at a time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events behind this position.
    pub fn after(mut self, position: u64) -> Self {
        self.after = position;
        self
    }

    /// Only events up to this position, inclusive.
    pub fn up_to(mut self, position: u64) -> Self {
        self.up_to = Some(position);
        self
    }

    /// At most so many events in one call; at least one.
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = events.max(1);
        self
    }

    /// Only events of this workflow, of all its runs.
    pub fn workflow_id(mut self, id: impl Into<String>) -> Self {
        self.workflow_id = Some(id.into());
        self
    }

    /// Only events of this run.
    pub fn workflow_run_id(mut self, id: impl Into<String>) -> Self {
        self.workflow_run_id = Some(id.into());
        self
    }

    /// Only events of workflows of this type.
    pub fn workflow_type(mut self, name: impl Into<String>) -> Self {
        self.workflow_type = Some(name.into());
        self
    }

    /// Only events of children of this workflow. No index helps to find them.
    pub fn parent_workflow_id(mut self, id: impl Into<String>) -> Self {
        self.parent_workflow_id = Some(id.into());
        self
    }

    /// Only events of children, whoever started them.
    #[cfg(feature = "cli")]
    pub(crate) fn with_parent(mut self) -> Self {
        self.has_parent = true;
        self
    }

    /// Only events that happened at this time or later.
    pub fn since(mut self, time: DateTime<Utc>) -> Self {
        self.since = Some(time);
        self
    }

    /// Only events that happened before this time.
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.until = Some(time);
        self
    }

    /// Only events that a comma-separated list selects, as the parameter `eventstore.only` of a sink's URL does:
    /// `lifecycle`, `user`, event names, event types, and beginnings of either followed by `*`.
    ///
    /// # Errors
    /// [`ReadError::InvalidQuery`] for anything else.
    pub fn only(mut self, list: &str) -> Result<Self, ReadError> {
        let patterns: Option<Vec<Pattern>> = list.split(',').map(pattern).collect();
        self.only = patterns.ok_or_else(|| ReadError::InvalidQuery {
            what: "the selection of events",
            value: list.to_owned(),
            allowed: "`lifecycle`, `user`, event names, event types, and beginnings of either followed \
                      by `*`, with commas between them",
        })?;
        Ok(self)
    }

    /// Whether it asks for one workflow, which an index finds.
    pub(super) fn is_of_one_workflow(&self) -> bool {
        self.workflow_id.is_some()
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

/// What the databases write differently.
pub(super) struct Dialect {
    /// What stands in front of a parameter's number.
    pub(super) parameter: &'static str,
    /// The position.
    pub(super) position: &'static str,
    /// A field of an event's metadata: the text around its name.
    pub(super) metadata: (&'static str, &'static str),
    /// A parameter that is a time: the text around it.
    pub(super) time: (&'static str, &'static str),
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Position(u64),
    Text(String),
}

/// Returns the conditions of a query, joined, with their parameters.
pub(super) fn conditions(query: &EventQuery, dialect: &Dialect) -> (String, Vec<Parameter>) {
    let mut sql = Conditions {
        dialect,
        parts: Vec::new(),
        parameters: Vec::new(),
    };
    let after = sql.parameter(Parameter::Position(query.after));
    let position = dialect.position;
    sql.parts.push(format!("{position} > {after}"));
    if let Some(up_to) = query.up_to {
        let up_to = sql.parameter(Parameter::Position(up_to));
        sql.parts.push(format!("{position} <= {up_to}"));
    }
    let columns = [
        ("workflow_id", &query.workflow_id),
        ("workflow_run_id", &query.workflow_run_id),
        ("workflow_type", &query.workflow_type),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            let value = sql.text(value);
            sql.parts.push(format!("{column} = {value}"));
        }
    }
    if let Some(parent) = &query.parent_workflow_id {
        let (before, behind) = dialect.metadata;
        let parent = sql.text(parent);
        let field = format!("{before}parent_workflow_id{behind}");
        sql.parts.push(format!("{field} = {parent}"));
    }
    if query.has_parent {
        let (before, behind) = dialect.metadata;
        sql.parts
            .push(format!("{before}parent_workflow_id{behind} IS NOT NULL"));
    }
    for (comparison, time) in [(">=", query.since), ("<", query.until)] {
        if let Some(time) = time {
            let (before, behind) = dialect.time;
            let time = sql.text(&time.to_rfc3339_opts(SecondsFormat::Micros, true));
            sql.parts
                .push(format!("created_at {comparison} {before}{time}{behind}"));
        }
    }
    let only: Vec<String> = query.only.iter().map(|it| sql.pattern(it)).collect();
    if !only.is_empty() {
        sql.parts.push(format!("({})", only.join(" OR ")));
    }
    (sql.parts.join(" AND "), sql.parameters)
}

struct Conditions<'a> {
    dialect: &'a Dialect,
    parts: Vec<String>,
    parameters: Vec<Parameter>,
}

impl Conditions<'_> {
    fn parameter(&mut self, value: Parameter) -> String {
        self.parameters.push(value);
        format!("{}{}", self.dialect.parameter, self.parameters.len())
    }

    fn text(&mut self, value: &str) -> String {
        self.parameter(Parameter::Text(value.to_owned()))
    }

    fn pattern(&mut self, pattern: &Pattern) -> String {
        match pattern {
            Pattern::Lifecycle => format!("event_type = '{APPLICATION_EVENTS}'"),
            Pattern::User => format!("event_type <> '{APPLICATION_EVENTS}'"),
            Pattern::Exactly(text) => {
                let text = self.text(text);
                format!("event_name = {text} OR event_type = {text}")
            }
            Pattern::Beginning(text) => {
                let length = text.chars().count();
                let text = self.text(text);
                let begins = |column| format!("substr({column}, 1, {length}) = {text}");
                format!("{} OR {}", begins("event_name"), begins("event_type"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect {
        parameter: "?",
        position: "seq",
        metadata: ("m(", ")"),
        time: ("", ""),
    };

    #[test]
    fn what_is_asked_for_becomes_conditions_with_parameters() {
        let query = EventQuery::new()
            .after(7)
            .workflow_id("it's")
            .only("user, workflow_end,order.*")
            .unwrap();
        let (sql, parameters) = conditions(&query, &DIALECT);
        assert_eq!(
            sql,
            "seq > ?1 AND workflow_id = ?2 AND (event_type <> 'application_events' OR event_name = \
             ?3 OR event_type = ?3 OR substr(event_name, 1, 6) = ?4 OR substr(event_type, 1, 6) = ?4)"
        );
        let text = |text: &str| Parameter::Text(text.to_owned());
        assert_eq!(
            parameters,
            [
                Parameter::Position(7),
                text("it's"),
                text("workflow_end"),
                text("order.")
            ]
        );
    }

    #[test]
    fn what_selects_nothing_sensible_is_an_error_that_says_what_does() {
        for list in ["", "*", "a,,b", "a*b", "*a"] {
            let text = EventQuery::new().only(list).unwrap_err().to_string();
            assert!(text.contains("beginnings"), "{text}");
        }
    }
}
