//! CreateMultipartUpload: begins uploads with a mark, and ends those whose answer was never seen.
//!
//! An *unconfirmed create* is a request whose answer a kill, or a broken connection, has kept from the journal: the store
//! may hold an upload that no record knows. It has no part, and no writer will ever send it one.
//!
//! S3 has no place for a mark on an upload from which it could be read back before the completion. So an upload is
//! taken for an unconfirmed create of ours, and aborted, only if all of this holds: it is of exactly the key that was asked
//! for; it was begun within the quarter of an hour around the request (S3 refuses requests by a clock that is further
//! off); no record knows it; and it still has no part an hour later (or after `--resume-expiry`, if that is shorter).
//! Another client's upload that looks like that is as abandoned as ours; if its writer does come back after all, it
//! is told that the upload is gone, and loses no byte that had arrived.
//!
//! Crash: `CreateRequested` comes before the request, `CreateAnswered` when all is known.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::error::UploadError;
use super::outcome::is_gone;
use crate::clock;
use crate::journal::{self, DraftId, Journal, Record, UnconfirmedCreate};
use crate::lock::{Mutex, rank};
use crate::store::{
    Created, ErrorKind, Key, ListedUpload, Mark, SharedStore, UploadId, WriteOptions,
};

/// By how much the store's clock may differ from this machine's.
const CLOCK_MARGIN: Duration = Duration::from_secs(15 * 60);
/// How long an upload must have been without a part.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// The store is asked again after this, where it did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Begins the uploads of a mount.
pub struct Creates {
    store: SharedStore,
    journal: Arc<Journal>,
    /// By the number of the request: of this mount, or of an earlier one.
    unconfirmed: Mutex<BTreeMap<DraftId, UnconfirmedCreate>, rank::UnconfirmedCreates>,
    added: Notify,
}

impl Creates {
    pub(super) fn new(store: SharedStore, journal: Arc<Journal>) -> Arc<Creates> {
        let unconfirmed = Mutex::new(journal.read(|state| state.unconfirmed_creates.clone()));
        Arc::new(Creates { store, journal, unconfirmed, added: Notify::new() })
    }

    /// Begins an upload with a mark of its own.
    pub(super) async fn begin(
        &self,
        key: &Key,
        draft: DraftId,
        options: &WriteOptions,
    ) -> Result<(UploadId, Option<Mark>), UploadError> {
        let options = options.clone().marked();
        let time = clock::wall();
        // A number of its own: a draft that a crash interrupted here asks again.
        let request = self.journal.next_draft_id();
        self.journal.append(Record::CreateRequested { request, key: key.clone(), time })?;
        let Created { upload_id, perhaps_twice } =
            match self.store.create_upload(key, &options).await {
                Ok(created) => created,
                Err(error) => {
                    if error.kind.is_refusal() || error.kind == ErrorKind::Throttled {
                        self.journal.append(Record::CreateAnswered { request })?;
                    } else {
                        // It may have been begun all the same.
                        self.note_unconfirmed(request, key, time);
                    }
                    return Err(error.into());
                }
            };
        let mark = options.mark();
        let upload = journal::Upload {
            id: upload_id,
            key: key.clone(),
            metadata: options.metadata,
            content_type: options.content_type,
            carried: options.carried.unwrap_or_default(),
        };
        let mut records: Vec<Record> = upload.records(draft).collect();
        if perhaps_twice {
            self.note_unconfirmed(request, key, time);
        } else {
            records.push(Record::CreateAnswered { request });
        }
        if let Err(error) = self.journal.append_all(&records) {
            // No record would ever lead to this upload again.
            if let Err(abort) = self.store.abort_upload(key, &upload.id).await {
                log::warn!("an upload of {key} stays behind in the store: {abort}");
            }
            return Err(error.into());
        }
        Ok((upload.id, mark))
    }

    fn note_unconfirmed(&self, request: DraftId, key: &Key, time: SystemTime) {
        self.unconfirmed.lock().insert(request, UnconfirmedCreate { key: key.clone(), time });
        self.added.notify_one();
    }

    /// Ends what unconfirmed creates have left in the store, when their time has come; runs for as long as the mount.
    pub async fn end_unconfirmed(&self, resume_expiry: Duration) {
        let idle = resume_expiry.min(IDLE);
        loop {
            let oldest = self.unconfirmed.lock().values().map(|create| create.time).min();
            let Some(oldest) = oldest else {
                self.added.notified().await;
                continue;
            };
            let age = clock::age(oldest);
            if age < idle {
                clock::sleep(idle - age).await;
                continue;
            }
            let due: Vec<(DraftId, UnconfirmedCreate)> = {
                let unconfirmed = self.unconfirmed.lock();
                let due = unconfirmed.iter().filter(|(_, create)| create.time <= oldest);
                due.map(|(request, create)| (*request, create.clone())).collect()
            };
            for (request, create) in due {
                match self.settle(request, &create).await {
                    Ok(()) => drop(self.unconfirmed.lock().remove(&request)),
                    Err(error) => {
                        log::warn!("{}: an upload may stay behind for now: {error}", create.key);
                        clock::sleep(LOOK_AGAIN).await;
                    }
                }
            }
        }
    }

    async fn settle(
        &self,
        request: DraftId,
        create: &UnconfirmedCreate,
    ) -> Result<(), UploadError> {
        let listed = match self.store.list_uploads(&create.key).await {
            Ok(listed) => listed,
            // The store cannot tell. Its own rules for abandoned uploads, if it has any, see to it.
            Err(error) if error.kind.is_refusal() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let known = self.known_uploads();
        for upload in listed {
            if is_of(&upload, create) && !known.contains(&upload.upload_id) {
                self.abort_if_idle(&upload.key, &upload.upload_id).await?;
            }
        }
        Ok(self.journal.append(Record::CreateAnswered { request })?)
    }

    fn known_uploads(&self) -> HashSet<UploadId> {
        self.journal.read(|state| {
            let uploads = state.drafts.values().filter_map(|draft| draft.upload.as_ref());
            uploads.map(|upload| upload.id.clone()).collect()
        })
    }

    async fn abort_if_idle(&self, key: &Key, upload: &UploadId) -> Result<(), UploadError> {
        match self.store.list_parts(key, upload).await {
            Ok(parts) if parts.is_empty() => {
                log::info!("{key}: an upload whose begin was never confirmed is aborted");
                Ok(self.store.abort_upload(key, upload).await?)
            }
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether an upload can be the one that was asked for.
fn is_of(upload: &ListedUpload, create: &UnconfirmedCreate) -> bool {
    let Some(initiated) = upload.initiated else { return false };
    let apart = initiated.duration_since(create.time).unwrap_or_else(|before| before.duration());
    upload.key == create.key && apart <= CLOCK_MARGIN
}
