//! Properties of the client that a URL hands through: `property.NAME=VALUE`. Knows which of them the sink's promises
//! rest on.

use crate::sink::SinkUrlError;
use rdkafka::ClientConfig;
use url::form_urlencoded;

const PREFIX: &str = "property.";

/// Those that are not handed through, and what is there instead.
const OWN: [(&str, &str); 17] = [
    ("bootstrap.servers", "the hosts of the URL"),
    ("metadata.broker.list", "the hosts of the URL"),
    ("enable.idempotence", "nothing: it is on"),
    ("acks", "nothing: it is `all`"),
    ("request.required.acks", "nothing: it is `all`"),
    ("enable.gapless.guarantee", "nothing: it is on"),
    ("transactional.id", "nothing"),
    ("delivery.report.only.error", "nothing: it is off"),
    ("message.timeout.ms", "`timeout`"),
    ("delivery.timeout.ms", "`timeout`"),
    ("message.max.bytes", "`max_bytes`"),
    ("compression.type", "`compression`"),
    ("compression.codec", "`compression`"),
    ("security.protocol", "the scheme of the URL"),
    ("sasl.password", "the URL, or `password_file`"),
    ("sasl.username", "the URL"),
    ("plugin.library.paths", "nothing"),
];

/// Takes the properties out of a URL.
pub(super) fn split(url: &str) -> (String, Vec<(String, String)>) {
    let (rest, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let Some((place, query)) = rest.split_once('?') else {
        return (url.to_owned(), Vec::new());
    };
    let (properties, others): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .partition(|parameter| parameter.starts_with(PREFIX));
    let properties = properties
        .into_iter()
        .flat_map(|parameter| form_urlencoded::parse(parameter.as_bytes()))
        .filter_map(|(name, value)| {
            let name = name.strip_prefix(PREFIX)?.to_owned();
            Some((name, value.into_owned()))
        })
        .collect();
    let others = others.join("&");
    let mark = if others.is_empty() { "" } else { "?" };
    (format!("{place}{mark}{others}{fragment}"), properties)
}

/// Checks that the client takes each of them. What it says itself quotes the value, which may be a secret.
pub(super) fn check(
    properties: &[(String, String)],
    wrong: impl Fn(String) -> SinkUrlError,
) -> Result<(), SinkUrlError> {
    for (name, value) in properties {
        if let Some((own, instead)) = OWN.iter().find(|(own, _)| own == name) {
            return Err(wrong(format!(
                "`property.{own}` is the sink's own; there is {instead}"
            )));
        }
        let mut config = ClientConfig::new();
        if config.set(name, value).create_native_config().is_err() {
            // What is no property's name may be the rest of a password: it is not shown.
            return Err(wrong(match is_name(name) {
                true => format!("`property.{name}` is none of the client, or not with this value"),
                false => "a `property.` is none of the client".to_owned(),
            }));
        }
    }
    Ok(())
}

/// Whether the client knows the name, whatever the value.
fn is_name(name: &str) -> bool {
    ClientConfig::new()
        .create_native_config()
        .is_ok_and(|config| config.get(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_taken_out_of_a_url() {
        let (url, properties) =
            split("kafka://h/t?property.linger.ms=5&timeout=2s&property.client.rack=a%26b#x");
        assert_eq!(url, "kafka://h/t?timeout=2s#x");
        let expected = [("linger.ms", "5"), ("client.rack", "a&b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(properties, expected);
        assert_eq!(split("kafka://h/t?property.a=1").0, "kafka://h/t");
        assert_eq!(split("kafka://h/t").0, "kafka://h/t");
    }

    #[test]
    fn what_the_promises_rest_on_is_refused_by_its_name() {
        let wrong = |reason| SinkUrlError {
            url: String::new(),
            reason,
            allowed: String::new(),
        };
        for (name, _) in OWN {
            let property = (name.to_owned(), "true".to_owned());
            let error = check(&[property], wrong).unwrap_err();
            assert!(
                error.reason.contains(&format!("`property.{name}`")),
                "{error}"
            );
        }
    }
}
