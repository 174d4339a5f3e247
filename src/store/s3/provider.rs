//! Which provider a store is, and what its row of the [`super::table`] says.

use std::str::FromStr;

use super::table::{self, RegionFrom, Row};

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

/// Which of a provider's endpoints for a region is meant, where it has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// IPv6 as well as IPv4.
    pub dual_stack: bool,
    /// Of validated cryptography (FIPS 140).
    pub fips: bool,
}

impl Variant {
    /// A text in which the variant is said by `{fips}` and `{dualstack}`.
    pub fn put_into(self, text: &str) -> String {
        let fips = if self.fips { "-fips" } else { "" };
        let dual_stack = if self.dual_stack { "dualstack." } else { "" };
        text.replace("{fips}", fips).replace("{dualstack}", dual_stack)
    }
}

impl Provider {
    /// All that a store can be.
    const ALL: [Provider; 12] = [
        Provider::Aws,
        Provider::Oss,
        Provider::Tos,
        Provider::R2,
        Provider::B2,
        Provider::Gcs,
        Provider::Minio,
        Provider::Ceph,
        Provider::SeaweedFs,
        Provider::Garage,
        Provider::Embedded,
        Provider::Other,
    ];

    /// What is known of it beforehand.
    pub fn row(self) -> &'static Row {
        match self {
            Provider::Aws => &table::AWS,
            Provider::Oss => &table::OSS,
            Provider::Tos => &table::TOS,
            Provider::R2 => &table::R2,
            Provider::B2 => &table::B2,
            Provider::Gcs => &table::GCS,
            Provider::Minio => &table::MINIO,
            Provider::Ceph => &table::CEPH,
            Provider::SeaweedFs => &table::SEAWEEDFS,
            Provider::Garage => &table::GARAGE,
            Provider::Embedded => &table::EMBEDDED,
            Provider::Auto | Provider::Other => &table::OTHER,
        }
    }

    /// By the host name of an endpoint (no scheme, no port); `None` where the name tells nothing.
    pub fn of_host(host: &str) -> Option<Provider> {
        let host = host.to_ascii_lowercase();
        Provider::ALL.into_iter().find(|provider| provider.owns(&host))
    }

    /// Whether a host, in small letters, is in one of its domains.
    fn owns(self, host: &str) -> bool {
        self.row().domains.iter().any(|domain| before_label(host, domain.name).is_some())
    }

    /// By the `Server` header of an answer.
    pub fn of_server_header(server: &str) -> Option<Provider> {
        let server = server.to_ascii_lowercase();
        let names = |row: &Row| row.server.is_some_and(|name| server.contains(name));
        Provider::ALL.into_iter().find(|provider| names(provider.row()))
    }

    /// The domain of its endpoints for a region.
    pub fn domain_of_region(self, region: &str) -> Option<&'static str> {
        let mut domains = self.row().domains.iter();
        domains.find(|domain| region.starts_with(domain.regions)).map(|domain| domain.name)
    }

    /// The endpoint that follows from the region, for providers where one does.
    pub fn endpoint_of_region(self, region: &str, variant: Variant) -> Option<String> {
        let row = self.row();
        let region = match row.native {
            // The provider's own tools call a region by what its host begins with.
            Some((label, _)) => region.strip_prefix(label).unwrap_or(region),
            None => region,
        };
        let endpoint = variant.put_into(row.endpoint?).replace("{region}", region);
        Some(endpoint.replace("{domain}", self.domain_of_region(region)?))
    }

    /// The region that the host name of an endpoint names, where it does.
    pub fn region_of_host(self, host: &str) -> Option<String> {
        let host = self.s3_host(host).unwrap_or_else(|| host.to_ascii_lowercase());
        let between = |(before, after): &(&str, &str)| {
            let from = host.find(before)? + before.len();
            let rest = &host[from..];
            let region = &rest[..rest.find(after)?];
            // That endpoint is everywhere.
            let is_region = !region.is_empty() && !region.starts_with("accelerate");
            is_region.then(|| region.to_owned())
        };
        match self.row().region {
            RegionFrom::Host(places) => places.iter().find_map(between),
            RegionFrom::Is(region) => Some(region.to_owned()),
            RegionFrom::Unknown => None,
        }
    }

    /// The host that speaks S3, in the place of one that speaks the provider's own protocol. `None` of all others.
    pub fn s3_host(self, host: &str) -> Option<String> {
        let (native, s3) = self.row().native?;
        let host = host.to_ascii_lowercase();
        let begins = |at: usize| before_label(&host[..at], "").is_some();
        let mut places = host.rmatch_indices(native).map(|(at, _)| at);
        let at = places.find(|at| begins(*at)).filter(|_| self.owns(&host))?;
        let before = s3.strip_suffix(native).filter(|before| !before.is_empty());
        let speaks_s3 = host[at..].starts_with(s3)
            || before.is_some_and(|before| before_label(&host[..at], before).is_some());
        (!speaks_s3).then(|| format!("{}{s3}{}", &host[..at], &host[at + native.len()..]))
    }
}

