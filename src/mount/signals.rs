//! SIGINT and SIGTERM: the first asks for an orderly end, the second for one now.

use std::sync::Arc;

use anyhow::Context;

use super::control::MountControl;
use super::ending::spawn;
use crate::control::signals::EndSignals;

/// Listens from now on, in a thread of its own, so that nothing that holds up the runtime holds up this.
pub(super) fn end_on_signals(
    control: Arc<MountControl>,
    runtime: tokio::runtime::Handle,
) -> anyhow::Result<()> {
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let own = own.context("no runtime for signals")?;
    let mut signals = own.block_on(async { EndSignals::listen() })?;
    let listen = async move {
        let name = signals.next().await;
        log::info!("{name}: draining, then unmounting; once more ends it without waiting");
        let orderly = control.clone();
        runtime.spawn(async move { orderly.drain_and_unmount().await });
        let name = signals.next().await;
        log::info!("{name}: ends now; what is left goes on with the next mount");
        control.ending().end_now();
    };
    Ok(spawn("ratchetfs-signals", move || own.block_on(listen))?)
}
