//! What a Kafka URL names. Knows the client's configuration, and nothing of events.

use crate::sink::{SinkUrlError, shared::address::Address};
use rdkafka::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use std::time::Duration;

/// What is allowed, for error messages.
const ALLOWED: &str = "`kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/TOPIC`, or `kafka+tls://…` \
     with the cargo feature `kafka-tls`; with the parameters `mechanism` (`PLAIN`; with `kafka-tls` \
     also `SCRAM-SHA-256`, `SCRAM-SHA-512`), `tls_ca` (a file of certificates), `compression` (`none`, \
     `gzip`, `lz4`, `snappy`), `partitions`, `replication`, `max_bytes` and `timeout` (`1s` to `15s`)";
const DEFAULT_PORT: u16 = 9092;
/// How long a message is tried, unless the URL says less.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// A topic, and how it is reached.
pub(super) struct TopicAddress {
    pub(super) topic: String,
    /// For a topic that is not there; -1 leaves it to the broker.
    pub(super) partitions: i32,
    pub(super) replication: i32,
    pub(super) timeout: Duration,
    brokers: String,
    tls: bool,
    ca: Option<String>,
    login: Option<Login>,
    compression: String,
    max_bytes: u32,
}

/// Who the sink is, and how it proves it.
struct Login {
    user: String,
    password: SecretString,
    mechanism: &'static str,
}

impl TopicAddress {
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        // The URL once for each of its hosts, which no parser takes together.
        let mut hosts = hosts.split(',');
        let first = hosts.next().unwrap_or_default();
        let address = Address::parse(&format!("{scheme}://{user}{first}{tail}"), ALLOWED)?;
        let mut brokers = broker(&address);
        for host in hosts {
            let other = Address::parse(&format!("{scheme}://{user}{host}{tail}"), ALLOWED)?;
            brokers = format!("{brokers},{}", broker(&other));
        }
        let path = address.path()?;
        let [topic] = path.as_slice() else {
            return Err(address.wrong("it does not name one topic"));
        };
        let legal =
            |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        if topic.is_empty()
            || topic.len() > 249
            || matches!(topic.as_str(), "." | "..")
            || !topic.chars().all(legal)
        {
            return Err(address.wrong("its topic is no name that Kafka takes"));
        }
        let parameters = address.parameters(&[
            "mechanism",
            "tls_ca",
            "compression",
            "partitions",
            "replication",
            "max_bytes",
            "timeout",
        ])?;
        let tls = scheme == "kafka+tls";
        let ca = parameters.text("tls_ca").map(str::to_owned);
        if ca.is_some() && !tls {
            return Err(address.wrong("`tls_ca` is of use with `kafka+tls:` only"));
        }
        // The client looks only when it connects, which would be an outage without an end.
        if let Some(ca) = &ca
            && let Err(error) = std::fs::File::open(ca)
        {
            return Err(address.wrong(format!("the file of `tls_ca` cannot be read: {error}")));
        }
        let mechanism = match parameters.text("mechanism") {
            None | Some("PLAIN") => "PLAIN",
            Some("SCRAM-SHA-256") => "SCRAM-SHA-256",
            Some("SCRAM-SHA-512") => "SCRAM-SHA-512",
            Some(_) => return Err(address.wrong("`mechanism` names none")),
        };
        if mechanism != "PLAIN" && !cfg!(feature = "kafka-tls") {
            return Err(
                address.wrong("this build has no SCRAM; it needs the cargo feature `kafka-tls`")
            );
        }
        let login = match (address.user()?, address.password()?) {
            (None, None) if parameters.text("mechanism").is_some() => {
                return Err(address.wrong("`mechanism` is of use with a user name only"));
            }
            (None, None) => None,
            (Some(user), Some(password)) => Some(Login {
                user,
                password,
                mechanism,
            }),
            _ => return Err(address.wrong("a user name and a password go together")),
        };
        let compression = match parameters.text("compression").unwrap_or("none") {
            known @ ("none" | "gzip" | "lz4" | "snappy") => known.to_owned(),
            _ => return Err(address.wrong("`compression` names none")),
        };
        let timeout = match parameters.text("timeout") {
            None => MESSAGE_TIMEOUT,
            Some(text) => humantime::parse_duration(text)
                .ok()
                .filter(|timeout| (Duration::from_secs(1)..=MESSAGE_TIMEOUT).contains(timeout))
                .ok_or_else(|| address.wrong("`timeout` is no duration from 1s to 15s"))?,
        };
        let number = |name: &str| -> Result<Option<i32>, SinkUrlError> {
            match parameters.read::<i32>(name, "a whole number from 1")? {
                Some(number) if number < 1 => {
                    Err(address.wrong(format!("`{name}` is not a whole number from 1")))
                }
                number => Ok(number),
            }
        };
        let max_bytes = parameters
            .read::<u32>("max_bytes", "a number of bytes")?
            .unwrap_or(1_000_000);
        // The client's own bounds.
        if !(1_000..=1_000_000_000).contains(&max_bytes) {
            return Err(address.wrong("`max_bytes` is not from 1000 to 1000000000"));
        }
        Ok(Self {
            topic: topic.clone(),
            partitions: number("partitions")?.unwrap_or(-1),
            replication: number("replication")?.unwrap_or(-1),
            timeout,
            brokers,
            tls,
            ca,
            login,
            compression,
            max_bytes,
        })
    }

    /// The client's configuration. Holds the password: not to be shown.
    pub(super) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let milliseconds = self.timeout.as_millis().to_string();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", env!("CARGO_PKG_NAME"))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What fails stops what comes after it, so that nothing overtakes it.
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", &milliseconds)
            .set("request.timeout.ms", &milliseconds)
            .set("message.max.bytes", self.max_bytes.to_string())
            .set("compression.type", &self.compression)
            // As Java's clients do: the same key, the same partition.
            .set("partitioner", "murmur2_random")
            // A batch is handed over at once, and this is enough for it to go out in few sets.
            .set("linger.ms", "2")
            .set("socket.connection.setup.timeout.ms", "5000")
            // A broker that is back is found within a second.
            .set("reconnect.backoff.max.ms", "1000")
            // Made by the sink, with the partitions that its URL asks for.
            .set("allow.auto.create.topics", "false");
        let protocol = match (self.tls, &self.login) {
            (false, None) => "plaintext",
            (false, Some(_)) => "sasl_plaintext",
            (true, None) => "ssl",
            (true, Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(login) = &self.login {
            config
                .set("sasl.mechanisms", login.mechanism)
                .set("sasl.username", &login.user)
                .set("sasl.password", login.password.expose_secret());
        }
        if let Some(ca) = &self.ca {
            config.set("ssl.ca.location", ca);
        }
        config
    }
}

