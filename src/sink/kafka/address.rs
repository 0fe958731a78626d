//! What a Kafka URL names. Knows the client's configuration, and nothing of events.

use super::properties;
use crate::sink::{
    SinkError, SinkUrlError,
    shared::{
        address::{Address, Parameters},
        auth::secret::Secret,
        encoding::Encoding,
        hosts,
        route::{MAX_TARGETS, Route},
        template::Template,
    },
};
use rdkafka::ClientConfig;
use secrecy::ExposeSecret as _;
use std::time::Duration;

/// What is allowed, for error messages.
const ALLOWED: &str = "`kafka://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/TOPIC`, or `kafka+tls://…` \
     with the cargo feature `kafka-tls`; with the parameters `mechanism` (`PLAIN`; with `kafka-tls` \
     also `SCRAM-SHA-256`, `SCRAM-SHA-512`), `password_file`, `token_file` (`OAUTHBEARER`, with `kafka-tls`), \
     `tls_ca` (a file of certificates), `tls_cert` with `tls_key`, `compression` (`none`, `gzip`, `lz4`, `snappy`; \
     `zstd` with the cargo feature `kafka-zstd`), `partitions`, `replication`, `max_bytes`, `timeout` (`1s` to `15s`), \
     `key` and `property.NAME`, a property of librdkafka; the topic and `key` may have fields of the event in them \
     (`orders.{workflow_type}`), with `max_targets`";
const DEFAULT_PORT: u16 = 9092;
/// How long a message is tried, unless the URL says less.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// A topic, and how it is reached.
pub(super) struct TopicAddress {
    pub(super) topic: Route,
    /// What the key is, if it is not the event's own.
    pub(super) key: Option<Template>,
    /// For a topic that is not there; -1 leaves it to the broker.
    pub(super) partitions: i32,
    pub(super) replication: i32,
    pub(super) timeout: Duration,
    brokers: String,
    tls: bool,
    ca: Option<String>,
    /// A certificate of the sink's own, and its key.
    identity: Option<(String, String)>,
    login: Option<Login>,
    compression: &'static str,
    max_bytes: u32,
    properties: Vec<(String, String)>,
}

/// Who the sink is, and how it proves it.
enum Login {
    Password {
        user: String,
        password: Secret,
        mechanism: &'static str,
    },
    /// OAUTHBEARER.
    Token(Secret),
}

impl TopicAddress {
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        let (url, properties) = properties::split(url);
        let (address, others) = hosts::parse(&url, ALLOWED)?;
        properties::check(&properties, |reason| address.wrong(reason))?;
        let brokers: Vec<_> = std::iter::once(&address)
            .chain(&others)
            .map(broker)
            .collect();
        let path = address.path()?;
        let [topic] = path.as_slice() else {
            return Err(address.wrong("it does not name one topic"));
        };
        let parameters = address.parameters(&[
            "mechanism",
            "password_file",
            "token_file",
            "tls_ca",
            "tls_cert",
            "tls_key",
            "compression",
            "partitions",
            "replication",
            "max_bytes",
            "timeout",
            "key",
            MAX_TARGETS,
        ])?;
        let topic = Route::bounded(topic, Encoding::TOPIC, (&address, &parameters), "topics")?;
        if !is_topic(&topic.with_each("x")) {
            return Err(address.wrong("its topic is no name that Kafka takes"));
        }
        let key = parameters.text("key").map(Template::parse).transpose();
        let key = key.map_err(|error| address.wrong(format!("`key`: {error}")))?;
        let tls = address.scheme() == "kafka+tls";
        let file = |name: &str| file(&address, &parameters, name, tls);
        let ca = file("tls_ca")?;
        let identity = match (file("tls_cert")?, file("tls_key")?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(address.wrong("`tls_cert` and `tls_key` go together")),
        };
        let login = login(&address, &parameters)?;
        let compression = compression(&address, &parameters)?;
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
            topic,
            key,
            partitions: number("partitions")?.unwrap_or(-1),
            replication: number("replication")?.unwrap_or(-1),
            timeout,
            brokers: brokers.join(","),
            tls,
            ca,
            identity,
            login,
            compression,
            max_bytes,
            properties,
        })
    }

    /// The client's configuration. Holds the password: not to be shown. Reads files, for a thread that may wait.
    pub(super) fn config(&self) -> Result<ClientConfig, SinkError> {
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
            .set("compression.type", self.compression)
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
        match &self.login {
            None => {}
            Some(Login::Password {
                user,
                password,
                mechanism,
            }) => {
                config
                    .set("sasl.mechanisms", *mechanism)
                    .set("sasl.username", user)
                    .set("sasl.password", password.read_blocking()?.expose_secret());
            }
            Some(Login::Token(_)) => {
                config.set("sasl.mechanisms", "OAUTHBEARER");
            }
        }
        if let Some(ca) = &self.ca {
            config.set("ssl.ca.location", ca);
        }
        if let Some((certificate, key)) = &self.identity {
            config
                .set("ssl.certificate.location", certificate)
                .set("ssl.key.location", key);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        Ok(config)
    }

    /// The token that says who the sink is, where it does so with one.
    pub(super) fn token(&self) -> Option<&Secret> {
        match &self.login {
            Some(Login::Token(token)) => Some(token),
            _ => None,
        }
    }

    /// Whether a client that is made anew may be let in where the old one is not.
    pub(super) fn reads_files(&self) -> bool {
        let has_file = match &self.login {
            Some(Login::Password { password, .. }) => matches!(password, Secret::File(_)),
            Some(Login::Token(_)) => true,
            None => false,
        };
        has_file || self.ca.is_some() || self.identity.is_some()
    }
}

