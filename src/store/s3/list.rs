//! Listings of objects, parts and uploads.

use http::Method;

use super::exchange::Request;
use super::{S3Store, headers, xml};
use crate::store::{
    ETag, ErrorKind, Key, ListPage, ListRequest, ListedObject, ListedUpload, Result, StoreError,
    StoredPart, UploadId,
};

/// A listing that says "there is more" but does not move on would be asked for without end.
fn stuck(operation: &'static str) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, operation, "the listing goes on but does not move on")
}

pub async fn objects(store: &S3Store, request: &ListRequest) -> Result<ListPage> {
    const OPERATION: &str = "ListObjectsV2";
    let mut query: Vec<(&str, Vec<u8>)> = vec![
        ("list-type", b"2".to_vec()),
        ("encoding-type", b"url".to_vec()),
        ("prefix", request.prefix.as_bytes().to_vec()),
    ];
    if request.by_directory {
        query.push(("delimiter", b"/".to_vec()));
    }
    if let Some(token) = &request.continuation {
        query.push(("continuation-token", token.clone().into_bytes()));
    } else if let Some(key) = &request.start_after {
        query.push(("start-after", key.as_bytes().to_vec()));
    }
    if let Some(max_keys) = request.max_keys {
        query.push(("max-keys", max_keys.to_string().into_bytes()));
    }
    let http = Request::new(OPERATION, Method::GET, None).query(&query);
    let answer = store.send_for_xml(http).await?;
    let listed: xml::ListBucketResult = xml::parse(OPERATION, &answer)?;
    page_of(listed, request.continuation.as_deref())
}

/// Sorts a listing's elements into a page.
fn page_of(listed: xml::ListBucketResult, asked: Option<&str>) -> Result<ListPage> {
    const OPERATION: &str = "ListObjectsV2";
    let encoding = listed.elements.iter().find_map(|element| match element {
        xml::ListElement::EncodingType(encoding) => Some(encoding.clone()),
        _ => None,
    });
    let encoding = encoding.as_deref();
    let mut page = ListPage::default();
    let mut truncated = false;
    let mut token = None;
    for element in listed.elements {
        match element {
            xml::ListElement::IsTruncated(value) => truncated = value,
            xml::ListElement::NextContinuationToken(text) => token = Some(text),
            xml::ListElement::Contents(entry) => page.objects.push(listed_object(encoding, entry)?),
            xml::ListElement::CommonPrefixes(common) => {
                page.common_prefixes.push(xml::decode_key(encoding, &common.prefix));
            }
            xml::ListElement::EncodingType(_) | xml::ListElement::Other => {}
        }
    }
    if truncated {
        let next = token.filter(|token| Some(token.as_str()) != asked);
        page.continuation = Some(next.ok_or_else(|| stuck(OPERATION))?);
    }
    Ok(page)
}

fn listed_object(encoding: Option<&str>, entry: xml::ListedEntry) -> Result<ListedObject> {
    let last_modified = headers::parse_iso_date(&entry.last_modified).ok_or_else(|| {
        let message = format!("{:?} is no date", entry.last_modified);
        StoreError::new(ErrorKind::Corrupt, "ListObjectsV2", message)
    })?;
    Ok(ListedObject {
        key: xml::decode_key(encoding, &entry.key),
        etag: ETag::new(&entry.etag),
        len: entry.size,
        last_modified,
        storage_class: entry.storage_class,
    })
}

pub async fn parts(store: &S3Store, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
    const OPERATION: &str = "ListParts";
    let mut parts: Vec<StoredPart> = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let mut query = vec![("uploadId", upload_id.0.clone().into_bytes())];
        if let Some(marker) = &marker {
            query.push(("part-number-marker", marker.clone().into_bytes()));
        }
        let http = Request::new(OPERATION, Method::GET, Some(key)).query(&query);
        let answer = store.send_for_xml(http).await.map_err(|mut err| {
            if err.kind == ErrorKind::NotFound {
                err.kind = ErrorKind::NoSuchUpload;
            }
            err
        })?;
        let listed: xml::ListPartsResult = xml::parse(OPERATION, &answer)?;
        parts.extend(listed.part.iter().map(|part| StoredPart {
            number: part.part_number,
            etag: ETag::new(&part.etag),
            len: part.size,
        }));
        if !listed.is_truncated {
            parts.sort_by_key(|part| part.number);
            return Ok(parts);
        }
        let next = listed.next_part_number_marker;
        if next.is_none() || next == marker {
            return Err(stuck(OPERATION));
        }
        marker = next;
    }
}

pub async fn uploads(store: &S3Store, prefix: &Key) -> Result<Vec<ListedUpload>> {
    const OPERATION: &str = "ListMultipartUploads";
    let mut uploads = Vec::new();
    let mut markers: Option<(Key, String)> = None;
    loop {
        let mut query = vec![
            ("uploads", Vec::new()),
            ("encoding-type", b"url".to_vec()),
            ("prefix", prefix.as_bytes().to_vec()),
        ];
        if let Some((key, upload_id)) = &markers {
            query.push(("key-marker", key.as_bytes().to_vec()));
            query.push(("upload-id-marker", upload_id.clone().into_bytes()));
        }
        let http = Request::new(OPERATION, Method::GET, None).query(&query);
        let answer = store.send_for_xml(http).await?;
        let listed: xml::ListUploadsResult = xml::parse(OPERATION, &answer)?;
        let encoding = listed.encoding_type.as_deref();
        uploads.extend(listed.upload.iter().map(|entry| ListedUpload {
            key: xml::decode_key(encoding, &entry.key),
            upload_id: UploadId(entry.upload_id.clone()),
            initiated: entry.initiated.as_deref().and_then(headers::parse_iso_date),
        }));
        if !listed.is_truncated {
            return Ok(uploads);
        }
        let key = listed.next_key_marker.map(|key| xml::decode_key(encoding, &key));
        let next = key.map(|key| (key, listed.next_upload_id_marker.unwrap_or_default()));
        if next.is_none() || next == markers {
            return Err(stuck(OPERATION));
        }
        markers = next;
    }
}
