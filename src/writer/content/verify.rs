//! What an earlier process has staged is compared with its checksums, once, before anything is done with it.

use std::sync::Arc;

use super::readback::unreadable;
use crate::journal::State;
use crate::writer::error::WriteError;
use crate::writer::state::Draft;

/// Waits until all that an earlier process has staged of the file was compared, for this file alone.
///
/// # Errors
/// Damage, or what keeps the disk from being read: by then and ever after, for this draft. Nothing is removed.
pub(in crate::writer) async fn verified(draft: &Arc<Draft>) -> Result<(), WriteError> {
    let compared = || async {
        let compared = draft.blocking(compare_all).await;
        draft.changed.notify_waiters();
        compared
    };
    draft.verified.get_or_init(compared).await.clone()
}

/// Whether [`verified`] has said that all is well.
pub(in crate::writer) fn is_verified(draft: &Draft) -> bool {
    matches!(draft.verified.get(), Some(Ok(())))
}

/// Blocks. The file does not change meanwhile, so what was sealed is what the staging file is to have.
fn compare_all(draft: &Draft) -> Result<(), WriteError> {
    let (key, staging) = {
        let state = draft.state.lock();
        (state.key.clone(), state.content.staging.clone())
    };
    let known = |state: &State| Some(state.drafts.get(&draft.id)?.staged.clone());
    let (Some(staging), Some(staged)) = (staging, draft.writers.journal.read(known)) else {
        return Ok(());
    };
    for staged in staged.iter() {
        let Some(bytes) = staged.bytes else { continue };
        let compared = staging.compare(bytes.at);
        compared.map_err(|error| unreadable(&key, staged.range, &error))?;
    }
    staging.rest();
    Ok(())
}
