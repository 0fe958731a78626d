//! What a NATS URL names. Knows nothing of events.

use super::credentials::Credentials;
use crate::sink::{
    SinkUrlError,
    shared::{
        address::{Address, Parameters},
        auth::secret::Secret,
        encoding::Encoding,
        hosts,
        route::Route,
        tls::{Tls, TlsFiles},
    },
};
use async_nats::ServerAddr;

const ALLOWED: &str = "`nats://user:password@host:port[,host:port…]/subject` or `nats://token@host:port/subject`, where parts of the \
     subject behind the first may hold fields of the event (`orders.{workflow_type}`), \
     `nats+tls://` for TLS, with the parameters `stream=NAME`, `domain=NAME`, `replicas=1..5`, `creds=FILE`, \
     `nkey_file=FILE`, `token_file=FILE`, `password_file=FILE`, `tls_ca=FILE`, `tls_cert=FILE` with `tls_key=FILE`";

/// A subject, and how it is reached.
pub(super) struct SubjectAddress {
    pub(super) subject: Route,
    /// What a stream has to take: the subject, with `*` for each part that is made from the event.
    pub(super) pattern: String,
    /// The stream that the URL names.
    pub(super) stream: Option<String>,
    /// The JetStream domain, such as that of a leaf node.
    pub(super) domain: Option<String>,
    /// Of a stream that is not there yet.
    pub(super) replicas: usize,
    pub(super) servers: Vec<ServerAddr>,
    /// The servers' names, in the same order.
    pub(super) names: Vec<String>,
    pub(super) credentials: Credentials,
    pub(super) tls: Tls,
    /// Whether a server that speaks no TLS is none.
    pub(super) tls_required: bool,
}

impl SubjectAddress {
    pub(super) fn parse(url: &str) -> Result<Self, SinkUrlError> {
        let (address, others) = hosts::parse(url, ALLOWED)?;
        let parameters = address.parameters(&[
            "stream",
            "domain",
            "replicas",
            "creds",
            "nkey_file",
            "token_file",
            "password_file",
            "tls_ca",
            "tls_cert",
            "tls_key",
        ])?;
        let (subject, pattern) = subject(&address)?;
        let name = |parameter: &str| match parameters.text(parameter) {
            Some(name) if !is_name(name) => Err(address.wrong(format!(
                "`{parameter}` has characters besides letters, digits, `_`, `-`"
            ))),
            name => Ok(name.map(str::to_owned)),
        };
        let replicas = parameters.read("replicas", "a number from 1 to 5")?;
        if replicas.is_some_and(|replicas| !(1..=5).contains(&replicas)) {
            return Err(address.wrong("`replicas` is not a number from 1 to 5"));
        }
        let files = TlsFiles::of(
            parameters.text("tls_ca"),
            parameters.text("tls_cert"),
            parameters.text("tls_key"),
        )
        .ok_or_else(|| address.wrong("`tls_cert` and `tls_key` go together"))?;
        // Whoever names an authority does not want to send a password past it.
        let tls_required = address.scheme() == "nats+tls" || !files.is_empty();
        let mut servers = Vec::new();
        let mut names = Vec::new();
        for address in std::iter::once(&address).chain(&others) {
            let name = format!("{}:{}", address.authority(), address.port_or(4222));
            let scheme = if tls_required { "tls" } else { "nats" };
            let server = format!("{scheme}://{name}");
            servers.push(
                server
                    .parse()
                    .map_err(|_| address.wrong("its host is not usable"))?,
            );
            names.push(name);
        }
        Ok(Self {
            stream: name("stream")?,
            domain: name("domain")?,
            replicas: replicas.unwrap_or(1),
            servers,
            names,
            credentials: credentials(&address, &parameters)?,
            // Read even without TLS in the URL: the server may demand it.
            tls: Tls::new(files).map_err(|reason| address.wrong(reason))?,
            tls_required,
            subject,
            pattern,
        })
    }
}

