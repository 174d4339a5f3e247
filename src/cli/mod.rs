//! The command line: arguments, environment and file become settings; checks that speak before
//! anything goes to the background; and the commands that talk to a running mount.

pub mod args;
pub mod units;
