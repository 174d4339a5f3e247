//! What a running mount answers through its control socket.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use super::assemble::Assembled;
use super::bucket_uploads;
use super::ending::Ending;
use super::kernel::Kernel;
use crate::clock::{self, Instant};
use crate::control::messages::{
    BucketUpload, CacheState, CacheVerdict, FileVerdict, JournalState, KeyVersions, KnownUploads,
    LimitChanges, Mode, MountStatus, Place, Process, RecentError, StoreState, StoredParts,
    Transfer, TransferKind, UndeletedKey, Upload, UploadName, UploadState, VerifyDepth,
};
use crate::control::{Control, ControlError, Result};
use crate::journal::Journal;
use crate::lock::{Mutex, rank};
use crate::settings::MountSettings;
use crate::store::{Key, Rates, SharedStore, StoreError};
use crate::upload::InterruptedUpload;
use crate::vfs::{Vfs, VfsError};
use crate::writer::DraftProgress;

/// A mount and the means to speak for it.
pub(super) struct MountControl {
    settings: MountSettings,
    vfs: Arc<Vfs>,
    journal: Arc<Journal>,
    assembled: Mutex<Option<Assembled>, rank::Assembled>,
    kernel: Arc<Kernel>,
    ending: Arc<Ending>,
    begun: Instant,
}

impl MountControl {
    pub fn new(
        settings: &MountSettings,
        assembled: Assembled,
        kernel: Arc<Kernel>,
        ending: Arc<Ending>,
    ) -> Self {
        MountControl {
            settings: settings.clone(),
            vfs: assembled.vfs.clone(),
            journal: assembled.journal.clone(),
            assembled: Mutex::new(Some(assembled)),
            kernel,
            ending,
            begun: Instant::now(),
        }
    }

    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.vfs
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }

    /// Ends what outlives the kernel's mount.
    pub async fn end(&self) {
        let assembled = self.assembled.lock().take();
        if let Some(assembled) = assembled {
            assembled.end(self.ending.is_now()).await;
        }
    }

    pub async fn drain_and_unmount(&self) {
        self.vfs.drain(|_| ()).await;
        if self.kernel.unmount(false).is_err()
            // Files are open: their programs go on, the name is gone.
            && let Err(error) = self.kernel.unmount(true)
        {
            log::error!("{} cannot be unmounted: {error}", self.settings.mount_point.display());
        }
    }

    fn uploads_of_all(&self) -> Vec<Upload> {
        let bucket = &self.settings.bucket;
        let live = self.vfs.report().transfers;
        let live = live.iter().map(|draft| live_upload(bucket, draft));
        let left = self.vfs.interrupted_uploads();
        live.chain(left.iter().map(|upload| interrupted(bucket, upload))).collect()
    }

    fn refuse_if_offline(&self) -> Result<()> {
        if !self.settings.files.offline {
            return Ok(());
        }
        let mount_point = self.settings.mount_point.display();
        Err(ControlError::Refused(format!(
            "{mount_point} is mounted with --offline: mount it without, with the network there"
        )))
    }

    /// What waits belongs to the next mount that may write.
    fn refuse_if_read_only(&self) -> Result<()> {
        if self.settings.files.read_only {
            return Err(ControlError::Refused("the mount is read-only".into()));
        }
        Ok(())
    }

    fn store(&self) -> Result<SharedStore> {
        self.refuse_if_offline()?;
        let store = self.assembled.lock().as_ref().map(|assembled| assembled.stack.store.clone());
        store.ok_or_else(|| ControlError::Refused("the mount is ending".into()))
    }

    fn keys_of(&self, names: &[String]) -> Vec<Key> {
        let uploads = self.uploads_of_all();
        names
            .iter()
            .map(|name| {
                let by_id = uploads.iter().find(|upload| upload.id == *name);
                Key::new(by_id.map_or(name.as_str(), |upload| upload.key.as_str()).as_bytes())
            })
            .collect()
    }
}

