//! What a mount asks a store to allow, in the words of each provider: single rights, and the least policy that grants them
//! for one bucket and prefix.
//!
//! Sources: the service authorization reference of S3 (only ListBucket knows `s3:prefix`), the RAM actions of OSS, the
//! IAM actions of TOS. Stores that speak S3 and have policies take those of S3.

use serde::Serialize;

use super::access_point::AccessPoint;
use super::endpoint::provider_of;
use super::provider::Provider;
use super::settings::S3Settings;
use crate::store::{Key, Result};

/// One thing that a mount does to a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Names of objects.
    List,
    Get,
    /// Objects and parts of uploads; copies inside the store, with `Get`.
    Put,
    Delete,
    ListParts,
    AbortUpload,
    /// To find an upload whose beginning was never answered; without it such an upload stays.
    ListUploads,
    /// Copies keep an object's tags.
    GetTags,
    PutTags,
    /// With `--acl` alone.
    PutAcl,
}

impl Right {
    const READING: [Right; 2] = [Right::List, Right::Get];
    const WRITING: [Right; 9] = [
        Right::List,
        Right::ListUploads,
        Right::Get,
        Right::Put,
        Right::Delete,
        Right::ListParts,
        Right::AbortUpload,
        Right::GetTags,
        Right::PutTags,
    ];

    /// The provider's name for it.
    pub fn action(self, provider: Provider) -> String {
        let words = Words::of(provider);
        format!("{}:{}", words.service(), self.name(words))
    }

    fn name(self, words: Words) -> &'static str {
        match (self, words) {
            (Right::List, Words::Oss) => "ListObjects",
            (Right::List, _) => "ListBucket",
            (Right::ListUploads, Words::Oss) => "ListMultipartUploads",
            (Right::ListUploads, _) => "ListBucketMultipartUploads",
            (Right::ListParts, Words::Oss) => "ListParts",
            (Right::ListParts, _) => "ListMultipartUploadParts",
            (Right::Get, _) => "GetObject",
            (Right::Put, _) => "PutObject",
            (Right::Delete, _) => "DeleteObject",
            (Right::AbortUpload, _) => "AbortMultipartUpload",
            (Right::GetTags, _) => "GetObjectTagging",
            (Right::PutTags, _) => "PutObjectTagging",
            (Right::PutAcl, _) => "PutObjectAcl",
        }
    }
}

/// Whose policies are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    S3,
    Oss,
    Tos,
}

impl Words {
    fn of(provider: Provider) -> Words {
        match provider {
            Provider::Oss => Words::Oss,
            Provider::Tos => Words::Tos,
            _ => Words::S3,
        }
    }

    fn service(self) -> &'static str {
        match self {
            Words::S3 => "s3",
            Words::Oss => "oss",
            Words::Tos => "tos",
        }
    }

    fn version(self) -> Option<&'static str> {
        match self {
            Words::S3 => Some("2012-10-17"),
            Words::Oss => Some("1"),
            Words::Tos => None,
        }
    }

    /// The condition key of the prefix that a listing is of.
    fn prefix_key(self) -> &'static str {
        match self {
            Words::S3 => "s3:prefix",
            Words::Oss => "oss:Prefix",
            Words::Tos => "tos:prefix",
        }
    }

    fn resource(self, region: &str, path: &str) -> String {
        match self {
            Words::S3 => format!("arn:{}:s3:::{path}", partition(region)),
            Words::Oss => format!("acs:oss:*:*:{path}"),
            Words::Tos => format!("trn:tos:::{path}"),
        }
    }
}

fn partition(region: &str) -> &'static str {
    if region.starts_with("cn-") {
        "aws-cn"
    } else if region.starts_with("us-gov-") {
        "aws-us-gov"
    } else {
        "aws"
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    statement: Vec<Statement>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: &'static str,
    action: Vec<String>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<serde_json::Value>,
}

impl Statement {
    fn allow(action: Vec<String>, resource: String) -> Statement {
        Statement { effect: "Allow", action, resource: vec![resource], condition: None }
    }
}

/// The least that a mount of the prefix needs, as JSON.
///
/// # Errors
/// The endpoint makes no sense.
pub fn least(settings: &S3Settings, prefix: &Key, read_only: bool) -> Result<String> {
    let provider = provider_of(settings)?;
    let words = Words::of(provider);
    let region = settings.region.as_deref().unwrap_or_default();
    let (bucket, below) = (settings.bucket.as_str(), pattern(words, prefix));
    let mut rights: Vec<Right> =
        if read_only { Right::READING.to_vec() } else { Right::WRITING.to_vec() };
    if settings.new_objects.acl.is_some() && !read_only {
        rights.push(Right::PutAcl);
    }
    let actions = |wanted: &dyn Fn(&Right) -> bool| -> Vec<String> {
        rights.iter().filter(|right| wanted(right)).map(|right| right.action(provider)).collect()
    };
    let point = AccessPoint::of(bucket).ok().flatten();
    let (of_bucket, of_objects) = match point {
        Some(point) => (point.arn.to_owned(), point.object(&below)),
        None => {
            let of_objects = words.resource(region, &format!("{bucket}/{below}"));
            (words.resource(region, bucket), of_objects)
        }
    };
    let mut listing = Statement::allow(actions(&|right| *right == Right::List), of_bucket.clone());
    if !prefix.as_bytes().is_empty() {
        let key = words.prefix_key();
        listing.condition = Some(serde_json::json!({ "StringLike": { key: [below.clone()] } }));
    }
    let mut statement = vec![listing];
    let uploads = actions(&|right| *right == Right::ListUploads);
    if !uploads.is_empty() {
        statement.push(Statement::allow(uploads, of_bucket));
    }
    statement.push(Statement::allow(
        actions(&|right| !matches!(right, Right::List | Right::ListUploads)),
        of_objects,
    ));
    if let (Words::S3, Some(key)) = (words, &settings.new_objects.sse_kms_key_id) {
        let key = if key.starts_with("arn:") {
            key.clone()
        } else {
            format!("arn:{}:kms:*:*:key/{key}", partition(region))
        };
        let actions = ["kms:GenerateDataKey", "kms:Decrypt"].map(str::to_owned).to_vec();
        statement.push(Statement::allow(actions, key));
    }
    let policy = Policy { version: words.version(), statement };
    // Strings and lists of them are JSON always.
    Ok(serde_json::to_string_pretty(&policy).unwrap_or_default())
}

