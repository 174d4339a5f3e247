//! The command line as clap reads it. Everything stays optional here; [`super::layers`] adds what the
//! configuration file says, and [`super::resolve`] turns the result into settings.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};

use super::units;
use crate::control::messages::RateChange;
use crate::settings::{Addressing, OnOutage, Provider, Ttl};
use crate::store::Rate;

/// Mounts an object-store bucket as a directory; interrupted I/O goes on where it stopped.
#[derive(Debug, Parser)]
#[command(name = "ratchetfs", version, disable_help_subcommand = true)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a bucket; returns once the mount answers
    Mount(Box<MountArgs>),
    /// Finish the uploads, showing progress, then unmount
    Umount(UmountArgs),
    /// Show mounts, transfers in flight, cache, journal and recent errors
    Status(StatusArgs),
    /// Interrupted uploads: list them, resume them, or end them for good
    Uploads(Box<UploadsArgs>),
    /// The local cache: what it holds, whether it is sound, or empty it
    Cache(CacheArgs),
    /// Which bytes are proven by a checksum, which are not, and which are damaged
    Verify(Box<VerifyArgs>),
    /// The versions that a bucket has of a file, the newest first
    Versions(Box<VersionsArgs>),
    /// Bring back what was deleted, in a bucket that keeps versions
    Undelete(Box<UndeleteArgs>),
    /// Show or change how fast a live mount may send, fetch and ask
    Limit(LimitArgs),
    /// Find what would stop a mount on this machine, each with its cure
    Doctor(Box<DoctorArgs>),
}

