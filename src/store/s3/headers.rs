//! Headers into types and back: object heads, user metadata, dates, ranges.
//!
//! User metadata values that are plain ASCII are sent as they are, which is what s3fs and rclone read and
//! write. Non-ASCII ones are sent as one RFC 2047 encoded word, `=?UTF-8?B?…?=`, the form in which AWS
//! itself hands them back; reading undoes both its B and its Q form. Stores decode such words, and would
//! hand back a value of ASCII alone as it is, trimmed: one that a header cannot carry (empty, control
//! characters, spaces at its ends or in a row) therefore goes into its word behind a [`MARK`].

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::store::{
    Carried, ETag, ErrorKind, Metadata, ObjectHead, ObjectSum, RequestId, Result, SERVED_HEADERS,
    Storage, StoreError, Tags,
};

pub const META_PREFIX: &str = "x-amz-meta-";

/// The text of a header; bytes that are not UTF-8 are replaced.
pub fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// What providers call their answers by. The second of AWS's and TOS's names the machine that gave it.
const REQUEST_IDS: [&str; 5] =
    ["x-amz-request-id", "x-oss-request-id", "x-tos-request-id", "x-amz-id-2", "x-tos-id-2"];

/// What the store calls an answer.
pub fn request_id(answer: &HeaderMap) -> Option<RequestId> {
    let values = REQUEST_IDS.iter().filter_map(|name| answer.get(*name));
    RequestId::new(values.map(HeaderValue::as_bytes))
}

/// An error that an answer tells, or is, names it.
pub fn of_answer(answer: &HeaderMap) -> impl Fn(StoreError) -> StoreError + '_ {
    move |err| err.of_request(request_id(answer))
}

/// A value that the program itself made or the user set; refuses what cannot be a header.
pub fn value(operation: &'static str, text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| {
        StoreError::new(
            ErrorKind::Invalid,
            operation,
            format!("{text:?} cannot be sent as a header"),
        )
    })
}

/// Adds `x-amz-meta-*` headers.
pub fn put_metadata(
    operation: &'static str,
    headers: &mut HeaderMap,
    metadata: &Metadata,
) -> Result<()> {
    for (name, text) in metadata {
        let header =
            HeaderName::from_bytes(format!("{META_PREFIX}{name}").as_bytes()).map_err(|_| {
                let message = format!("{name:?} cannot be a metadata name");
                StoreError::new(ErrorKind::Invalid, operation, message)
            })?;
        headers.insert(header, value(operation, &encode_metadata(text))?);
    }
    Ok(())
}

/// U+FEFF before a value makes it non-ASCII, so that every store keeps it inside an encoded word.
const MARK: char = '\u{feff}';

fn encode_metadata(value: &str) -> String {
    let fits = !value.is_empty()
        && !value.bytes().any(|byte| byte.is_ascii_control())
        && !value.starts_with(' ')
        && !value.ends_with(' ')
        && !value.contains("  ")
        && !value.starts_with("=?")
        && !value.starts_with(MARK);
    match (value.is_ascii(), fits) {
        (true, true) => value.to_owned(),
        (false, true) => format!("=?UTF-8?B?{}?=", BASE64.encode(value)),
        (_, false) => format!("=?UTF-8?B?{}?=", BASE64.encode(format!("{MARK}{value}"))),
    }
}

fn decode_metadata(value: &str) -> String {
    let mut decoded = String::new();
    // AWS may answer with several encoded words, separated by spaces that do not count.
    for word in value.split_ascii_whitespace() {
        match decode_word(word) {
            Some(text) => decoded.push_str(&text),
            None => return value.to_owned(),
        }
    }
    decoded.strip_prefix(MARK).map(str::to_owned).unwrap_or(decoded)
}

fn decode_word(word: &str) -> Option<String> {
    let rest = word.strip_prefix("=?")?.strip_suffix("?=")?;
    let mut fields = rest.splitn(3, '?');
    let (charset, encoding, text) = (fields.next()?, fields.next()?, fields.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let bytes = match encoding {
        "B" | "b" => BASE64.decode(text).ok()?,
        "Q" | "q" => decode_quoted(text)?,
        _ => return None,
    };
    String::from_utf8(bytes).ok()
}

/// RFC 2047's Q encoding: `_` is a space, `=XX` a byte.
fn decode_quoted(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    Some(bytes)
}

/// The `x-amz-meta-*` headers of an answer.
fn metadata_of(headers: &HeaderMap) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(META_PREFIX) {
            let value = String::from_utf8_lossy(value.as_bytes());
            metadata.insert(name.to_owned(), decode_metadata(&value));
        }
    }
    metadata
}

