//! Assembles a mount out of its parts, runs it, and takes it down again.
//!
//! - `assemble`: settings to components, each told only what it needs;
//! - `reach`: the client for the bucket, and the embedded store behind it;
//! - `starter`: the command that has started the mount, as far as that is told something;
//! - `wait`: for a store that does not answer yet;
//! - `ending`: how it ends, in order or now;
//! - `kernel`: mounting, unmounting, the kernel's settings;
//! - `control`: what a running mount answers to `status`, `umount`, `uploads` and `cache`;
//! - `signals`: SIGINT and SIGTERM;
//! - `offline`: what takes the place of the store with `--offline`;
//! - `predecessor`: waiting for a mount that is about to end;
//! - `bucket_uploads`: uploads that a bucket has, by whichever client;
//! - `at_rest`: the same for a cache directory that nothing is mounted with.

use std::sync::Arc;

use anyhow::Context;

use crate::blocking;
use crate::clock;
use crate::control::server::Server;
use crate::recovery;
use crate::settings::MountSettings;
use crate::supervise::supervise;
use crate::vfs::Vfs;

mod assemble;
mod at_rest;
mod bucket_uploads;
mod control;
mod ending;
mod folders;
mod kernel;
mod offline;
mod predecessor;
mod reach;
mod rights;
mod signals;
mod starter;
mod verify;
mod versions;
mod wait;

pub use at_rest::{CacheAction, UploadAction, cache_at_rest, identify, probe, uploads_at_rest};
pub use bucket_uploads::{BucketUploads, known_at_rest};
pub use rights::{Found, policy, rights};
pub use starter::{Outcome, Starter};
pub use verify::verify_in_store;
pub use versions::{undelete_in_store, versions_in_store};

use control::MountControl;

/// Mounts, serves and unmounts. `starter` is told when the mount answers; that it cannot come to be is what is returned.
pub fn run(settings: MountSettings, starter: Arc<dyn Starter>) -> anyhow::Result<()> {
    give_memory_back();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("ratchetfs")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let outcome = serve(&runtime, settings, &*starter);
    // Whatever still runs is retries of things that the journal has: the next mount goes on with them.
    runtime.shutdown_background();
    outcome
}

/// Makes glibc return what is freed. By itself it raises the size from which a block is mapped on its own up to
/// 32 MiB, so that replies and HTTP buffers of a mebibyte stay in its arenas: 75 MiB that no budget knows of,
/// with a hundred streams.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        const MAPPED_FROM: libc::c_int = 256 << 10;
        const KEPT_AT_TOP: libc::c_int = 1 << 20;
        // SAFETY: mallopt only changes parameters of the allocator; a value that it refuses has no effect.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_TOP);
        }
    }
}

/// How often it is looked at whether many names were forgotten.
const TRIM_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// Inodes forgotten, of 300 bytes or so each, that are worth going through the heap for.
const TRIM_FROM: usize = 10_000;

/// Gives back what the kernel's forgetting has freed: it lies in the middle of glibc's arenas, which by
/// themselves return only what is at their top.
async fn trim_what_was_forgotten(vfs: std::sync::Weak<Vfs>) {
    let mut most = 0;
    loop {
        clock::sleep(TRIM_EVERY).await;
        let Some(vfs) = vfs.upgrade() else { return };
        vfs.forget_walks();
        most = most.max(vfs.take_most_inodes());
        let inodes = vfs.inode_count();
        drop(vfs);
        if !is_worth_a_trim(most, inodes) {
            continue;
        }
        most = inodes;
        #[cfg(target_env = "gnu")]
        // SAFETY: malloc_trim touches nothing but free memory.
        let _ = blocking::run(|| unsafe { libc::malloc_trim(0) }).await;
    }
}

/// Whether of `most` inodes so many were forgotten. There may be more `now` than at any time before: they go on
/// being made while they are counted.
fn is_worth_a_trim(most: usize, now: usize) -> bool {
    most.saturating_sub(now) >= TRIM_FROM.max(most / 2)
}

