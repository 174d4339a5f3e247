//! What a mount does for a command that asks through its socket, and why it may not.

use std::io;
use std::time::Duration;

use async_trait::async_trait;

use super::messages::{
    BucketUpload, CacheState, CacheVerdict, FileVerdict, KeyVersions, KnownUploads, LimitChanges,
    MountStatus, StoredParts, UndeletedKey, Upload, UploadName, VerifyDepth,
};
use crate::store::Rates;

pub type Result<T> = std::result::Result<T, ControlError>;

/// Why a mount could not be asked, or would not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The mount said no, and why. One line, without secrets.
    #[error("{0}")]
    Refused(String),
    /// The mount's process is gone, or stopped answering.
    #[error("the mount does not answer: {0}")]
    Unreachable(#[from] io::Error),
    /// Its process lives and says nothing.
    #[error("{process} has not answered for {} s: it hangs, or its machine is overloaded", .patience.as_secs())]
    Silent { process: String, patience: Duration },
    /// The other end is another version.
    #[error("the mount answers in another language than this version's: {0}")]
    Garbled(String),
}

impl ControlError {
    /// The other end went away without an answer.
    pub fn is_hang_up(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, ControlError::Unreachable(error)
            if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }
}

/// What a mount does for a command that asks through its socket.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// How things stand. Never waits for the network.
    async fn status(&self) -> MountStatus;

    /// Returns once everything that was closed before the call is in the bucket. Cancel-safe: dropping
    /// the future stops the waiting, not the uploads.
    async fn drain(&self) -> Result<()>;

    /// Unmounts and lets the process end. Returns once the mount point is free; refuses while files are open there.
    /// With `now` it waits for nothing, cuts off programs that have files open, and tells it: uploads are resumed by the next
    /// mount.
    async fn shutdown(&self, now: bool) -> Result<Option<String>>;

    async fn uploads(&self) -> Result<Vec<Upload>>;

    /// Tries failed uploads again: those named by key or id, all where `names` is empty. Returns those
    /// it means.
    async fn resume_uploads(&self, names: &[String]) -> Result<Vec<Upload>>;

    /// Ends uploads that are not being written, and frees what the store keeps of them. As above.
    async fn abort_uploads(&self, names: &[String]) -> Result<Vec<Upload>>;

    /// All uploads that the bucket has below the prefix, by whichever client.
    async fn bucket_uploads(&self) -> Result<Vec<BucketUpload>>;

    /// What the store has of each; `None` of what has ended.
    async fn bucket_upload_parts(&self, of: &[UploadName]) -> Result<Vec<Option<StoredParts>>>;

    /// Ends them in the store; refuses where one is in this mount's journal.
    async fn end_bucket_uploads(&self, these: &[UploadName]) -> Result<()>;

    async fn known_uploads(&self) -> Result<KnownUploads>;

    async fn cache_info(&self) -> Result<CacheState>;

    /// Compares everything on disk with its checksums; drops what is damaged.
    async fn cache_verify(&self) -> Result<CacheVerdict>;

    /// How far a file is proven, by its path below the mount point. Reads and compares.
    async fn verify(&self, path: &[u8], depth: VerifyDepth) -> Result<FileVerdict>;

    /// What the bucket has had under the key of a file, by its path below the mount point.
    async fn versions(&self, path: &[u8]) -> Result<KeyVersions>;

    /// Brings back a file that was deleted, by its path below the mount point, where its programs see it at once.
    async fn undelete(&self, path: &[u8]) -> Result<UndeletedKey>;

    /// Drops every clean part that is not in use. Returns the bytes freed.
    async fn cache_clear(&self) -> Result<u64>;

    /// Changes how fast the mount may send, fetch and ask, also for what is under way. Returns the limits that hold then.
    async fn limit(&self, changes: LimitChanges) -> Result<Rates>;
}
