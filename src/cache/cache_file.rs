//! A cache file: opened to be read; or to be written, around the kernel's page cache, or through it.
//!
//! What has the file's name is not trusted to be it: a pipe, a folder or a link is none, and is neither followed nor
//! waited for.
//!
//! Around (O_DIRECT) the bytes cost neither a copy nor a page: 0.05 CPU seconds a GiB instead of 0.2, and of
//! 2.4 in a virtual machine whose host has taken unused memory back. It asks for a disk that keeps up, since
//! nothing but our memory buffers it; and the first to read the file again reads the disk. So only the bytes of
//! large objects go direct, and when many of them wait the route that was faster lately takes them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::residency::FileId;
use super::stamp::Stamps;
use crate::disk::{self, File, Metadata, OpenOptions};
use crate::journal::{FileStamp, ObjectId};

/// What O_DIRECT wants memory, offset and length to be multiples of: the largest block of common disks.
const ALIGNMENT: usize = 4096;

/// From this length on the space of a write is reserved first: the file system then takes the bytes in large
/// pieces instead of finding room block by block (ext4: 50 ms instead of 80 for 512 MiB); for shorter ones the
/// call costs more than it saves.
const RESERVED_BYTES_MIN: usize = 256 << 10;

/// Which way bytes take to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Straight to the disk, where bytes, file system and disk allow it; else through the page cache.
    Direct,
    Buffered,
}

/// How fast writes were lately, in bytes a second. Neither route is always the faster: a disk may be slow or have
/// a bad moment, and fresh pages for the page cache can cost more than any disk.
#[derive(Default)]
pub(super) struct Speeds {
    direct: Option<f64>,
    buffered: Option<f64>,
}

impl Speeds {
    /// Shorter writes say more about system calls than about speed.
    const BYTES_MIN: usize = 256 << 10;

    /// The weight of the latest write: a few of them outweigh all before.
    const LATEST: f64 = 0.25;

    pub(super) fn note(&mut self, route: Route, bytes: usize, took: Duration) {
        if bytes < Speeds::BYTES_MIN {
            return;
        }
        let latest = bytes as f64 / took.as_secs_f64().max(1e-9);
        let speed = match route {
            Route::Direct => &mut self.direct,
            Route::Buffered => &mut self.buffered,
        };
        *speed = Some(speed.map_or(latest, |old| old + Speeds::LATEST * (latest - old)));
    }

    /// The route that was faster lately; one that is not known yet is tried.
    pub(super) fn faster(&self) -> Route {
        match (self.direct, self.buffered) {
            (Some(direct), Some(buffered)) if direct >= buffered => Route::Direct,
            (None, Some(_)) => Route::Direct,
            _ => Route::Buffered,
        }
    }
}

/// A cache file, to be read by [`super::check`].
pub(super) struct OpenFile {
    file: File,
    id: FileId,
}

impl OpenFile {
    /// The file at `path`, no longer than `len` bytes: what lies behind them is cut off.
    ///
    /// # Errors
    /// `NotFound` where there is none, or something that is no file.
    pub(super) fn open(path: &Path, len: u64) -> io::Result<OpenFile> {
        let (file, found) = open_file(OpenOptions::new().read(true), path)?;
        let id = FileId::of(&found);
        if found.len() > len {
            let (to_cut, again) = open_file(OpenOptions::new().write(true), path)?;
            if FileId::of(&again) == id {
                log::warn!("{}: longer than its object, cut", path.display());
                to_cut.set_len(len)?;
            }
        }
        Ok(OpenFile { file, id })
    }

    /// Which file it is.
    pub(super) fn id(&self) -> FileId {
        self.id
    }

    /// For functions that compare what they read.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Opens what is a file and nothing else.
fn open_file(options: &mut OpenOptions, path: &Path) -> io::Result<(File, Metadata)> {
    let file = match options.custom_flags(libc::O_NOFOLLOW).open(path) {
        // A folder or a pipe, to be written to; a socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::ENXIO)) => {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Any other pipe.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(io::ErrorKind::NotFound.into());
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    if found.is_file() { Ok((file, found)) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// How a file that is being written is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Good,
    /// Not as long as its object: what was behind the cut is lost.
    Cut,
    /// Deleted, though it is still open here.
    Deleted,
}

pub(super) struct CacheFile {
    id: ObjectId,
    file_id: FileId,
    path: PathBuf,
    buffered: File,
    direct: DirectFile,
}

/// The same file, opened with O_DIRECT.
enum DirectFile {
    Untried,
    Open(File),
    /// The file system or the disk does not have it.
    Refused,
}

impl CacheFile {
    /// The file at `path`, which is there.
    ///
    /// # Errors
    /// `NotFound` where there is none, or something that is no file.
    pub(super) fn open(id: ObjectId, path: PathBuf) -> io::Result<CacheFile> {
        let (buffered, found) = open_file(OpenOptions::new().write(true), &path)?;
        Ok(CacheFile {
            id,
            file_id: FileId::of(&found),
            path,
            buffered,
            direct: DirectFile::Untried,
        })
    }

    /// A new file at `path`, `len` bytes long. One that is there goes: no record can name it.
    pub(super) fn create(id: ObjectId, path: PathBuf, len: u64) -> io::Result<CacheFile> {
        let create =
            |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let buffered = create(&path).or_else(|error| {
            match error.kind() {
                io::ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), disk::create_dir_all)?;
                }
                io::ErrorKind::AlreadyExists => disk::remove_file(&path)?,
                _ => return Err(error),
            }
            create(&path)
        })?;
        buffered.set_len(len)?;
        let file_id = FileId::of(&buffered.metadata()?);
        Ok(CacheFile { id, file_id, path, buffered, direct: DirectFile::Untried })
    }

