//! ratchetfs mounts an object-store bucket as a directory.

pub mod budget;
pub mod buffer;
pub mod cache;
pub mod checked;
pub mod cli;
pub mod control;
pub mod cow;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod fuse;
pub mod journal;
pub mod mount;
pub mod namespace;
pub mod part;
pub mod private;
pub mod progress;
pub mod range;
pub mod reader;
pub mod seam;
pub mod settings;
pub mod staging;
pub mod store;
pub mod upload;
pub mod vfs;
pub mod writer;
