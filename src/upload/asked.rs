//! Uploads that the store may have begun without our hearing of it: a kill, or a lost answer, between the
//! request and the record of its answer. Such an upload has no part, and nobody will ever send it one.
//!
//! S3 lets no mark of ours be put on an upload that could be read back before it is completed. So one is taken
//! for ours, and aborted, only if all of this holds: it is of exactly the key that we asked for; it was begun
//! within the quarter of an hour around our asking (S3 refuses requests by a clock that is further off); no
//! record knows it; and it still has no part an hour later (or after `--resume-expiry`, if that is shorter).
//! Anybody else's upload that looks like that is as dead as ours; if its writer does come back after all, it
//! is told that the upload is gone, and loses no byte that had arrived.
//!
//! Crash: `UploadAsked` comes before the request, `UploadAnswered` when all is known.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::{UploadError, Uploads};
use crate::clock;
use crate::journal::{Asked, DraftId, Journal, Record};
use crate::lock::{Mutex, rank};
use crate::store::{ErrorKind, Key, ListedUpload, UploadId};

/// By how much the store's clock may differ from this machine's.
const CLOCK_MARGIN: Duration = Duration::from_secs(15 * 60);
/// How long an upload must have been without a part.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// The store is asked again after this, where it did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// What was asked for, by the number of the asking, and not heard of.
pub(super) struct Unheard {
    asked: Mutex<BTreeMap<DraftId, Asked>, rank::UnconfirmedCreates>,
    added: Notify,
}

impl Unheard {
    pub(super) fn new(journal: &Journal) -> Unheard {
        let asked = journal.read(|state| state.asked.clone());
        Unheard { asked: Mutex::new(asked), added: Notify::new() }
    }

    pub(super) fn add(&self, asking: DraftId, key: &Key, time: SystemTime) {
        self.asked.lock().insert(asking, Asked { key: key.clone(), time });
        self.added.notify_one();
    }

    fn oldest(&self) -> Option<SystemTime> {
        self.asked.lock().values().map(|asked| asked.time).min()
    }
}

impl Uploads {
    /// Ends what was asked for and never heard of, when its time has come; goes on for as long as it is let.
    pub async fn end_unheard(&self, resume_expiry: Duration) {
        let idle = resume_expiry.min(IDLE);
        loop {
            let Some(oldest) = self.unheard.oldest() else {
                self.unheard.added.notified().await;
                continue;
            };
            let age = clock::age(oldest);
            if age < idle {
                clock::sleep(idle - age).await;
                continue;
            }
            let due: Vec<(DraftId, Asked)> = {
                let asked = self.unheard.asked.lock();
                let due = asked.iter().filter(|(_, asked)| asked.time <= oldest);
                due.map(|(draft, asked)| (*draft, asked.clone())).collect()
            };
            for (draft, asked) in due {
                match self.settle_one(draft, &asked).await {
                    Ok(()) => drop(self.unheard.asked.lock().remove(&draft)),
                    Err(error) => {
                        log::warn!("{}: an upload may stay behind for now: {error}", asked.key);
                        clock::sleep(LOOK_AGAIN).await;
                    }
                }
            }
        }
    }

    async fn settle_one(&self, draft: DraftId, asked: &Asked) -> Result<(), UploadError> {
        let listed = match self.store.list_uploads(&asked.key).await {
            Ok(listed) => listed,
            // The store cannot tell. It will expire it, if it does such things.
            Err(error) if error.kind.is_refusal() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let known = self.known_uploads();
        for upload in listed {
            if is_of(&upload, asked) && !known.contains(&upload.upload_id) {
                self.abort_if_idle(&upload.key, &upload.upload_id).await?;
            }
        }
        Ok(self.journal.append(Record::UploadAnswered { draft })?)
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
                log::info!("{key}: an upload that nobody has heard of: aborted");
                Ok(self.store.abort_upload(key, upload).await?)
            }
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind, ErrorKind::NoSuchUpload | ErrorKind::NotFound) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether an upload can be the one that was asked for.
fn is_of(upload: &ListedUpload, asked: &Asked) -> bool {
    let Some(initiated) = upload.initiated else { return false };
    let apart = initiated.duration_since(asked.time).unwrap_or_else(|before| before.duration());
    upload.key == asked.key && apart <= CLOCK_MARGIN
}
