//! Settings to components.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::predecessor::open_journal;
use super::reach::{HEADS_MIN, Keep, Reached, identity, reach, unusable};
use super::starter::Starter;
use super::wait::wait_for_store;
use crate::budget::Budget;
use crate::buffer;
use crate::cache::{Cache, CacheSettings};
use crate::clock;
use crate::disk;
use crate::journal::{Identity, Journal, JournalError, ReplayReport, layout};
use crate::namespace::attributes::Defaults;
use crate::namespace::{
    AttributeCache, Catalog, CatalogSettings, Freshness, PrefetchOptions, any_key,
};
use crate::outbox::{Barrier, Deletions};
use crate::settings::{MountSettings, OnOutage, StoreOptions, TransferOptions, Ttl};
use crate::store::meter::Meter;
use crate::store::s3::S3Store;
use crate::store::turns::Turns;
use crate::store::version_view::VersionView;
use crate::store::{
    ErrorKind, Outage, SharedStore, Stack, Tags, TransferSettings, stack, unwrapped,
};
use crate::upload::{TEMPORARY_PREFIX, Uploads};
use crate::vfs::{Parts, Vfs, VfsSettings};
use crate::writer::{WriterSettings, Writers};

/// Directories whose entries are remembered may fill this share of --memory, within these bounds.
const LISTING_SHARE: u64 = 16;
const LISTING_BYTES_MIN: u64 = 4 << 20;
const LISTING_BYTES_MAX: u64 = 64 << 20;

/// Objects whose attributes are remembered: a million cost about what one part does.
const ATTRIBUTES_MAX: usize = 1_000_000;

/// The largest single GET is at least this: what a fetch that was cut off has brought is kept, so unlike
/// with parts nothing speaks for short ones.
const FETCH_BYTES_MIN: u64 = 8 << 20;

/// Acknowledged parts of one file that stay in memory: enough for programs that go back to patch what
/// they wrote a moment ago.
const RETAINED_SHARE: u64 = 8;
const RETAINED_BYTES_MAX: u64 = 64 << 20;

/// Dropped buffers that are kept to be used again may fill so much of --memory, beside it.
const SPARES_ONE_IN: u64 = 16;

/// What writes hold that wait for memory ([`crate::writer::Parked`]) comes out of --memory: an eighth, and no more than
/// this.
const PARKED_BYTES_MAX: u64 = 32 << 20;

fn budget_bytes(memory: u64) -> u64 {
    memory - (memory / 8).min(PARKED_BYTES_MAX)
}

/// A mount that only lacks the kernel.
pub(super) struct Assembled {
    pub vfs: Arc<Vfs>,
    pub journal: Arc<Journal>,
    pub replay: ReplayReport,
    pub cache: Arc<Cache>,
    pub budget: Arc<Budget>,
    pub stack: Stack,
    pub endpoint: String,
    #[cfg_attr(not(feature = "embedded"), allow(dead_code, reason = "it has nothing to stop"))]
    pub keep: Keep,
    /// There was no key below the prefix.
    pub is_empty: bool,
}

/// Closed files may wait for their upload with as many bytes as the cache may have on the disk, and with so many at
/// least: --cache-size may be 0.
const WAITING_BYTES_MIN: u64 = 4 << 30;

