//! Which sink a URL names. Knows the schemes, and of each sink only how it is opened.

#[cfg(feature = "sink")]
use super::AuthProvider;
use super::{Sink, SinkUrlError};
use std::sync::Arc;

/// Makes a sink of a URL. Connects to nothing.
type OpenUrl = fn(&str) -> Result<Arc<dyn Sink>, SinkUrlError>;
/// The same, for a sink that proves who it is by a provider.
#[cfg(feature = "sink")]
type OpenUrlWithAuth =
    fn(&str, Option<Arc<dyn AuthProvider>>) -> Result<Arc<dyn Sink>, SinkUrlError>;

/// How the sink of a scheme is opened.
#[derive(Clone, Copy)]
enum Open {
    Plain(OpenUrl),
    #[cfg(feature = "sink")]
    #[allow(dead_code, reason = "only the sinks that speak HTTP take a provider")]
    WithAuth(OpenUrlWithAuth),
}

/// A scheme that has a sink.
#[derive(Clone, Copy)]
struct Scheme {
    name: &'static str,
    /// The cargo feature that it needs, if any.
    feature: Option<&'static str>,
    /// None if this build lacks the feature.
    open: Option<Open>,
    /// Whether the scheme says it all, so that no `//` follows it.
    stands_alone: bool,
    /// The variables of the environment that the sink reads: its credentials.
    variables: &'static [&'static str],
}

impl Scheme {
    const fn of(name: &'static str, feature: Option<&'static str>, open: Option<Open>) -> Self {
        Self {
            name,
            feature,
            open,
            stands_alone: false,
            variables: &[],
        }
    }

    const fn alone(mut self) -> Self {
        self.stands_alone = true;
        self
    }

    const fn reading(mut self, variables: &'static [&'static str]) -> Self {
        self.variables = variables;
        self
    }
}

/// A row of the table: a scheme, its cargo feature, and how its sink is opened, which a build without the feature
/// does not know.
macro_rules! scheme {
    ($name:literal, $feature:tt, $open:expr) => {
        Scheme::of($name, Some($feature), {
            #[cfg(feature = $feature)]
            {
                Some($open)
            }
            #[cfg(not(feature = $feature))]
            {
                None
            }
        })
    };
}

/// What the variables of credentials begin with. Credentials that have a name have it next.
const AUTH_PREFIX: &str = "EVENTSTORE_AUTH_";
const AUTH: &[&str] = &[
    "EVENTSTORE_AUTH_TOKEN",
    "EVENTSTORE_AUTH_TOKEN_FILE",
    "EVENTSTORE_AUTH_TOKEN_URL",
    "EVENTSTORE_AUTH_CLIENT_ID",
    "EVENTSTORE_AUTH_CLIENT_SECRET",
    "EVENTSTORE_AUTH_CLIENT_SECRET_FILE",
    "EVENTSTORE_AUTH_SCOPE",
];

/// What credentials with a name may hold besides.
const OF_ONE: &[&str] = &["SIGNING_KEY", "SIGNING_KEY_FILE"];

/// Every scheme that has a sink, in this build or another one.
#[rustfmt::skip]
const SCHEMES: &[Scheme] = &[
    scheme!("http", "http", Open::WithAuth(super::http::open)).reading(AUTH),
    scheme!("https", "http", Open::WithAuth(super::http::open)).reading(AUTH),
    scheme!("dapr", "dapr", Open::WithAuth(super::dapr::open)),
    scheme!("dapr+binding", "dapr", Open::WithAuth(super::dapr::open)).reading(AUTH),
    scheme!("segment", "segment", Open::WithAuth(super::segment::open))
        .reading(&["EVENTSTORE_SEGMENT_WRITE_KEY", "EVENTSTORE_SEGMENT_WRITE_KEY_FILE"]),
    scheme!("kafka", "kafka", Open::Plain(super::kafka::open)),
    scheme!("kafka+tls", "kafka-tls", Open::Plain(super::kafka::open)),
    scheme!("nats", "nats", Open::Plain(super::nats::open)),
    scheme!("nats+tls", "nats", Open::Plain(super::nats::open)),
    scheme!("postgres", "postgres", Open::Plain(super::postgres::open)),
    scheme!("postgresql", "postgres", Open::Plain(super::postgres::open)),
    scheme!("redis", "redis", Open::Plain(super::redis::open)),
    scheme!("rediss", "redis", Open::Plain(super::redis::open)),
    scheme!("s3", "object-store", Open::Plain(super::objects::open)),
    scheme!("gs", "object-store", Open::Plain(super::objects::open)),
    scheme!("az", "object-store", Open::Plain(super::objects::open)),
    scheme!("file", "object-store", Open::Plain(super::objects::open)),
    Scheme::of("stdout", None, Some(Open::Plain(super::stdout::open))).alone(),
];

