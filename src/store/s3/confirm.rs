//! Whether a store has what was sent: what its answers tell is compared with the checksum that was sent along.

use std::sync::atomic::Ordering;

use http::header::{HeaderMap, HeaderValue};

use super::checksum::{CRC32C, Checksum, Sent, compare, crc_text, md5_in, md5_of};
use super::client::S3Store;
use super::{headers, xml};
use crate::checked::Sum;
use crate::store::{ETag, ErrorKind, PartBody, Result, StoreError, StoredPart};

const CHECKSUM_TYPE: &str = "x-amz-checksum-type";
const FULL_OBJECT: &str = "FULL_OBJECT";

impl S3Store {
    /// What the next body is sent with.
    pub(super) fn checksum(&self) -> Checksum {
        if self.checksums.crc_ignored.load(Ordering::Relaxed) {
            return Checksum::Md5;
        }
        self.provider().row().sums.body
    }

    /// The ETag of what was sent. An answer that tells of other bytes than these is `Corrupt`.
    pub(super) async fn confirmed(
        &self,
        operation: &'static str,
        body: &PartBody,
        sent: Sent,
        answer: &HeaderMap,
    ) -> Result<ETag> {
        let compared = self.compared(operation, body, sent, answer).await;
        compared.map_err(headers::of_answer(answer))
    }

    async fn compared(
        &self,
        operation: &'static str,
        body: &PartBody,
        sent: Sent,
        answer: &HeaderMap,
    ) -> Result<ETag> {
        let etag = headers::etag_of(operation, answer)?;
        let other = || {
            let message = format!("the store has other bytes than were sent, of the ETag {etag}");
            StoreError::new(ErrorKind::Corrupt, operation, message)
        };
        let md5 = match sent {
            // There is nothing that could have changed; and some stores make a folder of it, whose answer tells nothing.
            _ if body.is_empty() => return Ok(etag),
            Sent::Md5(md5) => md5,
            Sent::Crc32c(crc) => match headers::text(answer, CRC32C.as_str()) {
                Some(told) if told.trim() == crc_text(crc) => return Ok(etag),
                Some(_) => return Err(other()),
                None => {
                    if !self.checksums.crc_ignored.swap(true, Ordering::Relaxed) {
                        log::info!(
                            "the store does not verify CRC-32C; Content-MD5 is sent from now on"
                        );
                    }
                    md5_of(operation, body).await?
                }
            },
        };
        let is_known = match operation {
            "PutObject" => &self.checksums.md5_of_object,
            _ => &self.checksums.md5_of_part,
        };
        match self.md5_told(&etag, answer).map(|told| told == md5) {
            Some(true) => is_known.store(true, Ordering::Relaxed),
            Some(false)
                if is_known.load(Ordering::Relaxed) || self.provider().row().sums.etags_are_md5 =>
            {
                return Err(other());
            }
            _ => {}
        }
        Ok(etag)
    }

    /// Whether the store has made the object of these bytes, by what the completion of its upload was answered.
    ///
    /// # Errors
    /// `Damaged` where it has made another one.
    pub(super) fn completed(
        &self,
        operation: &'static str,
        parts: &[StoredPart],
        answer: &xml::ETagResult,
    ) -> Result<ETag> {
        let etag = ETag::new(&answer.etag);
        let is_whole = answer.checksum_type.as_deref().is_none_or(|kind| kind == FULL_OBJECT);
        let told = answer.checksum_crc32c.as_deref().filter(|text| is_whole && !text.contains('-'));
        let ours = sum_of(parts).map(|sum| crc_text(sum.crc));
        match (told, ours) {
            (Some(told), Some(ours)) if told.trim() != ours => {
                let message =
                    format!("the store has made another object than was sent, of the ETag {etag}");
                Err(StoreError::new(ErrorKind::Damaged, operation, message))
            }
            _ => Ok(etag),
        }
    }

    /// The MD5 of an object of this ETag, where the store is known to make ETags of that.
    pub(super) fn md5_of_object(&self, etag: &ETag, answer: &HeaderMap) -> Option<[u8; 16]> {
        let is_known = self.checksums.md5_of_object.load(Ordering::Relaxed);
        let is_md5 = is_known || self.provider().row().sums.etags_are_md5;
        if is_md5 { self.md5_told(etag, answer) } else { None }
    }

    /// The MD5 that an answer's ETag is, as far as can be seen. With a client's key it is none, whatever is answered.
    fn md5_told(&self, etag: &ETag, answer: &HeaderMap) -> Option<[u8; 16]> {
        let is_sealed = self.settings.new_objects.customer_key.is_some();
        if is_sealed { None } else { md5_in(etag, answer) }
    }

    /// Whether the uploads that are begun now name the checksum of their parts and of their object.
    pub(super) fn names_checksum_of_upload(&self) -> bool {
        self.provider().row().sums.named_by_upload && self.checksum() == Checksum::Crc32c
    }

    /// Adds what such an upload is begun with.
    pub(super) fn put_checksum_of_upload(&self, headers: &mut HeaderMap) {
        if self.names_checksum_of_upload() {
            let algorithm = HeaderValue::from_static("CRC32C");
            headers.insert("x-amz-checksum-algorithm", algorithm);
            headers.insert(CHECKSUM_TYPE, HeaderValue::from_static(FULL_OBJECT));
        }
    }
}

/// Adds the checksum of the whole object to what completes its upload, where it is known.
pub(super) fn put_sum_of_object(
    operation: &'static str,
    headers: &mut HeaderMap,
    parts: &[StoredPart],
) -> Result<()> {
    if let Some(sum) = sum_of(parts) {
        Sent::Crc32c(sum.crc).put(operation, headers)?;
        headers.insert(CHECKSUM_TYPE, HeaderValue::from_static(FULL_OBJECT));
    }
    Ok(())
}

/// The sum of an object of these parts.
fn sum_of(parts: &[StoredPart]) -> Option<Sum> {
    parts.iter().map(StoredPart::sum).collect()
}

/// Passes on how a body was sent. Where the store got other bytes than these, they are compared with their sum first:
/// what is wrong here already is not sent again.
///
/// # Errors
/// `Damaged` then.
pub(super) async fn unless_damaged<T>(
    operation: &'static str,
    body: &PartBody,
    sent: Result<T>,
) -> Result<T> {
    if sent.as_ref().is_err_and(|err| err.kind == ErrorKind::Corrupt) {
        compare(operation, body).await?;
    }
    sent
}
