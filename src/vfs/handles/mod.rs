//! Open files: their handles, and how the kernel moves their bytes.
//!
//! `transport` chooses the way of the bytes at open, from what `small_readers` and the cache know; [`OpenFiles`] counts
//! handles in and keeps what the kernel has of a file true; `last_close` tells which close(2) publishes.

mod handle;
mod last_close;
mod open_files;
mod small_readers;
mod transport;

pub use handle::{FileHandle, OpenMode};
pub use open_files::{KernelCache, OpenFiles};
pub use transport::{COLD_BYTES_MIN, Opened, Prospects, Transport};
