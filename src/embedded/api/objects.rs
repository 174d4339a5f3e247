//! Objects: get, head, put, copy, delete.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::fields::{
    attributes_of, check_copy_source, check_crc, check_metadata, crc_text, etag, full_object,
    heeded, names, of_http_date, source_of, timestamp, write_condition, write_condition_of,
};
use super::sealed::{
    check_bytes, check_key, customer_key, encryption, etag_of, restore, source_key, told_key,
};
use super::tagging;
use crate::embedded::blobs::{Blobs, ReceiveError, Received, cut, hex};
use crate::embedded::faults::CopiesAnyVersion;
use crate::embedded::index::{Condition, Found, Index, now};
use crate::embedded::records::{Attributes, Object};
use md5::{Digest, Md5};

/// What one request may send: Amazon's limit for an object by PutObject and for a part.
const SENT_BYTES_MAX: u64 = 5 << 30;

/// The conditions of a read.
struct ReadConditions<'a> {
    if_match: Option<&'a ETagCondition>,
    if_none_match: Option<&'a ETagCondition>,
    if_modified_since: Option<&'a Timestamp>,
    if_unmodified_since: Option<&'a Timestamp>,
}

impl ReadConditions<'_> {
    /// In the order of RFC 9110, section 13.2.2.
    fn check(&self, object: &Object) -> S3Result<()> {
        let modified = timestamp(object.modified);
        let refused = match self.if_match {
            Some(condition) => !names(condition, &object.etag),
            None => self.if_unmodified_since.is_some_and(|since| modified > *since),
        };
        if refused {
            return Err(s3_error!(PreconditionFailed));
        }
        let unchanged = match self.if_none_match {
            Some(condition) => names(condition, &object.etag),
            None => self.if_modified_since.is_some_and(|since| modified <= *since),
        };
        if unchanged { Err(s3_error!(NotModified)) } else { Ok(()) }
    }
}

pub async fn get_object(
    index: &Index,
    request: S3Request<GetObjectInput>,
) -> S3Result<GetObjectOutput> {
    let input = request.input;
    if input.part_number.is_some() {
        return Err(s3_error!(NotImplemented, "no reads by part number"));
    }
    let found = index.version(&input.bucket, &input.key, input.version_id.as_deref())?;
    let Found { object, hold, version: version_id } = found;
    check_bytes(&object.attributes, customer_key!(input)?.as_deref())?;
    let conditions = ReadConditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        if_modified_since: input.if_modified_since.as_ref(),
        if_unmodified_since: input.if_unmodified_since.as_ref(),
    };
    conditions.check(&object)?;
    let range = match &input.range {
        Some(range) => Some(range.check(object.len).map_err(|_| s3_error!(InvalidRange))?),
        None => None,
    };
    let content_range =
        range.as_ref().map(|r| format!("bytes {}-{}/{}", r.start, r.end - 1, object.len));
    let range = range.unwrap_or(0..object.len);
    let content_length = i64::try_from(range.end - range.start).ok();
    let pieces = cut(&object.pieces, range.start, range.end);
    let is_whole = range == (0..object.len);
    let crc = object.crc.filter(|_| is_whole && input.checksum_mode.is_some());
    let Object { etag: tag, modified, attributes, .. } = Arc::unwrap_or_clone(object);
    let (sse_customer_algorithm, sse_customer_key_md5) = told_key(&attributes);
    Ok(GetObjectOutput {
        restore: restore(&attributes),
        server_side_encryption: encryption(&attributes),
        ssekms_key_id: attributes.kms_key_id,
        sse_customer_algorithm,
        sse_customer_key_md5,
        body: Some(StreamingBlob::wrap(index.blobs.send(pieces, hold))),
        accept_ranges: Some("bytes".to_owned()),
        content_length,
        content_range,
        e_tag: Some(etag(&tag)),
        version_id,
        last_modified: Some(timestamp(modified)),
        metadata: Some(attributes.metadata.into_iter().collect()),
        content_type: Some(attributes.content_type.unwrap_or_else(default_content_type)),
        cache_control: attributes.cache_control,
        content_disposition: attributes.content_disposition,
        content_encoding: attributes.content_encoding,
        content_language: attributes.content_language,
        expires: attributes.expires.as_deref().and_then(of_http_date),
        website_redirect_location: attributes.website_redirect,
        tag_count: tagging::count(attributes.tags.as_deref()),
        storage_class: attributes.storage_class.map(StorageClass::from),
        checksum_crc32c: crc.map(crc_text),
        checksum_type: full_object(crc),
        ..GetObjectOutput::default()
    })
}

