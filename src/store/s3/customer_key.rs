//! SSE-C: a key of the user's own, with which the store encrypts and decrypts objects, and which it does not keep. So it goes
//! with each request that writes or reads their bytes, or makes parts of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use md5::{Digest as _, Md5};

use crate::secret::Secret;

/// Of AES-256, the one algorithm that there is.
const KEY_BYTES: usize = 32;

/// Such a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerKey {
    /// In base64, as it is sent.
    key: Secret,
    md5: String,
}

/// The names of three headers.
struct Names {
    algorithm: HeaderName,
    key: HeaderName,
    md5: HeaderName,
}

const OF_OBJECT: Names = Names {
    algorithm: HeaderName::from_static("x-amz-server-side-encryption-customer-algorithm"),
    key: HeaderName::from_static("x-amz-server-side-encryption-customer-key"),
    md5: HeaderName::from_static("x-amz-server-side-encryption-customer-key-md5"),
};
const OF_SOURCE: Names = Names {
    algorithm: HeaderName::from_static(
        "x-amz-copy-source-server-side-encryption-customer-algorithm",
    ),
    key: HeaderName::from_static("x-amz-copy-source-server-side-encryption-customer-key"),
    md5: HeaderName::from_static("x-amz-copy-source-server-side-encryption-customer-key-md5"),
};

impl CustomerKey {
    /// A file's content: the 32 bytes as they are, or in base64 with white space around. `None` where it is neither.
    pub fn read(content: &Secret) -> Option<CustomerKey> {
        let content = content.expose();
        let key = match content.len() {
            KEY_BYTES => Secret::new(content.to_vec()),
            _ => Secret::new(BASE64.decode(content.trim_ascii()).ok()?),
        };
        if key.expose().len() != KEY_BYTES {
            return None;
        }
        let md5 = BASE64.encode(Md5::digest(key.expose()));
        Some(CustomerKey { key: Secret::new(BASE64.encode(key.expose()).into_bytes()), md5 })
    }

    /// Tells keys apart. The store is sent it, and answers it; it says nothing of the key.
    pub fn md5(&self) -> &str {
        &self.md5
    }

    /// Adds what a request wants of it, by its operation.
    pub(super) fn put(&self, operation: &str, headers: &mut HeaderMap) {
        let (of_object, of_source) = match operation {
            "GetObject"
            | "HeadObject"
            | "GetObjectAttributes"
            | "PutObject"
            | "CreateMultipartUpload"
            | "UploadPart"
            | "CompleteMultipartUpload"
            | "ListParts" => (true, false),
            "CopyObject" | "UploadPartCopy" => (true, true),
            _ => (false, false),
        };
        if of_object {
            self.put_as(OF_OBJECT, headers);
        }
        if of_source {
            self.put_as(OF_SOURCE, headers);
        }
    }

    fn put_as(&self, names: Names, headers: &mut HeaderMap) {
        // Base64 is a header always.
        let (Ok(mut key), Ok(md5)) =
            (HeaderValue::from_bytes(self.key.expose()), HeaderValue::from_str(&self.md5))
        else {
            return;
        };
        key.set_sensitive(true);
        headers.insert(names.algorithm, HeaderValue::from_static("AES256"));
        headers.insert(names.key, key);
        headers.insert(names.md5, md5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Option<CustomerKey> {
        CustomerKey::read(&Secret::new(content.to_vec()))
    }

    #[test]
    fn a_key_is_32_bytes_or_their_base64() {
        let raw: Vec<u8> = (0..32).collect();
        let text = BASE64.encode(&raw);
        let key = read(&raw).unwrap();
        assert_eq!(key.md5(), BASE64.encode(Md5::digest(&raw)));
        assert_eq!(read(text.as_bytes()), Some(key.clone()));
        assert_eq!(read(format!(" {text}\n").as_bytes()), Some(key));
        for wrong in [&raw[1..], b"", b"\n", BASE64.encode(&raw[..16]).as_bytes(), &[b'*'; 44]] {
            assert_eq!(read(wrong), None);
        }
    }

    #[test]
    fn it_goes_with_what_needs_it_and_is_shown_nowhere() {
        let key = read(&[b'k'; 32]).unwrap();
        let text = BASE64.encode([b'k'; 32]);
        for (operation, count) in
            [("PutObject", 3), ("ListParts", 3), ("CopyObject", 6), ("DeleteObject", 0)]
        {
            let mut headers = HeaderMap::new();
            key.put(operation, &mut headers);
            assert_eq!(headers.len(), count, "{operation}");
            let shown = format!("{headers:?} {key:?}");
            assert!(!shown.contains(&text) && !shown.contains("kkkk"), "{shown}");
        }
    }
}
