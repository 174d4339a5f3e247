//! What all uploads of a mount share, and how one is opened.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::create::Creates;
use super::error::UploadError;
use super::interrupted::Interrupted;
use super::multipart::Upload;
use super::outcome::{Outcome, Proof, outcome_of};
use super::resume::UploadPlan;
use super::reuse::{Borrowed, CopySources, Holes, KnownObjects, Lenders};
use super::session::Session;
use crate::journal::{Completing, DraftId, Journal};
use crate::store::turns::Turns;
use crate::store::{Key, SharedStore};

/// All uploads of a mount: those that go on, and the interrupted ones.
pub struct Uploads {
    store: SharedStore,
    journal: Arc<Journal>,
    pub interrupted: Arc<Interrupted>,
    pub creates: Arc<Creates>,
    pub known_objects: Arc<KnownObjects>,
    lenders: Arc<Lenders>,
    /// A digest of the mount's fixed upload options: no upload goes on that was begun with others.
    options: u64,
}

impl Uploads {
    /// `root`: the prefix of the mount; `temporary`: what the keys of temporary objects begin with.
    pub fn new(
        store: Arc<Turns>,
        journal: Arc<Journal>,
        root: Key,
        temporary: Key,
        options: u64,
    ) -> Arc<Uploads> {
        let interrupted = Interrupted::new(store.clone(), journal.clone());
        let creates = Creates::new(store.clone(), journal.clone());
        let known_objects = KnownObjects::new(journal.clone());
        let lenders = Arc::new(Lenders {
            known: known_objects.clone(),
            sources: CopySources::new(interrupted.clone(), root),
            holes: Holes::new(interrupted.clone(), creates.clone(), temporary, options),
        });
        Arc::new(Uploads { store, journal, interrupted, creates, known_objects, lenders, options })
    }

    /// A digest of what every upload of this mount is begun with.
    pub fn options_digest(&self) -> u64 {
        self.options
    }

    /// Opens an upload: an interrupted one of the same key and plan goes on, otherwise one is begun.
    pub async fn open(&self, wanted: UploadPlan) -> Result<Arc<Upload>, UploadError> {
        let (journal, creates) = (self.journal.clone(), self.creates.clone());
        let session = match self.interrupted.adopt(&wanted, self.options).await? {
            Some(resumed) => Session::resumed(journal, creates, wanted, resumed),
            None => {
                let begun = creates.begin(&wanted.key, wanted.draft, &wanted.options).await?;
                Session::begun(journal, creates, wanted, begun)
            }
        };
        Ok(self.upload(session))
    }

    /// Goes on with the upload that `draft` itself began before a crash, where the store still has it.
    pub async fn reopen(&self, wanted: UploadPlan) -> Result<Arc<Upload>, UploadError> {
        let Some(resumed) = self.interrupted.reconcile(wanted.draft).await? else {
            return self.open(wanted).await;
        };
        let (journal, creates) = (self.journal.clone(), self.creates.clone());
        Ok(self.upload(Session::resumed(journal, creates, wanted, resumed)))
    }

    fn upload(&self, session: Session) -> Arc<Upload> {
        Arc::new(Upload {
            store: self.store.clone(),
            session,
            interrupted: self.interrupted.clone(),
            known: self.known_objects.clone(),
            borrowed: Borrowed::new(self.store.clone(), self.lenders.clone()),
            parts_resumed: AtomicU32::new(0),
        })
    }

    /// Asks the store for the outcome of a completion of the draft's upload.
    pub async fn outcome(
        &self,
        draft: DraftId,
        wanted: &Completing,
        proof: Proof,
    ) -> Result<Outcome, UploadError> {
        let upload = self.journal.read(|state| state.drafts.get(&draft)?.upload.clone());
        let Some(upload) = upload else { return Ok(Outcome::Unknown) };
        Ok(outcome_of(&*self.store, &upload, wanted, proof).await?)
    }
}
