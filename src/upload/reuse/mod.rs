//! What need not be sent, because the bucket has the bytes: objects completed before ([`known_object`]), interrupted
//! uploads of other keys ([`copy_source`]), zeros ([`holes`]).
//!
//! Temporary objects, which some of it takes, are shared by a [`lease`]: the last user deletes them. [`Borrowed`] is what
//! one upload has of all this.

mod borrowed;
mod copy_source;
mod holes;
mod known_object;
mod lease;
mod source;

pub(super) use borrowed::{Borrowed, Lenders};
pub(super) use copy_source::CopySources;
pub(super) use holes::Holes;
pub use holes::TEMPORARY_PREFIX;
pub(super) use known_object::KnownObjects;
pub use known_object::Moving;
pub(super) use source::{Source, is_another_version};
