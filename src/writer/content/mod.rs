//! Bytes in and out of a draft, and on the local disk.

mod fill;
mod ranges;
pub(in crate::writer) mod readback;
pub(in crate::writer) mod stage;

pub use ranges::Seek;
