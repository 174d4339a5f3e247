//! Operations on whole objects: get, head, put, delete, copy.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use http::Method;
use http::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE,
};
use md5::{Digest as _, Md5};
use reqwest::{Response, StatusCode};

use super::S3Store;
use super::access_point::AccessPoint;
use super::checksum::Sent;
use super::confirm::unless_damaged;
use super::endpoint::{Query, encode_path};
use super::exchange::{self, Request};
use super::list::PAGE_BYTES_MAX;
use super::{explain, headers, xml};
use crate::clock;
use crate::range::ByteRange;
use crate::store::{
    Body, CopyRequest, ETag, ErrorKind, Key, ObjectHead, PartBody, Precondition, Result, Storage,
    StoreError, Summed, Tags, WriteOptions,
};

const DIRECTIVE: &str = "x-amz-metadata-directive";
const TAGGING_DIRECTIVE: &str = "x-amz-tagging-directive";

/// DeleteObjects takes this many keys at most.
const DELETE_KEYS_MAX: usize = 1000;

fn error(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> StoreError {
    StoreError::new(kind, operation, message)
}

pub async fn get(store: &S3Store, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
    let version = store.pins.query(key, if_match);
    match get_at(store, key, range, if_match, &version).await {
        // It was deleted for good. The key may have an object with the same bytes.
        Err(err) if err.kind == ErrorKind::NotFound && !version.is_empty() => {
            store.pins.forget(key, if_match);
            get_at(store, key, range, if_match, &[]).await
        }
        got => got,
    }
}

async fn get_at(
    store: &S3Store,
    key: &Key,
    range: ByteRange,
    if_match: &ETag,
    query: &Query<'_>,
) -> Result<Body> {
    const OPERATION: &str = "GetObject";
    if range.is_empty() {
        return Err(error(ErrorKind::Invalid, OPERATION, "an empty range was asked for"));
    }
    let mut sent = HeaderMap::new();
    let bytes = format!("bytes={}-{}", range.start(), range.end() - 1);
    sent.insert(RANGE, headers::value(OPERATION, &bytes)?);
    if !if_match.is_weak() {
        sent.insert(IF_MATCH, headers::value(OPERATION, &if_match.quoted())?);
    }
    if store.provider().row().capabilities.tells_sums {
        headers::ask_for_checksums(&mut sent);
    }
    let request = Request::new(OPERATION, Method::GET, Some(key)).query(query).headers(sent);
    let response = store.send(request).await?;
    let id = headers::request_id(response.headers());
    body_of(store, response, range, if_match).map_err(|err| err.of_request(id))
}

/// What an answer to a GET brings, if that is what was asked for.
fn body_of(store: &S3Store, response: Response, range: ByteRange, if_match: &ETag) -> Result<Body> {
    const OPERATION: &str = "GetObject";
    let object_len = check_range(&response, range)?;
    let head = headers::object_head(OPERATION, response.headers(), object_len)?;
    let is_whole = range == ByteRange::new(0, object_len);
    let md5 = is_whole.then(|| store.md5_of_object(&head.etag, response.headers())).flatten();
    if head.etag != *if_match {
        // The store ignored If-Match, or was sent none; the bytes are another version's.
        let message = format!("the object is another version: {} for {if_match}", head.etag);
        return Err(error(ErrorKind::PreconditionFailed, OPERATION, message));
    }
    let id = headers::request_id(response.headers());
    let request_id = id.clone();
    let bytes = exact_bytes(response, range.len(), store.silence());
    let bytes = bytes.map_err(move |err| err.of_request(id.clone()));
    Ok(Body { range, head, md5, request_id, bytes: bytes.boxed() })
}

/// Checks that an answer carries exactly `range`; tells the length of the whole object.
fn check_range(response: &Response, range: ByteRange) -> Result<u64> {
    const OPERATION: &str = "GetObject";
    let corrupt = |message: String| error(ErrorKind::Corrupt, OPERATION, message);
    let len = headers::content_length(OPERATION, response.headers())?;
    let object_len = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let told = headers::text(response.headers(), CONTENT_RANGE.as_str());
            let told = told.ok_or_else(|| corrupt("the answer has no Content-Range".into()))?;
            let (first, last, total) = headers::parse_content_range(&told)
                .ok_or_else(|| corrupt(format!("the answer's Content-Range is {told:?}")))?;
            if first == range.start() && last + 1 < range.end() && last + 1 == total {
                let message = format!("the object ends at byte {total}");
                return Err(error(ErrorKind::InvalidRange, OPERATION, message));
            }
            if first != range.start() || last + 1 != range.end() {
                return Err(corrupt(format!(
                    "bytes {}-{} were asked for, {told:?} came",
                    range.start(),
                    range.end() - 1
                )));
            }
            total
        }
        // Some servers answer 200 when the range happens to be the whole object.
        StatusCode::OK if range.start() == 0 && len < range.end() => {
            let message = format!("the object ends at byte {len}");
            return Err(error(ErrorKind::InvalidRange, OPERATION, message));
        }
        StatusCode::OK if range.start() == 0 => len,
        other => return Err(corrupt(format!("a range was asked for, {other} came"))),
    };
    if len != range.len() {
        return Err(corrupt(format!("{} bytes were asked for, {len} are announced", range.len())));
    }
    Ok(object_len)
}

