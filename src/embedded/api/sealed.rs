//! Objects whose bytes cannot be had by every reader: those that are encrypted with a key of their client
//! (SSE-C), and those in the archive. Answers as Amazon's store gives them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use crate::embedded::blobs::hex;
use crate::embedded::index::{Condition, Index};
use crate::embedded::records::{Attributes, Object};

/// The one algorithm of SSE-C.
const ALGORITHM: &str = "AES256";
/// What is said of an object that was restored from the archive. It does not go back.
const RESTORED: &str = "ongoing-request=\"false\", expiry-date=\"Fri, 31 Dec 2100 00:00:00 GMT\"";

/// The MD5 of the client's key that a request sends along, `None` where it sends none.
macro_rules! customer_key {
    ($input:expr) => {
        $crate::embedded::api::sealed::key_md5(
            $input.sse_customer_algorithm.as_deref(),
            $input.sse_customer_key.as_deref(),
            $input.sse_customer_key_md5.as_deref(),
        )
    };
}
pub(super) use customer_key;

/// The same, of the source of a copy.
macro_rules! source_key {
    ($input:expr) => {
        $crate::embedded::api::sealed::key_md5(
            $input.copy_source_sse_customer_algorithm.as_deref(),
            $input.copy_source_sse_customer_key.as_deref(),
            $input.copy_source_sse_customer_key_md5.as_deref(),
        )
    };
}
pub(super) use source_key;

pub(super) fn key_md5(
    algorithm: Option<&str>,
    key: Option<&str>,
    md5: Option<&str>,
) -> S3Result<Option<String>> {
    let (algorithm, key, md5) = match (algorithm, key, md5) {
        (None, None, None) => return Ok(None),
        (Some(algorithm), Some(key), Some(md5)) => (algorithm, key, md5),
        _ => return Err(s3_error!(InvalidArgument, "algorithm, key and its MD5 go together")),
    };
    if algorithm != ALGORITHM {
        return Err(s3_error!(InvalidEncryptionAlgorithmError));
    }
    let bytes = BASE64.decode(key).unwrap_or_default();
    if bytes.len() != 32 {
        return Err(s3_error!(InvalidArgument, "the secret key was invalid for the algorithm"));
    }
    if BASE64.encode(Md5::digest(&bytes)) != md5 {
        return Err(s3_error!(InvalidArgument, "the MD5 of the key is another one"));
    }
    Ok(Some(md5.to_owned()))
}

/// Refuses a request that does not send the key that these attributes name.
pub(super) fn check_key(attributes: &Attributes, sent: Option<&str>) -> S3Result<()> {
    match (attributes.customer_key_md5.as_deref(), sent) {
        (None, None) => Ok(()),
        (Some(wanted), Some(sent)) if wanted == sent => Ok(()),
        (Some(_), Some(_)) => Err(s3_error!(AccessDenied)),
        (Some(_), None) => Err(s3_error!(
            InvalidRequest,
            "The object was stored using a form of Server Side Encryption. The correct parameters must be \
             provided to retrieve the object."
        )),
        (None, Some(_)) => Err(s3_error!(
            InvalidRequest,
            "The encryption parameters are not applicable to this object."
        )),
    }
}

/// Refuses a request that is to have the bytes of an object.
pub(super) fn check_bytes(attributes: &Attributes, sent: Option<&str>) -> S3Result<()> {
    check_key(attributes, sent)?;
    let is_archived =
        matches!(attributes.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"));
    if is_archived && !attributes.restored {
        return Err(s3_error!(
            InvalidObjectState,
            "The operation is not valid for the object's storage class"
        ));
    }
    Ok(())
}

/// What an answer says of the archive.
pub(super) fn restore(attributes: &Attributes) -> Option<String> {
    attributes.restored.then(|| RESTORED.to_owned())
}

pub(super) fn encryption(attributes: &Attributes) -> Option<ServerSideEncryption> {
    attributes.encryption.clone().map(ServerSideEncryption::from)
}

/// What an answer says of the client's key: the algorithm, and the key's MD5.
pub(super) fn told_key(attributes: &Attributes) -> (Option<String>, Option<String>) {
    let md5 = attributes.customer_key_md5.clone();
    (md5.as_ref().map(|_| ALGORITHM.to_owned()), md5)
}

/// The ETag of bytes of this MD5: with a client's key it is another digest.
pub(super) fn etag_of(md5: &str, key: Option<&str>) -> String {
    match key {
        None => md5.to_owned(),
        Some(key) => hex(&Md5::digest(format!("{key} {md5}"))),
    }
}

/// Brings an object back from the archive, at once.
pub async fn restore_object(
    index: &Index,
    request: S3Request<RestoreObjectInput>,
) -> S3Result<RestoreObjectOutput> {
    let input = request.input;
    let (object, _hold) = index.object(&input.bucket, &input.key)?;
    if check_bytes(&object.attributes, object.attributes.customer_key_md5.as_deref()).is_ok() {
        return Err(s3_error!(InvalidObjectState, "Restore is not allowed for the object's class"));
    }
    let attributes = Attributes { restored: true, ..object.attributes.clone() };
    let restored = Object { attributes, ..Object::clone(&object) };
    index.put(&input.bucket, &input.key, restored, &Condition::Matches(object.etag.clone()))?;
    Ok(RestoreObjectOutput::default())
}
