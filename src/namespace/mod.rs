//! Keys, names and attributes: how the flat keys of a bucket are a tree of directories and files.
//!
//! - [`name`]: which keys can be names, and the key of a name; [`escape`]: names that are not UTF-8. Pure.
//! - [`attributes`]: mode, owner, times and xattrs as user metadata that s3fs and rclone read. Pure.
//! - [`listings`]: what fresh listings and this mount's own changes know, shared by all; by [`directory`],
//!   its pages kept as [`segment`]s; the time comes from [`clock`].
//! - [`dir_stream`]: one scan of one directory, by [`page`]s.
//! - [`resolve`]: a cold lookup in one round trip.
//! - [`memory`]: attributes once seen, kept across remounts.
//! - [`relist`]: a page of the listing where names are missed one after the other.
//! - [`numbers`]: inode numbers, and the order that they put a listing in.
//! - [`ahead`]: parallel HEADs ahead of a caller that walks a listing.

pub mod ahead;
pub mod attributes;
pub mod clock;
pub mod content_type;
pub mod dir_stream;
mod directory;
pub mod escape;
#[cfg(test)]
mod fake;
pub mod listings;
pub mod memory;
pub mod name;
pub mod names;
pub mod numbers;
mod page;
pub mod relist;
pub mod resolve;
pub mod segment;
mod xattr;

pub use ahead::{Ahead, AheadOptions};
pub use attributes::{Attributes, Defaults, Kind, NoSpace};
pub use clock::{Clock, SystemClock};
pub use dir_stream::{DirEntry, DirStream};
pub use listings::{Known, Listings};
pub use memory::AttributeMemory;
pub use name::{NameError, Root};
pub use resolve::{Resolved, resolve};
pub use segment::{Listed, Marker};