/// The body's chunks as they come. Ends after exactly `len` bytes, or with an error.
fn exact_bytes(
    response: Response,
    len: u64,
    silence: Duration,
) -> impl futures_util::Stream<Item = Result<Bytes>> + Send + 'static {
    const OPERATION: &str = "GetObject";
    stream::try_unfold((response, len), move |(mut response, left)| async move {
        let chunk = clock::timeout(silence, response.chunk())
            .await
            .map_err(|_| exchange::silent(OPERATION, silence))?
            .map_err(|err| exchange::transport_error(OPERATION, err))?;
        match chunk {
            Some(chunk) if chunk.len() as u64 > left => Err(error(
                ErrorKind::Corrupt,
                OPERATION,
                "the body is longer than what was asked for",
            )),
            Some(chunk) => {
                let left = left - chunk.len() as u64;
                Ok(Some((chunk, (response, left))))
            }
            None if left > 0 => Err(error(
                ErrorKind::Transient,
                OPERATION,
                format!("the body ended {left} bytes too early"),
            )),
            None => Ok(None),
        }
    })
}

/// `query`: of what the key has now, or of a version.
pub async fn head(store: &S3Store, key: &Key, query: &Query<'_>) -> Result<ObjectHead> {
    let asks = store.provider().row().capabilities.tells_sums;
    let head = head_once(store, key, query, asks).await?;
    // The first answer of all may tell which store it is.
    if !asks && store.provider().row().capabilities.tells_sums {
        return head_once(store, key, query, true).await;
    }
    Ok(head)
}

async fn head_once(
    store: &S3Store,
    key: &Key,
    query: &Query<'_>,
    asks_for_checksums: bool,
) -> Result<ObjectHead> {
    const OPERATION: &str = "HeadObject";
    let mut sent = HeaderMap::new();
    if asks_for_checksums {
        headers::ask_for_checksums(&mut sent);
    }
    let request = Request::new(OPERATION, Method::HEAD, Some(key)).query(query).headers(sent);
    let response = store.send(request).await?;
    let answer = response.headers();
    let len = headers::content_length(OPERATION, answer);
    let head = len.and_then(|len| headers::object_head(OPERATION, answer, len));
    let mut head = head.map_err(headers::of_answer(answer))?;
    store.told.note(key, &head);
    head.archived = headers::is_archived(answer).then(|| explain::how_to_restore(store.at(), key));
    if store.settings.new_objects.storage_class.is_some() {
        // Which stores do not name, and which is to stay what it is though new objects get another.
        head.carried.storage.class.get_or_insert_with(|| "STANDARD".to_owned());
    }
    if head.carried.tags == Tags::None {
        head.carried.tags = no_tags(store);
    }
    Ok(head)
}