pub(super) async fn assemble(
    settings: &MountSettings,
    starter: &dyn Starter,
) -> anyhow::Result<Assembled> {
    let identity = identity(&settings.store, &settings.bucket, &settings.prefix);
    // What may wait for long holds nothing meanwhile, and leaves nothing when it is ended.
    let awaited = match settings.run.mount_timeout {
        Some(time) if !settings.files.offline && settings.store.embedded.is_none() => {
            Some(wait_for_store(settings, starter, time).await?)
        }
        _ => None,
    };
    let CacheFolder { folder, is_new, journal, replay } = open_folder(settings, &identity).await?;
    if replay.dropped_bytes > 0 {
        log::warn!("the journal's last {} bytes were damaged and dropped", replay.dropped_bytes);
    }
    let (attribute_cache, remembered) = AttributeCache::open(&folder, &identity, ATTRIBUTES_MAX)?;
    if remembered.dropped_bytes > 0 {
        log::info!("{} bytes of remembered attributes were damaged", remembered.dropped_bytes);
    }
    let backend = backend(settings, &identity, &journal, attribute_cache, awaited)
        .await
        .inspect_err(|_| {
            // Under its lock. Nothing was kept in it yet: a mount that never came to be leaves nothing behind.
            if is_new && let Err(error) = disk::remove_dir_all(&folder) {
                log::debug!("{}: {error}", folder.display());
            }
        })?;
    let (stack, attribute_cache) = (backend.stack, backend.attribute_cache);
    attribute_cache.goes_by(stack.store.clock());
    buffer::keep_spares(settings.cache.memory / SPARES_ONE_IN);
    let runtime = tokio::runtime::Handle::current();
    let idle = settings.files.read_only;
    let barrier = Arc::new(Barrier::new(stack.store.clone(), journal.clone()));
    let deletions = Deletions::start(barrier, journal.clone(), idle, &runtime);
    let turns = Turns::over(deletions.clone());
    let store: SharedStore = turns.clone();
    let serves_stale = settings.transfer.on_outage == OnOutage::ServeStale;
    let budget = Budget::new(budget_bytes(settings.cache.memory));
    let cache = Cache::open(
        store.clone(),
        Some(journal.clone()),
        budget.clone(),
        CacheSettings {
            dir: Some(folder.clone()),
            disk_bytes_max: settings.cache.size,
            fetch_bytes_max: settings.transfer.part_size.max(FETCH_BYTES_MIN),
            concurrency: settings.transfer.concurrency,
            deadline: settings.transfer.timeout,
            meter: stack.meter.clone(),
            outage: if serves_stale { stack.outage.clone() } else { Outage::default() },
        },
    )
    .with_context(|| format!("the cache directory {} cannot be used", folder.display()))?;
    let uploads = Uploads::new(
        turns,
        journal.clone(),
        settings.prefix.clone(),
        settings.prefix.join(TEMPORARY_PREFIX),
        options_digest(&settings.store),
    );
    let writers = Writers::start(
        store.clone(),
        journal.clone(),
        budget.clone(),
        uploads.clone(),
        cache.clone(),
        writer_settings(settings, &store, stack.meter.clone(), layout::staging(&folder)),
        runtime.clone(),
    );
    let defaults = defaults(settings);
    // An offline mount needs no second memory of its listings.
    let stands_still = settings.files.stands_still();
    let ttl = if stands_still { Duration::MAX } else { ttl(settings.cache.metadata_ttl) };
    let listing_ttl = if settings.files.offline { Duration::ZERO } else { ttl };
    let freshness = match serves_stale {
        true => Freshness::beyond(listing_ttl, stack.outage.clone()),
        false => listing_ttl.into(),
    };
    let listing_bytes =
        (settings.cache.memory / LISTING_SHARE).clamp(LISTING_BYTES_MIN, LISTING_BYTES_MAX);
    let attributes = PrefetchOptions {
        defaults,
        // The epoch, so that directories without a marker look the same from every machine.
        implicit_mtime: std::time::SystemTime::UNIX_EPOCH,
        fast: settings.files.fast_attributes,
        concurrency: settings.transfer.concurrency.max(HEADS_MIN),
    };
    let catalog = Catalog::new(
        store.clone(),
        attribute_cache,
        CatalogSettings { freshness, bytes_max: listing_bytes as usize, attributes },
    );
    if !stands_still && let Err(error) = catalog.write_down(&folder, &identity) {
        log::warn!("names are not remembered for --offline: {error}");
    }
    let parts = Parts {
        store,
        journal: journal.clone(),
        cache: cache.clone(),
        uploads,
        writers,
        catalog: Arc::new(catalog),
        deletions,
    };
    let vfs_settings = VfsSettings {
        read_only: settings.files.read_only,
        write_back: settings.files.write_back,
        passthrough: settings.cache.size > 0,
        metadata_ttl: ttl,
        defaults,
        mount_point: settings.mount_point.clone(),
        timeout: settings.transfer.timeout,
        memory: settings.cache.memory,
        waiting_bytes: settings.cache.size.max(WAITING_BYTES_MIN),
        concurrency: settings.transfer.concurrency,
        content_type: settings.files.content_type,
    };
    let vfs = Vfs::start(parts, settings.prefix.clone(), vfs_settings, runtime);
    Ok(Assembled {
        vfs,
        journal,
        replay,
        cache,
        budget,
        stack,
        endpoint: identity.endpoint,
        keep: backend.keep,
        is_empty: backend.is_empty,
    })
}

