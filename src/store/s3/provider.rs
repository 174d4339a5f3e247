//! What is known of each provider beforehand: its addressing, its endpoint, what it can do.
//!
//! The table is a starting point. [`super::S3Store`] refines it by the `Server` header of the first answer
//! and switches a capability off when the store answers that it has none (501 NotImplemented).

use std::str::FromStr;

use super::checksum::Checksum;
use crate::store::Capabilities;

/// Which software or service the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Told from the endpoint's host name, else from the `Server` header.
    #[default]
    Auto,
    Aws,
    /// Alibaba Cloud OSS.
    Oss,
    /// Volcengine TOS.
    Tos,
    /// Cloudflare R2.
    R2,
    /// Backblaze B2.
    B2,
    /// Google Cloud Storage through its XML API.
    Gcs,
    Minio,
    Ceph,
    SeaweedFs,
    Garage,
    /// The store that this program serves itself.
    Embedded,
    /// Something else that speaks S3.
    Other,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Whether `--addressing auto` puts the bucket into the host name.
    pub virtual_hosted: bool,
    /// Whether path style is refused outright.
    pub path_style_refused: bool,
    pub capabilities: Capabilities,
}

impl Provider {
    /// By the host name of an endpoint (no scheme, no port); `None` where the name tells nothing.
    pub fn of_host(host: &str) -> Option<Provider> {
        let host = host.to_ascii_lowercase();
        let under = |domain: &str| host == domain || host.ends_with(&format!(".{domain}"));
        if under("amazonaws.com") || under("amazonaws.com.cn") {
            Some(Provider::Aws)
        } else if under("aliyuncs.com") {
            Some(Provider::Oss)
        } else if under("volces.com") || under("ivolces.com") || under("bytepluses.com") {
            Some(Provider::Tos)
        } else if under("r2.cloudflarestorage.com") {
            Some(Provider::R2)
        } else if under("backblazeb2.com") {
            Some(Provider::B2)
        } else if under("storage.googleapis.com") {
            Some(Provider::Gcs)
        } else {
            None
        }
    }

    /// By the `Server` header of an answer.
    pub fn of_server_header(server: &str) -> Option<Provider> {
        let server = server.to_ascii_lowercase();
        [
            ("amazons3", Provider::Aws),
            ("minio", Provider::Minio),
            ("seaweedfs", Provider::SeaweedFs),
            ("garage", Provider::Garage),
            ("ceph", Provider::Ceph),
            ("aliyunoss", Provider::Oss),
            ("tosserver", Provider::Tos),
        ]
        .iter()
        .find(|(name, _)| server.contains(name))
        .map(|(_, provider)| *provider)
    }

    /// The provider's row. Conditional writes start as true only where they are known to be honoured: a
    /// store that ignores If-None-Match without a word would overwrite what the caller meant to keep.
    pub fn profile(self) -> Profile {
        let (virtual_hosted, path_style_refused) = match self {
            Provider::Aws => (true, false),
            Provider::Oss | Provider::Tos => (true, true),
            _ => (false, false),
        };
        let conditional_writes = matches!(
            self,
            Provider::Aws
                | Provider::R2
                | Provider::Minio
                | Provider::SeaweedFs
                | Provider::Embedded
        );
        let capabilities = Capabilities {
            conditional_writes,
            // R2 demands it. Garage is not known to, and loses nothing but part growth.
            equal_parts: matches!(self, Provider::R2 | Provider::Garage),
            // OSS has no ListMultipartUploads through its S3 API.
            lists_uploads: self != Provider::Oss,
            copies_parts: true,
            // SeaweedFS makes a folder of such an object, and keeps its content type only.
            marker_metadata: self != Provider::SeaweedFs,
            tells_sums: self.tells_checksums(),
            // SeaweedFS answers none.
            tells_part_sums: self == Provider::Aws,
            // It is a file system inside.
            keeps_folders: self == Provider::SeaweedFs,
        };
        Profile { virtual_hosted, path_style_refused, capabilities }
    }

    /// What it verifies bodies by.
    pub fn checksum(self) -> Checksum {
        match self {
            Provider::Aws | Provider::SeaweedFs | Provider::Embedded => Checksum::Crc32c,
            _ => Checksum::Md5,
        }
    }

    /// Whether an upload has to be begun with the name of its parts' checksum.
    pub fn names_checksum_of_upload(self) -> bool {
        matches!(self, Provider::Aws | Provider::SeaweedFs | Provider::Embedded)
    }

    /// Whether it tells the checksums that objects were written with, to requests that ask for them.
    pub fn tells_checksums(self) -> bool {
        matches!(self, Provider::Aws | Provider::SeaweedFs | Provider::Minio | Provider::Embedded)
    }

    /// Whether ETags that look like MD5s are those of the bytes, as it is known beforehand.
    pub fn etags_are_md5(self) -> bool {
        matches!(self, Provider::Aws | Provider::SeaweedFs | Provider::Embedded)
    }

