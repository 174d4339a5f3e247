//! What crosses the control socket, one JSON document a line. `status --json` prints [`MountStatus`] as
//! it stands here: scripts read it, so fields are added, never renamed. Sizes are in bytes, times in
//! seconds. Keys that are not UTF-8 are shown with U+FFFD; such an upload is named by its id.

use serde::{Deserialize, Serialize};

use crate::store::undelete::Undeleted;
use crate::store::{Key, ListedVersion, Rate, Rates, UploadId};

/// One line from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    /// Answered by [`Response::Progress`] again and again, then by [`Response::Done`].
    Drain,
    Shutdown {
        now: bool,
    },
    UploadsList,
    UploadsResume {
        names: Vec<String>,
    },
    UploadsAbort {
        names: Vec<String>,
    },
    /// All uploads that the mount's bucket has below its prefix, by whichever client.
    BucketUploads,
    /// What the store has of these.
    BucketUploadParts {
        uploads: Vec<UploadName>,
    },
    /// Ends these in the store, none of which is in the mount's journal.
    BucketUploadsEnd {
        uploads: Vec<UploadName>,
    },
    /// The uploads in the mount's journal.
    KnownUploads,
    CacheInfo,
    CacheVerify,
    CacheClear,
    /// One file, by its path below the mount point, in bytes.
    Verify {
        path: Vec<u8>,
        depth: VerifyDepth,
    },
    /// Answered by [`Response::Limits`]: those that hold then.
    Limit(LimitChanges),
    /// What the bucket has had under the key of one file, by its path below the mount point, in bytes.
    Versions {
        path: Vec<u8>,
    },
    /// Likewise.
    Undelete {
        path: Vec<u8>,
    },
}

/// How much is read to prove a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyDepth {
    /// What is cached.
    Cached,
    /// What is cached, and from the store what that does not prove.
    AsNeeded,
    /// All, from the store.
    Full,
}

/// How far a file is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileVerdict {
    pub len: u64,
    pub proven_bytes: u64,
    pub read_from_disk: u64,
    pub read_from_store: u64,
    /// The sums that prove it.
    pub proven_by: Vec<String>,
    /// Why not all is proven, where nothing is damaged.
    pub unproven: Option<String>,
    pub damaged: Vec<FileDamage>,
}

/// Bytes of a file that are not what they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileDamage {
    /// `cache` (dropped, fetched again when read) or `store`.
    pub place: String,
    pub start: u64,
    /// Exclusive.
    pub end: u64,
    pub expected: String,
    pub found: String,
}

/// What becomes of the limits; those that are `None` stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitChanges {
    pub upload: Option<RateChange>,
    pub download: Option<RateChange>,
    pub requests: Option<RateChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateChange {
    Lift,
    Set(Rate),
}

impl LimitChanges {
    pub fn apply(self, rates: Rates) -> Rates {
        let apply = |change: Option<RateChange>, rate| match change {
            None => rate,
            Some(RateChange::Lift) => None,
            Some(RateChange::Set(rate)) => Some(rate),
        };
        Rates {
            upload: apply(self.upload, rates.upload),
            download: apply(self.download, rates.download),
            requests: apply(self.requests, rates.requests),
        }
    }
}

/// One line from the mount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Status(Box<MountStatus>),
    Progress(DrainProgress),
    Uploads(Vec<Upload>),
    BucketUploads(Vec<BucketUpload>),
    /// In the order in which they were named; `None` of what has ended.
    BucketUploadParts(Vec<Option<StoredParts>>),
    KnownUploads(KnownUploads),
    Cache(CacheState),
    Verified(CacheVerdict),
    File(FileVerdict),
    /// Bytes freed.
    Cleared(u64),
    Limits(Rates),
    Versions(KeyVersions),
    Undeleted(UndeletedKey),
    Done,
    Refused(String),
    /// Done, and what had to be done for it.
    Told(String),
}

/// All that a bucket has of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVersions {
    pub bucket: String,
    pub key: String,
    /// The newest first.
    pub versions: Vec<KeyVersion>,
}

/// A version of an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVersion {
    pub id: String,
    /// By the store's clock, such as `2026-11-01T12:00:00Z`.
    pub last_modified: String,
    /// Whether it is what the key has now.
    pub is_latest: bool,
    /// A delete marker: it has neither length nor ETag.
    pub is_deleted: bool,
    pub len: Option<u64>,
    pub etag: Option<String>,
}

