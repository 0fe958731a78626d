//! A secret that is given, or that stands in a file, which may change. Knows nothing of headers.

use crate::sink::SinkError;
use secrecy::SecretString;
use std::{
    fmt, fs,
    io::{self, Read as _},
    path::PathBuf,
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

/// A file that holds a secret and nothing else, but for white space around it. Read each time: nothing beside what it
/// holds says reliably whether it changed.
#[derive(Clone)]
pub(in crate::sink) struct SecretFile {
    path: PathBuf,
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
        Self { path: path.into() }
    }

    /// Returns what the file holds now.
    pub(in crate::sink) async fn read(&self) -> Result<SecretString, SinkError> {
        let file = self.clone();
        match tokio::task::spawn_blocking(move || file.read_blocking()).await {
            Ok(Ok(secret)) => Ok(secret),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(error) => Err(self.failed(io::Error::other(error))),
        }
    }

    fn read_blocking(&self) -> io::Result<SecretString> {
        let mut text = String::new();
        // One byte more than may be there: what a file says of its size is not asked.
        let mut file = fs::File::open(&self.path)?.take(MOST_BYTES + 1);
        file.read_to_string(&mut text)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(io::Error::other(format!(
                "it is larger than {MOST_BYTES} bytes"
            )));
        }
        match text.trim() {
            "" => Err(io::Error::other("it is empty")),
            secret => Ok(SecretString::from(secret.to_owned())),
        }
    }

    fn failed(&self, error: io::Error) -> SinkError {
        SinkError::caused_by(
            format_args!("the file of the secret, {}", self.path.display()),
            error,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;
    use std::time::SystemTime;

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

    /// As after a restore, or where the clock of the file system is coarse.
    #[tokio::test]
    async fn a_change_that_leaves_size_and_time_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = SecretFile::new(&path);
        for text in ["hunter2", "hunter3"] {
            fs::write(&path, text).unwrap();
            let written = fs::File::options().write(true).open(&path).unwrap();
            written.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(file.read().await.unwrap().expose_secret(), text);
        }
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
