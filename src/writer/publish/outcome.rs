//! Whether an object in the store is what this draft was about to become.
//!
//! Consistency: the object is believed ours only for what it provably is (see [`Fate`]); what changed in
//! the file since then stays to be published, over that object as its base.

use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::clock::Instant;
use crate::journal::{Completing, Fingerprint, MARKS_MAX, Record};
use crate::range::{ByteRange, RangeSet};
use crate::store::retry::settle::{hex, proves_equal};
use crate::store::{ETag, ErrorKind, Key, MARK, Mark, Metadata, WriteOptions};
use crate::upload::{Fate, Fingerprinter, Proof};
use crate::writer::content::readback::read_base;
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Content, Core, Draft, Published, Put};

/// Bytes read at a time to be compared.
const READ_BYTES: u64 = 1 << 20;

impl Draft {
    /// Finds out what became of a completion that was not answered. `Some`: the object is this file, as
    /// it was then.
    pub(in crate::writer) async fn learn_outcome(
        self: &Arc<Self>,
    ) -> Result<Option<Published>, WriteError> {
        let _turn = self.opening.lock().await;
        let Some(unsettled) = self.core.lock().unsettled.clone() else { return Ok(None) };
        let proof = if self.core.lock().exclusive { Proof::Mark } else { Proof::Content };
        let fate = self.writers.uploads.fate(self.id, &unsettled, proof).await?;
        let same = match &fate {
            Fate::Became(etag) => self.parts_as_completed(etag, unsettled.len).await?,
            Fate::Open | Fate::Gone => Vec::new(),
        };
        let (published, upload, ended) = {
            let mut core = self.core.lock();
            let Some(unsettled) = core.unsettled.take() else { return Ok(None) };
            let Fate::Became(etag) = fate else { return Ok(None) };
            log::info!("{}: its completion had taken effect before the answer was lost", core.key);
            let published = published_as(&core, &unsettled, etag);
            if unsettled.newer && core.content.writes == 0 {
                // Brought back was what had been sealed, and the object is newer.
                core.content.parts.clear();
                core.content.len = unsettled.len;
            }
            let rest = core.content.keep_what_changed(&unsettled, &same);
            let upload = core.upload.clone();
            let ended = self.stand_on(&mut core, &published, unsettled.base_len, rest)?;
            (published, upload, ended)
        };
        self.writers.remove_staging(ended).await;
        if let Some(upload) = upload {
            upload.end().await;
        }
        Ok(Some(published))
    }