pub async fn head_object(
    index: &Index,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    let found = index.version(&input.bucket, &input.key, input.version_id.as_deref())?;
    let Found { object, version: version_id, .. } = found;
    check_key(&object.attributes, customer_key!(input)?.as_deref())?;
    let conditions = ReadConditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        if_modified_since: input.if_modified_since.as_ref(),
        if_unmodified_since: input.if_unmodified_since.as_ref(),
    };
    conditions.check(&object)?;
    let crc = object.crc.filter(|_| input.checksum_mode.is_some());
    let Object { etag: tag, modified, attributes, len, .. } = Arc::unwrap_or_clone(object);
    let mut headers = HeaderMap::new();
    if let Some(count) = tagging::count(attributes.tags.as_deref()) {
        // The library's output has no field for it.
        headers.insert("x-amz-tagging-count", HeaderValue::from(count));
    }
    let (sse_customer_algorithm, sse_customer_key_md5) = told_key(&attributes);
    let output = HeadObjectOutput {
        restore: restore(&attributes),
        server_side_encryption: encryption(&attributes),
        ssekms_key_id: attributes.kms_key_id,
        sse_customer_algorithm,
        sse_customer_key_md5,
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(len).ok(),
        e_tag: Some(etag(&tag)),
        version_id,
        last_modified: Some(timestamp(modified)),
        metadata: Some(attributes.metadata.into_iter().collect()),
        content_type: Some(attributes.content_type.unwrap_or_else(default_content_type)),
        cache_control: attributes.cache_control,
        content_disposition: attributes.content_disposition,
        content_encoding: attributes.content_encoding,
        content_language: attributes.content_language,
        expires: attributes.expires.as_deref().and_then(of_http_date),
        website_redirect_location: attributes.website_redirect,
        storage_class: attributes.storage_class.map(StorageClass::from),
        checksum_crc32c: crc.map(crc_text),
        checksum_type: full_object(crc),
        ..HeadObjectOutput::default()
    };
    Ok(S3Response::with_headers(output, headers))
}

/// What Amazon's store says of an object that was put without a type.
fn default_content_type() -> String {
    "binary/octet-stream".to_owned()
}

/// Takes a request's body in, and checks it against Content-MD5 and x-amz-checksum-crc32c.
pub async fn receive(
    blobs: &Arc<Blobs>,
    body: Option<StreamingBlob>,
    content_md5: Option<&str>,
    crc: Option<&str>,
) -> S3Result<Received> {
    let received = match body {
        Some(body) => blobs.receive(body).await,
        None => blobs.receive(stream::empty::<Result<Bytes, std::io::Error>>()).await,
    };
    let received = received.map_err(|error| match error {
        ReceiveError::Body(problem) => s3_error!(IncompleteBody, "{problem}"),
        ReceiveError::Disk(error) => S3Error::internal_error(error),
    })?;
    if received.len > SENT_BYTES_MAX {
        return Err(s3_error!(EntityTooLarge));
    }
    if content_md5.is_some_and(|expected| expected != base64_of_hex(&received.md5)) {
        return Err(s3_error!(BadDigest));
    }
    check_crc(crc, Some(received.crc))?;
    Ok(received)
}

