//! The versions of a file: the object that the store has, the draft that is to be the next, and how one becomes the other.
//!
//! `contents` has what an inode holds now, `publish` makes a draft an object, `attributes` saves what has changed of an
//! object that stands, `copy` asks the store for copies and markers, `carried` knows what an object carries beside its
//! bytes. `unsaved` is the list of inodes whose attributes are to be saved.

mod archived;
mod attributes;
mod carried;
mod contents;
mod copy;
mod publish;
mod unsaved;

pub use archived::{refuse_archived, refuse_archived_below};
pub use attributes::without_set_id;
pub use contents::Versions;
pub use copy::{CopyWith, is_gone};
