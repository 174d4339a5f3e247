//! Keys, names and attributes: how the flat keys of a bucket are a tree of directories and files.
//!
//! - [`name`]: which keys can be names, and the key of a name. Pure.
//! - [`attributes`]: mode, owner, times and xattrs as user metadata that s3fs and rclone read. Pure.

pub mod attributes;
pub mod name;
mod xattr;