/// What a host name has before its end `end`, which begins with a label; nothing, or all labels before with their dot.
fn before_label<'a>(host: &'a str, end: &str) -> Option<&'a str> {
    let before = host.strip_suffix(end)?;
    (before.is_empty() || before.ends_with('.')).then_some(before)
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let called = text.to_ascii_lowercase();
        if called == "auto" {
            return Ok(Provider::Auto);
        }
        let mut known = Provider::ALL.into_iter();
        let found = known.find(|provider| provider.row().called.contains(&called.as_str()));
        found.ok_or_else(|| {
            let names = Provider::ALL.iter().filter_map(|provider| provider.row().called.first());
            let names: Vec<&str> = std::iter::once("auto").chain(names.copied()).collect();
            format!("unknown provider {text:?}; use one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Checksum;
    use super::super::table::BucketIn;
    use super::*;
    use crate::store::Capabilities;

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
            ("s3-fips.us-gov-west-1.amazonaws.com", Some(Provider::Aws), Some("us-gov-west-1")),
            ("s3-fips.dualstack.us-east-1.amazonaws.com", Some(Provider::Aws), Some("us-east-1")),
            ("s3.dualstack.cn-north-1.amazonaws.com.cn", Some(Provider::Aws), Some("cn-north-1")),
            ("s3.eusc-de-east-1.amazonaws.eu", Some(Provider::Aws), Some("eusc-de-east-1")),
            ("s3-accelerate.amazonaws.com", Some(Provider::Aws), None),
            ("oss-cn-beijing.aliyuncs.com", Some(Provider::Oss), Some("cn-beijing")),
            ("s3.oss-accelerate.aliyuncs.com", Some(Provider::Oss), None),
            ("tos-cn-beijing.volces.com", Some(Provider::Tos), Some("cn-beijing")),
            ("tos-s3-ap-southeast-1.bytepluses.com", Some(Provider::Tos), Some("ap-southeast-1")),
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
            let endpoint = provider.endpoint_of_region(region, Variant::default()).unwrap();
            let host = endpoint.strip_prefix("https://").unwrap();
            assert_eq!(Provider::of_host(host), Some(provider));
            assert_eq!(provider.region_of_host(host).as_deref(), Some(region));
        }
    }

    #[test]
    fn hosts_of_another_protocol_mean_those_that_speak_s3() {
        for (host, s3) in [
            ("oss-cn-beijing.aliyuncs.com", Some("s3.oss-cn-beijing.aliyuncs.com")),
            (
                "OSS-cn-beijing-internal.aliyuncs.com",
                Some("s3.oss-cn-beijing-internal.aliyuncs.com"),
            ),
            ("oss-b.oss-cn-beijing.aliyuncs.com", Some("oss-b.s3.oss-cn-beijing.aliyuncs.com")),
            ("bs3.oss-cn-beijing.aliyuncs.com", Some("bs3.s3.oss-cn-beijing.aliyuncs.com")),
            ("s3.oss-cn-beijing.aliyuncs.com", None),
            ("b.s3.oss-cn-beijing.aliyuncs.com", None),
            ("tos-cn-beijing.volces.com", Some("tos-s3-cn-beijing.volces.com")),
            ("tos-cn-beijing.ivolces.com", Some("tos-s3-cn-beijing.ivolces.com")),
            ("tos-s3-b.tos-cn-beijing.volces.com", Some("tos-s3-b.tos-s3-cn-beijing.volces.com")),
            ("tos-s3-cn-beijing.volces.com", None),
            ("s3.eu-west-1.amazonaws.com", None),
        ] {
            let provider = Provider::of_host(host).unwrap();
            assert_eq!(provider.s3_host(host).as_deref(), s3, "{host}");
        }
        // A domain of the user's own means what it says.
        assert_eq!(Provider::Oss.s3_host("oss-cn-beijing.example"), None);
    }

    #[test]
    fn unknown_stores_are_not_trusted_with_conditional_writes() {
        assert!(!Provider::Other.row().capabilities.conditional_writes);
        assert!(Provider::of_server_header("SeaweedFS 30GB 4.48") == Some(Provider::SeaweedFs));
    }

    #[test]
    fn every_row_of_the_table_agrees_with_itself_and_the_others() {
        for provider in Provider::ALL {
            let row = provider.row();
            assert!(!row.name.is_empty());
            for called in row.called {
                assert_eq!(called.parse(), Ok(provider), "{called} is one provider's alone");
            }
            for domain in row.domains {
                assert_eq!(Provider::of_host(domain.name), Some(provider));
                assert_eq!(Provider::of_host(&format!("x.{}", domain.name)), Some(provider));
                assert_ne!(Provider::of_host(&format!("x{}", domain.name)), Some(provider));
            }
            // Of several domains the last is for the regions that no other is for.
            assert!(row.domains.last().is_none_or(|domain| domain.regions.is_empty()));
            if let Some(server) = row.server {
                assert_eq!(server, server.to_ascii_lowercase());
                assert_eq!(Provider::of_server_header(server), Some(provider));
            }
            if let Some(endpoint) = provider.endpoint_of_region("xy-place-1", Variant::default()) {
                let host = endpoint.strip_prefix("https://").unwrap();
                assert_eq!(Provider::of_host(host), Some(provider));
                let region = provider.region_of_host(host);
                assert!(matches!(region.as_deref(), Some("xy-place-1" | "auto")), "{region:?}");
            }
            // An endpoint by region is in a domain, and what has a checksum of uploads sends it with their parts.
            assert!(row.endpoint.is_none() || !row.domains.is_empty());
            assert!(!row.sums.named_by_upload || row.sums.body == Checksum::Crc32c);
            let (one, other) = row.copy_conditions;
            assert!(one != other && one.ends_with("if-match") && other.ends_with("if-none-match"));
            assert!(!row.capabilities.tells_part_sums || row.capabilities.tells_sums);
        }
        assert!("".parse::<Provider>().is_err() && "embedded".parse::<Provider>().is_err());
    }

    /// A row of the table as the document has it.
    fn documented(row: &Row) -> String {
        let Capabilities {
            conditional_writes,
            conditional_deletes,
            conditional_copies,
            equal_parts,
            lists_uploads,
            copies_parts,
            marker_metadata,
            tells_sums,
            tells_part_sums,
            keeps_folders,
        } = row.capabilities;
        let quoted = |texts: Vec<&str>| match texts.is_empty() {
            true => "-".to_owned(),
            false => texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(" "),
        };
        let known_by = row.domains.iter().map(|domain| domain.name).chain(row.server).collect();
        let bucket = match row.bucket {
            BucketIn::Host => "host",
            BucketIn::RatherHost => "host, path if asked",
            BucketIn::RatherPath => "path, host if asked",
        };
        let region = match row.region {
            RegionFrom::Host(_) => "of the host",
            RegionFrom::Is(region) => region,
            RegionFrom::Unknown => "told",
        };
        let sum = if row.sums.body == Checksum::Crc32c { "CRC-32C" } else { "MD5" };
        let can = [
            (conditional_writes, "conditional writes"),
            (conditional_deletes, "conditional deletes"),
            (conditional_copies, "conditional copies"),
            (equal_parts, "equal parts only"),
            (!lists_uploads, "no list of uploads"),
            (!copies_parts, "no copies of parts"),
            (!marker_metadata, "markers without metadata"),
            (tells_sums, "tells sums"),
            (tells_part_sums, "tells sums of parts"),
            (keeps_folders, "keeps folders"),
        ];
        let can: Vec<&str> = can.iter().filter(|(has, _)| *has).map(|(_, what)| *what).collect();
        let can = if can.is_empty() { "-".to_owned() } else { can.join(", ") };
        format!(
            "| {} | {} | {} | {bucket} | {} | {region} | {sum} | {can} |",
            row.name,
            quoted(row.called.to_vec()),
            quoted(known_by),
            quoted(row.endpoint.into_iter().collect()),
        )
    }

    #[test]
    fn the_table_of_the_document_is_that_of_the_code() {
        let document = include_str!("../../../docs/providers.md");
        let rows: Vec<String> = Provider::ALL.map(|provider| documented(provider.row())).to_vec();
        assert!(document.contains(&rows.join("\n")), "it should be:\n{}", rows.join("\n"));
    }
}
