//! Keys, names and attributes: how the flat keys of a bucket are a tree of directories and files.
//!
//! [`catalog`] is the door: it finds what a name is, lists directories, and is told what this mount has done. Behind it:
//!
//! - `listings`: what fresh listings and this mount's own changes know, shared by all; by `directory`,
//!   its pages kept as `segment`s; the time comes from `clock`.
//! - [`dir_stream`]: one scan of one directory, by `page`s.
//! - `resolve`: a cold lookup in one round trip.
//! - [`attribute_cache`]: attributes once seen, kept across remounts.
//! - `relist`: a page of the listing where names are missed one after the other.
//! - `prefetch`: parallel HEADs, and pages, ahead of a caller that walks a listing.
//! - [`names`]: names once seen, for mounts that ask no store (`--offline`).
//!
//! Beside it, pure:
//!
//! - [`name`]: which keys can be names, and the key of a name; [`escape`]: names that are not UTF-8.
//! - [`attributes`]: mode, owner, times and xattrs as user metadata that s3fs and rclone read; [`content_type`].
//! - [`numbers`]: inode numbers, and the order that they put a listing in.

pub mod attribute_cache;
pub mod attributes;
pub mod catalog;
mod clock;
pub mod content_type;
pub mod dir_stream;
mod directory;
pub mod escape;
mod listings;
pub mod name;
pub mod names;
pub mod numbers;
mod page;
mod prefetch;
mod relist;
mod resolve;
pub mod segment;
mod xattr;

pub use attribute_cache::AttributeCache;
pub use attributes::{Attributes, Kind};
pub use catalog::{Catalog, CatalogSettings, Found, Stored, Within};
pub use clock::Freshness;
pub use prefetch::PrefetchOptions;
pub use resolve::{ResolveError, any_key};
pub use segment::{Listed, Marker};
