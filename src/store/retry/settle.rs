//! Was it us? When the answer to a write is lost and its repetition is refused, the object itself tells, by the mark
//! that it was written with ([`crate::store::Mark`]).
//!
//! | repeated request | refused with | what may have happened | settled by |
//! |---|---|---|---|
//! | PutObject under a condition | PreconditionFailed | the first one took effect | HEAD, its mark |
//! | the same, after an answer that it has other bytes | PreconditionFailed | it took effect with those | an object with its mark is replaced |
//! | CopyObject onto itself, of the version that it replaces; CopyObject under a condition of its target | PreconditionFailed | the same | HEAD, its mark |
//! | DeleteObject of one version | PreconditionFailed | the first one took effect; another client has replaced or deleted it | HEAD: gone is done, another version is not |
//! | CompleteMultipartUpload | NoSuchUpload, or PreconditionFailed | the first one took effect, or another client aborted | the caller, which knows the upload's mark (`upload::outcome`) |
//! | all other requests | | repeating them changes nothing | nothing to settle |
//!
//! CreateMultipartUpload is the exception: repeated after a lost answer it leaves an upload that no caller
//! knows of, empty, which the store's own expiry (a lifecycle rule on AWS) takes away.
//!
//! Here is what ETags tell of contents.

use md5::{Digest as _, Md5};

use crate::store::{ETag, StoredPart};

/// Whether an ETag has the form of one that follows from the content, and they are the same: then so are the contents.
pub fn proves_equal(one: &ETag, other: &ETag) -> bool {
    one == other && shape(one).is_some()
}

/// Of an ETag: whether it looks like an MD5, and how many parts it names.
fn shape(etag: &ETag) -> Option<Option<u32>> {
    let (digest, parts) = match etag.as_str().split_once('-') {
        Some((digest, parts)) => (digest, Some(parts.parse().ok()?)),
        None => (etag.as_str(), None),
    };
    (digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(parts)
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

    #[test]
    fn etags_prove_what_follows_from_the_content_alone() {
        let (md5, other) = ("0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff");
        let parts = format!("{md5}-2");
        let table = [
            (md5, md5, true),
            (md5, other, false),
            (&parts, &parts, true),
            (&parts, md5, false),
            ("opaque", "opaque", false),
            ("opaque", md5, false),
        ];
        for (one, two, told) in table {
            let (one, two) = (ETag::new(one), ETag::new(&two.to_uppercase()));
            assert_eq!(proves_equal(&one, &two), told, "{one} {two}");
        }
    }

    #[test]
    fn the_etag_of_an_upload_follows_from_its_parts() {
        let part = |bytes: &[u8], number| StoredPart {
            number,
            etag: ETag::new(&hex(&Md5::digest(bytes)).to_uppercase()),
            len: bytes.len() as u64,
            crc: None,
        };
        // md5(md5("a") md5("b"))-2, by md5sum.
        let etag = multipart_etag(&[part(b"a", 1), part(b"b", 2)]).unwrap();
        assert_eq!(etag, "96e024ba2074fe77e8e965ba43a704be-2");
        assert_eq!(
            multipart_etag(&[StoredPart { etag: ETag::new("x"), number: 1, len: 1, crc: None }]),
            None
        );
    }
}
