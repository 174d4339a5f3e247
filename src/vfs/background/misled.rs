//! Has the kernel forget its pages of files of which readers were given something that turned out wrong.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::store::Key;
use crate::vfs::handles::OpenFiles;

/// Ends with the cache that tells.
pub async fn run(told: Arc<Mutex<UnboundedReceiver<Key>>>, files: Weak<OpenFiles>) {
    let mut told = told.lock().await;
    while let Some(key) = told.recv().await {
        let Some(files) = files.upgrade() else { return };
        files.forget_pages_of(&key);
    }
}
