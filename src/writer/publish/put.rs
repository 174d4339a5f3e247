//! The whole file by one request: a PUT, or a copy of another key's object.
//!
//! Consistency: a PUT carries a mark, journaled before it, by which its object is known for ours where the answer is
//! lost, or a refusal met it.

use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::execute::whole_content;
use super::precondition::{checked, looked_at, refused};
use crate::journal::Record;
use crate::store::retry::settle::{hex, proves_equal};
use crate::store::{
    CopyRequest, ETag, ErrorKind, Key, MARK, Mark, Metadata, Precondition, Storage, WriteOptions,
};
use crate::upload::Proof;
use crate::writer::content::readback::stale_if_replaced;
use crate::writer::error::WriteError;
use crate::writer::records::Recording;
use crate::writer::state::{Draft, Published, Put};
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
        if put.as_ref().is_err_and(|error| error.kind == ErrorKind::Corrupt) {
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

/// A copy of another key's object, whole and unchanged, is one request. `None` where the file is something else,
/// is too long for that, or the store cannot.
pub(super) async fn put_copy(draft: &Draft) -> Result<Option<Published>, WriteError> {
    let (key, base, options, precondition) = {
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
    let request = CopyRequest {
        source: base.key.clone(),
        source_etag: Some(base.etag.clone()),
        target: key.clone(),
        replace: Some(options.clone().marked()),
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

/// Finds out whether a PUT of the file as it is has taken effect, whose answer was lost. Asked before the
/// file is read to be put once more: what it was made of may be gone with that. `Some`: the object is this file. Holds
/// the gate.
pub(super) async fn settle_put(draft: &Draft) -> Result<Option<Published>, WriteError> {
    let (key, put) = {
        let state = draft.state.lock();
        let is_this = |put: &&Put| {
            put.content.as_ref().is_some_and(|(writes, _)| *writes == state.content.writes)
        };
        let Some(put) = state.transfer.puts.last().filter(is_this) else { return Ok(None) };
        (state.key.clone(), put.clone())
    };
    let Some((_, mut options)) = put.content else { return Ok(None) };
    let head = match draft.writers.store.head(&key).await {
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
        let mut state = draft.state.lock();
        state.content.parts.clear();
        state.content.len = head.len;
    }
    give_up_upload(draft).await?;
    Ok(Some(Published { key, etag: head.etag, len: head.len, options }))
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

/// The PUT may have brought other bytes than were sent: its mark proves nothing of the file. The next one has
/// another mark, journaled now, so that after a crash neither does.
fn put_arrived_damaged(draft: &Draft) -> Result<(), WriteError> {
    let options = draft.state.lock().options.clone();
    mark_anew(draft, &options)?;
    Ok(())
}

/// Another mark for the content as it is, put with these options; journaled where the draft is.
fn mark_anew(draft: &Draft, options: &WriteOptions) -> Result<Mark, WriteError> {
    let recording = Recording::of(draft);
    let (put, is_recorded) = {
        let state = recording.state();
        let content = Some((state.content.writes, options.clone()));
        (Put { mark: Mark::fresh(), content }, state.life.is_recorded())
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
    body: &Bytes,
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
    let md5 = ETag::new(&hex(&Md5::digest(body)));
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
