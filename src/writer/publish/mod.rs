//! Publishing: the draft becomes an object, whole and at once.
//!
//! A file of one part is one PUT. Otherwise every part ends up in the upload: sent, found there from
//! before a crash, or, where it was not touched, copied from the base inside the store. A part that was
//! changed after only the store had it is published unchanged first and patched by a second round.

use std::sync::Arc;

use super::content::verify::verified;
use super::error::WriteError;
use super::outcome::{Became, learn_outcome, stand_on};
use super::records::Recording;
use super::state::{Draft, Published};
use super::transfer::seal::{seal_standing, sent_or_failed};
use super::transfer::send::{open_upload, resend_after_restart};
use crate::store::{ETag, Precondition, StoreError};
use crate::upload::{Seal, UploadError};

pub(in crate::writer) mod execute;
mod plan;
mod precondition;
mod put;

pub use put::COPY_BYTES_MAX;
pub(super) use put::was_replaced_by_itself;

use precondition::{checked, refused};

/// Publishes the file as it stands; patches of parts that only the store has stay dirty. Of several that want this at
/// once (readers of bytes that only the store has, a close) the first does it for all.
pub(super) async fn publish_as_is(draft: &Arc<Draft>) -> Result<(), WriteError> {
    verified(draft).await?;
    let _gate = draft.gate.write().await;
    sent_or_failed(draft).await?;
    if !draft.is_dirty() {
        return Ok(());
    }
    let outcome = {
        let _publishing = Publishing::begin(draft);
        publish_standing(draft).await
    };
    if let Err(error) = &outcome
        && !error.is_passing()
    {
        draft.state.lock().error.get_or_insert(error.clone());
    }
    outcome.map(|_| ())
}

async fn publish_standing(draft: &Arc<Draft>) -> Result<Published, WriteError> {
    if draft.state.lock().life.is_unlinked() {
        return Err(WriteError::Lost);
    }
    if let Some(published) = learn_outcome(draft).await?
        && !draft.is_dirty()
    {
        return Ok(published);
    }
    let published = match put::settle_put(draft).await? {
        Some(published) => published,
        None => send_standing(draft).await?,
    };
    become_clean(draft, &published)?.clear_away(draft).await;
    // What an earlier, interrupted run left for this key is of no use any more. The object stands,
    // whether that succeeds or not.
    if let Err(error) = draft.writers.uploads.interrupted.abort_all_of(&published.key).await {
        log::warn!("{}: an interrupted upload stays behind for now: {error}", published.key);
    }
    Ok(published)
}

async fn send_standing(draft: &Arc<Draft>) -> Result<Published, WriteError> {
    seal_what_changed(draft).await?;
    let (len, one_put) = {
        let state = draft.state.lock();
        let content = &state.content;
        let one_part = content.plan.part_bytes().min(draft.writers.window_bytes_max());
        let small = content.len <= one_part && !content.holds_parts();
        (content.len, small || content.len == 0)
    };
    match put::put_copy(draft).await? {
        Some(copied) => Ok(copied),
        None if one_put => put::put_whole(draft, len).await,
        None => put_parts(draft, len).await,
    }
}

/// What is published is what a crash brings back, if it brings back anything: parts in the store are
/// about to be written over, and an object that is completed in the moment of the crash is known for
/// ours by what it is.
async fn seal_what_changed(draft: &Arc<Draft>) -> Result<(), WriteError> {
    let is_sealed = {
        let state = draft.state.lock();
        state.seal_of_all() == Seal::Same || state.builds_on_another()
    };
    if is_sealed {
        return Ok(());
    }
    match seal_standing(draft).await {
        // The disk has no room for what the store has room for, or fails: it does without, unless it needed
        // the store's parts for what was sealed before.
        Err(error) if error.is_failing_disk() && !promises_parts(draft) => {
            log::info!("{}: {error}: sent before it is safe here", draft.key());
            Ok(())
        }
        other => other,
    }
}

/// Whether what was sealed needs parts that only the store has.
fn promises_parts(draft: &Draft) -> bool {
    draft.writers.journal.read(|journaled| {
        journaled.drafts.get(&draft.id).is_some_and(|known| {
            let mut numbers = known.parts.keys();
            known.sealed().is_some() && numbers.any(|number| known.parts.is_sealed(*number))
        })
    })
}

