//! The token of OAUTHBEARER, from a file that is read again when it is about to end. Shows nothing of it.

use crate::sink::shared::auth::secret::Secret;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rdkafka::client::OAuthToken;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::{
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// When a token that does not say how long it is good is read again.
const READ_AGAIN: Duration = Duration::from_secs(5 * 60);

/// The token as it is now.
pub(super) fn of(file: Option<&Secret>) -> Result<OAuthToken, Box<dyn Error>> {
    let token = file
        .ok_or("the URL names no `token_file`")?
        .read_blocking()?;
    let token = token.expose_secret();
    let claims = claims(token).unwrap_or_default();
    let end = claims.get("exp").and_then(Value::as_i64).map_or_else(
        || milliseconds(SystemTime::now() + READ_AGAIN),
        |seconds| seconds.saturating_mul(1000),
    );
    Ok(OAuthToken {
        token: token.to_owned(),
        principal_name: claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        lifetime_ms: end,
    })
}

/// What a JSON Web Token says, unchecked: that is for the broker. None if it is another kind of token.
fn claims(token: &str) -> Option<Value> {
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn milliseconds(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_for_how_long() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"orders","exp":1900000000}"#);
        let token = of(Some(&Secret::Given(format!("e.{claims}.s").into()))).unwrap();
        assert_eq!(token.principal_name, "orders");
        assert_eq!(token.lifetime_ms, 1_900_000_000_000);
        let opaque = of(Some(&Secret::Given("opaque".into()))).unwrap();
        assert!(opaque.lifetime_ms > milliseconds(SystemTime::now()));
        assert!(of(None).is_err());
    }
}