/// Base64 (RFC 4648, with padding) of bytes given in hex: the form of Content-MD5.
fn base64_of_hex(hex: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Twelve bits a time: three hex digits are two base64 digits.
    let nibbles: Vec<usize> =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|nibble| nibble as usize).collect();
    let mut text = String::new();
    for three in nibbles.chunks(3) {
        let digit = |at: usize| three.get(at).copied().unwrap_or(0);
        let bits = digit(0) << 8 | digit(1) << 4 | digit(2);
        text.push(char::from(DIGITS[bits >> 6]));
        if three.len() > 1 {
            text.push(char::from(DIGITS[bits & 63]));
        }
    }
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

pub async fn put_object(
    index: &Index,
    request: S3Request<PutObjectInput>,
) -> S3Result<PutObjectOutput> {
    let (mut input, extensions) = (request.input, request.extensions);
    let condition = write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let attributes = attributes_of!(input);
    check_metadata(&attributes)?;
    // Before the body is read; checked again when the object is put.
    index.bucket(&input.bucket, |_| ())?;
    let (body, crc) = (input.body.take(), heeded(input.checksum_crc32c.as_deref(), &extensions));
    let received = receive(&index.blobs, body, input.content_md5.as_deref(), crc).await?;
    let tag = etag_of(&received.md5, attributes.customer_key_md5.as_deref());
    let (sse_customer_algorithm, sse_customer_key_md5) = told_key(&attributes);
    let (server_side_encryption, ssekms_key_id) =
        (encryption(&attributes), attributes.kms_key_id.clone());
    let object = Object {
        etag: tag.clone(),
        len: received.len,
        modified: now(),
        pieces: received.pieces.clone(),
        attributes,
        crc: Some(received.crc),
        version: None,
    };
    let version_id = index.put(&input.bucket, &input.key, object, &condition)?;
    Ok(PutObjectOutput {
        e_tag: Some(etag(&tag)),
        server_side_encryption,
        ssekms_key_id,
        sse_customer_algorithm,
        sse_customer_key_md5,
        version_id,
        checksum_crc32c: heeded(Some(crc_text(received.crc)), &extensions),
        checksum_type: full_object(heeded(Some(received.crc), &extensions)),
        ..PutObjectOutput::default()
    })
}

pub async fn copy_object(
    index: &Index,
    request: S3Request<CopyObjectInput>,
) -> S3Result<CopyObjectOutput> {
    let condition = write_condition_of(&request.headers)?;
    let copies_any_version = request.extensions.get::<CopiesAnyVersion>().is_some();
    let input = request.input;
    let (bucket, key, version) = source_of(&input.copy_source)?;
    let Found { object: source, hold: _hold, .. } = index.version(bucket, key, version)?;
    check_bytes(&source.attributes, source_key!(input)?.as_deref())?;
    check_copy_source(
        &source.etag,
        input.copy_source_if_match.as_ref().filter(|_| !copies_any_version),
        input.copy_source_if_none_match.as_ref(),
    )?;
    let given: Attributes = attributes_of!(input);
    let replaces = input
        .metadata_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    let replaces_tags = input
        .tagging_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == TaggingDirective::REPLACE);
    let is_kept_the_same = given.storage_class.is_none()
        && given.encryption.is_none()
        && given.customer_key_md5.is_none()
        && version.is_none();
    let changes_nothing = !replaces && !replaces_tags && is_kept_the_same;
    if changes_nothing && bucket == input.bucket && key == input.key {
        return Err(s3_error!(InvalidRequest, "a copy onto itself that changes nothing"));
    }
    let tags = if replaces_tags { given.tags.clone() } else { source.attributes.tags.clone() };
    let attributes = if replaces {
        Attributes { tags, ..given }
    } else {
        // How a copy is kept is said anew, whatever its source is.
        Attributes {
            storage_class: given.storage_class,
            encryption: given.encryption,
            kms_key_id: given.kms_key_id,
            customer_key_md5: given.customer_key_md5,
            restored: false,
            tags,
            ..source.attributes.clone()
        }
    };
    check_metadata(&attributes)?;
    let (sse_customer_algorithm, sse_customer_key_md5) = told_key(&attributes);
    let key = attributes.customer_key_md5.as_deref();
    let object = Object {
        etag: etag_of(&etag_of_copy(&source.etag), key),
        modified: now(),
        attributes,
        ..Object::clone(&source)
    };
    let result = CopyObjectResult {
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(timestamp(object.modified)),
        checksum_crc32c: object.crc.map(crc_text),
        checksum_type: full_object(object.crc),
        ..CopyObjectResult::default()
    };
    let version_id = index.put(&input.bucket, &input.key, object, &condition)?;
    Ok(CopyObjectOutput {
        copy_object_result: Some(result),
        version_id,
        sse_customer_algorithm,
        sse_customer_key_md5,
        ..CopyObjectOutput::default()
    })
}