/// Where a mount keeps what it has, locked.
struct CacheFolder {
    folder: PathBuf,
    /// There was none.
    is_new: bool,
    journal: Arc<Journal>,
    replay: ReplayReport,
}

/// Takes the lock, which comes first: a second mount of the same must touch nothing.
async fn open_folder(settings: &MountSettings, identity: &Identity) -> anyhow::Result<CacheFolder> {
    let mut folder = identity.folder(&settings.cache.dir);
    if settings.files.offline {
        super::offline::check_folder(&folder, settings)?;
    }
    let mut is_new = !disk::exists(&folder);
    let opened = match open_journal(&folder, identity).await {
        // Beside a mount of the bucket as it is, one of the bucket as it was has a folder of its own.
        Err(JournalError::Locked { .. }) if settings.files.version_at.is_some() => {
            folder.as_mut_os_string().push("-as-it-was");
            is_new = !disk::exists(&folder);
            open_journal(&folder, identity).await
        }
        opened => opened,
    };
    let (journal, replay) = opened?;
    Ok(CacheFolder { folder, is_new, journal, replay })
}

/// What was fetched and waits for the disk is written before the end, unless the disk takes longer than this:
/// the command that unmounts waits.
const CACHE_SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// Likewise, what has just been fetched is read back and recorded as good.
const CACHE_WARMS_WITHIN: Duration = Duration::from_secs(1);

impl Assembled {
    /// Ends what outlives the kernel's mount.
    pub async fn end(self, now: bool) {
        if !now && clock::timeout(CACHE_SETTLES_WITHIN, self.cache.settle()).await.is_err() {
            log::warn!("the cache disk is slow: some of what was fetched will be fetched again");
        } else if !now {
            self.cache.settle_for_the_next_mount(CACHE_WARMS_WITHIN).await;
        }
        if let Err(error) = self.journal.sync().await {
            log::warn!("the journal may lose its last records: {error}");
        }
        #[cfg(feature = "embedded")]
        if let Some(server) = self.keep.embedded {
            server.stop().await;
        }
    }
}

/// The store and the attribute cache that a mount works with.
struct Backend {
    stack: Stack,
    attribute_cache: Arc<AttributeCache>,
    keep: Keep,
    /// The store has no key below the prefix.
    is_empty: bool,
}

