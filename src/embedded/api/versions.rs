//! Versions: whether a bucket keeps them, and the listings of them.

use std::ops::Bound;

use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::buckets::owner;
use super::fields::{Naming, etag, page_size, storage_class, timestamp};
use crate::embedded::history::{Objects, Version};
use crate::embedded::index::{Index, id_of};
use crate::embedded::records::Versioning;

pub async fn get_bucket_versioning(
    index: &Index,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<GetBucketVersioningOutput> {
    let status = |state| match state {
        Versioning::Enabled => BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => {
            BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)
        }
    };
    let status = index.bucket(&request.input.bucket, |bucket| bucket.versioning.map(status))?;
    Ok(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() })
}

pub async fn put_bucket_versioning(
    index: &Index,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<PutBucketVersioningOutput> {
    let status = request.input.versioning_configuration.status;
    let state = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => return Err(s3_error!(MalformedXML, "the status is Enabled or Suspended")),
    };
    index.set_versioning(&request.input.bucket, state)?;
    Ok(PutBucketVersioningOutput::default())
}

/// Where a page begins: behind a key, or behind one of its versions.
#[derive(Clone, Copy, Default)]
struct Start<'a> {
    key: &'a str,
    version: Option<&'a str>,
}

/// One page, its names not encoded yet.
#[derive(Default)]
struct Page<'a> {
    /// Each with its key, and whether it is the newest of that.
    versions: Vec<(&'a str, Version, bool)>,
    prefixes: Vec<&'a str>,
    /// What it ends with, where there is more.
    last: Option<(&'a str, Option<String>)>,
}

impl Page<'_> {
    fn len(&self) -> usize {
        self.versions.len() + self.prefixes.len()
    }
}

fn page<'a>(
    objects: &'a Objects,
    prefix: &'a str,
    delimiter: &str,
    start: Start<'a>,
    max: usize,
) -> Page<'a> {
    let mut page = Page::default();
    let mut last: Option<(&str, Option<String>)> = None;
    let from = Bound::Included(prefix.max(start.key));
    for key in objects.keys(from).take_while(|key| key.starts_with(prefix)) {
        let behind = &key[prefix.len()..];
        let folded = Some(delimiter).filter(|delimiter| !delimiter.is_empty());
        if let Some(at) = folded.and_then(|delimiter| behind.find(delimiter)) {
            let common = &key[..prefix.len() + at + delimiter.len()];
            if page.prefixes.last() == Some(&common) || common <= start.key {
                continue;
            }
            if page.len() == max {
                page.last = last;
                return page;
            }
            page.prefixes.push(common);
            last = Some((common, None));
            continue;
        }
        // Without a version, the marker stands behind every one of its key.
        let is_marked = key == start.key;
        let mut is_behind = !is_marked;
        for (nth, version) in objects.versions(key).enumerate() {
            let id = id_of(version.id());
            if !is_behind {
                is_behind = start.version == Some(&id);
                continue;
            }
            if page.len() == max {
                page.last = last;
                return page;
            }
            page.versions.push((key, version, nth == 0));
            last = Some((key, Some(id)));
        }
    }
    page
}

