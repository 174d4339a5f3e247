//! What the kernel and we agree upon when they shake hands.

use fuser::{InitFlags, KernelConfig};

use super::backing::Backings;
use crate::vfs::VfsSettings;

/// Requests that the kernel may have under way in the background (readahead, direct I/O): enough for
/// every connection to the store to be busy at 1 MiB a request.
const BACKGROUND_MAX: u16 = 256;

/// The longest write request, in bytes; the kernel's page limit makes 1 MiB of anything longer.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// The kernel's own shortest, in bytes.
const WRITE_BYTES_MIN: u32 = 128 << 10;

/// A request's bytes beside --memory, where it is small: so many requests are --memory once again.
const WAITING_WRITERS: u64 = 128;

/// Each is only an improvement: without it the mount works, so a refusal is no error.
pub(super) fn agree(config: &mut KernelConfig, settings: &VfsSettings, backings: &Backings) {
    for capability in [
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_AUTO_INVAL_DATA,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ] {
        if config.add_capabilities(capability).is_err() {
            log::debug!("the kernel does not offer {capability:?}");
        }
    }
    if settings.passthrough
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(1).is_ok()
    {
        backings.enable();
    }
    let fair = settings.memory / WAITING_WRITERS;
    let fair = u32::try_from(fair).unwrap_or(u32::MAX).clamp(WRITE_BYTES_MIN, WRITE_BYTES_MAX);
    if let Err(nearest) = config.set_max_write(fair) {
        log::debug!("the longest write is {nearest} bytes");
    }
    if let Err(nearest) = config.set_max_background(BACKGROUND_MAX) {
        log::debug!("requests in the background are {nearest}");
    }
}
