//! What integration tests share: the stores they run against.
//!
//! - [`Embedded`]: the embedded store in this process, on a directory of its own, with faults;
//! - [`bucket`]: a bucket as another client sees it;
//! - [`mount`]: real mounts of the real program, which can be killed;
//! - [`moto`]: moto's S3, a process for each test;
//! - [`hostile`]: a server that answers what a test makes up;
//! - [`proxy`]: the network between a mount and its store, which can be taken away;
//! - [`services`]: stand-ins of the services that give credentials;
//! - [`tls`]: TLS before a store, and a proxy on the way to it;
//! - [`turning`]: a network that turns bits of what is sent;
//! - [`weed`]: SeaweedFS, one process for each test binary, a fresh bucket for each test;
//! - [`raw`]: signed requests whose answers are seen as they come over the wire.

// Each test binary uses its own part of this. What fails here fails the test.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "embedded")]
pub mod bucket;
#[cfg(feature = "embedded")]
mod embedded;
pub mod hostile;
pub mod moto;
#[cfg(feature = "embedded")]
pub mod mount;
pub mod proxy;
pub mod raw;
pub mod services;
pub mod tls;
pub mod turning;
pub mod weed;

#[cfg(feature = "embedded")]
pub use embedded::Embedded;

pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";
pub const BUCKET: &str = "test-bucket";

/// Those that test stores know.
pub fn credentials() -> ratchetfs::internals::StaticCredentials {
    ratchetfs::internals::StaticCredentials {
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        session_token: None,
    }
}

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// close(2) with its error, which dropping a `File` swallows.
pub fn close(file: std::fs::File) -> Result<(), i32> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is the file's own, and given up here.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}
