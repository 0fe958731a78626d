//! The bound of the bytes that wait in memory: in the queue, on the stages, wherever a draft is. A draft gives its
//! share back when it is finished or dropped.

use super::Rules;
use crate::event::Event;
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How many bytes of events wait, and how many may.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// Returns how many bytes wait now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take(&self, bytes: usize, in_any_case: bool) -> bool {
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| {
            let after = used.saturating_add(bytes);
            (in_any_case || after <= self.limit).then_some(after)
        });
        taken.is_ok()
    }
}

/// A share of a budget, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    rules: Arc<Rules>,
    bytes: usize,
}

impl Reserved {
    /// Takes the share of an event; none if there is no room. A lifecycle event always gets one.
    pub(super) fn new(rules: &Arc<Rules>, event: &Event, is_lifecycle: bool) -> Option<Self> {
        let bytes = bytes_of(event);
        rules.budget.take(bytes, is_lifecycle).then(|| Self {
            rules: rules.clone(),
            bytes,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.rules.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// How deep a value is looked into.
const LEVELS: usize = 128;

/// Returns about how many bytes an event takes in memory.
fn bytes_of(event: &Event) -> usize {
    /// The event itself, its context and its place in the queue.
    const EVENT: usize = 1024;
    let fields = [&event.data, &event.metadata.custom, &event.extra];
    let fields = fields.into_iter().flatten();
    let fields: usize = fields.map(|(name, value)| field(name, value)).sum();
    EVENT + event.event_type.len() + event.event_name.len() + fields
}

/// Returns about how many bytes a field of a map takes.
fn field(name: &str, value: &Value) -> usize {
    name.len() + size_of::<String>() + size_of::<Value>() + held(value, LEVELS)
}

/// Returns about how many bytes a value holds elsewhere, so many levels deep.
fn held(value: &Value, levels: usize) -> usize {
    // What nests deeper is refused when the event is validated, and must not end the stack before that.
    let Some(below) = levels.checked_sub(1) else {
        return 0;
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values
            .iter()
            .map(|value| size_of::<Value>() + held(value, below))
            .sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                name.len() + size_of::<String>() + size_of::<Value>() + held(value, below)
            })
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::record::{Draft, Identity, Trimmed};

    fn rules(limit: usize) -> Arc<Rules> {
        Arc::new(Rules {
            application_name: "orders".to_owned(),
            filter: None,
            max_event_bytes: 1 << 20,
            trimmed: Trimmed::default(),
            budget: Budget::new(limit),
        })
    }

    fn draft(rules: &Arc<Rules>, bytes: usize) -> Draft {
        let event = Event::new("x").data(serde_json::json!({ "pad": "x".repeat(bytes) }));
        Draft::published(rules, event, Context::new(), Identity::Random)
    }

    #[test]
    fn what_a_draft_takes_is_given_back_when_it_is_gone() {
        let rules = rules(10_000);
        let mut first = draft(&rules, 5_000);
        assert!(first.reserve());
        // Once, however often somebody asks.
        assert!(first.reserve());
        let used = rules.budget.used();
        assert!((5_000..8_000).contains(&used), "{used}");
        let mut second = draft(&rules, 5_000);
        assert!(!second.reserve());
        drop(first);
        assert_eq!(rules.budget.used(), 0);
        assert!(second.reserve());
        second.finish();
        assert_eq!(rules.budget.used(), 0);
    }

    #[test]
    fn lifecycle_events_always_get_in() {
        let rules = rules(10);
        let event = Event::new("application_events").name("workflow_end");
        let mut end = Draft::finished(&rules, event);
        assert!(end.reserve());
        assert!(rules.budget.used() > 10);
        assert!(!draft(&rules, 1).reserve());
    }

    #[test]
    fn what_nests_without_end_is_not_followed_to_its_end() {
        let mut deep = Value::Null;
        for _ in 0..10_000 {
            deep = Value::Array(vec![deep]);
        }
        let mut event = Event::new("x");
        event.data.insert("deep".to_owned(), deep);
        assert!(bytes_of(&event) < 20_000);
        // It is dropped level by level, too.
        let mut deep = event.data.remove("deep");
        while let Some(Value::Array(mut values)) = deep {
            deep = values.pop();
        }
    }

    #[test]
    fn about_as_much_as_it_is() {
        let data = serde_json::json!({ "a": ["b", { "c": "d".repeat(100) }], "e": 1 });
        let bytes = bytes_of(&Event::new("x").data(data));
        assert!((1_150..1_500).contains(&bytes), "{bytes}");
    }
}
