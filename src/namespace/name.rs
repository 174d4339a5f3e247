//! Which keys can be names, and the key of a name. Everything here is pure arithmetic on bytes.
//!
//! A directory is known by its prefix: the empty key for the bucket's root, otherwise a key that ends
//! in `/`. Below a prefix, a key without a further `/` is a file, one whose only `/` is its last byte
//! is a directory's marker. Keys that cannot be POSIX names (`a//b`, `a/./b`, `a/../b`, a leading `/`,
//! NUL, a segment over 255 bytes) are never shown, never addressed, and counted.
//!
//! A name is the segment of its key, everywhere but towards the kernel: see [`super::escape`] for names that are
//! not UTF-8.

use std::collections::HashMap;

use super::escape;
use crate::lock::{Mutex, rank};
use crate::store::Key;

/// The longest name in bytes, as Linux has it (NAME_MAX).
pub const NAME_BYTES_MAX: usize = 255;
/// The longest key in bytes, as S3 has it.
pub const KEY_BYTES_MAX: usize = 1024;
/// What Hadoop and S3Fox append to a directory's name to make its marker.
pub const FOLDER_SUFFIX: &[u8] = b"_$folder$";

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, `.`, `..`, or with a `/` or NUL in it. Do: EINVAL.
    #[error("not a name")]
    Invalid,
    /// Over 255 bytes, or its key is over 1,024. Do: ENAMETOOLONG.
    #[error("the name or its key is too long")]
    TooLong,
    /// Not UTF-8, or an escape that no name is written with. Do: EILSEQ.
    #[error("the key is not UTF-8, or not what any name is written as")]
    NotUtf8,
}

/// Whether the bytes can be the name of a directory entry, as a segment of its key.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() || name == b"." || name == b".." {
        return Err(NameError::Invalid);
    }
    if name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(NameError::Invalid);
    }
    match escape::to_name(name) {
        None => Err(NameError::NotUtf8),
        Some(shown) if shown.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        Some(_) => Ok(()),
    }
}

/// The key of the file `name` in the directory `dir`.
pub fn file_key(dir: &Key, name: &[u8]) -> Result<Key, NameError> {
    check_name(name)?;
    within_limit(dir.join(name))
}

/// The prefix of the directory `name` in the directory `dir`, which is also its marker's key.
pub fn directory_key(dir: &Key, name: &[u8]) -> Result<Key, NameError> {
    check_name(name)?;
    let mut bytes = Vec::with_capacity(dir.as_bytes().len() + name.len() + 1);
    bytes.extend_from_slice(dir.as_bytes());
    bytes.extend_from_slice(name);
    bytes.push(b'/');
    within_limit(Key::new(bytes))
}

fn within_limit(key: Key) -> Result<Key, NameError> {
    match key.as_bytes() {
        bytes if bytes.len() > KEY_BYTES_MAX => Err(NameError::TooLong),
        bytes if std::str::from_utf8(bytes).is_err() => Err(NameError::NotUtf8),
        _ => Ok(key),
    }
}

/// The directory that holds `key`, and the key's name in it (without a trailing `/`). `None` for the
/// root.
pub fn split(key: &Key) -> Option<(Key, &[u8])> {
    let bytes = key.as_bytes();
    let trimmed = bytes.strip_suffix(b"/").unwrap_or(bytes);
    if trimmed.is_empty() {
        return None;
    }
    let start = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    Some((Key::new(&trimmed[..start]), &trimmed[start..]))
}

/// What a key of a listing is below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below<'a> {
    /// The directory's own marker.
    Itself,
    File(&'a [u8]),
    /// A marker or a common prefix; the name without its `/`.
    Directory(&'a [u8]),
    /// Cannot be a name, or is outside the directory.
    Hidden,
}

/// What `key`, an object or a common prefix that was listed, is in the directory `dir`.
pub fn below<'a>(dir: &Key, key: &'a Key) -> Below<'a> {
    let Some(rest) = key.as_bytes().strip_prefix(dir.as_bytes()) else {
        return Below::Hidden;
    };
    if rest.is_empty() {
        return if dir.as_bytes().is_empty() { Below::Hidden } else { Below::Itself };
    }
    let (name, directory) = match rest.strip_suffix(b"/") {
        Some(name) => (name, true),
        None => (rest, false),
    };
    match check_name(name) {
        Ok(()) if directory => Below::Directory(name),
        Ok(()) => Below::File(name),
        Err(_) => Below::Hidden,
    }
}

/// The directory's name where `name` is the marker that Hadoop and S3Fox write. A marker has none itself.
pub fn folder_marker(name: &[u8]) -> Option<&[u8]> {
    let stem = name.strip_suffix(FOLDER_SUFFIX)?;
    (check_name(stem).is_ok() && !stem.ends_with(FOLDER_SUFFIX)).then_some(stem)
}

