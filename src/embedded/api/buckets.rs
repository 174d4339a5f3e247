//! Buckets, and the listings of their objects.

use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::fields::{Naming, etag, page_size, storage_class, timestamp};
use crate::embedded::index::Index;
use crate::embedded::listing::{self, Entry, Query, Start};
use crate::embedded::records;

pub async fn list_buckets(
    index: &Index,
    _request: S3Request<ListBucketsInput>,
) -> S3Result<ListBucketsOutput> {
    let bucket = |(name, created)| Bucket {
        name: Some(name),
        creation_date: Some(timestamp(created)),
        ..Bucket::default()
    };
    Ok(ListBucketsOutput {
        buckets: Some(index.buckets().into_iter().map(bucket).collect()),
        owner: Some(owner()),
        ..ListBucketsOutput::default()
    })
}

pub async fn create_bucket(
    index: &Index,
    request: S3Request<CreateBucketInput>,
) -> S3Result<CreateBucketOutput> {
    index.create_bucket(&request.input.bucket)?;
    let location = Some(format!("/{}", request.input.bucket));
    Ok(CreateBucketOutput { location })
}

pub async fn head_bucket(
    index: &Index,
    request: S3Request<HeadBucketInput>,
) -> S3Result<HeadBucketOutput> {
    index.bucket(&request.input.bucket, |_| HeadBucketOutput::default())
}

