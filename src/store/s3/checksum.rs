//! The checksum that goes with a body: the store refuses bytes that changed on their way, and what it answers is
//! compared with what was sent.
//!
//! It is the sum that the bytes came with ([`PartBody::sum`]). No pass over them is made for it; where the store takes
//! MD5 alone, the pass that this needs compares them with their sum.

use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{HeaderMap, HeaderName};
use md5::{Digest as _, Md5};

use super::headers;
use crate::blocking;
use crate::checked::Sum;
use crate::range::ByteRange;
use crate::store::{ETag, ErrorKind, PartBody, Result, StoreError, Summed};

pub(super) const CRC32C: HeaderName = HeaderName::from_static("x-amz-checksum-crc32c");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const ENCRYPTION: &str = "x-amz-server-side-encryption";
const CUSTOMER_KEY: &str = "x-amz-server-side-encryption-customer-algorithm";
/// What an object was made by: `Normal`, where by one PUT.
const OBJECT_TYPES: [&str; 2] = ["x-oss-object-type", "x-tos-object-type"];

/// Bytes that are looked at at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Longer bodies are looked at where they do not hold up other requests.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// What a store verifies bodies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Content-MD5, which all know.
    Md5,
    /// x-amz-checksum-crc32c: is known already, and few know it.
    Crc32c,
}

/// The checksum of one body, as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Md5([u8; 16]),
    Crc32c(u32),
}

impl Sent {
    /// Of an empty body too: a bucket whose objects cannot be deleted (object lock) takes nothing without.
    ///
    /// # Errors
    /// `Damaged` where the bytes were looked at and are not those that came.
    pub async fn with(
        checksum: Checksum,
        operation: &'static str,
        body: &PartBody,
    ) -> Result<Sent> {
        Ok(match checksum {
            Checksum::Crc32c => Sent::Crc32c(body.sum().crc),
            Checksum::Md5 => Sent::Md5(md5_of(operation, body).await?),
        })
    }

    /// Adds the header that carries it.
    pub fn put(&self, operation: &'static str, headers: &mut HeaderMap) -> Result<()> {
        let (name, text) = match self {
            Sent::Md5(md5) => (CONTENT_MD5, BASE64.encode(md5)),
            Sent::Crc32c(crc) => (CRC32C, crc_text(*crc)),
        };
        headers.insert(name, headers::value(operation, &text)?);
        Ok(())
    }
}

/// A CRC-32C as S3 writes it.
pub(super) fn crc_text(crc: u32) -> String {
    BASE64.encode(crc.to_be_bytes())
}

/// The MD5 of a body, of bytes that were compared with their sum in the same pass.
pub(super) async fn md5_of(operation: &'static str, body: &PartBody) -> Result<[u8; 16]> {
    let mut pass = Pass { md5: Some(Md5::new()), sum: Sum::EMPTY };
    pass = pass.over(operation, body).await?;
    Ok(pass.md5.map(|md5| md5.finalize().into()).unwrap_or_default())
}

/// Compares a body with its sum.
///
/// # Errors
/// `Damaged` where the bytes are not those that came.
pub(super) async fn compare(operation: &'static str, body: &PartBody) -> Result<()> {
    Pass { md5: None, sum: Sum::EMPTY }.over(operation, body).await.map(drop)
}

/// One pass over a body.
struct Pass {
    md5: Option<Md5>,
    sum: Sum,
}

impl Pass {
    fn update(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(INLINE_BYTES_MAX) {
            self.sum = self.sum.then_bytes(piece);
            if let Some(md5) = &mut self.md5 {
                md5.update(piece);
            }
        }
    }

