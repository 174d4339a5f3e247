//! The file of the index: every change of the embedded store, one line each, in order.
//!
//! ```text
//! DIR/index      CCCCCCCC {"JSON": …}\n      the CRC-32C of the JSON text in hex, a space, the text
//! DIR/index.new  the next index while it is written; ignored at a start
//! ```
//!
//! The first line is `{"format":{"version":1}}`. Keys are JSON strings, so no key can break a line.
//!
//! Consistency: a change has happened once its line is in the file. Appending is one write.
//! Crash: a last line that is incomplete was never answered; it is cut off. A damaged line anywhere
//! else is an error, never a guess. The file is written anew, and renamed into place, at a start that
//! finds most of its lines outdated.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blobs::Piece;
use super::context::context;
use crate::checked::Sum;
use crate::private;

const FORMAT_VERSION: u32 = 1;

/// What a client may set on an object beside its bytes. Header values as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// User metadata, names in lower case and without `x-amz-meta-`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// As HTTP writes dates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_redirect: Option<String>,
    /// As x-amz-tagging has them; `None` where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// `None` is STANDARD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// x-amz-server-side-encryption, remembered: nothing is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    /// The MD5 of the client's key (SSE-C), without which the bytes are not given out. They are not encrypted either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_key_md5: Option<String>,
    /// Of an object in the archive: its bytes can be had all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
}

/// An object, or a part: they differ only in the attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Without quotes.
    pub etag: String,
    /// Bytes; the sum of the pieces.
    pub len: u64,
    /// Seconds since 1970.
    pub modified: i64,
    pub pieces: Vec<Piece>,
    #[serde(default)]
    pub attributes: Attributes,
    /// The CRC-32C of all of it; not known of what an older version has stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<u32>,
    /// Its id. `None`: it is called `null`, since the bucket kept no versions then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What is put in the place of an object that is deleted in a bucket that keeps versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// As an object's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since 1970.
    pub modified: i64,
}

/// Whether a bucket keeps versions, where that was ever said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Versioning {
    Enabled,
    /// What it has it keeps.
    Suspended,
}

impl Object {
    pub fn sum(&self) -> Option<Sum> {
        self.crc.map(|crc| Sum { crc, len: self.len })
    }
}

/// A multipart upload as it is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub key: String,
    /// Seconds since 1970.
    pub initiated: i64,
    #[serde(default)]
    pub attributes: Attributes,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    Format {
        version: u32,
    },
    CreateBucket {
        bucket: String,
        created: i64,
    },
    DeleteBucket {
        bucket: String,
    },
    Put {
        bucket: String,
        key: String,
        object: Object,
    },
    Delete {
        bucket: String,
        key: String,
        /// It is hidden behind this, where the bucket keeps versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        marker: Option<Marker>,
    },
    Begin {
        bucket: String,
        id: String,
        upload: Begun,
    },
    Part {
        bucket: String,
        id: String,
        number: u32,
        part: Object,
    },
    /// Ends the upload, and puts the object under its key.
    Complete {
        bucket: String,
        id: String,
        object: Object,
    },
    Abort {
        bucket: String,
        id: String,
    },
    Versioning {
        bucket: String,
        state: Versioning,
    },
    /// For good.
    DeleteVersion {
        bucket: String,
        key: String,
        version: Option<String>,
    },
}

/// The open file, at its end.
pub struct Records {
    path: PathBuf,
    file: File,
    /// Bytes; everything before this is whole lines.
    len: u64,
    /// Lines.
    count: u64,
    /// Set once an append failed and could not be taken back: nothing may follow a torn line.
    broken: bool,
}

