//! The error of a layer where the journal fails it.

use std::io;

use crate::store::{ErrorKind, StoreError};

pub(super) fn journal_failed(operation: &'static str, error: io::Error) -> StoreError {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let kind = if full { ErrorKind::NoSpace } else { ErrorKind::Invalid };
    StoreError::new(kind, operation, format!("the journal: {error}"))
}
