//! ratchetfs mounts an object-store bucket as a directory.

pub mod part;
pub mod range;
pub mod store;