#[async_trait]
impl Control for MountControl {
    async fn status(&self) -> MountStatus {
        let report = self.vfs.report();
        let (store, journal, endpoint) = {
            let assembled = self.assembled.lock();
            match &*assembled {
                Some(assembled) => (
                    store_state(assembled, self.vfs.serves_stale()),
                    JournalState {
                        bytes: self.journal.bytes(),
                        replayed_records: assembled.replay.records,
                        dropped_bytes: assembled.replay.dropped_bytes,
                        unsynced_bytes: self.journal.unsynced_bytes(),
                    },
                    assembled.endpoint.clone(),
                ),
                None => Default::default(),
            }
        };
        let pending = report.transfers.iter().filter(|draft| draft.closed);
        MountStatus {
            place: Place {
                mount_point: self.settings.mount_point.display().to_string(),
                bucket: self.settings.bucket.clone(),
                prefix: self.settings.prefix.to_string(),
                endpoint,
            },
            process: Process {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_seconds: self.begun.elapsed().as_secs(),
            },
            mode: Mode {
                read_only: self.settings.files.read_only,
                write_back: self.settings.files.write_back,
                offline: self.settings.files.offline,
                version_at: self.settings.files.version_at.map(shown_time),
            },
            pending_files: pending.clone().count() as u64,
            pending_bytes: pending.map(|draft| draft.len.saturating_sub(draft.stored_bytes)).sum(),
            pending_deletions: report.deletions as u64,
            transfers: report.transfers.iter().map(transfer).collect(),
            cache: self.cache_info().await.unwrap_or_default(),
            journal,
            store,
            recent_errors: report
                .faults
                .iter()
                .rev()
                .map(|fault| RecentError {
                    seconds_ago: seconds_since(fault.when),
                    what: fault.what.clone(),
                    path: fault.path.clone(),
                    cause: fault.cause.clone(),
                    request_id: fault.request_id.clone(),
                })
                .collect(),
            hidden_names: report.hidden_names,
            inodes: report.inodes as u64,
        }
    }

    async fn drain(&self) -> Result<()> {
        self.vfs.drain(|_| ()).await;
        let failed = self.vfs.report().transfers.into_iter().find_map(|draft| {
            draft.closed.then_some(draft.error).flatten().map(|error| (draft.key, error))
        });
        if let Some(refused) = self.vfs.take_refused_deletion() {
            return Err(ControlError::Refused(format!("{refused} (ask again to unmount)")));
        }
        match failed {
            Some((key, error)) => Err(ControlError::Refused(format!(
                "{key} is only on this machine: {error} (`ratchetfs uploads resume` tries again, \
                 `umount --now` leaves it for the next mount)"
            ))),
            None => Ok(()),
        }
    }

