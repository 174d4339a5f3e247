//! Was it us? When the answer to a write is lost and its repetition is refused, the object itself tells.
//!
//! | repeated request | refused with | what may have happened | settled by |
//! |---|---|---|---|
//! | PutObject under a condition | PreconditionFailed | the first one took effect | HEAD, [`is_ours`] |
//! | CompleteMultipartUpload | NoSuchUpload | the first one took effect, or somebody aborted | HEAD, [`is_ours`] |
//! | CompleteMultipartUpload under a condition | PreconditionFailed | the same | HEAD, [`is_ours`] |
//! | all other requests | | repeating them changes nothing | nothing to settle |
//!
//! CreateMultipartUpload is the exception: repeated after a lost answer it leaves an upload that nobody
//! knows of, empty, which the store's own expiry (a lifecycle rule on AWS) takes away.

use std::time::{Duration, SystemTime};

use md5::{Digest as _, Md5};

use crate::store::{ETag, Metadata, ObjectHead, StoredPart};

/// By how much the store's clock may lag behind this machine's, with its dates cut to whole seconds.
const CLOCK_LAG: Duration = Duration::from_secs(2);

/// What the object must be if the lost request took effect.
pub struct Expected {
    pub len: u64,
    /// Its ETag, where it follows from the content.
    pub etag: Option<ETag>,
    /// Its metadata, where the request carried it.
    pub metadata: Option<Metadata>,
    /// When the first request was sent.
    pub sent: SystemTime,
}

/// Whether the object is provably what the lost request wrote. An ETag of the kind that follows from the
/// content decides alone; where the store makes ETags otherwise (SSE-KMS, some servers), an object of the
/// same length (and metadata) that is not older than the request is taken for ours.
pub fn is_ours(head: &ObjectHead, expected: &Expected) -> bool {
    if head.len != expected.len {
        return false;
    }
    if let Some(etag) = &expected.etag
        && shape(etag) == shape(&head.etag)
    {
        return *etag == head.etag;
    }
    let same_metadata =
        expected.metadata.as_ref().is_none_or(|metadata| *metadata == head.metadata);
    same_metadata && head.last_modified + CLOCK_LAG >= expected.sent
}

/// Of an ETag: whether it looks like an MD5, and how many parts it names.
fn shape(etag: &ETag) -> Option<Option<u32>> {
    let (digest, parts) = match etag.as_str().split_once('-') {
        Some((digest, parts)) => (digest, Some(parts.parse().ok()?)),
        None => (etag.as_str(), None),
    };
    (digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(parts)
}

/// Whether an ETag looks like one that follows from the content: an MD5, or that of an upload's parts.
pub fn is_digest(etag: &ETag) -> bool {
    shape(etag).is_some()
}

/// The ETag that most stores give an upload: the MD5 of the parts' MD5s and their number. `None` where a
/// part's ETag is no MD5.
pub fn multipart_etag(parts: &[StoredPart]) -> Option<String> {
    let mut md5 = Md5::new();
    for part in parts {
        let etag = part.etag.as_str().as_bytes();
        if etag.len() != 32 {
            return None;
        }
        for pair in etag.chunks_exact(2) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            md5.update([(high * 16 + low) as u8]);
        }
    }
    Some(format!("{}-{}", hex(&md5.finalize()), parts.len()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(etag: &str, len: u64, last_modified: SystemTime) -> ObjectHead {
        ObjectHead {
            etag: ETag::new(etag),
            len,
            last_modified,
            metadata: Metadata::new(),
            content_type: None,
            carried: Default::default(),
            version_id: None,
        }
    }

    #[test]
    fn every_case_of_a_lost_answer_is_settled() {
        let now = SystemTime::now();
        let old = now - Duration::from_secs(60);
        let md5 = "0123456789abcdef0123456789abcdef";
        let other = "ffffffffffffffffffffffffffffffff";
        let expected = |etag: Option<&str>| Expected {
            len: 10,
            etag: etag.map(ETag::new),
            metadata: None,
            sent: now,
        };
        let table = [
            // (expected ETag, found ETag, found length, found date, ours)
            (Some(md5), md5.to_owned(), 10, now, true),
            (Some(md5), md5.to_uppercase(), 10, old, true),
            (Some(md5), md5.to_owned(), 11, now, false),
            (Some(md5), other.to_owned(), 10, now, false),
            (Some(md5), "opaque".to_owned(), 10, now, true),
            (Some(md5), "opaque".to_owned(), 10, old, false),
            (Some(md5), "opaque".to_owned(), 9, now, false),
            (None, other.to_owned(), 10, now, true),
            (None, other.to_owned(), 10, old, false),
        ];
        for (wanted, found, len, date, ours) in table {
            let head = head(&found, len, date);
            assert_eq!(is_ours(&head, &expected(wanted)), ours, "{wanted:?} {found} {len}");
        }
    }

    #[test]
    fn other_metadata_is_not_ours() {
        let sent = SystemTime::now();
        let metadata = Metadata::from([("mtime".to_owned(), "1".to_owned())]);
        let expected = Expected { len: 1, etag: None, metadata: Some(metadata.clone()), sent };
        let mut found = head("opaque", 1, sent);
        assert!(!is_ours(&found, &expected));
        found.metadata = metadata;
        assert!(is_ours(&found, &expected));
    }

    #[test]
    fn the_etag_of_an_upload_follows_from_its_parts() {
        let part = |bytes: &[u8], number| StoredPart {
            number,
            etag: ETag::new(&hex(&Md5::digest(bytes)).to_uppercase()),
            len: bytes.len() as u64,
        };
        // md5(md5("a") md5("b"))-2, by md5sum.
        let etag = multipart_etag(&[part(b"a", 1), part(b"b", 2)]).unwrap();
        assert_eq!(etag, "96e024ba2074fe77e8e965ba43a704be-2");
        assert_eq!(multipart_etag(&[StoredPart { etag: ETag::new("x"), number: 1, len: 1 }]), None);
    }
}