fn serve(
    runtime: &tokio::runtime::Runtime,
    settings: MountSettings,
    starter: &dyn Starter,
) -> anyhow::Result<()> {
    let assembled = runtime.block_on(assemble::assemble(&settings, starter))?;
    let vfs = assembled.vfs.clone();
    let note = assembled.is_empty.then(|| note_on_emptiness(&settings)).flatten();
    // What waits for the store was not there then.
    if settings.files.version_at.is_none() {
        restore(runtime, &settings, &vfs)?;
    }
    let stands_still = settings.files.stands_still();
    let kernel = Arc::new(kernel::Kernel::mount(&settings, vfs.clone(), runtime.handle().clone())?);
    kernel.tune();
    let ending = ending::Ending::new(kernel.clone());
    let control = Arc::new(MountControl::new(&settings, assembled, kernel.clone(), ending.clone()));
    let server = runtime.block_on(async { Server::start(&settings.mount_point, control.clone()) });
    let server = match server {
        Ok(server) => Some(server),
        Err(error) => {
            log::warn!("`status` and `umount` cannot reach this mount: {error}");
            None
        }
    };
    if !stands_still {
        let (vfs, expiry) = (vfs.clone(), settings.transfer.resume_expiry);
        supervise(runtime.handle(), "recovery", move || {
            let vfs = vfs.clone();
            async move { recovery::meanwhile(&vfs, expiry).await }
        });
    }
    let (kept, weak) = (control.clone(), Arc::downgrade(&vfs));
    supervise(runtime.handle(), "journal", move || keep_files_small(kept.clone()));
    supervise(runtime.handle(), "forgotten names", move || trim_what_was_forgotten(weak.clone()));
    if let Err(error) = signals::end_on_signals(control.clone(), runtime.handle().clone()) {
        log::warn!("signals cannot be listened to: {error}");
    }
    starter.ready(Ok(note));
    kernel.wait();
    log::info!("unmounted");
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = ending.now() => {}
            () = vfs.drain(|_| ()) => {}
        }
    });
    drop(server);
    runtime.block_on(control.end());
    Ok(())
}

/// Perhaps it is a new prefix, perhaps a misspelt one; perhaps it is another time that was meant.
fn note_on_emptiness(settings: &MountSettings) -> Option<String> {
    let (bucket, prefix) = (&settings.bucket, &settings.prefix);
    if let Some(at) = settings.files.version_at {
        let at = humantime::format_rfc3339_seconds(at);
        return Some(format!("there was nothing in s3://{bucket}/{prefix} at {at}"));
    }
    let is_part = !prefix.as_bytes().is_empty();
    is_part.then(|| format!("there is nothing below s3://{bucket}/{prefix} yet"))
}

/// Brings back what an interrupted mount has left.
fn restore(
    runtime: &tokio::runtime::Runtime,
    settings: &MountSettings,
    vfs: &Arc<Vfs>,
) -> anyhow::Result<()> {
    let restored = runtime
        .block_on(recovery::before_requests(vfs))
        .context("interrupted files cannot be brought back")?;
    if restored > 0 {
        let wait =
            if settings.files.read_only { "wait for a mount that may write" } else { "go on" };
        log::info!("{restored} closed files are not in the store yet: their uploads {wait}");
    }
    Ok(())
}

/// How often it is looked whether the journal can be written again, where it could not: the disk was full.
const REPAIR_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// The length of the journal, and of the file of attributes, is looked at every so many times.
const LENGTH_EVERY: u32 = 10;

async fn keep_files_small(control: Arc<MountControl>) {
    let mut told = false;
    loop {
        for _ in 0..LENGTH_EVERY {
            clock::sleep(REPAIR_EVERY).await;
            if control.journal().has_failed() || control.journal().sync_ends().await.is_err() {
                break;
            }
        }
        match control.journal().checkpoint_if_large().await {
            Err(error) if !std::mem::replace(&mut told, true) => {
                log::warn!("the journal cannot be rewritten: {error}");
            }
            Err(_) => {}
            Ok(_) => told = false,
        }
        if let Err(error) = control.vfs().compact_attributes().await {
            log::warn!("the file of attributes cannot be rewritten: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_many_names_were_forgotten() {
        for (most, now, worth) in [
            (0, 0, false),
            (10, 1_000_000, false),
            (10_000, 1, false),
            (10_001, 1, true),
            (1_000_000, 500_001, false),
            (1_000_000, 500_000, true),
        ] {
            assert_eq!(is_worth_a_trim(most, now), worth, "{most}, {now}");
        }
    }
}
