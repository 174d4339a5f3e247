//! What several operations read from a request, or write into an answer, each field in one way.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Extensions, HeaderMap};
use s3s::dto::*;
use s3s::{S3Result, s3_error};

use crate::embedded::faults::IgnoresChecksum;
use crate::embedded::index::Condition;
use crate::embedded::records::Attributes;

/// User metadata, names and values together, in bytes: Amazon's limit.
const METADATA_BYTES_MAX: usize = 2048;

/// The attributes among the fields of an input that carries them all.
macro_rules! attributes_of {
    ($input:expr) => {
        $crate::embedded::records::Attributes {
            metadata: $input.metadata.clone().unwrap_or_default().into_iter().collect(),
            content_type: $input.content_type.clone(),
            cache_control: $input.cache_control.clone(),
            content_disposition: $input.content_disposition.clone(),
            content_encoding: $input.content_encoding.clone(),
            content_language: $input.content_language.clone(),
            expires: $input.expires.as_ref().and_then($crate::embedded::api::fields::http_date),
            website_redirect: $input.website_redirect_location.clone(),
            tags: $input.tagging.clone().filter(|tags| !tags.is_empty()),
            storage_class: $input
                .storage_class
                .as_ref()
                .map(|class| class.as_str().to_owned())
                .filter(|class| class != s3s::dto::StorageClass::STANDARD),
            encryption: $input.server_side_encryption.as_ref().map(|by| by.as_str().to_owned()),
            kms_key_id: $input.ssekms_key_id.clone(),
            customer_key_md5: $crate::embedded::api::sealed::customer_key!($input)?,
            restored: false,
        }
    };
}
pub(super) use attributes_of;

pub(super) fn check_metadata(attributes: &Attributes) -> S3Result<()> {
    let bytes: usize =
        attributes.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(s3_error!(MetadataTooLarge));
    }
    Ok(())
}

pub(super) fn timestamp(seconds: i64) -> Timestamp {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    (UNIX_EPOCH + since).into()
}

pub(super) fn http_date(time: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    time.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

pub(super) fn of_http_date(text: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text).ok()
}

/// A CRC-32C as Amazon writes it.
pub(super) fn crc_text(crc: u32) -> String {
    BASE64.encode(crc.to_be_bytes())
}

/// A checksum, unless the store is to know nothing of it.
pub(super) fn heeded<T>(told: Option<T>, extensions: &Extensions) -> Option<T> {
    told.filter(|_| extensions.get::<IgnoresChecksum>().is_none())
}

/// Refuses bytes that do not have the CRC-32C that a client has told.
pub(super) fn check_crc(told: Option<&str>, found: Option<u32>) -> S3Result<()> {
    let (Some(told), Some(found)) = (told, found) else { return Ok(()) };
    if told.trim() == crc_text(found) { Ok(()) } else { Err(s3_error!(BadDigest)) }
}

/// The type that goes with it: it is never made of the parts' checksums.
pub(super) fn full_object(crc: Option<u32>) -> Option<ChecksumType> {
    crc.map(|_| ChecksumType::from_static(ChecksumType::FULL_OBJECT))
}

pub(super) fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

pub(super) fn storage_class(attributes: &Attributes) -> String {
    let class = attributes.storage_class.as_deref();
    class.unwrap_or(StorageClass::STANDARD).to_owned()
}

/// Whether `condition` (of If-Match and its like) names this ETag.
pub(super) fn names(condition: &ETagCondition, found: &str) -> bool {
    condition.as_etag().is_none_or(|etag| etag.value().eq_ignore_ascii_case(found))
}

/// The condition of a write.
pub(super) fn write_condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(condition)) if condition.is_any() => Ok(Condition::Absent),
        (Some(condition), None) => Ok(match condition.as_etag() {
            Some(etag) => Condition::Matches(etag.value().to_ascii_lowercase()),
            None => Condition::Present,
        }),
        _ => Err(s3_error!(NotImplemented, "only If-Match or If-None-Match: * on a write")),
    }
}

/// The condition of a write, from headers that `s3s` does not parse for this operation.
pub(super) fn write_condition_of(headers: &HeaderMap) -> S3Result<Condition> {
    let parse = |name: &str| {
        let value =
            headers.get(name).map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        value.transpose().map_err(|_| s3_error!(InvalidArgument, "not an ETag"))
    };
    write_condition(parse("if-match")?.as_ref(), parse("if-none-match")?.as_ref())
}

/// Refuses a copy whose source is not the one that was meant.
pub(super) fn check_copy_source(
    found: &str,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let refused = if_match.is_some_and(|condition| !names(condition, found))
        || if_none_match.is_some_and(|condition| names(condition, found));
    if refused { Err(s3_error!(PreconditionFailed)) } else { Ok(()) }
}

/// Bucket and key of a copy's source, and the version, where one is meant.
pub(super) fn source_of(source: &CopySource) -> S3Result<(&str, &str, Option<&str>)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => Ok((bucket, key, version_id.as_deref())),
        _ => Err(s3_error!(NotImplemented, "only copies of a bucket's objects")),
    }
}

/// As `encoding-type=url` asks: letters, digits and `-_.~/` stay, a space becomes `+`.
fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// How names are written in an answer.
#[derive(Clone, Copy)]
pub(super) struct Naming {
    url: bool,
}

impl Naming {
    pub(super) fn new(encoding: Option<&EncodingType>) -> S3Result<Naming> {
        match encoding {
            None => Ok(Naming { url: false }),
            Some(encoding) if encoding.as_str() == EncodingType::URL => Ok(Naming { url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "the only encoding type is url")),
        }
    }

    pub(super) fn write(self, text: &str) -> String {
        if self.url { url_encoded(text) } else { text.to_owned() }
    }

    /// An optional name: absent where empty.
    pub(super) fn write_some(self, text: &str) -> Option<String> {
        Some(text).filter(|text| !text.is_empty()).map(|text| self.write(text))
    }
}

/// A limit that a client may lower, never raise.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = usize::try_from(asked.unwrap_or(1000));
    asked.map(|asked| asked.min(1000)).map_err(|_| s3_error!(InvalidArgument, "a negative limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_amazon_does() {
        assert_eq!(url_encoded("a b+c/ü\n~"), "a+b%2Bc/%C3%BC%0A~");
    }

    #[test]
    fn a_write_has_one_condition() {
        let any = ETagCondition::Any;
        let one = ETagCondition::ETag(etag("A1"));
        assert!(matches!(write_condition(None, Some(&any)), Ok(Condition::Absent)));
        assert!(
            matches!(write_condition(Some(&one), None), Ok(Condition::Matches(e)) if e == "a1")
        );
        assert!(write_condition(Some(&one), Some(&any)).is_err());
        assert!(write_condition(None, Some(&one)).is_err());
    }
}
