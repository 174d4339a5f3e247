//! File attributes as user metadata, in the form that s3fs reads and writes; `mtime` also as rclone
//! does. Pure.
//!
//! | header (`x-amz-meta-…`) | value |
//! |---|---|
//! | `mode` | decimal `st_mode` with its type bits: 33188 is a file of 0644 (octal, as `rclone --metadata` writes it, is read too) |
//! | `uid`, `gid` | decimal |
//! | `mtime` | decimal seconds, and where the nanoseconds are not 0, a point and nine digits |
//! | `xattr` | percent-encoded JSON object of names and Base64 values |
//! | `ratchetfs-mark` | which write this is (see [`crate::store::Mark`]): no attribute of the file |
//!
//! Nine digits are what both peers read exactly: rclone reads a decimal fraction, s3fs reads the digits
//! behind the point as a whole number of nanoseconds. A shorter fraction, as rclone writes, is read as
//! the fraction that it is. A symlink's target is its object's body, as in s3fs. `ctime` and `atime`,
//! like every other header, are kept as they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::xattr;
use crate::lock::{Mutex, rank};
use crate::store::{
    Carried, ListedObject, MARK, METADATA_BYTES_MAX, Metadata, ObjectHead, Storage, WriteOptions,
};

/// The content type of a directory's marker (s3fs, Nextcloud and others look for it).
pub const DIRECTORY_CONTENT_TYPE: &str = "application/x-directory";

const TYPE_MASK: u32 = 0o170_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_FIFO: u32 = 0o010_000;
const TYPE_SOCKET: u32 = 0o140_000;
/// Permissions, set-id bits and the sticky bit.
const MODE_MASK: u32 = 0o7777;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// A named pipe: an empty object whose mode says so; the kernel does the rest.
    Fifo,
    /// A socket's name, likewise.
    Socket,
}

impl Kind {
    pub const ALL: [Kind; 5] =
        [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket];

    /// From the type bits of an `st_mode`; `None` for devices and nonsense.
    pub fn from_type_bits(st_mode: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_bits() == st_mode & TYPE_MASK)
    }

    /// The `st_mode` type bits.
    pub fn type_bits(self) -> u32 {
        match self {
            Kind::File => TYPE_FILE,
            Kind::Directory => TYPE_DIRECTORY,
            Kind::Symlink => TYPE_SYMLINK,
            Kind::Fifo => TYPE_FIFO,
            Kind::Socket => TYPE_SOCKET,
        }
    }
}

/// What objects get that say nothing of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub file_mode: u32,
    /// Permission bits.
    pub dir_mode: u32,
}

/// How much of what an object carries its attributes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    /// What a listing shows; the rest is assumed.
    Listing,
    /// All of its metadata, but not its type and what else it carries.
    Metadata,
    All,
}

/// What `stat`, `readlink` and `getxattr` say of an object, beside its length.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    pub kind: Kind,
    pub told: Told,
    /// Permission, set-id and sticky bits, without the type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: SystemTime,
    /// One for all copies, and for all objects that [`super::attribute_cache`] finds to have the same.
    ///
    /// Invariant: it is not empty.
    pub(super) extra: Option<Arc<Extra>>,
}

/// What an object may have beside. Most have a content type alone, and it is the same for many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extra {
    /// A symlink's target, where its body has been read.
    pub target: Option<Vec<u8>>,
    /// By full name, such as `user.comment`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Headers that are not ours, by name, kept untouched through every rewrite. Objects that s3fs wrote have two.
    pub foreign: Vec<(String, String)>,
    pub content_type: Option<String>,
    /// `None`: nothing, or, where the attributes do not tell all, unknown.
    pub carried: Option<Arc<Carried>>,
}

static NOTHING: Extra = Extra {
    target: None,
    xattrs: BTreeMap::new(),
    foreign: Vec::new(),
    content_type: None,
    carried: None,
};

static DIRECTORY: LazyLock<Arc<Extra>> =
    LazyLock::new(|| Arc::new(Extra::of_type(DIRECTORY_CONTENT_TYPE.to_owned())));

/// What new files have, by their type.
static TYPED: LazyLock<Mutex<HashMap<&'static str, Arc<Extra>>, rank::SharedAttributes>> =
    LazyLock::new(Mutex::default);

impl Extra {
    pub fn of_type(content_type: String) -> Extra {
        Extra { content_type: Some(content_type), ..Extra::default() }
    }

    /// How the store keeps the object, as far as it is known.
    pub fn storage(&self) -> Storage {
        self.carried.as_deref().map(|carried| carried.storage.clone()).unwrap_or_default()
    }

    pub fn carry(&mut self, carried: Carried) {
        self.carried = (!carried.is_nothing()).then(|| Arc::new(carried));
    }

    /// Nothing is its own: many objects may have the same.
    pub(super) fn is_common(&self) -> bool {
        self.target.is_none() && self.xattrs.is_empty() && self.foreign.is_empty()
    }
}