    /// Finds out whether a PUT of the file as it is has taken effect, whose answer nobody has heard. Asked before the
    /// file is read to be put once more: what it was made of may be gone with that. `Some`: the object is this file. Holds
    /// the gate.
    pub(in crate::writer) async fn settle_put(&self) -> Result<Option<Published>, WriteError> {
        let (key, put) = {
            let core = self.core.lock();
            let is_this = |put: &&Put| {
                put.content.as_ref().is_some_and(|(writes, _)| *writes == core.content.writes)
            };
            let Some(put) = core.puts.last().filter(is_this) else { return Ok(None) };
            (core.key.clone(), put.clone())
        };
        let Some((_, mut options)) = put.content else { return Ok(None) };
        let head = match self.writers.store.head(&key).await {
            Ok(head) => head,
            Err(error) if error.kind.is_refusal() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if head.mark().as_ref() != Some(&put.mark) {
            return Ok(None);
        }
        log::info!("{key}: its PUT had taken effect before the answer was lost");
        put.mark.put_into(&mut options.metadata);
        {
            let mut core = self.core.lock();
            core.content.parts.clear();
            core.content.len = head.len;
        }
        self.give_up_upload().await?;
        Ok(Some(Published { key, etag: head.etag, len: head.len, options }))
    }

    /// Of the parts that have bytes here beside the store's: those whose content is what the object has, by
    /// index and generation. Told by the fingerprint of what was sent, or by comparing the bytes.
    async fn parts_as_completed(
        self: &Arc<Self>,
        etag: &ETag,
        len: u64,
    ) -> Result<Vec<(u32, u64)>, WriteError> {
        let key = self.key();
        let object = self.writers.cache.object(&key, etag, len);
        let base = Base { key, etag: etag.clone(), len, object };
        let known: Vec<(u32, Fingerprint)> = self.writers.journal.read(|state| {
            let parts = state.drafts.get(&self.id).map(|draft| draft.parts.iter());
            let known = parts.into_iter().flatten();
            known.filter_map(|(number, part)| Some((number - 1, part.fingerprint?))).collect()
        });
        let mut same = Vec::new();
        for (index, stored) in known {
            let (range, written, generation) = {
                let core = self.core.lock();
                let Some(part) = core.content.parts.get(&index).filter(|part| part.patched) else {
                    continue;
                };
                let range = part.range.intersect(&ByteRange::new(0, core.content.len));
                (range, part.written(), part.generation)
            };
            let is_same = match self.fingerprint_of(range).await? {
                Some(fingerprint) => fingerprint == stored,
                None => self.is_in(&base, &written).await?,
            };
            if is_same {
                same.push((index, generation));
            }
        }
        Ok(same)
    }

    /// Whether the object has these ranges as they are here.
    async fn is_in(self: &Arc<Self>, object: &Base, ranges: &RangeSet) -> Result<bool, WriteError> {
        let deadline = Instant::now() + self.writers.settings.timeout;
        for range in ranges.iter() {
            if range.end() > object.len {
                return Ok(false);
            }
            let mut at = range.start();
            while at < range.end() {
                let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
                let mut theirs = vec![0; piece.len() as usize];
                read_base(object, piece, &mut theirs, deadline).await?;
                if self.read_once(piece).await?.as_deref() != Some(theirs.as_slice()) {
                    return Ok(false);
                }
                at = piece.end();
            }
        }
        Ok(true)
    }

    /// The fingerprint of a range, unless the store alone has some of it.
    async fn fingerprint_of(&self, range: ByteRange) -> Result<Option<Fingerprint>, WriteError> {
        let mut hasher = Fingerprinter::default();
        let mut at = range.start();
        while at < range.end() {
            let piece = range.intersect(&ByteRange::at(at, READ_BYTES));
            let Some(bytes) = self.read_once(piece).await? else { return Ok(None) };
            hasher.update(&bytes);
            at = piece.end();
        }
        Ok(Some(hasher.finish()))
    }

    /// The mark of what is about to be put, which is the file's content and options as they are. A crash leaves it
    /// to the next mount if it leaves the file.
    pub(in crate::writer) fn mark_put(&self, options: &mut WriteOptions) -> Result<(), WriteError> {
        let mut core = self.core.lock();
        let same = core.puts.last().filter(|put| {
            put.content
                .as_ref()
                .is_some_and(|(writes, with)| (*writes, with) == (core.content.writes, &*options))
        });
        if let Some(put) = same {
            put.mark.put_into(&mut options.metadata);
            return Ok(());
        }
        let mark = Mark::fresh();
        let content = Some((core.content.writes, options.clone()));
        mark.put_into(&mut options.metadata);
        if core.life.is_recorded() {
            let (draft, mark) = (self.id, mark.clone());
            self.writers.journal.append(Record::DraftMarked { draft, mark })?;
        }
        if core.puts.len() == MARKS_MAX {
            core.puts.remove(0);
        }
        core.puts.push(Put { mark, content });
        Ok(())
    }

    /// What a refused PUT has met.
    pub(in crate::writer) async fn met(
        &self,
        key: &Key,
        body: &Bytes,
        options: &WriteOptions,
        proof: Proof,
    ) -> Result<Met, WriteError> {
        let head = match self.writers.store.head(key).await {
            Ok(head) => head,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Met::Others),
            Err(error) => return Err(error.into()),
        };
        let found = head.mark();
        if found.is_some() && found == options.mark() {
            return Ok(Met::This(head.etag));
        }
        let is_own = self.core.lock().puts.iter().any(|put| Some(&put.mark) == found.as_ref());
        if !is_own && proof == Proof::Mark {
            return Ok(Met::Others);
        }
        let md5 = ETag::new(&hex(&Md5::digest(body)));
        if proves_equal(&head.etag, &md5)
            && unmarked(&head.metadata).eq(unmarked(&options.metadata))
        {
            return Ok(Met::This(head.etag));
        }
        Ok(if is_own { Met::Own(head.etag) } else { Met::Others })
    }
}

fn unmarked(metadata: &Metadata) -> impl Iterator<Item = (&String, &String)> {
    metadata.iter().filter(|(name, _)| *name != MARK)
}

/// The object that a PUT was refused for.
pub(in crate::writer) enum Met {
    /// Just what was to be put: an earlier PUT took effect, and its answer was lost.
    This(ETag),
    /// What this draft has put before, with another content.
    Own(ETag),
    /// Another client's, or none.
    Others,
}

fn published_as(core: &Core, completing: &Completing, etag: ETag) -> Published {
    Published {
        key: core.key.clone(),
        etag,
        len: completing.len,
        options: WriteOptions {
            metadata: completing.metadata.clone(),
            content_type: completing.content_type.clone(),
            carried: Some(completing.carried.clone()),
        },
    }
}

impl Content {
    /// Of the parts only what is not in the object stays; whether the file is any different from it.
    fn keep_what_changed(&mut self, object: &Completing, same: &[(u32, u64)]) -> bool {
        self.parts
            .retain(|index, part| !part.is_stored() && !same.contains(&(*index, part.generation)));
        for part in self.parts.values_mut() {
            part.stored = None;
            part.patched = false;
        }
        !self.parts.is_empty() || self.len != object.len || object.base_len != object.len
    }
}
