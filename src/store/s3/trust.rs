//! The certificates that are trusted beside the system's, for the store and for the services that give credentials.

use std::path::Path;

use crate::store::{ErrorKind, Result, StoreError};

/// The PEM file that `--ca-bundle` or `AWS_CA_BUNDLE` names, added to what the client trusts.
#[allow(clippy::disallowed_methods, reason = "the machine's configuration")]
pub fn with_bundle(
    builder: reqwest::ClientBuilder,
    ca_bundle: Option<&Path>,
) -> Result<reqwest::ClientBuilder> {
    let Some(path) = ca_bundle else { return Ok(builder) };
    let wrong = |why: String| {
        let shown = path.display();
        let message = format!(
            "--ca-bundle (or AWS_CA_BUNDLE) {shown}: {why}; give a PEM file of certificates"
        );
        StoreError::new(ErrorKind::Invalid, "Connect", message)
    };
    let pem = std::fs::read(path).map_err(|err| wrong(err.to_string()))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|err| wrong(err.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(builder.tls_certs_merge(certificates))
}