pub async fn tags(store: &S3Store, key: &Key) -> Result<Tags> {
    const OPERATION: &str = "GetObjectTagging";
    let query = [("tagging", Vec::new())];
    let request = Request::new(OPERATION, Method::GET, Some(key)).query(&query);
    let answer = store.send_for_xml(request).await?;
    let tagging: xml::Tagging =
        answer.read(|body| xml::parse_rooted(OPERATION, "Tagging", body))?;
    let tags = Tags::new(tagging.pairs());
    Ok(if tags == Tags::None { no_tags(store) } else { tags })
}

/// The tags of an object that has none, which is to stay so though new objects get some.
fn no_tags(store: &S3Store) -> Tags {
    match &store.settings.new_objects.tags {
        Tags::None => Tags::None,
        _ => Tags::These(String::new()),
    }
}

/// The headers of the mount's settings, for every way of creating an object.
fn mount_headers(store: &S3Store, operation: &'static str, storage: &Storage) -> Result<HeaderMap> {
    let settings = &store.settings.new_objects;
    let mut sent = HeaderMap::new();
    let of_mount = Storage {
        class: settings.storage_class.clone(),
        encryption: settings.sse.clone(),
        kms_key_id: settings.sse_kms_key_id.clone(),
    };
    headers::put_storage(operation, &mut sent, storage, &of_mount)?;
    if let Some(acl) = &settings.acl {
        sent.insert("x-amz-acl", headers::value(operation, acl)?);
    }
    Ok(sent)
}

/// Those, and all that the object carries but its tags.
fn replacing_headers(
    store: &S3Store,
    operation: &'static str,
    options: &WriteOptions,
) -> Result<(HeaderMap, Tags)> {
    let Some(carried) = &options.carried else {
        let message = "it is not known what the object carries that is replaced";
        return Err(error(ErrorKind::Invalid, operation, message));
    };
    let mut sent = mount_headers(store, operation, &carried.storage)?;
    if let Some(content_type) = &options.content_type {
        sent.insert(CONTENT_TYPE, headers::value(operation, content_type)?);
    }
    headers::put_served(operation, &mut sent, carried)?;
    headers::put_metadata(operation, &mut sent, &options.metadata)?;
    let tags =
        if carried.tags == Tags::None { &store.settings.new_objects.tags } else { &carried.tags };
    Ok((sent, tags.clone()))
}

/// All that an object is written with, by another way than a copy.
pub fn write_headers(
    store: &S3Store,
    operation: &'static str,
    options: &WriteOptions,
) -> Result<HeaderMap> {
    let (mut sent, tags) = replacing_headers(store, operation, options)?;
    headers::put_tags(operation, &mut sent, &tags)?;
    Ok(sent)
}

/// What a copy is written with.
fn copy_headers(
    store: &S3Store,
    operation: &'static str,
    request: &CopyRequest,
) -> Result<HeaderMap> {
    let Some(options) = &request.replace else {
        let mut sent = mount_headers(store, operation, &request.storage)?;
        sent.insert(DIRECTIVE, HeaderValue::from_static("COPY"));
        return Ok(sent);
    };
    let (mut sent, tags) = replacing_headers(store, operation, options)?;
    sent.insert(DIRECTIVE, HeaderValue::from_static("REPLACE"));
    if !request.keeps_tags {
        sent.insert(TAGGING_DIRECTIVE, HeaderValue::from_static("REPLACE"));
        headers::put_tags(operation, &mut sent, &tags)?;
    } else if options.carried.as_ref().is_some_and(|carried| carried.tags != Tags::None) {
        // What stores do by themselves. Not all know the header.
        sent.insert(TAGGING_DIRECTIVE, HeaderValue::from_static("COPY"));
    }
    Ok(sent)
}