const CLASS: &str = "x-amz-storage-class";
const ENCRYPTION: &str = "x-amz-server-side-encryption";
const KMS_KEY_ID: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const TAGGING: &str = "x-amz-tagging";
const TAGGING_COUNT: &str = "x-amz-tagging-count";

/// What an answer tells of an object beside its type and its metadata.
fn carried_of(headers: &HeaderMap) -> Carried {
    let given = |name: &str| text(headers, name).filter(|value| !value.is_empty());
    let served = SERVED_HEADERS.iter().filter_map(|name| {
        let value = given(name)?;
        let value = if *name == "content-encoding" { of_content(&value)? } else { value };
        Some(((*name).to_owned(), value))
    });
    let count = given(TAGGING_COUNT).and_then(|count| count.trim().parse().ok());
    Carried {
        headers: served.collect(),
        storage: Storage {
            class: given(CLASS),
            encryption: given(ENCRYPTION),
            kms_key_id: given(KMS_KEY_ID),
        },
        tags: count.filter(|count| *count > 0).map_or(Tags::None, Tags::Counted),
    }
}

/// Some stores keep the encoding of the request that brought an object among those of its content.
fn of_content(encodings: &str) -> Option<String> {
    let names = encodings.split(',').map(str::trim);
    let kept: Vec<&str> = names.filter(|name| !name.eq_ignore_ascii_case("aws-chunked")).collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Adds what an object carries beside its type, its metadata and its tags.
pub fn put_served(
    operation: &'static str,
    headers: &mut HeaderMap,
    carried: &Carried,
) -> Result<()> {
    for (name, text) in &carried.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        // As it was answered, which may not be ASCII.
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(text.as_bytes())) else {
            let message = format!("{text:?} cannot be sent as a header");
            return Err(StoreError::new(ErrorKind::Invalid, operation, message));
        };
        headers.insert(name, value);
    }
    Ok(())
}

/// Adds how an object is to be kept. The key goes with its encryption: one without the other means something else.
pub fn put_storage(
    operation: &'static str,
    headers: &mut HeaderMap,
    object: &Storage,
    mount: &Storage,
) -> Result<()> {
    let encrypted = if object.encryption.is_some() { object } else { mount };
    let class = object.class.as_ref().or(mount.class.as_ref());
    // What stores do by themselves is not asked for: not all know the name.
    let class = class.filter(|class| mount.class.is_some() || *class != "STANDARD");
    for (name, text) in [
        (CLASS, class),
        (ENCRYPTION, encrypted.encryption.as_ref()),
        (KMS_KEY_ID, encrypted.kms_key_id.as_ref()),
    ] {
        if let Some(text) = text {
            headers.insert(name, value(operation, text)?);
        }
    }
    Ok(())
}

/// Adds the tags of an object that is written otherwise than by a copy. Those that are only counted would be lost.
pub fn put_tags(operation: &'static str, headers: &mut HeaderMap, tags: &Tags) -> Result<()> {
    match tags {
        Tags::None => Ok(()),
        Tags::These(tags) if tags.is_empty() => Ok(()),
        Tags::These(tags) => {
            headers.insert(TAGGING, value(operation, tags)?);
            Ok(())
        }
        Tags::Counted(count) => {
            let message = format!("{count} tags would be lost");
            Err(StoreError::new(ErrorKind::Invalid, operation, message))
        }
    }
}

