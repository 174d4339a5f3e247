//! One multipart upload as the store and the journal agree on it: its id, its acknowledged parts, what it is about to
//! become.
//!
//! Consistency: a part is journaled after its ETag came. Retries: an upload that the store has forgotten is begun again,
//! by the first request that notices; the answers to requests of before are void. Crash: see [`super`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::create::Creates;
use super::error::UploadError;
use super::resume::{KnownPart, Resumed, UploadPlan};
use crate::clock;
use crate::journal::{Completing, ContentPart, DraftId, Fingerprint, Journal, Part, Record};
use crate::lock::{Mutex, rank};
use crate::store::retry::settle::multipart_etag;
use crate::store::{ETag, ErrorKind, Key, Mark, StoreError, StoredPart, UploadId, WriteOptions};

/// How what is sent stands to what a crash would bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// It is what was sealed last, or nothing was.
    Same,
    /// It was written since.
    Older,
}

pub(super) struct Session {
    journal: Arc<Journal>,
    creates: Arc<Creates>,
    pub key: Key,
    draft: DraftId,
    /// What the upload was begun with: metadata cannot change later.
    pub options: WriteOptions,
    open: Mutex<Open, rank::Upload>,
    restarting: tokio::sync::Mutex<()>,
    /// Completed, aborted or given up: what is still on its way must not begin it again.
    ended: AtomicBool,
}

struct Open {
    upload_id: UploadId,
    /// What its object will be known by.
    mark: Option<Mark>,
    /// Counts restarts: parts sent to an earlier epoch are void.
    epoch: u64,
    known: BTreeMap<u32, KnownPart>,
}

impl Session {
    pub fn begun(
        journal: Arc<Journal>,
        creates: Arc<Creates>,
        wanted: UploadPlan,
        (upload_id, mark): (UploadId, Option<Mark>),
    ) -> Session {
        let options = wanted.options.clone();
        let resumed = Resumed { upload_id, mark, known: BTreeMap::new(), options };
        Session::resumed(journal, creates, wanted, resumed)
    }

    /// It has the metadata that it was begun with, whatever is wanted by now.
    pub fn resumed(
        journal: Arc<Journal>,
        creates: Arc<Creates>,
        wanted: UploadPlan,
        resumed: Resumed,
    ) -> Session {
        let Resumed { upload_id, mark, known, options } = resumed;
        Session {
            journal,
            creates,
            key: wanted.key,
            draft: wanted.draft,
            options,
            open: Mutex::new(Open { upload_id, mark, epoch: 0, known }),
            restarting: tokio::sync::Mutex::new(()),
            ended: AtomicBool::new(false),
        }
    }

    /// Its id, and the epoch that answers belong to.
    pub fn current(&self) -> (UploadId, u64) {
        let open = self.open.lock();
        (open.upload_id.clone(), open.epoch)
    }

    /// Whether the store holds exactly this part.
    pub fn holds(&self, part: &StoredPart) -> bool {
        self.open.lock().known.get(&part.number).is_some_and(|known| known.part.is_same(part))
    }

    /// The part of this number, if it has this content.
    pub fn part_like(&self, number: u32, fingerprint: &Fingerprint) -> Option<StoredPart> {
        let open = self.open.lock();
        let known = open.known.get(&number)?;
        (known.fingerprint.as_ref() == Some(fingerprint)).then(|| known.part.clone())
    }

    pub fn fingerprints(&self) -> HashSet<Fingerprint> {
        self.open.lock().known.values().filter_map(|known| known.fingerprint).collect()
    }

    /// What an object of these parts consists of.
    pub fn content_of(&self, parts: &[StoredPart]) -> Vec<ContentPart> {
        let open = self.open.lock();
        let content_of = |part: &StoredPart| {
            let known = open.known.get(&part.number).filter(|known| known.part.is_same(part));
            let fingerprint = known.and_then(|known| known.fingerprint);
            ContentPart { len: part.len, fingerprint, crc: part.crc }
        };
        parts.iter().map(content_of).collect()
    }

    /// The store has a part, in the epoch in which it was sent.
    pub fn acknowledge(
        &self,
        part: StoredPart,
        fingerprint: Fingerprint,
        seal: Seal,
        epoch: u64,
    ) -> Result<StoredPart, UploadError> {
        let fingerprint = Some(fingerprint);
        {
            let mut open = self.open.lock();
            if open.epoch != epoch {
                return Err(UploadError::Restarted);
            }
            open.known.insert(part.number, KnownPart { part: part.clone(), fingerprint });
        }
        let stored = Part::new(part.len, &part.etag, fingerprint, part.crc);
        let stored = stored.records(self.draft, part.number, seal == Seal::Older);
        self.journal.append_all(&stored.collect::<Vec<_>>())?;
        Ok(part)
    }

    /// Passes `answer` on, unless the store has forgotten the upload: then a new one is begun (by the
    /// first that notices) and every caller is told.
    pub async fn restart_if_forgotten<T>(
        &self,
        answer: Result<T, StoreError>,
        epoch: u64,
    ) -> Result<T, UploadError> {
        match answer {
            Err(error)
                if error.kind == ErrorKind::NoSuchUpload && !self.ended.load(Ordering::Relaxed) =>
            {
                log::warn!("the store has forgotten an upload of {}: sending again", self.key);
                self.begin_again(epoch).await?;
                Err(UploadError::Restarted)
            }
            other => Ok(other?),
        }
    }

    /// Begins another upload in the place of the one of this epoch, unless that was done: what it has, and what it may
    /// have become, is not meant.
    pub async fn begin_again(&self, epoch: u64) -> Result<(), UploadError> {
        let _turn = self.restarting.lock().await;
        if self.current().1 == epoch {
            self.journal.append(Record::UploadLost { draft: self.draft })?;
            let (upload_id, mark) =
                self.creates.begin(&self.key, self.draft, &self.options).await?;
            let known = BTreeMap::new();
            *self.open.lock() = Open { upload_id, mark, epoch: epoch + 1, known };
        }
        Ok(())
    }

    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// What the completion of these parts makes of the file.
    pub fn completing(&self, parts: &[StoredPart], seal: Seal) -> Completing {
        let len = parts.iter().map(|part| part.len).sum();
        let mut metadata = self.options.metadata.clone();
        if let Some(mark) = &self.open.lock().mark {
            mark.put_into(&mut metadata);
        }
        Completing {
            len,
            base_len: len,
            newer: seal == Seal::Older,
            etag: multipart_etag(parts).map(|etag| ETag::new(&etag)),
            metadata,
            content_type: self.options.content_type.clone(),
            carried: self.options.carried.clone().unwrap_or_default(),
            time: clock::wall(),
        }
    }

    /// Journals what is about to be completed; parts that are not in it end here.
    pub fn journal_completing(
        &self,
        parts: &[StoredPart],
        seal: Seal,
    ) -> Result<Completing, UploadError> {
        let completing = self.completing(parts, seal);
        let meant: HashSet<u32> = parts.iter().map(|part| part.number).collect();
        let mut records: Vec<Record> = self.journal.read(|state| {
            let known = state.drafts.get(&self.draft).map(|draft| draft.parts.keys());
            let others = known.into_iter().flatten().filter(|number| !meant.contains(number));
            others
                .map(|number| Record::PartDropped { draft: self.draft, number: *number })
                .collect()
        });
        records.push(completing.record(self.draft));
        self.journal.append_all(&records)?;
        Ok(completing)
    }
}