/// Whether Kafka takes a topic of this name.
fn is_topic(name: &str) -> bool {
    let legal = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    (1..=249).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(legal)
}

/// The path of a file that the client reads. It looks only when it connects, which would be an outage without an end.
fn file(
    address: &Address,
    parameters: &Parameters<'_>,
    name: &str,
    tls: bool,
) -> Result<Option<String>, SinkUrlError> {
    let Some(path) = parameters.text(name) else {
        return Ok(None);
    };
    if !tls {
        return Err(address.wrong(format!("`{name}` is of use with `kafka+tls:` only")));
    }
    match std::fs::File::open(path) {
        Ok(_) => Ok(Some(path.to_owned())),
        Err(error) => Err(address.wrong(format!("the file of `{name}` cannot be read: {error}"))),
    }
}

fn login(address: &Address, parameters: &Parameters<'_>) -> Result<Option<Login>, SinkUrlError> {
    let mechanism = match parameters.text("mechanism") {
        None => None,
        Some("PLAIN") => Some("PLAIN"),
        Some("SCRAM-SHA-256") => Some("SCRAM-SHA-256"),
        Some("SCRAM-SHA-512") => Some("SCRAM-SHA-512"),
        Some(_) => return Err(address.wrong("`mechanism` names none")),
    };
    let needs_feature = |name: &str| {
        address.wrong(format!(
            "this build has no {name}; it needs the cargo feature `kafka-tls`"
        ))
    };
    if mechanism.is_some_and(|mechanism| mechanism != "PLAIN") && !cfg!(feature = "kafka-tls") {
        return Err(needs_feature("SCRAM"));
    }
    let file = |name: &str| {
        parameters
            .text(name)
            .map(Secret::in_file)
            .transpose()
            .map_err(|reason| address.wrong(reason))
    };
    let (user, given) = (address.user()?, address.password()?);
    let password = match (given, file("password_file")?) {
        (Some(_), Some(_)) => {
            return Err(address.wrong("it has a password and a `password_file`"));
        }
        (given, file) => given.map(Secret::Given).or(file),
    };
    match (user, password, file("token_file")?) {
        (None, None, None) if mechanism.is_some() => {
            Err(address.wrong("`mechanism` is of use with a user name only"))
        }
        (None, None, None) => Ok(None),
        (Some(user), Some(password), None) => Ok(Some(Login::Password {
            user,
            password,
            mechanism: mechanism.unwrap_or("PLAIN"),
        })),
        (None, None, Some(_)) if mechanism.is_some() => {
            Err(address.wrong("`mechanism` is of use with a user name only"))
        }
        (None, None, Some(_)) if !cfg!(feature = "kafka-tls") => Err(needs_feature("OAUTHBEARER")),
        (None, None, Some(token)) => Ok(Some(Login::Token(token))),
        (_, _, Some(_)) => {
            Err(address.wrong("it has a user name or a password and a `token_file`"))
        }
        _ => Err(address.wrong("a user name and a password go together")),
    }
}

fn compression(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<&'static str, SinkUrlError> {
    match parameters.text("compression").unwrap_or("none") {
        "none" => Ok("none"),
        "gzip" => Ok("gzip"),
        "lz4" => Ok("lz4"),
        "snappy" => Ok("snappy"),
        "zstd" if cfg!(feature = "kafka-zstd") => Ok("zstd"),
        "zstd" => {
            Err(address.wrong("this build has no zstd; it needs the cargo feature `kafka-zstd`"))
        }
        _ => Err(address.wrong("`compression` names none")),
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
            (address.topic.shown(), address.partitions),
            ("orders.v1", 3)
        );
        let config = address.config().unwrap();
        assert_eq!(config.get("sasl.username"), Some("u@"));
        assert_eq!(config.get("sasl.password"), Some("p/w"));
        assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
        let url = "kafka://h/t?property.linger.ms=7&compression=lz4&property.client.rack=x";
        let config = TopicAddress::parse(url).unwrap().config().unwrap();
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("client.rack"), Some("x"));
        assert_eq!(config.get("compression.type"), Some("lz4"));
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
            ("kafka://h/t?tls_cert=/x", "kafka+tls"),
            ("kafka://u:hunter2@h/t?password_file=/x", "/x"),
            ("kafka://h/t?property.acks=1", "`all`"),
            ("kafka://h/t?property.hunter2=1", "none of the client"),
            ("kafka://h/t?property.linger.ms=hunter2", "linger.ms"),
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
