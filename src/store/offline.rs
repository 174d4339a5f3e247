//! A store that sends nothing: it answers what this machine remembers of a bucket, and says of all else
//! that it is not kept here. What a mount with `--offline` has in the place of the client.
//!
//! Consistency: what is remembered is as it was seen last; whether it is still so is not asked. A name that is
//! not remembered is not said to be absent, but [`ErrorKind::NotKept`]: it is unknown here.
//! Retries: none. Cancellation: nothing waits. Crash: nothing is kept.

use std::collections::BTreeMap;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{
    Body, Capabilities, CopyRequest, Created, ETag, ErrorKind, Key, ListPage, ListRequest,
    ListedObject, ListedUpload, ObjectHead, PartBody, Precondition, Result, Store, StoreError,
    StoredPart, Summed, Tags, UploadId, WriteOptions,
};
use crate::range::ByteRange;

/// Entries of one page, as a store gives them.
const PAGE_ENTRIES: usize = 1000;

/// An object as it is remembered.
#[derive(Clone, Debug)]
pub struct Kept {
    pub head: ObjectHead,
    /// Its content, where that is remembered beside its bytes on the disk (the target of a symlink).
    pub body: Option<Bytes>,
}

/// What is remembered of a bucket.
pub struct OfflineStore {
    objects: BTreeMap<Key, Kept>,
}

impl OfflineStore {
    pub fn new(objects: BTreeMap<Key, Kept>) -> OfflineStore {
        OfflineStore { objects }
    }

    fn kept(&self, key: &Key, operation: &'static str) -> Result<&Kept> {
        match self.objects.get(key) {
            Some(kept) => Ok(kept),
            None if self.knows_name_of(key) => Err(StoreError::new(
                ErrorKind::NotFound,
                operation,
                format!("there is no object {key}"),
            )),
            None => Err(not_kept(operation, key)),
        }
    }

    /// Whether it is known what has the name of this key, be it a file or a directory.
    fn knows_name_of(&self, key: &Key) -> bool {
        let bytes = key.as_bytes();
        let stem = bytes.strip_suffix(b"/").or_else(|| bytes.strip_suffix(b"_$folder$"));
        let stem = Key::new(stem.unwrap_or(bytes));
        let below = stem.join(b"/");
        let first = self.objects.range(&below..).next();
        self.objects.contains_key(&stem)
            || first.is_some_and(|(key, _)| key.as_bytes().starts_with(below.as_bytes()))
    }
}

fn not_kept(operation: &'static str, key: &Key) -> StoreError {
    let message = format!(
        "{key} is not on this machine, and the mount is offline: mount without --offline to fetch it"
    );
    StoreError::new(ErrorKind::NotKept, operation, message)
}

fn refused<T>(operation: &'static str, key: &Key) -> Result<T> {
    let message = format!("{key} is not changed: the mount is offline");
    Err(StoreError::new(ErrorKind::NotKept, operation, message))
}

/// The first key behind everything that begins with `prefix`, which ends in `/`.
fn behind(prefix: &[u8]) -> Key {
    let mut key = prefix.to_vec();
    key.pop();
    key.push(b'/' + 1);
    Key::new(key)
}

