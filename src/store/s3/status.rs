//! The one map from what a store answers to what the caller should do.

use crate::store::ErrorKind;

/// The kind of a failed request, by its S3 error code where there is one, else by its HTTP status; and by its message,
/// where stores have no code of their own for what they mean.
pub fn kind_of(status: u16, code: Option<&str>, message: &str) -> ErrorKind {
    let is_locked = code.is_some_and(|code| is_of_lock(code, message));
    let told = if is_locked { Some(ErrorKind::Locked) } else { code.and_then(kind_of_code) };
    told.unwrap_or_else(|| kind_of_status(status))
}

/// AWS calls it denied, MinIO an invalid request.
fn is_of_lock(code: &str, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    match code {
        "AccessDenied" => says(&["object lock", "legal hold", "retention", "worm"]),
        "InvalidRequest" => says(&["worm protected", "worm-protected"]),
        _ => false,
    }
}

/// `None` for codes that say no more than the status they come with.
fn kind_of_code(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "NoSuchKey" | "NoSuchVersion" => ErrorKind::NotFound,
        "NoSuchBucket" => ErrorKind::NoSuchBucket,
        "NoSuchUpload" => ErrorKind::NoSuchUpload,
        "PreconditionFailed" | "ConditionalRequestConflict" | "NotModified" => {
            ErrorKind::PreconditionFailed
        }
        "InvalidRange" => ErrorKind::InvalidRange,
        "AccessDenied"
        | "AccountProblem"
        | "AllAccessDisabled"
        | "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError"
        | "ExpiredToken"
        | "Forbidden"
        | "InvalidAccessKeyId"
        | "InvalidPayer"
        | "InvalidSecurity"
        | "InvalidToken"
        | "NotSignedUp"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch"
        | "TokenRefreshRequired"
        | "UserDisable" => ErrorKind::Denied,
        // The second: CopyObject.
        "InvalidObjectState" | "ObjectNotInActiveTierError" => ErrorKind::Archived,
        // OSS; the others are those of Google's store.
        "FileImmutable" | "ObjectLocked" | "ObjectUnderActiveHold" | "RetentionPolicyNotMet" => {
            ErrorKind::Locked
        }
        "NotImplemented" | "MethodNotAllowed" => ErrorKind::Unsupported,
        "EntityTooLarge" => ErrorKind::TooLarge,
        // More user metadata than fits is reported as no space, as ENOSPC of setxattr means it.
        "MetadataTooLarge"
        | "QuotaExceeded"
        | "QuotaExceededException"
        | "XMinioAdminBucketQuotaExceeded"
        | "XMinioStorageFull"
        | "StorageFull"
        | "InsufficientStorage" => ErrorKind::NoSpace,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "TooManyRequests"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "ExceedQPSLimit"
        | "QpsLimitExceeded"
        | "DownloadTrafficRateLimitExceeded"
        | "UploadTrafficRateLimitExceeded"
        | "TotalQpsLimitExceeded" => ErrorKind::Throttled,
        // The body did not arrive as it was sent: 400 by status, but worth sending again. No outage, though.
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentChecksumMismatch"
        | "XAmzContentSHA256Mismatch" => ErrorKind::Corrupt,
        "IncompleteBody"
        | "InternalError"
        | "OperationAborted"
        | "RequestTimeout"
        | "XMinioServerNotInitialized" => ErrorKind::Transient,
        _ => return None,
    })
}

fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        304 | 412 => ErrorKind::PreconditionFailed,
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::Unsupported,
        408 => ErrorKind::Timeout,
        413 => ErrorKind::TooLarge,
        416 => ErrorKind::InvalidRange,
        429 | 503 => ErrorKind::Throttled,
        507 => ErrorKind::NoSpace,
        500 | 502 | 504..=599 => ErrorKind::Transient,
        // A success that is none (an error inside a 200 body without a known code) may pass.
        200..=299 => ErrorKind::Transient,
        _ => ErrorKind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_kind() {
        use ErrorKind::*;
        let table = [
            (404, Some("NoSuchKey"), NotFound),
            (404, None, NotFound),
            (404, Some("NoSuchBucket"), NoSuchBucket),
            (404, Some("NoSuchUpload"), NoSuchUpload),
            (412, Some("PreconditionFailed"), PreconditionFailed),
            (412, None, PreconditionFailed),
            (409, Some("ConditionalRequestConflict"), PreconditionFailed),
            (304, None, PreconditionFailed),
            (416, Some("InvalidRange"), InvalidRange),
            (416, None, InvalidRange),
            (403, Some("AccessDenied"), Denied),
            (403, Some("SignatureDoesNotMatch"), Denied),
            (403, Some("InvalidAccessKeyId"), Denied),
            (403, Some("RequestTimeTooSkewed"), Denied),
            (403, None, Denied),
            (401, None, Denied),
            (400, Some("ExpiredToken"), Denied),
            (400, Some("AuthorizationHeaderMalformed"), Denied),
            (403, Some("QuotaExceeded"), NoSpace),
            (400, Some("MetadataTooLarge"), NoSpace),
            (507, Some("XMinioStorageFull"), NoSpace),
            (507, None, NoSpace),
            (501, Some("NotImplemented"), Unsupported),
            (405, Some("MethodNotAllowed"), Unsupported),
            (400, Some("EntityTooLarge"), TooLarge),
            (413, None, TooLarge),
            (400, Some("EntityTooSmall"), Invalid),
            (400, Some("InvalidPart"), Invalid),
            (400, Some("InvalidPartOrder"), Invalid),
            (400, Some("InvalidArgument"), Invalid),
            (400, None, Invalid),
            (301, Some("PermanentRedirect"), Invalid),
            (307, None, Invalid),
            (503, Some("SlowDown"), Throttled),
            (503, None, Throttled),
            (429, None, Throttled),
            (403, Some("TooManyRequests"), Throttled),
            (500, Some("InternalError"), Transient),
            (500, None, Transient),
            (502, None, Transient),
            (504, None, Transient),
            (200, Some("InternalError"), Transient),
            (200, Some("SlowDown"), Throttled),
            (200, Some("AnythingElse"), Transient),
            (400, Some("RequestTimeout"), Transient),
            (400, Some("BadDigest"), Corrupt),
            (400, Some("InvalidDigest"), Corrupt),
            (400, Some("XAmzContentChecksumMismatch"), Corrupt),
            (409, Some("OperationAborted"), Transient),
            (409, None, Invalid),
            (408, None, Timeout),
            (403, Some("InvalidObjectState"), Archived),
            (409, Some("FileImmutable"), Locked),
        ];
        for (status, code, kind) in table {
            assert_eq!(kind_of(status, code, ""), kind, "{status} {code:?}");
        }
    }

    #[test]
    fn a_lock_is_told_by_the_message_where_the_code_does_not() {
        use ErrorKind::*;
        for (code, message, kind) in [
            ("AccessDenied", "Access Denied because object protected by object lock.", Locked),
            ("InvalidRequest", "Object is WORM protected and cannot be overwritten", Locked),
            ("AccessDenied", "Access Denied", Denied),
            // Of a write to a bucket with a lock, that has no checksum.
            ("InvalidRequest", "Content-MD5 is required with Object Lock parameters", Invalid),
        ] {
            assert_eq!(kind_of(400, Some(code), message), kind, "{message}");
        }
    }
}
