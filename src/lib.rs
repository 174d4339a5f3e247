//! ratchetfs mounts an object-store bucket as a directory, and never loses ground: what was fetched stays fetched, what
//! was sent stays sent, through a crash and a remount.
//!
//! This crate is the program `ratchetfs` ([`main`]) and, with the feature `embedded`, the S3 server that it can
//! bring along ([`embedded`]), which other programs' tests may want too. Everything else is private.
//!
//! # The idea
//! An object is a row of parts, and each part is *resident* in memory, on the local disk, in the store, or in several of
//! them. Reads fetch parts, writes fill parts and send them, eviction forgets a residency that another place still
//! has. The *journal* remembers what is on the disk and in the store: replaying it after a crash is all that resuming
//! is. docs/architecture.md tells it in full.
//!
//! # The map
//! Each module uses those below it only (`tests/architecture.rs` holds that):
//!
//! | | |
//! |---|---|
//! | `cli` | commands, options, the layers of configuration |
//! | `mount` | makes a mount out of components, runs it, takes it down |
//! | `fuse` · `control` | requests of the kernel · the unix socket of a mount |
//! | `recovery` | what a replayed journal can hold, and what is done about it, in order |
//! | `vfs` | one method an operation, over `tree`, `handles`, `versions`, `ops`, `background`; needs no kernel |
//! | `reader` · `writer` | read-ahead by arithmetic · fills parts, sends them, publishes the object |
//! | `cache` · `upload` · `namespace` | bytes that are resident, fetched once · multipart uploads, gone on with after a crash · keys, names, attributes, listings |
//! | `outbox` | layers of the store that need the journal: deferred deletes, the barrier |
//! | `journal` · `staging` · `budget` | what is where · written bytes on the disk · the bytes of memory |
//! | `store` | the trait of an object store, its errors, the S3 client, the layers around it: retry, limits, hedging |
//! | `checked` · `private` · `buffer` · `cow` · `part` · `range` · `progress` · `seam` · `secret` · `supervise` · `without` · `lock` · `clock` · `disk` · `random` · `blocking` | leaves |
//!
//! # Where to begin
//! docs/architecture.md follows one read(2), and one write(2) with its close(2), through all of these. Then:
//! 1. `store/mod.rs`: what an object store can do;
//! 2. `journal/record.rs`: what survives a crash;
//! 3. `cache/object.rs`: how a read is put together;
//! 4. `writer/draft.rs`: what is done with a file that is being written;
//! 5. `vfs/mod.rs`: the façade that the kernel's requests meet, with the map of its parts.

#![cfg_attr(
    not(test),
    warn(clippy::disallowed_methods, reason = "what a simulation owns has a leaf")
)]

mod blocking;
mod budget;
mod buffer;
mod cache;
mod checked;
mod cli;
mod clock;
mod control;
mod cow;
mod disk;
#[cfg(feature = "embedded")]
pub mod embedded;
mod fuse;
mod journal;
mod lock;
mod mount;
mod namespace;
mod outbox;
mod part;
mod private;
mod progress;
mod random;
mod range;
mod reader;
mod recovery;
mod seam;
mod secret;
mod settings;
mod staging;
mod store;
mod supervise;
mod upload;
mod vfs;
mod without;
mod writer;

pub use cli::main;

/// What the tests in `tests/` reach into. It changes without notice.
#[doc(hidden)]
pub mod internals {
    pub use crate::control::client::Client as MountClient;
    pub use crate::control::messages::MountStatus;
    pub use crate::control::socket;
    pub use crate::journal::log::read_only as read_journal;
    pub use crate::journal::{Fingerprint, Identity, Journal, Record};
    pub use crate::namespace::{AttributeCache, Attributes, Kind};
    pub use crate::part::PartPlan;
    pub use crate::range::ByteRange;
    pub use crate::store::meter::Meter;
    pub use crate::store::s3::{
        Addressing, Provider, S3Settings, S3Store, StaticCredentials, cure,
    };
    pub use crate::store::{
        CopyRequest, ETag, ErrorKind, Key, ListRequest, Mark, Metadata, ObjectSum, Precondition,
        Result, SharedStore, Store, StoreError, StoredPart, Summed, TransferSettings, UploadId,
        WriteOptions, build,
    };
}
