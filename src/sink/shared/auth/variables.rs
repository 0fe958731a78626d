//! The provider that the environment names.

use super::{AuthProvider, ClientCredentials, StaticBearer};
use crate::sink::{SinkUrlError, shared::http_client::is_header_value};
use std::sync::Arc;

const TOKEN: &str = "EVENTSTORE_AUTH_TOKEN";
const TOKEN_URL: &str = "EVENTSTORE_AUTH_TOKEN_URL";
const CLIENT_ID: &str = "EVENTSTORE_AUTH_CLIENT_ID";
const CLIENT_SECRET: &str = "EVENTSTORE_AUTH_CLIENT_SECRET";
const SCOPE: &str = "EVENTSTORE_AUTH_SCOPE";

/// What is allowed, for error messages.
const ALLOWED: &str = "EVENTSTORE_AUTH_TOKEN alone, or EVENTSTORE_AUTH_TOKEN_URL with \
     EVENTSTORE_AUTH_CLIENT_ID and EVENTSTORE_AUTH_CLIENT_SECRET and perhaps EVENTSTORE_AUTH_SCOPE";

/// The provider that this process's environment names for the sink at `url`; none if it names none.
pub(in crate::sink) fn from_environment(
    url: &str,
) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
    from_variables(url, |name| std::env::var(name).ok())
}

fn from_variables(
    url: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
    let read = |name: &str| variable(name).filter(|value| !value.is_empty());
    let wrong = |reason: &str| SinkUrlError::new(url, reason, ALLOWED);
    match (
        read(TOKEN),
        read(TOKEN_URL),
        read(CLIENT_ID),
        read(CLIENT_SECRET),
        read(SCOPE),
    ) {
        (None, None, None, None, None) => Ok(None),
        (Some(token), None, None, None, None) => {
            if !is_header_value(&token) {
                return Err(wrong("EVENTSTORE_AUTH_TOKEN does not fit into a header"));
            }
            Ok(Some(Arc::new(StaticBearer::new(token))))
        }
        (None, Some(token_url), Some(id), Some(secret), scope) => {
            let provider = ClientCredentials::new(&token_url, id, secret)?;
            Ok(Some(match scope {
                Some(scope) => Arc::new(provider.scope(scope)),
                None => Arc::new(provider),
            }))
        }
        (Some(_), ..) => Err(wrong(
            "EVENTSTORE_AUTH_TOKEN is set together with client credentials",
        )),
        (None, token_url, id, secret, _) => {
            let missing: Vec<&str> = [
                (TOKEN_URL, token_url.is_none()),
                (CLIENT_ID, id.is_none()),
                (CLIENT_SECRET, secret.is_none()),
            ]
            .into_iter()
            .filter_map(|(name, missing)| missing.then_some(name))
            .collect();
            Err(wrong(&format!("{} is not set", missing.join(" and "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Arc<dyn AuthProvider>>, SinkUrlError> {
        from_variables("https://events.example.org", |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_no_provider() {
        assert!(read(&[(TOKEN, "")]).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_token_is_a_bearer_token() {
        let provider = read(&[(TOKEN, "hunter2")]).unwrap().unwrap();
        let headers = provider.headers().await.unwrap();
        assert_eq!(headers[0].name(), "Authorization");
        assert_eq!(headers[0].secret_value(), "Bearer hunter2");
        assert!(!format!("{provider:?} {headers:?}").contains("hunter2"));
    }

    #[test]
    fn client_credentials_are_read_and_not_shown() {
        let provider = read(&[
            (TOKEN_URL, "https://login.example.org/token?tenant=hunter1"),
            (CLIENT_ID, "hunter2"),
            (CLIENT_SECRET, "hunter3"),
            (SCOPE, "events"),
        ])
        .unwrap()
        .unwrap();
        let shown = format!("{provider:?}");
        assert!(shown.contains("login.example.org"), "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn what_is_missing_or_too_much_is_named_without_its_value() {
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
    fn the_table_of_schemes_names_every_variable() {
        for name in [TOKEN, TOKEN_URL, CLIENT_ID, CLIENT_SECRET, SCOPE] {
            assert!(crate::sink::variables().contains(&name), "{name}");
        }
    }
}
