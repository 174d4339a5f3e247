//! Listings of objects, parts and uploads.
//!
//! None goes on for ever: pages have to bring something new, keys lie below the prefix that was asked for, and
//! there is a limit to parts, uploads and pages.

use std::collections::HashSet;
use std::time::Duration;

use http::Method;

use super::exchange::Request;
use super::{S3Store, headers, xml};
use crate::clock::Instant;
use crate::store::{
    Continuation, ETag, ErrorKind, Key, ListPage, ListRequest, ListedObject, ListedUpload, Result,
    StoreError, StoredPart, UploadId,
};

/// A page of a thousand keys of 1,024 bytes, each byte percent-encoded, with their other fields stays below it.
pub const PAGE_BYTES_MAX: usize = 8 << 20;
/// Entries of one page. S3 has a thousand at most; some servers have more.
pub const PAGE_ENTRIES_MAX: usize = 10_000;
/// An upload has no more parts.
const PARTS_MAX: usize = 10_000;
/// Unfinished uploads that are told of, in some hundred bytes each.
const UPLOADS_MAX: usize = 100_000;
/// Pages of parts or uploads, how many in a row may bring nothing new, and how long all of them may take.
const PAGES_MAX: u32 = 2_000;
const IDLE_PAGES_MAX: u32 = 10;
const PAGES_TIME_MAX: Duration = Duration::from_secs(300);

fn corrupt(operation: &'static str, message: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Corrupt, operation, message)
}

/// A listing whose pages are all fetched at once.
struct Pages {
    operation: &'static str,
    entries_max: usize,
    pages: u32,
    idle: u32,
    entries: usize,
    begun: Instant,
}

impl Pages {
    fn of(operation: &'static str, entries_max: usize) -> Pages {
        Pages { operation, entries_max, pages: 0, idle: 0, entries: 0, begun: Instant::now() }
    }

    /// Another page is there, with which there are so many entries. An error where that will not end.
    fn count(&mut self, entries: usize, is_last: bool) -> Result<()> {
        self.pages += 1;
        self.idle = if entries > self.entries { 0 } else { self.idle + 1 };
        self.entries = entries;
        if entries > self.entries_max {
            let message = format!("the listing has more than {} entries", self.entries_max);
            return Err(corrupt(self.operation, message));
        }
        let is_stuck = self.pages >= PAGES_MAX
            || self.idle >= IDLE_PAGES_MAX
            || self.begun.elapsed() >= PAGES_TIME_MAX;
        if !is_last && is_stuck {
            return Err(corrupt(self.operation, "the listing goes on but does not move on"));
        }
        Ok(())
    }
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
    if let Some(continuation) = &request.continuation {
        query.push(("continuation-token", continuation.token().as_bytes().to_vec()));
    } else if let Some(key) = &request.start_after {
        query.push(("start-after", key.as_bytes().to_vec()));
    }
    if let Some(max_keys) = request.max_keys {
        query.push(("max-keys", max_keys.to_string().into_bytes()));
    }
    let http = Request::new(OPERATION, Method::GET, None).query(&query).answer_max(PAGE_BYTES_MAX);
    let answer = store.send_for_xml(http).await?;
    answer.read(|body| page_of(body, request))
}

/// Reads a page, its elements in the order they came: objects and common prefixes may be interleaved.
fn page_of(answer: &[u8], request: &ListRequest) -> Result<ListPage> {
    const OPERATION: &str = "ListObjectsV2";
    let (mut entries, mut prefixes): (Vec<xml::ListedEntry>, Vec<xml::CommonPrefix>) =
        Default::default();
    let (mut truncated, mut token, mut encoding) = (false, None, None::<String>);
    xml::each(OPERATION, answer, |element| {
        match element.name {
            "Contents" => entries.push(element.read()?),
            "CommonPrefixes" => prefixes.push(element.read()?),
            "IsTruncated" => truncated = element.read()?,
            "NextContinuationToken" => token = Some(element.read()?),
            "EncodingType" => encoding = Some(element.read()?),
            _ => {}
        }
        if entries.len() + prefixes.len() > PAGE_ENTRIES_MAX {
            return Err(corrupt(OPERATION, "the page has too many entries"));
        }
        Ok(())
    })?;
    let key_of =
        |text: &str| below(OPERATION, &request.prefix, xml::decode_key(encoding.as_deref(), text));
    let objects = entries.into_iter().map(|entry| listed_object(key_of(&entry.key)?, entry));
    let common_prefixes = prefixes.iter().map(|common| key_of(&common.prefix));
    let mut page = ListPage {
        objects: objects.collect::<Result<_>>()?,
        common_prefixes: common_prefixes.collect::<Result<_>>()?,
        continuation: None,
    };
    if truncated {
        let token: String =
            token.ok_or_else(|| corrupt(OPERATION, "there is more, but no token"))?;
        let before = request.continuation.as_ref();
        page.continuation = Some(Continuation::behind(before, token, page.keys())?);
    }
    Ok(page)
}

/// A key that was not asked for is no part of what was: a rename of a directory would move it.
pub fn below(operation: &'static str, prefix: &Key, key: Key) -> Result<Key> {
    if key.as_bytes().starts_with(prefix.as_bytes()) {
        return Ok(key);
    }
    let message = format!("the listing of {prefix:?} names {key:?}");
    Err(corrupt(operation, message))
}

fn listed_object(key: Key, entry: xml::ListedEntry) -> Result<ListedObject> {
    const OPERATION: &str = "ListObjectsV2";
    let last_modified = headers::parse_iso_date(&entry.last_modified)
        .ok_or_else(|| corrupt(OPERATION, format!("{:?} is no date", entry.last_modified)))?;
    Ok(ListedObject {
        key,
        etag: ETag::new(&entry.etag),
        len: headers::object_len(OPERATION, entry.size)?,
        last_modified,
        storage_class: entry.storage_class,
    })
}

