//! Requests over a connection of their own: what came wrong over one that others had used is asked for once more.

tokio::task_local! {
    static UNPOOLED: ();
}

/// Runs work whose requests each open a connection, and leave none behind.
pub async fn unpooled<F: Future>(work: F) -> F::Output {
    UNPOOLED.scope((), work).await
}

/// Whether the request that is being made is such.
pub fn is_unpooled() -> bool {
    UNPOOLED.try_with(|()| ()).is_ok()
}
