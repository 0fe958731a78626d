//! A client whose certificates stand in files, which may change. Knows nothing of requests.

use super::connector::{Roots, connector};
use crate::sink::{SinkError, shared::tls::TlsFiles};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use url::Url;

/// Makes a new client, with connections of its own, when the files hold something else.
pub(super) struct Certified {
    url: Url,
    timeout: Duration,
    files: TlsFiles,
    /// The last client, and what tells the contents of the files that it was made of.
    made: Mutex<Made>,
}

type Made = (Vec<u8>, reqwest::Client);

impl Certified {
    /// Reads the files once, so that what is wrong with them shows when the sink is opened.
    pub(super) fn new(url: &Url, timeout: Duration, files: TlsFiles) -> Result<Self, String> {
        let made = make(url, timeout, &files, &[])?.ok_or("the certificates were not read")?;
        Ok(Self {
            url: url.clone(),
            timeout,
            files,
            made: Mutex::new(made),
        })
    }

    /// Returns a client with what the files hold now.
    pub(super) async fn client(&self) -> Result<reqwest::Client, SinkError> {
        if self.files.is_empty() {
            return Ok(self.made().1);
        }
        let (url, timeout, files) = (self.url.clone(), self.timeout, self.files.clone());
        let known = self.made().0;
        let made = tokio::task::spawn_blocking(move || make(&url, timeout, &files, &known)).await;
        match made {
            Ok(Ok(None)) => Ok(self.made().1),
            Ok(Ok(Some(made))) => {
                self.made
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone_from(&made);
                Ok(made.1)
            }
            Ok(Err(reason)) => Err(SinkError::new(reason)),
            Err(_) => Err(SinkError::new("the certificates were not read")),
        }
    }

    fn made(&self) -> Made {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.clone()
    }
}

/// Makes a client of the files; none if they hold what is `known`.
fn make(
    url: &Url,
    timeout: Duration,
    files: &TlsFiles,
    known: &[u8],
) -> Result<Option<Made>, String> {
    let fingerprint = files.fingerprint()?;
    if fingerprint == known {
        return Ok(None);
    }
    let client = connector(url, timeout, Roots::Files(files))?;
    Ok(Some((fingerprint, client)))
}