pub async fn list_object_versions(
    index: &Index,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<ListObjectVersionsOutput> {
    let input = request.input;
    let naming = Naming::new(input.encoding_type.as_ref())?;
    let prefix = input.prefix.as_deref().unwrap_or("");
    let delimiter = input.delimiter.as_deref().unwrap_or("");
    let start = Start {
        key: input.key_marker.as_deref().unwrap_or(""),
        version: input.version_id_marker.as_deref().filter(|id| !id.is_empty()),
    };
    let max = page_size(input.max_keys)?;
    let mut output = index.bucket(&input.bucket, |bucket| {
        // Asked for nothing, there is nothing more either.
        let page = match max {
            0 => Page::default(),
            _ => page(&bucket.objects, prefix, delimiter, start, max),
        };
        written(&page, naming)
    })?;
    output.prefix = Some(naming.write(prefix));
    output.delimiter = naming.write_some(delimiter);
    output.key_marker = Some(naming.write(start.key));
    output.encoding_type = input.encoding_type.clone();
    output.max_keys = i32::try_from(max).ok();
    output.name = Some(input.bucket);
    Ok(output)
}

fn written(page: &Page<'_>, naming: Naming) -> ListObjectVersionsOutput {
    let (mut versions, mut delete_markers) = (Vec::new(), Vec::new());
    for (key, version, is_latest) in &page.versions {
        let (key, version_id) = (Some(naming.write(key)), Some(id_of(version.id())));
        match version {
            Version::Object(object) => versions.push(ObjectVersion {
                key,
                version_id,
                is_latest: Some(*is_latest),
                e_tag: Some(etag(&object.etag)),
                size: i64::try_from(object.len).ok(),
                last_modified: Some(timestamp(object.modified)),
                owner: Some(owner()),
                storage_class: Some(storage_class(&object.attributes).into()),
                ..ObjectVersion::default()
            }),
            Version::Marker(marker) => delete_markers.push(DeleteMarkerEntry {
                key,
                version_id,
                is_latest: Some(*is_latest),
                last_modified: Some(timestamp(marker.modified)),
                owner: Some(owner()),
            }),
        }
    }
    let prefix = |prefix: &&str| CommonPrefix { prefix: Some(naming.write(prefix)) };
    ListObjectVersionsOutput {
        versions: Some(versions),
        delete_markers: Some(delete_markers),
        common_prefixes: Some(page.prefixes.iter().map(prefix).collect()),
        is_truncated: Some(page.last.is_some()),
        next_key_marker: page.last.as_ref().map(|(key, _)| naming.write(key)),
        next_version_id_marker: page.last.as_ref().and_then(|(_, version)| version.clone()),
        ..ListObjectVersionsOutput::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::embedded::records::{Attributes, Marker, Object};

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let mut count = 0;
        let mut id = || {
            count += 1;
            Some(count.to_string())
        };
        for key in ["a", "d/x", "d/y", "a", "e", "d/x"] {
            let (pieces, attributes) = (Vec::new(), Attributes::default());
            let (etag, len, modified, crc, version) = (String::new(), 0, 0, None, id());
            let object = Object { etag, len, modified, pieces, attributes, crc, version };
            objects.put(key.to_owned(), Arc::new(object));
        }
        objects.delete("e", Some(Marker { version: id(), modified: 0 }));
        objects
    }

    /// What pages of so many entries add up to.
    fn all(prefix: &str, delimiter: &str, max: usize) -> Vec<String> {
        let objects = objects();
        let (mut seen, mut marker) = (Vec::new(), (String::new(), None::<String>));
        loop {
            let start = Start { key: &marker.0, version: marker.1.as_deref() };
            let page = page(&objects, prefix, delimiter, start, max);
            assert!(page.len() <= max);
            let versions = page.versions.iter();
            seen.extend(versions.map(|(key, version, _)| format!("{key}@{}", id_of(version.id()))));
            seen.extend(page.prefixes.iter().map(|prefix| (*prefix).to_owned()));
            let Some((key, version)) = page.last else { break };
            marker = (key.to_owned(), version);
        }
        seen.sort();
        seen
    }

    #[test]
    fn pages_of_any_size_show_every_version_once() {
        for max in [1, 2, 3, 1000] {
            let whole = ["a@1", "a@4", "d/x@2", "d/x@6", "d/y@3", "e@5", "e@7"];
            assert_eq!(all("", "", max), whole, "{max}");
            assert_eq!(all("", "/", max), ["a@1", "a@4", "d/", "e@5", "e@7"], "{max}");
            assert_eq!(all("d/x", "/", max), ["d/x@2", "d/x@6"], "{max}");
        }
        let objects = objects();
        let newest = page(&objects, "e", "", Start::default(), 9);
        let newest: Vec<bool> = newest.versions.iter().map(|(_, _, newest)| *newest).collect();
        assert_eq!(newest, [true, false]);
    }
}