/// The attributes do not fit into the store's 2 KiB of metadata. Do: ENOSPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attributes need {bytes} bytes of metadata and the store keeps {METADATA_BYTES_MAX}")]
pub struct NoSpace {
    pub bytes: usize,
}

impl Attributes {
    /// A new object's attributes.
    pub fn new(kind: Kind, mode: u32, uid: u32, gid: u32, mtime: SystemTime) -> Attributes {
        Attributes {
            kind,
            told: Told::All,
            mode: mode & MODE_MASK,
            uid,
            gid,
            mtime,
            extra: (kind == Kind::Directory).then(|| DIRECTORY.clone()),
        }
    }

    pub fn extra(&self) -> &Extra {
        self.extra.as_deref().unwrap_or(&NOTHING)
    }

    /// Of a file. One for all that have nothing beside.
    pub fn set_content_type(&mut self, content_type: &'static str) {
        if self.extra.is_some() {
            return self.change_extra(|extra| extra.content_type = Some(content_type.to_owned()));
        }
        let mut typed = TYPED.lock();
        let extra = typed.entry(content_type);
        let extra = extra.or_insert_with(|| Arc::new(Extra::of_type(content_type.to_owned())));
        self.extra = Some(extra.clone());
    }

    /// Changes what these attributes, and no copy of them, have beside.
    pub fn change_extra<T>(&mut self, change: impl FnOnce(&mut Extra) -> T) -> T {
        let mut extra = self.extra.take().unwrap_or_default();
        let changed = change(Arc::make_mut(&mut extra));
        self.extra = (*extra != NOTHING).then_some(extra);
        changed
    }

    /// What an object's headers say. `marker` for a key that ends in `/` or in `_$folder$`, whatever
    /// its mode claims.
    pub fn from_head(head: &ObjectHead, marker: bool, defaults: &Defaults) -> Attributes {
        let mut metadata = head.metadata.clone();
        if marker {
            add_type_parameters(&mut metadata, head.content_type.as_deref());
        }
        let mut foreign = metadata.clone();
        // It belongs to the write, not to the file.
        foreign.remove(MARK);
        let st_mode = metadata.get("mode").and_then(|text| parse_mode(text));
        let kind = if marker { Kind::Directory } else { kind_of(head, st_mode) };
        let default_mode = match kind {
            Kind::File | Kind::Fifo | Kind::Socket => defaults.file_mode,
            Kind::Directory => defaults.dir_mode,
            Kind::Symlink => 0o777,
        };
        let mode = st_mode.map_or(default_mode, |mode| mode & MODE_MASK);
        let mtime = metadata.get("mtime").and_then(|text| parse_time(text));
        let xattrs = metadata.get("xattr").and_then(|text| xattr::decode(text));
        // What could be read is ours and written anew; what could not is another program's and stays.
        for (name, read) in [
            ("mode", st_mode.is_some()),
            ("uid", number(&metadata, "uid").is_some()),
            ("gid", number(&metadata, "gid").is_some()),
            ("mtime", mtime.is_some()),
            ("xattr", xattrs.is_some()),
        ] {
            if read {
                foreign.remove(name);
            }
        }
        let mut attributes = Attributes {
            kind,
            told: Told::All,
            mode,
            uid: number(&metadata, "uid").unwrap_or(defaults.uid),
            gid: number(&metadata, "gid").unwrap_or(defaults.gid),
            mtime: mtime.unwrap_or(head.last_modified),
            extra: None,
        };
        attributes.change_extra(|extra| {
            extra.xattrs = xattrs.unwrap_or_default();
            extra.foreign = foreign.into_iter().collect();
            extra.content_type.clone_from(&head.content_type);
            extra.carry(head.carried.clone());
        });
        attributes
    }

    /// Takes from `all`, which tells all of the object, what these attributes do not tell. What may have been changed
    /// here since they were told stays as it is.
    pub fn complete(&mut self, all: &Attributes) {
        match self.told {
            Told::All => return,
            // A guess, of which nothing is worth keeping.
            Told::Listing if self.kind == all.kind => return self.clone_from(all),
            Told::Listing | Told::Metadata => {}
        }
        self.change_extra(|extra| {
            let Extra { content_type, carried, .. } = all.extra();
            extra.content_type.clone_from(content_type);
            extra.carried.clone_from(carried);
        });
        self.told = all.told;
    }

    /// What the listing alone can tell of a file.
    pub fn from_listing(object: &ListedObject, defaults: &Defaults) -> Attributes {
        let Defaults { uid, gid, file_mode, .. } = *defaults;
        let guessed = Attributes::new(Kind::File, file_mode, uid, gid, object.last_modified);
        Attributes { told: Told::Listing, ..guessed }
    }

    /// A directory without a marker.
    pub fn implicit_directory(mtime: SystemTime, defaults: &Defaults) -> Attributes {
        Attributes::new(Kind::Directory, defaults.dir_mode, defaults.uid, defaults.gid, mtime)
    }

    /// `st_mode`: type and permissions.
    pub fn st_mode(&self) -> u32 {
        self.kind.type_bits() | (self.mode & MODE_MASK)
    }