    async fn shutdown(&self, now: bool) -> Result<Option<String>> {
        if now {
            self.ending.end_now();
            let mount_point = self.settings.mount_point.display();
            return Ok(self.ending.outcome().await.map(|told| format!("{mount_point} {told}")));
        }
        self.drain().await?;
        self.kernel.unmount(false).map(|()| None).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => ControlError::Refused(format!(
                "{} is in use: close what is open there (lsof shows it), or use --now",
                self.settings.mount_point.display()
            )),
            _ => ControlError::Refused(format!("cannot be unmounted: {error}")),
        })
    }

    async fn uploads(&self) -> Result<Vec<Upload>> {
        Ok(self.uploads_of_all())
    }

    async fn resume_uploads(&self, names: &[String]) -> Result<Vec<Upload>> {
        self.refuse_if_offline()?;
        self.refuse_if_read_only()?;
        let keys = self.keys_of(names);
        let meant = |uploads: Vec<Upload>| -> Vec<Upload> {
            let wanted = |upload: &Upload| {
                names.is_empty() || names.contains(&upload.key) || names.contains(&upload.id)
            };
            uploads.into_iter().filter(wanted).collect()
        };
        self.vfs.resume_uploads(&keys);
        self.vfs.resume_synced(&keys).map_err(|error| ControlError::Refused(error.to_string()))?;
        let resumed = self.uploads_of_all();
        let pending = resumed.into_iter().filter(|upload| upload.state == UploadState::Pending);
        Ok(meant(pending.collect()))
    }

    async fn abort_uploads(&self, names: &[String]) -> Result<Vec<Upload>> {
        self.refuse_if_offline()?;
        self.refuse_if_read_only()?;
        let keys = self.keys_of(names);
        let bucket = &self.settings.bucket;
        let left = self.vfs.interrupted_uploads();
        let mut aborted: Vec<Upload> = left
            .iter()
            .filter(|upload| keys.is_empty() || keys.contains(&upload.key))
            .map(|upload| interrupted(bucket, upload))
            .collect();
        // What was closed is dropped only where it is named.
        for key in &keys {
            let dropped = self.vfs.drop_closed(key).await.map_err(failed)?;
            aborted.extend(dropped.map(|dropped| live_upload(bucket, &dropped)));
        }
        self.vfs.abort_uploads(&keys).await.map_err(failed)?;
        Ok(aborted)
    }

    async fn bucket_uploads(&self) -> Result<Vec<BucketUpload>> {
        let (store, prefix) = (self.store()?, &self.settings.prefix);
        bucket_uploads::begun(&*store, prefix).await.map_err(refused)
    }

    async fn bucket_upload_parts(&self, of: &[UploadName]) -> Result<Vec<Option<StoredParts>>> {
        let store = self.store()?;
        bucket_uploads::parts(&*store, of).await.map_err(refused)
    }

    async fn end_bucket_uploads(&self, these: &[UploadName]) -> Result<()> {
        self.refuse_if_read_only()?;
        let store = self.store()?;
        let known = self.known_uploads().await?;
        if let Some(own) = these.iter().find(|upload| known.has(upload)) {
            let key = &own.key;
            return Err(ControlError::Refused(format!("an upload of {key} is this mount's own")));
        }
        bucket_uploads::end(&*store, these).await.map_err(refused)
    }

    async fn known_uploads(&self) -> Result<KnownUploads> {
        let (bucket, folder) = (&self.settings.bucket, self.journal.folder());
        Ok(self.journal.read(|state| bucket_uploads::known(bucket, folder, state)))
    }

    async fn cache_info(&self) -> Result<CacheState> {
        let staged = self
            .journal
            .read(|state| state.drafts.values().map(|draft| draft.staged_bytes()).sum::<u64>());
        let assembled = self.assembled.lock();
        let Some(assembled) = &*assembled else { return Ok(CacheState::default()) };
        let stats = assembled.cache.stats();
        Ok(CacheState {
            dir: self.journal.folder().display().to_string(),
            disk_bytes: stats.disk.bytes,
            disk_bytes_max: stats.disk.bytes_max,
            staged_bytes: staged,
            objects: stats.disk.objects,
            memory_bytes: assembled.budget.used(),
            memory_bytes_max: assembled.budget.total(),
            hits: stats.disk.served,
            misses: stats.bytes_fetched,
            damaged_ranges: stats.disk.bad_ranges,
            checked_bytes: stats.disk.checked,
            trusted_bytes: stats.disk.checked_before,
        })
    }

    async fn cache_verify(&self) -> Result<CacheVerdict> {
        let cache = self.assembled.lock().as_ref().map(|assembled| assembled.cache.clone());
        let Some(cache) = cache else { return Ok(CacheVerdict::default()) };
        let report = cache.verify().await?;
        Ok(CacheVerdict { checked_bytes: report.bytes, damaged_bytes: report.bad_bytes })
    }

    async fn verify(&self, path: &[u8], depth: VerifyDepth) -> Result<FileVerdict> {
        let verdict = self.vfs.verify(path, super::verify::depth(depth)).await;
        verdict.map(super::verify::told).map_err(failed)
    }

    async fn versions(&self, path: &[u8]) -> Result<KeyVersions> {
        self.refuse_if_offline()?;
        let found = self.vfs.versions(path).await.map_err(failed)?;
        Ok(KeyVersions::new(&self.settings.bucket, &found.0, &found.1))
    }

    async fn undelete(&self, path: &[u8]) -> Result<UndeletedKey> {
        self.refuse_if_offline()?;
        self.refuse_if_read_only()?;
        let found = self.vfs.undelete(path).await.map_err(|error| match error.errno {
            libc::EEXIST => {
                let line = "a file that is not in the bucket yet has this name: move it away first";
                ControlError::Refused(line.into())
            }
            _ => failed(error),
        })?;
        Ok(UndeletedKey::new(&self.settings.bucket, &found.0, &found.1))
    }

    async fn limit(&self, changes: LimitChanges) -> Result<Rates> {
        self.refuse_if_offline()?;
        let limits = self.assembled.lock().as_ref().map(|assembled| assembled.stack.limits.clone());
        let Some(limits) = limits else {
            return Err(ControlError::Refused("the mount is ending".into()));
        };
        let rates = changes.apply(limits.rates());
        limits.set(rates);
        log::info!("limits: {rates:?}");
        Ok(rates)
    }

    async fn cache_clear(&self) -> Result<u64> {
        let cache = self.assembled.lock().as_ref().map(|assembled| assembled.cache.clone());
        let Some(cache) = cache else { return Ok(0) };
        Ok(cache.clear().await.bytes)
    }
}

