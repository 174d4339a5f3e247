//! The whole file by one request: a PUT, or a copy of another key's object.
//!
//! Consistency: a PUT carries a mark, journaled before it, by which its object is known for ours where the answer is
//! lost, or a refusal met it.

use std::sync::Arc;

use md5::{Digest, Md5};

use super::execute::whole_content;
use super::precondition::{checked, looked_at, refused};
use crate::journal::Record;
use crate::store::retry::settle::{hex, proves_equal};
use crate::store::{
    CopyRequest, ETag, ErrorKind, Key, MARK, Mark, Metadata, ObjectHead, Precondition, Storage,
    Summed, WriteOptions,
};
use crate::upload::Proof;
use crate::writer::content::readback::stale_if_replaced;
use crate::writer::error::WriteError;
use crate::writer::records::Recording;
use crate::writer::state::{Base, Draft, Published, Put};
use crate::writer::transfer::send::give_up_upload;

/// The longest object that S3 copies by one request: 5 GiB.
pub const COPY_BYTES_MAX: u64 = 5 << 30;

pub(super) async fn put_whole(draft: &Arc<Draft>, len: u64) -> Result<Published, WriteError> {
    let body = whole_content(draft, len).await?;
    let (key, mut options, precondition) = {
        let state = draft.state.lock();
        (state.key.clone(), state.options.clone(), state.precondition())
    };
    mark_put(draft, &mut options)?;
    let put = async |precondition: Precondition| {
        let checked = checked(draft, &key, precondition).await?;
        let put = draft.writers.store.put(&key, body.clone(), &options, &checked).await;
        if put.as_ref().is_err_and(|error| is_of_other_bytes(error.kind)) {
            put_arrived_damaged(draft)?;
        }
        put.map_err(|error| refused(error, &checked))
    };
    let proof = Proof::under(&precondition);
    let etag = match put(precondition).await {
        Err(refusal @ (WriteError::Stale | WriteError::Exists)) => {
            match met(draft, &key, &body, &options, proof).await? {
                Met::This(etag) => etag,
                Met::Own(etag) => put(Precondition::Matches(etag)).await?,
                Met::Others => return Err(refusal),
            }
        }
        other => other?,
    };
    // One may have been begun for a file that has become small since.
    give_up_upload(draft).await?;
    Ok(Published { key, etag, len, options })
}

/// Whether the object that a PUT may have made may have other bytes than the file.
fn is_of_other_bytes(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Damaged)
}

/// A copy of another key's object, whole and unchanged, is one request. `None` where the file is something else,
/// is too long for that, or the store cannot.
pub(super) async fn put_copy(draft: &Draft) -> Result<Option<Published>, WriteError> {
    let (key, base, mut options, precondition) = {
        let state = draft.state.lock();
        let Some(base) = state.copy_of().filter(|base| base.len <= COPY_BYTES_MAX) else {
            return Ok(None);
        };
        (state.key.clone(), base.clone(), state.options.clone(), state.precondition())
    };
    let precondition = match &precondition {
        // Stores that refuse a PUT over an object need not refuse a copy over it.
        Precondition::Absent => looked_at(draft, &key, &precondition).await?,
        _ => precondition,
    };
    mark_put(draft, &mut options)?;
    let request = CopyRequest {
        source: base.key.clone(),
        source_etag: Some(base.etag.clone()),
        target: key.clone(),
        replace: Some(options.clone()),
        keeps_tags: false,
        storage: Storage::default(),
        precondition,
    };
    match draft.writers.store.copy(&request).await {
        Ok(etag) => Ok(Some(Published { key, etag, len: base.len, options })),
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(stale_if_replaced(error)),
    }
}

/// Finds out whether a PUT of the file has taken effect whose answer was lost. Asked before the file is read to be put
/// once more: what it was made of may be gone with that. `Some`: the object is this file. `None`: there is something to
/// be sent; if what stands is an earlier version of the file, by such a PUT, it is what the file modifies now. Holds the
/// gate.
pub(super) async fn settle_put(draft: &Draft) -> Result<Option<Published>, WriteError> {
    let writes = {
        let state = draft.state.lock();
        let writes = state.content.writes;
        let is_this = state.transfer.puts.last().is_some_and(|put| put.is_of(writes));
        // Else it does not matter what stands there.
        if !is_this && !state.modifies_its_object() {
            return Ok(None);
        }
        writes
    };
    let Some((put, head)) = own_put(draft).await? else { return Ok(None) };
    let key = draft.key();
    let Some((_, sent)) = put.content.filter(|(of, _)| *of == writes) else {
        log::info!("{key}: an earlier PUT of it had taken effect before the answer was lost");
        modify(draft, &head);
        return Ok(None);
    };
    log::info!("{key}: its PUT had taken effect before the answer was lost");
    let mut options = match unmarked(&head.metadata).eq(unmarked(&sent.metadata)) {
        true => sent,
        // A process before this one has put what was newer than what it had sealed.
        false => head.write_options(),
    };
    put.mark.put_into(&mut options.metadata);
    {
        let mut state = draft.state.lock();
        state.content.parts.clear();
        state.content.len = head.len;
    }
    give_up_upload(draft).await?;
    Ok(Some(Published { key, etag: head.etag, len: head.len, options }))
}

