//! Whether a store has what was sent: what its answers tell is compared with the checksum that was sent along.

use std::sync::atomic::Ordering;

use http::header::{HeaderMap, HeaderValue};

use super::checksum::{CRC64_NVME, Checksum, Sum, md5_in};
use super::client::S3Store;
use super::headers;
use crate::store::{ETag, ErrorKind, PartBody, Result, StoreError};

impl S3Store {
    /// What the next body is sent with.
    pub(super) fn checksum(&self) -> Checksum {
        if self.checksums.crc_ignored.load(Ordering::Relaxed) {
            return Checksum::Md5;
        }
        self.provider().checksum()
    }

    /// The ETag of what was sent with a sum. An answer that tells of other bytes than these is `Corrupt`.
    pub(super) async fn confirmed(
        &self,
        operation: &'static str,
        body: &PartBody,
        sum: Option<Sum>,
        answer: &HeaderMap,
    ) -> Result<ETag> {
        let compared = self.compared(operation, body, sum, answer).await;
        compared.map_err(headers::of_answer(answer))
    }

    async fn compared(
        &self,
        operation: &'static str,
        body: &PartBody,
        sum: Option<Sum>,
        answer: &HeaderMap,
    ) -> Result<ETag> {
        let etag = headers::etag_of(operation, answer)?;
        let other = || {
            let message = format!("the store has other bytes than were sent, of the ETag {etag}");
            StoreError::new(ErrorKind::Corrupt, operation, message)
        };
        let Some(mut sum) = sum else { return Ok(etag) };
        if sum.checksum == Checksum::Crc64Nvme {
            match headers::text(answer, CRC64_NVME.as_str()) {
                Some(told) if told.trim() == sum.text() => return Ok(etag),
                Some(_) => return Err(other()),
                None => {}
            }
            if !self.checksums.crc_ignored.swap(true, Ordering::Relaxed) {
                log::info!("the store does not verify CRC64NVME; Content-MD5 is sent from now on");
            }
            let Some(md5) = Sum::of(Checksum::Md5, operation, body).await? else { return Ok(etag) };
            sum = md5;
        }
        let is_known = match operation {
            "PutObject" => &self.checksums.md5_of_object,
            _ => &self.checksums.md5_of_part,
        };
        match sum.is(&etag, answer) {
            Some(true) => is_known.store(true, Ordering::Relaxed),
            Some(false) if is_known.load(Ordering::Relaxed) || self.provider().etags_are_md5() => {
                return Err(other());
            }
            _ => {}
        }
        Ok(etag)
    }

    /// The MD5 of an object of this ETag, where the store is known to make ETags of that.
    pub(super) fn md5_of_object(&self, etag: &ETag, answer: &HeaderMap) -> Option<[u8; 16]> {
        let is_known = self.checksums.md5_of_object.load(Ordering::Relaxed);
        if is_known || self.provider().etags_are_md5() { md5_in(etag, answer) } else { None }
    }

    /// Adds what an upload is begun with whose parts come with checksums.
    pub(super) fn put_checksum_of_upload(&self, headers: &mut HeaderMap) {
        if self.provider().names_checksum_of_upload() && self.checksum() == Checksum::Crc64Nvme {
            let algorithm = HeaderValue::from_static("CRC64NVME");
            headers.insert("x-amz-checksum-algorithm", algorithm);
            headers.insert("x-amz-checksum-type", HeaderValue::from_static("FULL_OBJECT"));
        }
    }
}
