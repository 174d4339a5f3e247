//! What requests are made of and answered with, in fuser's terms.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;

use super::attr::file_attr;
use crate::clock;
use crate::progress::Pulse;
use crate::seam;
use crate::supervise;
use crate::vfs::{Caller, FileAttributes, Seen, Vfs, VfsError};

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// What was asked for, as the log tells it.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    operation: &'static str,
    ino: INodeNo,
    /// Of an open file: whatever error it is answered with, the log has it, with the place.
    handle: Option<u64>,
}

impl Asked {
    pub fn of(operation: &'static str, ino: INodeNo) -> Asked {
        Asked { operation, ino, handle: None }
    }

    /// Of an open file, from `offset` on.
    pub fn at(operation: &'static str, ino: INodeNo, offset: u64) -> Asked {
        Asked { operation, ino, handle: Some(offset) }
    }

    fn told(&self, vfs: &Vfs) -> String {
        format!("{} {}", self.operation, vfs.path_of(self.ino.0))
    }
}

/// What a request may be silent beyond the deadline of one request to the store, which waits for an outage to end, or
/// for the name of a directory that SeaweedFS has not cleaned up: for three minutes.
const MARGIN: Duration = Duration::from_secs(240);

/// How requests are answered that cannot be at once.
///
/// Each has a task of its own. Where that is silent for too long (see [`crate::progress`]) the kernel is told ETIMEDOUT, so that
/// no program hangs for good. One that is in line for a lock or for memory then goes; any other goes on by itself, since
/// it is unknown what it has done already, and what it brings in the end is undone where the kernel would have counted it.
/// A panic is EIO, and the end of that task alone.
pub(super) struct Answers {
    vfs: Arc<Vfs>,
    runtime: Handle,
    /// No operation is silent for longer.
    patience: Duration,
}

impl Answers {
    pub fn new(vfs: Arc<Vfs>, runtime: Handle) -> Answers {
        let patience = vfs.settings().timeout + seam::seconds("RATCHETFS_TEST_MARGIN", MARGIN);
        Answers { vfs, runtime, patience }
    }

    /// Answers by a task: by `say` with what `work` gives, or with the errno of its error.
    pub fn answer<R: Refuse, T: Send + 'static, F>(
        &self,
        asked: Asked,
        reply: R,
        work: impl FnOnce(Arc<Vfs>) -> F,
        say: impl FnOnce(R, T) + Send + 'static,
    ) where
        F: Future<Output = Result<T, VfsError>> + Send + 'static,
    {
        self.answer_or_undo(asked, reply, work, say, async |_, _| ());
    }

    /// As [`Answers::answer`]. Where the kernel no longer waits for what `work` gives, `undo` takes it back.
    pub fn answer_or_undo<R: Refuse, T: Send + 'static, F, U>(
        &self,
        asked: Asked,
        reply: R,
        work: impl FnOnce(Arc<Vfs>) -> F,
        say: impl FnOnce(R, T) + Send + 'static,
        undo: impl FnOnce(Arc<Vfs>, T) -> U + Send + 'static,
    ) where
        F: Future<Output = Result<T, VfsError>> + Send + 'static,
        U: Future<Output = ()> + Send,
    {
        let (vfs, patience) = (self.vfs.clone(), self.patience);
        // An operation's future is long: put in its place once, and not copied into each that holds it.
        let work = Box::pin(work(vfs.clone()));
        self.runtime.spawn(async move {
            let work = async {
                seam::pass(asked.operation).await;
                work.await
            };
            let pulse = Pulse::new();
            let mut work = pin!(pulse.of(AssertUnwindSafe(work).catch_unwind()));
            let Some(outcome) = in_time(&pulse, patience, &mut work).await else {
                give_up(&vfs, asked, patience);
                reply.refuse(Errno::ETIMEDOUT);
                if pulse.may_be_dropped() {
                    return;
                }
                match failed(work.await) {
                    Ok(done) => {
                        log::warn!("{}: done after it was answered", asked.told(&vfs));
                        undo(vfs, done).await;
                    }
                    Err(failure) => failure.tell(&vfs, asked),
                }
                return;
            };
            match failed(outcome) {
                Ok(done) => say(reply, done),
                Err(failure) => refuse(&vfs, asked, reply, &failure),
            }
        });
    }

    /// Answers on the thread that read the request: by `say` with what `call` gives, or with the errno of its error. A
    /// panic is EIO, and the thread goes on.
    pub fn answer_now<R: Refuse, T>(
        &self,
        asked: Asked,
        reply: R,
        call: impl FnOnce() -> Result<T, VfsError>,
        say: impl FnOnce(R, T),
    ) {
        match self.guarded(asked, call) {
            Ok(done) => say(reply, done),
            Err(failure) => refuse(&self.vfs, asked, reply, &failure),
        }
    }

    /// Runs `call` without letting a panic kill the thread that serves requests.
    pub fn guarded<T>(
        &self,
        asked: Asked,
        call: impl FnOnce() -> Result<T, VfsError>,
    ) -> Result<T, Failure> {
        attempt(|| {
            seam::pass_now(asked.operation);
            call()
        })
    }

    /// Refuses what [`Answers::guarded`] has failed at.
    pub fn refuse(&self, asked: Asked, reply: impl Refuse, failure: &Failure) {
        refuse(&self.vfs, asked, reply, failure);
    }

    /// As [`Answers::answer_now`], of what the kernel does not wait for.
    pub fn note_now(&self, asked: Asked, call: impl FnOnce()) {
        let done = self.guarded(asked, || {
            call();
            Ok(())
        });
        done.unwrap_or_else(|failure| failure.tell(&self.vfs, asked));
    }
}

