//! The client for a bucket, and what it needs to stay reachable: the embedded store, where that is meant.

#[cfg(feature = "embedded")]
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::journal::Identity;
use crate::settings::{StoreOptions, TransferOptions};
#[cfg(feature = "embedded")]
use crate::store::s3;
use crate::store::s3::{S3Settings, S3Store, cure};
use crate::store::{Key, SharedStore, TransferSettings, stack};

/// HEADs ahead of a caller at a time, at least. `--concurrency` bounds parts, for the sake of memory and
/// bandwidth; a HEAD has no body and takes neither, only a round trip, so that a low number only makes
/// `ls -l` wait. As many as requests without a body may be under way (`store::limit`).
pub(super) const HEADS_MIN: usize = 32;

/// What keeps an assembled mount alive.
#[derive(Default)]
pub(super) struct Keep {
    #[cfg(feature = "embedded")]
    pub embedded: Option<crate::embedded::Server>,
}

/// A client, and what it needs to stay reachable.
pub(super) struct Reached {
    pub client: S3Store,
    pub keep: Keep,
}

/// The client for a bucket; the embedded store is started first where it is meant.
pub(super) async fn reach(
    options: &StoreOptions,
    bucket: &str,
    transfer: &TransferOptions,
) -> anyhow::Result<Reached> {
    let mut s3 = s3_settings(options, bucket, transfer);
    let keep = start_embedded(options, bucket, &mut s3).await?;
    let client = S3Store::connect(s3).await.map_err(|error| unusable(&error))?;
    Ok(Reached { client, keep })
}

/// Runs `work` with a bucket that no mount is needed for; it is given how long one request may take, too.
///
/// # Errors
/// The bucket cannot be reached, and those of `work`.
pub(super) fn with_store<T, F>(
    options: &StoreOptions,
    bucket: &str,
    work: impl FnOnce(SharedStore, Duration) -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async {
        let transfer = TransferOptions::default();
        let reached = reach(options, bucket, &transfer).await?;
        let timeout = transfer.timeout;
        let settings = TransferSettings { timeout, ..TransferSettings::default() };
        let outcome = work(stack(reached.client, &settings).store, timeout).await;
        #[cfg(feature = "embedded")]
        if let Some(server) = reached.keep.embedded {
            server.stop().await;
        }
        outcome
    })
}

#[cfg(feature = "embedded")]
async fn start_embedded(
    options: &StoreOptions,
    bucket: &str,
    s3: &mut S3Settings,
) -> anyhow::Result<Keep> {
    use crate::embedded::{Faults, Options, Server};

    let Some(dir) = &options.embedded else { return Ok(Keep::default()) };
    // Known to this process alone: they are new at each start.
    let (access_key, secret_key) = (random_text(), random_text());
    let server = Server::start(Options {
        dir: dir.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        access_key: access_key.clone(),
        secret_key: secret_key.clone(),
        buckets: vec![bucket.to_owned()],
        faults: Arc::new(Faults::default()),
    })
    .await
    .with_context(|| format!("the embedded store cannot use {}", dir.display()))?;
    s3.endpoint_url = Some(server.endpoint());
    s3.provider = s3::Provider::Embedded;
    s3.region = Some("us-east-1".to_owned());
    s3.credentials = Some(s3::StaticCredentials { access_key, secret_key, session_token: None });
    Ok(Keep { embedded: Some(server) })
}

#[cfg(not(feature = "embedded"))]
async fn start_embedded(
    options: &StoreOptions,
    _bucket: &str,
    _s3: &mut S3Settings,
) -> anyhow::Result<Keep> {
    anyhow::ensure!(options.embedded.is_none(), "this build has no embedded store");
    Ok(Keep {})
}

/// Thirty-two characters that cannot be guessed.
pub(super) fn random_text() -> String {
    let bytes = crate::random::unpredictable::<16>();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn s3_settings(
    options: &StoreOptions,
    bucket: &str,
    transfer: &TransferOptions,
) -> S3Settings {
    let mut s3 = S3Settings::new(bucket);
    s3.endpoint_url.clone_from(&options.endpoint_url);
    s3.region.clone_from(&options.region);
    s3.profile.clone_from(&options.profile);
    s3.no_sign_request = options.no_sign_request;
    s3.provider = options.provider;
    s3.addressing = options.addressing;
    s3.connections.ca_bundle.clone_from(&options.ca_bundle);
    s3.connections.client_certificate.clone_from(&options.client_certificate);
    s3.requester_pays = options.requester_pays;
    s3.new_objects.clone_from(&options.new_objects);
    s3.start_dir.clone_from(&options.start_dir);
    // Half of it at most, so that a connection that is stuck leaves time for another one.
    s3.connections.request_timeout = (transfer.timeout / 2).min(Duration::from_secs(30));
    s3.connections.connect_timeout = (transfer.timeout / 2).min(Duration::from_secs(10));
    // Parts both ways, and metadata beside them.
    s3.connections.pool_size = (transfer.concurrency * 2).max(HEADS_MIN) + 8;
    s3
}

/// One line that names the cure for a store that does not answer as it should.
pub(super) fn unusable(error: &crate::store::StoreError) -> anyhow::Error {
    anyhow!("{error}: {}", cure(error))
}

/// Which store a cache folder belongs to, whatever port it happens to listen on.
pub(super) fn identity(options: &StoreOptions, bucket: &str, prefix: &Key) -> Identity {
    let endpoint = match (&options.embedded, &options.endpoint_url) {
        (Some(dir), _) => {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            format!("embedded:{}", dir.display())
        }
        (None, Some(url)) => url.trim_end_matches('/').to_owned(),
        (None, None) => match &options.region {
            Some(region) => format!("aws:{region}"),
            None => "aws".to_owned(),
        },
    };
    Identity { endpoint, bucket: bucket.to_owned(), prefix: prefix.clone() }
}
