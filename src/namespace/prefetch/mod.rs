//! The attributes of what a listing showed, by HEAD where they are not remembered, in parallel ahead of
//! a caller that walks the listing.
//!
//! The first question about an entry that nothing is known of starts HEADs for the entries behind it: in the
//! order of the listing, or in that of inode numbers for a caller that was seen to go by it ([`walk`]).
//! As long as the caller follows, the window doubles up to four times the concurrency, or to what it asks
//! for in half of the TTL, so that N entries take the time of N / concurrency round trips. HEADs for a caller
//! that goes elsewhere are dropped in time; one that stays away for [`walk::IDLE`] finds that those not yet sent
//! never were.
//!
//! A caller that goes through directories, looking into one after the other, is looked ahead of by [`descent`].
//!
//! HEADs outlive the listing that they follow: what one has just found is known to be there, however old the
//! page that named it ([`Prefetch::confirm`]), so a walk that takes longer than the TTL lists nothing twice.
//!
//! Consistency: attributes and length are of one version: where the HEAD finds another than the listing,
//! the newer is returned and noted. With `fast`, a listing is trusted alone and no HEAD is sent.
//! Retries: the store's. Cancellation: a HEAD is dropped when nothing waits for it, neither a caller nor
//! a window. Crash: see [`super::attribute_cache`].

mod descent;
mod directories;
mod files;
mod single_flight;
#[cfg(test)]
mod tests;
mod walk;

pub use files::{Prefetch, PrefetchOptions};
