//! What is known of each provider beforehand, a row each: how it is recognised, where it is, what it can do.
//!
//! Each value that is not the careful one has its reason beside it, and where that is from: a document of the provider, or
//! `seen`, by a test against the real server. `docs/providers.md` has the same table, and says what was verified how. It is a
//! starting point: [`super::S3Store`] takes another row where the `Server` header of the first answer names one, and switches off
//! what the store answers that it has not (501 NotImplemented).

use super::checksum::Checksum;
use crate::store::Capabilities;

/// One provider. (Which `Provider` it is, `provider` says.)
pub struct Row {
    /// As users know it.
    pub name: &'static str,
    /// What `--provider` calls it, the first name in messages.
    pub called: &'static [&'static str],
    /// Hosts at and below these are its own.
    pub domains: &'static [Domain],
    /// What the `Server` header of its answers holds, in small letters.
    pub server: Option<&'static str>,
    pub bucket: BucketIn,
    /// Its S3 endpoint, by `{region}` and `{domain}`, and `{fips}` and `{dualstack}` where it has such variants. `None`
    /// where the user has to name it.
    pub endpoint: Option<&'static str>,
    /// How the label of a host begins that speaks the provider's own protocol, and that of the one beside it that
    /// speaks S3: users know the first.
    pub native: Option<(&'static str, &'static str)>,
    pub region: RegionFrom,
    pub sums: Sums,
    /// The headers that carry If-Match and If-None-Match of a copy's target.
    pub copy_conditions: (&'static str, &'static str),
    pub capabilities: Capabilities,
}

/// A domain, and how the regions begin whose endpoints are in it: of several the first counts.
pub struct Domain {
    pub name: &'static str,
    pub regions: &'static str,
}

/// Where a request names its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketIn {
    /// The host name alone; the path is refused.
    Host,
    /// The host name, unless `--addressing path` or a certificate asks for the other.
    RatherHost,
    /// The path, unless `--addressing virtual` asks for the other.
    RatherPath,
}

