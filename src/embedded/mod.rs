//! The embedded store: an S3 server kept in a directory and served on loopback by this process. It is
//! what `--embedded DIR` mounts without any account, and what tests start, with faults on demand.
//!
//! The protocol (routing, XML, signatures) is the `s3s` crate's; what is behind it is here:
//!
//! ```text
//! serve (connections, faults) → s3s → api → index (what exists) → history (of each key), records (its file)
//!   faults, shape, operation            └→ blobs (the bytes)
//! ```
//!
//! Consistency: every change is one record appended to the index under one lock, so conditional writes
//! are atomic and readers see an object whole or not at all.
//! Retries: none; clients do that. Cancellation: a request that ends early leaves no trace.
//! Crash: what was answered survives the death of the process (not of the machine: nothing is
//! synced to the disk); see [`index`] and [`blobs`].
//!
//! It is a server of its own, behind HTTP: a simulation of the mount does without it, so its files and threads are std's and
//! tokio's, not those of the leaves.

#![allow(clippy::disallowed_methods, reason = "a server of its own, not a part of a mount")]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use s3s::S3Result;
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::validation::{AwsNameValidation, NameValidation};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod api;
mod blobs;
mod context;
mod faults;
mod history;
mod index;
mod listing;
mod operation;
mod records;
mod serve;
mod shape;

use api::Api;
use context::context;
use index::Index;

pub use faults::{Fault, Faults, Rule};
pub use operation::{Counters, Operation};

/// How to start a [`Server`].
pub struct Options {
    /// Where objects are kept; made if missing. One server at a time.
    pub dir: PathBuf,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
    /// Made where missing.
    pub buckets: Vec<String>,
    pub faults: Arc<Faults>,
}

/// A running embedded store. Dropping it stops it too, without waiting.
pub struct Server {
    address: SocketAddr,
    counters: Arc<Counters>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Opens the directory and serves it. Needs a tokio runtime.
    ///
    /// Errors: the directory cannot be made, is in use by another server, or its index is damaged; the
    /// address cannot be bound; a bucket's name is not one. Each error says which.
    pub async fn start(options: Options) -> io::Result<Server> {
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(|error| context(error, &format!("cannot listen on {}", options.listen)))?;
        let address = listener.local_addr()?;
        let index = open(&options).await?;
        let counters = Arc::new(Counters::default());
        let serving = serve::Serving {
            service: protocol(&options, index, address)?,
            faults: Arc::clone(&options.faults),
            counters: Arc::clone(&counters),
            answers: Default::default(),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let serving = Arc::new(serving);
        tasks.spawn(serve::accept(listener, serving, tasks.clone(), stop.clone()));
        Ok(Server { address, counters, tasks, stop })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Closes every connection and gives the directory free; returns when it can be opened again.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Opens the directory, and makes the buckets that are missing.
async fn open(options: &Options) -> io::Result<Arc<Index>> {
    let dir = options.dir.clone();
    let opening = tokio::task::spawn_blocking(move || Index::open(&dir));
    let index = opening.await.map_err(io::Error::other)??;
    let names = AwsNameValidation::new();
    for bucket in &options.buckets {
        if !names.validate_bucket_name(bucket) {
            let text = format!("{bucket:?} is not a bucket name: 3 to 63 of a-z, 0-9, - and .");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if index.bucket(bucket, |_| ()).is_err() {
            index.create_bucket(bucket).map_err(|error| io::Error::other(error.to_string()))?;
        }
    }
    Ok(Arc::new(index))
}

fn protocol(options: &Options, index: Arc<Index>, address: SocketAddr) -> io::Result<S3Service> {
    let mut builder = S3ServiceBuilder::new(Api { index });
    builder.set_auth(OneUser {
        access_key: options.access_key.clone(),
        secret_key: options.secret_key.as_str().into(),
    });
    // `BUCKET.localhost:PORT` is a virtual-hosted address; IP addresses are path style.
    let domain = SingleDomain::new(&format!("localhost:{}", address.port()));
    builder.set_host(domain.map_err(io::Error::other)?);
    Ok(builder.build())
}

/// The one pair of credentials; no anonymous access.
struct OneUser {
    access_key: String,
    secret_key: SecretKey,
}

#[async_trait::async_trait]
impl S3Auth for OneUser {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(self.secret_key.clone())
        } else {
            Err(s3s::s3_error!(InvalidAccessKeyId, "no such access key"))
        }
    }
}
