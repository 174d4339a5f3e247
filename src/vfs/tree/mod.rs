//! The tree as the kernel knows it.
//!
//! [`Inode`] is a file or directory, [`InodeTable`] finds it by number and by name, `subtrees` has the operation locks of
//! whole directories. [`Tree`] puts them together: where something is, how it is found (`lookup`), what stat(2) says of
//! it. [`Directories`] are the open ones and their scans.

mod inode;
mod listing;
mod lookup;
mod mirror;
mod places;
mod subtrees;
mod table;

pub use inode::{Inode, InodeState, Opens, ROOT_INO, new_state};
pub use listing::{Directories, Entry};
pub use mirror::Mirror;
pub use places::Tree;
