//! Errors that name what they are about.

use std::io;

pub(super) fn context(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