/// Adds a precondition of a write; `Unsupported`, and nothing sent, where the store is known not to honour it.
pub fn put_precondition(
    store: &S3Store,
    operation: &'static str,
    sent: &mut HeaderMap,
    precondition: &Precondition,
) -> Result<()> {
    use crate::store::Store as _;
    let known = store.capabilities();
    let (is_known, (of_match, of_none)) = match operation {
        "CopyObject" => (known.conditional_copies, store.provider().row().copy_conditions),
        _ => (known.conditional_writes, (IF_MATCH.as_str(), IF_NONE_MATCH.as_str())),
    };
    let unsupported = |message| Err(error(ErrorKind::Unsupported, operation, message));
    match precondition {
        Precondition::None => return Ok(()),
        Precondition::Matches(etag) if etag.is_weak() => {
            return unsupported("a write cannot depend on a weak ETag");
        }
        _ if !is_known => return unsupported("the store has no conditions of this"),
        Precondition::Absent => {
            sent.insert(HeaderName::from_static(of_none), HeaderValue::from_static("*"))
        }
        Precondition::Matches(etag) => sent
            .insert(HeaderName::from_static(of_match), headers::value(operation, &etag.quoted())?),
    };
    Ok(())
}

/// If-Match on a key without an object is answered 404; what it means is that the condition fails.
pub fn unmet(precondition: &Precondition) -> impl Fn(StoreError) -> StoreError + '_ {
    move |mut err| {
        if matches!(precondition, Precondition::Matches(_)) && err.kind == ErrorKind::NotFound {
            err.kind = ErrorKind::PreconditionFailed;
        }
        err
    }
}

pub async fn put(
    store: &S3Store,
    key: &Key,
    body: Summed,
    options: &WriteOptions,
    precondition: &Precondition,
) -> Result<ETag> {
    const OPERATION: &str = "PutObject";
    let mut sent = write_headers(store, OPERATION, options)?;
    put_precondition(store, OPERATION, &mut sent, precondition)?;
    let body = PartBody::Whole(body);
    let checksum = Sent::with(store.checksum(), OPERATION, &body).await?;
    checksum.put(OPERATION, &mut sent)?;
    let request = Request::new(OPERATION, Method::PUT, Some(key)).headers(sent).part(body.clone());
    let outcome = match store.send_for_headers(request).await.map_err(unmet(precondition)) {
        Ok(answer) => store.confirmed(OPERATION, &body, checksum, &answer).await,
        Err(err) => Err(err),
    };
    unless_damaged(OPERATION, &body, outcome).await
}

pub async fn delete(store: &S3Store, key: &Key, if_match: Option<&ETag>) -> Result<()> {
    use crate::store::Store as _;
    const OPERATION: &str = "DeleteObject";
    let is_known = store.capabilities().conditional_deletes;
    let if_match = if_match.filter(|etag| is_known && !etag.is_weak());
    let mut sent = HeaderMap::new();
    if let Some(etag) = if_match {
        sent.insert(IF_MATCH, headers::value(OPERATION, &etag.quoted())?);
    }
    let request = Request::new(OPERATION, Method::DELETE, Some(key)).headers(sent);
    match store.send_for_headers(request).await {
        Ok(_) => Ok(()),
        Err(err) if err.kind == ErrorKind::NotFound => Ok(()),
        // It has no such condition after all, which is known from now on.
        Err(err) if err.kind == ErrorKind::Unsupported && if_match.is_some() => {
            Box::pin(delete(store, key, None)).await
        }
        Err(err) => Err(err),
    }
}

