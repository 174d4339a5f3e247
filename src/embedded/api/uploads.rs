//! Multipart uploads.

use std::collections::BTreeMap;
use std::sync::Arc;

use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Result, s3_error};

use super::fields::{
    Naming, attributes_of, check_copy_source, check_crc, check_metadata, crc_text, etag,
    full_object, heeded, page_size, source_of, storage_class, timestamp, write_condition,
};
use super::objects::receive;
use super::sealed::{
    check_bytes, check_key, customer_key, encryption, etag_of, source_key, told_key,
};
use crate::checked::Sum;
use crate::embedded::blobs::{cut, hex};
use crate::embedded::faults::CopiesAnyVersion;
use crate::embedded::index::{self, Found, Index, new_id, now};
use crate::embedded::records::{Attributes, Object};

/// Every part of an object but the last has at least so many bytes: Amazon's limit.
const PART_BYTES_MIN: u64 = 5 << 20;

pub async fn create_multipart_upload(
    index: &Index,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<CreateMultipartUploadOutput> {
    let input = request.input;
    let attributes = attributes_of!(input);
    check_metadata(&attributes)?;
    let id = new_id();
    let (sse_customer_algorithm, sse_customer_key_md5) = told_key(&attributes);
    let (server_side_encryption, ssekms_key_id) =
        (encryption(&attributes), attributes.kms_key_id.clone());
    index.begin(&input.bucket, &input.key, &id, attributes)?;
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        server_side_encryption,
        ssekms_key_id,
        sse_customer_algorithm,
        sse_customer_key_md5,
        ..CreateMultipartUploadOutput::default()
    })
}

fn part_number(number: i32) -> S3Result<u32> {
    let number = u32::try_from(number).ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "part numbers are 1 to 10000"))
}

pub async fn upload_part(
    index: &Index,
    request: S3Request<UploadPartInput>,
) -> S3Result<UploadPartOutput> {
    let (mut input, extensions) = (request.input, request.extensions);
    let number = part_number(input.part_number)?;
    let key = customer_key!(input)?;
    // Before the body is read; checked again when the part is put.
    index.upload(&input.bucket, &input.key, &input.upload_id, |upload| {
        check_key(&upload.begun.attributes, key.as_deref())
    })??;
    let (body, crc) = (input.body.take(), heeded(input.checksum_crc32c.as_deref(), &extensions));
    let received = receive(&index.blobs, body, input.content_md5.as_deref(), crc).await?;
    let tag = etag_of(&received.md5, key.as_deref());
    let part = Object {
        etag: tag.clone(),
        len: received.len,
        modified: now(),
        pieces: received.pieces.clone(),
        attributes: Attributes::default(),
        crc: Some(received.crc),
        version: None,
    };
    index.put_part(&input.bucket, &input.key, &input.upload_id, number, part)?;
    Ok(UploadPartOutput {
        e_tag: Some(etag(&tag)),
        checksum_crc32c: heeded(Some(crc_text(received.crc)), &extensions),
        ..UploadPartOutput::default()
    })
}

pub async fn upload_part_copy(
    index: &Index,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<UploadPartCopyOutput> {
    let copies_any_version = request.extensions.get::<CopiesAnyVersion>().is_some();
    let input = request.input;
    let number = part_number(input.part_number)?;
    let sealed = customer_key!(input)?;
    index.upload(&input.bucket, &input.key, &input.upload_id, |upload| {
        check_key(&upload.begun.attributes, sealed.as_deref())
    })??;
    let (bucket, key, version) = source_of(&input.copy_source)?;
    let Found { object: source, hold, .. } = index.version(bucket, key, version)?;
    check_bytes(&source.attributes, source_key!(input)?.as_deref())?;
    check_copy_source(
        &source.etag,
        input.copy_source_if_match.as_ref().filter(|_| !copies_any_version),
        input.copy_source_if_none_match.as_ref(),
    )?;
    let (start, end) = copied_range(input.copy_source_range.as_deref(), source.len)?;
    let pieces = cut(&source.pieces, start, end);
    // Kept until the part is put, while the other hold goes with the reading.
    let _copied = index.blobs.hold(&pieces);
    let found = index.blobs.digests(pieces.clone(), hold).await.map_err(S3Error::internal_error)?;
    let tag = etag_of(&found.md5, sealed.as_deref());
    let part = Object {
        etag: tag.clone(),
        len: end - start,
        modified: now(),
        pieces,
        attributes: Attributes::default(),
        crc: Some(found.sum.crc),
        version: None,
    };
    let result = CopyPartResult {
        e_tag: Some(etag(&tag)),
        last_modified: Some(timestamp(part.modified)),
        checksum_crc32c: Some(crc_text(found.sum.crc)),
        ..CopyPartResult::default()
    };
    index.put_part(&input.bucket, &input.key, &input.upload_id, number, part)?;
    Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() })
}

