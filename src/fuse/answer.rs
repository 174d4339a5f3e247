//! What requests are made of and answered with, in fuser's terms.

use std::panic::AssertUnwindSafe;
use std::time::SystemTime;

use fuser::{Errno, Generation, ReplyEmpty, ReplyEntry, ReplyXattr, Request, TimeOrNow};

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

pub(super) fn entry(reply: ReplyEntry, attributes: &FileAttributes) {
    reply.entry(&attributes.valid_for, &file_attr(attributes), Generation(0));
}

pub(super) fn answer(reply: ReplyEmpty, outcome: Result<(), VfsError>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn answer_xattr(reply: ReplyXattr, size: u32, outcome: Result<Vec<u8>, VfsError>) {
    match outcome {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}
