//! Changes of attributes: truncate, chmod, chown, utimens.
//!
//! What changes on a file that is being written goes with it. What changes on an object that stands
//! costs a copy of the object onto itself; several changes in a row cost one, because the copy is made
//! a moment later (`background::saver`), or by a rename that comes first.

use std::sync::Arc;
use std::time::SystemTime;

use super::close;
use crate::clock;
use crate::namespace::attributes::Kind;
use crate::range::ByteRange;
use crate::vfs::assemble::Vfs;
use crate::vfs::error::{Result, VfsError};
use crate::vfs::handles::OpenMode;
use crate::vfs::request::FileAttributes;
use crate::vfs::tree::Inode;
use crate::vfs::versions::without_set_id;

/// What setattr changes; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    pub len: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SystemTime>,
    pub mtime: Option<SystemTime>,
    /// By a program that may not keep set-id bits on a file whose content it changes.
    pub unprivileged: bool,
}

impl Changes {
    fn touches_attributes(&self) -> bool {
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.atime.is_some()
            || self.mtime.is_some()
    }
}

/// setattr: truncate, chmod, chown, utimens.
pub async fn setattr(
    vfs: &Vfs,
    ino: u64,
    fh: Option<u64>,
    changes: Changes,
) -> Result<FileAttributes> {
    vfs.settings.check_writable()?;
    let inode = vfs.tree.get(ino)?;
    inode.check_changeable()?;
    {
        let _operation = vfs.tree.operation_on(&inode).await;
        vfs.tree.revalidate_for_change(&inode).await?;
        if let Some(len) = changes.len {
            if changes.unprivileged {
                vfs.versions.drop_set_id(&inode)?;
            }
            truncate(vfs, &inode, fh, len).await?;
        }
        if changes.touches_attributes() {
            change_attributes(vfs, &inode, changes)?;
        }
    }
    if let Some(len) = changes.len {
        vfs.files.show_elsewhere(&inode, ino, ByteRange::at(len, 0)).await;
    }
    Ok(vfs.tree.attributes_of(&inode))
}

async fn truncate(vfs: &Vfs, inode: &Arc<Inode>, fh: Option<u64>, len: u64) -> Result<()> {
    match inode.kind() {
        Kind::Directory => return Err(VfsError::plain(libc::EISDIR)),
        Kind::Symlink | Kind::Fifo | Kind::Socket => {
            return Err(VfsError::plain(libc::EINVAL));
        }
        Kind::File => {}
    }
    let mode = OpenMode {
        read: false,
        write: true,
        truncate: len == 0,
        append: false,
        direct: false,
        exclusive: false,
    };
    vfs.versions.know_all_to_begin(inode).await?;
    let was_draft = inode.draft().is_some();
    vfs.files.prepare_mirror(inode).await?;
    let draft = vfs.versions.draft_for(inode, mode)?;
    vfs.versions.set_len(inode, &draft, len).await?;
    if len == 0 {
        draft.mark_dirty();
        vfs.versions.begins_anew(inode);
    }
    let written_by_nobody = fh.is_none() && inode.state().used().open.writers == 0;
    if written_by_nobody {
        // truncate(2): no close follows.
        let closed = close::close_draft(vfs, inode).await;
        let mut state = inode.state();
        // What was safe here before stays so.
        if !draft.is_dirty() || (closed.is_err() && !was_draft) {
            state.used_mut().draft = None;
        }
        drop(state);
        closed?;
    }
    Ok(())
}

fn change_attributes(vfs: &Vfs, inode: &Arc<Inode>, changes: Changes) -> Result<()> {
    let mut state = inode.state();
    let before = state.attributes.clone();
    let atime = changes.atime.or(state.used().atime);
    let attributes = &mut state.attributes;
    if let Some(mode) = changes.mode {
        attributes.mode = mode & 0o7777;
    } else if (changes.uid.is_some() || changes.gid.is_some()) && attributes.kind != Kind::Directory
    {
        // The kernel leaves this to us (FUSE_HANDLE_KILLPRIV_V2): its new owner has not set them.
        attributes.mode = without_set_id(attributes.mode);
    }
    if let Some(uid) = changes.uid {
        attributes.uid = uid;
    }
    if let Some(gid) = changes.gid {
        attributes.gid = gid;
    }
    if let Some(mtime) = changes.mtime {
        attributes.mtime = mtime;
    }
    if let Err(no_space) = attributes.to_write_options() {
        state.attributes = before;
        return Err(no_space.into());
    }
    state.ctime = clock::wall();
    state.touched &= changes.mtime.is_none();
    // A time of access that was never set is the mtime's, and does not follow it to where it is set.
    if let Some(atime) = atime.or(changes.mtime.map(|_| before.mtime)) {
        state.used_mut().atime = Some(atime);
    }
    let written = state.draft_that_takes_attributes();
    state.times_set |= written.is_some() && changes.mtime.is_some();
    let is_same = state.attributes == before;
    drop(state);
    if let Some(draft) = written {
        return vfs.versions.tell_draft(inode, &draft);
    }
    if is_same {
        return Ok(());
    }
    vfs.versions.attributes_changed(inode)
}
