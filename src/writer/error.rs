//! Why a write, a sync or a close failed.

use std::io;
use std::sync::Arc;

use crate::store::{ErrorKind, StoreError};
use crate::upload::UploadError;

/// Why a write, a sync or a close failed. The first failure of a draft is told by all later calls.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("local disk: {0}")]
    Disk(Arc<io::Error>),
    /// The file would not fit into one object with this part size.
    #[error(
        "the file is longer than {0} bytes, the most that an object can hold with this part size"
    )]
    TooLarge(u64),
    /// The object that is being modified was replaced or deleted by another client.
    #[error("the object was changed in the store while it was being modified here")]
    Stale,
    /// The file was to be created only if there was none, and another client created it meanwhile.
    #[error("another client has created the object meanwhile")]
    Exists,
    /// What memory has is not what was written.
    #[error(
        "bytes from {0} on have changed in this machine's memory since they were written: test the memory, and write the file again"
    )]
    Damaged(u64),
    /// Bytes that only the store held are gone from it.
    #[error("the store has lost parts of the unfinished file: write it again")]
    Lost,
    /// What was being done for the file ended in a panic.
    #[error("a fault in this program stopped the upload: write the file again")]
    Panicked,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Disk(Arc::new(error))
    }
}

impl From<UploadError> for WriteError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Refuted { error, .. } => WriteError::from(*error),
            UploadError::Store(error) => WriteError::Store(error),
            UploadError::Journal(error) => error.into(),
            UploadError::Restarted => WriteError::Lost,
        }
    }
}

impl WriteError {
    /// Whether the local disk does not take what it should keep: no room, or an error. Sending it is the way out.
    pub fn is_failing_disk(&self) -> bool {
        // Damage is found in what it should have kept.
        matches!(self, WriteError::Disk(error) if error.kind() != io::ErrorKind::InvalidData)
    }

    /// Whether trying again later, without help, can end differently.
    pub fn is_passing(&self) -> bool {
        match self {
            WriteError::Store(error) => {
                error.kind.is_retryable() || error.kind == ErrorKind::Offline
            }
            WriteError::Disk(_) | WriteError::TooLarge(_) => false,
            WriteError::Stale | WriteError::Exists => false,
            WriteError::Damaged(_) | WriteError::Lost | WriteError::Panicked => false,
        }
    }
}
