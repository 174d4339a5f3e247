//! Access points of Amazon S3: another name of a bucket, with an endpoint of its own.
//!
//! Sources: "Referencing access points with ARNs, access point aliases, or virtual-hosted-style URIs" (User Guide). An alias
//! (`NAME-…-s3alias`) is used like a bucket's name and needs nothing of this.

use super::provider::{Provider, Variant};

/// What `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessPoint<'a> {
    pub arn: &'a str,
    pub region: &'a str,
    account: &'a str,
    name: &'a str,
}

/// The longest label of a host name, in bytes.
const LABEL_MAX: usize = 63;

impl<'a> AccessPoint<'a> {
    /// What a bucket's name says, where it is an ARN.
    ///
    /// # Errors
    /// An ARN of something that cannot be mounted: why, and what can be.
    pub fn of(bucket: &'a str) -> Result<Option<AccessPoint<'a>>, String> {
        if !bucket.starts_with("arn:") {
            return Ok(None);
        }
        let wrong = |why: &str| {
            Err(format!(
                "{bucket:?} {why}; give a bucket, or arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME"
            ))
        };
        let fields: Vec<&str> = bucket.splitn(6, ':').collect();
        let &[_, partition, "s3", region, account, resource] = fields.as_slice() else {
            return wrong("is no access point of Amazon S3 in a region");
        };
        let name = resource.strip_prefix("accesspoint").and_then(|it| it.strip_prefix(['/', ':']));
        let Some(name) = name else { return wrong("is no access point") };
        if region.is_empty() {
            // Their requests are signed for all regions at once (SigV4A).
            return wrong("is a Multi-Region Access Point, whose signatures are not made here");
        }
        let plain = |text: &str| {
            let fits =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !text.is_empty()
                && text.bytes().all(fits)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let fits = name.len() + 1 + account.len() <= LABEL_MAX;
        if ![partition, region, name].into_iter().all(plain) || !is_account || !fits {
            return wrong("is not the ARN of an access point");
        }
        Ok(Some(AccessPoint { arn: bucket, region, account, name }))
    }

    /// The first label of its host.
    pub fn label(&self) -> String {
        format!("{}-{}", self.name, self.account)
    }

    /// `https://HOST`, or nothing where Amazon has no domain for its region.
    pub fn origin(&self, variant: Variant) -> Option<String> {
        let domain = Provider::Aws.domain_of_region(self.region)?;
        let service = variant.put_into("s3-accesspoint{fips}.{dualstack}");
        Some(format!("https://{}.{service}{}.{domain}", self.label(), self.region))
    }

    /// What requests and policies call an object that is reached through it, or those that a pattern means.
    pub fn object(&self, key: &str) -> String {
        format!("{}/object/{key}", self.arn)
    }
}

/// Why a bucket of S3 Express One Zone is not mounted; its name tells.
pub fn refuse_directory_bucket(bucket: &str) -> Result<(), String> {
    if bucket.ends_with("--x-s3") || bucket.ends_with("--xa-s3") {
        return Err(format!(
            "{bucket:?} is a directory bucket (S3 Express One Zone), whose requests need sessions (CreateSession) \
             that are not made here; give a general purpose bucket"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_point_has_a_host_of_its_own() {
        let plain = Variant::default();
        let (dual_stack, fips) =
            (Variant { dual_stack: true, ..plain }, Variant { fips: true, ..plain });
        for (arn, variant, host) in [
            (
                "arn:aws:s3:us-west-2:123456789012:accesspoint/test",
                plain,
                "test-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
            ),
            (
                "arn:aws:s3:us-west-2:123456789012:accesspoint:test",
                dual_stack,
                "test-123456789012.s3-accesspoint.dualstack.us-west-2.amazonaws.com",
            ),
            (
                "arn:aws-us-gov:s3:us-gov-west-1:123456789012:accesspoint/a-b",
                fips,
                "a-b-123456789012.s3-accesspoint-fips.us-gov-west-1.amazonaws.com",
            ),
            (
                "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/test",
                plain,
                "test-123456789012.s3-accesspoint.cn-north-1.amazonaws.com.cn",
            ),
        ] {
            let point = AccessPoint::of(arn).unwrap().unwrap();
            assert_eq!(point.origin(variant), Some(format!("https://{host}")));
        }
        assert_eq!(AccessPoint::of("bucket"), Ok(None));
    }

    #[test]
    fn what_is_no_access_point_of_a_region_is_refused() {
        let long = format!("arn:aws:s3:us-west-2:123456789012:accesspoint/{}", "a".repeat(51));
        for (arn, why) in [
            ("arn:aws:s3:::bucket", "no access point"),
            ("arn:aws:s3::123456789012:accesspoint/m.mrap", "Multi-Region"),
            ("arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/x", "no access point"),
            (
                "arn:aws:s3-outposts:us-west-2:123456789012:outpost/o/accesspoint/x",
                "no access point",
            ),
            ("arn:aws:s3:us-west-2:1234:accesspoint/x", "not the ARN"),
            ("arn:aws:s3:evil.example/:123456789012:accesspoint/x", "not the ARN"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint/x/y", "not the ARN"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint/x.evil", "not the ARN"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint/", "not the ARN"),
            ("arn:", "no access point"),
            (&long, "not the ARN"),
        ] {
            let told = AccessPoint::of(arn).unwrap_err();
            assert!(told.contains(why) && told.contains("; give "), "{told}");
        }
        assert!(
            refuse_directory_bucket("b--use1-az4--x-s3").unwrap_err().contains("CreateSession")
        );
        assert!(refuse_directory_bucket("b--x-s3-not").is_ok());
    }
}
