//! What can go wrong between this machine and the store, sorted by what the caller should do.

use std::fmt;
use std::time::Duration;

use super::key::Key;
use super::request_id::RequestId;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such object. Do: report ENOENT.
    NotFound,
    /// There is no such bucket. Do: stop.
    NoSuchBucket,
    /// The store has forgotten the upload. Do: send its parts again.
    NoSuchUpload,
    /// Another version than the one that was asked for. Do: ESTALE (reads), refuse (writes).
    PreconditionFailed,
    /// The object is shorter than the range. Do: as for `PreconditionFailed`.
    InvalidRange,
    /// The store refuses, and will refuse again (403 and its like, bad credentials). Do: EACCES.
    Denied,
    /// The object's bytes are in an archive, and have not been restored. Do: EREMOTEIO.
    Archived,
    /// The object is under retention or a legal hold: it cannot be changed or deleted. Do: EPERM.
    Locked,
    /// The store, or this client, cannot do this at all (501 and its like). Do: another way.
    Unsupported,
    /// The request is wrong and would be wrong again (400 and its like). Do: EIO.
    Invalid,
    /// A part or an object is over the store's limits. Do: EFBIG.
    TooLarge,
    /// Out of quota or space. Do: EDQUOT or ENOSPC.
    NoSpace,
    /// Slow down (503 SlowDown, 429). Do: try again, later and less.
    Throttled,
    /// A fault that may pass: 5xx, connection refused or reset, a body cut short. Do: try again.
    Transient,
    /// No answer in time. Do: try again.
    Timeout,
    /// An answer that contradicts itself or the request (length, range, ETag), or a request that arrived with other
    /// bytes than were sent. Do: try again, some times; never believe its bytes.
    Corrupt,
    /// The bytes are not those that were written, for good: they have changed in this machine's memory, or the store has
    /// made an object of others. Do: EIO; what is still here can be sent again.
    Damaged,
    /// The circuit breaker is open: the store has not answered for a while. Do: fail now.
    Offline,
    /// The mount is offline by its user's word, and this is not on this machine. Do: ENETUNREACH.
    NotKept,
}

impl ErrorKind {
    /// Whether the store has said no, so that the request certainly had no effect.
    pub fn is_refusal(self) -> bool {
        match self {
            ErrorKind::NotFound
            | ErrorKind::NoSuchBucket
            | ErrorKind::NoSuchUpload
            | ErrorKind::PreconditionFailed
            | ErrorKind::InvalidRange
            | ErrorKind::Denied
            | ErrorKind::Archived
            | ErrorKind::Locked
            | ErrorKind::Unsupported
            | ErrorKind::Invalid
            | ErrorKind::TooLarge
            | ErrorKind::NoSpace
            | ErrorKind::NotKept => true,
            ErrorKind::Throttled
            | ErrorKind::Transient
            | ErrorKind::Timeout
            | ErrorKind::Corrupt
            | ErrorKind::Damaged
            | ErrorKind::Offline => false,
        }
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorKind::Throttled | ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Corrupt
        )
    }
}

/// `None` where the store says that there is no such object.
pub fn present<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A failed request. The message never holds a credential, a signature or a signed URL.
#[derive(Clone, Debug)]
pub struct StoreError {
    pub kind: ErrorKind,
    /// The S3 operation, such as `UploadPart`.
    pub operation: &'static str,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// The S3 error code, such as `NoSuchKey`, where there was one.
    pub code: Option<String>,
    pub message: String,
    /// How long the store asks to be left alone, where it does (Retry-After).
    pub retry_after: Option<Duration>,
    /// What the store calls its answer, where there was one.
    pub request_id: Option<RequestId>,
    /// The object, or the prefix of a listing, where one request is about one. No part of the text, since those that
    /// tell of an error often name the file.
    pub key: Option<Box<Key>>,
}

impl StoreError {
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        StoreError {
            kind,
            operation,
            status: None,
            code: None,
            message: message.into(),
            retry_after: None,
            request_id: None,
            key: None,
        }
    }

    /// The same error, of this answer.
    pub fn of_request(mut self, id: Option<RequestId>) -> Self {
        self.request_id = self.request_id.or(id);
        self
    }

    /// The same error, of this object or prefix.
    pub fn of_key(mut self, key: Option<&Key>) -> Self {
        self.key = self.key.or_else(|| key.cloned().map(Box::new));
        self
    }

    /// The text without the request's id: equal for equal faults.
    pub fn cause(&self) -> String {
        StoreError { request_id: None, ..self.clone() }.to_string()
    }

    /// The bytes that are to be sent are not those that came.
    pub fn damaged(operation: &'static str) -> Self {
        let message = "the bytes have changed in this machine's memory since they were written: \
                       test the memory, and write the file again";
        StoreError::new(ErrorKind::Damaged, operation, message)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.operation)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        if let Some(code) = &self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StoreError {}
