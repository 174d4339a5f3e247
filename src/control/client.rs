//! The asking end of the control socket: blocking, for commands that live for one question.
//!
//! What answers is not believed further than need be: a mount of another user, which root may look at, could be any
//! program of that user. It is heard for a bounded time and length, and what it says is shown with control characters
//! escaped (`cli::show`).

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Type};

use super::messages::{DrainProgress, MountStatus, Request, Response};
use super::socket::{self, Socket};
use super::{ControlError, Result, mount_table};
use crate::clock::Instant;
use crate::private::uid;

/// A mount that says nothing for this long is taken for hung. Draining tells something five times a
/// second; verifying a large cache does not, and so waits without a limit.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A listening socket whose queue is full makes its callers wait, but no longer than this.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The longest answer, in bytes: some hundred thousand uploads; and of a mount of another user, where more is not
/// meant well.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const FOREIGN_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Tells mounts apart, whatever they say of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MountId {
    owner: u32,
    /// The process at the other end; 0 where it cannot be named here.
    process: u32,
    /// Of its socket: says where it is mounted.
    name: OsString,
}

/// A conversation with one live mount.
#[derive(Debug)]
pub struct Client {
    reading: BufReader<UnixStream>,
    mount: MountId,
    answer_bytes_max: usize,
    /// The beginning of an answer.
    begun: Vec<u8>,
}

impl Client {
    /// The mount at `mount_point` (absolute), if one lives there: of the user whose mount the kernel has there, of
    /// this user where it has none (any more).
    pub fn of_mount(mount_point: &Path) -> Option<Client> {
        let name = socket::path_in(Path::new(""), mount_point);
        let mounted = mount_table::at(mount_point).ok().flatten();
        let owner = mounted.filter(|it| it.is_ours()).and_then(|it| it.owner).unwrap_or(uid());
        if owner != uid() && uid() != 0 {
            return None;
        }
        let found = socket::of_user(owner).sockets;
        found.iter().filter(|it| it.name == name).find_map(Client::live)
    }

    /// Whether a process still answers for the mount at `mount_point`; one that is silent counts. Between
    /// a kill and the end of the process its socket can be connected to, but does not answer.
    pub fn is_alive_at(mount_point: &Path) -> bool {
        Client::of_mount(mount_point)
            .is_some_and(|mut client| !client.status().is_err_and(|error| error.is_hang_up()))
    }

    /// Every live mount of this user.
    pub fn of_own_mounts() -> Vec<Client> {
        let mut clients: Vec<Client> = Vec::new();
        for client in socket::of_user(uid()).sockets.iter().filter_map(Client::live) {
            // A mount may have sockets in two places.
            if clients.iter().all(|other| other.mount != client.mount) {
                clients.push(client);
            }
        }
        clients
    }

    /// This user's mount that process `pid` serves. No other mount is asked anything: one that hangs would hold
    /// us up.
    pub fn of_process(pid: u32) -> Option<Client> {
        Client::of_own_mounts().into_iter().find(|client| client.process() == Some(pid))
    }

    /// Connects to the socket at `path`, in a directory of this user.
    pub fn connect(path: &Path) -> Result<Client> {
        Client::connect_to(&Socket::at(path)?)
    }

