//! Why a part or an upload failed.

use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("local disk: {0}")]
    Journal(#[from] std::io::Error),
    /// The store has forgotten the upload; a new one is open and holds no parts yet.
    #[error("the store has forgotten the upload")]
    Restarted,
}
