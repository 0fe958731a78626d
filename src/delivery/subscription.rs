//! A sink, its name and its selection of events, as a URL says them. Takes its own parameters out of the URL: the sink
//! does not see them. Does not know how events get to a sink.

use super::Selection;
use crate::sink::{self, Sink, SinkUrlError};
use std::sync::Arc;

/// The parameter of a sink's URL that selects events.
const ONLY: &str = "eventstore.only";
/// The parameter of a sink's URL that names the sink.
const NAME: &str = "eventstore.name";
/// The longest such name.
const MAX_NAME_LENGTH: usize = 100;

/// A sink, and which events it gets.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The name under which the sink's cursor and dead letters are kept.
    pub(crate) name: String,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) only: Selection,
}

/// Why a URL is no subscription.
#[derive(Debug)]
pub(crate) enum SubscriptionError {
    /// One of the parameters of the delivery has a value that is not understood.
    Parameter {
        name: &'static str,
        /// Its value, shortened.
        value: String,
        allowed: String,
    },
    /// The sink does not understand its own part.
    Sink(SinkUrlError),
}

impl Subscription {
    /// Returns a subscription to all events, under the sink's own name.
    pub(crate) fn to_all(sink: Arc<dyn Sink>) -> Self {
        Self {
            name: sink.name().to_owned(),
            sink,
            only: Selection::default(),
        }
    }

    /// Returns what a URL says: the sink, and which name and selection the delivery's parameters give it.
    pub(crate) fn from_url(url: &str) -> Result<Self, SubscriptionError> {
        let Parameters { url, only, name } = take_parameters(url);
        let wrong = |name, value: &str, allowed: String| SubscriptionError::Parameter {
            name,
            value: value.chars().take(80).collect(),
            allowed,
        };
        let only = match only {
            None => Selection::default(),
            Some(text) => Selection::parse(&text).ok_or_else(|| {
                wrong(
                    ONLY,
                    &text,
                    "`lifecycle`, `user`, event names, event types, and beginnings of either with \
                     `*` at the end, with commas between them"
                        .to_owned(),
                )
            })?,
        };
        let sink = sink::open(&url).map_err(SubscriptionError::Sink)?;
        let mut subscription = Self {
            only,
            ..Self::to_all(sink)
        };
        match name {
            None => {}
            Some(name) if is_name(&name) => subscription.name = name,
            Some(name) => {
                let allowed = format!("1 to {MAX_NAME_LENGTH} letters, digits and signs");
                return Err(wrong(NAME, &name, allowed));
            }
        }
        Ok(subscription)
    }
}

fn is_name(name: &str) -> bool {
    !name.trim().is_empty()
        && name.chars().count() <= MAX_NAME_LENGTH
        && !name.chars().any(char::is_control)
}

/// The delivery's parameters, and the sink's URL without them.
#[derive(Debug, PartialEq, Eq)]
struct Parameters {
    url: String,
    only: Option<String>,
    name: Option<String>,
}

fn take_parameters(url: &str) -> Parameters {
    let mut taken = Parameters {
        url: url.to_owned(),
        only: None,
        name: None,
    };
    let Some((before, query)) = url.split_once('?') else {
        return taken;
    };
    let decoded = |value: &str| {
        // In a URL a `+` means itself; only in forms does it stand for a space.
        let value = value.replace('+', "%2B");
        let mut pairs = url::form_urlencoded::parse(value.as_bytes());
        pairs.next().map(|(value, _)| value.into_owned())
    };
    let rest: Vec<&str> = query
        .split('&')
        .filter(|parameter| match parameter.split_once('=') {
            Some((ONLY, value)) => {
                taken.only = Some(decoded(value).unwrap_or_default());
                false
            }
            Some((NAME, value)) => {
                taken.name = Some(decoded(value).unwrap_or_default());
                false
            }
            _ => true,
        })
        .collect();
    taken.url = if rest.is_empty() {
        before.to_owned()
    } else {
        format!("{before}?{}", rest.join("&"))
    };
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sink_does_not_see_what_the_delivery_takes() {
        let taken = take_parameters(
            "nats://n/s?stream=x&eventstore.only=lifecycle&eventstore.name=a%20b&y=z",
        );
        assert_eq!(taken.url, "nats://n/s?stream=x&y=z");
        assert_eq!(taken.only.as_deref(), Some("lifecycle"));
        assert_eq!(taken.name.as_deref(), Some("a b"));
        let taken = take_parameters("nats://n/s?eventstore.only=a%2Cb+c");
        assert_eq!(taken.url, "nats://n/s");
        assert_eq!(taken.only.as_deref(), Some("a,b+c"));
    }

    #[test]
    fn a_sink_is_called_what_its_url_says_or_else_what_it_says_itself() {
        let named = |url: &str| Subscription::from_url(url).unwrap().name;
        assert_eq!(named("stdout:"), "stdout");
        assert_eq!(named("stdout:?eventstore.name=other"), "other");
    }

    #[test]
    fn fuzz_subscriptions() {
        let seeds: Vec<Vec<u8>> = [
            "stdout:?eventstore.only=lifecycle&eventstore.name=a",
            "stdout:?eventstore.only=workflow_*,user&encoding=cloudevents",
            "postgres://u:hunter2@h/db?eventstore.name=%20",
        ]
        .map(|url| url.as_bytes().to_vec())
        .to_vec();
        crate::fuzz::run("subscriptions", |rng| {
            let url = String::from_utf8_lossy(&crate::fuzz::mutated(rng, &seeds)).into_owned();
            take_parameters(&url);
        });
    }
}
