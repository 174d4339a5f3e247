//! GetObjectAttributes: the CRC-32Cs of the parts of an object that another machine has written.

use http::Method;
use http::header::{HeaderMap, HeaderValue};
use serde::Deserialize;

use super::S3Store;
use super::exchange::Request;
use super::headers;
use super::list::PAGE_BYTES_MAX;
use crate::checked::Stretch;
use crate::store::{ETag, ErrorKind, Key, Result, StoreError};

const OPERATION: &str = "GetObjectAttributes";

/// An object has no more parts.
const PARTS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(rename = "ETag")]
    etag: Option<String>,
    object_parts: Option<ObjectParts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ObjectParts {
    is_truncated: bool,
    next_part_number_marker: Option<u32>,
    #[serde(rename = "Part")]
    parts: Vec<Part>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Part {
    part_number: u32,
    size: u64,
    #[serde(rename = "ChecksumCRC32C")]
    crc32c: Option<String>,
}

/// The parts of this version, of which the CRC-32C is told; none where they are not told one by one. Numbers may have
/// gaps; the parts follow each other all the same.
pub async fn part_sums(store: &S3Store, key: &Key, etag: &ETag) -> Result<Vec<Stretch>> {
    let (mut stretches, mut at, mut marker) = (Vec::new(), 0, 0);
    loop {
        let answer = page(store, key, etag, marker).await?;
        if answer.etag.as_deref().is_some_and(|told| ETag::new(told) != *etag) {
            let message = "the object is another version";
            return Err(StoreError::new(ErrorKind::PreconditionFailed, OPERATION, message));
        }
        let listed = answer.object_parts.unwrap_or_default();
        for part in listed.parts {
            if part.part_number <= marker || stretches.len() > PARTS_MAX {
                return Err(corrupt("the parts are not in order"));
            }
            marker = part.part_number;
            let crc = part.crc32c.as_deref().and_then(headers::crc32_of);
            stretches.extend(crc.map(|crc| Stretch { at, len: part.size, crc }));
            at = headers::object_len(OPERATION, at.saturating_add(part.size))?;
        }
        match listed.next_part_number_marker {
            Some(next) if listed.is_truncated && next >= marker && next > 0 => marker = next,
            _ if listed.is_truncated => {
                return Err(corrupt("the list goes on but does not move on"));
            }
            _ => return Ok(stretches),
        }
    }
}

async fn page(store: &S3Store, key: &Key, etag: &ETag, marker: u32) -> Result<Answer> {
    let mut sent = HeaderMap::new();
    sent.insert("x-amz-object-attributes", HeaderValue::from_static("ETag,ObjectParts"));
    sent.insert("x-amz-max-parts", HeaderValue::from_static("1000"));
    if marker > 0 {
        sent.insert("x-amz-part-number-marker", HeaderValue::from(marker));
    }
    let mut query = vec![("attributes", Vec::new())];
    query.extend(store.pins.query(key, etag));
    let request = Request::new(OPERATION, Method::GET, Some(key)).query(&query).headers(sent);
    let answer = store.send_for_xml(request.answer_max(PAGE_BYTES_MAX)).await?;
    answer.read(read)
}

fn read(answer: &[u8]) -> Result<Answer> {
    let text = std::str::from_utf8(answer).map_err(|err| corrupt(&err.to_string()))?;
    quick_xml::de::from_str(text).map_err(|err| corrupt(&err.to_string()))
}

fn corrupt(message: &str) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As AWS documents it.
    #[test]
    fn parts_are_read_with_their_sums() {
        let answer = br#"<?xml version="1.0" encoding="UTF-8"?>
            <GetObjectAttributesResponse xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <ETag>0123-2</ETag>
              <ObjectParts>
                <TotalPartsCount>2</TotalPartsCount>
                <PartNumberMarker>0</PartNumberMarker>
                <NextPartNumberMarker>2</NextPartNumberMarker>
                <MaxParts>1000</MaxParts>
                <IsTruncated>false</IsTruncated>
                <Part><PartNumber>1</PartNumber><Size>9</Size><ChecksumCRC32C>4waSgw==</ChecksumCRC32C></Part>
                <Part><PartNumber>2</PartNumber><Size>3</Size></Part>
              </ObjectParts>
            </GetObjectAttributesResponse>"#;
        let answer = read(answer).unwrap();
        assert_eq!(answer.etag.as_deref(), Some("0123-2"));
        let parts = answer.object_parts.unwrap();
        assert!(!parts.is_truncated && parts.next_part_number_marker == Some(2));
        let told: Vec<_> = parts.parts.iter().map(|part| (part.part_number, part.size)).collect();
        assert_eq!(told, [(1, 9), (2, 3)]);
        let crc = |part: &Part| part.crc32c.as_deref().and_then(headers::crc32_of);
        assert_eq!((crc(&parts.parts[0]), crc(&parts.parts[1])), (Some(0xe306_9283), None));
        assert!(read(b"<html>").is_err());
    }
}
