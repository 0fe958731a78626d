//! How the sink says who it is. Files are read again for each connection. Shows no secret.

use crate::sink::shared::auth::secret::Secret;
use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use secrecy::ExposeSecret as _;

/// Who the sink is.
#[derive(Clone)]
pub(super) enum Credentials {
    None,
    Token(Secret),
    Password {
        user: String,
        password: Secret,
    },
    /// The seed of an nkey.
    NKey(Secret),
    /// A file with a JWT and the seed that belongs to it, as `nsc` writes them.
    File(Secret),
}

impl Credentials {
    /// What the server is told; `nonce` is what it wants to see signed.
    pub(super) async fn auth(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::Token(token) => auth.token = Some(text_of(token).await?),
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(text_of(password).await?);
            }
            Self::NKey(seed) => {
                let key = key_of(&text_of(seed).await?)?;
                auth.nkey = Some(key.public_key());
                auth.signature = Some(signed(&key, nonce)?);
            }
            Self::File(file) => {
                let text = text_of(file).await?;
                let jwt = block(&text, "NATS USER JWT")
                    .ok_or_else(|| AuthError::new("the file of `creds` holds no user's JWT"))?;
                let seed = block(&text, "USER NKEY SEED")
                    .ok_or_else(|| AuthError::new("the file of `creds` holds no user's seed"))?;
                auth.signature = Some(signed(&key_of(seed)?, nonce)?);
                auth.jwt = Some(jwt.to_owned());
            }
        }
        Ok(auth)
    }
}

async fn text_of(secret: &Secret) -> Result<String, AuthError> {
    match secret.read().await {
        Ok(secret) => Ok(secret.expose_secret().to_owned()),
        Err(error) => Err(AuthError::new(error.reason())),
    }
}

fn key_of(seed: &str) -> Result<KeyPair, AuthError> {
    KeyPair::from_seed(seed.trim()).map_err(|_| AuthError::new("the seed is none of an nkey"))
}

fn signed(key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, AuthError> {
    key.sign(nonce)
        .map_err(|_| AuthError::new("the key does not sign"))
}

/// The line below `-----BEGIN TITLE-----`.
fn block<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("BEGIN {title}"))?;
    rest.lines().nth(1).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;

    #[tokio::test]
    async fn a_credentials_file_is_a_jwt_and_a_signature() {
        let key = KeyPair::new_user();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\neyJ.x.y\n------END NATS USER JWT------\n\n\
             *** IMPORTANT ***\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            key.seed().unwrap()
        );
        let given = |text: &str| Secret::Given(SecretString::from(text.to_owned()));
        let auth = Credentials::File(given(&text))
            .auth(b"nonce")
            .await
            .unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("eyJ.x.y"));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        for wrong in ["", "hunter2", &text[..60]] {
            let error = Credentials::File(given(wrong)).auth(b"nonce").await;
            assert!(!error.err().unwrap().to_string().contains("hunter2"));
        }
    }
}
