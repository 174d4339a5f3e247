//! The operations that change or read files, one file a subject. Each takes the file system whose components it uses.

pub mod close;
pub mod directory;
pub mod file;
pub mod history;
pub mod ranges;
pub mod read;
pub mod relocate;
pub mod rename;
pub mod rename_log;
pub mod setattr;
pub mod symlink;
pub mod unlink;
pub mod verify;
pub mod xattr;
