//! Sizes, rates, durations, modes and bucket addresses, as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{self, FOR_EVER};
use crate::control::messages::RateChange;
use crate::settings::{Addressing, Ttl};
use crate::store::s3::AccessPoint;
use crate::store::{Key, Rate};

/// `8MiB`, `1G`, `512k`, `4096`: powers of 1024, as `dd`, `truncate` and Docker read them; `MB`, `GB`
/// (with the B and without the i) are powers of 1000. In bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_bytes = unit_bytes(unit.trim()).ok_or_else(|| {
        format!("unknown unit {:?}; write a size such as 8MiB or 1G", unit.trim())
    })?;
    let not_a_size = || "not a size; write one such as 8MiB or 1G".to_owned();
    if !number.contains('.') {
        let whole: u64 = number.parse().map_err(|_| not_a_size())?;
        return whole.checked_mul(unit_bytes).ok_or_else(|| "too large".to_owned());
    }
    let fraction: f64 = number.parse().map_err(|_| not_a_size())?;
    let bytes = fraction * unit_bytes as f64;
    if bytes >= u64::MAX as f64 {
        return Err("too large".to_owned());
    }
    Ok(bytes as u64)
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let (letter, thousands) = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => return Some(1),
        "k" | "kib" => ('k', 1024),
        "m" | "mib" => ('m', 1024),
        "g" | "gib" => ('g', 1024),
        "t" | "tib" => ('t', 1024),
        "kb" => ('k', 1000),
        "mb" => ('m', 1000),
        "gb" => ('g', 1000),
        "tb" => ('t', 1000),
        _ => return None,
    };
    let power = "kmgt".find(letter)? as u32 + 1;
    Some(u64::pow(thousands, power))
}

/// `10MiB/s`, `10MiB`, or `10MiB/s:64MiB` where so much may go at once. Never 0.
pub fn rate(text: &str) -> Result<Rate, String> {
    let told = |e: String| e.replace("size such as 8MiB or 1G", "rate such as 10MiB/s");
    rate_of(text, |number| size(number).map_err(told))
}

/// `100`, or `100:500` where so many may go at once. Never 0.
pub fn request_rate(text: &str) -> Result<Rate, String> {
    let not_a_number = "not a number; write one such as 100, or 100:500".to_owned();
    rate_of(text, |number| number.parse().map_err(|_| not_a_number.clone()))
}

fn rate_of(text: &str, read: impl Fn(&str) -> Result<u64, String>) -> Result<Rate, String> {
    let (rate, burst) =
        text.split_once(':').map_or((text, None), |(rate, burst)| (rate, Some(burst)));
    let rate = rate.trim();
    let per_second = read(rate.strip_suffix("/s").unwrap_or(rate))?;
    let burst = burst.map(|burst| read(burst.trim())).transpose()?;
    if per_second == 0 || burst == Some(0) {
        return Err("a rate of 0 would never end; none lifts the limit of a live mount".to_owned());
    }
    Ok(Rate::new(per_second, burst))
}

/// As [`rate`], or `none`.
pub fn rate_or_none(text: &str) -> Result<RateChange, String> {
    or_none(text, rate)
}

/// As [`request_rate`], or `none`.
pub fn request_rate_or_none(text: &str) -> Result<RateChange, String> {
    or_none(text, request_rate)
}

fn or_none(text: &str, read: fn(&str) -> Result<Rate, String>) -> Result<RateChange, String> {
    match text.trim() {
        "none" => Ok(RateChange::Lift),
        other => read(other).map(RateChange::Set),
    }
}

/// `1s`, `500ms`, `2m 30s`; a bare number counts seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text)
        .map_err(|_| "not a duration; write one such as 500ms, 30s or 7d".to_owned())
}

/// As [`duration`], but never 0.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    let limit = duration(text)?;
    if limit.is_zero() { Err("a limit of 0 leaves no time at all".to_owned()) } else { Ok(limit) }
}

/// A [`time_limit`], or `infinite`, which is a century.
pub fn patience(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "infinite" | "forever" => Ok(FOR_EVER),
        other => time_limit(other)
            .map(|limit| limit.min(FOR_EVER))
            .map_err(|wrong| format!("{wrong}, or infinite")),
    }
}

/// A [`duration`], or `infinite`.
pub fn ttl(text: &str) -> Result<Ttl, String> {
    match text.trim() {
        "infinite" | "forever" => Ok(Ttl::Forever),
        other => duration(other)
            .map(Ttl::For)
            .map_err(|_| "write a duration such as 1s or 5m, 0, or infinite".to_owned()),
    }
}

