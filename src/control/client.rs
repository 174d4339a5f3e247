//! The asking end of the control socket: blocking, for commands that live for one question.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::messages::{DrainProgress, MountStatus, Request, Response};
use super::{ControlError, Result, socket};

/// A mount that says nothing for this long is taken for hung. Draining tells something five times a
/// second; verifying a large cache does not, and so waits without a limit.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A conversation with one live mount.
#[derive(Debug)]
pub struct Client {
    reading: BufReader<UnixStream>,
}

impl Client {
    /// The mount at `mount_point` (absolute), if one lives there.
    pub fn of_mount(mount_point: &Path) -> Option<Client> {
        let name = socket::path_in(Path::new(""), mount_point);
        socket::all()
            .into_iter()
            .filter(|path| path.file_name() == name.file_name())
            .find_map(|path| Client::live(&path))
    }

    /// Whether a process still answers for the mount at `mount_point`; one that is silent counts. Between
    /// a kill and the end of the process its socket can be connected to, but nobody answers.
    pub fn is_alive_at(mount_point: &Path) -> bool {
        Client::of_mount(mount_point)
            .is_some_and(|mut client| !client.status().is_err_and(|error| error.is_hang_up()))
    }

    /// Every live mount that this user may speak to.
    pub fn of_all_mounts() -> Vec<Client> {
        socket::all().iter().filter_map(|path| Client::live(path)).collect()
    }

    /// The mount that process `pid` serves. No other mount is asked anything: one that hangs would hold
    /// us up.
    pub fn of_process(pid: u32) -> Option<Client> {
        Client::of_all_mounts()
            .into_iter()
            .find(|client| socket::server_of(client.reading.get_ref()) == Some(pid))
    }

    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Client { reading: BufReader::new(stream) })
    }

    /// As [`Self::connect`]; removes what a killed mount left behind.
    fn live(path: &Path) -> Option<Client> {
        match Client::connect(path) {
            Ok(client) => Some(client),
            Err(ControlError::Unreachable(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                remove_leftover(path.to_path_buf());
                None
            }
            Err(e) => {
                log::debug!("{}: {e}", path.display());
                None
            }
        }
    }

    pub fn status(&mut self) -> Result<MountStatus> {
        self.status_within(SILENCE_MAX)
    }

    /// As [`Self::status`], for those who would rather know that there is no answer than wait for it.
    pub fn status_within(&mut self, patience: Duration) -> Result<MountStatus> {
        self.reading.get_ref().set_read_timeout(Some(patience))?;
        let answer = self.ask(&Request::Status).map_err(|error| self.name_silence(error, patience));
        self.reading.get_ref().set_read_timeout(Some(SILENCE_MAX))?;
        match answer? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// A time-out as what it means.
    fn name_silence(&self, error: ControlError, patience: Duration) -> ControlError {
        use io::ErrorKind::{TimedOut, WouldBlock};
        match error {
            ControlError::Unreachable(error) if matches!(error.kind(), TimedOut | WouldBlock) => {
                let process = socket::server_of(self.reading.get_ref());
                let process = process
                    .map_or("a mount".to_owned(), |pid| format!("the mount of process {pid}"));
                ControlError::Silent { process, patience }
            }
            other => other,
        }
    }

    /// Returns once everything is in the bucket; `progress` hears how far it is.
    pub fn drain(&mut self, mut progress: impl FnMut(DrainProgress)) -> Result<()> {
        self.send(&Request::Drain)?;
        loop {
            match self.receive()? {
                Response::Progress(how_far) => progress(how_far),
                Response::Done => return Ok(()),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// One question whose answer may take as long as it takes.
    pub fn ask_patiently(&mut self, request: &Request) -> Result<Response> {
        self.reading.get_ref().set_read_timeout(None)?;
        let answer = self.ask(request);
        self.reading.get_ref().set_read_timeout(Some(SILENCE_MAX))?;
        answer
    }

    /// One question, one answer. A refusal is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        self.send(request)?;
        self.receive()
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let mut line =
            serde_json::to_vec(request).map_err(|e| ControlError::Garbled(e.to_string()))?;
        line.push(b'\n');
        Ok(self.reading.get_mut().write_all(&line)?)
    }

    fn receive(&mut self) -> Result<Response> {
        let mut line = String::new();
        if self.reading.read_line(&mut line)? == 0 {
            let gone = io::Error::new(io::ErrorKind::UnexpectedEof, "its process has ended");
            return Err(ControlError::Unreachable(gone));
        }
        match serde_json::from_str(&line) {
            Ok(Response::Refused(why)) => Err(ControlError::Refused(why)),
            Ok(response) => Ok(response),
            Err(e) => Err(ControlError::Garbled(e.to_string())),
        }
    }
}

fn remove_leftover(path: PathBuf) {
    if let Err(e) = std::fs::remove_file(&path) {
        log::debug!("{}: {e}", path.display());
    }
}

/// For an answer that does not fit the question.
pub fn unexpected(response: &Response) -> ControlError {
    ControlError::Garbled(format!("{response:?}"))
}
