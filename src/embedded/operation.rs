//! Which S3 operation a request is, told from its method, path and query alone; and the counters of
//! requests and bytes kept per operation. The fault layer and the tests speak in these names.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

/// The S3 operations that are told apart. Everything else is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    GetObject,
    HeadObject,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    Other,
}

impl Operation {
    const COUNT: usize = Operation::Other as usize + 1;

    /// The operation of a path-style request.
    pub fn classify(
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Operation {
        let has = |name: &str| {
            query
                .unwrap_or("")
                .split('&')
                .any(|pair| pair.split('=').next().is_some_and(|found| found == name))
        };
        let copies = headers.contains_key("x-amz-copy-source");
        let (bucket, key) = split_path(path);
        if bucket.is_empty() {
            return if method == Method::GET { Operation::ListBuckets } else { Operation::Other };
        }
        if key.is_empty() {
            return match method.as_str() {
                "PUT" if query.unwrap_or("").is_empty() => Operation::CreateBucket,
                "HEAD" => Operation::HeadBucket,
                "DELETE" if query.unwrap_or("").is_empty() => Operation::DeleteBucket,
                "POST" if has("delete") => Operation::DeleteObjects,
                "GET" if has("uploads") => Operation::ListMultipartUploads,
                "GET" if has("list-type") => Operation::ListObjectsV2,
                "GET" if has("versions") => Operation::ListObjectVersions,
                "GET" if has("location") || has("versioning") => Operation::Other,
                "GET" => Operation::ListObjects,
                _ => Operation::Other,
            };
        }
        match method.as_str() {
            "GET" if has("tagging") => Operation::GetObjectTagging,
            "PUT" if has("tagging") => Operation::PutObjectTagging,
            "DELETE" if has("tagging") => Operation::DeleteObjectTagging,
            "PUT" if has("uploadId") && copies => Operation::UploadPartCopy,
            "PUT" if has("uploadId") => Operation::UploadPart,
            "PUT" if copies => Operation::CopyObject,
            "PUT" => Operation::PutObject,
            "GET" if has("uploadId") => Operation::ListParts,
            "GET" => Operation::GetObject,
            "HEAD" => Operation::HeadObject,
            "DELETE" if has("uploadId") => Operation::AbortMultipartUpload,
            "DELETE" => Operation::DeleteObject,
            "POST" if has("uploads") => Operation::CreateMultipartUpload,
            "POST" if has("uploadId") => Operation::CompleteMultipartUpload,
            _ => Operation::Other,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

fn split_path(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').unwrap_or((path, ""))
}

/// The key that a path-style request names, percent-decoded; empty where it names a bucket only.
pub fn decoded_key(path: &str) -> Vec<u8> {
    percent_decode_str(split_path(path).1).collect()
}

/// What the server has been asked and has moved since it started. Bytes are bytes of bodies: headers
/// and the framing of HTTP are not counted.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [AtomicU64; Operation::COUNT],
    bytes_in: [AtomicU64; Operation::COUNT],
    bytes_out: [AtomicU64; Operation::COUNT],
}

impl Counters {
    /// Requests of one operation, refused and faulted ones included.
    pub fn requests(&self, operation: Operation) -> u64 {
        self.requests[operation as usize].load(Ordering::Relaxed)
    }

    pub fn requests_total(&self) -> u64 {
        self.requests.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of request bodies that were read.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of answer bodies that were handed to the connection.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub fn bytes_in_of(&self, operation: Operation) -> u64 {
        self.bytes_in[operation as usize].load(Ordering::Relaxed)
    }

    pub fn bytes_out_of(&self, operation: Operation) -> u64 {
        self.bytes_out[operation as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_request(&self, operation: Operation) {
        self.requests[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_in(&self, operation: Operation, bytes: usize) {
        self.bytes_in[operation as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_out(&self, operation: Operation, bytes: usize) {
        self.bytes_out[operation as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(method: &str, target: &str) -> Operation {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        Operation::classify(&method.parse().unwrap(), path, query, &HeaderMap::new())
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(classify("GET", "/"), Operation::ListBuckets);
        assert_eq!(classify("GET", "/b?list-type=2&prefix=uploads"), Operation::ListObjectsV2);
        assert_eq!(classify("GET", "/b/?uploads"), Operation::ListMultipartUploads);
        assert_eq!(classify("GET", "/b?versions&prefix=a"), Operation::ListObjectVersions);
        assert_eq!(classify("GET", "/b/k?versionId=7"), Operation::GetObject);
        assert_eq!(classify("POST", "/b/k?uploads="), Operation::CreateMultipartUpload);
        assert_eq!(classify("POST", "/b/k?uploadId=7"), Operation::CompleteMultipartUpload);
        assert_eq!(classify("PUT", "/b/a//b?partNumber=1&uploadId=7"), Operation::UploadPart);
        assert_eq!(classify("GET", "/b/k"), Operation::GetObject);
        assert_eq!(classify("DELETE", "/b/k?uploadId=1"), Operation::AbortMultipartUpload);
    }

    #[test]
    fn keys_are_decoded_byte_for_byte() {
        assert_eq!(decoded_key("/b/a%20b//c%0A+"), b"a b//c\n+");
        assert_eq!(decoded_key("/b"), b"");
    }
}