fn subject(address: &Address) -> Result<(Route, String), SinkUrlError> {
    let subject = match address.path()?.as_slice() {
        [subject] => subject.clone(),
        [] => return Err(address.wrong("it names no subject")),
        _ => {
            return Err(
                address.wrong("its path is more than a subject, whose parts are separated by `.`")
            );
        }
    };
    let route = Route::parse(&subject, Encoding::TOKEN)
        .map_err(|error| address.wrong(error.to_string()))?;
    if !is_subject(&route.with_each("x")) {
        return Err(address.wrong(
            "the subject is none to publish to: parts separated by `.`, none of them empty, \
             without spaces, `*` and `>`",
        ));
    }
    // A subject has no control characters.
    const FIELD: &str = "\0";
    let named = route.with_each(FIELD);
    let parts = named.split('.');
    let parts: Vec<&str> = parts
        .map(|part| if part.contains(FIELD) { "*" } else { part })
        .collect();
    if parts.first() == Some(&"*") {
        return Err(address.wrong(
            "the first part of the subject has a field in it: a stream for it would take what is not the sink's",
        ));
    }
    Ok((route, parts.join(".")))
}

/// One way to say who the sink is, of those that the URL names.
fn credentials(
    address: &Address,
    parameters: &Parameters<'_>,
) -> Result<Credentials, SinkUrlError> {
    let file = |name: &str| {
        parameters
            .text(name)
            .map(Secret::in_file)
            .transpose()
            .map_err(|reason| address.wrong(reason))
    };
    let (user, password) = (address.user()?, address.password()?);
    match (
        (user, password),
        file("creds")?,
        file("nkey_file")?,
        file("token_file")?,
        file("password_file")?,
    ) {
        ((None, None), None, None, None, None) => Ok(Credentials::None),
        ((None, Some(_)), ..) => Err(address.wrong("it has a password and no user name")),
        ((Some(token), None), None, None, None, None) => {
            Ok(Credentials::Token(Secret::Given(token.into())))
        }
        ((Some(user), Some(password)), None, None, None, None) => Ok(Credentials::Password {
            user,
            password: Secret::Given(password),
        }),
        ((Some(user), None), None, None, None, Some(password)) => {
            Ok(Credentials::Password { user, password })
        }
        ((None, None), None, None, None, Some(_)) => {
            Err(address.wrong("`password_file` needs a user name"))
        }
        ((None, None), Some(file), None, None, None) => Ok(Credentials::File(file)),
        ((None, None), None, Some(seed), None, None) => Ok(Credentials::NKey(seed)),
        ((None, None), None, None, Some(token), None) => Ok(Credentials::Token(token)),
        _ => Err(address.wrong(
            "it says in more than one way who the sink is: a user or token, `creds`, `nkey_file`, \
             `token_file`, `password_file`",
        )),
    }
}

fn is_subject(text: &str) -> bool {
    text.split('.').all(|part| {
        !part.is_empty()
            && !part
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
    })
}

fn is_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_those_that_can_be_published_to() {
        for subject in ["events", "orders.events", "a-b_c.d"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", ".", "a.", "a..b", "a.*", "a.>", "a b", "a\n"] {
            assert!(!is_subject(subject), "{subject}");
        }
    }

    #[test]
    fn a_stream_takes_what_fields_stand_for() {
        for (subject, pattern) in [
            ("orders", "orders"),
            ("orders.{workflow_type}.v1-{event_type}", "orders.*.*"),
            ("%7B%7Bo%7D%7D.x", "{o}.x"),
        ] {
            let address = SubjectAddress::parse(&format!("nats://h/{subject}")).unwrap();
            assert_eq!(address.pattern, pattern);
        }
        for (subject, reason) in [
            ("{workflow_type}.events", "first part"),
            ("orders.{type}", "`{workflow_type}`"),
            ("orders..{event_type}", "none of them empty"),
        ] {
            let error = SubjectAddress::parse(&format!("nats://h/{subject}"))
                .err()
                .unwrap();
            assert!(error.reason.contains(reason), "{error}");
        }
    }

    #[test]
    fn servers_are_read() {
        let address =
            SubjectAddress::parse("nats://t@a,[::1]:7/orders?domain=edge&replicas=3").unwrap();
        assert_eq!(address.names, ["a:4222", "[::1]:7"]);
        assert_eq!(address.servers.len(), 2);
        assert_eq!(address.domain.as_deref(), Some("edge"));
        assert_eq!((address.replicas, address.tls_required), (3, false));
    }
}