fn refused(error: StoreError) -> ControlError {
    ControlError::Refused(match &error.key {
        Some(key) => format!("{key}: {error}"),
        None => error.to_string(),
    })
}

fn failed(error: VfsError) -> ControlError {
    ControlError::Refused(error.to_string())
}

fn store_state(assembled: &Assembled, stale: bool) -> StoreState {
    let snapshot = assembled.stack.meter.snapshot();
    StoreState {
        requests: snapshot.requests.values().sum(),
        errors: snapshot.errors.values().sum(),
        retries: snapshot.retries,
        hedges: snapshot.hedges,
        bytes_sent: snapshot.bytes_up,
        bytes_received: snapshot.bytes_down,
        offline: assembled.stack.outage.is_on(),
        offline_seconds: assembled.stack.outage.lasts().map(|lasts| lasts.as_secs()),
        stale,
        limits: assembled.stack.limits.rates(),
        operations: snapshot.requests,
    }
}

fn transfer(draft: &DraftProgress) -> Transfer {
    Transfer {
        key: draft.key.to_string(),
        kind: TransferKind::Upload,
        bytes_done: draft.stored_bytes,
        bytes_total: draft.closed.then_some(draft.len),
        parts_done: draft.parts_stored,
        parts_in_flight: draft.parts_sending,
        parts_resumed: draft.parts_resumed,
    }
}

fn live_upload(bucket: &str, draft: &DraftProgress) -> Upload {
    Upload {
        id: draft.id.to_string(),
        bucket: bucket.to_owned(),
        key: draft.key.to_string(),
        state: match (&draft.error, draft.closed) {
            (Some(_), _) => UploadState::Failed,
            (None, true) => UploadState::Pending,
            (None, false) => UploadState::Writing,
        },
        bytes_stored: draft.stored_bytes,
        bytes_staged: 0,
        bytes_total: Some(draft.len),
        parts_stored: draft.parts_stored,
        age_seconds: 0,
        cause: draft.error.clone(),
    }
}

/// An interrupted upload as the control socket shows it.
pub(super) fn interrupted(bucket: &str, upload: &InterruptedUpload) -> Upload {
    Upload {
        id: upload.draft.to_string(),
        bucket: bucket.to_owned(),
        key: upload.key.to_string(),
        state: if upload.cause.is_some() { UploadState::Failed } else { UploadState::Interrupted },
        bytes_stored: upload.stored_bytes,
        bytes_staged: upload.staged_bytes,
        bytes_total: upload.synced_len,
        parts_stored: upload.parts as u32,
        age_seconds: seconds_since(upload.begun),
        cause: upload.cause.clone(),
    }
}

/// To the second.
fn shown_time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

fn seconds_since(when: SystemTime) -> u64 {
    clock::age(when).as_secs()
}
