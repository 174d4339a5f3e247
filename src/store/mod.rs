//! The object store as the rest of the program sees it: one small object-safe trait, [`Store`], its
//! types, and its errors. [`s3`] is the real client; retry, limits and metering
//! are wrappers, each a [`layer`].
//!
//! Consistency: every answer is checked (length, Content-Range, ETag) before a byte of it is believed.
//! Retries: none here; see [`retry`]. Cancellation: dropping a future drops its request.
//! Crash: nothing is kept on this machine.

mod api;
pub mod breaker;
mod carried;
mod clock;
mod continuation;
mod emptied;
pub mod error;
pub mod first_byte;
pub mod hedge;
mod key;
pub mod layer;
pub mod limit;
mod mark;
#[cfg(test)]
pub(crate) mod memory;
pub mod meter;
pub mod offline;
mod recent;
mod request_id;
pub mod retry;
pub mod s3;
mod sources;
mod stack;
mod tag;
pub mod turns;
pub mod undelete;
mod unpooled;
mod version;
pub mod version_view;

pub use api::{
    Body, Capabilities, CopyRequest, Created, ListPage, ListRequest, ListedObject, ListedUpload,
    Metadata, ObjectHead, ObjectSum, PartBody, PartSource, Precondition, SharedStore, Store,
    StoredPart, Summed, UploadId, WriteOptions,
};
pub use breaker::{OnOutage, Outage, looking};
pub use carried::{Carried, SERVED_HEADERS, Storage, Tags};
pub use clock::StoreClock;
pub use continuation::Continuation;
pub use error::{ErrorKind, Result, StoreError, present};
pub use key::{ETag, Key};
pub use limit::{Rate, Rates};
pub use mark::{MARK, METADATA_BYTES_MAX, Mark};
pub use request_id::RequestId;
pub use retry::{giving_way, impatient};
pub use stack::{Stack, TransferSettings, build, stack, unwrapped};
pub use tag::CompactTag;
pub use unpooled::unpooled;
pub use version::{
    ListedVersion, VersionId, VersionMarkers, VersionObject, VersionsPage, VersionsRequest,
};