pub async fn delete_bucket(
    index: &Index,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<DeleteBucketOutput> {
    index.delete_bucket(&request.input.bucket).map(|()| DeleteBucketOutput::default())
}

pub async fn get_bucket_location(
    index: &Index,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<GetBucketLocationOutput> {
    index.bucket(&request.input.bucket, |_| GetBucketLocationOutput::default())
}

pub fn owner() -> Owner {
    Owner { display_name: Some("embedded".to_owned()), id: Some("embedded".to_owned()) }
}

/// One page in the form of an answer.
struct Listed {
    contents: Vec<Object>,
    common_prefixes: Vec<CommonPrefix>,
    truncated: bool,
    /// The last entry, unencoded.
    last: Option<Last>,
}

/// The last entry of a page: where the next one begins.
enum Last {
    Key(String),
    Prefix(String),
}

fn list(index: &Index, bucket: &str, query: &Query<'_>, naming: Naming) -> S3Result<Listed> {
    index.bucket(bucket, |bucket| {
        // Asked for nothing, there is nothing more either.
        let nothing = listing::Page { entries: Vec::new(), truncated: false };
        let page =
            if query.max == 0 { nothing } else { listing::page(&bucket.objects.current, query) };
        let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
        for entry in &page.entries {
            match entry {
                Entry::Item(key, object) => contents.push(listed(naming.write(key), object)),
                Entry::CommonPrefix(prefix) => {
                    let prefix = Some(naming.write(prefix));
                    common_prefixes.push(CommonPrefix { prefix });
                }
            }
        }
        let last = page.entries.last().map(|entry| match entry {
            Entry::Item(key, _) => Last::Key((*key).to_owned()),
            Entry::CommonPrefix(prefix) => Last::Prefix((*prefix).to_owned()),
        });
        Listed { contents, common_prefixes, truncated: page.truncated, last }
    })
}

fn listed(key: String, object: &records::Object) -> Object {
    Object {
        key: Some(key),
        e_tag: Some(etag(&object.etag)),
        size: i64::try_from(object.len).ok(),
        last_modified: Some(timestamp(object.modified)),
        storage_class: Some(ObjectStorageClass::from(storage_class(&object.attributes))),
        ..Object::default()
    }
}

/// Tokens are opaque to clients: `k` (behind a key) or `p` (behind a common prefix), then hex.
fn token(last: &Last) -> String {
    let (kind, text) = match last {
        Last::Key(key) => ('k', key),
        Last::Prefix(prefix) => ('p', prefix),
    };
    format!("{kind}{}", crate::embedded::blobs::hex(text.as_bytes()))
}

fn parse_token(token: &str) -> S3Result<Last> {
    let parsed = token.split_at_checked(1).and_then(|(kind, hex)| {
        let bytes = (0..hex.len().div_ceil(2))
            .map(|n| u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok());
        let text = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
        match kind {
            "k" => Some(Last::Key(text)),
            "p" => Some(Last::Prefix(text)),
            _ => None,
        }
    });
    parsed.ok_or_else(|| s3_error!(InvalidArgument, "the continuation token is not one of ours"))
}

pub async fn list_objects_v2(
    index: &Index,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<ListObjectsV2Output> {
    let input = request.input;
    let naming = Naming::new(input.encoding_type.as_ref())?;
    let begin = input.continuation_token.as_deref().map(parse_token).transpose()?;
    let start = match (&begin, &input.start_after) {
        (Some(Last::Key(key)), _) => Start::BehindKey(key),
        (Some(Last::Prefix(prefix)), _) => Start::BehindPrefix(prefix),
        (None, Some(key)) => Start::BehindKey(key),
        (None, None) => Start::First,
    };
    let prefix = input.prefix.as_deref().unwrap_or("");
    let delimiter = input.delimiter.as_deref().unwrap_or("");
    let max = page_size(input.max_keys)?;
    let mut page = list(index, &input.bucket, &Query { prefix, delimiter, start, max }, naming)?;
    if input.fetch_owner == Some(true) {
        page.contents.iter_mut().for_each(|object| object.owner = Some(owner()));
    }
    let next = page.last.as_ref().filter(|_| page.truncated).map(token);
    Ok(ListObjectsV2Output {
        key_count: i32::try_from(page.contents.len() + page.common_prefixes.len()).ok(),
        contents: Some(page.contents),
        common_prefixes: Some(page.common_prefixes),
        is_truncated: Some(page.truncated),
        next_continuation_token: next,
        prefix: Some(naming.write(prefix)),
        delimiter: naming.write_some(delimiter),
        start_after: input.start_after.map(|key| naming.write(&key)),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        max_keys: i32::try_from(max).ok(),
        name: Some(input.bucket),
        ..ListObjectsV2Output::default()
    })
}

pub async fn list_objects(
    index: &Index,
    request: S3Request<ListObjectsInput>,
) -> S3Result<ListObjectsOutput> {
    let input = request.input;
    let naming = Naming::new(input.encoding_type.as_ref())?;
    let prefix = input.prefix.as_deref().unwrap_or("");
    let delimiter = input.delimiter.as_deref().unwrap_or("");
    let start = match input.marker.as_deref() {
        None | Some("") => Start::First,
        // A marker that is a common prefix was the last entry of the page before.
        Some(marker) if !delimiter.is_empty() && marker.ends_with(delimiter) => {
            Start::BehindPrefix(marker)
        }
        Some(marker) => Start::BehindKey(marker),
    };
    let max = page_size(input.max_keys)?;
    let mut page = list(index, &input.bucket, &Query { prefix, delimiter, start, max }, naming)?;
    page.contents.iter_mut().for_each(|object| object.owner = Some(owner()));
    let next = page.last.filter(|_| page.truncated).map(|last| match last {
        Last::Key(text) | Last::Prefix(text) => naming.write(&text),
    });
    Ok(ListObjectsOutput {
        contents: Some(page.contents),
        common_prefixes: Some(page.common_prefixes),
        is_truncated: Some(page.truncated),
        next_marker: next,
        marker: Some(input.marker.map(|marker| naming.write(&marker)).unwrap_or_default()),
        prefix: Some(naming.write(prefix)),
        delimiter: naming.write_some(delimiter),
        encoding_type: input.encoding_type,
        max_keys: i32::try_from(max).ok(),
        name: Some(input.bucket),
        ..ListObjectsOutput::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_any_key() {
        for text in ["", "a//b", "ü\n", "..", "\u{10ffff}"] {
            assert!(
                matches!(parse_token(&token(&Last::Key(text.into()))), Ok(Last::Key(t)) if t == text)
            );
        }
        for wrong in ["", "x61", "k6", "kzz", "kff", "é"] {
            assert!(parse_token(wrong).is_err(), "{wrong}");
        }
    }
}
