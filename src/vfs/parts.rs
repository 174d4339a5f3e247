//! What a file system is made of.

use std::sync::Arc;

use crate::cache::Cache;
use crate::journal::Journal;
use crate::namespace::Catalog;
use crate::outbox::Deletions;
use crate::store::SharedStore;
use crate::upload::Uploads;
use crate::writer::Writers;

/// The components below it.
#[derive(Clone)]
pub struct Parts {
    pub store: SharedStore,
    pub journal: Arc<Journal>,
    pub cache: Arc<Cache>,
    pub uploads: Arc<Uploads>,
    pub writers: Arc<Writers>,
    pub catalog: Arc<Catalog>,
    pub deletions: Arc<Deletions>,
}
