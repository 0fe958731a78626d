//! The pieces of a sink's URL, and the errors that say which piece is wrong. Nothing here shows a
//! user name, a password or a parameter's value that could be one.

use crate::sink::{SinkUrlError, redacted};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use std::str::FromStr;

/// A URL of the form `scheme://[user[:password]@]host[:port]/path?parameters`.
pub(in crate::sink) struct Address {
    url: url::Url,
    shown: String,
    allowed: &'static str,
}

impl Address {
    /// Reads `url`; `allowed` goes into every error.
    pub(in crate::sink) fn parse(url: &str, allowed: &'static str) -> Result<Self, SinkUrlError> {
        let address = Self::parse_any(url, allowed)?;
        match address.authority() {
            "" => Err(address.wrong("it names no host")),
            hosts if hosts.contains(',') => Err(address.wrong("it names more than one host")),
            _ => Ok(address),
        }
    }

    /// The same for a URL without a host: `scheme:///path`.
    pub(in crate::sink) fn parse_without_host(
        url: &str,
        allowed: &'static str,
    ) -> Result<Self, SinkUrlError> {
        let address = Self::parse_any(url, allowed)?;
        match address.authority() {
            "" => Ok(address),
            _ => Err(address.wrong("it names a host; its path begins after three slashes")),
        }
    }

    fn parse_any(url: &str, allowed: &'static str) -> Result<Self, SinkUrlError> {
        let wrong = |reason: String| SinkUrlError::new(url, reason, allowed);
        let parsed = url::Url::parse(url).map_err(|error| {
            wrong(format!(
                "{error} (a user name or password with one of `/?#@:%` in it is percent-encoded)"
            ))
        })?;
        if parsed.fragment().is_some() {
            return Err(wrong(
                "it has a part after `#`, which means nothing here".to_owned(),
            ));
        }
        Ok(Self {
            shown: redacted(url),
            url: parsed,
            allowed,
        })
    }

    /// An error about this URL.
    pub(in crate::sink) fn wrong(&self, reason: impl Into<String>) -> SinkUrlError {
        SinkUrlError {
            url: self.shown.clone(),
            reason: reason.into(),
            allowed: self.allowed.to_owned(),
        }
    }

    pub(in crate::sink) fn scheme(&self) -> &str {
        self.url.scheme()
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub(in crate::sink) fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        host.trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned()
    }

    /// The host as it stands in a URL: an IPv6 address in brackets.
    pub(in crate::sink) fn authority(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    pub(in crate::sink) fn port_or(&self, default: u16) -> u16 {
        self.url.port().unwrap_or(default)
    }

    /// The user name, where there is one.
    pub(in crate::sink) fn user(&self) -> Result<Option<String>, SinkUrlError> {
        match self.url.username() {
            "" => Ok(None),
            user => self.decoded("the user name", user).map(Some),
        }
    }

    /// The password, where there is one.
    pub(in crate::sink) fn password(&self) -> Result<Option<SecretString>, SinkUrlError> {
        self.url
            .password()
            .map(|password| {
                self.decoded("the password", password)
                    .map(SecretString::from)
            })
            .transpose()
    }

    /// The segments of the path, none for no path or `/`.
    pub(in crate::sink) fn path(&self) -> Result<Vec<String>, SinkUrlError> {
        let path = self.url.path().trim_start_matches('/');
        if path.is_empty() {
            return Ok(Vec::new());
        }
        path.split('/')
            .map(|segment| self.decoded("the path", segment))
            .collect()
    }

    /// The parameters, each of which has to be among `known` and may be there once.
    pub(in crate::sink) fn parameters(
        &self,
        known: &[&str],
    ) -> Result<Parameters<'_>, SinkUrlError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in self.url.query_pairs() {
            // What is no parameter's name may be the rest of a password: it is not shown.
            if !known.contains(&name.as_ref()) {
                return Err(self.wrong(if known.is_empty() {
                    "it takes no parameters".to_owned()
                } else {
                    format!(
                        "it has an unknown parameter; known are `{}`",
                        known.join("`, `")
                    )
                }));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(self.wrong(format!("the parameter `{name}` is there twice")));
            }
            if value.is_empty() {
                return Err(self.wrong(format!("the parameter `{name}` is empty")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Parameters {
            address: self,
            pairs,
        })
    }

    fn decoded(&self, what: &str, text: &str) -> Result<String, SinkUrlError> {
        let decoded = percent_decode_str(text)
            .decode_utf8()
            .map_err(|_| self.wrong(format!("{what} is not UTF-8 when percent-decoded")))?;
        if decoded.contains('\0') {
            return Err(self.wrong(format!("{what} contains a NUL character")));
        }
        Ok(decoded.into_owned())
    }
}

/// A URL's parameters.
pub(in crate::sink) struct Parameters<'a> {
    address: &'a Address,
    pairs: Vec<(String, String)>,
}

impl Parameters<'_> {
    pub(in crate::sink) fn text(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// A parameter that is read from text; `kind` says what it has to be.
    pub(in crate::sink) fn read<T: FromStr>(
        &self,
        name: &str,
        kind: &str,
    ) -> Result<Option<T>, SinkUrlError> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| self.address.wrong(format!("`{name}` is not {kind}")))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn pieces_are_percent_decoded() {
        let address = Address::parse("x://u%40:p%2Fw%3F@[::1]:7/a%20b/c?k=v%26w", "x").unwrap();
        assert_eq!(address.user().unwrap().as_deref(), Some("u@"));
        assert_eq!(address.password().unwrap().unwrap().expose_secret(), "p/w?");
        assert_eq!((address.host().as_str(), address.port_or(1)), ("::1", 7));
        assert_eq!(address.path().unwrap(), ["a b", "c"]);
        assert_eq!(address.parameters(&["k"]).unwrap().text("k"), Some("v&w"));
    }

    #[test]
    fn errors_name_what_is_wrong_and_no_secret() {
        for (url, reason) in [
            ("x:///p", "no host"),
            ("x://u:hunter2@a,b/p", "more than one host"),
            ("x://u:hunter2@/p", "host"),
            ("x://u:hunter2@h:99999/p", "port"),
            ("x://u:hun/ter2@h/p", "percent-encoded"),
            ("x://u:hunter2@h/p#x", "#"),
            ("x://u:hunter2@h/p?hunter2=1", "unknown parameter"),
            ("x://u:hunter2@h/p?k=1&k=2", "twice"),
            ("x://u:hunter2@h/p?k=", "empty"),
            ("x://u:%ff@h/p", "UTF-8"),
        ] {
            let error = Address::parse(url, "x")
                .and_then(|address| {
                    address.password()?;
                    address.parameters(&["k"]).map(|_| ())
                })
                .unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(reason), "{url}: {text}");
            for secret in ["hunter2", "hun", "ter2"] {
                assert!(!text.contains(secret), "{url}: {text}");
            }
        }
    }
}
