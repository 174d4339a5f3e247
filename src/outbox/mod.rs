//! Layers of a mount's store that need the journal: what leaves for the store, and in which order.
//!
//! - [`Deletions`] sends later, and many at once, what unlink(2) has journaled as deleted;
//! - [`Barrier`] syncs the journal before a request that a loss of power would otherwise undo.

mod barrier;
mod deletions;
mod error;

pub use barrier::Barrier;
pub use deletions::Deletions;
