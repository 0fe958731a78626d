//! A sink, its name and its selection of events, as a URL says them. Takes its own parameters out of the URL: the sink
//! does not see them. Does not know how events get to a sink.

use super::{Begin, Patience, Selection};
use crate::sink::{self, Sink, SinkUrlError};
use std::{sync::Arc, time::Duration};

/// The parameter of a sink's URL that selects events.
const ONLY: &str = "eventstore.only";
/// The parameter of a sink's URL that names the sink.
const NAME: &str = "eventstore.name";
/// The parameter of a sink's URL that says where a new sink begins.
const FROM: &str = "eventstore.from";
/// The parameters of a sink's URL that bound how long it is tried with an event.
const MAX_ATTEMPTS: &str = "eventstore.max_attempts";
const MAX_AGE: &str = "eventstore.max_age";
/// The bounds of the latter.
const LEAST_AGE: Duration = Duration::from_secs(1);
/// All of them.
const OWN: [&str; 5] = [ONLY, NAME, FROM, MAX_ATTEMPTS, MAX_AGE];
/// The longest such name.
const MAX_NAME_LENGTH: usize = 100;

/// A sink, and which events it gets.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The name under which the sink's cursor and dead letters are kept.
    pub(crate) name: String,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) only: Selection,
    /// Where it begins when it is named for the first time.
    pub(crate) begin: Begin,
    /// How long it is tried with an event.
    pub(crate) patience: Patience,
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
            begin: Begin::default(),
            patience: Patience::default(),
        }
    }

    /// Returns what a URL says: the sink, and which name and selection the delivery's parameters give it.
    pub(crate) fn from_url(url: &str) -> Result<Self, SubscriptionError> {
        let parameters = take_parameters(url);
        let wrong = |name, value: &str, allowed: String| SubscriptionError::Parameter {
            name,
            value: value.chars().take(80).collect(),
            allowed,
        };
        let only = match parameters.value(ONLY) {
            None => Selection::default(),
            Some(text) => Selection::parse(text).ok_or_else(|| {
                wrong(
                    ONLY,
                    text,
                    "`lifecycle`, `user`, event names, event types, and beginnings of either with \
                     `*` at the end, with commas between them"
                        .to_owned(),
                )
            })?,
        };
        let begin = match parameters.value(FROM) {
            None => Begin::default(),
            Some(text) => Begin::parse(text).ok_or_else(|| {
                let allowed = "`beginning`, `now`, or a time such as `2026-01-31T08:00:00Z`";
                wrong(FROM, text, allowed.to_owned())
            })?,
        };
        let attempts = parameters.value(MAX_ATTEMPTS).map(|text| {
            let number = text.parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| wrong(MAX_ATTEMPTS, text, "a whole number from 1".to_owned()))
        });
        let age = parameters.value(MAX_AGE).map(|text| {
            let age = humantime::parse_duration(text).ok();
            age.filter(|age| *age >= LEAST_AGE).ok_or_else(|| {
                let allowed = "a duration from `1s`, such as `12h` or `7days`";
                wrong(MAX_AGE, text, allowed.to_owned())
            })
        });
        let patience = Patience {
            attempts: attempts.transpose()?,
            age: age.transpose()?,
        };
        let sink = sink::open(&parameters.url).map_err(SubscriptionError::Sink)?;
        let mut subscription = Self {
            only,
            begin,
            patience,
            ..Self::to_all(sink)
        };
        match parameters.value(NAME) {
            None => {}
            Some(name) if is_name(name) => subscription.name = name.to_owned(),
            Some(name) => {
                return Err(wrong(NAME, name, allowed_name()));
            }
        }
        Ok(subscription)
    }
}

/// What a name is, for errors.
pub(super) fn allowed_name() -> String {
    format!("1 to {MAX_NAME_LENGTH} letters, digits and signs")
}

pub(super) fn is_name(name: &str) -> bool {
    !name.trim().is_empty()
        && name.chars().count() <= MAX_NAME_LENGTH
        && !name.chars().any(char::is_control)
}

/// The delivery's parameters, and the sink's URL without them.
#[derive(Debug, PartialEq, Eq)]
struct Parameters {
    url: String,
    values: Vec<(&'static str, String)>,
}

impl Parameters {
    /// The value of a parameter; the last one, if it is there more than once.
    fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.values.iter().rev();
        let (_, value) = values.find(|(known, _)| *known == name)?;
        Some(value)
    }
}

fn take_parameters(url: &str) -> Parameters {
    let mut taken = Parameters {
        url: url.to_owned(),
        values: Vec::new(),
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
        .filter(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let own = OWN.into_iter().find(|own| *own == name);
            if let Some(name) = own {
                let value = decoded(value).unwrap_or_default();
                taken.values.push((name, value));
            }
            own.is_none()
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
        assert_eq!(taken.value(ONLY), Some("lifecycle"));
        assert_eq!(taken.value(NAME), Some("a b"));
        let taken = take_parameters("nats://n/s?eventstore.only=a%2Cb+c");
        assert_eq!(taken.url, "nats://n/s");
        assert_eq!(taken.value(ONLY), Some("a,b+c"));
        let taken = take_parameters("nats://n/s?eventstore.from=2026-01-31T08:00:00%2B01:00&x");
        assert_eq!(taken.url, "nats://n/s?x");
        assert_eq!(taken.value(FROM), Some("2026-01-31T08:00:00+01:00"));
    }

    #[test]
    fn where_a_sink_begins_and_how_long_it_is_tried_stand_in_its_url() {
        let subscription = |rest: &str| Subscription::from_url(&format!("stdout:?{rest}"));
        let plain = Subscription::from_url("stdout:").unwrap();
        assert_eq!(
            (plain.begin, plain.patience),
            (Begin::Beginning, Patience::default())
        );
        let full = "eventstore.from=now&eventstore.max_attempts=5&eventstore.max_age=7days";
        let full = subscription(full).unwrap();
        assert_eq!(full.begin, Begin::Now);
        assert_eq!(full.patience.attempts, Some(5));
        assert_eq!(
            full.patience.age,
            Some(Duration::from_secs(7 * 24 * 60 * 60))
        );
        for wrong in [
            "eventstore.from=yesterday",
            "eventstore.from",
            "eventstore.max_attempts=0",
            "eventstore.max_attempts=x",
            "eventstore.max_age=0s",
            "eventstore.max_age=1",
        ] {
            let error = subscription(wrong).unwrap_err();
            let SubscriptionError::Parameter { name, allowed, .. } = error else {
                panic!("{error:?}");
            };
            assert!(wrong.starts_with(name) && !allowed.is_empty(), "{wrong}");
        }
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