/// The head of an object whose length is `len`. `Corrupt` where the ETag or the date is missing.
pub fn object_head(operation: &'static str, headers: &HeaderMap, len: u64) -> Result<ObjectHead> {
    let corrupt = |what: &str| {
        StoreError::new(ErrorKind::Corrupt, operation, format!("the answer has no valid {what}"))
    };
    let etag = text(headers, "etag").filter(|etag| !etag.is_empty());
    let last_modified = text(headers, "last-modified").as_deref().and_then(parse_http_date);
    Ok(ObjectHead {
        etag: ETag::new(&etag.ok_or_else(|| corrupt("ETag"))?),
        len,
        last_modified: last_modified.ok_or_else(|| corrupt("Last-Modified"))?,
        metadata: metadata_of(headers),
        content_type: text(headers, "content-type"),
        carried: carried_of(headers),
        sum: object_sum(headers),
        archived: None,
        version_id: text(headers, "x-amz-version-id").filter(|version| version != "null"),
    })
}

/// Where stores say whether an object has been restored from the archive.
const RESTORES: [&str; 3] = ["x-amz-restore", "x-oss-restore", "x-tos-restore"];
/// Where S3 says that an object of INTELLIGENT_TIERING is in one of its archives.
const ARCHIVE_STATUS: &str = "x-amz-archive-status";

/// Whether a GET will be refused: the object is in the archive, and not restored (yet).
pub fn is_archived(headers: &HeaderMap) -> bool {
    let storage = Storage { class: text(headers, CLASS), ..Storage::default() };
    let restored = RESTORES.iter().find_map(|name| text(headers, name));
    let is_restored = restored.is_some_and(|told| told.contains("ongoing-request=\"false\""));
    (storage.is_archive() || headers.contains_key(ARCHIVE_STATUS)) && !is_restored
}

/// The checksum of a whole object, as an answer tells it. One that is made of its parts' checksums says so, or ends in
/// their number.
fn object_sum(headers: &HeaderMap) -> Option<ObjectSum> {
    let of_ecma = |name: &str| text(headers, name)?.trim().parse().ok();
    let ecma = OBJECT_CRC64_ECMA.iter().find_map(|name| of_ecma(name));
    if let Some(crc) = ecma {
        return Some(ObjectSum::Crc64Ecma(crc));
    }
    let is_of_parts = text(headers, "x-amz-checksum-type")
        .is_some_and(|told| !told.trim().eq_ignore_ascii_case("FULL_OBJECT"));
    if is_of_parts {
        return None;
    }
    let crc64 = || {
        let bytes = BASE64.decode(text(headers, "x-amz-checksum-crc64nvme")?.trim()).ok()?;
        Some(ObjectSum::Crc64Nvme(u64::from_be_bytes(bytes.try_into().ok()?)))
    };
    let crc32 = |name: &str| text(headers, name).as_deref().and_then(crc32_of);
    let castagnoli = crc32("x-amz-checksum-crc32c").map(ObjectSum::Crc32c);
    castagnoli.or_else(crc64).or_else(|| crc32("x-amz-checksum-crc32").map(ObjectSum::Crc32))
}

/// A CRC of 32 bits in the form in which S3 tells it.
pub fn crc32_of(told: &str) -> Option<u32> {
    let bytes = BASE64.decode(told.trim()).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Asks for the checksums of an object along with the rest of its head.
pub fn ask_for_checksums(headers: &mut HeaderMap) {
    headers.insert("x-amz-checksum-mode", HeaderValue::from_static("ENABLED"));
}

/// OSS and TOS tell the CRC-64 of a whole object with each answer about it, in decimal digits.
const OBJECT_CRC64_ECMA: [&str; 2] = ["x-oss-hash-crc64ecma", "x-tos-hash-crc64ecma"];

/// No object is longer, in bytes (a pebibyte; S3 has 50 TB): sums of lengths that are below it do not overflow.
const OBJECT_BYTES_MAX: u64 = 1 << 50;

/// The length of an object as it was told. `Corrupt` where no object can be so long.
pub fn object_len(operation: &'static str, told: u64) -> Result<u64> {
    if told <= OBJECT_BYTES_MAX {
        return Ok(told);
    }
    let message = format!("a length of {told} bytes is told");
    Err(StoreError::new(ErrorKind::Corrupt, operation, message))
}

/// The Content-Length header. `Corrupt` where it is missing or no number.
pub fn content_length(operation: &'static str, headers: &HeaderMap) -> Result<u64> {
    let len = text(headers, "content-length").and_then(|value| value.trim().parse().ok());
    let len = len.ok_or_else(|| {
        StoreError::new(ErrorKind::Corrupt, operation, "the answer has no Content-Length")
    })?;
    object_len(operation, len)
}

/// `bytes 0-9/100` as (first, last, total).
pub fn parse_content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total && total <= OBJECT_BYTES_MAX).then_some((first, last, total))
}