/// What matches all keys below a prefix. In S3's, `*`, `?` and `$` of a key are written so that they mean themselves.
fn pattern(words: Words, prefix: &Key) -> String {
    let mut pattern = String::new();
    for c in prefix.as_text().chars() {
        match c {
            '*' | '?' | '$' if words == Words::S3 => pattern.extend(['$', '{', c, '}']),
            c => pattern.push(c),
        }
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(provider: Provider, prefix: &str, read_only: bool) -> Value {
        let mut settings = S3Settings::new("b");
        settings.provider = provider;
        serde_json::from_str(&least(&settings, &Key::from(prefix), read_only).unwrap()).unwrap()
    }

    fn statement(policy: &Value, at: usize) -> (&Value, &Value, &Value) {
        let statement = &policy["Statement"][at];
        assert_eq!(statement["Effect"], "Allow");
        (&statement["Action"], &statement["Resource"], &statement["Condition"])
    }

    #[test]
    fn a_policy_grants_what_a_mount_does_below_its_prefix_alone() {
        let aws = policy(Provider::Aws, "p/q/", false);
        assert_eq!(aws["Version"], "2012-10-17");
        let below = json!({ "StringLike": { "s3:prefix": ["p/q/*"] } });
        let listing = (&json!(["s3:ListBucket"]), &json!(["arn:aws:s3:::b"]), &below);
        assert_eq!(statement(&aws, 0), listing);
        let (actions, resource, condition) = statement(&aws, 2);
        assert_eq!(*resource, json!(["arn:aws:s3:::b/p/q/*"]));
        assert!(condition.is_null());
        for action in ["GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"] {
            assert!(actions.as_array().unwrap().contains(&json!(format!("s3:{action}"))));
        }
        assert!(!aws.to_string().contains("s3:*"), "{aws}");
        assert!(statement(&policy(Provider::Aws, "", false), 0).2.is_null());
        let arn = "arn:aws:s3:us-west-2:123456789012:accesspoint/p";
        let told = least(&S3Settings::new(arn), &Key::from("q/"), false).unwrap();
        for resource in [format!("\"{arn}\""), format!("\"{arn}/object/q/*\"")] {
            assert!(told.contains(&resource), "{told}");
        }

        let oss = policy(Provider::Oss, "p/", false);
        assert_eq!(
            (&oss["Version"], statement(&oss, 0).0),
            (&json!("1"), &json!(["oss:ListObjects"]))
        );
        assert_eq!(*statement(&oss, 2).1, json!(["acs:oss:*:*:b/p/*"]));
        assert!(statement(&oss, 2).0.as_array().unwrap().contains(&json!("oss:ListParts")));
        let tos = policy(Provider::Tos, "p/", false);
        assert!(tos["Version"].is_null());
        assert_eq!(*statement(&tos, 0).2, json!({ "StringLike": { "tos:prefix": ["p/*"] } }));
        assert_eq!(*statement(&tos, 2).1, json!(["trn:tos:::b/p/*"]));
    }

    #[test]
    fn a_read_only_mount_needs_to_list_and_get_alone() {
        for (provider, service) in
            [(Provider::Aws, "s3"), (Provider::Minio, "s3"), (Provider::Oss, "oss")]
        {
            let policy = policy(provider, "", true);
            assert_eq!(policy["Statement"].as_array().unwrap().len(), 2);
            assert_eq!(*statement(&policy, 1).0, json!([format!("{service}:GetObject")]));
        }
    }

    #[test]
    fn a_policy_follows_partition_key_and_acl() {
        let mut settings = S3Settings::new("b");
        settings.region = Some("cn-north-1".to_owned());
        settings.new_objects.sse_kms_key_id = Some("abc".to_owned());
        settings.new_objects.acl = Some("private".to_owned());
        let told = least(&settings, &Key::from("a*b/"), false).unwrap();
        for part in [
            "\"arn:aws-cn:s3:::b/a${*}b/*\"",
            "\"arn:aws-cn:kms:*:*:key/abc\"",
            "kms:GenerateDataKey",
            "s3:PutObjectAcl",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!least(&settings, &Key::default(), true).unwrap().contains("PutObjectAcl"));
    }
}
