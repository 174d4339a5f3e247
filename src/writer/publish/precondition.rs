//! What must be true of the key for an object to be made there, where the store cannot check it by itself.

use crate::store::{ErrorKind, Key, Precondition, StoreError};
use crate::writer::content::readback::stale_if_replaced;
use crate::writer::error::WriteError;
use crate::writer::state::Draft;

/// Where the store cannot check a precondition itself, or not this one, look first: the window is short, not none.
pub(super) async fn checked(
    draft: &Draft,
    key: &Key,
    precondition: Precondition,
) -> Result<Precondition, WriteError> {
    let is_weak = matches!(&precondition, Precondition::Matches(etag) if etag.is_weak());
    if draft.writers.store.capabilities().conditional_writes && !is_weak {
        return Ok(precondition);
    }
    looked_at(draft, key, &precondition).await
}

/// Checks a precondition by a HEAD; none is left to be sent.
pub(super) async fn looked_at(
    draft: &Draft,
    key: &Key,
    precondition: &Precondition,
) -> Result<Precondition, WriteError> {
    match precondition {
        Precondition::None => {}
        Precondition::Matches(etag) => {
            let head = draft.writers.store.head(key).await.map_err(stale_if_replaced)?;
            if head.etag != *etag {
                return Err(WriteError::Stale);
            }
        }
        Precondition::Absent => match draft.writers.store.head(key).await {
            Ok(_) => return Err(WriteError::Exists),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        },
    }
    Ok(Precondition::None)
}

/// The store refused to replace, or to create, the object.
pub(super) fn refused(error: StoreError, precondition: &Precondition) -> WriteError {
    match (error.kind, precondition) {
        (ErrorKind::PreconditionFailed, Precondition::Absent) => WriteError::Exists,
        (ErrorKind::PreconditionFailed | ErrorKind::NotFound, _) => WriteError::Stale,
        _ => WriteError::Store(error),
    }
}
