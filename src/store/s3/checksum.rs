//! The checksum that goes with a body: the store refuses bytes that changed on their way, and what it answers is
//! compared with what was sent.
//!
//! A sum is taken of what was handed in for sending, before anything is sent. What changes it in this machine's memory
//! before that is not seen here.

use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use http::header::{HeaderMap, HeaderName};
use md5::{Digest as _, Md5};

use super::headers;
use crate::blocking;
use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, PartBody, Result, StoreError, Summed};

pub(super) const CRC64_NVME: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const ENCRYPTION: &str = "x-amz-server-side-encryption";
const CUSTOMER_KEY: &str = "x-amz-server-side-encryption-customer-algorithm";
/// What an object was made by: `Normal`, where by one PUT.
const OBJECT_TYPES: [&str; 2] = ["x-oss-object-type", "x-tos-object-type"];

/// Bytes that are summed at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Longer bodies are summed where they do not hold up other requests.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// What a store verifies bodies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Content-MD5, which all know.
    Md5,
    /// x-amz-checksum-crc64nvme: costs a thirtieth, and few know it.
    Crc64Nvme,
}

enum Digest {
    Md5(Md5),
    Crc64Nvme(Box<crc_fast::Digest>),
}

impl Digest {
    fn new(checksum: Checksum) -> Digest {
        match checksum {
            Checksum::Md5 => Digest::Md5(Md5::new()),
            Checksum::Crc64Nvme => Digest::Crc64Nvme(Box::new(crc_fast::Digest::new(Crc64Nvme))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Digest::Md5(digest) => digest.update(bytes),
            Digest::Crc64Nvme(digest) => digest.update(bytes),
        }
    }

    fn finish(self) -> Sum {
        match self {
            Digest::Md5(digest) => {
                Sum { checksum: Checksum::Md5, bytes: digest.finalize().to_vec() }
            }
            Digest::Crc64Nvme(digest) => {
                let bytes = digest.finalize().to_be_bytes().to_vec();
                Sum { checksum: Checksum::Crc64Nvme, bytes }
            }
        }
    }
}

/// The checksum of one body.
pub struct Sum {
    pub(super) checksum: Checksum,
    bytes: Vec<u8>,
}

impl Sum {
    /// `None` of an empty body. One that is read while it is sent is read once more for this.
    pub async fn of(
        checksum: Checksum,
        operation: &'static str,
        body: &PartBody,
    ) -> Result<Option<Sum>> {
        let failed = |err: std::io::Error| {
            StoreError::new(ErrorKind::Invalid, operation, format!("cannot read the body: {err}"))
        };
        if body.is_empty() {
            return Ok(None);
        }
        let source = match body {
            PartBody::Whole(Summed { bytes, .. }) if bytes.len() <= INLINE_BYTES_MAX => {
                return Ok(Some(of_bytes(checksum, bytes)));
            }
            PartBody::Whole(Summed { bytes, .. }) => {
                let bytes: Bytes = bytes.clone();
                let summed = blocking::run(move || of_bytes(checksum, &bytes)).await;
                return summed.map(Some).map_err(|err| failed(std::io::Error::other(err)));
            }
            PartBody::Read(source, _) => source,
        };
        let mut digest = Digest::new(checksum);
        let whole = ByteRange::new(0, source.len());
        let mut at = 0;
        while at < whole.end() {
            let piece = ByteRange::at(at, PIECE_BYTES).intersect(&whole);
            let bytes = source.read(piece).await.map_err(failed)?;
            if bytes.is_empty() {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            digest.update(&bytes);
            at += bytes.len() as u64;
            tokio::task::yield_now().await;
        }
        Ok(Some(digest.finish()))
    }

    /// Adds the header that carries it.
    pub fn put(&self, operation: &'static str, headers: &mut HeaderMap) -> Result<()> {
        let name = match self.checksum {
            Checksum::Md5 => CONTENT_MD5,
            Checksum::Crc64Nvme => CRC64_NVME,
        };
        headers.insert(name, headers::value(operation, &self.text())?);
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        BASE64.encode(&self.bytes)
    }

    /// Whether an ETag is this sum: `None` where it is no MD5, as far as can be seen.
    pub(super) fn is(&self, etag: &ETag, answer: &HeaderMap) -> Option<bool> {
        md5_in(etag, answer).map(|md5| self.bytes == md5)
    }
}

/// The MD5 of the bytes that an answer is about, where the ETag can be that, as far as can be seen.
pub(super) fn md5_in(etag: &ETag, answer: &HeaderMap) -> Option<[u8; 16]> {
    let text = etag.as_str();
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    // The ETag of what is encrypted with a key that is not the store's own is a digest of something else, and that
    // of what was appended to (OSS, TOS) of nothing.
    let encryption = headers::text(answer, ENCRYPTION);
    let is_appended = OBJECT_TYPES
        .iter()
        .any(|name| headers::text(answer, name).is_some_and(|object_type| object_type != "Normal"));
    if encryption.is_some_and(|by| by != "AES256")
        || answer.contains_key(CUSTOMER_KEY)
        || is_appended
    {
        return None;
    }
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

fn of_bytes(checksum: Checksum, bytes: &[u8]) -> Sum {
    let mut digest = Digest::new(checksum);
    digest.update(bytes);
    digest.finish()
}

/// What is known of the checksums of a store at hand.
#[derive(Default)]
pub struct Known {
    /// It answered a CRC64NVME as if there were none: it may not have looked at it.
    pub(super) crc_ignored: AtomicBool,
    /// The ETag of an object, and of a part, was the MD5 of what was sent. A store may have others that look like one.
    pub(super) md5_of_object: AtomicBool,
    pub(super) md5_of_part: AtomicBool,
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn sums_are_sent_in_the_form_that_stores_verify() {
        let sent = |checksum| {
            let mut headers = HeaderMap::new();
            of_bytes(checksum, b"hello").put("PutObject", &mut headers).unwrap();
            headers
        };
        assert_eq!(sent(Checksum::Md5)[CONTENT_MD5], "XUFAKrxLKna5cZ2REBfFkg==");
        assert_eq!(sent(Checksum::Crc64Nvme)[CRC64_NVME], "M3eFcAZSQlc=");
    }

    #[test]
    fn only_an_etag_that_can_be_the_md5_is_compared() {
        let sum = of_bytes(Checksum::Md5, b"hello");
        let (plain, mut kms) = (HeaderMap::new(), HeaderMap::new());
        kms.insert(ENCRYPTION, HeaderValue::from_static("aws:kms"));
        let (same, other) =
            ("5D41402abc4b2a76b9719d911017c592", "0d41402abc4b2a76b9719d911017c592");
        assert_eq!(sum.is(&ETag::new(same), &plain), Some(true));
        assert_eq!(sum.is(&ETag::new(other), &plain), Some(false));
        assert_eq!(sum.is(&ETag::new(other), &kms), None);
        assert_eq!(sum.is(&ETag::new(&format!("{same}-2")), &plain), None);
        let mut appended = HeaderMap::new();
        appended.insert("x-oss-object-type", HeaderValue::from_static("Appendable"));
        assert_eq!(sum.is(&ETag::new(other), &appended), None);
        appended.insert("x-oss-object-type", HeaderValue::from_static("Normal"));
        assert_eq!(sum.is(&ETag::new(other), &appended), Some(false));
    }
}
