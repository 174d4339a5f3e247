//! What the S3 client has to be told. Plain values; parsing them from the command line is not done here.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroize as _;

use super::customer_key::CustomerKey;
use super::provider::Provider;
use crate::store::Tags;

/// How the bucket is named in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Virtual-hosted for AWS and the providers that demand it, path style for any other endpoint.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    Virtual,
}

/// A key pair given outright, instead of being looked for where AWS tools look. It zeroes itself.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticCredentials {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl Drop for StaticCredentials {
    fn drop(&mut self) {
        self.secret_key.zeroize();
        self.session_token.zeroize();
    }
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticCredentials(..)")
    }
}

/// Everything [`super::S3Store::connect`] needs. `S3Settings::new(bucket)` gives the defaults.
#[derive(Clone, Debug)]
pub struct S3Settings {
    pub bucket: String,
    /// `https://host[:port][/path]`, with or without the scheme (https where it is missing). `None` for AWS, and
    /// for a provider whose endpoint follows from the region.
    pub endpoint_url: Option<String>,
    pub region: Option<String>,
    /// Of the AWS configuration files. Wins over credentials in the environment.
    pub profile: Option<String>,
    pub credentials: Option<StaticCredentials>,
    /// Anonymous access: requests are not signed.
    pub no_sign_request: bool,
    pub provider: Provider,
    pub addressing: Addressing,
    pub requester_pays: bool,
    pub new_objects: NewObjects,
    pub connections: Connections,
    /// Where credential helpers run; empty for where this process is.
    pub start_dir: PathBuf,
}

/// What objects get that the mount creates, where they do not carry something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewObjects {
    pub storage_class: Option<String>,
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub sse: Option<String>,
    pub sse_kms_key_id: Option<String>,
    /// SSE-C. What is read, changed or copied is taken to be encrypted with it too.
    pub customer_key: Option<CustomerKey>,
    /// A canned ACL, such as `bucket-owner-full-control`.
    pub acl: Option<String>,
    /// As x-amz-tagging has them.
    pub tags: Tags,
}

/// What is shown to a store that asks its clients for a certificate (mutual TLS): two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key, without a passphrase.
    pub key: PathBuf,
}

/// How connections are opened, kept and given up.
#[derive(Clone, Debug)]
pub struct Connections {
    /// PEM file of certificates trusted beside those of the system.
    pub ca_bundle: Option<PathBuf>,
    pub client_certificate: Option<ClientCertificate>,
    /// To open a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// A request in which no byte moves for this long is cut. Server-side copies and completes, which send
    /// nothing while they work, get [`super::exchange::SLOW_TIMES`] times as long.
    pub request_timeout: Duration,
    /// Idle connections kept open; as many as requests run at once.
    pub pool_size: usize,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            ca_bundle: None,
            client_certificate: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            pool_size: 64,
        }
    }
}

impl S3Settings {
    pub fn new(bucket: impl Into<String>) -> Self {
        S3Settings {
            bucket: bucket.into(),
            endpoint_url: None,
            region: None,
            profile: None,
            credentials: None,
            no_sign_request: false,
            provider: Provider::Auto,
            addressing: Addressing::Auto,
            requester_pays: false,
            new_objects: NewObjects::default(),
            connections: Connections::default(),
            start_dir: PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let mut settings = S3Settings::new("b");
        settings.credentials = Some(StaticCredentials {
            access_key: "AKIDEXAMPLE".into(),
            secret_key: "hunter2".into(),
            session_token: Some("tok3n".into()),
        });
        let text = format!("{settings:?}");
        for secret in ["AKIDEXAMPLE", "hunter2", "tok3n"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
