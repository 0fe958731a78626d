//! Where an event goes: the target that a sink's template names for it, and how many targets one sink may have. Knows no
//! kind of target.

use super::{
    address::{Address, Parameters},
    encoding::Encoding,
    template::{Template, TemplateError},
};
use crate::{
    event::EventError,
    sink::{SinkError, SinkEvent, SinkUrlError},
};
use std::{
    borrow::Cow,
    collections::HashSet,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

/// How many targets a sink has at most in one run of the program, unless its URL says otherwise: a template with a field
/// such as the workflow id would make a table or a topic for each workflow.
const DEFAULT_MAX_TARGETS: usize = 1000;
/// What [`MAX_TARGETS`] may be: each name is kept in memory.
const MAX_TARGETS_BOUNDS: RangeInclusive<usize> = 1..=100_000;
/// The parameter of URLs that sets the bound.
pub(in crate::sink) const MAX_TARGETS: &str = "max_targets";

/// A sink has as many targets as it may have, and the next event has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the events name more than {most} {kind}, the bound that `max_targets` sets: the template has a field with too \
     many values, or the bound is too low"
)]
pub(in crate::sink) struct TooManyTargets {
    most: usize,
    kind: &'static str,
}

/// A template, and the targets that it has led to.
#[derive(Debug)]
pub(in crate::sink) struct Route {
    template: Template,
    encoding: Encoding,
    /// None where targets cost nothing.
    bound: Option<TooManyTargets>,
    used: Mutex<HashSet<String>>,
}

impl Route {
    /// The route that a text says; `encoding` is the target's.
    pub(in crate::sink) fn parse(text: &str, encoding: Encoding) -> Result<Self, TemplateError> {
        Ok(Self {
            template: Template::parse(text)?,
            encoding,
            bound: None,
            used: Mutex::default(),
        })
    }

    /// The route that a part of a URL says, with a bound that the URL may set; `kind` says in the plural what the targets
    /// are.
    pub(in crate::sink) fn bounded(
        text: &str,
        encoding: Encoding,
        (address, parameters): (&Address, &Parameters<'_>),
        kind: &'static str,
    ) -> Result<Self, SinkUrlError> {
        let route =
            Self::parse(text, encoding).map_err(|error| address.wrong(error.to_string()))?;
        let range = format!(
            "a number from {} to {}",
            MAX_TARGETS_BOUNDS.start(),
            MAX_TARGETS_BOUNDS.end()
        );
        let most = parameters.read::<usize>(MAX_TARGETS, &range)?;
        if most.is_some_and(|most| !MAX_TARGETS_BOUNDS.contains(&most)) {
            return Err(address.wrong(format!("`{MAX_TARGETS}` is not {range}")));
        }
        if most.is_some() && route.is_fixed() {
            return Err(address.wrong(format!(
                "`{MAX_TARGETS}` is of use only where a field of the event is in the name"
            )));
        }
        Ok(route.up_to(most.unwrap_or(DEFAULT_MAX_TARGETS), kind))
    }

    fn up_to(mut self, most: usize, kind: &'static str) -> Self {
        self.bound = Some(TooManyTargets { most, kind });
        self
    }

    /// Returns what the sink is called by: the same, wherever events go.
    pub(in crate::sink) fn shown(&self) -> &str {
        self.template.shown()
    }

    /// Whether every event has the same target.
    pub(in crate::sink) fn is_fixed(&self) -> bool {
        self.template.is_fixed()
    }

    /// Returns the name with `word` in the place of each field.
    pub(in crate::sink) fn with_each(&self, word: &str) -> String {
        self.template.with_each(word)
    }

    /// Returns the target of an event.
    ///
    /// # Errors
    /// [`EventError`] if the event's JSON is needed and is none.
    pub(in crate::sink) fn target(&self, event: &SinkEvent) -> Result<Cow<'_, str>, EventError> {
        Ok(match self.template.render(event, self.encoding)? {
            Cow::Borrowed(name) => Cow::Borrowed(name),
            Cow::Owned(name) => Cow::Owned(self.encoding.fitting(name)),
        })
    }

    /// Returns the beginning of a batch, which is never empty, as far as its targets are within the bound. What is beyond
    /// waits: another target instead would not be the same after a restart, and the event be there twice.
    ///
    /// # Errors
    /// [`TooManyTargets`] as the source if the first event has one too many.
    pub(in crate::sink) fn admitted<'b>(
        &self,
        batch: &'b [SinkEvent],
    ) -> Result<&'b [SinkEvent], SinkError> {
        let Some(bound) = self.bound.filter(|_| !self.is_fixed()) else {
            return Ok(batch);
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let is_beyond = |event: &SinkEvent| {
            // What has no target is rejected when its turn comes.
            let Ok(target) = self.target(event) else {
                return false;
            };
            if used.contains(&*target) {
                return false;
            }
            let is_beyond = used.len() >= bound.most;
            if !is_beyond {
                used.insert(target.into_owned());
            }
            is_beyond
        };
        match batch.iter().position(is_beyond) {
            Some(0) => Err(SinkError::new(bound.to_string()).with_source(bound)),
            Some(first) => Ok(batch.get(..first).unwrap_or_default()),
            None => Ok(batch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::shared::template::tests::of_type;
    use std::error::Error as _;

    #[test]
    fn beyond_the_bound_nothing_has_another_target() {
        let route = Route::parse("e_{workflow_type}", Encoding::identifier(48)).unwrap();
        let route = route.up_to(2, "tables");
        let batch = ["a", "b", "a", "c", "a"].map(|name| of_type(Some(name)));
        assert_eq!(route.admitted(&batch).unwrap().len(), 3);
        let error = route.admitted(&batch[3..]).unwrap_err();
        assert!(error.reason().contains("more than 2 tables"), "{error}");
        assert!(error.source().unwrap().is::<TooManyTargets>());
        assert_eq!(route.admitted(&batch[4..]).unwrap().len(), 1);
        assert_eq!(route.target(&batch[1]).unwrap(), "e_b");
    }

    #[test]
    fn a_name_that_is_the_same_for_all_has_no_bound() {
        let route = Route::parse("events", Encoding::TOKEN)
            .unwrap()
            .up_to(1, "x");
        let batch = ["a", "b"].map(|name| of_type(Some(name)));
        assert_eq!(route.admitted(&batch).unwrap().len(), 2);
        assert!(route.used.lock().unwrap().is_empty());
    }
}
