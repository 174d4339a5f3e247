//! ratchetfs mounts an object-store bucket as a directory.

pub mod budget;
pub mod buffer;
pub mod cli;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod control;
pub mod mount;
pub mod namespace;
pub mod part;
pub mod range;
pub mod settings;
pub mod store;
