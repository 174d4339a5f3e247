//! The kernel's side: each request becomes one call of [`Vfs`], its result a reply or an errno.
//!
//! The only module that knows fuser. What needs no waiting is answered on the thread that read the
//! request; everything else by a task of the runtime, so a slow store never holds up a fast answer.
//!
//! Consistency: see `vfs`. Retries: none. Crash: a panic in a task answers EIO (an unanswered reply
//! does) and leaves the mount up.
//! Cancellation: fuser has no hook for FUSE_INTERRUPT, so a killed program waits for the answer to the
//! request it is in; every request ends by the store's deadlines.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::namespace::attributes::Kind;
use crate::vfs::{Changes, FileAttributes, OpenMode, Seek, SetXattr, Vfs, VfsError};

mod answer;
mod attr;
mod backing;
mod pages;
mod start;

use answer::{
    Refuse, answer_now, attributes, caller, done, entry, errno, guarded, node_attr, time_of, xattr,
};
use attr::{file_type, segment, shown};
use backing::Backings;
pub use pages::Pages;

/// The file system as fuser calls it.
pub struct Fuse {
    vfs: Arc<Vfs>,
    runtime: Handle,
    ttl: Duration,
    backings: Arc<Backings>,
}

impl Fuse {
    pub fn new(vfs: Arc<Vfs>, runtime: Handle) -> Fuse {
        // The kernel counts in u64 seconds; a century is for ever.
        let ttl = vfs.settings().metadata_ttl.min(Duration::from_secs(100 * 365 * 24 * 3600));
        Fuse { vfs, runtime, ttl, backings: Arc::new(Backings::default()) }
    }

