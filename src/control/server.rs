//! The mount's end of the control socket.
//!
//! Cancellation: dropping the [`Server`] ends every conversation and removes the socket. Crash: the
//! socket file stays behind and is replaced by the next mount at the same place. Where the socket is taken away
//! (runtime directories go with a user's last session, old files of /tmp go by themselves) there is another one
//! within seconds. Panic: what accepts is begun again ([`supervise`]); conversations of the moment end.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use super::messages::{DrainProgress, MountStatus, Request, Response, TransferKind};
use super::{Control, Result, socket};
use crate::clock;
use crate::lock::{Mutex, rank};
use crate::private;
use crate::seam;
use crate::supervise::supervise;

/// How often a drain tells how far it is: smooth for a progress bar, nothing for the machine.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The longest request, in bytes: a thousand keys of full length to abort. Longer ones are garbage.
const REQUEST_BYTES_MAX: u64 = 2 << 20;

/// How often it is looked whether the socket is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Listens until it is dropped.
pub struct Server {
    /// In the place that every command looks into first; the second, if there is one, in that of the environment.
    _listening: Vec<Listening>,
}

struct Listening {
    place: Arc<Mutex<Place, rank::SocketPlace>>,
    accepting: AbortHandle,
}

/// Where the socket lies, and what listens at it.
struct Place {
    listener: Arc<UnixListener>,
    path: PathBuf,
    /// Device and inode: another mount may put its own in its place.
    identity: (u64, u64),
}

/// Where a socket is to lie.
type Choice = Arc<dyn Fn() -> io::Result<PathBuf> + Send + Sync>;

impl Server {
    /// Listens for the mount at `mount_point`, in this user's directory. Needs a tokio runtime.
    pub fn start(mount_point: &Path, control: Arc<dyn Control>) -> io::Result<Server> {
        let name = socket::path_in(Path::new(""), mount_point);
        let beside = socket::dir_of_environment().map(|dir| dir.join(&name));
        let choice = move || Ok(socket::own_dir()?.join(&name));
        let mut listening = vec![Listening::start(Arc::new(choice), control.clone())?];
        if let Some(path) = beside {
            match Listening::start(Arc::new(move || Ok(path.clone())), control) {
                Ok(second) => listening.push(second),
                Err(e) => log::debug!("no control socket in XDG_RUNTIME_DIR: {e}"),
            }
        }
        Ok(Server { _listening: listening })
    }

    /// Listens at `path`. What a killed mount left there is replaced.
    #[cfg(test)]
    pub fn start_at(path: PathBuf, control: Arc<dyn Control>) -> io::Result<Server> {
        let listening = Listening::start(Arc::new(move || Ok(path.clone())), control)?;
        Ok(Server { _listening: vec![listening] })
    }

    /// Where the sockets lie now.
    #[cfg(test)]
    pub fn paths(&self) -> Vec<PathBuf> {
        self._listening.iter().map(|it| it.place.lock().path.clone()).collect()
    }
}

impl Listening {
    fn start(choice: Choice, control: Arc<dyn Control>) -> io::Result<Listening> {
        let place = Arc::new(Mutex::new(listen(choice()?)?));
        let there = place.clone();
        let work = move || accept(there.clone(), choice.clone(), control.clone());
        let accepting = supervise(&Handle::current(), "control", work);
        Ok(Listening { place, accepting })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
        let place = self.place.lock();
        if place.is_there()
            && let Err(e) = std::fs::remove_file(&place.path)
        {
            log::debug!("control socket {}: {e}", place.path.display());
        }
    }
}

