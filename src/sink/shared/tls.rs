//! How sinks speak TLS: one rustls configuration with ring, whatever provider the program that uses
//! this crate has or has not installed.

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::{path::Path, sync::Arc};

/// A client configuration that trusts the certificates in the file `roots`, or those of this machine
/// where it is none.
pub(in crate::sink) fn client_config(roots: Option<&Path>) -> Result<ClientConfig, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => add_file(&mut store, path)?,
        None => add_machine(&mut store),
    }
    trusting(store)
}

/// A client configuration that trusts the certificates of this machine, and those in the file `more`, too.
pub(in crate::sink) fn client_config_with(more: &Path) -> Result<ClientConfig, String> {
    let mut store = RootCertStore::empty();
    add_machine(&mut store);
    add_file(&mut store, more)?;
    trusting(store)
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let unreadable =
        |error: &dyn std::fmt::Display| format!("{} is not usable: {error}", path.display());
    let mut added = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        store.add(certificate).map_err(|error| unreadable(&error))?;
        added += 1;
    }
    match added {
        0 => Err(unreadable(&"it holds no certificate")),
        _ => Ok(()),
    }
}

fn add_machine(store: &mut RootCertStore) {
    // Certificates of the machine that rustls does not understand are passed over: one of
    // them must not stop those that are needed. With none at all every handshake fails and
    // says so.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
}

/// A configuration that trusts nobody, for a client that will not speak TLS.
pub(in crate::sink) fn without_roots() -> Result<ClientConfig, String> {
    trusting(RootCertStore::empty())
}

fn trusting(store: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(store)
        .with_no_client_auth())
}