async fn put_parts(draft: &Arc<Draft>, len: u64) -> Result<Published, WriteError> {
    let (mut stands, mut failure) = (None, WriteError::Lost);
    // An upload that is forgotten time and again is no accident any more.
    for _ in 0..3 {
        match put_parts_once(draft, len, stands.as_ref()).await? {
            Round::Published(published) => return Ok(published),
            Round::Forgotten => {
                log::info!("{}: the store forgot the upload while it was finished", draft.key());
            }
            Round::Refuted { error, made } => {
                log::error!("{}: {error}; it is sent again", draft.key());
                resend_after_restart(draft);
                (stands, failure) = (made.or(stands), WriteError::Store(error));
            }
        }
        sent_or_failed(draft).await?;
    }
    Err(failure)
}

/// What came of an upload that was sent and completed.
enum Round {
    Published(Published),
    /// The store forgot it on the way: its parts have to be sent once more.
    Forgotten,
    /// The store has other bytes than were sent, perhaps as an object: likewise.
    Refuted {
        error: StoreError,
        made: Option<ETag>,
    },
}

/// `stands`: the object of a round before, which is to be replaced in the place of what the file modifies.
async fn put_parts_once(
    draft: &Arc<Draft>,
    len: u64,
    stands: Option<&ETag>,
) -> Result<Round, WriteError> {
    let upload = open_upload(draft).await?;
    let restarts = upload.restarts();
    let copies = draft.writers.store.capabilities().copies_parts;
    let steps = plan::plan(&draft.state.lock().content, len, copies);
    let mut parts = execute::execute(draft, &upload, steps).await?;
    if upload.restarts() != restarts {
        return Ok(Round::Forgotten);
    }
    parts.sort_by_key(|part| part.number);
    let (key, precondition) = {
        let state = draft.state.lock();
        (state.key.clone(), state.precondition())
    };
    let precondition = match (precondition, stands) {
        (Precondition::None, _) => Precondition::None,
        (precondition, None) => precondition,
        (_, Some(etag)) => Precondition::Matches(etag.clone()),
    };
    let precondition = checked(draft, &key, precondition).await?;
    let seal = draft.state.lock().seal_of_all();
    let completing = upload.completing(&parts, seal);
    draft.state.lock().transfer.unsettled = Some(completing);
    let completed = upload.complete(&parts, seal, &precondition).await;
    if is_settled(&completed) {
        draft.state.lock().transfer.unsettled = None;
    }
    match completed {
        Ok(etag) => {
            let options = upload.options().clone();
            Ok(Round::Published(Published { key, etag, len, options }))
        }
        Err(UploadError::Restarted) => {
            resend_after_restart(draft);
            Ok(Round::Forgotten)
        }
        Err(UploadError::Refuted { error, stands }) => {
            Ok(Round::Refuted { error: *error, made: stands })
        }
        Err(UploadError::Store(error)) => Err(refused(error, &precondition)),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is known if the completion took effect.
fn is_settled(completed: &Result<ETag, UploadError>) -> bool {
    match completed {
        Ok(_) | Err(UploadError::Restarted | UploadError::Refuted { .. }) => true,
        Err(UploadError::Store(error)) => {
            error.operation == "CompleteMultipartUpload" && error.kind.is_refusal()
        }
        Err(UploadError::Journal(_)) => false,
    }
}

/// The object stands: it is the base of whatever is written next.
fn become_clean(draft: &Draft, published: &Published) -> Result<Became, WriteError> {
    let recording = Recording::of(draft);
    let mut state = recording.state();
    let patches = state.content.keep_patches();
    stand_on(draft, &recording, state, published, published.len, patches)
}

/// Says that a draft is being published, for as long as that is so: also where the future is dropped, or panics.
struct Publishing<'a>(&'a Draft);

impl Publishing<'_> {
    fn begin(draft: &Draft) -> Publishing<'_> {
        draft.state.lock().transfer.is_publishing = true;
        Publishing(draft)
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().transfer.is_publishing = false;
    }
}
