//! Whether a mount would be allowed what it does, found by doing it: a small object and an upload of one part, under a
//! name that is new and of no file, and gone again at the end.
//!
//! Retries: none; what fails is told. Crash: killed in the middle it leaves that object or upload, whose name says
//! what made it.

use anyhow::Context;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::reach::{random_text, reach, s3_settings, unusable};
use crate::range::ByteRange;
use crate::settings::{StoreOptions, TransferOptions};
use crate::store::s3::{Provider, Right, S3Store, cure, least_policy};
use crate::store::{
    ETag, Key, ListRequest, Precondition, Result, Store, StoreError, Summed, UploadId, WriteOptions,
};

/// The names of what is made and taken away again begin so.
const NAME: &[u8] = b".ratchetfs-doctor-";
const CONTENT: &[u8] = b"written by ratchetfs doctor, which removes it again\n";

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Granted(String),
    /// A mount goes without it, less well.
    Missed(String),
    /// With its cure.
    Refused(String),
}

/// The rights that a mount of the prefix needs, each in one line. Without `read_only` something is written below the
/// prefix for it.
///
/// # Errors
/// The store cannot be spoken to at all.
pub fn rights(
    options: &StoreOptions,
    bucket: &str,
    prefix: &Key,
    read_only: bool,
) -> anyhow::Result<Vec<Found>> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async {
        let reached = reach(options, bucket, &TransferOptions::default()).await?;
        let mut look = Look { store: &reached.client, found: Vec::new() };
        if read_only {
            look.reading(prefix).await;
        } else {
            let name = [NAME, random_text().as_bytes()].concat();
            look.writing(prefix, &prefix.join(&name)).await;
        }
        Ok(look.found)
    })
}

/// The least policy for such a mount, as JSON.
///
/// # Errors
/// The endpoint makes no sense.
pub fn policy(
    options: &StoreOptions,
    bucket: &str,
    prefix: &Key,
    read_only: bool,
) -> anyhow::Result<String> {
    let settings = s3_settings(options, bucket, &TransferOptions::default());
    least_policy(&settings, prefix, read_only).map_err(|error| unusable(&error))
}

struct Look<'a> {
    store: &'a S3Store,
    found: Vec<Found>,
}

impl Look<'_> {
    fn provider(&self) -> Provider {
        self.store.provider()
    }

    /// Tells of an outcome, and gives what it brought.
    fn note<T>(&mut self, right: Right, what: &str, outcome: Result<T>) -> Option<T> {
        let action = right.action(self.provider());
        match outcome {
            Ok(brought) => {
                self.found.push(Found::Granted(format!("may {what} ({action})")));
                Some(brought)
            }
            Err(error) => {
                let line = format!("may not {what}: {error}: {}", grant(&action, &error));
                self.found.push(Found::Refused(line));
                None
            }
        }
    }

    /// Of what there is: nothing may be written.
    async fn reading(&mut self, prefix: &Key) {
        let request = ListRequest { prefix: prefix.clone(), ..ListRequest::default() };
        let listed = self.store.list(&request).await;
        let Some(page) = self.note(Right::List, "list objects", listed) else { return };
        let Some(object) = page.objects.iter().find(|object| object.len > 0) else {
            let line = "there is no object to read yet: whether objects may be read cannot be told";
            self.found.push(Found::Missed(line.to_owned()));
            return;
        };
        let got = get(self.store, &object.key, 1, &object.etag).await;
        self.note(Right::Get, "read objects", got);
    }

    async fn writing(&mut self, prefix: &Key, key: &Key) {
        let request =
            ListRequest { prefix: prefix.clone(), max_keys: Some(1), ..Default::default() };
        let listed = self.store.list(&request).await;
        self.note(Right::List, "list objects", listed);
        let (options, content) = (WriteOptions::default(), Summed::of(CONTENT));
        let put = self.store.put(key, content, &options, &Precondition::None).await;
        // One that was not answered may be there all the same.
        let may_be_there = put.as_ref().err().is_none_or(|error| !error.kind.is_refusal());
        if let Some(etag) = self.note(Right::Put, "write objects", put) {
            let got = get(self.store, key, CONTENT.len() as u64, &etag).await;
            self.note(Right::Get, "read objects", got);
        }
        self.uploading(prefix, key).await;
        let deleted = self.store.delete(key, None).await;
        if self.note(Right::Delete, "delete objects", deleted).is_none() && may_be_there {
            self.add(&format!("; this object is left behind: {key}"));
        }
    }

    async fn uploading(&mut self, prefix: &Key, key: &Key) {
        let begun = self.store.create_upload(key, &WriteOptions::default()).await;
        let Some(begun) = self.note(Right::Put, "begin uploads", begun) else { return };
        let id = begun.upload_id;
        let sent = self.part(key, &id).await;
        self.note(Right::Put, "send parts", sent);
        let listed = self.store.list_parts(key, &id).await;
        self.note(Right::ListParts, "list parts of an upload", listed);
        self.listing_uploads(prefix).await;
        let aborted = self.store.abort_upload(key, &id).await;
        if self.note(Right::AbortUpload, "abort uploads", aborted).is_none() {
            self.add(&format!("; an upload of this key is left behind: {key}"));
        }
    }

    async fn part(&self, key: &Key, id: &UploadId) -> Result<()> {
        let part = Bytes::from_static(CONTENT);
        self.store.upload_part(key, id, 1, part.into()).await.map(drop)
    }

    async fn listing_uploads(&mut self, prefix: &Key) {
        if !self.store.capabilities().lists_uploads {
            return;
        }
        if let Err(error) = self.store.list_uploads(prefix).await {
            let action = Right::ListUploads.action(self.provider());
            self.found.push(Found::Missed(format!(
                "may not list uploads: {error}: one that was begun in the moment of a crash stays in the bucket; {}",
                grant(&action, &error)
            )));
        }
    }

    /// To the last line.
    fn add(&mut self, more: &str) {
        if let Some(Found::Refused(line)) = self.found.last_mut() {
            line.push_str(more);
        }
    }
}

fn grant(action: &str, error: &StoreError) -> String {
    match error.kind {
        crate::store::ErrorKind::Denied if error.code.as_deref() == Some("AccessDenied") => {
            format!("grant {action} (ratchetfs doctor --policy prints all that is needed)")
        }
        _ => cure(error),
    }
}

/// Reads so many bytes from the beginning of an object.
async fn get(store: &S3Store, key: &Key, bytes: u64, etag: &ETag) -> Result<()> {
    let body = store.get(key, ByteRange::new(0, bytes), etag).await?;
    body.bytes.try_for_each(|_| async { Ok(()) }).await
}