/// Which region requests are signed for, where it is not given.
pub enum RegionFrom {
    /// What the host has between two texts, the first pair that fits.
    Host(&'static [(&'static str, &'static str)]),
    Is(&'static str),
    Unknown,
}

/// What checksums the provider takes and tells.
pub struct Sums {
    /// What it verifies bodies by.
    pub body: Checksum,
    /// An upload has to be begun with the name of its parts' checksum.
    pub named_by_upload: bool,
    /// ETags that look like MD5s are those of the bytes, as it is known beforehand. (Else the first answers tell.)
    pub etags_are_md5: bool,
}

const fn everywhere(name: &'static str) -> Domain {
    Domain { name, regions: "" }
}

/// A capability is taken on only where it is known: a store that ignores If-None-Match without a word would overwrite what
/// the caller meant to keep.
const CAREFUL: Capabilities = Capabilities {
    conditional_writes: false,
    conditional_deletes: false,
    conditional_copies: false,
    equal_parts: false,
    lists_uploads: true,
    copies_parts: true,
    marker_metadata: true,
    tells_sums: false,
    tells_part_sums: false,
    keeps_folders: false,
};

/// All know Content-MD5, and some refuse other checksums.
const MD5: Sums = Sums { body: Checksum::Md5, named_by_upload: false, etags_are_md5: false };

const CRC32C: Sums = Sums { body: Checksum::Crc32c, named_by_upload: true, etags_are_md5: true };

/// As for writes ("CopyObject", Amazon S3 API Reference).
const AS_OF_WRITES: (&str, &str) = ("if-match", "if-none-match");

/// A server that anyone can run, wherever.
const SERVER: Row = Row {
    name: "",
    called: &[],
    domains: &[],
    server: None,
    bucket: BucketIn::RatherPath,
    endpoint: None,
    native: None,
    region: RegionFrom::Unknown,
    sums: MD5,
    copy_conditions: AS_OF_WRITES,
    capabilities: CAREFUL,
};

pub static AWS: Row = Row {
    name: "Amazon S3",
    called: &["aws"],
    // Partitions by their regions ("AWS SDKs and Tools: endpoints").
    domains: &[
        Domain { name: "amazonaws.com.cn", regions: "cn-" },
        Domain { name: "amazonaws.eu", regions: "eusc-" },
        everywhere("amazonaws.com"),
    ],
    server: Some("amazons3"),
    // The path is to go ("Virtual hosting of general purpose buckets", User Guide).
    bucket: BucketIn::RatherHost,
    // "Dual-stack and FIPS endpoints" (AWS SDKs and Tools), "Amazon S3 endpoints and quotas".
    endpoint: Some("https://s3{fips}.{dualstack}{region}.{domain}"),
    native: None,
    region: RegionFrom::Host(&[
        ("s3-fips.dualstack.", ".amazonaws."),
        ("s3.dualstack.", ".amazonaws."),
        ("s3-fips.", ".amazonaws."),
        // The first is that of interface endpoints ("AWS PrivateLink for Amazon S3").
        ("s3.", ".vpce.amazonaws."),
        ("s3.", ".amazonaws."),
    ]),
    // CRC-32C costs no pass over the bytes; the ETag of what one PUT brings is its MD5, but for KMS and customer keys,
    // which answers name ("Checking object integrity", User Guide; "Object", API Reference).
    sums: CRC32C,
    copy_conditions: AS_OF_WRITES,
    capabilities: Capabilities {
        // "Add preconditions to S3 operations with conditional requests", User Guide.
        conditional_writes: true,
        // "How to perform conditional deletes", User Guide.
        conditional_deletes: true,
        // "CopyObject" (If-Match, If-None-Match), API Reference.
        conditional_copies: true,
        // "HeadObject" (x-amz-checksum-mode), "GetObjectAttributes", API Reference.
        tells_sums: true,
        tells_part_sums: true,
        ..CAREFUL
    },
};

pub static OSS: Row = Row {
    name: "Alibaba OSS",
    called: &["oss", "alibaba", "aliyun"],
    domains: &[everywhere("aliyuncs.com")],
    server: Some("aliyunoss"),
    // Path style answers SecondLevelDomainForbidden ("Compatibility with Amazon S3").
    bucket: BucketIn::Host,
    // "Access OSS using an AWS SDK".
    endpoint: Some("https://s3.oss-{region}.{domain}"),
    native: Some(("oss-", "s3.oss-")),
    region: RegionFrom::Host(&[("oss-", "-internal.aliyuncs."), ("oss-", ".aliyuncs.")]),
    // ETags are upper case, and that of what was appended to is no MD5 ("Compatibility with Amazon S3"); CRC-64 comes with
    // each answer about an object, as x-oss-hash-crc64ecma ("Check data integrity by CRC-64").
    sums: MD5,
    // It has no ListMultipartUploads by the S3 protocol, and its conditions (x-oss-forbid-overwrite) are not S3's
    // ("Compatibility with Amazon S3").
    capabilities: Capabilities { lists_uploads: false, ..CAREFUL },
    ..SERVER
};

pub static TOS: Row = Row {
    name: "Volcengine TOS",
    called: &["tos", "volcengine"],
    // The second is that of its own network, the last two those of BytePlus ("Regions and endpoints").
    domains: &[
        everywhere("volces.com"),
        everywhere("ivolces.com"),
        everywhere("bytepluses.com"),
        everywhere("ibytepluses.com"),
    ],
    server: Some("tosserver"),
    // "TOS supports virtual-hosted style but not path style" ("Compatibility with Amazon S3").
    bucket: BucketIn::Host,
    // S3 has endpoints of its own ("Compatibility with Amazon S3").
    endpoint: Some("https://tos-s3-{region}.{domain}"),
    native: Some(("tos-", "tos-s3-")),
    region: RegionFrom::Host(&[("tos-s3-", ".")]),
    // As for OSS, with x-tos-hash-crc64ecma ("HeadObject"). Which conditions it honours by the S3 protocol is not said.
    ..SERVER
};

pub static R2: Row = Row {
    name: "Cloudflare R2",
    called: &["r2", "cloudflare"],
    domains: &[everywhere("r2.cloudflarestorage.com")],
    // The endpoint has the account's name.
    endpoint: None,
    // "S3 API compatibility".
    region: RegionFrom::Is("auto"),
    // A CRC-32C of a whole upload is not among its checksums ("S3 API compatibility").
    sums: MD5,
    // An extension ("Extensions: Conditional operations in CopyObject").
    copy_conditions: ("cf-copy-destination-if-match", "cf-copy-destination-if-none-match"),
    capabilities: Capabilities {
        // "Extensions: Conditional operations in PutObject".
        conditional_writes: true,
        // As above. Conditions of a DELETE are not told of.
        conditional_copies: true,
        // "Upload objects: part size limits".
        equal_parts: true,
        ..CAREFUL
    },
    ..SERVER
};

pub static B2: Row = Row {
    name: "Backblaze B2",
    called: &["b2", "backblaze"],
    domains: &[everywhere("backblazeb2.com")],
    // Both styles are taken ("Call the S3-Compatible API").
    bucket: BucketIn::RatherPath,
    endpoint: Some("https://s3.{region}.{domain}"),
    region: RegionFrom::Host(&[("s3.", ".backblazeb2.")]),
    ..SERVER
};

pub static GCS: Row = Row {
    name: "Google Cloud Storage (XML, HMAC)",
    called: &["gcs", "google"],
    domains: &[everywhere("storage.googleapis.com")],
    endpoint: Some("https://storage.googleapis.com"),
    // "V4 signing process": any is taken.
    region: RegionFrom::Is("auto"),
    // Its conditions on writes go by generation, not by ETag ("Request preconditions"); parts are copied by
    // "Upload parts" with x-goog-copy-source only, which answers 400 or 501 to the other name if it does not know it.
    ..SERVER
};

pub static MINIO: Row = Row {
    name: "MinIO",
    called: &["minio"],
    server: Some("minio"),
    capabilities: Capabilities {
        // Its source (`checkPreconditionsPUT`); DELETE is carried out whatever If-Match says.
        conditional_writes: true,
        // "S3 API compatibility": HeadObject.
        tells_sums: true,
        ..CAREFUL
    },
    ..SERVER
};

pub static CEPH: Row = Row {
    name: "Ceph RGW",
    called: &["ceph"],
    server: Some("ceph"),
    // Its newest release has conditions of S3 and older ones ignore them, and no answer tells which it is.
    ..SERVER
};

pub static SEAWEEDFS: Row = Row {
    name: "SeaweedFS",
    called: &["seaweedfs"],
    server: Some("seaweedfs"),
    // Seen.
    sums: CRC32C,
    capabilities: Capabilities {
        // Seen. Releases before 2026 carry out a DELETE and a copy whatever their condition says, as if there were none.
        conditional_writes: true,
        conditional_deletes: true,
        conditional_copies: true,
        // Seen: it makes a folder of an object whose key ends in '/', and keeps its content type only.
        marker_metadata: false,
        // Seen. It answers none of the parts.
        tells_sums: true,
        // Seen: it is a file system inside.
        keeps_folders: true,
        ..CAREFUL
    },
    ..SERVER
};

pub static GARAGE: Row = Row {
    name: "Garage",
    called: &["garage"],
    server: Some("garage"),
    // It is not known to demand them, and loses nothing but part growth.
    capabilities: Capabilities { equal_parts: true, ..CAREFUL },
    ..SERVER
};

/// This program's own, which `--embedded` chooses.
pub static EMBEDDED: Row = Row {
    name: "the embedded store",
    // Seen: it is tested with this client.
    sums: CRC32C,
    capabilities: Capabilities {
        conditional_writes: true,
        conditional_deletes: true,
        conditional_copies: true,
        tells_sums: true,
        ..CAREFUL
    },
    ..SERVER
};

pub static OTHER: Row = Row { name: "another S3 server", called: &["other"], ..SERVER };
