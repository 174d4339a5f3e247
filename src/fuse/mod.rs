//! The kernel's side: each request becomes one call of [`Vfs`], its result a reply or an errno.
//!
//! The only module that knows fuser. What needs no waiting is answered on the thread that read the
//! request; everything else by a task of the runtime, so a slow store never holds up a fast answer.
//!
//! Consistency: see `vfs`. Retries: none. Crash: a panic answers EIO and leaves the mount up (see `answer`).
//! Cancellation: fuser has no hook for FUSE_INTERRUPT, so a killed program waits for the answer to the
//! request it is in; every request ends by the store's deadlines, or when nothing moves for longer than those (see
//! `answer`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::namespace::attributes::Kind;
use crate::progress;
use crate::vfs::{Changes, Entry, FileAttributes, OpenMode, Seek, SetXattr, Vfs, VfsError};

mod answer;
mod attr;
mod backing;
mod filling;
mod pages;
mod start;

use answer::{Answers, Asked, attributes, caller, done, entry, space, time_of, xattr};
use attr::segment;
use backing::Backings;
use filling::Filling;
pub use pages::Pages;

/// The file system as fuser calls it.
pub struct Fuse {
    vfs: Arc<Vfs>,
    answers: Answers,
    backings: Arc<Backings>,
}

impl Fuse {
    pub fn new(vfs: Arc<Vfs>, runtime: Handle) -> Fuse {
        let answers = Answers::new(vfs.clone(), runtime);
        Fuse { vfs, answers, backings: Arc::new(Backings::default()) }
    }