/// How many keys are hidden because they cannot be names, by directory as last scanned.
///
/// A gauge, not a sum over scans: listing a directory twice does not count its keys twice.
#[derive(Default)]
pub struct HiddenKeys(Mutex<HashMap<Key, u64>, rank::HiddenKeys>);

/// Directories with hidden keys are rare; past this many the count stops growing, memory does too.
const HIDDEN_DIRECTORIES_MAX: usize = 10_000;

impl HiddenKeys {
    /// A scan of `dir` has ended and saw `count` keys that cannot be names.
    pub fn set(&self, dir: &Key, count: u64) {
        let mut directories = self.0.lock();
        if count == 0 {
            directories.remove(dir);
        } else if directories.len() < HIDDEN_DIRECTORIES_MAX || directories.contains_key(dir) {
            directories.insert(dir.clone(), count);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.lock().values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_posix_refuses_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert_eq!(check_name(name), Err(NameError::Invalid), "{name:?}");
        }
        assert_eq!(check_name(&[b'x'; 256]), Err(NameError::TooLong));
        for name in [&b" "[..], b"...", b"a+b%2F", b"\\", b"\n", "‛FF".as_bytes(), "😀".as_bytes()]
        {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
        assert_eq!(check_name(&[b'x'; 255]), Ok(()));
        assert_eq!(check_name("‛FF".repeat(255).as_bytes()), Ok(()), "255 bytes as it is shown");
        assert_eq!(check_name("‛FF".repeat(256).as_bytes()), Err(NameError::TooLong));
        assert_eq!(check_name(b"\xff\xfe"), Err(NameError::NotUtf8));
    }

    #[test]
    fn a_key_may_have_1024_bytes_and_no_more() {
        let dir = Key::new([&[b'd'; 254][..], b"/"].concat().repeat(4)); // 1,020 bytes
        assert!(file_key(&dir, b"1234").is_ok());
        assert_eq!(file_key(&dir, b"12345"), Err(NameError::TooLong));
        assert!(directory_key(&dir, b"123").is_ok());
        assert_eq!(directory_key(&dir, b"1234"), Err(NameError::TooLong));
    }

    #[test]
    fn a_key_that_is_not_utf8_is_refused_before_it_is_sent() {
        let dir = Key::from("d/");
        assert_eq!(file_key(&dir, b"a\xffb"), Err(NameError::NotUtf8));
        assert_eq!(directory_key(&dir, b"\xe9"), Err(NameError::NotUtf8));
        assert!(file_key(&dir, "é".as_bytes()).is_ok());
    }

    #[test]
    fn keys_that_cannot_be_names_are_hidden() {
        let dir = Key::from("d/");
        let of = |key: &str| match below(&dir, &Key::from(key)) {
            Below::Itself => "itself".to_owned(),
            Below::File(name) => format!("file {}", String::from_utf8_lossy(name)),
            Below::Directory(name) => format!("directory {}", String::from_utf8_lossy(name)),
            Below::Hidden => "hidden".to_owned(),
        };
        assert_eq!(of("d/"), "itself");
        assert_eq!(of("d/a"), "file a");
        assert_eq!(of("d/a/"), "directory a");
        for key in ["d//", "d/.", "d/..", "d/../", "d/./", "e/a", "d", "d/a\0"] {
            assert_eq!(of(key), "hidden", "{key}");
        }
        assert_eq!(below(&Key::default(), &Key::from("/")), Below::Hidden);
        assert_eq!(below(&Key::default(), &Key::from("")), Below::Hidden);
    }

    #[test]
    fn a_key_splits_into_its_directory_and_its_name() {
        let split = |key: &str| {
            let key = Key::from(key);
            split(&key)
                .map(|(dir, name)| (dir.to_string(), String::from_utf8_lossy(name).into_owned()))
        };
        assert_eq!(split(""), None);
        assert_eq!(split("a"), Some((String::new(), "a".into())));
        assert_eq!(split("a/"), Some((String::new(), "a".into())));
        assert_eq!(split("a/b"), Some(("a/".into(), "b".into())));
        assert_eq!(split("a/b/"), Some(("a/".into(), "b".into())));
    }

    #[test]
    fn a_second_scan_does_not_count_hidden_keys_twice() {
        let hidden = HiddenKeys::default();
        hidden.set(&Key::from("a/"), 2);
        hidden.set(&Key::from("b/"), 1);
        hidden.set(&Key::from("a/"), 2);
        assert_eq!(hidden.total(), 3);
        hidden.set(&Key::from("a/"), 0);
        assert_eq!(hidden.total(), 1);
    }

    #[test]
    fn hadoop_markers_name_their_directory() {
        assert_eq!(folder_marker(b"d_$folder$"), Some(&b"d"[..]));
        assert_eq!(folder_marker(b"_$folder$"), None);
        assert_eq!(folder_marker(b"d"), None);
        assert_eq!(folder_marker(b"d_$folder$_$folder$"), None);
    }
}
