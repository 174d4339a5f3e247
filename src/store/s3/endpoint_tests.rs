//! Addresses of every shape, and the requests that they become.

use super::*;

fn target(endpoint: Option<&str>, addressing: Addressing, bucket: &str) -> Result<Target> {
    let mut settings = S3Settings::new(bucket);
    settings.endpoint_url = endpoint.map(str::to_owned);
    settings.addressing = addressing;
    Target::new(&settings, provider_of(&settings)?, in_plain("eu-west-1"))
}

fn in_plain(region: &str) -> Place<'_> {
    Place { region, variant: Variant::default() }
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
            Some("http://oss-cn-hangzhou-internal.aliyuncs.com:80"),
            Addressing::Auto,
            "b",
            "http://b.s3.oss-cn-hangzhou-internal.aliyuncs.com/k",
        ),
        (
            Some("tos-cn-beijing.volces.com"),
            Addressing::Auto,
            "b",
            "https://b.tos-s3-cn-beijing.volces.com/k",
        ),
        (
            None,
            Addressing::Auto,
            "arn:aws:s3:us-west-2:123456789012:accesspoint/p",
            "https://p-123456789012.s3-accesspoint.us-west-2.amazonaws.com/k",
        ),
        (
            Some("https://accesspoint.vpce-1-2.s3.us-west-2.vpce.amazonaws.com"),
            Addressing::Auto,
            "arn:aws:s3:us-west-2:123456789012:accesspoint/p",
            "https://p-123456789012.accesspoint.vpce-1-2.s3.us-west-2.vpce.amazonaws.com/k",
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
    for endpoint in
        ["ftp://x", "https://u:p@x", "https://x/a//b", "https://", "http://x?y", "a b", "x/a%2fb"]
    {
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
        let target = Target::new(&S3Settings::new("b"), Provider::Aws, in_plain(region));
        assert!(target.unwrap_err().to_string().contains("--region"), "{region}");
    }
}

#[test]
fn endpoints_of_a_variant_are_asked_for_by_name() {
    for (dual_stack, fips, origin) in [
        (false, false, "https://b.s3.eu-west-1.amazonaws.com"),
        (true, false, "https://b.s3.dualstack.eu-west-1.amazonaws.com"),
        (false, true, "https://b.s3-fips.eu-west-1.amazonaws.com"),
        (true, true, "https://b.s3-fips.dualstack.eu-west-1.amazonaws.com"),
    ] {
        let place = Place { region: "eu-west-1", variant: Variant { dual_stack, fips } };
        let target = Target::new(&S3Settings::new("b"), Provider::Aws, place).unwrap();
        assert_eq!(target.origin(), origin);
    }
}

#[test]
fn buckets_that_need_another_protocol_are_refused_in_a_line() {
    let refused = |endpoint, addressing, bucket| {
        let told = target(endpoint, addressing, bucket).unwrap_err().to_string();
        assert!(!told.contains('\n'), "{told}");
        told
    };
    let point = "arn:aws:s3:us-west-2:123456789012:accesspoint/p";
    let (auto, path) = (Addressing::Auto, Addressing::Path);
    assert!(refused(None, auto, "b--use1-az4--x-s3").contains("CreateSession"));
    assert!(refused(None, path, point).contains("--addressing"));
    assert!(refused(Some("http://127.0.0.1:1"), auto, point).contains("is not"));
    // Elsewhere it is a name like any other.
    assert!(target(Some("http://127.0.0.1:1"), auto, "b--x-s3").is_ok());
}

#[test]
fn an_endpoint_follows_its_bucket_into_another_region() {
    for (endpoint, provider, moved) in [
        (
            "https://s3.us-east-1.amazonaws.com",
            Provider::Aws,
            Some("https://s3.eu-west-1.amazonaws.com/"),
        ),
        (
            "us-east-1.s3.dualstack.us-east-1.amazonaws.com:444",
            Provider::Aws,
            Some("https://us-east-1.s3.dualstack.eu-west-1.amazonaws.com:444/"),
        ),
        (
            "http://s3.oss-cn-beijing-internal.aliyuncs.com",
            Provider::Oss,
            Some("http://s3.oss-eu-west-1-internal.aliyuncs.com/"),
        ),
        ("https://s3.eu-west-1.amazonaws.com", Provider::Aws, None),
        ("https://s3.amazonaws.com", Provider::Aws, None),
        ("https://b.vpce-1-2.s3.us-east-1.vpce.amazonaws.com", Provider::Aws, None),
        ("https://abc.r2.cloudflarestorage.com", Provider::R2, None),
        ("http://minio.lan:9000", Provider::Other, None),
    ] {
        let mut settings = S3Settings::new("b");
        settings.endpoint_url = Some(endpoint.to_owned());
        assert_eq!(in_region(&settings, provider, "eu-west-1").as_deref(), moved, "{endpoint}");
    }
}

#[test]
fn what_a_store_sends_on_to_is_read_as_an_origin() {
    for (told, origin) in [
        ("https://h.example:444/b/k?x", Some("https://h.example:444")),
        ("b.oss-cn-beijing.aliyuncs.com", Some("https://b.oss-cn-beijing.aliyuncs.com")),
        ("http://h", Some("http://h")),
        ("/elsewhere", None),
        ("//h/elsewhere", None),
        ("ftp://h", None),
        ("", None),
        ("a b", None),
    ] {
        assert_eq!(origin_in(told).as_deref(), origin, "{told}");
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
    for key in ["a b", "a+b", "100%", "#?&=;", "a//b", "\\", "a\nb", "ü/😀", "a.", "...", "%2e%2e"]
    {
        let uri = target.uri(Some(&Key::from(key)), &[("partNumber", b"1 2".to_vec())]).unwrap();
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
