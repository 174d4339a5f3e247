//! ratchetfs mounts an object-store bucket as a directory.

pub mod namespace;
pub mod part;
pub mod range;
pub mod store;
