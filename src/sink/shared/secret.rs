//! A password, token or key: as it stands in a URL, or in a file that is read at each use, so that it can change under a
//! running program. Shows no secret.

use crate::sink::SinkError;
use secrecy::SecretString;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Where a secret is.
#[derive(Clone, Debug)]
pub(in crate::sink) enum Secret {
    Given(SecretString),
    File(PathBuf),
}

impl Secret {
    /// The secret in a file, which has to be there already: a path that is wrong would be an outage without an end.
    pub(in crate::sink) fn in_file(path: &str) -> Result<Self, String> {
        let path = PathBuf::from(path);
        read(&path).map_err(|error| unreadable(&path, &error))?;
        Ok(Self::File(path))
    }

    /// The secret as it is now.
    pub(in crate::sink) async fn now(&self) -> Result<SecretString, SinkError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.now_blocking())
            .await
            .unwrap_or_else(|_| Err(SinkError::new("a secret was not read")))
    }

    /// The same, for a thread that may wait.
    pub(in crate::sink) fn now_blocking(&self) -> Result<SecretString, SinkError> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(path) => read(path)
                .map_err(|error| SinkError::new(unreadable(path, &error)).with_source(error)),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("the file {} cannot be read: {error}", path.display())
}

/// What a file holds, without the end of its line, which editors add.
fn read(path: &Path) -> io::Result<SecretString> {
    let text = std::fs::read_to_string(path)?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[tokio::test]
    async fn a_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let text = path.display().to_string();
        assert!(Secret::in_file(&text).unwrap_err().contains("password"));
        std::fs::write(&path, "\n").unwrap();
        assert!(Secret::in_file(&text).unwrap_err().contains("empty"));
        std::fs::write(&path, " hunter2\r\n").unwrap();
        let secret = Secret::in_file(&text).unwrap();
        assert_eq!(secret.now().await.unwrap().expose_secret(), " hunter2");
        std::fs::write(&path, "hunter3").unwrap();
        assert_eq!(secret.now().await.unwrap().expose_secret(), "hunter3");
        std::fs::remove_file(&path).unwrap();
        assert!(secret.now().await.unwrap_err().reason().contains(&text));
        let given = Secret::Given(SecretString::from("hunter2"));
        assert!(!format!("{given:?}").contains("hunter2"));
    }
}
