//! How a running mount is spoken to: one unix socket a mount, JSON lines over it, and the trait that
//! the mount answers through ([`Control`]). [`messages`] is what crosses the socket, [`socket`] where it lies,
//! [`server`] and [`client`] its two ends, [`signals`] the other way to ask a mount to end, [`mount_table`] what
//! the kernel has mounted, and for which user, [`connection`] the way to cut a mount off.
//!
//! Sockets, their directories and the table of mounts are the machine's, which no simulation owns: std is asked for them.

#![allow(clippy::disallowed_methods, reason = "sockets and mounts, not the mount's files")]

mod api;
pub mod client;
pub mod connection;
pub mod messages;
pub mod mount_table;
pub mod server;
pub mod signals;
pub mod socket;

pub use api::{Control, ControlError, Result};
