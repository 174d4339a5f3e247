//! What a failed operation tells the program that asked: one errno for each cause.

use std::fmt;
use std::io;

use crate::namespace::attributes::NoSpace;
use crate::namespace::name::NameError;
use crate::store::{ErrorKind, Key, RequestId, StoreError};
use crate::upload::UploadError;
use crate::writer::WriteError;

/// Why an operation failed. The errno goes to the program, the rest to the log and `status`.
#[derive(Clone, Debug)]
pub struct VfsError {
    pub errno: i32,
    /// The store was asked and did not answer.
    pub unanswered: bool,
    /// The log has it already.
    pub(super) noted: bool,
    /// The file or object that it is about.
    pub(super) path: Option<String>,
    pub(super) cause: String,
    /// What the store calls its answer, where it told of this.
    pub(super) request_id: Option<RequestId>,
}

impl fmt::Display for VfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.cause)?;
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for VfsError {}

pub type Result<T, E = VfsError> = std::result::Result<T, E>;

impl VfsError {
    pub fn new(errno: i32, text: impl Into<String>) -> VfsError {
        VfsError {
            errno,
            unanswered: false,
            noted: false,
            path: None,
            cause: text.into(),
            request_id: None,
        }
    }

    /// An answer that programs expect, no fault: not worth a line in the log.
    pub fn plain(errno: i32) -> VfsError {
        VfsError::new(errno, io::Error::from_raw_os_error(errno).to_string())
    }

    /// The same error, which says which file it is about.
    pub(super) fn of_key(self, key: &Key) -> VfsError {
        VfsError { path: Some(key.to_string()), ..self }
    }

    fn of_store(errno: i32, error: &StoreError) -> VfsError {
        VfsError { request_id: error.request_id.clone(), ..VfsError::new(errno, error.cause()) }
    }

    /// The same error, told to the log.
    pub(super) fn noted(self) -> VfsError {
        VfsError { noted: true, ..self }
    }

    pub(super) fn is_noted(&self) -> bool {
        self.noted
    }

    /// Whether the log should have it: something went wrong outside the program that asked.
    pub fn is_fault(&self) -> bool {
        matches!(
            self.errno,
            libc::EIO
                | libc::EACCES
                | libc::EPERM
                | libc::EREMOTEIO
                | libc::ESTALE
                | libc::ENOSPC
                | libc::EDQUOT
                | libc::ETIMEDOUT
                | libc::ENETUNREACH
        )
    }
}

impl From<StoreError> for VfsError {
    fn from(error: StoreError) -> Self {
        let unanswered = match error.kind {
            ErrorKind::Offline | ErrorKind::Timeout => true,
            ErrorKind::Transient => error.status.is_none(),
            _ => false,
        };
        VfsError {
            unanswered,
            path: error.key.as_ref().map(ToString::to_string),
            ..VfsError::of_store(store_errno(error.kind), &error)
        }
    }
}

/// The one map from the store's errors to errno.
fn store_errno(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoSuchBucket => libc::ENOENT,
        ErrorKind::PreconditionFailed | ErrorKind::InvalidRange => libc::ESTALE,
        ErrorKind::Denied => libc::EACCES,
        // No program takes it for something else: EACCES would send its user to chmod, EIO to the disk, ENODATA is an
        // attribute's, and EBUSY is tried again.
        ErrorKind::Archived => libc::EREMOTEIO,
        ErrorKind::Locked => libc::EPERM,
        ErrorKind::Unsupported => libc::EOPNOTSUPP,
        ErrorKind::TooLarge => libc::EFBIG,
        ErrorKind::NoSpace => libc::EDQUOT,
        ErrorKind::NotKept => libc::ENETUNREACH,
        ErrorKind::NoSuchUpload
        | ErrorKind::Invalid
        | ErrorKind::Throttled
        | ErrorKind::Transient
        | ErrorKind::Timeout
        | ErrorKind::Corrupt
        | ErrorKind::Damaged
        | ErrorKind::Offline => libc::EIO,
    }
}

impl From<WriteError> for VfsError {
    fn from(error: WriteError) -> Self {
        let errno = match &error {
            WriteError::Store(error) => match error.kind {
                // The file being written cannot be "not found".
                ErrorKind::NotFound | ErrorKind::NoSuchBucket => libc::EIO,
                kind => store_errno(kind),
            },
            WriteError::Disk(error) => error.raw_os_error().unwrap_or(libc::EIO),
            WriteError::TooLarge(_) => libc::EFBIG,
            WriteError::Stale => libc::ESTALE,
            WriteError::Exists => libc::EEXIST,
            WriteError::Damaged(_) | WriteError::Lost | WriteError::Panicked => libc::EIO,
        };
        match &error {
            WriteError::Store(error) => VfsError::of_store(errno, error),
            other => VfsError::new(errno, other.to_string()),
        }
    }
}

impl From<UploadError> for VfsError {
    fn from(error: UploadError) -> Self {
        WriteError::from(error).into()
    }
}

impl From<io::Error> for VfsError {
    fn from(error: io::Error) -> Self {
        VfsError::new(error.raw_os_error().unwrap_or(libc::EIO), format!("local disk: {error}"))
    }
}

impl From<NameError> for VfsError {
    fn from(error: NameError) -> Self {
        VfsError::plain(match error {
            NameError::Invalid => libc::EINVAL,
            NameError::TooLong => libc::ENAMETOOLONG,
            NameError::NotUtf8 => libc::EILSEQ,
        })
    }
}

impl From<NoSpace> for VfsError {
    fn from(_: NoSpace) -> Self {
        VfsError::plain(libc::ENOSPC)
    }
}