/// `bytes=first-last`, both there and inside the source; the whole source without.
fn copied_range(header: Option<&str>, len: u64) -> S3Result<(u64, u64)> {
    let Some(header) = header else {
        return Ok((0, len));
    };
    let range = header.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let parsed = range.and_then(|(first, last)| {
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.checked_add(1)?))
    });
    match parsed {
        Some((start, end)) if start < end && end <= len => Ok((start, end)),
        Some((start, end)) if start < end => Err(s3_error!(InvalidRange)),
        _ => Err(s3_error!(InvalidArgument, "x-amz-copy-source-range is bytes=first-last")),
    }
}

pub async fn complete_multipart_upload(
    index: &Index,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<CompleteMultipartUploadOutput> {
    let (input, extensions) = (request.input, request.extensions);
    let condition = write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let key = customer_key!(input)?;
    let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let told = input.checksum_crc32c.as_deref();
    let mut crc = None;
    let (tag, version_id) =
        index.complete(&input.bucket, &input.key, &input.upload_id, &condition, |upload| {
            check_key(&upload.begun.attributes, key.as_deref())?;
            let object = assemble(upload, &parts)?;
            check_crc(heeded(told, &extensions), object.crc)?;
            crc = heeded(object.crc, &extensions);
            Ok(object)
        })?;
    Ok(CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(etag(&tag)),
        version_id,
        checksum_crc32c: crc.map(crc_text),
        checksum_type: full_object(crc),
        ..CompleteMultipartUploadOutput::default()
    })
}

/// The object that these parts of an upload make.
fn assemble(upload: &index::Upload, named: &[CompletedPart]) -> S3Result<Object> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "no parts"));
    }
    let mut object = Object {
        etag: String::new(),
        len: 0,
        modified: now(),
        pieces: Vec::new(),
        attributes: upload.begun.attributes.clone(),
        crc: None,
        version: None,
    };
    let (mut md5, mut sum) = (Md5::new(), Some(Sum::EMPTY));
    let (mut last, mut shortest_before) = (0, u64::MAX);
    for part in named {
        let number = part_number(part.part_number.unwrap_or(0))?;
        if number <= last {
            return Err(s3_error!(InvalidPartOrder));
        }
        if last > 0 && shortest_before < PART_BYTES_MIN {
            return Err(s3_error!(EntityTooSmall));
        }
        let found = part_named(&upload.parts, number, part.e_tag.as_ref())?;
        check_crc(part.checksum_crc32c.as_deref(), found.crc)
            .map_err(|_| s3_error!(InvalidPart, "part {number} has another checksum"))?;
        sum = sum.and_then(|sum| Some(sum.then(found.sum()?)));
        md5.update(bytes_of_hex(&found.etag));
        object.pieces.extend(found.pieces.iter().cloned());
        object.len += found.len;
        (last, shortest_before) = (number, found.len);
    }
    object.crc = sum.map(|sum| sum.crc);
    object.etag = format!("{}-{}", hex(&md5.finalize()), named.len());
    Ok(object)
}

