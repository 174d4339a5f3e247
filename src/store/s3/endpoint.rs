//! Where a request goes: the URL of a key, encoded so that what is signed is what is sent.
//!
//! Keys are bytes; everything but unreserved characters and `/` is percent-encoded. URL libraries rewrite
//! `.` and `..` segments, even percent-encoded ones, so a key like `a/../b` would address another object:
//! such keys are refused here, and [`Target::url`] checks that the parsed path is the one it built.

use std::net::IpAddr;

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::Url;

use super::access_point::{AccessPoint, refuse_directory_bucket};
use super::provider::{Provider, Variant};
use super::settings::{Addressing, S3Settings};
use super::table::BucketIn;
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
    let row = provider.row();
    let is_path_refused = row.bucket == BucketIn::Host;
    let has_path = url.path() != "/";
    // A bucket name with dots does not match the wildcard certificate of the endpoint.
    let dotted = url.scheme() == "https" && settings.bucket.contains('.');
    match settings.addressing {
        _ if has_path && is_path_refused => {
            Err(invalid("this provider's endpoints have no path; drop that of --endpoint-url"))
        }
        Addressing::Virtual if has_path => Err(invalid(
            "an endpoint with a path takes the bucket in the path; drop --addressing virtual",
        )),
        Addressing::Virtual => Ok(true),
        Addressing::Path if is_path_refused => {
            Err(invalid("this provider takes virtual-hosted requests only; drop --addressing path"))
        }
        Addressing::Path => Ok(false),
        Addressing::Auto if has_path => Ok(false),
        Addressing::Auto => Ok(is_path_refused || (row.bucket == BucketIn::RatherHost && !dotted)),
    }
}

/// Which of its endpoints a provider is asked at.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub region: &'a str,
    pub variant: Variant,
}

impl Target {
    /// The bucket's URLs at the settings' endpoint, or at the provider's own one for a region.
    pub fn new(settings: &S3Settings, provider: Provider, place: Place<'_>) -> Result<Target> {
        let bucket = settings.bucket.as_str();
        let point = check_bucket(bucket, provider)?;
        if let Some(point) = point {
            return Target::of_access_point(settings, &point, place.variant);
        }
        let url = match &settings.endpoint_url {
            Some(url) => speaking_s3(parse_endpoint(url)?, provider)?,
            None => {
                check_region(place.region)?;
                let endpoint = provider.endpoint_of_region(place.region, place.variant);
                parse_endpoint(&endpoint.ok_or_else(|| {
                    invalid("this provider has no endpoint of its own; give --endpoint-url")
                })?)?
            }
        };
        let host = url.host_str().unwrap_or_default();
        let in_host = in_host(settings, provider, &url)?;
        let already = host.starts_with(&format!("{bucket}."));
        let bucket_path = match in_host {
            true => String::new(),
            false => format!("{}/{bucket}", url.path().trim_end_matches('/')),
        };
        let origin = match (in_host, already) {
            (true, false) => origin_of(&url, &format!("{bucket}.{host}")),
            _ => origin_of(&url, host),
        };
        Ok(Target { origin, bucket_path })
    }

    /// An access point is always named by the host.
    fn of_access_point(
        settings: &S3Settings,
        point: &AccessPoint<'_>,
        variant: Variant,
    ) -> Result<Target> {
        if settings.addressing == Addressing::Path {
            return Err(invalid("an access point is named by the host; drop --addressing path"));
        }
        let origin = match &settings.endpoint_url {
            // An interface endpoint of a private network.
            Some(url) => {
                let url = parse_endpoint(url)?;
                let host = url.host_str().unwrap_or_default();
                origin_of(&url, &format!("{}.{host}", point.label()))
            }
            None => point.origin(variant).ok_or_else(|| {
                invalid("there is no endpoint for this access point; give --endpoint-url")
            })?,
        };
        Ok(Target { origin, bucket_path: String::new() })
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

/// An endpoint's origin, with this host in the place of its own.
fn origin_of(url: &Url, host: &str) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.scheme())
}

/// Users know the endpoint of the provider's own protocol, which is not the one of S3.
fn speaking_s3(mut url: Url, provider: Provider) -> Result<Url> {
    if let Some(host) = provider.s3_host(url.host_str().unwrap_or_default()) {
        url.set_host(Some(&host)).map_err(|err| invalid(format!("{host:?}: {err}")))?;
    }
    Ok(url)
}

/// `scheme://host[:port]` of an address that a store sends requests on to, or of a host that it names alone.
pub fn origin_in(told: &str) -> Option<String> {
    let told = told.trim();
    if told.starts_with('/') {
        return None;
    }
    let url = match told.contains("://") {
        true => Url::parse(told),
        false => Url::parse(&format!("https://{told}")),
    };
    let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    Some(origin_of(&url, url.host_str()?))
}

/// The endpoint of the settings, in the region that the bucket turned out to be in, where the provider's own hosts are
/// named by it. `None` where the endpoint stays what it is.
pub fn in_region(settings: &S3Settings, provider: Provider, region: &str) -> Option<String> {
    let mut url = parse_endpoint(settings.endpoint_url.as_deref()?).ok()?;
    let host = url.host_str()?.to_owned();
    let told = provider.region_of_host(&host).filter(|told| told != region)?;
    let at = host.rfind(&told)?;
    let moved = format!("{}{region}{}", &host[..at], &host[at + told.len()..]);
    // One of a private network is of this region alone.
    let is_own = Provider::of_host(&moved) == Some(provider) && !moved.contains(".vpce.");
    let names_region = provider.region_of_host(&moved).as_deref() == Some(region);
    if !is_own || !names_region {
        return None;
    }
    url.set_host(Some(&moved)).ok()?;
    Some(url.to_string())
}

/// Bucket names are checked loosely (providers differ), but nothing in one may change the URL. An access point, if it
/// is one.
fn check_bucket(bucket: &str, provider: Provider) -> Result<Option<AccessPoint<'_>>> {
    if let Some(point) = AccessPoint::of(bucket).map_err(invalid)? {
        if provider != Provider::Aws {
            return Err(invalid(format!(
                "{bucket:?} is an access point of Amazon S3, and the endpoint is not; give a bucket"
            )));
        }
        return Ok(Some(point));
    }
    if provider == Provider::Aws {
        refuse_directory_bucket(bucket).map_err(invalid)?;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if bucket.is_empty() || bucket == "." || bucket == ".." || !bucket.chars().all(plain) {
        return Err(invalid(format!(
            "{bucket:?} is not a bucket name; use letters, digits, '-' and '.'"
        )));
    }
    Ok(None)
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
#[path = "endpoint_tests.rs"]
mod tests;