    /// As [`Self::connect_to`]; removes what a killed mount of this user left behind. `None` where there is no answer.
    pub fn live(socket: &Socket) -> Option<Client> {
        match Client::connect_to(socket) {
            Ok(client) => Some(client),
            Err(ControlError::Unreachable(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                socket.remove_leftover();
                None
            }
            Err(e) => {
                log::debug!("{}: {e}", socket.path().display());
                None
            }
        }
    }

    /// Connects, and makes sure that the owner of the socket's directory listens there.
    fn connect_to(socket: &Socket) -> Result<Client> {
        let connecting = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Holds for connect(2) too.
        connecting.set_write_timeout(Some(CONNECT_MAX))?;
        connecting.connect(&SockAddr::unix(socket.connectable())?)?;
        let stream = UnixStream::from(OwnedFd::from(connecting));
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let (peer, process) = socket::peer_of(&stream)?;
        if peer != socket.owner() {
            let told = format!("user {peer} listens in the place of user {}", socket.owner());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, told).into());
        }
        let is_own = peer == uid();
        let answer_bytes_max = if is_own { ANSWER_BYTES_MAX } else { FOREIGN_ANSWER_BYTES_MAX };
        let mount = MountId { owner: peer, process, name: socket.name.clone() };
        Ok(Client { reading: BufReader::new(stream), mount, answer_bytes_max, begun: Vec::new() })
    }

    /// The process at the other end; `None` where it cannot be named here (another container's).
    pub fn process(&self) -> Option<u32> {
        (self.mount.process != 0).then_some(self.mount.process)
    }

    pub fn mount(&self) -> &MountId {
        &self.mount
    }

    pub fn status(&mut self) -> Result<MountStatus> {
        self.status_within(SILENCE_MAX)
    }

    /// As [`Self::status`], for a caller that would rather know that there is no answer than wait for it.
    pub fn status_within(&mut self, patience: Duration) -> Result<MountStatus> {
        self.send(&Request::Status)?;
        self.heard_status(patience)
    }

    /// The answer that [`Self::status_within`] has not waited for.
    pub fn await_status(&mut self) -> Result<MountStatus> {
        self.heard_status(SILENCE_MAX)
    }

    fn heard_status(&mut self, patience: Duration) -> Result<MountStatus> {
        match self.receive(Some(patience))? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns once everything is in the bucket; `progress` hears how far it is.
    pub fn drain(&mut self, mut progress: impl FnMut(DrainProgress)) -> Result<()> {
        self.send(&Request::Drain)?;
        loop {
            match self.receive(Some(SILENCE_MAX))? {
                Response::Progress(how_far) => progress(how_far),
                Response::Done => return Ok(()),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// One question whose answer may take as long as it takes.
    pub fn ask_patiently(&mut self, request: &Request) -> Result<Response> {
        self.send(request)?;
        self.receive(None)
    }

    /// One question, one answer. A refusal is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        self.send(request)?;
        self.receive(Some(SILENCE_MAX))
    }

    /// As [`Self::ask`], for a caller that would rather know that there is no answer than wait for it.
    pub fn ask_within(&mut self, request: &Request, patience: Duration) -> Result<Response> {
        self.send(request)?;
        self.receive(Some(patience))
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line =
            serde_json::to_vec(request).map_err(|e| ControlError::Garbled(e.to_string()))?;
        line.push(b'\n');
        Ok(self.reading.get_mut().write_all(&line)?)
    }

    /// A whole line, within `patience` for all of it.
    fn receive(&mut self, patience: Option<Duration>) -> Result<Response> {
        let line = self.read_line(patience).map_err(|error| self.name_silence(error, patience))?;
        match serde_json::from_slice(&line) {
            Ok(Response::Refused(why)) => Err(ControlError::Refused(why)),
            Ok(response) => Ok(response),
            Err(e) => Err(ControlError::Garbled(e.to_string())),
        }
    }

    fn read_line(&mut self, patience: Option<Duration>) -> Result<Vec<u8>> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.reading.get_ref().set_read_timeout(left)?;
            let heard = match self.reading.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                heard => heard?,
            };
            if heard.is_empty() {
                let gone = io::Error::new(io::ErrorKind::UnexpectedEof, "its process has ended");
                return Err(gone.into());
            }
            let end = heard.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(heard.len(), |end| end + 1);
            // What has come when patience ends is kept.
            self.begun.extend_from_slice(&heard[..taken]);
            self.reading.consume(taken);
            if self.begun.len() > self.answer_bytes_max {
                return Err(ControlError::Garbled("an answer without an end".to_owned()));
            }
            if end.is_some() {
                return Ok(std::mem::take(&mut self.begun));
            }
        }
    }

    /// A time-out as what it means.
    fn name_silence(&self, error: ControlError, patience: Option<Duration>) -> ControlError {
        use io::ErrorKind::{TimedOut, WouldBlock};
        match (error, patience) {
            (ControlError::Unreachable(error), Some(patience))
                if matches!(error.kind(), TimedOut | WouldBlock) =>
            {
                let process = self.process();
                let process = process
                    .map_or("a mount".to_owned(), |pid| format!("the mount of process {pid}"));
                ControlError::Silent { process, patience }
            }
            (other, _) => other,
        }
    }
}

/// For an answer that does not fit the question.
pub fn unexpected(response: &Response) -> ControlError {
    let mut told = format!("{response:?}");
    told.truncate(told.floor_char_boundary(200));
    ControlError::Garbled(told)
}