/// `2026-11-01T12:00:00Z` or with an offset such as `+02:00`, `2026-11-01` (its beginning, in UTC), `2d ago` or `2d`.
/// Never in the future.
pub fn moment(text: &str) -> Result<SystemTime, String> {
    const CURE: &str = "write a time such as 2026-11-01T12:00:00Z, a date, or an age such as 2d";
    let (text, now) = (text.trim(), clock::wall());
    let moment = match humantime::parse_duration(text.strip_suffix("ago").unwrap_or(text).trim()) {
        Ok(age) => now.checked_sub(age).filter(|moment| *moment >= UNIX_EPOCH),
        Err(_) => time_of_day(text).or_else(|| time_of_day(&format!("{text}T00:00:00Z"))),
    };
    match moment {
        None => Err(CURE.to_owned()),
        Some(moment) if moment > now => {
            let now = humantime::format_rfc3339_seconds(now);
            Err(format!("it is in the future (it is {now} now); {CURE}"))
        }
        Some(moment) => Ok(moment),
    }
}

/// RFC 3339, which the library reads with `Z` only.
fn time_of_day(text: &str) -> Option<SystemTime> {
    if let Ok(moment) = humantime::parse_rfc3339(text) {
        return Some(moment);
    }
    let (time, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |digits: &str| -> Option<u64> {
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (hours, minutes) = (number(hours).filter(|it| *it < 24)?, number(minutes)?);
    let offset_by = Duration::from_secs(hours * 3600 + minutes * 60);
    let there = humantime::parse_rfc3339(&format!("{time}Z")).ok()?;
    match offset.as_bytes()[0] {
        b'+' => there.checked_sub(offset_by),
        b'-' => there.checked_add(offset_by),
        _ => None,
    }
}

/// Permission bits in octal: `0644`, `755`.
pub fn mode(text: &str) -> Result<u32, String> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0o").unwrap_or(digits);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("not permission bits; write them in octal, such as 0644".to_owned()),
    }
}

/// `auto` or `off`: whether new files get a content type.
pub fn content_type(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("choose auto or off".to_owned()),
    }
}

/// `auto`, `path` or `virtual`.
pub fn addressing(text: &str) -> Result<Addressing, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(Addressing::Auto),
        "path" => Ok(Addressing::Path),
        "virtual" => Ok(Addressing::Virtual),
        _ => Err("choose auto, path or virtual".to_owned()),
    }
}

/// `http://…` or `https://…`, with a plain path at most, without query or credentials. The trailing slash goes.
pub fn endpoint_url(text: &str) -> Result<String, String> {
    let cure = "write it as https://HOST[:PORT][/PATH]";
    let text = text.trim().trim_end_matches('/');
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(|| cure.to_owned())?;
    if host.contains('@') {
        return Err("credentials do not belong into the endpoint; set AWS_ACCESS_KEY_ID".to_owned());
    }
    let odd =
        |part: &str| matches!(part, "" | "." | "..") || part.contains(['?', '#', ' ', '%', '\\']);
    if host.split('/').any(odd) {
        return Err(cure.to_owned());
    }
    Ok(text.to_owned())
}

/// A bucket and the prefix inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    pub bucket: String,
    /// Empty, or ends in `/`.
    pub prefix: Key,
}

/// What is before and behind the first slash behind a bucket's name. The ARN of an access point may have one itself.
pub fn bucket_and_key(address: &str) -> (&str, &str) {
    const RESOURCE: &str = ":accesspoint/";
    let name = match address.find(RESOURCE).filter(|_| address.starts_with("arn:")) {
        Some(at) => at + RESOURCE.len(),
        None => 0,
    };
    match address[name..].find('/').map(|at| name + at) {
        Some(slash) => (&address[..slash], &address[slash + 1..]),
        None => (address, ""),
    }
}