async fn backend(
    settings: &MountSettings,
    identity: &Identity,
    journal: &Journal,
    attribute_cache: Arc<AttributeCache>,
    awaited: Option<(S3Store, bool)>,
) -> anyhow::Result<Backend> {
    if settings.files.offline {
        // What is remembered is only looked at: what an offline mount makes of it is not news.
        let store = super::offline::store(identity, journal, &attribute_cache);
        let attribute_cache = AttributeCache::in_memory(ATTRIBUTES_MAX);
        let stack = unwrapped(store);
        return Ok(Backend { stack, attribute_cache, keep: Keep::default(), is_empty: false });
    }
    let (reached, mut any) = match awaited {
        Some((client, any)) => (Reached { client, keep: Keep::default() }, any),
        None => {
            let reached = reach(&settings.store, &settings.bucket, &settings.transfer).await?;
            let any = reached.client.probe(&settings.prefix).await;
            (reached, any.map_err(|error| unusable(&error))?)
        }
    };
    if reached.client.is_in_the_clear() {
        log::warn!(
            "requests go to {} as plain http: names, contents, the id of the access key and any session token can be \
             read on the way, and answers changed (the secret key is not sent); use an https endpoint, or \
             --no-sign-request",
            reached.client.origin()
        );
    }
    if settings.files.version_at.is_some() {
        check_versions(&reached.client, &settings.bucket).await?;
    }
    let mut stack = stack(reached.client, &transfer_settings(&settings.transfer));
    let mut attribute_cache = attribute_cache;
    if let Some(at) = settings.files.version_at {
        stack.store = Arc::new(VersionView::new(stack.store, at));
        // Versions with the same bytes and ETag may have other attributes.
        attribute_cache = AttributeCache::in_memory(ATTRIBUTES_MAX);
        let below = any_key(stack.store.as_ref(), &settings.prefix).await;
        any = below.map_err(|error| unusable(&error))?;
    }
    Ok(Backend { stack, attribute_cache, keep: reached.keep, is_empty: !any })
}

/// Refuses to show the past of a bucket that has none.
async fn check_versions(client: &S3Store, bucket: &str) -> anyhow::Result<()> {
    match client.keeps_versions().await {
        Ok(true) => Ok(()),
        Err(error) if error.kind == ErrorKind::Denied => {
            bail!(
                "{error}: --version-at needs the rights to ask whether the bucket keeps versions, to list and to read them"
            )
        }
        Err(error) if error.kind != ErrorKind::Unsupported => Err(unusable(&error)),
        Ok(false) | Err(_) => bail!(
            "s3://{bucket} keeps no versions, so that it cannot be shown as it was: have it keep them (from then on), \
             or mount without --version-at"
        ),
    }
}

fn transfer_settings(transfer: &TransferOptions) -> TransferSettings {
    TransferSettings {
        concurrency: transfer.concurrency,
        rates: transfer.rates,
        max_attempts: transfer.max_attempts,
        timeout: transfer.timeout,
        on_outage: transfer.on_outage,
    }
}

fn writer_settings(
    settings: &MountSettings,
    store: &SharedStore,
    meter: Arc<Meter>,
    staging_folder: PathBuf,
) -> WriterSettings {
    WriterSettings {
        part_bytes: settings.transfer.part_size,
        equal_parts: store.capabilities().equal_parts,
        parts_in_flight_max: settings.transfer.concurrency,
        meter,
        retained_bytes_max: (settings.cache.memory / RETAINED_SHARE).min(RETAINED_BYTES_MAX),
        timeout: settings.transfer.timeout,
        staging_folder,
        write_back: settings.files.write_back,
    }
}

fn defaults(settings: &MountSettings) -> Defaults {
    Defaults {
        uid: settings.files.uid,
        gid: settings.files.gid,
        file_mode: settings.files.file_mode,
        dir_mode: settings.files.dir_mode,
    }
}

fn ttl(ttl: Ttl) -> Duration {
    match ttl {
        Ttl::For(duration) => duration,
        Ttl::Forever => Duration::MAX,
    }
}

/// What an upload fixes at its beginning, so that one begun otherwise is not gone on with.
fn options_digest(options: &StoreOptions) -> u64 {
    let fixed = [
        options.new_objects.storage_class.as_deref(),
        options.new_objects.sse.as_deref(),
        options.new_objects.sse_kms_key_id.as_deref(),
        options.new_objects.acl.as_deref(),
    ];
    let mut text = fixed.map(|field| field.unwrap_or("-")).join("\n");
    // Added where they are, so that uploads of a version before these options go on.
    if let Some(key) = &options.new_objects.customer_key {
        text += &format!("\n{}", key.md5());
    }
    if let Tags::These(tags) = &options.new_objects.tags {
        text += &format!("\n{tags}");
    }
    let mut eight = [0; 8];
    eight.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(eight)
}