/// When the answer was given, by the store's clock.
pub fn date_of(headers: &HeaderMap) -> Option<SystemTime> {
    text(headers, "date").as_deref().and_then(parse_http_date)
}

pub fn parse_http_date(value: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(value).ok()
}

/// A date of an XML answer, such as `2024-01-02T03:04:05.678Z`.
pub fn parse_iso_date(value: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(value.trim()).ok()
}

/// The ETag header of the answer to a write.
pub fn etag_of(operation: &'static str, answer: &HeaderMap) -> Result<ETag> {
    let etag = text(answer, "etag").filter(|etag| !etag.is_empty());
    let none = || StoreError::new(ErrorKind::Corrupt, operation, "the answer has no ETag");
    let etag = etag.ok_or_else(none)?;
    Ok(ETag::new(&etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_values_round_trip() {
        for value in [
            "1700000000.123456789",
            "33188",
            "ü",
            "",
            " x",
            "a  b",
            "a\nb",
            "=?UTF-8?B?",
            "a b",
            "\u{feff}",
            " ü ",
        ] {
            let sent = encode_metadata(value);
            assert!(sent.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{sent}");
            assert_eq!(decode_metadata(&sent), value);
        }
        assert_eq!(encode_metadata("1700000000.5"), "1700000000.5");
    }

    #[test]
    fn both_forms_of_encoded_words_are_read() {
        assert_eq!(decode_metadata("=?UTF-8?Q?=C3=BC_x?="), "ü x");
        assert_eq!(decode_metadata("=?UTF-8?B?w7w=?= =?UTF-8?B?w7w=?="), "üü");
        assert_eq!(decode_metadata("=?UTF-8?Q?=ZZ?="), "=?UTF-8?Q?=ZZ?=");
        assert_eq!(decode_metadata("plain text"), "plain text");
    }

    #[test]
    fn only_the_checksum_of_a_whole_object_is_one() {
        let told = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            object_sum(&fields.collect())
        };
        let crc32c = ("x-amz-checksum-crc32c", "4waSgw==");
        let nvme = ("x-amz-checksum-crc64nvme", "rosUhgp5mIg=");
        assert_eq!(told(&[crc32c]), Some(ObjectSum::Crc32c(0xe306_9283)));
        assert_eq!(told(&[nvme]), Some(ObjectSum::Crc64Nvme(0xae8b_1486_0a79_9888)));
        let whole = ("x-amz-checksum-type", "FULL_OBJECT");
        assert_eq!(told(&[crc32c, whole]), Some(ObjectSum::Crc32c(0xe306_9283)));
        let crc32 = ("x-amz-checksum-crc32", "y/Q5Jg==");
        assert_eq!(told(&[crc32, whole]), Some(ObjectSum::Crc32(0xcbf4_3926)));
        for none in [
            &[crc32c, ("x-amz-checksum-type", "COMPOSITE")][..],
            &[("x-amz-checksum-crc32c", "4waSgw==-3")],
            &[("x-amz-checksum-crc32c", "rosUhgp5mIg=")],
            &[("x-amz-checksum-crc64nvme", "no base64")],
            &[("x-oss-hash-crc64ecma", "-1")],
            &[],
        ] {
            assert_eq!(told(none), None, "{none:?}");
        }
        let ecma = Some(ObjectSum::Crc64Ecma(11_051_210_869_376_104_954));
        assert_eq!(told(&[("x-oss-hash-crc64ecma", "11051210869376104954")]), ecma);
        assert_eq!(told(&[("x-tos-hash-crc64ecma", "11051210869376104954")]), ecma);
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 0-9/100"), Some((0, 9, 100)));
        let absurd = format!("bytes 0-9/{}", u64::MAX);
        for wrong in
            ["bytes 9-0/100", "bytes 0-100/100", "0-9/100", "bytes */100", "bytes 0-9/*", &absurd]
        {
            assert_eq!(parse_content_range(wrong), None, "{wrong}");
        }
    }
}
