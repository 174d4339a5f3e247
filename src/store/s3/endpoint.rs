//! Where a request goes: the URL of a key, encoded so that what is signed is what is sent.
//!
//! Keys are bytes; everything but unreserved characters and `/` is percent-encoded. URL libraries rewrite
//! `.` and `..` segments, even percent-encoded ones, so a key like `a/../b` would address another object:
//! such keys are refused here, and [`Target::url`] checks that the parsed path is the one it built.

use std::net::IpAddr;

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::Url;

use super::provider::Provider;
use super::settings::{Addressing, S3Settings};
use crate::store::{ErrorKind, Key, Result, StoreError};

/// All but RFC 3986's unreserved characters.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// The longest key that S3 takes, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// One pair of a query string; the value is encoded when the URL is built.
pub type Query<'a> = [(&'a str, Vec<u8>)];

pub fn encode_path(bytes: &[u8]) -> String {
    percent_encode(bytes, PATH).to_string()
}

/// The base of all URLs of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `https://host[:port]`, without a path.
    origin: String,
    /// The endpoint's path, if it has one, and `/bucket`; nothing where the bucket is in the host name.
    bucket_path: String,
}

/// Which provider the store is of, by settings or by endpoint.
pub fn provider_of(settings: &S3Settings) -> Result<Provider> {
    if settings.provider != Provider::Auto {
        return Ok(settings.provider);
    }
    match &settings.endpoint_url {
        None => Ok(Provider::Aws),
        Some(url) => Ok(Provider::of_host(&host_of(url)?).unwrap_or(Provider::Other)),
    }
}

/// Whether signed requests go over a network as plain text.
pub fn is_in_the_clear(settings: &S3Settings) -> bool {
    !settings.no_sign_request
        && settings.endpoint_url.as_deref().is_some_and(is_plain_http_elsewhere)
}

/// Whether requests to an endpoint go over a network as plain text.
pub fn is_plain_http_elsewhere(endpoint_url: &str) -> bool {
    parse_endpoint(endpoint_url).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url))
}

/// An SSE-C key goes with each request, in a header.
///
/// # Errors
/// It would be seen on the way.
pub fn keep_key_off_the_network(settings: &S3Settings) -> Result<()> {
    let is_exposed = settings.endpoint_url.as_deref().is_some_and(is_plain_http_elsewhere);
    if settings.new_objects.customer_key.is_some() && is_exposed {
        return Err(invalid("the key of --sse-c-key-file is sent over https only"));
    }
    Ok(())
}

