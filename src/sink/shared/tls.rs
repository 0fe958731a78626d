//! How sinks speak TLS: one rustls configuration with ring, whatever provider the program that uses
//! this crate has or has not installed.

use crate::sink::SinkError;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// How a sink speaks TLS. Files are read again for each connection, so that certificates can be renewed under a running
/// program.
pub(in crate::sink) struct Tls {
    files: TlsFiles,
    /// As it was when the sink was opened.
    first: ClientConfig,
}

/// The files, PEM, that a configuration is made of.
#[derive(Clone, Debug, Default)]
pub(in crate::sink) struct TlsFiles {
    /// The authorities to trust, instead of those of this machine.
    pub(in crate::sink) roots: Option<PathBuf>,
    /// The certificate that says who the client is, with its chain, and the key to it.
    pub(in crate::sink) identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// The files that parameters name. A certificate without its key is none.
    pub(in crate::sink) fn of(
        roots: Option<&str>,
        certificate: Option<&str>,
        key: Option<&str>,
    ) -> Option<Self> {
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            _ => return None,
        };
        Some(Self {
            roots: roots.map(PathBuf::from),
            identity,
        })
    }

    pub(in crate::sink) fn is_empty(&self) -> bool {
        self.roots.is_none() && self.identity.is_none()
    }

    /// Returns what tells the contents of the files from others, without keeping them.
    pub(in crate::sink) fn fingerprint(&self) -> Result<Vec<u8>, String> {
        let identity = self.identity.iter().flat_map(|(one, other)| [one, other]);
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for path in self.roots.iter().chain(identity) {
            let bytes = std::fs::read(path).map_err(|error| unusable(path, &error))?;
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(&bytes);
        }
        Ok(context.finish().as_ref().to_vec())
    }

    /// Returns the configuration that the files make now.
    pub(in crate::sink) fn config(&self) -> Result<ClientConfig, String> {
        let builder = builder()?.with_root_certificates(root_store(self.roots.as_deref())?);
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        if chain.is_empty() {
            return Err(unusable(certificate, &"it holds no certificate"));
        }
        let key_file = key;
        let key =
            PrivateKeyDer::from_pem_file(key_file).map_err(|error| unusable(key_file, &error))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(key_file, &error))
    }
}

impl Tls {
    /// Reads the files once, so that what is wrong with them shows when the sink is opened.
    pub(in crate::sink) fn new(files: TlsFiles) -> Result<Self, String> {
        let first = files.config()?;
        Ok(Self { files, first })
    }

    pub(in crate::sink) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The configuration for a new connection.
    pub(in crate::sink) async fn config(&self) -> Result<ClientConfig, SinkError> {
        if self.files.is_empty() {
            return Ok(self.first.clone());
        }
        let files = self.files.clone();
        tokio::task::spawn_blocking(move || files.config().map_err(SinkError::new))
            .await
            .unwrap_or_else(|_| Err(SinkError::new("the certificates were not read")))
    }
}

/// A client configuration that trusts the certificates in the file `roots`, or those of this machine
/// where it is none.
pub(in crate::sink) fn client_config(roots: Option<&Path>) -> Result<ClientConfig, String> {
    Ok(builder()?
        .with_root_certificates(root_store(roots)?)
        .with_no_client_auth())
}

/// A client configuration that trusts the certificates of this machine, and those in the file `more`, too.
pub(in crate::sink) fn client_config_with(more: &Path) -> Result<ClientConfig, String> {
    let mut store = root_store(None)?;
    add_file(&mut store, more)?;
    Ok(builder()?
        .with_root_certificates(store)
        .with_no_client_auth())
}

/// A configuration that trusts nobody, for a client that will not speak TLS.
pub(in crate::sink) fn without_roots() -> Result<ClientConfig, String> {
    Ok(builder()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn root_store(roots: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(path) = roots else {
        // Certificates of the machine that rustls does not understand are passed over: one of
        // them must not stop those that are needed. With none at all every handshake fails and
        // says so.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    add_file(&mut store, path)?;
    Ok(store)
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = certificates(path)?;
    if certificates.is_empty() {
        return Err(unusable(path, &"it holds no certificate"));
    }
    for certificate in certificates {
        store
            .add(certificate)
            .map_err(|error| unusable(path, &error))?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{} is not usable: {error}", path.display())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))
}