    pub(super) fn id(&self) -> ObjectId {
        self.id
    }

    /// Which file it is.
    pub(super) fn file_id(&self) -> FileId {
        self.file_id
    }

    /// Whether it still is what it was made: `len` bytes long, and there.
    pub(super) fn condition(&self, len: u64) -> io::Result<Condition> {
        let found = self.buffered.metadata()?;
        Ok(match found.nlink() {
            0 => Condition::Deleted,
            _ if found.len() != len => Condition::Cut,
            _ => Condition::Good,
        })
    }

    /// Its stamp as it is now.
    pub(super) fn stamp(&self, stamps: &Stamps) -> Option<FileStamp> {
        stamps.now(&self.buffered)
    }

    /// Makes it `len` bytes long.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.buffered.set_len(len)
    }

    /// Writes all of the bytes at the offset. Returns the way that they took, but for a last incomplete block.
    ///
    /// # Errors
    /// The file system's; nothing is known then of what was written.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, route: Route) -> io::Result<Route> {
        let direct = match route {
            Route::Direct => self.write_direct(bytes, offset)?,
            Route::Buffered => 0,
        };
        let rest = &bytes[direct..];
        if !rest.is_empty() {
            self.write_buffered(rest, offset + direct as u64)?;
        }
        Ok(if direct > 0 { Route::Direct } else { Route::Buffered })
    }

    fn open_direct(&self) -> DirectFile {
        let flags = libc::O_DIRECT | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(&self.path);
        let is_this =
            |file: &File| file.metadata().is_ok_and(|found| FileId::of(&found) == self.file_id);
        opened.ok().filter(is_this).map_or(DirectFile::Refused, DirectFile::Open)
    }

    /// Writes what of the bytes can go around the page cache, and says how many of them that were, from the
    /// first on.
    fn write_direct(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        let whole = bytes.len() / ALIGNMENT * ALIGNMENT;
        if !aligned || whole == 0 {
            return Ok(0);
        }
        if matches!(self.direct, DirectFile::Untried) {
            self.direct = self.open_direct();
        }
        let DirectFile::Open(file) = &self.direct else { return Ok(0) };
        match file.write_all_at(&bytes[..whole], offset) {
            Ok(()) => Ok(whole),
            // What a disk with larger blocks says.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.direct = DirectFile::Refused;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    fn write_buffered(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.len() >= RESERVED_BYTES_MIN {
            self.reserve(bytes.len(), offset)?;
        }
        self.buffered.write_all_at(bytes, offset)
    }

    /// A file system that cannot reserve can still be written to. A full one says so here already.
    fn reserve(&self, len: usize, offset: u64) -> io::Result<()> {
        match self.buffered.allocate(offset, len as u64) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

    const LEN: u64 = 3 << 20;

    fn filled(len: usize) -> Buffer {
        let mut buffer = Buffer::zeroed(len).unwrap();
        buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + at / 4096) as u8);
        buffer
    }

    #[test]
    fn bytes_come_back_whichever_way_they_took() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xx/file");
        let mut file = CacheFile::create(1, path.clone(), LEN).unwrap();
        let bytes = filled(LEN as usize);
        // Aligned with a rest, not aligned in memory, not aligned in the file, and through the page cache
        // between two that go around it.
        let cuts = [0, 1_000_000, 1_003_520, 2_000_000, 2_097_152, 2_500_000, LEN as usize];
        for (nth, cut) in cuts.windows(2).enumerate() {
            let route = if nth == 4 { Route::Buffered } else { Route::Direct };
            file.write(&bytes[cut[0]..cut[1]], cut[0] as u64, route).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == bytes[..]);
    }

    #[test]
    fn what_waits_takes_the_route_that_was_faster_lately() {
        const MIB: usize = 1 << 20;
        let mut speeds = Speeds::default();
        assert_eq!(speeds.faster(), Route::Buffered);
        speeds.note(Route::Direct, MIB, Duration::from_millis(1));
        assert_eq!(speeds.faster(), Route::Buffered, "it is not known yet");
        speeds.note(Route::Buffered, MIB, Duration::from_millis(2));
        assert_eq!(speeds.faster(), Route::Direct);
        // A bad moment of the disk, and a good one.
        (0..8).for_each(|_| speeds.note(Route::Direct, MIB, Duration::from_millis(20)));
        assert_eq!(speeds.faster(), Route::Buffered);
        (0..8).for_each(|_| speeds.note(Route::Direct, MIB, Duration::from_millis(1)));
        assert_eq!(speeds.faster(), Route::Direct);
    }

    #[test]
    fn a_file_is_as_long_as_its_object_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        CacheFile::create(1, path.clone(), LEN).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), LEN);
    }
}
