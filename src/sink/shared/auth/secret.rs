//! A secret that is given, or that stands in a file and is read again when the file changes. Knows nothing of headers.

use crate::sink::SinkError;
use secrecy::SecretString;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// The most that a file with a secret may hold.
const MOST_BYTES: u64 = 64 * 1024;

/// A secret, wherever it comes from.
#[derive(Clone, Debug)]
pub(in crate::sink) enum Secret {
    Given(SecretString),
    File(SecretFile),
}

impl Secret {
    /// Returns the secret in a file, which has to be there already: a path that is wrong would be an outage without an
    /// end.
    pub(in crate::sink) fn in_file(path: &str) -> Result<Self, String> {
        let file = SecretFile::new(path);
        file.read_blocking()
            .map_err(|error| file.failed(error).reason().to_owned())?;
        Ok(Self::File(file))
    }

    /// Returns the secret as it is now.
    pub(in crate::sink) async fn read(&self) -> Result<SecretString, SinkError> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(file) => file.read().await,
        }
    }

    /// Returns the same, for a thread that may wait.
    pub(in crate::sink) fn read_blocking(&self) -> Result<SecretString, SinkError> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(file) => file.read_blocking().map_err(|error| file.failed(error)),
        }
    }
}

/// A file that holds a secret and nothing else, but for white space around it.
#[derive(Clone)]
pub(in crate::sink) struct SecretFile {
    path: PathBuf,
    last: Arc<Mutex<Option<Version>>>,
}

/// What a file held, and what told that from what it held before.
#[derive(Clone)]
struct Version {
    modified: Option<SystemTime>,
    bytes: u64,
    secret: SecretString,
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SecretFile {
    pub(in crate::sink) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            last: Arc::default(),
        }
    }

    /// Returns what the file holds. Reads it only if it has changed.
    pub(in crate::sink) async fn read(&self) -> Result<SecretString, SinkError> {
        let file = self.clone();
        match tokio::task::spawn_blocking(move || file.read_blocking()).await {
            Ok(Ok(secret)) => Ok(secret),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(error) => Err(self.failed(io::Error::other(error))),
        }
    }

    fn read_blocking(&self) -> io::Result<SecretString> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last().clone();
        let version = read(&self.path, known)?;
        let secret = version.secret.clone();
        *last() = Some(version);
        Ok(secret)
    }

    fn failed(&self, error: io::Error) -> SinkError {
        SinkError::caused_by(
            format_args!("the file of the secret, {}", self.path.display()),
            error,
        )
    }

    /// Forgets what it held: it is read again, also if it seems to be the same.
    pub(in crate::sink) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn read(path: &Path, known: Option<Version>) -> io::Result<Version> {
    let metadata = fs::metadata(path)?;
    let (modified, bytes) = (metadata.modified().ok(), metadata.len());
    if bytes > MOST_BYTES {
        return Err(io::Error::other(format!(
            "it is larger than {MOST_BYTES} bytes"
        )));
    }
    if let Some(known) = known
        && known.modified.is_some()
        && (known.modified, known.bytes) == (modified, bytes)
    {
        return Ok(known);
    }
    let text = fs::read_to_string(path)?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(Version {
        modified,
        bytes,
        secret: SecretString::from(secret.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = SecretFile::new(&path);
        let error = file.read().await.unwrap_err();
        assert!(error.reason().contains("token"), "{error}");
        for text in ["hunter2\n", "hunter2-and-more", "  hunter3\r\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(file.read().await.unwrap().expose_secret(), text.trim());
        }
        fs::write(&path, " \n").unwrap();
        assert!(file.read().await.unwrap_err().reason().contains("empty"));
        fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(file.read().await.unwrap_err().reason().contains("larger"));
        assert!(!format!("{file:?}").contains("hunter"));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_that_is_pointed_elsewhere_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("one"), "hunter2").unwrap();
        std::os::unix::fs::symlink(path("one"), path("token")).unwrap();
        let file = SecretFile::new(path("token"));
        assert_eq!(file.read().await.unwrap().expose_secret(), "hunter2");
        // Of the same length; as Kubernetes does it.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(path("two"), "hunter3").unwrap();
        std::os::unix::fs::symlink(path("two"), path("next")).unwrap();
        fs::rename(path("next"), path("token")).unwrap();
        assert_eq!(file.read().await.unwrap().expose_secret(), "hunter3");
    }
}
