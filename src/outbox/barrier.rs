//! The barrier: the journal is on the disk before a request that changes a key of which the journal would still tell
//! something older.
//!
//! Consistency: after a loss of power the journal may lack its last records, and the next mount goes on with
//! what it has: publishes a file as it was synced, finishes a rename. Whatever has come to the store under the
//! same key since would be lost. So before a request changes a key of which the journal on the disk may tell
//! something older (`Journal::sync_ends_of`), the journal is synced.
//! Retries: none. Crash: that is what it is for.

use std::sync::Arc;

use super::error::journal_failed;
use crate::journal::Journal;
use crate::store::layer::{Call, Layer};
use crate::store::{Key, Result, SharedStore, Store};

/// A mount's store, to which nothing is done that a loss of power would undo.
pub struct Barrier {
    store: SharedStore,
    journal: Arc<Journal>,
}

impl Barrier {
    pub fn new(store: SharedStore, journal: Arc<Journal>) -> Barrier {
        Barrier { store, journal }
    }

    async fn sync_ends_of<'a>(
        &self,
        operation: &'static str,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Result<()> {
        let synced = self.journal.sync_ends_of(keys).await;
        synced.map_err(|error| journal_failed(operation, error))
    }
}

impl Layer for Barrier {
    type Below = dyn Store;

    fn below(&self) -> &dyn Store {
        &*self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let keys = call.changes();
        if !keys.is_empty() {
            self.sync_ends_of(call.name(), keys).await?;
        }
        send().await
    }
}