    /// What an object with these attributes is written with.
    pub fn to_write_options(&self) -> Result<WriteOptions, NoSpace> {
        let Extra { xattrs, foreign, content_type, carried, .. } = self.extra();
        let mut metadata: Metadata = foreign.iter().cloned().collect();
        metadata.insert("mode".to_owned(), self.st_mode().to_string());
        metadata.insert("uid".to_owned(), self.uid.to_string());
        metadata.insert("gid".to_owned(), self.gid.to_string());
        metadata.insert("mtime".to_owned(), format_time(self.mtime));
        if !xattrs.is_empty() {
            metadata.insert("xattr".to_owned(), xattr::encode(xattrs));
        }
        let bytes = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > METADATA_BYTES_MAX {
            return Err(NoSpace { bytes });
        }
        let directory = self.kind == Kind::Directory;
        let content_type =
            if directory { Some(DIRECTORY_CONTENT_TYPE.to_owned()) } else { content_type.clone() };
        let known = self.told == Told::All;
        let carried = known.then(|| carried.as_deref().cloned().unwrap_or_default());
        Ok(WriteOptions { metadata, content_type, carried })
    }
}

/// What [`Attributes`] are kept as, and the mark.
const HEADERS: [&str; 6] = ["mode", "uid", "gid", "mtime", "xattr", MARK];

/// A directory's content type with its attributes as parameters, for stores that keep no metadata of
/// objects whose key ends in `/`.
pub fn directory_type_with(metadata: &Metadata) -> String {
    let kept = HEADERS.iter().filter_map(|name| Some((name, metadata.get(*name)?)));
    kept.fold(DIRECTORY_CONTENT_TYPE.to_owned(), |text, (name, value)| {
        format!("{text}; {name}={value}")
    })
}

/// Reads what [`directory_type_with`] wrote, where the metadata itself does not say.
fn add_type_parameters(metadata: &mut Metadata, content_type: Option<&str>) {
    let Some((DIRECTORY_CONTENT_TYPE, parameters)) =
        content_type.and_then(|text| text.split_once(';'))
    else {
        return;
    };
    for (name, value) in parameters.split(';').filter_map(|pair| pair.split_once('=')) {
        let name = name.trim();
        if HEADERS.contains(&name) && !metadata.contains_key(name) {
            metadata.insert(name.to_owned(), value.trim().to_owned());
        }
    }
}

/// The type that an object's headers tell. Devices that s3fs wrote are files here: a bucket is no place
/// from which to open this machine's hardware.
fn kind_of(head: &ObjectHead, st_mode: Option<u32>) -> Kind {
    match st_mode.map(|mode| mode & TYPE_MASK) {
        Some(TYPE_SYMLINK) => Kind::Symlink,
        Some(TYPE_DIRECTORY) => Kind::Directory,
        Some(TYPE_FIFO) if head.len == 0 => Kind::Fifo,
        Some(TYPE_SOCKET) if head.len == 0 => Kind::Socket,
        Some(0) | None if is_directory_type(head) => Kind::Directory,
        _ => Kind::File,
    }
}

/// Old s3fs marks a directory by its content type alone, at a key without a `/`.
fn is_directory_type(head: &ObjectHead) -> bool {
    let Some(text) = &head.content_type else { return false };
    let mime = text.split(';').next().unwrap_or_default().trim();
    head.len == 0 && (mime == DIRECTORY_CONTENT_TYPE || mime == "httpd/unix-directory")
}

/// Reads `mode`: decimal as s3fs writes it, or octal as `rclone --metadata` does. The two can be told
/// apart because rclone's has a leading 0, or does not fit into sixteen bits when it is read as decimal,
/// or has then a type that does not exist.
fn parse_mode(text: &str) -> Option<u32> {
    let text = text.trim();
    let decimal = text.parse::<u32>().ok()?;
    let typed = matches!((decimal & TYPE_MASK) >> 12, 0 | 1 | 2 | 4 | 6 | 8 | 10 | 12);
    let plausible = decimal <= TYPE_MASK | MODE_MASK && typed && !text.starts_with('0');
    if plausible || decimal == 0 { Some(decimal) } else { u32::from_str_radix(text, 8).ok() }
}

fn number(metadata: &Metadata, name: &str) -> Option<u32> {
    metadata.get(name)?.trim().parse().ok()
}

/// Seconds since 1970 in decimal, with nine digits behind the point unless they are all 0. Times
/// before 1970 are negative decimal numbers, as rclone has them.
pub fn format_time(time: SystemTime) -> String {
    let (sign, distance) = match time.duration_since(UNIX_EPOCH) {
        Ok(distance) => ("", distance),
        Err(before) => ("-", before.duration()),
    };
    match distance.subsec_nanos() {
        0 => format!("{sign}{}", distance.as_secs()),
        nanos => format!("{sign}{}.{nanos:09}", distance.as_secs()),
    }
}

/// Reads what [`format_time`], rclone and s3fs write; `None` for anything else. Digits finer than a
/// nanosecond are cut off.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let distance = Duration::new(whole.parse().ok()?, nanos);
    if negative { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[cfg(test)]
mod tests;