    /// The endpoint that follows from the region, for providers where one does.
    pub fn endpoint_of_region(self, region: &str) -> Option<String> {
        match self {
            Provider::Auto | Provider::Aws => {
                let domain =
                    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
                Some(format!("https://s3.{region}.{domain}"))
            }
            Provider::Oss => {
                let region = region.strip_prefix("oss-").unwrap_or(region);
                Some(format!("https://s3.oss-{region}.aliyuncs.com"))
            }
            Provider::Tos => Some(format!("https://tos-s3-{region}.volces.com")),
            Provider::B2 => Some(format!("https://s3.{region}.backblazeb2.com")),
            Provider::Gcs => Some("https://storage.googleapis.com".to_owned()),
            _ => None,
        }
    }

    /// The region that the host name of an endpoint names, where it does.
    pub fn region_of_host(self, host: &str) -> Option<String> {
        let host = host.to_ascii_lowercase();
        let between = |before: &str, after: &str| {
            let from = host.find(before)? + before.len();
            let rest = &host[from..];
            let region = &rest[..rest.find(after)?];
            (!region.is_empty()).then(|| region.to_owned())
        };
        match self {
            Provider::Aws => ["s3.dualstack.", "s3-fips.", "s3."]
                .iter()
                .find_map(|before| between(before, ".amazonaws.com")),
            Provider::Oss => {
                let region = between("oss-", ".aliyuncs.com")?;
                Some(region.strip_suffix("-internal").unwrap_or(&region).to_owned())
            }
            Provider::Tos => between("tos-s3-", "."),
            Provider::B2 => between("s3.", ".backblazeb2.com"),
            Provider::R2 | Provider::Gcs => Some("auto".to_owned()),
            _ => None,
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "auto" => Provider::Auto,
            "aws" => Provider::Aws,
            "oss" | "alibaba" | "aliyun" => Provider::Oss,
            "tos" | "volcengine" => Provider::Tos,
            "r2" | "cloudflare" => Provider::R2,
            "b2" | "backblaze" => Provider::B2,
            "gcs" | "google" => Provider::Gcs,
            "minio" => Provider::Minio,
            "ceph" => Provider::Ceph,
            "seaweedfs" => Provider::SeaweedFs,
            "garage" => Provider::Garage,
            "other" => Provider::Other,
            _ => {
                return Err(format!(
                    "unknown provider {text:?}; use auto, aws, oss, tos, r2, b2, gcs, minio, ceph, \
                     seaweedfs, garage or other"
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_tell_provider_and_region() {
        let table = [
            ("s3.eu-west-1.amazonaws.com", Some(Provider::Aws), Some("eu-west-1")),
            ("s3.dualstack.eu-west-1.amazonaws.com", Some(Provider::Aws), Some("eu-west-1")),
            ("s3.cn-north-1.amazonaws.com.cn", Some(Provider::Aws), Some("cn-north-1")),
            ("s3.amazonaws.com", Some(Provider::Aws), None),
            ("s3.oss-cn-hangzhou.aliyuncs.com", Some(Provider::Oss), Some("cn-hangzhou")),
            ("s3.oss-cn-hangzhou-internal.aliyuncs.com", Some(Provider::Oss), Some("cn-hangzhou")),
            ("tos-s3-cn-beijing.volces.com", Some(Provider::Tos), Some("cn-beijing")),
            ("abc.r2.cloudflarestorage.com", Some(Provider::R2), Some("auto")),
            ("s3.us-west-004.backblazeb2.com", Some(Provider::B2), Some("us-west-004")),
            ("127.0.0.1", None, None),
            ("notamazonaws.com", None, None),
        ];
        for (host, provider, region) in table {
            assert_eq!(Provider::of_host(host), provider, "{host}");
            let told = provider.and_then(|provider| provider.region_of_host(host));
            assert_eq!(told.as_deref(), region, "{host}");
        }
    }

    #[test]
    fn regions_tell_endpoints_and_back() {
        for (provider, region) in [
            (Provider::Aws, "eu-west-1"),
            (Provider::Oss, "cn-hangzhou"),
            (Provider::Tos, "cn-beijing"),
            (Provider::B2, "us-west-004"),
        ] {
            let endpoint = provider.endpoint_of_region(region).unwrap();
            let host = endpoint.strip_prefix("https://").unwrap();
            assert_eq!(Provider::of_host(host), Some(provider));
            assert_eq!(provider.region_of_host(host).as_deref(), Some(region));
        }
    }

    #[test]
    fn every_store_is_sent_a_checksum_that_it_verifies() {
        for provider in [Provider::Aws, Provider::SeaweedFs, Provider::Embedded] {
            assert_eq!(provider.checksum(), Checksum::Crc32c);
        }
        for provider in [Provider::Oss, Provider::R2, Provider::Other] {
            assert_eq!(provider.checksum(), Checksum::Md5);
        }
    }

    #[test]
    fn unknown_stores_are_not_trusted_with_conditional_writes() {
        assert!(!Provider::Other.profile().capabilities.conditional_writes);
        assert!(Provider::of_server_header("SeaweedFS 30GB 4.48") == Some(Provider::SeaweedFs));
    }
}
