//! The credentials that the environment has for a sink: those that its URL names, or else the ones for all, which go to
//! one host only and to nobody who could listen.

use super::{
    AuthProvider, ClientCredentials, FromFile, Scheme, SecretFile, Signer, StaticBearer,
    secret::Secret,
};
use crate::sink::{
    SinkUrlError,
    shared::http_client::{is_header_value, is_here},
};
use secrecy::SecretString;
use std::{collections::BTreeSet, path::Path, sync::Arc};
use url::Url;

/// The parameter of a sink's URL that names its credentials.
pub(in crate::sink) const AUTH: &str = "eventstore.auth";
/// Its value for no credentials at all.
const NONE: &str = "none";
/// What all variables begin with; a name of credentials follows, if they have one.
const PREFIX: &str = "EVENTSTORE_AUTH_";

const TOKEN: &str = "TOKEN";
const TOKEN_FILE: &str = "TOKEN_FILE";
const TOKEN_URL: &str = "TOKEN_URL";
const CLIENT_ID: &str = "CLIENT_ID";
const CLIENT_SECRET: &str = "CLIENT_SECRET";
const CLIENT_SECRET_FILE: &str = "CLIENT_SECRET_FILE";
const SCOPE: &str = "SCOPE";
const SIGNING_KEY: &str = "SIGNING_KEY";
const SIGNING_KEY_FILE: &str = "SIGNING_KEY_FILE";

/// Where credentials would go.
#[derive(Clone, Copy)]
pub(in crate::sink) struct Place<'a> {
    /// The sink's URL, for errors.
    pub(in crate::sink) text: &'a str,
    /// Whom the sink speaks to.
    pub(in crate::sink) receiver: &'a Url,
    /// What the sink's URL says in `eventstore.auth`.
    pub(in crate::sink) auth: Option<&'a str>,
    /// A file of certificates that the sink trusts.
    pub(in crate::sink) roots: Option<&'a Path>,
}

/// The provider that this process's environment has for a sink; none if it has none.
pub(in crate::sink) fn from_environment(
    place: Place<'_>,
) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
    from_variables(place, |name| std::env::var(name).ok())
}

fn from_variables(
    place: Place<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
    let prefix = match place.auth {
        Some(NONE) => return Ok(None),
        Some(name) => prefix_of(name).ok_or_else(|| {
            let allowed = format!(
                "`{AUTH}={NONE}`, or a name of up to {LONGEST_NAME} letters, digits, `-` and `_`"
            );
            SinkUrlError::new(place.text, format!("`{AUTH}` is no name"), allowed)
        })?,
        None => PREFIX.to_owned(),
    };
    let provider = read(place, &prefix, &variable)?;
    match (&provider, place.auth) {
        (None, Some(_)) if signing_keys(place, &prefix, &variable)?.is_some() => Ok(None),
        (None, Some(_)) => Err(SinkUrlError::new(
            place.text,
            format!("`{AUTH}` names credentials of which the environment has none"),
            allowed(&prefix),
        )),
        (Some(_), None) if place.receiver.scheme() == "http" && !is_here(place.receiver) => {
            Err(SinkUrlError::new(
                place.text,
                format!(
                    "the credentials for all sinks ({PREFIX}{TOKEN} and others) would go over plain \
                     HTTP to another machine"
                ),
                format!(
                    "`https:`, or a parameter of the URL: `{AUTH}=NAME` for credentials that are \
                     meant for it ({PREFIX}NAME_{TOKEN} and others), `{AUTH}={NONE}` for none"
                ),
            ))
        }
        _ => Ok(provider),
    }
}

/// What signs the requests to a receiver; none if the environment has no key for it. A key is of a sink: there is none for
/// all sinks.
pub(in crate::sink) fn signer(place: Place<'_>) -> Result<Option<Signer>, SinkUrlError> {
    let Some(prefix) = place.auth.and_then(prefix_of) else {
        return Ok(None);
    };
    signing_keys(place, &prefix, |name| std::env::var(name).ok())
}