    /// Answers by a task with an entry of a directory, to which the kernel has a reference then.
    fn answer_entry<F>(&self, asked: Asked, reply: ReplyEntry, work: impl FnOnce(Arc<Vfs>) -> F)
    where
        F: Future<Output = Result<FileAttributes, VfsError>> + Send + 'static,
    {
        let undo = async |vfs: Arc<Vfs>, found: FileAttributes| vfs.forget(found.node, 1);
        self.answers.answer_or_undo(asked, reply, work, entry, undo);
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        start::agree(config, self.vfs.settings(), &self.backings);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = segment(name);
        let look = |vfs: Arc<Vfs>| async move {
            let before = vfs.absent_for();
            if let Some(attributes) = vfs.lookup(parent.0, &name).await? {
                return Ok(attributes);
            }
            // Number 0 says that the kernel may remember that there is no such name.
            match before.min(vfs.absent_for()) {
                Duration::ZERO => Err(VfsError::plain(libc::ENOENT)),
                ttl => Ok(FileAttributes::absent(ttl)),
            }
        };
        self.answer_entry(Asked::of("lookup", parent), reply, look);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        // The kernel hears nothing of it; an inode that stays is no harm.
        self.answers.note_now(Asked::of("forget", ino), || self.vfs.forget(ino.0, lookups));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let work = |vfs: Arc<Vfs>| async move { vfs.getattr(ino.0).await };
        self.answers.answer(Asked::of("getattr", ino), reply, work, attributes);
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
        let work = |vfs: Arc<Vfs>| async move { vfs.setattr(ino.0, fh, changes).await };
        self.answers.answer(Asked::of("setattr", ino), reply, work, attributes);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let say = |reply: ReplyData, target: Vec<u8>| reply.data(&target);
        let work = |vfs: Arc<Vfs>| async move { vfs.readlink(ino.0).await };
        self.answers.answer(Asked::of("readlink", ino), reply, work, say);
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
            // It is made; whatever comes of the rest, the handle goes.
            let closed = progress::kept(async {
                let closed = vfs.flush(opened.fh, 0).await;
                vfs.release(opened.fh).await;
                closed
            });
            closed.await.map(|()| attributes)
        };
        self.answer_entry(Asked::of("mknod", parent), reply, make);
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
        self.answer_entry(Asked::of("mkdir", parent), reply, make);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = segment(name);
        let remove = |vfs: Arc<Vfs>| async move { vfs.unlink(parent.0, &name).await };
        self.answers.answer(Asked::of("unlink", parent), reply, remove, done);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = segment(name);
        let remove = |vfs: Arc<Vfs>| async move { vfs.rmdir(parent.0, &name).await };
        self.answers.answer(Asked::of("rmdir", parent), reply, remove, done);
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
        self.answer_entry(Asked::of("symlink", parent), reply, make);
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
        self.answers.answer(Asked::of("rename", parent), reply, rename, done);
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
        self.answers.answer_or_undo(
            Asked::of("open", ino),
            reply,
            |vfs| async move { vfs.open(caller, ino.0, open).await },
            move |reply, opened| backings.reply(reply, ino.0, opened),
            async |vfs, opened| vfs.release(opened.fh).await,
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
        self.answers.answer_or_undo(
            Asked::of("create", parent),
            reply,
            create,
            move |reply: ReplyCreate, (attributes, opened)| {
                backings.reply_created(reply, &attributes, &opened);
            },
            async |vfs, (attributes, opened)| {
                vfs.release(opened.fh).await;
                vfs.forget(attributes.node, 1);
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = Asked::at("read", ino, offset);
        match self.answers.guarded(asked, || Ok(self.vfs.read_now(fh.0, offset, size))) {
            Ok(Some(piece)) => return reply.data(piece.as_ref()),
            Ok(None) => {}
            Err(failure) => return self.answers.refuse(asked, reply, &failure),
        }
        self.answers.answer(
            asked,
            reply,
            |vfs| async move { vfs.read(fh.0, offset, size).await },
            |reply: ReplyData, bytes| reply.data(bytes.as_ref()),
        );
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let asked = Asked::at("write", ino, offset);
        let take = || {
            if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                self.vfs.drop_set_id_of(fh.0)?;
            }
            let taken = self.vfs.write_now(fh.0, offset, data, page)?;
            // There may be no room now. The request's buffer is needed for the next request, so the rest is copied; the
            // kernel holds this writer until the answer.
            Ok((taken, (taken < data.len()).then(|| self.vfs.park(&data[taken..]))))
        };
        let len = data.len() as u32;
        self.answers.answer_now(asked, reply, take, |reply, (taken, rest)| {
            let Some(rest) = rest else { return reply.written(len) };
            self.answers.answer(
                asked,
                reply,
                |vfs| async move { vfs.write(fh.0, offset + taken as u64, &rest, page).await },
                move |reply: ReplyWrite, ()| reply.written(len),
            );
        });
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let pid = request.pid();
        let work = |vfs: Arc<Vfs>| async move { vfs.flush(fh.0, pid).await };
        self.answers.answer(Asked::at("flush", ino, 0), reply, work, done);
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
        let backings = self.backings.clone();
        let release = |vfs: Arc<Vfs>| async move {
            backings.release(ino.0, fh.0);
            progress::kept(vfs.release(fh.0)).await;
            Ok(())
        };
        self.answers.answer(Asked::of("release", ino), reply, release, done);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let work = |vfs: Arc<Vfs>| async move { vfs.fsync(fh.0).await };
        self.answers.answer(Asked::at("fsync", ino, 0), reply, work, done);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answers.answer_now(
            Asked::of("opendir", ino),
            reply,
            || self.vfs.opendir(ino.0),
            |reply, fh| reply.opened(FileHandle(fh), FopenFlags::empty()),
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let reply = Filling::new(reply, self.vfs.clone());
        let filled = reply.share();
        let work = |vfs: Arc<Vfs>| async move {
            vfs.readdir(fh.0, offset, |entry| filled.add(&entry)).await
        };
        let say = |reply: Filling<ReplyDirectory>, ()| reply.ok();
        self.answers.answer(Asked::of("readdir", ino), reply, work, say);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let reply = Filling::new(reply, self.vfs.clone());
        let filled = reply.share();
        let work = |vfs: Arc<Vfs>| async move {
            let add =
                |entry: Entry<'_>, attributes: &FileAttributes| filled.add(&entry, attributes);
            vfs.readdir_plus(fh.0, offset, add).await
        };
        let say = |reply: Filling<ReplyDirectoryPlus>, ()| reply.ok();
        self.answers.answer(Asked::of("readdirplus", ino), reply, work, say);
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.answers.answer_now(
            Asked::of("releasedir", ino),
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
        let work = |vfs: Arc<Vfs>| async move { vfs.fsyncdir(ino.0).await };
        self.answers.answer(Asked::of("fsyncdir", ino), reply, work, done);
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let look = |vfs: Arc<Vfs>| async move { Ok(vfs.seen().await) };
        self.answers.answer(Asked::of("statfs", ino), reply, look, space);
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
        self.answers.answer(Asked::of("setxattr", ino), reply, set, done);
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
        let say = move |reply, value: Vec<u8>| xattr(reply, size, &value);
        self.answers.answer(Asked::of("getxattr", ino), reply, get, say);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || self.vfs.listxattr(ino.0);
        self.answers.answer_now(Asked::of("listxattr", ino), reply, list, |reply, names| {
            xattr(reply, size, &names);
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let remove = |vfs: Arc<Vfs>| async move { vfs.removexattr(ino.0, &name).await };
        self.answers.answer(Asked::of("removexattr", ino), reply, remove, done);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The mount has default_permissions: the kernel has decided already.
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = |vfs: Arc<Vfs>| async move { vfs.fallocate(fh.0, offset, length, mode).await };
        self.answers.answer(Asked::at("fallocate", ino, offset), reply, work, done);
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
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
        let say = |reply: ReplyLseek, place| reply.offset(place);
        self.answers.answer(Asked::of("lseek", ino), reply, work, say);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
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
        let say = |reply: ReplyWrite, copied| reply.written(copied as u32);
        self.answers.answer(Asked::of("copy_file_range", ino_out), reply, work, say);
    }
}