    async fn over(mut self, operation: &'static str, body: &PartBody) -> Result<Pass> {
        let failed = |err: std::io::Error| {
            StoreError::new(ErrorKind::Invalid, operation, format!("cannot read the body: {err}"))
        };
        match body {
            PartBody::Whole(Summed { bytes, .. }) if bytes.len() <= INLINE_BYTES_MAX => {
                self.update(bytes);
            }
            PartBody::Whole(Summed { bytes, .. }) => {
                let bytes = bytes.clone();
                let passed = blocking::run(move || {
                    self.update(&bytes);
                    self
                });
                self = passed.await.map_err(|err| failed(std::io::Error::other(err)))?;
            }
            PartBody::Read(source, sum) => {
                let whole = ByteRange::new(0, sum.len);
                while self.sum.len < whole.end() {
                    let piece = ByteRange::at(self.sum.len, PIECE_BYTES).intersect(&whole);
                    let bytes = source.read(piece).await.map_err(failed)?;
                    if bytes.is_empty() {
                        return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.update(&bytes);
                    tokio::task::yield_now().await;
                }
            }
        }
        if self.sum == body.sum() { Ok(self) } else { Err(StoreError::damaged(operation)) }
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

/// What is known of the checksums of a store at hand.
#[derive(Default)]
pub struct Known {
    /// It answered a CRC-32C as if there were none: it may not have looked at it.
    pub(super) crc_ignored: AtomicBool,
    /// The ETag of an object, and of a part, was the MD5 of what was sent. A store may have others that look like one.
    pub(super) md5_of_object: AtomicBool,
    pub(super) md5_of_part: AtomicBool,
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn checksums_are_sent_in_the_form_that_stores_verify() {
        let sent = async |checksum| {
            let mut headers = HeaderMap::new();
            let body = Summed::of("hello").into();
            let sent = Sent::with(checksum, "PutObject", &body).await.unwrap();
            sent.put("PutObject", &mut headers).unwrap();
            headers
        };
        assert_eq!(sent(Checksum::Md5).await[CONTENT_MD5], "XUFAKrxLKna5cZ2REBfFkg==");
        assert_eq!(sent(Checksum::Crc32c).await[CRC32C], "mnG7TA==");
    }

    #[tokio::test]
    async fn bytes_that_changed_are_found_by_whatever_reads_them() {
        for len in [5, INLINE_BYTES_MAX + 1] {
            let mut bytes = vec![7; len];
            let sum = Sum::of(&bytes);
            let body = |bytes: &[u8]| PartBody::Whole(Summed { bytes: bytes.to_vec().into(), sum });
            compare("PutObject", &body(&bytes)).await.unwrap();
            bytes[len - 1] ^= 1;
            let body = body(&bytes);
            assert_eq!(compare("PutObject", &body).await.unwrap_err().kind, ErrorKind::Damaged);
            let sent = Sent::with(Checksum::Md5, "PutObject", &body).await;
            assert_eq!(sent.unwrap_err().kind, ErrorKind::Damaged);
            // What is told of them is what they came with.
            let sent = Sent::with(Checksum::Crc32c, "PutObject", &body).await;
            assert_eq!(sent.unwrap(), Sent::Crc32c(sum.crc));
        }
    }

    #[test]
    fn only_an_etag_that_can_be_the_md5_is_compared() {
        let md5 = <[u8; 16]>::from(Md5::digest(b"hello"));
        let is = |etag: &str, answer: &HeaderMap| Some(md5_in(&ETag::new(etag), answer)? == md5);
        let (plain, mut kms) = (HeaderMap::new(), HeaderMap::new());
        kms.insert(ENCRYPTION, HeaderValue::from_static("aws:kms"));
        let (same, other) =
            ("5D41402abc4b2a76b9719d911017c592", "0d41402abc4b2a76b9719d911017c592");
        assert_eq!(is(same, &plain), Some(true));
        assert_eq!(is(other, &plain), Some(false));
        assert_eq!(is(other, &kms), None);
        assert_eq!(is(&format!("{same}-2"), &plain), None);
        let mut appended = HeaderMap::new();
        appended.insert("x-oss-object-type", HeaderValue::from_static("Appendable"));
        assert_eq!(is(other, &appended), None);
        appended.insert("x-oss-object-type", HeaderValue::from_static("Normal"));
        assert_eq!(is(other, &appended), Some(false));
    }
}
