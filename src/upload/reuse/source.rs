//! Where bytes to copy are.

use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, Key};

/// Bytes of an object of the bucket.
pub(in crate::upload) struct Source {
    pub key: Key,
    pub etag: ETag,
    pub range: ByteRange,
}

/// Whether a source is not, or not any more, what it was.
pub(in crate::upload) fn is_another_version(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::PreconditionFailed)
}
