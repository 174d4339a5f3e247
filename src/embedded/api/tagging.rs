//! Tags of objects, kept as x-amz-tagging has them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Result};

use crate::embedded::index::Index;
use crate::embedded::records::{Attributes, Object};

/// What need not be encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How many there are; `None` for none.
pub fn count(tags: Option<&str>) -> Option<i32> {
    i32::try_from(tags?.split('&').count()).ok()
}

pub async fn get_object_tagging(
    index: &Index,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<GetObjectTaggingOutput> {
    let input = request.input;
    let (object, _) = index.object(&input.bucket, &input.key)?;
    let pairs = object.attributes.tags.as_deref().into_iter().flat_map(|tags| tags.split('&'));
    let tag_set = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Tag { key: Some(decoded(key)), value: Some(decoded(value)) }
    });
    Ok(GetObjectTaggingOutput { tag_set: tag_set.collect(), version_id: None })
}

pub async fn put_object_tagging(
    index: &Index,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<PutObjectTaggingOutput> {
    let input = request.input;
    let encoded =
        |text: Option<String>| utf8_percent_encode(&text.unwrap_or_default(), PLAIN).to_string();
    let tags = input.tagging.tag_set.into_iter();
    let pairs: Vec<String> =
        tags.map(|tag| format!("{}={}", encoded(tag.key), encoded(tag.value))).collect();
    let tags = Some(pairs.join("&")).filter(|tags| !tags.is_empty());
    set(index, &input.bucket, &input.key, tags)?;
    Ok(PutObjectTaggingOutput::default())
}

pub async fn delete_object_tagging(
    index: &Index,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<DeleteObjectTaggingOutput> {
    set(index, &request.input.bucket, &request.input.key, None)?;
    Ok(DeleteObjectTaggingOutput::default())
}

/// The object stays what it is: neither its ETag nor its time changes.
fn set(index: &Index, bucket: &str, key: &str, tags: Option<String>) -> S3Result<()> {
    let (object, _hold) = index.object(bucket, key)?;
    let attributes = Attributes { tags, ..object.attributes.clone() };
    let tagged = Object { attributes, ..Object::clone(&object) };
    index.amend(bucket, key, tagged)
}

/// As forms are encoded: a `+` is a space.
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