    /// Answers by a task: by `say` with what `work` gives, or with the errno of its error.
    fn answer<R: Refuse, T, F>(
        &self,
        reply: R,
        work: impl FnOnce(Arc<Vfs>) -> F,
        say: impl FnOnce(R, T) + Send + 'static,
    ) where
        F: Future<Output = Result<T, VfsError>> + Send + 'static,
    {
        let work = work(self.vfs.clone());
        self.runtime.spawn(async move {
            match work.await {
                Ok(done) => say(reply, done),
                Err(error) => reply.refuse(errno(&error)),
            }
        });
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        start::agree(config, self.vfs.settings(), &self.backings);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, ttl, name) = (self.vfs.clone(), self.ttl, segment(name));
        self.runtime.spawn(async move {
            match vfs.lookup(parent.0, &name).await {
                Ok(Some(attributes)) => entry(reply, attributes),
                // Number 0 says that the kernel may remember that there is no such name.
                Ok(None) if !ttl.is_zero() => entry(reply, FileAttributes::absent(ttl)),
                Ok(None) => reply.error(Errno::ENOENT),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        // Nobody hears of it; an inode that stays is no harm.
        let _ = guarded(|| self.vfs.forget(ino.0, lookups));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(reply, |vfs| async move { vfs.getattr(ino.0).await }, attributes);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(time_of), mtime.map(time_of));
        let unprivileged = request.uid() != 0;
        let changes = Changes { len: size, mode, uid, gid, atime, mtime, unprivileged };
        let fh = fh.map(|fh| fh.0);
        self.answer(reply, |vfs| async move { vfs.setattr(ino.0, fh, changes).await }, attributes);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let say = |reply: ReplyData, target: Vec<u8>| reply.data(&target);
        self.answer(reply, |vfs| async move { vfs.readlink(ino.0).await }, say);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name, mode_set) = (caller(request), segment(name), mode & !umask);
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => Kind::File,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            // A bucket is no place from which to open this machine's hardware.
            _ => return reply.error(Errno::EPERM),
        };
        let make = |vfs: Arc<Vfs>| async move {
            if kind != Kind::File {
                return vfs.make_pipe_or_socket(caller, parent.0, &name, kind, mode_set).await;
            }
            let open = OpenMode::from_flags(libc::O_WRONLY | libc::O_EXCL);
            let (attributes, opened) = vfs.create(caller, parent.0, &name, mode_set, open).await?;
            let closed = vfs.flush(opened.fh, 0).await;
            vfs.release(opened.fh).await;
            closed.map(|()| attributes)
        };
        self.answer(reply, make, entry);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name, mode) = (caller(request), segment(name), mode & !umask);
        let make = |vfs: Arc<Vfs>| async move { vfs.mkdir(caller, parent.0, &name, mode).await };
        self.answer(reply, make, entry);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = segment(name);
        let remove = |vfs: Arc<Vfs>| async move { vfs.unlink(parent.0, &name).await };
        self.answer(reply, remove, done);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = segment(name);
        let remove = |vfs: Arc<Vfs>| async move { vfs.rmdir(parent.0, &name).await };
        self.answer(reply, remove, done);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), segment(link_name));
        let target = target.as_os_str().as_bytes().to_vec();
        let make =
            |vfs: Arc<Vfs>| async move { vfs.symlink(caller, parent.0, &name, &target).await };
        self.answer(reply, make, entry);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name, flags) = (segment(name), segment(new_name), flags.bits());
        let rename = |vfs: Arc<Vfs>| async move {
            vfs.rename(parent.0, &name, new_parent.0, &new_name, flags).await
        };
        self.answer(reply, rename, done);
    }

    fn link(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        // An object has one key. EPERM is what link(2) documents for file systems without links.
        reply.error(Errno::EPERM);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, backings) = (caller(request), self.backings.clone());
        let open = OpenMode::from_flags(flags.0);
        self.answer(
            reply,
            |vfs| async move { vfs.open(caller, ino.0, open).await },
            move |reply, opened| backings.reply(reply, ino.0, opened),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name, mode) = (caller(request), segment(name), mode & !umask);
        let open = OpenMode::from_flags(flags);
        let create =
            |vfs: Arc<Vfs>| async move { vfs.create(caller, parent.0, &name, mode, open).await };
        let backings = self.backings.clone();
        self.answer(reply, create, move |reply: ReplyCreate, (attributes, opened)| {
            backings.reply_created(reply, &attributes, &opened);
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match guarded(|| self.vfs.read_now(fh.0, offset, size)) {
            Some(Some(piece)) => return reply.data(piece.as_ref()),
            Some(None) => {}
            None => return reply.error(Errno::EIO),
        }
        self.answer(
            reply,
            |vfs| async move { vfs.read(fh.0, offset, size).await },
            |reply: ReplyData, bytes| reply.data(bytes.as_ref()),
        );
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let taken = || {
            if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                self.vfs.drop_set_id_of(fh.0)?;
            }
            self.vfs.write_now(fh.0, offset, data, page)
        };
        let taken = match guarded(taken) {
            Some(Ok(taken)) => taken,
            Some(Err(error)) => return reply.error(errno(&error)),
            None => return reply.error(Errno::EIO),
        };
        if taken == data.len() {
            return reply.written(data.len() as u32);
        }
        // There is no room now. The request's buffer is needed for the next request, so the rest is
        // copied; the kernel holds this writer until the answer.
        let Some(rest) = guarded(|| self.vfs.park(&data[taken..])) else {
            return reply.error(Errno::EIO);
        };
        let (len, offset) = (data.len() as u32, offset + taken as u64);
        self.answer(
            reply,
            |vfs| async move { vfs.write(fh.0, offset, &rest, page).await },
            move |reply: ReplyWrite, ()| reply.written(len),
        );
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let pid = request.pid();
        self.answer(reply, |vfs| async move { vfs.flush(fh.0, pid).await }, done);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, backings) = (self.vfs.clone(), self.backings.clone());
        self.runtime.spawn(async move {
            backings.release(ino.0, fh.0);
            vfs.release(fh.0).await;
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(reply, |vfs| async move { vfs.fsync(fh.0).await }, done);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer_now(
            reply,
            || self.vfs.opendir(ino.0),
            |reply, fh| reply.opened(FileHandle(fh), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let vfs = self.vfs.clone();
        self.runtime.spawn(async move {
            let read = vfs
                .readdir(fh.0, offset, |entry| {
                    let kind = file_type(entry.kind);
                    let name = shown(entry.name);
                    reply.add(INodeNo(entry.ino), entry.offset, kind, OsStr::from_bytes(&name))
                })
                .await;
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let vfs = self.vfs.clone();
        self.runtime.spawn(async move {
            let read = vfs
                .readdir_plus(fh.0, offset, |entry, attributes| {
                    let (ttl, attr) = node_attr(attributes);
                    let name = shown(entry.name);
                    let name = OsStr::from_bytes(&name);
                    reply.add(attr.ino, entry.offset, name, &ttl, &attr, Generation(0))
                })
                .await;
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        answer_now(
            reply,
            || {
                self.vfs.releasedir(fh.0);
                Ok(())
            },
            done,
        );
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(reply, |vfs| async move { vfs.fsyncdir(ino.0).await }, done);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // A bucket has no size. What is told is large enough for programs that look before they write,
        // and small enough for those that multiply it.
        const BLOCK: u32 = 4096;
        const BLOCKS: u64 = (1 << 50) / BLOCK as u64;
        const FILES: u64 = 1 << 32;
        const NAME_MAX: u32 = 255;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, FILES, FILES, BLOCK, NAME_MAX, BLOCK);
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let how = match flags {
            libc::XATTR_CREATE => SetXattr::Create,
            libc::XATTR_REPLACE => SetXattr::Replace,
            _ => SetXattr::Either,
        };
        let set = |vfs: Arc<Vfs>| async move { vfs.setxattr(ino.0, &name, &value, how).await };
        self.answer(reply, set, done);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let name = name.as_bytes().to_vec();
        let get = |vfs: Arc<Vfs>| async move { vfs.getxattr(ino.0, &name).await };
        self.answer(reply, get, move |reply, value| xattr(reply, size, &value));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_now(reply, || self.vfs.listxattr(ino.0), |reply, names| xattr(reply, size, &names));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let remove = |vfs: Arc<Vfs>| async move { vfs.removexattr(ino.0, &name).await };
        self.answer(reply, remove, done);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The mount has default_permissions: the kernel has decided already.
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = |vfs: Arc<Vfs>| async move { vfs.fallocate(fh.0, offset, length, mode).await };
        self.answer(reply, work, done);
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let work = |vfs: Arc<Vfs>| async move { vfs.seek(fh.0, offset, what).await };
        self.answer(reply, work, |reply: ReplyLseek, place| reply.offset(place));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        // The answer has 32 bits.
        let len = len.min(u64::from(u32::MAX));
        let work = |vfs: Arc<Vfs>| async move { vfs.copy_file_range(from, to, len).await };
        self.answer(reply, work, |reply: ReplyWrite, copied| reply.written(copied as u32));
    }
}