/// The file shows bytes of an object that is not there any more. Whether that was replaced by a PUT of this very file,
/// whose answer was lost: then it is what the file modifies from now on.
pub(in crate::writer) async fn was_replaced_by_itself(
    draft: &Arc<Draft>,
) -> Result<bool, WriteError> {
    let _gate = draft.gate.write().await;
    if !draft.state.lock().modifies_its_object() {
        return Ok(false);
    }
    let own = own_put(draft).await?;
    Ok(own.is_some_and(|(_, head)| modify(draft, &head)))
}

/// Of the PUTs that may have taken effect, the one that has made the object which stands now.
async fn own_put(draft: &Draft) -> Result<Option<(Put, ObjectHead)>, WriteError> {
    let (key, puts) = {
        let state = draft.state.lock();
        (state.key.clone(), state.transfer.puts.clone())
    };
    if puts.is_empty() {
        return Ok(None);
    }
    let head = match draft.writers.store.head(&key).await {
        Ok(head) => head,
        Err(error) if error.kind.is_refusal() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mark = head.mark();
    let is_own = |put: &Put| Some(&put.mark) == mark.as_ref() && !put.is_damaged;
    let own = puts.into_iter().rev().find(is_own);
    Ok(own.map(|put| (put, head)))
}

/// The file modifies this object, an earlier version of itself. What it shows of the one before is in this one too, at
/// the same places: it showed no less when this was put. `false` where nothing changes by that. The journal needs no word
/// of it: it has the marks.
fn modify(draft: &Draft, own: &ObjectHead) -> bool {
    let mut state = draft.state.lock();
    let key = state.key.clone();
    let content = &mut state.content;
    let is_known = content.base.as_ref().is_some_and(|base| base.etag == own.etag);
    if is_known || content.base_len > own.len {
        return false;
    }
    let object = draft.writers.cache.object(&key, &own.etag, own.len);
    content.base = Some(Base { key, etag: own.etag.clone(), len: own.len, object });
    true
}

/// The mark of what is about to be put, which is the file's content and options as they are. A crash leaves it
/// to the next mount if it leaves the file.
fn mark_put(draft: &Draft, options: &mut WriteOptions) -> Result<(), WriteError> {
    let known = {
        let state = draft.state.lock();
        state.transfer.mark_of_put(state.content.writes, options).cloned()
    };
    match known {
        Some(mark) => mark.put_into(&mut options.metadata),
        None => mark_anew(draft, options)?.put_into(&mut options.metadata),
    }
    Ok(())
}

/// The PUT may have brought other bytes than were sent: its mark proves nothing of the file, journaled now, so that it
/// does not after a crash either. The next one has another mark.
fn put_arrived_damaged(draft: &Draft) -> Result<(), WriteError> {
    let recording = Recording::of(draft);
    let damaged = {
        let mut state = recording.state();
        let is_recorded = state.life.is_recorded();
        let Some(put) = state.transfer.puts.last_mut() else { return Ok(()) };
        put.is_damaged = true;
        let damaged = Record::DraftDamaged { draft: draft.id, mark: put.mark.clone() };
        is_recorded.then_some(damaged)
    };
    Ok(recording.append(damaged.as_slice())?)
}

/// Another mark for the content as it is, put with these options; journaled where the draft is.
fn mark_anew(draft: &Draft, options: &WriteOptions) -> Result<Mark, WriteError> {
    let recording = Recording::of(draft);
    let (put, is_recorded) = {
        let state = recording.state();
        let content = Some((state.content.writes, options.clone()));
        let put = Put { mark: Mark::fresh(), content, is_damaged: false };
        (put, state.life.is_recorded())
    };
    let mark = put.mark.clone();
    let marked = Record::DraftMarked { draft: draft.id, mark: mark.clone() };
    recording.append(is_recorded.then_some(marked).as_slice())?;
    recording.state().transfer.note_put(put);
    Ok(mark)
}

/// What a refused PUT has met.
async fn met(
    draft: &Draft,
    key: &Key,
    body: &Summed,
    options: &WriteOptions,
    proof: Proof,
) -> Result<Met, WriteError> {
    let head = match draft.writers.store.head(key).await {
        Ok(head) => head,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Met::Others),
        Err(error) => return Err(error.into()),
    };
    let found = head.mark();
    if found.is_some() && found == options.mark() {
        return Ok(Met::This(head.etag));
    }
    let is_own =
        draft.state.lock().transfer.puts.iter().any(|put| Some(&put.mark) == found.as_ref());
    if !is_own && proof == Proof::Mark {
        return Ok(Met::Others);
    }
    let md5 = ETag::new(&hex(&Md5::digest(&body.bytes)));
    if proves_equal(&head.etag, &md5) && unmarked(&head.metadata).eq(unmarked(&options.metadata)) {
        return Ok(Met::This(head.etag));
    }
    Ok(if is_own { Met::Own(head.etag) } else { Met::Others })
}

fn unmarked(metadata: &Metadata) -> impl Iterator<Item = (&String, &String)> {
    metadata.iter().filter(|(name, _)| *name != MARK)
}

/// The object that a PUT was refused for.
enum Met {
    /// Just what was to be put: an earlier PUT took effect, and its answer was lost.
    This(ETag),
    /// What this draft has put before, with another content.
    Own(ETag),
    /// Another client's, or none.
    Others,
}
