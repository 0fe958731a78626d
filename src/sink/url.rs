//! Which sink a URL names. Knows the schemes, and of each sink only how it is opened.

use super::{Sink, SinkUrlError};
use std::sync::Arc;

/// Opens the sink that `url` names, such as `nats://localhost:4222/events`. Connects to nothing yet.
///
/// # Errors
/// [`SinkUrlError`], saying what is wrong with the URL and what is allowed.
pub fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    Err(SinkUrlError {
        url: redacted(url),
        reason: "the scheme is not known".to_owned(),
        allowed: "no scheme: this build has no sink".to_owned(),
    })
}

/// A URL as it may be shown: user name, password and parameters are left out.
pub(crate) fn redacted(url: &str) -> String {
    let without_query = url.split(['?', '#']).next().unwrap_or_default();
    match without_query.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = match rest.find('/') {
                Some(slash) => rest.split_at(slash),
                None => (rest, ""),
            };
            match authority.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://***@{host}{path}"),
                None => format!("{scheme}://{authority}{path}"),
            }
        }
        // No authority part that a parser would see; a stray `@` may still follow a password.
        None => match without_query.rsplit_once('@') {
            Some((_, rest)) => format!("***@{rest}"),
            None => without_query.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(redacted("nats://u:p@h:1/s?token=t"), "nats://***@h:1/s");
        assert_eq!(redacted("u:p@h"), "***@h");
        assert_eq!(redacted("redis://h/s"), "redis://h/s");
    }
}
