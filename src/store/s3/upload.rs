//! Multipart uploads.

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::checksum::{Checksum, Sent};
use super::confirm::{put_sum_of_object, unless_damaged};
use super::exchange::Request;
use super::object::{copy_source, put_precondition, put_source_condition, unmet, write_headers};
use super::{S3Store, headers, xml};
use crate::range::ByteRange;
use crate::store::{
    Created, ETag, ErrorKind, Key, PartBody, Precondition, Result, StoreError, StoredPart,
    UploadId, WriteOptions,
};

/// A range of an object in one version.
pub struct CopySource<'a> {
    pub key: &'a Key,
    pub etag: &'a ETag,
    pub range: ByteRange,
}

/// On requests that name an upload, a plain 404 (servers that send no code) means the upload.
fn of_upload(mut err: StoreError) -> StoreError {
    if err.kind == ErrorKind::NotFound && err.code.as_deref() != Some("NoSuchKey") {
        err.kind = ErrorKind::NoSuchUpload;
    }
    err
}

fn upload_query(upload_id: &UploadId) -> (&'static str, Vec<u8>) {
    ("uploadId", upload_id.0.clone().into_bytes())
}

pub async fn create(store: &S3Store, key: &Key, options: &WriteOptions) -> Result<Created> {
    const OPERATION: &str = "CreateMultipartUpload";
    let mut sent = write_headers(store, OPERATION, options)?;
    store.put_checksum_of_upload(&mut sent);
    let query = [("uploads", Vec::new())];
    let request = Request::new(OPERATION, Method::POST, Some(key)).query(&query).headers(sent);
    let answer = store.send_for_xml(request).await?;
    answer.read(|body| {
        let result: xml::CreateUploadResult = xml::parse(OPERATION, body)?;
        if result.upload_id.is_empty() {
            return Err(StoreError::new(ErrorKind::Corrupt, OPERATION, "the upload id is empty"));
        }
        Ok(Created { upload_id: UploadId(result.upload_id), perhaps_twice: false })
    })
}

pub async fn part(
    store: &S3Store,
    key: &Key,
    upload_id: &UploadId,
    number: u32,
    body: PartBody,
) -> Result<ETag> {
    const OPERATION: &str = "UploadPart";
    let query = [("partNumber", number.to_string().into_bytes()), upload_query(upload_id)];
    let send = async |checksum| {
        let sent = Sent::with(checksum, OPERATION, &body).await?;
        let mut headers = HeaderMap::new();
        sent.put(OPERATION, &mut headers)?;
        let request =
            Request::new(OPERATION, Method::PUT, Some(key)).query(&query).headers(headers);
        let answer = store.send_for_headers(request.part(body.clone())).await.map_err(of_upload)?;
        store.confirmed(OPERATION, &body, sent, &answer).await
    };
    let checksum = store.checksum();
    let sent = match send(checksum).await {
        // Of an upload that was begun without a word of this checksum, which AWS then refuses.
        Err(err) if checksum == Checksum::Crc32c && is_other_checksum(&err) => {
            send(Checksum::Md5).await
        }
        outcome => outcome,
    };
    unless_damaged(OPERATION, &body, sent).await
}

/// Whether the upload is refused what it was not begun with: by a process before this one, for another checksum or none.
fn is_other_checksum(err: &StoreError) -> bool {
    err.code.as_deref() == Some("InvalidRequest")
}

pub async fn part_copy(
    store: &S3Store,
    key: &Key,
    upload_id: &UploadId,
    number: u32,
    source: CopySource<'_>,
) -> Result<ETag> {
    const OPERATION: &str = "UploadPartCopy";
    if source.range.is_empty() {
        let message = "an empty range cannot be copied";
        return Err(StoreError::new(ErrorKind::Invalid, OPERATION, message));
    }
    let mut sent = HeaderMap::new();
    sent.insert("x-amz-copy-source", copy_source(store, OPERATION, source.key)?);
    put_source_condition(OPERATION, &mut sent, source.etag)?;
    let bytes = format!("bytes={}-{}", source.range.start(), source.range.end() - 1);
    sent.insert("x-amz-copy-source-range", headers::value(OPERATION, &bytes)?);
    let query = [("partNumber", number.to_string().into_bytes()), upload_query(upload_id)];
    let request =
        Request::new(OPERATION, Method::PUT, Some(key)).query(&query).headers(sent).slow();
    // Here a 404 can mean the source as well; its code tells them apart.
    let answer = store.send_for_xml(request).await?;
    let result: xml::ETagResult = answer.read(|body| xml::parse(OPERATION, body))?;
    Ok(ETag::new(&result.etag))
}

pub async fn complete(
    store: &S3Store,
    key: &Key,
    upload_id: &UploadId,
    parts: &[StoredPart],
    precondition: &Precondition,
) -> Result<ETag> {
    const OPERATION: &str = "CompleteMultipartUpload";
    let query = [upload_query(upload_id)];
    let send = async |with_sums: bool| {
        let mut sent = HeaderMap::new();
        sent.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        put_precondition(store, OPERATION, &mut sent, precondition)?;
        if with_sums {
            put_sum_of_object(OPERATION, &mut sent, parts)?;
        }
        let request = Request::new(OPERATION, Method::POST, Some(key))
            .query(&query)
            .headers(sent)
            .body(xml::complete_body(parts, with_sums))
            .slow();
        store.send_for_xml(request).await.map_err(|err| {
            let no_object = err.code.as_deref() == Some("NoSuchKey");
            if no_object { unmet(precondition)(err) } else { of_upload(err) }
        })
    };
    let with_sums = store.names_checksum_of_upload();
    let answer = match send(with_sums).await {
        // Each part was sent with a checksum all the same.
        Err(err) if with_sums && is_other_checksum(&err) => send(false).await?,
        outcome => outcome?,
    };
    answer.read(|body| store.completed(OPERATION, parts, &xml::parse(OPERATION, body)?))
}

pub async fn abort(store: &S3Store, key: &Key, upload_id: &UploadId) -> Result<()> {
    let query = [upload_query(upload_id)];
    let request = Request::new("AbortMultipartUpload", Method::DELETE, Some(key)).query(&query);
    match store.send_for_headers(request).await.map_err(of_upload) {
        Ok(_) => Ok(()),
        Err(err) if matches!(err.kind, ErrorKind::NoSuchUpload | ErrorKind::NotFound) => Ok(()),
        Err(err) => Err(err),
    }
}
