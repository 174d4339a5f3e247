//! Refusals that are about one object, in words that name the cure: it is archived, it is locked, or it is encrypted with a
//! key that was not sent, or with another one.

use percent_encoding::percent_decode;

use super::exchange::Request;
use super::provider::Provider;
use super::settings::S3Settings;
use crate::store::{ErrorKind, Key, StoreError};

/// The store that refuses, as far as it matters here.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub settings: &'a S3Settings,
    pub provider: Provider,
}

/// The same error, saying what can be done about it.
pub fn explained(at: At<'_>, request: &Request<'_>, error: StoreError) -> StoreError {
    let Some(key) = request.key else { return error };
    match error.kind {
        // Only the source of a copy has to be readable.
        ErrorKind::Archived => match copied_key(request) {
            Some(source) => with_cure(at, error, &source),
            None => with_cure(at, error, key),
        },
        ErrorKind::Locked => with_cure(at, error, key),
        ErrorKind::Denied | ErrorKind::Invalid => with_cure_of_key(at, request, error),
        _ => error,
    }
}

/// The same, of what is archived or locked.
pub fn with_cure(at: At<'_>, mut error: StoreError, key: &Key) -> StoreError {
    let cure = match error.kind {
        ErrorKind::Archived => how_to_restore(at, key),
        ErrorKind::Locked => format!(
            "{key} is under retention or a legal hold, and can be changed and deleted when that has ended"
        ),
        _ => return error,
    };
    error.message = format!("{} ({cure})", error.message);
    error
}

/// What is said of an object in the archive, with the command that brings it back.
pub fn how_to_restore(at: At<'_>, key: &Key) -> String {
    let (bucket, name) = (&at.settings.bucket, key.as_text());
    let command = match at.provider {
        Provider::Oss => format!("ossutil restore {}", quoted(&format!("oss://{bucket}/{name}"))),
        Provider::Tos => format!("tosutil restore {}", quoted(&format!("tos://{bucket}/{name}"))),
        _ => format!(
            "aws s3api restore-object --bucket {bucket} --key {} --restore-request Days=7",
            quoted(&name)
        ),
    };
    format!("{key} is archived; restore it first: {command}")
}

/// A key that is missing, or not wanted, is told by the message; by a bare 400 where the answer to a HEAD has none.
/// One that is wrong is denied like anything else.
fn with_cure_of_key(at: At<'_>, request: &Request<'_>, mut error: StoreError) -> StoreError {
    let is_head = request.operation == "HeadObject";
    let is_told = error.message.to_ascii_lowercase().contains("encryption");
    let is_of_key = error.status == Some(400) && (is_told || is_head && error.code.is_none());
    let is_bare = matches!(error.code.as_deref(), None | Some("AccessDenied"));
    let cure = match (is_sealed(request), error.kind) {
        _ if matches!(request.operation, "PutObject" | "CreateMultipartUpload") => return error,
        (true, ErrorKind::Denied) if is_bare => {
            "either the policy forbids it, or the object is encrypted with another key than that of \
             --sse-c-key-file"
        }
        (true, _) if is_of_key => {
            "the object is not encrypted with the key of --sse-c-key-file: read it by a mount without that"
        }
        (false, _) if is_of_key && is_told => {
            "the object is encrypted with a key of its writer: give that with --sse-c-key-file"
        }
        (false, _) if is_of_key && at.settings.new_objects.customer_key.is_none() => {
            "perhaps the object is encrypted with a key of its writer: give that with --sse-c-key-file"
        }
        _ => return error,
    };
    error.kind = ErrorKind::Denied;
    error.message = format!("{} ({cure})", error.message);
    error
}

fn is_sealed(request: &Request<'_>) -> bool {
    request.headers.contains_key("x-amz-server-side-encryption-customer-algorithm")
}

/// The source of a copy, as [`super::object::copy_source`] has written it.
fn copied_key(request: &Request<'_>) -> Option<Key> {
    let source = request.headers.get("x-amz-copy-source")?.as_bytes();
    let behind_bucket = source.strip_prefix(b"/")?.splitn(2, |byte| *byte == b'/').nth(1)?;
    Some(Key::new(percent_decode(behind_bucket).collect::<Vec<u8>>()))
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn an_archived_source_of_a_copy_is_named_with_its_cure() {
        let (settings, target) = (S3Settings::new("bucket"), Key::from("target"));
        let at = At { settings: &settings, provider: Provider::Aws };
        let mut request = Request::new("CopyObject", Method::PUT, Some(&target));
        let source = HeaderValue::from_static("/bucket/d/it%27s%20old");
        request.headers.insert("x-amz-copy-source", source);
        let error = StoreError::new(ErrorKind::Archived, "CopyObject", "no");
        let told = explained(at, &request, error).to_string();
        let cure = r"--bucket bucket --key 'd/it'\''s old' --restore-request Days=7";
        assert!(told.contains("d/it's old is archived") && told.contains(cure), "{told}");
    }

    #[test]
    fn a_key_that_is_missing_is_denied_with_its_cure() {
        let (settings, key) = (S3Settings::new("bucket"), Key::from("k"));
        let at = At { settings: &settings, provider: Provider::Aws };
        for (operation, status, message, is_told) in [
            ("GetObject", 400, "stored using a form of Server Side Encryption.", true),
            ("HeadObject", 400, "Bad Request", true),
            ("GetObject", 400, "Bad Request", false),
            ("HeadObject", 403, "Forbidden", false),
        ] {
            let request = Request::new(operation, Method::GET, Some(&key));
            let kind = if status == 403 { ErrorKind::Denied } else { ErrorKind::Invalid };
            let error =
                StoreError { status: Some(status), ..StoreError::new(kind, operation, message) };
            let error = explained(at, &request, error);
            assert_eq!(error.message.contains("--sse-c-key-file"), is_told, "{error}");
            assert_eq!(error.kind == ErrorKind::Denied, is_told || status == 403, "{error}");
        }
    }
}