pub async fn delete_many(store: &S3Store, keys: &[Key]) -> Result<Vec<Result<()>>> {
    const OPERATION: &str = "DeleteObjects";
    if keys.len() > DELETE_KEYS_MAX {
        let message = format!("more than {DELETE_KEYS_MAX} keys");
        return Err(error(ErrorKind::Invalid, OPERATION, message));
    }
    let bulk: Vec<&Key> = keys.iter().filter(|key| xml::is_expressible(key)).collect();
    let (mut failed, mut id) = (HashMap::new(), None);
    if !bulk.is_empty() {
        let body = xml::delete_body(&bulk);
        let mut sent = HeaderMap::new();
        sent.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        // S3 demands a digest here, and MD5 is the one that every provider takes.
        let md5 = BASE64.encode(Md5::digest(body.as_bytes()));
        sent.insert("content-md5", headers::value(OPERATION, &md5)?);
        let query = [("delete", Vec::new())];
        let request = Request::new(OPERATION, Method::POST, None).query(&query).headers(sent);
        let request = request.body(body).answer_max(PAGE_BYTES_MAX);
        let answer = store.send_for_xml(request).await?;
        failed = answer.read(|body| deletions_failed(body, &bulk))?;
        id = answer.request_id();
    }
    let outcome = |key| match failed.get(key) {
        Some(err) => {
            Err(explain::with_cure(store.at(), StoreError::clone(err), key).of_request(id.clone()))
        }
        None => Ok(()),
    };
    let mut outcomes: Vec<Result<()>> = keys.iter().map(outcome).collect();
    // Control characters in keys are rare enough to go one by one.
    for (key, outcome) in keys.iter().zip(&mut outcomes) {
        if !xml::is_expressible(key) {
            *outcome = delete(store, key, None).await;
        }
    }
    Ok(outcomes)
}

/// What could not be deleted, and why. An error that names no key of the request may be any one's, so that it is the
/// whole request's.
fn deletions_failed(answer: &[u8], keys: &[&Key]) -> Result<HashMap<Key, StoreError>> {
    const OPERATION: &str = "DeleteObjects";
    let keys: HashSet<&Key> = keys.iter().copied().collect();
    let mut failed = HashMap::new();
    xml::each(OPERATION, answer, |element| {
        if element.name != "Error" {
            return Ok(());
        }
        let told: xml::DeleteError = element.read()?;
        if told.code == "NoSuchKey" {
            return Ok(());
        }
        let key = Key::from(told.key.as_str());
        let code = Some(told.code).filter(|code| !code.is_empty());
        let kind = super::status::kind_of(200, code.as_deref(), &told.message);
        let message = exchange::short(&told.message);
        let error =
            StoreError { status: Some(200), code, ..StoreError::new(kind, OPERATION, message) };
        if !keys.contains(&key) {
            return Err(error);
        }
        failed.insert(key, error);
        Ok(())
    })?;
    Ok(failed)
}

/// The x-amz-copy-source of a key of the store's own bucket.
pub fn copy_source(store: &S3Store, operation: &'static str, source: &Key) -> Result<HeaderValue> {
    super::check_key(source)?;
    let bucket = &store.settings.bucket;
    let source = source.as_text();
    let path = match AccessPoint::of(bucket) {
        Ok(Some(point)) => encode_path(point.object(&source).as_bytes()),
        _ => format!("/{bucket}/{}", encode_path(source.as_bytes())),
    };
    headers::value(operation, &path)
}

/// Which version of its source a copy is of. One with a weak ETag is checked by [`crate::store::stack()`].
pub fn put_source_condition(
    operation: &'static str,
    sent: &mut HeaderMap,
    etag: &ETag,
) -> Result<()> {
    if !etag.is_weak() {
        sent.insert("x-amz-copy-source-if-match", headers::value(operation, &etag.quoted())?);
    }
    Ok(())
}

pub async fn copy(store: &S3Store, request: &CopyRequest) -> Result<ETag> {
    const OPERATION: &str = "CopyObject";
    let mut sent = copy_headers(store, OPERATION, request)?;
    sent.insert("x-amz-copy-source", copy_source(store, OPERATION, &request.source)?);
    if let Some(etag) = &request.source_etag {
        put_source_condition(OPERATION, &mut sent, etag)?;
    }
    put_precondition(store, OPERATION, &mut sent, &request.precondition)?;
    let http = Request::new(OPERATION, Method::PUT, Some(&request.target)).headers(sent).slow();
    let answer = store.send_for_xml(http).await?;
    let result: xml::ETagResult = answer.read(|body| xml::parse(OPERATION, body))?;
    Ok(ETag::new(&result.etag))
}