/// The copy of an object with a plain ETag keeps it. A multipart object's copy is one part at
/// Amazon's, with another ETag; here too, so that no client gets used to the opposite, but made from the
/// ETag alone: the bytes are not read.
fn etag_of_copy(source: &str) -> String {
    match source.split_once('-') {
        None | Some((_, "1")) => source.to_owned(),
        Some(_) => format!("{}-1", hex(&Md5::digest(source))),
    }
}

pub async fn delete_object(
    index: &Index,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<DeleteObjectOutput> {
    let input = request.input;
    if let Some(id) = input.version_id {
        let is_marker = index.delete_version(&input.bucket, &input.key, &id)?;
        let delete_marker = is_marker.then_some(true);
        return Ok(DeleteObjectOutput {
            delete_marker,
            version_id: Some(id),
            ..Default::default()
        });
    }
    let condition = write_condition(input.if_match.as_ref(), None)?;
    let version_id = index.delete(&input.bucket, &[input.key], &condition)?.into_iter().next();
    let version_id = version_id.flatten();
    let delete_marker = version_id.as_ref().map(|_| true);
    Ok(DeleteObjectOutput { delete_marker, version_id, ..DeleteObjectOutput::default() })
}

pub async fn delete_objects(
    index: &Index,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<DeleteObjectsOutput> {
    let input = request.input;
    if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
        return Err(s3_error!(MalformedXML, "one to 1,000 keys"));
    }
    if input.delete.objects.iter().any(|object| object.version_id.is_some()) {
        return Err(s3_error!(NotImplemented, "versions are deleted one by one"));
    }
    let keys: Vec<String> = input.delete.objects.into_iter().map(|object| object.key).collect();
    let markers = index.delete(&input.bucket, &keys, &Condition::None)?;
    let deleted = |(key, marker): (String, Option<String>)| DeletedObject {
        key: Some(key),
        delete_marker: marker.as_ref().map(|_| true),
        delete_marker_version_id: marker,
        ..DeletedObject::default()
    };
    let quiet = input.delete.quiet == Some(true);
    let deleted = (!quiet).then(|| keys.into_iter().zip(markers).map(deleted).collect());
    Ok(DeleteObjectsOutput { deleted, ..DeleteObjectsOutput::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_md5_is_base64() {
        assert_eq!(base64_of_hex("d41d8cd98f00b204e9800998ecf8427e"), "1B2M2Y8AsgTpgAmY7PhCfg==");
        assert_eq!(base64_of_hex(&hex(b"foob")), "Zm9vYg==");
        assert_eq!(base64_of_hex(&hex(b"fooba")), "Zm9vYmE=");
        assert_eq!(base64_of_hex(&hex(b"foobar")), "Zm9vYmFy");
    }

    #[test]
    fn only_a_multipart_copy_gets_a_new_etag() {
        assert_eq!(etag_of_copy("abc"), "abc");
        let copy = etag_of_copy("abc-7");
        assert_ne!(copy, "abc-7");
        assert_eq!(etag_of_copy(&copy), copy);
    }
}