fn find(name: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|scheme| scheme.name == name)
}

/// Opens the sink that `url` names, such as `nats://localhost:4222/events`. Connects to nothing yet.
///
/// The subject, topic, stream, table or path may have fields of the event in it, such as
/// `nats://localhost:4222/orders.{workflow_type}`: [stores and sinks](crate::guide::sinks) has those that are known.
///
/// # Errors
/// [`SinkUrlError`], saying what is wrong with the URL and what is allowed.
pub fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let url = url.trim();
    match opening(url)? {
        Open::Plain(open) => open(url),
        #[cfg(feature = "sink")]
        Open::WithAuth(open) => open(url, None),
    }
}

/// As [`open`], with a provider of your own for a sink that speaks HTTP.
///
/// # Errors
/// [`SinkUrlError`], also for a sink that takes no provider.
#[cfg(feature = "sink")]
pub fn open_with_auth(
    url: &str,
    auth: Arc<dyn AuthProvider>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let url = url.trim();
    match opening(url)? {
        Open::WithAuth(open) => open(url, Some(auth)),
        Open::Plain(open) => {
            // That the URL is wrong matters more.
            open(url)?;
            Err(SinkUrlError::new(
                url,
                "this sink takes no auth provider",
                "`https:`, `http:`, `dapr:`, `dapr+binding:` or `segment:`",
            ))
        }
    }
}

/// How the sink that `url` names is opened.
fn opening(url: &str) -> Result<Open, SinkUrlError> {
    let wrong = |reason: String| SinkUrlError::new(url, reason, schemes());
    let Some((scheme, _)) = url.split_once(':') else {
        return Err(wrong("it has no scheme".to_owned()));
    };
    let scheme = find(scheme).ok_or_else(|| wrong("the scheme is not known".to_owned()))?;
    scheme.open.ok_or_else(|| {
        wrong(format!(
            "this build has no such sink; it needs the cargo feature `{}`",
            scheme.feature.unwrap_or_default()
        ))
    })
}

/// Whether some sink, in this build or another one, has that scheme.
pub(crate) fn knows(scheme: &str) -> bool {
    find(scheme).is_some()
}

/// Whether nothing has to follow that scheme of a sink but the colon.
pub(crate) fn stands_alone(scheme: &str) -> bool {
    find(scheme).is_some_and(|scheme| scheme.stands_alone)
}

/// The variables of the environment that sinks read themselves, so that no other part gets a secret.
pub(crate) fn variables() -> Vec<&'static str> {
    let mut variables = Vec::new();
    for name in SCHEMES.iter().flat_map(|scheme| scheme.variables) {
        if !variables.contains(name) {
            variables.push(*name);
        }
    }
    variables
}

/// Whether a variable of the environment is one that sinks read themselves.
pub(crate) fn is_variable(name: &str) -> bool {
    let is_name = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_named = || {
        let rest = name.strip_prefix(AUTH_PREFIX)?;
        AUTH.iter().chain(OF_ONE).find(|known| {
            let field = known.strip_prefix(AUTH_PREFIX).unwrap_or(known);
            let before = rest.strip_suffix(field);
            before
                .and_then(|before| before.strip_suffix('_'))
                .is_some_and(is_name)
        })
    };
    variables().contains(&name) || is_named().is_some()
}