fn signing_keys(
    place: Place<'_>,
    prefix: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Signer>, SinkUrlError> {
    let secret = secret_of(place, prefix, SIGNING_KEY, SIGNING_KEY_FILE, variable)?;
    let Some(secret) = secret else {
        return Ok(None);
    };
    let origin = match secret {
        Secret::Given(_) => format!("{prefix}{SIGNING_KEY}"),
        Secret::File(_) => format!("the file that {prefix}{SIGNING_KEY_FILE} names"),
    };
    let signer = Signer::new(secret, origin);
    match signer.check() {
        Ok(()) => Ok(Some(signer)),
        Err(reason) => Err(SinkUrlError::new(place.text, reason, allowed(prefix))),
    }
}

/// A secret that is in one variable, or in the file that another one names.
fn secret_of(
    place: Place<'_>,
    prefix: &str,
    given: &str,
    file: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, SinkUrlError> {
    let read = |name: &str| variable(&format!("{prefix}{name}")).filter(|value| !value.is_empty());
    match (read(given), read(file)) {
        (Some(_), Some(_)) => Err(SinkUrlError::new(
            place.text,
            format!("{prefix}{given} is set together with {prefix}{file}"),
            allowed(prefix),
        )),
        (Some(given), None) => Ok(Some(Secret::Given(SecretString::from(given)))),
        (None, Some(file)) => Ok(Some(Secret::File(SecretFile::new(file)))),
        (None, None) => Ok(None),
    }
}

/// The longest name of credentials.
const LONGEST_NAME: usize = 40;

/// What the variables of named credentials begin with; none if it is no name.
fn prefix_of(name: &str) -> Option<String> {
    let is_name = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    is_name.then(|| format!("{PREFIX}{}_", name.to_ascii_uppercase().replace('-', "_")))
}

/// What is allowed, for error messages.
fn allowed(prefix: &str) -> String {
    format!(
        "{prefix}{TOKEN} or {prefix}{TOKEN_FILE} alone, or {prefix}{TOKEN_URL} with {prefix}{CLIENT_ID} and \
         {prefix}{CLIENT_SECRET} or {prefix}{CLIENT_SECRET_FILE}, and perhaps {prefix}{SCOPE}; with a name, also \
         {SIGNING_KEY} or {SIGNING_KEY_FILE} alone or beside them"
    )
}

fn read(
    place: Place<'_>,
    prefix: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
    let read = |name: &str| variable(&format!("{prefix}{name}")).filter(|value| !value.is_empty());
    let wrong = |reason: String| SinkUrlError::new(place.text, reason, allowed(prefix));
    let token = secret_of(place, prefix, TOKEN, TOKEN_FILE, &variable)?;
    let secret = secret_of(place, prefix, CLIENT_SECRET, CLIENT_SECRET_FILE, &variable)?;
    match (token, read(TOKEN_URL), read(CLIENT_ID), secret, read(SCOPE)) {
        (None, None, None, None, None) => Ok(None),
        (Some(Secret::Given(token)), None, None, None, None) => {
            let bearer = StaticBearer::new(secrecy::ExposeSecret::expose_secret(&token));
            if !is_header_value(bearer.header.secret_value()) {
                return Err(wrong(format!("{prefix}{TOKEN} does not fit into a header")));
            }
            Ok(Some(Arc::new(bearer)))
        }
        (Some(Secret::File(file)), None, None, None, None) => {
            Ok(Some(Arc::new(FromFile::new(file, Scheme::Bearer))))
        }
        (None, Some(token_url), Some(id), Some(secret), scope) => {
            let provider = ClientCredentials::with_secret(&token_url, id, secret, place.roots)?;
            Ok(Some(match scope {
                Some(scope) => Arc::new(provider.scope(scope)),
                None => Arc::new(provider),
            }))
        }
        (Some(_), ..) => Err(wrong(format!(
            "{prefix}{TOKEN} is set together with client credentials"
        ))),
        (None, token_url, id, secret, _) => {
            let missing: Vec<String> = [
                (TOKEN_URL, token_url.is_none()),
                (CLIENT_ID, id.is_none()),
                (CLIENT_SECRET, secret.is_none()),
            ]
            .into_iter()
            .filter(|(_, missing)| *missing)
            .map(|(name, _)| format!("{prefix}{name}"))
            .collect();
            Err(wrong(format!("{} is not set", missing.join(" and "))))
        }
    }
}

/// Checks that the credentials for all sinks would not go to several hosts. `urls` are those of the sinks that such
/// credentials are for.
pub(in crate::sink) fn check_together(urls: &[&str]) -> Result<(), SinkUrlError> {
    check_together_with(urls, |name| std::env::var(name).ok())
}

fn check_together_with(
    urls: &[&str],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(), SinkUrlError> {
    let is_set = [
        TOKEN,
        TOKEN_FILE,
        TOKEN_URL,
        CLIENT_ID,
        CLIENT_SECRET,
        CLIENT_SECRET_FILE,
        SCOPE,
    ]
    .into_iter()
    .find(|name| variable(&format!("{PREFIX}{name}")).is_some_and(|value| !value.is_empty()));
    let Some(variable) = is_set else {
        return Ok(());
    };
    let parsed: Vec<(&str, Url)> = urls
        .iter()
        .filter_map(|text| Some((*text, Url::parse(text).ok()?)))
        .collect();
    let hosts: BTreeSet<&str> = parsed
        .iter()
        .filter_map(|(_, url)| url.host_str())
        .collect();
    let takes_them = |url: &Url| {
        let has_own = url.query_pairs().any(|(name, _)| name == AUTH);
        !has_own && url.username().is_empty() && url.password().is_none()
    };
    match parsed.iter().find(|(_, url)| takes_them(url)) {
        Some((text, _)) if hosts.len() > 1 => Err(SinkUrlError::new(
            text,
            format!(
                "{PREFIX}{variable} is for one host, and the sinks are at {}",
                hosts.into_iter().collect::<Vec<_>>().join(", ")
            ),
            format!(
                "in each URL `{AUTH}=NAME`, for the credentials in {PREFIX}NAME_{TOKEN} and others, or \
                 `{AUTH}={NONE}`"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn lookup(variables: Variables<'_>) -> impl Fn(&str) -> Option<String> {
        move |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        }
    }

    fn read_at(
        receiver: &str,
        auth: Option<&str>,
        variables: Variables<'_>,
    ) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
        let place = Place {
            text: receiver,
            receiver: &Url::parse(receiver).unwrap(),
            auth,
            roots: None,
        };
        from_variables(place, lookup(variables))
    }

    fn read(variables: Variables<'_>) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
        read_at("https://events.example.org", None, variables)
    }

    async fn header(provider: &dyn AuthProvider) -> String {
        let headers = provider.headers().await.unwrap();
        assert_eq!(headers[0].name(), "Authorization");
        assert!(!format!("{provider:?} {headers:?}").contains("hunter2"));
        headers[0].secret_value().to_owned()
    }

    #[test]
    fn nothing_set_is_no_provider() {
        assert!(read(&[("EVENTSTORE_AUTH_TOKEN", "")]).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_token_is_a_bearer_token() {
        let provider = read(&[("EVENTSTORE_AUTH_TOKEN", "hunter2")])
            .unwrap()
            .unwrap();
        assert_eq!(header(&*provider).await, "Bearer hunter2");
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let file_name = file.to_str().unwrap();
        let provider = read(&[("EVENTSTORE_AUTH_TOKEN_FILE", file_name)]);
        let provider = provider.unwrap().unwrap();
        let error = provider.headers().await.unwrap_err();
        assert!(error.reason().contains(file_name), "{error}");
        for token in ["hunter2", "hunter2-new"] {
            std::fs::write(&file, format!("{token}\n")).unwrap();
            assert_eq!(header(&*provider).await, format!("Bearer {token}"));
        }
        // What seems to be the same file is read again after a 401.
        provider.renew(&[]).await;
        assert_eq!(header(&*provider).await, "Bearer hunter2-new");
        std::fs::write(&file, "hunter2\nhunter2").unwrap();
        let error = provider.headers().await.unwrap_err();
        assert!(error.reason().contains("does not fit"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[tokio::test]
    async fn named_credentials_are_those_of_the_sink() {
        let variables: Variables<'_> = &[
            ("EVENTSTORE_AUTH_TOKEN", "hunter2-of-all"),
            ("EVENTSTORE_AUTH_PARTNER_A_TOKEN", "hunter2-of-a"),
        ];
        let read = |auth| read_at("http://events.example.org", auth, variables);
        let provider = read(Some("partner-a")).unwrap().unwrap();
        assert_eq!(header(&*provider).await, "Bearer hunter2-of-a");
        assert!(read(Some("none")).unwrap().is_none());
        let error = read(Some("partner-b")).unwrap_err();
        assert!(
            error.allowed.contains("EVENTSTORE_AUTH_PARTNER_B_TOKEN"),
            "{error}"
        );
        for name in ["", "1a", "a b", "ä", &"x".repeat(41)] {
            let error = read(Some(name)).unwrap_err();
            assert!(error.reason.contains("is no name"), "{error}");
        }
    }

    #[test]
    fn those_for_all_go_over_plain_http_to_this_machine_only() {
        let variables: Variables<'_> = &[("EVENTSTORE_AUTH_TOKEN", "hunter2")];
        for here in [
            "http://localhost:1/",
            "http://127.0.0.2/",
            "http://[::1]:7/",
        ] {
            assert!(read_at(here, None, variables).unwrap().is_some(), "{here}");
        }
        for elsewhere in ["http://events.example.org/", "http://10.0.0.1/"] {
            let error = read_at(elsewhere, None, variables).unwrap_err();
            let text = format!("{error} {error:?}");
            for words in ["plain HTTP", "eventstore.auth=NAME", "eventstore.auth=none"] {
                assert!(text.contains(words), "{text}");
            }
            assert!(!text.contains("hunter2"), "{text}");
            assert!(read_at(elsewhere, None, &[]).unwrap().is_none());
        }
    }

    #[test]
    fn those_for_all_are_for_one_host() {
        let variables: Variables<'_> = &[("EVENTSTORE_AUTH_CLIENT_SECRET", "hunter2")];
        let check = |urls: &[&str]| check_together_with(urls, lookup(variables));
        check(&["https://a/x", "https://a:8443/y"]).unwrap();
        let error = check(&["https://a/x", "https://b/y"]).unwrap_err();
        let text = format!("{error} {error:?}");
        for words in [
            "EVENTSTORE_AUTH_CLIENT_SECRET",
            "a, b",
            "eventstore.auth=NAME",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        // One that has its own is a host, too.
        check(&["https://a/x", "https://b/y?eventstore.auth=partner"]).unwrap_err();
        check(&["https://a/x", "dapr+binding://localhost/y"]).unwrap_err();
        check(&["https://a/?eventstore.auth=a", "https://u:p@b/y"]).unwrap();
        check_together_with(&["https://a/x", "https://b/y"], lookup(&[])).unwrap();
    }

    #[test]
    fn client_credentials_are_read_and_not_shown() {
        let provider = read(&[
            (
                "EVENTSTORE_AUTH_TOKEN_URL",
                "https://login.example.org/token?tenant=hunter1",
            ),
            ("EVENTSTORE_AUTH_CLIENT_ID", "hunter2"),
            ("EVENTSTORE_AUTH_CLIENT_SECRET", "hunter3"),
            ("EVENTSTORE_AUTH_SCOPE", "events"),
        ])
        .unwrap()
        .unwrap();
        let shown = format!("{provider:?}");
        assert!(shown.contains("login.example.org"), "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn what_is_missing_or_too_much_is_named_without_its_value() {
        const TOKEN: &str = "EVENTSTORE_AUTH_TOKEN";
        const TOKEN_FILE: &str = "EVENTSTORE_AUTH_TOKEN_FILE";
        const TOKEN_URL: &str = "EVENTSTORE_AUTH_TOKEN_URL";
        const CLIENT_ID: &str = "EVENTSTORE_AUTH_CLIENT_ID";
        const CLIENT_SECRET: &str = "EVENTSTORE_AUTH_CLIENT_SECRET";
        const SCOPE: &str = "EVENTSTORE_AUTH_SCOPE";
        for (variables, named) in [
            (
                vec![
                    (TOKEN_URL, "https://login.example.org"),
                    (CLIENT_SECRET, "hunter2"),
                ],
                CLIENT_ID,
            ),
            (vec![(CLIENT_ID, "hunter2")], TOKEN_URL),
            (vec![(SCOPE, "hunter2")], CLIENT_SECRET),
            (vec![(TOKEN, "hunter2"), (CLIENT_ID, "hunter2")], TOKEN),
            (
                vec![(TOKEN, "hunter2"), (TOKEN_FILE, "hunter2")],
                TOKEN_FILE,
            ),
            (vec![(TOKEN, "hunter2\n")], TOKEN),
            (
                vec![
                    (TOKEN_URL, "https://hunter2:hunter2@login.example.org"),
                    (CLIENT_ID, "hunter2"),
                    (CLIENT_SECRET, "hunter2"),
                ],
                "user name",
            ),
        ] {
            let error = read(&variables).unwrap_err();
            assert!(error.reason.contains(named), "{error}");
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn the_table_of_schemes_knows_every_variable() {
        for name in [
            TOKEN,
            TOKEN_FILE,
            TOKEN_URL,
            CLIENT_ID,
            CLIENT_SECRET,
            CLIENT_SECRET_FILE,
            SCOPE,
        ] {
            assert!(
                crate::sink::is_variable(&format!("{PREFIX}{name}")),
                "{name}"
            );
            let of_one = prefix_of("partner-a").unwrap();
            assert!(
                crate::sink::is_variable(&format!("{of_one}{name}")),
                "{name}"
            );
        }
        for name in [SIGNING_KEY, SIGNING_KEY_FILE] {
            assert!(
                !crate::sink::is_variable(&format!("{PREFIX}{name}")),
                "{name}"
            );
            assert!(
                crate::sink::is_variable(&format!("{PREFIX}A_{name}")),
                "{name}"
            );
        }
        for name in [
            "EVENTSTORE_AUTH_",
            "EVENTSTORE_AUTH__TOKEN",
            "EVENTSTORE_AUTH_A_TOKN",
        ] {
            assert!(!crate::sink::is_variable(name), "{name}");
        }
    }
}
