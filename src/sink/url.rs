//! Which sink a URL names. Knows the schemes, and of each sink only how it is opened.

use super::{Sink, SinkUrlError};
use std::sync::Arc;

/// Every scheme that has a sink, with the cargo feature that it needs, if any.
const SCHEMES: [(&str, Option<&str>); 14] = [
    ("http", Some("http")),
    ("https", Some("http")),
    ("dapr", Some("dapr")),
    ("dapr+binding", Some("dapr")),
    ("segment", Some("segment")),
    ("kafka", Some("kafka")),
    ("kafka+tls", Some("kafka-tls")),
    ("nats", Some("nats")),
    ("nats+tls", Some("nats")),
    ("postgres", Some("postgres")),
    ("postgresql", Some("postgres")),
    ("redis", Some("redis")),
    ("rediss", Some("redis")),
    ("stdout", None),
];

/// Opens the sink that `url` names, such as `nats://localhost:4222/events`. Connects to nothing yet.
///
/// # Errors
/// [`SinkUrlError`], saying what is wrong with the URL and what is allowed.
pub fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let url = url.trim();
    let Some((scheme, _)) = url.split_once(':') else {
        return Err(SinkUrlError {
            url: redacted(url),
            reason: "it has no scheme".to_owned(),
            allowed: schemes(),
        });
    };
    match scheme {
        #[cfg(feature = "http")]
        "http" | "https" => super::http::open(url, None),
        #[cfg(feature = "dapr")]
        "dapr" | "dapr+binding" => super::dapr::open(url, None),
        #[cfg(feature = "segment")]
        "segment" => super::segment::open(url, None),
        #[cfg(feature = "kafka")]
        "kafka" => super::kafka::open(url),
        #[cfg(feature = "kafka-tls")]
        "kafka+tls" => super::kafka::open(url),
        #[cfg(feature = "nats")]
        "nats" | "nats+tls" => Ok(Arc::new(super::nats::Nats::open(url)?)),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Arc::new(super::postgres::Postgres::open(url)?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" => Ok(Arc::new(super::redis::Redis::open(url)?)),
        "stdout" => Ok(Arc::new(super::stdout::Stdout::open(url)?)),
        _ => Err(SinkUrlError {
            url: redacted(url),
            reason: match SCHEMES.iter().find(|(known, _)| *known == scheme) {
                Some((_, Some(feature))) => {
                    format!("this build has no such sink; it needs the cargo feature `{feature}`")
                }
                _ => "the scheme is not known".to_owned(),
            },
            allowed: schemes(),
        }),
    }
}

/// As [`open`], with a provider of your own for a sink that speaks HTTP.
///
/// # Errors
/// [`SinkUrlError`], also for a sink that takes no provider.
#[cfg(feature = "http-client")]
pub fn open_with_auth(
    url: &str,
    auth: Arc<dyn super::AuthProvider>,
) -> Result<Arc<dyn Sink>, SinkUrlError> {
    let url = url.trim();
    match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        #[cfg(feature = "http")]
        "http" | "https" => super::http::open(url, Some(auth)),
        #[cfg(feature = "dapr")]
        "dapr" | "dapr+binding" => super::dapr::open(url, Some(auth)),
        #[cfg(feature = "segment")]
        "segment" => super::segment::open(url, Some(auth)),
        _ => {
            // That the URL is wrong, or the feature is off, matters more.
            open(url)?;
            Err(SinkUrlError::new(
                url,
                "this sink takes no auth provider",
                "`https:`, `http:`, `dapr:`, `dapr+binding:` or `segment:`",
            ))
        }
    }
}

/// Whether some sink, in this build or another one, has that scheme.
pub(crate) fn knows(scheme: &str) -> bool {
    SCHEMES.iter().any(|(known, _)| *known == scheme)
}

/// The schemes, for error messages.
pub(crate) fn schemes() -> String {
    let schemes: Vec<_> = SCHEMES
        .iter()
        .map(|(scheme, feature)| match feature {
            Some(feature) => format!("`{scheme}:` (cargo feature `{feature}`)"),
            None => format!("`{scheme}:`"),
        })
        .collect();
    schemes.join(", ")
}

/// A URL as it may be shown: user name, password and parameters are left out. A password that was not
/// percent-encoded may look like a path or a parameter; where in doubt, more is left out.
pub(crate) fn redacted(url: &str) -> String {
    let (shown, parameters) = match url.find(['?', '#']) {
        Some(end) => url.split_at(end),
        None => (url, ""),
    };
    let (scheme, rest) = match shown.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        // No authority part that a parser would see; a stray `@` may still follow a password.
        None => (String::new(), shown),
    };
    if parameters.contains('@') {
        return format!("{scheme}***");
    }
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}***@{rest}"),
        None if !scheme.is_empty() && has_odd_port(rest) => format!("{scheme}***"),
        None => format!("{scheme}{rest}"),
    }
}

/// Whether what stands before the path may be a user and a password without a host.
fn has_odd_port(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    authority.split(',').any(|host| {
        host.rsplit_once(':').is_some_and(|(host, port)| {
            let is_ipv6 = host.starts_with('[') && port.ends_with(']');
            !is_ipv6 && !port.chars().all(|digit| digit.is_ascii_digit())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(redacted("nats://u:p@h:1/s?token=t"), "nats://***@h:1/s");
        assert_eq!(redacted("u:p@h"), "***@h");
        assert_eq!(redacted("redis://h/s"), "redis://h/s");
        assert_eq!(redacted("redis://h:6379/s"), "redis://h:6379/s");
        assert_eq!(redacted("redis://[::1]:6379/s"), "redis://[::1]:6379/s");
        assert_eq!(redacted("redis://[::1]/s"), "redis://[::1]/s");
        assert_eq!(redacted("kafka://a:1,b/t"), "kafka://a:1,b/t");
        assert_eq!(redacted("postgres://u:p"), "postgres://***");
        assert_eq!(redacted("redis://u:pa/ss@h/s"), "redis://***@h/s");
        assert_eq!(redacted("redis://u:p@a/ss@h/s"), "redis://***@h/s");
        assert_eq!(redacted("redis://u:pa?ss@h/s"), "redis://***");
    }

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
            "://user:hunter2@localhost:1234/events?tls_ca=none&eventstore.name=a",
            "://user:hunter2@[::1]:1/a.b/c%20d?stream=s&table=t",
            "://:hunter2@h/0/x?max_len=10",
            "://one:9092,two:9092/topic?security=plain",
            ":?encoding=cloudevents",
        ]
        .map(|rest| rest.as_bytes().to_vec())
        .to_vec();
        crate::fuzz::run("sink URLs", |rng| {
            let (scheme, _) = rng.choice(SCHEMES).unwrap();
            let rest = crate::fuzz::mutated(rng, &seeds);
            let url = format!("{scheme}{}", String::from_utf8_lossy(&rest));
            redacted(&url);
            // Of those that are right, a client is made, which takes milliseconds.
            if rng.u8(..) == 0 {
                open(&url).ok();
            }
            #[cfg(feature = "nats")]
            if let Ok(address) = super::super::address::Address::parse(&url, "a URL") {
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
            let (scheme, _) = rng.choice(SCHEMES).unwrap();
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