/// Checks that no credentials would go to somebody whom they are not meant for, given the URLs of all sinks.
///
/// # Errors
/// [`SinkUrlError`], which names the variable.
pub(crate) fn check_together(urls: &[&str]) -> Result<(), SinkUrlError> {
    let takes_credentials = |url: &&&str| {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        scheme
            .and_then(find)
            .is_some_and(|scheme| scheme.variables == AUTH)
    };
    let urls: Vec<&str> = urls.iter().filter(takes_credentials).copied().collect();
    #[cfg(feature = "sink")]
    super::shared::auth::check_together(&urls)?;
    let _ = urls;
    Ok(())
}

/// The schemes, for error messages.
pub(crate) fn schemes() -> String {
    let schemes: Vec<_> = SCHEMES
        .iter()
        .map(|Scheme { name, feature, .. }| match feature {
            Some(feature) => format!("`{name}:` (cargo feature `{feature}`)"),
            None => format!("`{name}:`"),
        })
        .collect();
    schemes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::redacted;

    #[test]
    fn what_is_not_known_is_said_with_what_is() {
        for (url, reason) in [
            ("events.db", "no scheme"),
            ("amqp://u:hunter2@h/x", "not known"),
        ] {
            let text = open(url).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
            assert!(
                text.contains("`postgres:` (cargo feature `postgres`)"),
                "{text}"
            );
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_scheme_whose_feature_is_off_names_the_feature() {
        let error = open("redis://u:hunter2@h/s").unwrap_err();
        assert!(error.reason.contains("cargo feature `redis`"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn fuzz_sink_urls() {
        // The clients of some sinks want one.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let seeds: Vec<Vec<u8>> = [
            "://user:hunter2@localhost:1234/events?tls_ca=none",
            "://user:hunter2@[::1]:1/a.b/c%20d?stream=s&table=t",
            "://:hunter2@h/0/x?max_len=10",
            "://one:9092,two:9092/topic?security=plain",
            ":?encoding=cloudevents",
            "://u@h/a.{workflow_type}?table=e_{event_type}&max_targets=2",
        ]
        .map(|rest| rest.as_bytes().to_vec())
        .to_vec();
        crate::fuzz::run("sink URLs", |rng| {
            let scheme = rng.choice(SCHEMES).unwrap().name;
            let rest = crate::fuzz::mutated(rng, &seeds);
            let url = format!("{scheme}{}", String::from_utf8_lossy(&rest));
            redacted(&url);
            // Of those that are right, a client is made, which takes milliseconds.
            if rng.u8(..) == 0 {
                open(&url).ok();
            }
            #[cfg(feature = "sink")]
            if let Ok(address) = super::super::shared::address::Address::parse(&url, "a URL") {
                let user = address.user();
                let password = address.password();
                let path = address.path();
                let parameters = address.parameters(&["tls_ca", "stream"]).map(drop);
                assert!(!address.authority().is_empty() && !address.host().contains(']'));
                drop((user, password, path, parameters, address.port_or(1)));
            }
        });
    }

    #[test]
    fn fuzz_that_no_secret_of_a_url_is_shown() {
        let seeds: Vec<Vec<u8>> = [
            "@localhost:1234/events?tls_ca=none",
            "@[::1]/a/b",
            "@h/0/x?a=b#c",
        ]
        .map(|rest| rest.as_bytes().to_vec())
        .to_vec();
        crate::fuzz::run("secrets of URLs", |rng| {
            let scheme = rng.choice(SCHEMES).unwrap().name;
            let rest = crate::fuzz::mutated(rng, &seeds);
            let rest = String::from_utf8_lossy(&rest);
            if !rest.contains('@') {
                return;
            }
            let url = format!("{scheme}://user:hunter2{rest}");
            let shown = redacted(&url);
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
            if rng.u8(0..64) == 0
                && let Err(error) = open(&url)
            {
                let text = format!("{error} {error:?}");
                assert!(!text.contains("hunter2"), "{url}: {text}");
            }
        });
    }
}