/// Whether the store listens on this machine, as far as its address tells.
pub fn is_on_this_machine(settings: &S3Settings) -> bool {
    let url = settings.endpoint_url.as_deref().and_then(|url| parse_endpoint(url).ok());
    url.is_some_and(|url| is_loopback(&url))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// The host name in an endpoint URL.
pub fn host_of(endpoint_url: &str) -> Result<String> {
    let url = parse_endpoint(endpoint_url)?;
    Ok(url.host_str().unwrap_or_default().to_owned())
}

fn parse_endpoint(endpoint_url: &str) -> Result<Url> {
    let wrong = |why: &str| {
        invalid(format!(
            "the endpoint {endpoint_url:?} {why}; give it as https://HOST[:PORT][/PATH]"
        ))
    };
    let with_scheme = if endpoint_url.contains("://") {
        endpoint_url.to_owned()
    } else {
        format!("https://{endpoint_url}")
    };
    let url = Url::parse(&with_scheme).map_err(|err| wrong(&format!("is not a URL ({err})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "the endpoint must not hold credentials; give it as https://HOST[:PORT][/PATH]",
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds more than a host, a port and a path"));
    }
    if !is_plain_path(url.path().trim_end_matches('/')) {
        return Err(wrong("has a path of more than letters, digits, '-', '.', '_' and '~'"));
    }
    Ok(url)
}

/// Whether a path is signed, sent and understood in one way only; the empty one is.
fn is_plain_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    let fits = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
    path.is_empty() || path.strip_prefix('/').is_some_and(|path| path.split('/').all(fits))
}

/// Whether the bucket goes into the host name.
fn in_host(settings: &S3Settings, provider: Provider, url: &Url) -> Result<bool> {
    let profile = provider.profile();
    let has_path = url.path() != "/";
    // A bucket name with dots does not match the wildcard certificate of the endpoint.
    let dotted = url.scheme() == "https" && settings.bucket.contains('.');
    match settings.addressing {
        _ if has_path && profile.path_style_refused => {
            Err(invalid("this provider's endpoints have no path; drop that of --endpoint-url"))
        }
        Addressing::Virtual if has_path => Err(invalid(
            "an endpoint with a path takes the bucket in the path; drop --addressing virtual",
        )),
        Addressing::Virtual => Ok(true),
        Addressing::Path if profile.path_style_refused => {
            Err(invalid("this provider takes virtual-hosted requests only; drop --addressing path"))
        }
        Addressing::Path => Ok(false),
        Addressing::Auto if has_path => Ok(false),
        Addressing::Auto => Ok(profile.path_style_refused || (profile.virtual_hosted && !dotted)),
    }
}

impl Target {
    /// The bucket's URLs at the settings' endpoint, or at the provider's own one for `region`.
    pub fn new(settings: &S3Settings, provider: Provider, region: &str) -> Result<Target> {
        let bucket = settings.bucket.as_str();
        check_bucket(bucket)?;
        let endpoint = match &settings.endpoint_url {
            Some(url) => url.clone(),
            None => {
                check_region(region)?;
                provider.endpoint_of_region(region).ok_or_else(|| {
                    invalid("this provider has no endpoint of its own; give --endpoint-url")
                })?
            }
        };
        let url = parse_endpoint(&endpoint)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let in_host = in_host(settings, provider, &url)?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let scheme = url.scheme();
        let already = host.starts_with(&format!("{bucket}."));
        Ok(match (in_host, already) {
            (true, false) => Target {
                origin: format!("{scheme}://{bucket}.{host}{port}"),
                bucket_path: String::new(),
            },
            (true, true) => {
                Target { origin: format!("{scheme}://{host}{port}"), bucket_path: String::new() }
            }
            (false, _) => Target {
                origin: format!("{scheme}://{host}{port}"),
                bucket_path: format!("{}/{bucket}", url.path().trim_end_matches('/')),
            },
        })
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The URI to sign for a key, or for the bucket itself.
    pub fn uri(&self, key: Option<&Key>, query: &Query<'_>) -> Result<Uri> {
        let mut text = format!("{}{}/", self.origin, self.bucket_path);
        if let Some(key) = key {
            check_key(key)?;
            text.push_str(&encode_path(key.as_bytes()));
        }
        for (at, (name, value)) in query.iter().enumerate() {
            text.push(if at == 0 { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            text.extend(percent_encode(value, QUERY));
        }
        text.parse().map_err(|err| invalid(format!("cannot address this key: {err}")))
    }

    /// The URL that goes on the wire; refuses one that the parser would have rewritten.
    pub fn url(uri: &Uri) -> Result<Url> {
        let text = uri.to_string();
        let url = Url::parse(&text).map_err(|err| invalid(format!("not a URL: {err}")))?;
        if url.path() != uri.path() || url.query() != uri.query() {
            return Err(invalid("the key would be rewritten on its way to the store"));
        }
        Ok(url)
    }
}

/// Refuses keys that no request can carry unchanged.
pub fn check_key(key: &Key) -> Result<()> {
    let bytes = key.as_bytes();
    if bytes.is_empty() {
        return Err(invalid("the key is empty"));
    }
    if bytes.len() > KEY_BYTES_MAX {
        return Err(invalid(format!("the key is longer than {KEY_BYTES_MAX} bytes")));
    }
    if std::str::from_utf8(bytes).is_err() {
        // S3 defines keys as UTF-8, and signatures are made over decoded UTF-8 paths.
        return Err(invalid("the key is not UTF-8"));
    }
    if bytes.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..") {
        return Err(invalid("the key has a '.' or '..' segment"));
    }
    Ok(())
}

/// Bucket names are checked loosely (providers differ), but nothing in one may change the URL.
fn check_bucket(bucket: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if bucket.is_empty() || bucket == "." || bucket == ".." || !bucket.chars().all(plain) {
        return Err(invalid(format!(
            "{bucket:?} is not a bucket name; use letters, digits, '-' and '.'"
        )));
    }
    Ok(())
}

/// Whether a text can be the name of a region: one label of a host name, since that is what it becomes. Whatever tells of
/// a region, be it a store, could otherwise name the host that signed requests go to.
pub fn is_region(text: &str) -> bool {
    // A label of a host name has one less.
    const CHARS_MAX: usize = 64;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric();
    (1..=CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| is_plain(&byte) || byte == b'-')
        && text.as_bytes().first().is_some_and(is_plain)
        && text.as_bytes().last().is_some_and(is_plain)
}

fn check_region(region: &str) -> Result<()> {
    if is_region(region) {
        return Ok(());
    }
    Err(invalid(format!(
        "{region:?} is not the name of a region; give one of letters, digits and '-' with --region"
    )))
}

fn invalid(message: impl Into<String>) -> StoreError {
    StoreError::new(ErrorKind::Invalid, "Address", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(endpoint: Option<&str>, addressing: Addressing, bucket: &str) -> Result<Target> {
        let mut settings = S3Settings::new(bucket);
        settings.endpoint_url = endpoint.map(str::to_owned);
        settings.addressing = addressing;
        Target::new(&settings, provider_of(&settings)?, "eu-west-1")
    }

    #[test]
    fn addressing_follows_the_provider() {
        let table = [
            (None, Addressing::Auto, "b", "https://b.s3.eu-west-1.amazonaws.com/k"),
            (None, Addressing::Auto, "b.c", "https://s3.eu-west-1.amazonaws.com/b.c/k"),
            (None, Addressing::Path, "b", "https://s3.eu-west-1.amazonaws.com/b/k"),
            (Some("http://127.0.0.1:8333"), Addressing::Auto, "b", "http://127.0.0.1:8333/b/k"),
            (Some("minio.lan:9000/"), Addressing::Auto, "b", "https://minio.lan:9000/b/k"),
            (Some("http://h:9/s3/v~1/"), Addressing::Auto, "b", "http://h:9/s3/v~1/b/k"),
            (Some("https://h/s3"), Addressing::Path, "b.c", "https://h/s3/b.c/k"),
            (
                Some("https://bucket.vpce.s3.eu-west-1.amazonaws.com/p"),
                Addressing::Auto,
                "b",
                "https://bucket.vpce.s3.eu-west-1.amazonaws.com/p/b/k",
            ),
            (
                Some("https://s3.oss-cn-hangzhou.aliyuncs.com"),
                Addressing::Auto,
                "b",
                "https://b.s3.oss-cn-hangzhou.aliyuncs.com/k",
            ),
            (
                Some("https://tos-s3-cn-beijing.volces.com"),
                Addressing::Auto,
                "b",
                "https://b.tos-s3-cn-beijing.volces.com/k",
            ),
            (
                Some("https://b.tos-s3-cn-beijing.volces.com"),
                Addressing::Auto,
                "b",
                "https://b.tos-s3-cn-beijing.volces.com/k",
            ),
        ];
        for (endpoint, addressing, bucket, expected) in table {
            let target = target(endpoint, addressing, bucket).unwrap();
            assert_eq!(target.uri(Some(&Key::from("k")), &[]).unwrap().to_string(), expected);
        }
        assert!(
            target(Some("https://s3.oss-cn-hangzhou.aliyuncs.com"), Addressing::Path, "b").is_err()
        );
        let of_path = Some("https://s3.oss-cn-hangzhou.aliyuncs.com/p");
        assert!(target(of_path, Addressing::Auto, "b").is_err());
        assert!(target(Some("https://h/p"), Addressing::Virtual, "b").is_err());
    }

    #[test]
    fn wrong_endpoints_and_buckets_are_refused() {
        for endpoint in [
            "ftp://x",
            "https://u:p@x",
            "https://x/a//b",
            "https://",
            "http://x?y",
            "a b",
            "x/a%2fb",
        ] {
            assert!(target(Some(endpoint), Addressing::Auto, "b").is_err(), "{endpoint}");
        }
        for bucket in ["", "..", "a/b", "a?b", "ü", "a b"] {
            assert!(target(None, Addressing::Auto, bucket).is_err(), "{bucket}");
        }
    }

    #[test]
    fn a_region_is_one_label_of_a_host_name() {
        for region in ["us-east-1", "a", "RegionOne", "7"] {
            assert!(is_region(region), "{region}");
        }
        let long = "a".repeat(65);
        for region in
            ["", "-", "-a", "a-", "a.b", "a/b", "a@b", "a:1", "a#", "a?", "a b", "a\n", "ü", &long]
        {
            assert!(!is_region(region), "{region}");
            let target = Target::new(&S3Settings::new("b"), Provider::Aws, region);
            assert!(target.unwrap_err().to_string().contains("--region"), "{region}");
        }
    }

    #[test]
    fn signed_requests_over_plain_http_are_in_the_clear() {
        for (endpoint, exposed) in [
            (Some("http://minio.lan:9000"), true),
            (Some("http://10.0.0.1/s3"), true),
            (Some("http://[2001:db8::1]:9000"), true),
            (Some("http://localhost.lan"), true),
            (Some("http://127.1.2.3:9000"), false),
            (Some("http://[::1]:9000"), false),
            (Some("http://[::ffff:127.0.0.1]"), false),
            (Some("http://LOCALHOST"), false),
            (Some("https://minio.lan"), false),
            (None, false),
        ] {
            let mut settings = S3Settings::new("b");
            settings.endpoint_url = endpoint.map(str::to_owned);
            assert_eq!(is_in_the_clear(&settings), exposed, "{endpoint:?}");
            settings.no_sign_request = true;
            assert!(!is_in_the_clear(&settings), "{endpoint:?}");
        }
    }

    #[test]
    fn any_character_of_a_key_survives_the_url() {
        let target = target(Some("http://127.0.0.1:1"), Addressing::Auto, "b").unwrap();
        for key in
            ["a b", "a+b", "100%", "#?&=;", "a//b", "\\", "a\nb", "ü/😀", "a.", "...", "%2e%2e"]
        {
            let uri =
                target.uri(Some(&Key::from(key)), &[("partNumber", b"1 2".to_vec())]).unwrap();
            let url = Target::url(&uri).unwrap();
            let path = url.path().strip_prefix("/b/").unwrap();
            let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
            assert_eq!(decoded, key.as_bytes());
            assert_eq!(url.query(), Some("partNumber=1%202"));
        }
    }

    #[test]
    fn keys_that_a_url_would_rewrite_are_refused() {
        for key in ["..", ".", "a/../b", "./a", "a/.", "a/./b"] {
            assert_eq!(check_key(&Key::from(key)).unwrap_err().kind, ErrorKind::Invalid, "{key}");
        }
        assert!(check_key(&Key::new(vec![0xff])).is_err());
        assert!(check_key(&Key::new(vec![b'a'; KEY_BYTES_MAX + 1])).is_err());
        assert!(check_key(&Key::new(vec![b'a'; KEY_BYTES_MAX])).is_ok());
    }
}
