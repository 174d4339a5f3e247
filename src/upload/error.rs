//! Why a part or an upload failed.

use crate::store::{ETag, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("local disk: {0}")]
    Journal(#[from] std::io::Error),
    /// The store says that the upload, or the object that it has made of it, has other bytes than were sent. A new upload
    /// is open and holds no parts yet.
    #[error("{error}")]
    Refuted {
        error: Box<StoreError>,
        /// The object that it has made, where one stands.
        stands: Option<ETag>,
    },
    /// The store has forgotten the upload; a new one is open and holds no parts yet.
    #[error("the store has forgotten the upload")]
    Restarted,
}