pub async fn parts(store: &S3Store, key: &Key, upload_id: &UploadId) -> Result<Vec<StoredPart>> {
    const OPERATION: &str = "ListParts";
    let mut parts: Vec<StoredPart> = Vec::new();
    let mut pages = Pages::of(OPERATION, PARTS_MAX);
    let mut marker: Option<u32> = None;
    loop {
        let mut query = vec![("uploadId", upload_id.0.clone().into_bytes())];
        if let Some(marker) = marker {
            query.push(("part-number-marker", marker.to_string().into_bytes()));
        }
        let http = Request::new(OPERATION, Method::GET, Some(key))
            .query(&query)
            .answer_max(PAGE_BYTES_MAX);
        let answer = store.send_for_xml(http).await.map_err(|mut err| {
            if err.kind == ErrorKind::NotFound {
                err.kind = ErrorKind::NoSuchUpload;
            }
            err
        })?;
        let next = answer.read(|body| {
            let page = parts_of(body)?;
            parts.extend(page.parts);
            if parts.len() > PARTS_MAX {
                return Err(corrupt(OPERATION, format!("more than {PARTS_MAX} parts")));
            }
            pages.count(parts.len(), !page.truncated)?;
            if page.truncated && page.next <= marker {
                return Err(corrupt(OPERATION, "the listing goes on but does not move on"));
            }
            Ok(page.next.filter(|_| page.truncated))
        })?;
        if next.is_none() {
            parts.sort_by_key(|part| part.number);
            return Ok(parts);
        }
        marker = next;
    }
}

/// One page of parts, and the number that the next page begins behind.
#[derive(Default)]
struct PartsPage {
    parts: Vec<StoredPart>,
    truncated: bool,
    next: Option<u32>,
}

fn parts_of(answer: &[u8]) -> Result<PartsPage> {
    const OPERATION: &str = "ListParts";
    let mut page = PartsPage::default();
    xml::each(OPERATION, answer, |element| {
        match element.name {
            "Part" => page.parts.push(stored_part(element.read()?)?),
            "IsTruncated" => page.truncated = element.read()?,
            "NextPartNumberMarker" => page.next = element.read().ok(),
            _ => {}
        }
        if page.parts.len() > PARTS_MAX {
            return Err(corrupt(OPERATION, format!("more than {PARTS_MAX} parts")));
        }
        Ok(())
    })?;
    Ok(page)
}

fn stored_part(part: xml::ListedPart) -> Result<StoredPart> {
    const OPERATION: &str = "ListParts";
    let len = headers::object_len(OPERATION, part.size)?;
    Ok(StoredPart { number: part.part_number, etag: ETag::new(&part.etag), len, crc: None })
}

pub async fn uploads(store: &S3Store, prefix: &Key) -> Result<Vec<ListedUpload>> {
    const OPERATION: &str = "ListMultipartUploads";
    let mut uploads: Vec<ListedUpload> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut pages = Pages::of(OPERATION, UPLOADS_MAX);
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
        let http =
            Request::new(OPERATION, Method::GET, None).query(&query).answer_max(PAGE_BYTES_MAX);
        let answer = store.send_for_xml(http).await?;
        let next = answer.read(|body| {
            let page = uploads_of(body, prefix)?;
            // In no order that all servers share, so that only what is new shows that it moves on.
            let new = page.uploads.into_iter();
            uploads.extend(new.filter(|upload| seen.insert(upload.upload_id.0.clone())));
            pages.count(uploads.len(), page.next.is_none())?;
            if page.next.is_some() && page.next == markers {
                return Err(corrupt(OPERATION, "the listing goes on but does not move on"));
            }
            Ok(page.next)
        })?;
        if next.is_none() {
            return Ok(uploads);
        }
        markers = next;
    }
}

/// One page of unfinished uploads, and the markers of the next.
struct UploadsPage {
    uploads: Vec<ListedUpload>,
    next: Option<(Key, String)>,
}

fn uploads_of(answer: &[u8], prefix: &Key) -> Result<UploadsPage> {
    const OPERATION: &str = "ListMultipartUploads";
    let mut entries: Vec<xml::ListedUploadEntry> = Vec::new();
    let (mut truncated, mut encoding) = (false, None::<String>);
    let (mut next_key, mut next_id) = (None::<String>, String::new());
    xml::each(OPERATION, answer, |element| {
        match element.name {
            "Upload" => entries.push(element.read()?),
            "IsTruncated" => truncated = element.read()?,
            "EncodingType" => encoding = Some(element.read()?),
            "NextKeyMarker" => next_key = Some(element.read()?),
            "NextUploadIdMarker" => next_id = element.read()?,
            _ => {}
        }
        if entries.len() > PAGE_ENTRIES_MAX {
            return Err(corrupt(OPERATION, "the page has too many entries"));
        }
        Ok(())
    })?;
    let key_of = |text: &str| xml::decode_key(encoding.as_deref(), text);
    let uploads = entries.into_iter().map(|entry| ListedUpload {
        key: key_of(&entry.key),
        upload_id: UploadId(entry.upload_id),
        initiated: entry.initiated.as_deref().and_then(headers::parse_iso_date),
    });
    let uploads = uploads.filter(|upload| upload.key.as_bytes().starts_with(prefix.as_bytes()));
    let next = match (truncated, next_key) {
        (false, _) => None,
        (true, Some(key)) => Some((key_of(&key), next_id)),
        (true, None) => return Err(corrupt(OPERATION, "there is more, but no marker")),
    };
    Ok(UploadsPage { uploads: uploads.collect(), next })
}