/// What became of an undelete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeletedKey {
    pub bucket: String,
    pub key: String,
    pub outcome: UndeleteOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndeleteOutcome {
    /// This version is there again.
    Back(KeyVersion),
    /// This version is there, and was not deleted.
    Stands(KeyVersion),
    /// No version is left.
    Gone,
}

impl KeyVersions {
    pub fn new(bucket: &str, key: &Key, versions: &[ListedVersion]) -> KeyVersions {
        let versions = versions.iter().map(KeyVersion::from).collect();
        KeyVersions { bucket: bucket.to_owned(), key: key.to_string(), versions }
    }
}

impl UndeletedKey {
    pub fn new(bucket: &str, key: &Key, outcome: &Undeleted) -> UndeletedKey {
        let outcome = match outcome {
            Undeleted::Back(version) => UndeleteOutcome::Back(version.into()),
            Undeleted::Stands(version) => UndeleteOutcome::Stands(version.into()),
            Undeleted::Gone => UndeleteOutcome::Gone,
        };
        UndeletedKey { bucket: bucket.to_owned(), key: key.to_string(), outcome }
    }
}

impl From<&ListedVersion> for KeyVersion {
    fn from(version: &ListedVersion) -> KeyVersion {
        let object = version.object.as_ref();
        KeyVersion {
            id: version.id.to_string(),
            last_modified: humantime::format_rfc3339(version.last_modified).to_string(),
            is_latest: version.is_latest,
            is_deleted: object.is_none(),
            len: object.map(|object| object.len),
            etag: object.map(|object| object.etag.to_string()),
        }
    }
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainProgress {
    pub files_left: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// A mount, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountStatus {
    #[serde(flatten)]
    pub place: Place,
    #[serde(flatten)]
    pub process: Process,
    #[serde(flatten)]
    pub mode: Mode,
    pub transfers: Vec<Transfer>,
    /// Files that are closed but not in the bucket yet.
    pub pending_files: u64,
    pub pending_bytes: u64,
    /// Files that are unlinked and not deleted from the bucket yet.
    pub pending_deletions: u64,
    pub cache: CacheState,
    pub journal: JournalState,
    pub store: StoreState,
    /// The latest first; at most a screenful.
    pub recent_errors: Vec<RecentError>,
    /// Keys that cannot be names, seen so far.
    pub hidden_names: u64,
    /// Files and directories that the kernel refers to, or that are here only.
    pub inodes: u64,
}

/// What is mounted where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    pub mount_point: String,
    pub bucket: String,
    pub prefix: String,
    /// Without credentials; `embedded:DIR` for the embedded store.
    pub endpoint: String,
}

/// What serves the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
}

/// How it is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mode {
    pub read_only: bool,
    pub write_back: bool,
    /// Mounted with --offline: nothing is asked of the store.
    pub offline: bool,
    /// Mounted with --version-at: the bucket is shown as it was then, such as `2026-11-01T12:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_at: Option<String>,
}