impl Place {
    fn is_there(&self) -> bool {
        let found = std::fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// Nothing lies there: neither this socket nor that of a mount which has taken its place.
    fn is_gone(&self) -> bool {
        let found = std::fs::symlink_metadata(&self.path);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

fn listen(path: PathBuf) -> io::Result<Place> {
    // Bound under another name and moved into place once it listens: between bind(2) and listen(2)
    // a socket refuses connections, and a command that finds it so takes it for a dead mount's.
    let newborn = path.with_extension(format!("new-{}", std::process::id()));
    match std::fs::remove_file(&newborn) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&newborn)?;
    std::fs::set_permissions(&newborn, std::fs::Permissions::from_mode(0o600))?;
    let made = std::fs::symlink_metadata(&newborn)?;
    std::fs::rename(&newborn, &path)?;
    Ok(Place { listener: Arc::new(listener), path, identity: (made.dev(), made.ino()) })
}

/// Owns the conversations: aborting this task drops the set and so ends them all. Begun again, it goes on at the socket
/// that is there.
async fn accept(
    place: Arc<Mutex<Place, rank::SocketPlace>>,
    choice: Choice,
    control: Arc<dyn Control>,
) {
    let mut listener = place.lock().listener.clone();
    let mut conversations = JoinSet::new();
    let mut look = clock::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if may_ask(&stream) => {
                    conversations.spawn(converse(stream, control.clone()));
                }
                Ok(_) => log::warn!("control socket: another user was turned away"),
                Err(e) => {
                    log::warn!("control socket: {e}");
                    // Out of descriptors, most likely: trying again at once would only spin.
                    clock::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = look.tick() => {
                seam::pass_now("control");
                if place.lock().is_gone() {
                    match choice().and_then(listen) {
                        Ok(there) => {
                            let path = there.path.display();
                            log::info!("the control socket was taken away: {path} now");
                            listener = there.listener.clone();
                            *place.lock() = there;
                        }
                        Err(e) => log::debug!("the control socket was taken away: {e}"),
                    }
                }
            }
            Some(ended) = conversations.join_next() => {
                if let Err(e) = ended && e.is_panic() {
                    log::error!("control socket: an answer panicked: {e}");
                }
            }
        }
    }
}

/// Its owner and root may. The socket's permissions say so already, where they mean anything.
fn may_ask(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    peer.is_ok_and(|peer| peer == 0 || peer == private::uid())
}

async fn converse(stream: UnixStream, control: Arc<dyn Control>) {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    loop {
        let mut line = Vec::new();
        let read = (&mut reading).take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(bytes) if bytes > 0) {
            return;
        }
        let said = match serde_json::from_slice(&line) {
            Ok(request) => answer(request, control.as_ref(), &mut writing).await,
            Err(e) => {
                say(&mut writing, &Response::Refused(format!("cannot read the request: {e}"))).await
            }
        };
        // The client is gone.
        if said.is_err() {
            return;
        }
    }
}

async fn answer(
    request: Request,
    control: &dyn Control,
    writing: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let response = match request {
        Request::Drain => return drain(control, writing).await,
        Request::Status => Response::Status(Box::new(control.status().await)),
        Request::Shutdown { now } => {
            let told = |told: Option<String>| told.map_or(Response::Done, Response::Told);
            or_refusal(control.shutdown(now).await.map(told))
        }
        Request::UploadsList => or_refusal(control.uploads().await.map(Response::Uploads)),
        Request::UploadsResume { names } => {
            or_refusal(control.resume_uploads(&names).await.map(Response::Uploads))
        }
        Request::UploadsAbort { names } => {
            or_refusal(control.abort_uploads(&names).await.map(Response::Uploads))
        }
        Request::BucketUploads => {
            or_refusal(control.bucket_uploads().await.map(Response::BucketUploads))
        }
        Request::BucketUploadParts { uploads } => {
            let parts = control.bucket_upload_parts(&uploads).await;
            or_refusal(parts.map(Response::BucketUploadParts))
        }
        Request::BucketUploadsEnd { uploads } => {
            or_refusal(control.end_bucket_uploads(&uploads).await.map(|()| Response::Done))
        }
        Request::KnownUploads => {
            or_refusal(control.known_uploads().await.map(Response::KnownUploads))
        }
        Request::CacheInfo => or_refusal(control.cache_info().await.map(Response::Cache)),
        Request::CacheVerify => or_refusal(control.cache_verify().await.map(Response::Verified)),
        Request::Verify { path, depth } => {
            or_refusal(control.verify(&path, depth).await.map(Response::File))
        }
        Request::Versions { path } => {
            or_refusal(control.versions(&path).await.map(Response::Versions))
        }
        Request::Undelete { path } => {
            or_refusal(control.undelete(&path).await.map(Response::Undeleted))
        }
        Request::Limit(changes) => or_refusal(control.limit(changes).await.map(Response::Limits)),
        Request::CacheClear => or_refusal(control.cache_clear().await.map(Response::Cleared)),
    };
    say(writing, &response).await
}

fn or_refusal(outcome: Result<Response>) -> Response {
    outcome.unwrap_or_else(|e| Response::Refused(e.to_string()))
}

/// Drains, telling how far it is. A client that goes away stops only the telling.
async fn drain(control: &dyn Control, writing: &mut OwnedWriteHalf) -> io::Result<()> {
    let draining = control.drain();
    tokio::pin!(draining);
    let mut tick = clock::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            outcome = &mut draining => {
                return say(writing, &or_refusal(outcome.map(|()| Response::Done))).await;
            }
            _ = tick.tick() => {
                let progress = drain_progress(&control.status().await);
                say(writing, &Response::Progress(progress)).await?;
            }
        }
    }
}

fn drain_progress(status: &MountStatus) -> DrainProgress {
    let uploads = || status.transfers.iter().filter(|t| t.kind == TransferKind::Upload);
    let bytes_done = uploads().map(|t| t.bytes_done).sum();
    DrainProgress {
        files_left: status.pending_files + status.pending_deletions,
        bytes_done,
        bytes_total: bytes_done + status.pending_bytes,
    }
}

async fn say(writing: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writing.write_all(&line).await
}

#[cfg(test)]
mod tests;