fn part_named<'a>(
    parts: &'a BTreeMap<u32, Arc<Object>>,
    number: u32,
    tag: Option<&ETag>,
) -> S3Result<&'a Object> {
    let found = parts.get(&number);
    let matching =
        found.filter(|part| tag.is_some_and(|tag| tag.value().eq_ignore_ascii_case(&part.etag)));
    matching
        .map(Arc::as_ref)
        .ok_or_else(|| s3_error!(InvalidPart, "part {number} is missing or has another ETag"))
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2).filter_map(|at| hex.get(at..at + 2));
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

pub async fn abort_multipart_upload(
    index: &Index,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<AbortMultipartUploadOutput> {
    let input = request.input;
    index.abort(&input.bucket, &input.key, &input.upload_id)?;
    Ok(AbortMultipartUploadOutput::default())
}

pub async fn list_parts(
    index: &Index,
    request: S3Request<ListPartsInput>,
) -> S3Result<ListPartsOutput> {
    let input = request.input;
    let max = page_size(input.max_parts)?;
    let marker: u32 = match &input.part_number_marker {
        Some(marker) => u32::try_from(*marker)
            .map_err(|_| s3_error!(InvalidArgument, "the part number marker is negative"))?,
        None => 0,
    };
    let key = customer_key!(input)?;
    let (parts, more, class) =
        index.upload(&input.bucket, &input.key, &input.upload_id, |upload| -> S3Result<_> {
            check_key(&upload.begun.attributes, key.as_deref())?;
            let mut behind = upload.parts.range(marker.saturating_add(1)..);
            let parts: Vec<Part> =
                behind.by_ref().take(max).map(|(number, part)| listed(*number, part)).collect();
            Ok((parts, behind.next().is_some(), storage_class(&upload.begun.attributes)))
        })??;
    let truncated = more && max > 0;
    let next = parts.last().and_then(|part| part.part_number).filter(|_| truncated);
    Ok(ListPartsOutput {
        parts: Some(parts),
        is_truncated: Some(truncated),
        next_part_number_marker: next,
        part_number_marker: input.part_number_marker,
        max_parts: i32::try_from(max).ok(),
        storage_class: Some(StorageClass::from(class)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        ..ListPartsOutput::default()
    })
}

fn listed(number: u32, part: &Object) -> Part {
    Part {
        part_number: i32::try_from(number).ok(),
        e_tag: Some(etag(&part.etag)),
        size: i64::try_from(part.len).ok(),
        last_modified: Some(timestamp(part.modified)),
        ..Part::default()
    }
}

pub async fn list_multipart_uploads(
    index: &Index,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<ListMultipartUploadsOutput> {
    let input = request.input;
    let naming = Naming::new(input.encoding_type.as_ref())?;
    if input.delimiter.as_deref().is_some_and(|delimiter| !delimiter.is_empty()) {
        return Err(s3_error!(NotImplemented, "no delimiter in ListMultipartUploads"));
    }
    let max = page_size(input.max_uploads)?;
    let prefix = input.prefix.as_deref().unwrap_or("");
    let key_marker = input.key_marker.as_deref().unwrap_or("");
    let id_marker = input.upload_id_marker.as_deref();
    // Without an id, the marker stands behind every upload of its key.
    let is_behind = |key: &str, id: &str| {
        key > key_marker || (key == key_marker && id_marker.is_some_and(|marker| id > marker))
    };
    let mut found = index.bucket(&input.bucket, |bucket| {
        let all = bucket.uploads.iter().map(|(id, upload)| {
            let class = storage_class(&upload.begun.attributes);
            (upload.begun.key.clone(), id.clone(), upload.begun.initiated, class)
        });
        all.filter(|(key, id, ..)| key.starts_with(prefix) && is_behind(key, id))
            .collect::<Vec<_>>()
    })?;
    found.sort_unstable();
    let truncated = found.len() > max && max > 0;
    found.truncate(max);
    let last = found.last().filter(|_| truncated).cloned();
    let upload = |(key, id, initiated, class): (String, String, i64, String)| MultipartUpload {
        key: Some(naming.write(&key)),
        upload_id: Some(id),
        initiated: Some(timestamp(initiated)),
        storage_class: Some(StorageClass::from(class)),
        ..MultipartUpload::default()
    };
    Ok(ListMultipartUploadsOutput {
        uploads: Some(found.into_iter().map(upload).collect()),
        is_truncated: Some(truncated),
        next_key_marker: last.as_ref().map(|(key, ..)| naming.write(key)),
        next_upload_id_marker: last.map(|(_, id, ..)| id),
        key_marker: Some(naming.write(key_marker)),
        upload_id_marker: input.upload_id_marker.clone(),
        prefix: naming.write_some(prefix),
        encoding_type: input.encoding_type,
        max_uploads: i32::try_from(max).ok(),
        bucket: Some(input.bucket),
        ..ListMultipartUploadsOutput::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::records::Begun;

    /// Parts 1, 3 and 7 of 5 MiB, 5 MiB and 1 byte.
    fn upload() -> index::Upload {
        let part = |text: &str, len| {
            let (etag, attributes) = (hex(&Md5::digest(text)), Attributes::default());
            let (pieces, crc, version) = (Vec::new(), None, None);
            Arc::new(Object { etag, len, modified: 0, pieces, attributes, crc, version })
        };
        let parts =
            [(1, part("a", PART_BYTES_MIN)), (3, part("b", PART_BYTES_MIN)), (7, part("c", 1))];
        let begun = Begun { key: "k".to_owned(), initiated: 0, attributes: Attributes::default() };
        index::Upload { begun, parts: parts.into() }
    }

    fn named(upload: &index::Upload, numbers: &[u32]) -> Vec<CompletedPart> {
        let part = |number: &u32| CompletedPart {
            part_number: Some(*number as i32),
            e_tag: Some(etag(&upload.parts[number].etag)),
            ..CompletedPart::default()
        };
        numbers.iter().map(part).collect()
    }

    fn code(result: S3Result<Object>) -> String {
        result.err().unwrap().code().as_str().to_owned()
    }

    #[test]
    fn parts_with_gaps_make_an_object() {
        let upload = upload();
        let object = assemble(&upload, &named(&upload, &[1, 3, 7])).unwrap();
        assert_eq!(object.len, 2 * PART_BYTES_MIN + 1);
        // md5(md5("a") + md5("b") + md5("c")), computed by hand.
        assert_eq!(object.etag, "4054c6f7787ecb7b323323155b0c0583-3");
    }

    #[test]
    fn wrong_parts_are_refused() {
        let upload = upload();
        assert_eq!(code(assemble(&upload, &[])), "MalformedXML");
        assert_eq!(code(assemble(&upload, &named(&upload, &[3, 1]))), "InvalidPartOrder");
        assert_eq!(code(assemble(&upload, &named(&upload, &[1, 1]))), "InvalidPartOrder");
        let mut parts = named(&upload, &[1, 3]);
        parts[1].e_tag = parts[0].e_tag.clone();
        assert_eq!(code(assemble(&upload, &parts)), "InvalidPart");
        parts[1].part_number = Some(4);
        assert_eq!(code(assemble(&upload, &parts)), "InvalidPart");
    }

    #[test]
    fn only_the_last_part_may_be_short() {
        let mut upload = upload();
        let short = Object { len: PART_BYTES_MIN - 1, ..Object::clone(&upload.parts[&1]) };
        upload.parts.insert(1, Arc::new(short));
        assert_eq!(code(assemble(&upload, &named(&upload, &[1, 3]))), "EntityTooSmall");
        assert!(assemble(&upload, &named(&upload, &[1])).is_ok());
    }

    #[test]
    fn a_copied_range_lies_inside_its_source() {
        assert_eq!(copied_range(None, 9).unwrap(), (0, 9));
        assert_eq!(copied_range(Some("bytes=0-8"), 9).unwrap(), (0, 9));
        for wrong in ["bytes=0-9", "bytes=3-2", "bytes=-5", "bytes=5-", "0-5"] {
            assert!(copied_range(Some(wrong), 9).is_err(), "{wrong}");
        }
    }
}
