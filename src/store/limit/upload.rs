//! The pace of the body that a request sends. The layer says which it is, and the client, which knows when bytes leave,
//! keeps to it: a change holds for bodies that are under way.

use std::sync::Arc;

use super::bucket::Bucket;
use super::line::Flow;

/// The pace of a request's body.
#[derive(Clone)]
pub struct Upload {
    bucket: Arc<Bucket>,
    flow: Flow,
}

tokio::task_local! {
    static UPLOAD: Upload;
}

impl Upload {
    pub(super) fn new(bucket: &Arc<Bucket>, flow: Flow) -> Upload {
        Upload { bucket: bucket.clone(), flow }
    }

    pub(super) async fn of<F: Future>(self, send: F) -> F::Output {
        UPLOAD.scope(self, send).await
    }

    /// That of the request that is being sent, where it is limited at all.
    pub fn current() -> Option<Upload> {
        UPLOAD.try_with(Upload::clone).ok()
    }

    /// The longest piece that may leave at once, in bytes; `None` where there is no limit now.
    pub fn piece_max(&self) -> Option<usize> {
        self.bucket.piece_max()
    }

    /// Waits until so many bytes may leave.
    pub async fn pass(&self, bytes: usize) {
        self.bucket.take(self.flow, bytes as u64).await;
    }
}