#[derive(Debug, Args)]
pub struct MountArgs {
    /// The bucket, s3://BUCKET or s3://BUCKET/PREFIX; BUCKET may be the ARN of an access point
    #[arg(value_name = "s3://BUCKET[/PREFIX]", value_parser = units::bucket_address)]
    pub bucket: units::BucketAddress,
    /// An empty directory
    #[arg(value_name = "DIR")]
    pub mount_point: PathBuf,
    #[command(flatten)]
    pub options: MountOptions,
    /// Read options from this TOML file instead of ~/.config/ratchetfs.toml and /etc/ratchetfs.toml
    #[arg(long, env = "RATCHETFS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What can also be set as RATCHETFS_* or in a TOML file.
#[derive(Debug, Args)]
pub struct MountOptions {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub cache: CacheTierArgs,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// An on/off option: `--x`, or `--x=false` to overrule the environment or the file.
macro_rules! switch {
    () => {
        clap::builder::BoolishValueParser::new()
    };
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// The server to talk to [default: as configured for AWS tools, else AWS]
    #[arg(long, env = "RATCHETFS_ENDPOINT_URL", value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// The bucket's region [default: as configured for AWS tools, else asked from the store]
    #[arg(long, env = "RATCHETFS_REGION")]
    pub region: Option<String>,
    /// The profile of the AWS configuration files to take credentials from
    #[arg(long, env = "RATCHETFS_PROFILE")]
    pub profile: Option<String>,
    /// Send no credentials: for public buckets
    #[arg(long, env = "RATCHETFS_NO_SIGN_REQUEST", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub no_sign_request: Option<bool>,
    /// Whose S3 it is: auto, aws, oss, tos, r2, b2, gcs, minio, ceph, seaweedfs, garage, other [default: auto]
    #[arg(long, env = "RATCHETFS_PROVIDER", value_name = "NAME")]
    pub provider: Option<Provider>,
    /// Bucket in the host name or in the path: auto, path, virtual [default: auto]
    #[arg(long, env = "RATCHETFS_ADDRESSING", value_name = "STYLE", value_parser = units::addressing)]
    pub addressing: Option<Addressing>,
    #[command(flatten)]
    pub certificates: CertificateArgs,
    /// Pay for the requests to a bucket that demands it
    #[arg(long, env = "RATCHETFS_REQUESTER_PAYS", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub requester_pays: Option<bool>,
    #[command(flatten)]
    pub new_objects: NewObjectArgs,
    /// Keep the bucket in this directory and serve it from here: no account needed
    #[arg(long, env = "RATCHETFS_EMBEDDED", value_name = "DIR")]
    pub embedded: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct NewObjectArgs {
    /// Storage class of what is written, such as STANDARD_IA
    #[arg(long, env = "RATCHETFS_STORAGE_CLASS", value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// Server-side encryption of what is written: AES256, aws:kms, aws:kms:dsse
    #[arg(long, env = "RATCHETFS_SSE", value_name = "KIND")]
    pub sse: Option<String>,
    /// The KMS key for --sse aws:kms or aws:kms:dsse
    #[arg(long, env = "RATCHETFS_SSE_KMS_KEY_ID", value_name = "ID")]
    pub sse_kms_key_id: Option<String>,
    /// The key (32 bytes, or their base64) that the store encrypts and decrypts all with, and does not keep: SSE-C
    #[arg(long, env = "RATCHETFS_SSE_C_KEY_FILE", value_name = "FILE")]
    pub sse_c_key_file: Option<PathBuf>,
    /// Canned ACL of what is written, such as bucket-owner-full-control
    #[arg(long, env = "RATCHETFS_ACL", value_name = "ACL")]
    pub acl: Option<String>,
    /// Tags of what is written anew, such as 'team=web&kind=page'
    #[arg(long, env = "RATCHETFS_TAGGING", value_name = "TAGS")]
    pub tagging: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct CertificateArgs {
    /// A PEM file of certificates to trust beside the system's [default: that of AWS_CA_BUNDLE]
    #[arg(long, env = "RATCHETFS_CA_BUNDLE", value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// The certificate (PEM) to show to a store that asks for one
    #[arg(long, env = "RATCHETFS_CLIENT_CERT", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// The private key (PEM) of --client-cert
    #[arg(long, env = "RATCHETFS_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheTierArgs {
    /// Where parts and the journal are kept [default: ~/.cache/ratchetfs]
    #[arg(long, env = "RATCHETFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Room for parts on disk; 0 keeps none [default: 10GiB, or a quarter of the disk]
    #[arg(long, env = "RATCHETFS_CACHE_SIZE", value_name = "SIZE", value_parser = units::size)]
    pub cache_size: Option<u64>,
    /// Room for parts in memory [default: a quarter of the machine's, at most 2GiB]
    #[arg(long, env = "RATCHETFS_MEMORY", value_name = "SIZE", value_parser = units::size)]
    pub memory: Option<u64>,
    /// How long names and attributes are believed: a duration, 0 or infinite [default: 1s]
    #[arg(long, env = "RATCHETFS_METADATA_TTL", value_name = "DURATION", value_parser = units::ttl)]
    pub metadata_ttl: Option<Ttl>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Transfer")]
pub struct TransferArgs {
    /// Size of the parts of an upload, and of the largest read (8MiB at least) [default: 5MiB]
    #[arg(long, env = "RATCHETFS_PART_SIZE", value_name = "SIZE", value_parser = units::size)]
    pub part_size: Option<u64>,
    /// Parts in flight at once [default: 16]
    #[arg(long, env = "RATCHETFS_CONCURRENCY", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// Send at most this much, such as 10MiB/s, or 10MiB/s:64MiB where 64 MiB may go at once
    #[arg(long, env = "RATCHETFS_UPLOAD_LIMIT", value_name = "RATE[:BURST]", value_parser = units::rate)]
    pub upload_limit: Option<Rate>,
    /// Fetch at most this much, such as 10MiB/s, or 10MiB/s:64MiB where 64 MiB may come at once
    #[arg(long, env = "RATCHETFS_DOWNLOAD_LIMIT", value_name = "RATE[:BURST]", value_parser = units::rate)]
    pub download_limit: Option<Rate>,
    /// Send at most this many requests a second, such as 100, or 100:500 where 500 may go at once
    #[arg(long, env = "RATCHETFS_REQUEST_LIMIT", value_name = "N[:BURST]", value_parser = units::request_rate)]
    pub request_limit: Option<Rate>,
    /// How often a request is tried [default: as often as --timeout allows]
    #[arg(long, env = "RATCHETFS_MAX_ATTEMPTS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: Option<u32>,
    /// How long an outage is waited out (for names and attributes: a minute at most), or infinite, which waits until the
    /// store is back [default: 5m]
    #[arg(long, env = "RATCHETFS_TIMEOUT", value_name = "DURATION", value_parser = units::patience)]
    pub timeout: Option<Duration>,
    /// In an outage: wait (up to --timeout), fail at once, or serve-stale: names, attributes and cached bytes are told
    /// beyond --metadata-ttl, what is not known fails at once, and changes wait [default: wait]
    #[arg(long, env = "RATCHETFS_ON_OUTAGE", value_name = "WHAT")]
    pub on_outage: Option<OnOutage>,
    /// How long an interrupted upload waits for its writer before it is aborted [default: 7d]
    #[arg(long, env = "RATCHETFS_RESUME_EXPIRY", value_name = "DURATION", value_parser = units::time_limit)]
    pub resume_expiry: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub struct FileArgs {
    /// Refuse every change
    #[arg(long, env = "RATCHETFS_READ_ONLY", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub read_only: Option<bool>,
    /// Let close return once the file is safe on the local disk; the upload follows
    #[arg(long, env = "RATCHETFS_WRITE_BACK", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub write_back: Option<bool>,
    /// Believe the listing alone: no request for a file's mode, owner and mtime
    #[arg(long, env = "RATCHETFS_FAST_ATTRIBUTES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub fast_attributes: Option<bool>,
    /// Let other users in (needs user_allow_other in /etc/fuse.conf unless root)
    #[arg(long, env = "RATCHETFS_ALLOW_OTHER", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub allow_other: Option<bool>,
    /// Owner of objects that do not tell theirs [default: you]
    #[arg(long, env = "RATCHETFS_UID", value_name = "ID")]
    pub uid: Option<u32>,
    /// Group of objects that do not tell theirs [default: yours]
    #[arg(long, env = "RATCHETFS_GID", value_name = "ID")]
    pub gid: Option<u32>,
    /// Permissions of files that do not tell theirs [default: 0644]
    #[arg(long, env = "RATCHETFS_FILE_MODE", value_name = "OCTAL", value_parser = units::mode)]
    pub file_mode: Option<u32>,
    /// Permissions of directories that do not tell theirs [default: 0755]
    #[arg(long, env = "RATCHETFS_DIR_MODE", value_name = "OCTAL", value_parser = units::mode)]
    pub dir_mode: Option<u32>,
    /// Content type of new files: auto (by the extension of the name), off (the store's default) [default: auto]
    #[arg(long, env = "RATCHETFS_CONTENT_TYPE", value_name = "HOW", value_parser = units::content_type)]
    pub content_type: Option<bool>,
    /// Show and read what the cache directory holds, without the network; refuse every change
    #[arg(long, env = "RATCHETFS_OFFLINE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub offline: Option<bool>,
    /// Show the bucket as it was, read-only: at a time (2026-11-01T12:00:00Z), on a date (when it began, in UTC), or 2d ago
    #[arg(long, env = "RATCHETFS_VERSION_AT", value_name = "TIME", value_parser = units::moment)]
    pub version_at: Option<SystemTime>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Stay in the foreground and log to standard error
    #[arg(short, long, env = "RATCHETFS_FOREGROUND", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub foreground: Option<bool>,
    /// How long to wait for a store that does not answer yet before the mount is given up, or infinite [default: it is
    /// given up at once]
    #[arg(long, env = "RATCHETFS_MOUNT_TIMEOUT", value_name = "DURATION", value_parser = units::patience)]
    pub mount_timeout: Option<Duration>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, env = "RATCHETFS_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<log::LevelFilter>,
    /// Where the log goes [default: ratchetfs.log in the cache directory]
    #[arg(long, env = "RATCHETFS_LOG_FILE", value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Serve Prometheus metrics here
    #[arg(long, env = "RATCHETFS_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where the bucket is mounted
    #[arg(value_name = "DIR")]
    pub mount_point: PathBuf,
    /// Do not wait for uploads: leave them to be resumed at the next mount
    #[arg(long)]
    pub now: bool,
}

/// Without options it shows the limits.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Where the bucket is mounted
    #[arg(value_name = "DIR")]
    pub mount_point: PathBuf,
    /// What is sent, such as 10MiB/s or 10MiB/s:64MiB; none lifts the limit
    #[arg(long, value_name = "RATE[:BURST]", value_parser = units::rate_or_none)]
    pub up: Option<RateChange>,
    /// What is fetched, likewise
    #[arg(long, value_name = "RATE[:BURST]", value_parser = units::rate_or_none)]
    pub down: Option<RateChange>,
    /// Requests a second, such as 100 or 100:500; none lifts the limit
    #[arg(long, value_name = "N[:BURST]", value_parser = units::request_rate_or_none)]
    pub requests: Option<RateChange>,
    /// One JSON document, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the bucket is mounted [default: every mount]
    #[arg(value_name = "DIR")]
    pub mount_point: Option<PathBuf>,
    /// One JSON document, for programs
    #[arg(long)]
    pub json: bool,
    /// Show it again every second
    #[arg(long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct UploadsArgs {
    #[command(subcommand)]
    pub action: UploadsCommand,
}

#[derive(Debug, Subcommand)]
pub enum UploadsCommand {
    /// Show interrupted uploads and those in flight
    List(UploadsList),
    /// Try again what failed
    Resume(UploadsChange),
    /// Give up, and free what the store keeps of them
    Abort(UploadsAbort),
}

#[derive(Debug, Args)]
pub struct UploadsList {
    #[command(flatten)]
    pub target: UploadsTarget,
    /// Show all that the bucket of the mount, or of s3://BUCKET[/PREFIX], has: those of others too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct UploadsAbort {
    #[command(flatten)]
    pub change: UploadsChange,
    /// With --all and a mount point or s3://BUCKET[/PREFIX]: end what others have begun there, so long ago or longer
    #[arg(long, value_name = "DURATION", requires = "all", value_parser = units::duration)]
    pub older_than: Option<Duration>,
    /// Do not ask before that
    #[arg(long, requires = "older_than")]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct UploadsChange {
    #[command(flatten)]
    pub target: UploadsTarget,
    /// Act on all uploads of all mounts
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct UploadsTarget {
    /// The mount point, and the keys (or upload ids) in it [default: all]; or keys alone
    #[arg(value_name = "KEY")]
    pub keys: Vec<OsString>,
    /// The cache directory to look into where nothing is mounted
    #[arg(long, env = "RATCHETFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// One JSON document, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    pub action: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// What is kept, in bytes
    Info(CacheTarget),
    /// Read everything and compare checksums; what is damaged is dropped
    Verify(CacheChange),
    /// Drop every clean part; what was not uploaded yet stays
    Clear(CacheChange),
}

#[derive(Debug, Args)]
pub struct CacheChange {
    #[command(flatten)]
    pub target: CacheTarget,
    /// Act on the caches of all mounts
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct CacheTarget {
    /// Where the bucket is mounted [default: the mount there is]
    #[arg(value_name = "DIR")]
    pub mount_point: Option<PathBuf>,
    /// The cache directory to look into where nothing is mounted
    #[arg(long, env = "RATCHETFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// One JSON document, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Files or directories of a live mount, or objects of a bucket: s3://BUCKET, s3://BUCKET/PREFIX/, s3://BUCKET/KEY
    #[arg(value_name = "PATH|s3://BUCKET/KEY", required = true)]
    pub targets: Vec<OsString>,
    /// Read nothing from the store but its checksums
    #[arg(long, conflicts_with = "full")]
    pub cached: bool,
    /// Read everything from the store, whatever is cached
    #[arg(long)]
    pub full: bool,
    /// One JSON document, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Each can be read in a mount as PATH@VERSION.
#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// A file of a live mount, deleted or not, or an object
    #[arg(value_name = "PATH|s3://BUCKET/KEY")]
    pub target: OsString,
    /// One JSON document, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Removes the delete markers in front of the newest version, and looks whether that is there then.
#[derive(Debug, Args)]
pub struct UndeleteArgs {
    /// Files of live mounts, or objects
    #[arg(value_name = "PATH|s3://BUCKET/KEY", required = true)]
    pub targets: Vec<OsString>,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also try to reach this bucket, and whether all that a mount does is allowed: a small object is written below the
    /// prefix and removed again
    #[arg(value_name = "s3://BUCKET[/PREFIX]", value_parser = units::bucket_address)]
    pub bucket: Option<units::BucketAddress>,
    /// Print the least policy for a mount of the bucket and prefix, as AWS, OSS or TOS take it, and do nothing else
    #[arg(long)]
    pub policy: bool,
    /// For a mount that is read-only: nothing is written
    #[arg(long, env = "RATCHETFS_READ_ONLY", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true, value_parser = switch!())]
    pub read_only: Option<bool>,
    /// The cache directory to look at
    #[arg(long, env = "RATCHETFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
}