/// A file on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    pub key: String,
    pub kind: TransferKind,
    pub bytes_done: u64,
    /// `None` while its writer goes on.
    pub bytes_total: Option<u64>,
    pub parts_done: u32,
    pub parts_in_flight: u32,
    /// Parts that did not have to be sent or fetched again.
    pub parts_resumed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferKind {
    Upload,
    Download,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheState {
    pub dir: String,
    pub disk_bytes: u64,
    pub disk_bytes_max: u64,
    /// Written here and not in the bucket yet.
    pub staged_bytes: u64,
    pub objects: u64,
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    pub hits: u64,
    pub misses: u64,
    /// Ranges whose checksum did not match, since the mount.
    pub damaged_ranges: u64,
    /// Bytes read from the disk to be checked, since the mount.
    pub checked_bytes: u64,
    /// Bytes of files that needed no check, since they are as an earlier mount had found them good.
    pub trusted_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheVerdict {
    pub checked_bytes: u64,
    pub damaged_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalState {
    pub bytes: u64,
    pub replayed_records: u64,
    /// Bytes of a damaged tail that the last replay left out.
    pub dropped_bytes: u64,
    /// What a loss of power may take.
    pub unsynced_bytes: u64,
}

/// What was exchanged with the store since the mount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreState {
    pub requests: u64,
    pub errors: u64,
    pub retries: u64,
    /// Requests sent a second time because the first was slow to be answered; part of `requests`.
    pub hedges: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// It has not answered for a while: the circuit breaker is open.
    pub offline: bool,
    /// For so long, where it is.
    pub offline_seconds: Option<u64>,
    /// What is told of names and attributes, and read of what is cached, may be beyond its TTL.
    pub stale: bool,
    pub limits: Rates,
    /// Requests by S3 operation.
    pub operations: std::collections::BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecentError {
    pub seconds_ago: u64,
    /// All of it, in one line.
    pub what: String,
    /// The path of the file, or the key of the object, that it is about.
    pub path: Option<String>,
    pub cause: String,
    /// What the store calls its answer, where it told of this: its support asks for it.
    pub request_id: Option<String>,
}

/// An upload that is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Names the upload where the key does not (several of one key, or a key that is not UTF-8).
    pub id: String,
    pub bucket: String,
    pub key: String,
    pub state: UploadState,
    /// Acknowledged by the store.
    pub bytes_stored: u64,
    /// On the local disk only.
    pub bytes_staged: u64,
    /// `None` where its writer was cut off.
    pub bytes_total: Option<u64>,
    pub parts_stored: u32,
    pub age_seconds: u64,
    /// Why it failed.
    pub cause: Option<String>,
}

impl Upload {
    /// Whether a user who says `name` (key, id, or `s3://BUCKET/KEY`) means it.
    pub fn is_named(&self, name: &str) -> bool {
        let in_bucket =
            || name.strip_prefix("s3://")?.strip_prefix(&self.bucket)?.strip_prefix('/');
        self.key == name || self.id == name || in_bucket() == Some(&self.key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// A program has the file open.
    Writing,
    /// Closed; on its way.
    Pending,
    /// Its writer was cut off: it is resumed when the file is copied again.
    Interrupted,
    /// The store refuses it; the bytes are kept.
    Failed,
}

/// What the store knows an upload by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UploadName {
    pub key: Key,
    pub upload_id: UploadId,
}

/// An upload that the store has, whichever client began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketUpload {
    pub name: UploadName,
    /// Since it was begun, by the store's clock; `None` where the store does not tell.
    pub age_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredParts {
    pub parts: u64,
    pub bytes: u64,
}

/// The uploads that a journal has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownUploads {
    pub bucket: String,
    /// The cache folder that the journal is in.
    pub folder: String,
    pub uploads: Vec<UploadName>,
    /// Of these one was asked for, and whether it was begun is not known.
    pub asked: Vec<Key>,
}

impl KnownUploads {
    /// Whether an upload is, or may be, one of them.
    pub fn has(&self, upload: &UploadName) -> bool {
        self.uploads.contains(upload) || self.asked.contains(&upload.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts read `status --json`: groups of fields are this program's affair.
    #[test]
    fn a_status_is_one_flat_document() {
        let mut status = MountStatus { inodes: 7, ..MountStatus::default() };
        status.place.bucket = "b".into();
        status.process.pid = 5;
        status.mode.offline = true;
        let text = serde_json::to_string(&status).unwrap();
        let head = concat!(
            r#"{"mount_point":"","bucket":"b","prefix":"","endpoint":"","version":"","pid":5,"#,
            r#""uptime_seconds":0,"read_only":false,"write_back":false,"offline":true,"transfers":[],"#,
            r#""pending_files":0,"pending_bytes":0,"pending_deletions":0,"cache":{"dir":"","#
        );
        assert!(text.starts_with(head), "{text}");
        assert!(text.ends_with(r#""recent_errors":[],"hidden_names":0,"inodes":7}"#), "{text}");
        assert_eq!(serde_json::from_str::<MountStatus>(&text).unwrap(), status);
        // Another version's, which has fields that this one lacks, and lacks some.
        let other: MountStatus = serde_json::from_str(r#"{"pid":5,"new":{}}"#).unwrap();
        assert_eq!((other.process.pid, other.mode.offline), (5, false));
    }
}