/// Why there is no answer but an errno.
pub(super) enum Failure {
    Error(VfsError),
    /// What a panic has said.
    Panic(Box<dyn Any + Send>),
}

fn attempt<T>(call: impl FnOnce() -> Result<T, VfsError>) -> Result<T, Failure> {
    failed(std::panic::catch_unwind(AssertUnwindSafe(call)))
}

fn failed<T>(outcome: Result<Result<T, VfsError>, Box<dyn Any + Send>>) -> Result<T, Failure> {
    outcome.map_err(Failure::Panic)?.map_err(Failure::Error)
}

impl Failure {
    fn errno(&self) -> Errno {
        match self {
            Failure::Error(error) => Errno::from_i32(error.errno),
            Failure::Panic(_) => Errno::EIO,
        }
    }

    /// Has the log know of it, as far as it does not yet.
    fn tell(&self, vfs: &Vfs, asked: Asked) {
        match (self, asked.handle) {
            (Failure::Error(error), Some(offset)) => {
                vfs.note_fault_of(asked.operation, asked.ino.0, offset, error);
            }
            (Failure::Error(_), None) => {}
            (Failure::Panic(panic), _) => {
                let why = supervise::told_by(&**panic);
                let told = format!("{}: a fault in this program: {why}", asked.told(vfs));
                vfs.note_fault(VfsError::new(libc::EIO, told));
            }
        }
    }
}

fn refuse(vfs: &Vfs, asked: Asked, reply: impl Refuse, failure: &Failure) {
    failure.tell(vfs, asked);
    reply.refuse(failure.errno());
}

/// What `work` gives, unless it is silent for too long.
async fn in_time<F: Future + Unpin>(
    pulse: &Pulse,
    patience: Duration,
    work: &mut F,
) -> Option<F::Output> {
    loop {
        let left = patience.saturating_sub(pulse.silence());
        if left.is_zero() {
            return None;
        }
        if let Ok(outcome) = clock::timeout(left, &mut *work).await {
            return Some(outcome);
        }
    }
}

fn give_up(vfs: &Vfs, asked: Asked, patience: Duration) {
    let told = format!(
        "{}: nothing has moved for {}: answered with a timeout",
        asked.told(vfs),
        humantime::format_duration(patience)
    );
    vfs.note_fault(VfsError::new(libc::ETIMEDOUT, told));
}

pub(super) fn time_of(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => clock::wall(),
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

refuse!(ReplyAttr ReplyCreate ReplyData ReplyEmpty ReplyEntry ReplyLseek ReplyOpen ReplyStatfs ReplyWrite ReplyXattr);

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

/// A bucket has no size, so what is free is always the same: large enough for programs that look before they write, and
/// small enough for those that multiply it. What is used is what the mount knows of.
pub(super) fn space(reply: ReplyStatfs, seen: Seen) {
    const BLOCK: u32 = 4096;
    const FREE_BLOCKS: u64 = (1 << 50) / BLOCK as u64;
    const FREE_FILES: u64 = 1 << 32;
    const NAME_MAX: u32 = 255;
    let blocks = FREE_BLOCKS.saturating_add(seen.bytes.div_ceil(u64::from(BLOCK)));
    let files = FREE_FILES + seen.files;
    reply.statfs(blocks, FREE_BLOCKS, FREE_BLOCKS, files, FREE_FILES, BLOCK, NAME_MAX, BLOCK);
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
        let answer = |call: &dyn Fn() -> Result<i32, VfsError>| match attempt(call) {
            Ok(number) => reply.send(number).unwrap(),
            Err(failure) => reply.clone().refuse(failure.errno()),
        };
        answer(&|| Ok(7));
        answer(&|| Err(VfsError::plain(libc::EBADF)));
        answer(&|| panic!("told to"));
        drop(reply);
        assert_eq!(answered.iter().collect::<Vec<_>>(), [7, libc::EBADF, libc::EIO]);
    }
}
