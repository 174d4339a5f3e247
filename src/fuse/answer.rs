//! What requests are made of and answered with, in fuser's terms.

use std::panic::AssertUnwindSafe;
use std::time::SystemTime;

use fuser::{
    Errno, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};

use super::attr::file_attr;
use crate::vfs::{Caller, FileAttributes, VfsError};

pub(super) fn errno(error: &VfsError) -> Errno {
    Errno::from_i32(error.errno)
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// Runs `call` without letting a panic kill the thread that serves requests.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(call)).ok()
}

pub(super) fn time_of(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

/// A reply that an errno can take the place of.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty)*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(ReplyAttr ReplyCreate ReplyData ReplyEmpty ReplyEntry ReplyLseek ReplyOpen ReplyWrite ReplyXattr);

pub(super) fn entry(reply: ReplyEntry, attributes: FileAttributes) {
    reply.entry(&attributes.valid_for, &file_attr(&attributes), Generation(0));
}

pub(super) fn attributes(reply: ReplyAttr, attributes: FileAttributes) {
    reply.attr(&attributes.valid_for, &file_attr(&attributes));
}

pub(super) fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// A value for which the kernel has so much room; 0 asks for its length.
pub(super) fn xattr(reply: ReplyXattr, room: u32, value: &[u8]) {
    match value.len() {
        len if room == 0 => reply.size(len as u32),
        len if len > room as usize => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