/// `s3://BUCKET[/PREFIX]`.
pub fn bucket_address(text: &str) -> Result<BucketAddress, String> {
    let rest = text.strip_prefix("s3://").ok_or_else(|| {
        format!("{text:?} names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX")
    })?;
    let (bucket, prefix) = bucket_and_key(rest);
    let is_access_point = AccessPoint::of(bucket)?.is_some();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    // Not below 3 letters nor over 255: the widest that AWS ever allowed.
    let is_plain = (3..=255).contains(&bucket.len()) && bucket.chars().all(fits);
    if !is_plain && !is_access_point {
        return Err(format!(
            "{bucket:?} cannot be a bucket's name: 3 letters or more out of a-z, 0-9, '-' and '.'"
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Ok(BucketAddress { bucket: bucket.to_owned(), prefix: Key::default() });
    }
    if prefix.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(format!(
            "the prefix {prefix:?} holds an empty, '.' or '..' segment; name plain ones"
        ));
    }
    // A key has at most 1,024 bytes, and the file names below need some.
    if prefix.len() > 1000 {
        return Err("the prefix is longer than 1000 bytes; choose a shorter one".to_owned());
    }
    Ok(BucketAddress {
        bucket: bucket.to_owned(),
        prefix: Key::from(format!("{prefix}/").as_str()),
    })
}

/// `8.0 MiB`: for people, not for reading back.
pub fn show_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("512k", 512 << 10),
            ("8MiB", 8 << 20),
            ("8 MiB", 8 << 20),
            ("8m", 8 << 20),
            ("1G", 1 << 30),
            ("1GB", 1_000_000_000),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "8Q", "-1", "1e3", "1.2.3G", "99999999999999999999", "20000000T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_durations_and_modes_are_read_as_people_write_them() {
        assert_eq!(rate("10MiB/s"), Ok(Rate::new(10 << 20, None)));
        assert_eq!(rate("10MiB/s:64MiB"), Ok(Rate::new(10 << 20, Some(64 << 20))));
        assert_eq!(request_rate("100:500"), Ok(Rate::new(100, Some(500))));
        assert_eq!(request_rate_or_none("none"), Ok(RateChange::Lift));
        for wrong in ["0", "1M:0", "1M:", ":1M", "none", "-1", "1M:2M:3M"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert!(request_rate("10MiB").is_err());
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err());
        assert!(time_limit("0s").is_err() && patience("0s").is_err());
        assert_eq!(patience("90"), Ok(Duration::from_secs(90)));
        for for_ever in ["infinite", "forever", "10000000000y"] {
            assert_eq!(patience(for_ever), Ok(FOR_EVER), "{for_ever}");
        }
        assert_eq!(ttl("0"), Ok(Ttl::For(Duration::ZERO)));
        assert_eq!(ttl("infinite"), Ok(Ttl::Forever));
        assert_eq!(mode("0644"), Ok(0o644));
        assert_eq!(mode("755"), Ok(0o755));
        assert!(mode("0888").is_err());
        assert!(mode("7777").is_err());
    }

    #[test]
    fn moments_are_read_as_people_write_them_and_have_been() {
        let at =
            |text: &str| moment(text).map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs());
        for (text, seconds) in [
            ("2001-09-09T01:46:40Z", 1_000_000_000),
            ("2001-09-09T03:46:40+02:00", 1_000_000_000),
            ("2001-09-08T20:16:40-05:30", 1_000_000_000),
            ("2001-09-09", 999_993_600),
        ] {
            assert_eq!(at(text), Ok(seconds), "{text}");
        }
        let ages = [("2d", 172_800), ("2d ago", 172_800), ("1h 30m ago", 5400), ("0s", 0)];
        for (text, age) in ages {
            let then = moment(text).unwrap();
            let passed = clock::wall().duration_since(then).unwrap().as_secs();
            assert!((age..age + 60).contains(&passed), "{text}: {passed}");
        }
        for text in [
            "",
            "ago",
            "yesterday",
            "20261101",
            "2001-13-01",
            "2001-09-09 01:46:40",
            "3000y",
            "2001-09-09T01:46:40",
            "2001-09-09T01:46:40+2:00",
            "2001-09-09T01:46:40+ü0",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
        assert!(moment("2999-01-01").unwrap_err().contains("future"));
    }

    #[test]
    fn an_endpoint_is_an_origin_and_a_plain_path() {
        assert_eq!(endpoint_url("http://127.0.0.1:9000/"), Ok("http://127.0.0.1:9000".to_owned()));
        assert_eq!(endpoint_url("https://h/some/path/"), Ok("https://h/some/path".to_owned()));
        for text in
            ["127.0.0.1:9000", "ftp://host", "https://", "https://h/a/../b", "https://k:s@h"]
        {
            assert!(endpoint_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_names_a_bucket_and_a_plain_prefix() {
        let whole = bucket_address("s3://my-bucket/").unwrap();
        assert_eq!((whole.bucket.as_str(), whole.prefix), ("my-bucket", Key::default()));
        assert_eq!(bucket_address("s3://my-bucket/a/b").unwrap().prefix, Key::from("a/b/"));
        let point = "arn:aws:s3:us-west-2:123456789012:accesspoint/p";
        for (text, prefix) in [("", ""), ("/", ""), ("/a/b", "a/b/")] {
            let address = bucket_address(&format!("s3://{point}{text}")).unwrap();
            assert_eq!((address.bucket.as_str(), address.prefix), (point, Key::from(prefix)));
        }
        let other = bucket_address("s3://arn:aws:s3:::bucket/a").unwrap_err();
        assert!(other.contains("accesspoint/NAME"), "{other}");
        for text in
            ["my-bucket", "s3://", "s3://x", "s3://a b c", "s3://bucket/a//b", "s3://bucket/../x"]
        {
            assert!(bucket_address(text).is_err(), "{text}");
        }
    }
}
