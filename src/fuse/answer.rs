//! What requests are made of and answered with, in fuser's terms.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
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

/// Answers on the thread that read the request: by `say` with what `call` gives, or with the errno of its error. A
/// panic is EIO, and the thread goes on.
pub(super) fn answer_now<R: Refuse, T>(
    reply: R,
    call: impl FnOnce() -> Result<T, VfsError>,
    say: impl FnOnce(R, T),
) {
    match guarded(call) {
        Some(Ok(done)) => say(reply, done),
        Some(Err(error)) => reply.refuse(errno(&error)),
        None => reply.refuse(Errno::EIO),
    }
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
    let (ttl, attr) = node_attr(&attributes);
    reply.entry(&ttl, &attr, Generation(0));
}

/// What a name leads to: the kernel's number for it, and for how long it is believed.
pub(super) fn node_attr(attributes: &FileAttributes) -> (Duration, FileAttr) {
    let mut attr = file_attr(attributes);
    let ttl = if attributes.node == attributes.ino { attributes.valid_for } else { Duration::ZERO };
    attr.ino = INodeNo(attributes.node);
    (ttl, attr)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    impl Refuse for Sender<i32> {
        fn refuse(self, errno: Errno) {
            self.send(errno.code()).ok();
        }
    }

    #[test]
    fn a_panic_on_the_thread_of_the_requests_is_an_answer() {
        let (reply, answered) = channel();
        let told = |reply: Sender<i32>, number| reply.send(number).unwrap();
        answer_now(reply.clone(), || Ok(7), told);
        answer_now(reply.clone(), || Err(VfsError::plain(libc::EBADF)), told);
        answer_now(reply, || panic!("told to"), told);
        assert_eq!(answered.iter().collect::<Vec<_>>(), [7, libc::EBADF, libc::EIO]);
    }
}