impl Records {
    /// Opens the file (made if missing) and gives each record to `apply`, in order.
    pub fn open(path: &Path, mut apply: impl FnMut(Record)) -> io::Result<Records> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|error| context(error, &path.display().to_string()))?,
        };
        let (mut len, mut count) = (0, 0);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_last = len + line.len() == bytes.len();
            match decode(line) {
                Ok(Record::Format { version }) if version != FORMAT_VERSION => {
                    return Err(damaged(path, count, &format!("its format is {version}")));
                }
                Ok(record) => apply(record),
                Err(_) if is_last => {
                    log::warn!("{}: the last line is incomplete; cut off", path.display());
                    break;
                }
                Err(problem) => return Err(damaged(path, count, &problem)),
            }
            len += line.len();
            count += 1;
        }
        let file = private::file_options().create(true).append(true).open(path)?;
        private::tighten(&file)?;
        file.set_len(len as u64)?;
        let mut records =
            Records { path: path.to_owned(), file, len: len as u64, count, broken: false };
        if count == 0 {
            records.append(&[Record::Format { version: FORMAT_VERSION }])?;
        }
        Ok(records)
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds lines with one write. On an error none of them is there.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the index could not be written before"));
        }
        let mut lines = Vec::new();
        for record in records {
            encode(record, &mut lines)?;
        }
        if let Err(error) = self.file.write_all(&lines) {
            self.broken = self.file.set_len(self.len).is_err();
            return Err(context(error, &self.path.display().to_string()));
        }
        self.len += lines.len() as u64;
        self.count += records.len() as u64;
        Ok(())
    }

    /// Puts a file with these records only in the place of this one.
    pub fn rewrite(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let new_path = self.path.with_extension("new");
        let mut new = BufWriter::new(
            private::file_options().write(true).create(true).truncate(true).open(&new_path)?,
        );
        let (mut line, mut len, mut count) = (Vec::new(), 0, 0);
        let format = Record::Format { version: FORMAT_VERSION };
        for record in std::iter::once(format).chain(records) {
            line.clear();
            encode(&record, &mut line)?;
            new.write_all(&line)?;
            len += line.len() as u64;
            count += 1;
        }
        // On the disk before it takes the place of the file that is.
        new.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new_path, &self.path)?;
        self.file = private::file_options().append(true).open(&self.path)?;
        (self.len, self.count) = (len, count);
        Ok(())
    }
}

fn damaged(path: &Path, line: u64, problem: &str) -> io::Error {
    let text = format!("{}: line {} is damaged: {problem}", path.display(), line + 1);
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn checksum(text: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text)
}

fn encode(record: &Record, lines: &mut Vec<u8>) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    write!(lines, "{:08x} ", checksum(&text))?;
    lines.extend_from_slice(&text);
    lines.push(b'\n');
    Ok(())
}

fn decode(line: &[u8]) -> Result<Record, String> {
    let line = line.strip_suffix(b"\n").ok_or("it has no end")?;
    let (sum, text) = line.split_at_checked(9).ok_or("it is too short")?;
    let sum = std::str::from_utf8(&sum[..8]).ok().and_then(|sum| u64::from_str_radix(sum, 16).ok());
    if sum != Some(checksum(text)) {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Record {
        Record::Delete { bucket: "bucket".to_owned(), key: key.to_owned(), marker: None }
    }

    fn read(path: &Path) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        Records::open(path, |record| found.push(record))?;
        found.remove(0);
        Ok(found)
    }

    #[test]
    fn truncated_anywhere_it_keeps_the_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut records = Records::open(&path, |_| {}).unwrap();
        let start = records.len;
        records.append(&[put("a\nb"), put("c")]).unwrap();
        let bytes = fs::read(&path).unwrap();
        let first_end = start as usize
            + 1
            + bytes[start as usize..].iter().position(|byte| *byte == b'\n').unwrap();
        for len in start as usize..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            let expected = if len < first_end { vec![] } else { vec![put("a\nb")] };
            assert_eq!(read(&path).unwrap(), expected, "{len}");
            // The torn line is gone: what follows can be read again.
            Records::open(&path, |_| {}).unwrap().append(&[put("d")]).unwrap();
            assert_eq!(read(&path).unwrap().last(), Some(&put("d")));
        }
    }

    #[test]
    fn a_flipped_bit_in_the_middle_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut records = Records::open(&path, |_| {}).unwrap();
        let start = records.len as usize;
        records.append(&[put("a"), put("b")]).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[start + 12] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn rewritten_it_holds_only_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut records = Records::open(&path, |_| {}).unwrap();
        records.append(&[put("a"), put("b")]).unwrap();
        records.rewrite([put("b")].into_iter()).unwrap();
        records.append(&[put("c")]).unwrap();
        assert_eq!(read(&path).unwrap(), [put("b"), put("c")]);
    }
}
