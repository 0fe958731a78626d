//! Signatures of what is sent, as Standard Webhooks 1.0 has them: a receiver knows who sent it, and that nobody changed
//! it. Knows nothing of events.

use super::secret::Secret;
use crate::sink::SinkError;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;
use secrecy::ExposeSecret as _;
use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// What a key begins with; it may be left out.
const KEY_PREFIX: &str = "whsec_";
/// The bounds of a key, as the standard has them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// How many keys may be valid at once.
const MOST_KEYS: usize = 4;

/// Signs requests with one key, or with several while they are changed.
pub(in crate::sink) struct Signer {
    keys: Secret,
    /// Where the keys come from, for errors.
    origin: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer with the keys that `keys` holds, with white space between them: the one that is to be used from now on, and
    /// the ones before it.
    pub(in crate::sink) fn new(keys: Secret, origin: String) -> Self {
        Self { keys, origin }
    }

    /// Checks keys that are given at once; those of a file are read later.
    pub(in crate::sink) fn check(&self) -> Result<(), String> {
        match &self.keys {
            Secret::Given(keys) => self.parsed(keys.expose_secret()).map(drop),
            Secret::File(_) => Ok(()),
        }
    }

    /// Returns the headers that sign a body as the message `id`, now.
    pub(in crate::sink) async fn headers(
        &self,
        id: &str,
        body: &[u8],
    ) -> Result<[(&'static str, String); 3], SinkError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.headers_at(id, now.unwrap_or_default().as_secs(), body)
            .await
    }

    async fn headers_at(
        &self,
        id: &str,
        timestamp: u64,
        body: &[u8],
    ) -> Result<[(&'static str, String); 3], SinkError> {
        let keys = self.keys.read().await?;
        let keys = self.parsed(keys.expose_secret()).map_err(SinkError::new)?;
        let timestamp = timestamp.to_string();
        let signatures: Vec<String> = keys
            .iter()
            .map(|key| {
                let mut signing = hmac::Context::with_key(key);
                for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                    signing.update(part);
                }
                format!("v1,{}", BASE64_STANDARD.encode(signing.sign()))
            })
            .collect();
        Ok([
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signatures.join(" ")),
        ])
    }

    fn parsed(&self, keys: &str) -> Result<Vec<hmac::Key>, String> {
        let wrong = || {
            format!(
                "{} holds no signing keys: 1 to {MOST_KEYS} of `{KEY_PREFIX}` and {} to {} bytes in \
                 Base64, with spaces between them",
                self.origin,
                KEY_BYTES.start(),
                KEY_BYTES.end()
            )
        };
        let parsed: Option<Vec<hmac::Key>> = keys
            .split_whitespace()
            .map(|key| {
                let key = BASE64_STANDARD.decode(key.strip_prefix(KEY_PREFIX).unwrap_or(key));
                let key = key.ok().filter(|key| KEY_BYTES.contains(&key.len()))?;
                Some(hmac::Key::new(hmac::HMAC_SHA256, &key))
            })
            .collect();
        parsed
            .filter(|keys| (1..=MOST_KEYS).contains(&keys.len()))
            .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;

    fn signer(keys: &str) -> Signer {
        let keys = Secret::Given(SecretString::from(keys.to_owned()));
        Signer::new(keys, "THE_VARIABLE".to_owned())
    }

    /// The example of the standard's libraries.
    #[tokio::test]
    async fn a_signature_is_that_of_the_standard() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let headers = signer(key)
            .headers_at(id, 1_614_265_330, body)
            .await
            .unwrap();
        assert_eq!(headers[0], ("webhook-id", id.to_owned()));
        assert_eq!(headers[1].1, "1614265330");
        assert_eq!(headers[2].1, signed);
        // While keys are changed, each of them signs.
        let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
        let both = signer(&format!("{other} {key}"));
        let headers = both.headers_at(id, 1_614_265_330, body).await.unwrap();
        assert_eq!(headers[2].1.split(' ').count(), 2);
        assert!(headers[2].1.ends_with(signed));
    }

    #[test]
    fn what_is_no_key_is_an_error_that_does_not_show_it() {
        let many = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; 5].join(" ");
        for keys in ["", "hunter2", "whsec_hunter2", "whsec_aHVudGVyMg==", &many] {
            let error = signer(keys).check().unwrap_err();
            assert!(error.contains("THE_VARIABLE"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", signer("hunter2")).contains("hunter2"));
    }
}