fn broker(address: &Address) -> String {
    format!("{}:{}", address.authority(), address.port_or(DEFAULT_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_user_and_topic_are_read() {
        let address =
            TopicAddress::parse("kafka://u%40:p%2Fw@a,[::1]:7,c:9093/orders.v1?partitions=3")
                .unwrap();
        assert_eq!(address.brokers, "a:9092,[::1]:7,c:9093");
        assert_eq!(
            (address.topic.as_str(), address.partitions),
            ("orders.v1", 3)
        );
        let config = address.config();
        assert_eq!(config.get("sasl.username"), Some("u@"));
        assert_eq!(config.get("sasl.password"), Some("p/w"));
        assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
    }

    #[test]
    fn wrong_urls_name_what_is_wrong_and_no_secret() {
        for (url, word) in [
            ("kafka://", "host"),
            ("kafka://h", "topic"),
            ("kafka://h/a/b", "topic"),
            ("kafka://h/a%20b", "topic"),
            ("kafka://u:hunter2@h,:1/t", "host"),
            ("kafka://u:hunter2@h,h2:99999/t", "port"),
            ("kafka://hunter2@h/t", "go together"),
            ("kafka://u:hunter2@h/t?mechanism=hunter2", "mechanism"),
            ("kafka://h/t?mechanism=PLAIN", "user name"),
            ("kafka://u:hunter2@h/t?compression=zip", "compression"),
            ("kafka://u:hunter2@h/t?timeout=1m", "timeout"),
            ("kafka://u:hunter2@h/t?partitions=0", "partitions"),
            ("kafka://u:hunter2@h/t?max_bytes=1", "max_bytes"),
            ("kafka://u:hunter2@h/t?tls_ca=/x", "kafka+tls"),
            ("kafka://u:hunter2@h/t?acks=1", "unknown parameter"),
        ] {
            let Err(error) = TopicAddress::parse(url) else {
                panic!("{url} is taken");
            };
            assert!(error.reason.contains(word), "{url}: {error}");
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{url}: {error}"
            );
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn scram_names_the_feature_that_it_needs() {
        let Err(error) = TopicAddress::parse("kafka://u:hunter2@h/t?mechanism=SCRAM-SHA-256")
        else {
            panic!("it is taken");
        };
        assert!(error.reason.contains("`kafka-tls`"), "{error}");
    }
}