#[async_trait]
impl Store for OfflineStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_writes: true,
            conditional_deletes: true,
            conditional_copies: true,
            equal_parts: false,
            lists_uploads: false,
            copies_parts: false,
            marker_metadata: true,
            tells_sums: false,
            tells_part_sums: false,
            keeps_folders: false,
        }
    }

    async fn get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let kept = self.objects.get(key).filter(|kept| kept.head.etag == *if_match);
        let body = kept.and_then(|kept| Some((&kept.head, kept.body.as_ref()?)));
        match body {
            Some((head, body)) if range.end() <= body.len() as u64 => {
                let bytes = body.slice(range.start() as usize..range.end() as usize);
                let bytes = futures_util::stream::iter([Ok(bytes)]).boxed();
                Ok(Body { range, head: head.clone(), md5: None, request_id: None, bytes })
            }
            _ => Err(not_kept("GetObject", key)),
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectHead> {
        Ok(self.kept(key, "HeadObject")?.head.clone())
    }

    async fn tags(&self, key: &Key) -> Result<Tags> {
        Err(not_kept("GetObjectTagging", key))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let prefix = request.prefix.as_bytes();
        let entries_max = request.max_keys.map_or(PAGE_ENTRIES, |max| max as usize);
        // The continuation is the key that the next page begins with.
        let mut from = match (&request.continuation, &request.start_after) {
            (Some(next), _) => Bound::Included(Key::from(next.token())),
            (None, Some(after)) if *after >= request.prefix => Bound::Excluded(after.clone()),
            (None, _) => Bound::Included(request.prefix.clone()),
        };
        let mut page = ListPage::default();
        while let Some((key, kept)) = self.objects.range((from, Bound::Unbounded)).next() {
            let Some(below) = key.as_bytes().strip_prefix(prefix) else { break };
            if page.objects.len() + page.common_prefixes.len() >= entries_max {
                // Keys are UTF-8 here: others are never asked for, so never remembered.
                page.continuation = Some(key.as_text().into_owned().into());
                break;
            }
            let slash =
                below.iter().position(|byte| *byte == b'/').filter(|_| request.by_directory);
            from = match slash {
                Some(slash) => {
                    let folded = &key.as_bytes()[..prefix.len() + slash + 1];
                    page.common_prefixes.push(Key::new(folded));
                    Bound::Included(behind(folded))
                }
                None => {
                    page.objects.push(ListedObject {
                        key: key.clone(),
                        etag: kept.head.etag.clone(),
                        len: kept.head.len,
                        last_modified: kept.head.last_modified,
                        storage_class: kept.head.carried.storage.class.clone(),
                    });
                    Bound::Excluded(key.clone())
                }
            };
        }
        Ok(page)
    }

    async fn put(&self, key: &Key, _: Summed, _: &WriteOptions, _: &Precondition) -> Result<ETag> {
        refused("PutObject", key)
    }

    async fn delete(&self, key: &Key, _: Option<&ETag>) -> Result<()> {
        refused("DeleteObject", key)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        Ok(keys.iter().map(|key| refused("DeleteObjects", key)).collect())
    }

    async fn copy(&self, request: &CopyRequest) -> Result<ETag> {
        refused("CopyObject", &request.target)
    }

    async fn create_upload(&self, key: &Key, _: &WriteOptions) -> Result<Created> {
        refused("CreateMultipartUpload", key)
    }

    async fn upload_part(&self, key: &Key, _: &UploadId, _: u32, _: PartBody) -> Result<ETag> {
        refused("UploadPart", key)
    }

    async fn upload_part_copy(
        &self,
        key: &Key,
        _: &UploadId,
        _: u32,
        _: &Key,
        _: &ETag,
        _: ByteRange,
    ) -> Result<ETag> {
        refused("UploadPartCopy", key)
    }

    async fn complete_upload(
        &self,
        key: &Key,
        _: &UploadId,
        _: &[StoredPart],
        _: &Precondition,
    ) -> Result<ETag> {
        refused("CompleteMultipartUpload", key)
    }

    async fn abort_upload(&self, key: &Key, _: &UploadId) -> Result<()> {
        refused("AbortMultipartUpload", key)
    }

    async fn list_parts(&self, key: &Key, _: &UploadId) -> Result<Vec<StoredPart>> {
        refused("ListParts", key)
    }

    async fn list_uploads(&self, prefix: &Key) -> Result<Vec<ListedUpload>> {
        refused("ListMultipartUploads", prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::Carried;

    fn kept(len: u64) -> Kept {
        let head = ObjectHead {
            etag: ETag::new("e"),
            len,
            last_modified: SystemTime::UNIX_EPOCH,
            metadata: Default::default(),
            content_type: None,
            carried: Carried::default(),
            version_id: None,
            sum: None,
            archived: None,
        };
        Kept { head, body: None }
    }

    fn store(keys: &[&str]) -> OfflineStore {
        OfflineStore::new(keys.iter().map(|key| (Key::from(*key), kept(7))).collect())
    }

    async fn kind_of(store: &OfflineStore, key: &str) -> ErrorKind {
        store.head(&Key::from(key)).await.unwrap_err().kind
    }

    #[tokio::test]
    async fn what_is_not_remembered_is_not_said_to_be_absent() {
        let store = store(&["file", "dir/below"]);
        assert_eq!(store.head(&Key::from("file")).await.unwrap().len, 7);
        // Of these it is known what they are, and that they are nothing else.
        assert_eq!(kind_of(&store, "file/").await, ErrorKind::NotFound);
        assert_eq!(kind_of(&store, "dir").await, ErrorKind::NotFound);
        assert_eq!(kind_of(&store, "dir/").await, ErrorKind::NotFound);
        assert_eq!(kind_of(&store, "dir_$folder$").await, ErrorKind::NotFound);
        for key in ["fil", "other", "di", "dir/belo", "other/"] {
            assert_eq!(kind_of(&store, key).await, ErrorKind::NotKept, "{key}");
        }
        let got = store.get(&Key::from("file"), ByteRange::new(0, 7), &ETag::new("e")).await;
        assert_eq!(got.err().unwrap().kind, ErrorKind::NotKept);
    }

    #[tokio::test]
    async fn pages_show_every_name_once() {
        let names = ["a", "a-", "a/1", "a/2", "b/c/d", "b0", "z"];
        let store = store(&names);
        for entries in [1, 2, 3, 1000] {
            let mut request =
                ListRequest { by_directory: true, max_keys: Some(entries), ..Default::default() };
            let mut seen = Vec::new();
            loop {
                let page = store.list(&request).await.unwrap();
                assert!(page.objects.len() + page.common_prefixes.len() <= entries as usize);
                seen.extend(page.objects.into_iter().map(|object| object.key.to_string()));
                seen.extend(page.common_prefixes.into_iter().map(|key| key.to_string()));
                request.continuation = page.continuation;
                if request.continuation.is_none() {
                    break;
                }
            }
            seen.sort();
            assert_eq!(seen, ["a", "a-", "a/", "b/", "b0", "z"], "{entries}");
        }
        let after = ListRequest {
            prefix: Key::from("a/"),
            start_after: Some(Key::from("a/1")),
            ..Default::default()
        };
        let page = store.list(&after).await.unwrap();
        assert_eq!(page.objects.len(), 1);
        assert_eq!(page.objects[0].key, Key::from("a/2"));
    }
}
