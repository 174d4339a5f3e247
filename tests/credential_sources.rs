//! Each place where AWS tools find credentials, against stand-ins of the services behind them.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_types)]

use crate::support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use support::mount::{Bench, is_mounted, wait_until};
use support::services::Service;
use support::{ACCESS_KEY, BUCKET, SECRET_KEY, text};

/// The name of the file that holds the token of the session `s`: the SHA-1 of that.
const SSO_CACHE: &str = ".aws/sso/cache/a0f1490a20d0211c997b44bc357e1972deab8ae3.json";

/// What no message may hold.
const SECRET: &str = "hunter2-is-a-secret";

/// A bench with these AWS configuration files, and nothing else that gives credentials.
struct Sources {
    bench: Bench,
}

impl Sources {
    fn new(config: &str) -> Sources {
        let bench = Bench::unmounted(&[]);
        std::fs::create_dir_all(bench.local(".aws/sso/cache")).unwrap();
        std::fs::write(bench.local(".aws/config"), config).unwrap();
        Sources { bench }
    }

    fn file(&self, name: &str, content: &str) {
        let path = self.bench.local(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The program, in the bench's directory, which is its home too.
    fn program(&self, variables: &[(&str, &str)]) -> Command {
        let mut command = self.bench.program();
        command.current_dir(self.bench.dir.path());
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("HOME", self.bench.dir.path());
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(variables.iter().copied());
        command
    }

    /// What doctor says of the bucket of the embedded store, which knows one pair of keys.
    fn doctor(&self, variables: &[(&str, &str)], options: &[&str]) -> Output {
        let mut command = self.program(variables);
        command.args(["doctor", &format!("s3://{BUCKET}"), "--cache-dir", "cache"]);
        command.args(["--endpoint-url", &self.bench.store.endpoint()]).args(options);
        command.output().unwrap()
    }

    fn assert_good(&self, variables: &[(&str, &str)], options: &[&str], source: &str) {
        let output = self.doctor(variables, options);
        let told = text(&output.stdout);
        assert!(told.contains(&format!("ok    credentials from {source}\n")), "{source}: {told}");
        assert!(told.contains(&format!("bucket {BUCKET} answers")), "{source}: {told}");
    }

    /// One line of what doctor finds that begins so; nothing secret is told.
    fn assert_bad(&self, variables: &[(&str, &str)], parts: &[&str]) {
        let output = self.doctor(variables, &[]);
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success() && !told.contains(SECRET), "{told}");
        let line =
            told.lines().find(|line| line.starts_with("BAD ") && line.contains("credentials"));
        let line = line.unwrap_or_else(|| panic!("not bad: {told}"));
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }
}

const ROLE: &str = "[profile base]\naws_access_key_id = base\naws_secret_access_key = base-secret\n\
                    [profile role]\nrole_arn = arn:aws:iam::123456789012:role/x\n\
                    source_profile = base\nexternal_id = e\n\
                    [profile sourced]\nrole_arn = arn:aws:iam::123456789012:role/y\n\
                    credential_source = Environment\n\
                    [profile round]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = round2\n\
                    [profile round2]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = round\n\
                    [profile lost]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = nowhere\n\
                    [profile code]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = base\n\
                    mfa_serial = arn:aws:iam::1:mfa/x\n";

#[test]
fn a_profile_takes_on_a_role_with_keys_from_elsewhere() {
    let sources = Sources::new(ROLE);
    let sts = Service::sts();
    let url = sts.url();
    let of = |profile| [("AWS_PROFILE", profile), ("AWS_ENDPOINT_URL_STS", url.as_str())];
    sources.assert_good(&of("role"), &[], "the role (role_arn) of profile \"role\"");
    let asked = sts.asked();
    assert!(asked[0].header("authorization").contains("Credential=base/"), "{asked:?}");
    for part in ["Action=AssumeRole&", "role%2Fx", "ExternalId=e"] {
        assert!(asked[0].body.contains(part), "{part}: {asked:?}");
    }
    let keys = [("AWS_ACCESS_KEY_ID", "env"), ("AWS_SECRET_ACCESS_KEY", "env-secret")];
    let variables = [&of("unused")[1..], &keys].concat();
    let role = "the role (role_arn) of profile \"sourced\"";
    sources.assert_good(&variables, &["--profile", "sourced"], role);
    let asked = sts.asked();
    let last = asked.last().unwrap();
    assert!(last.header("authorization").contains("Credential=env/"), "{asked:?}");
    for (profile, cause) in
        [("round", "infinite loop"), ("lost", "nowhere"), ("code", "mfa_serial")]
    {
        sources.assert_bad(&of(profile), &[profile, cause]);
    }
    let refusing = Service::start(|_| (403, format!("<Error><Message>{SECRET}</Message></Error>")));
    let variables = [("AWS_PROFILE", "role"), ("AWS_ENDPOINT_URL_STS", &refusing.url())];
    sources.assert_bad(&variables, &["role_arn", "127.0.0.1 answers 403"]);
    let variables = [("AWS_PROFILE", "role"), ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")];
    sources.assert_bad(&variables, &["role_arn", "127.0.0.1 does not answer"]);
    let babbling = Service::start(|_| (200, SECRET.to_owned()));
    let variables = [("AWS_PROFILE", "role"), ("AWS_ENDPOINT_URL_STS", &babbling.url())];
    sources.assert_bad(&variables, &["role_arn", "makes no sense"]);
}

#[test]
fn a_web_identity_is_exchanged_for_credentials() {
    let sts = Service::sts();
    let sources = Sources::new(&format!(
        "[profile web]\nrole_arn = arn:aws:iam::1:role/p\nweb_identity_token_file = token\n\
         endpoint_url = {}\n",
        sts.url()
    ));
    sources.file("token", "the-web-token");
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/w");
    let url = ("AWS_ENDPOINT_URL_STS", &*sts.url());
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", "token"), role, url];
    sources.assert_good(&variables, &[], "web identity (AWS_WEB_IDENTITY_TOKEN_FILE)");
    let before = sts.asked();
    assert!(before[0].body.contains("WebIdentityToken=the-web-token"), "{before:?}");
    // The profile's endpoint is that of STS too.
    sources.assert_good(&[("AWS_PROFILE", "web")], &[], "web identity of profile \"web\"");
    let asked = sts.asked();
    assert!(asked.last().unwrap().body.contains("role%2Fp"), "{asked:?}");
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", "missing"), role, url];
    sources.assert_bad(&variables, &["web identity", "not found"]);
    let refusing = Service::start(|_| {
        (400, format!("<ErrorResponse><Error><Code>{SECRET}</Code></Error></ErrorResponse>"))
    });
    let variables =
        [("AWS_WEB_IDENTITY_TOKEN_FILE", "token"), role, ("AWS_ENDPOINT_URL_STS", &refusing.url())];
    sources.assert_bad(&variables, &["web identity", "answers 400"]);
}

const SSO: &str = "[profile sso]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n\
                   [sso-session s]\nsso_region = us-east-1\n\
                   sso_start_url = https://example.awsapps.com/start\n";

fn sso_token(expires: &str, more: &str) -> String {
    format!("{{\"accessToken\":\"{SECRET}\",\"expiresAt\":\"{expires}\"{more}}}")
}

const RENEWABLE: &str = ",\"refreshToken\":\"refresh-1\",\"clientId\":\"c\",\"clientSecret\":\"cs\",\
                         \"registrationExpiresAt\":\"2099-01-01T00:00:00Z\"";

#[test]
fn an_sso_session_gives_credentials_and_its_token_is_renewed() {
    let sources = Sources::new(SSO);
    let portal = Service::start(|asked| match asked.header("x-amz-sso_bearer_token") {
        "fresh" | SECRET => {
            let answer = format!(
                "{{\"roleCredentials\":{{\"accessKeyId\":\"{ACCESS_KEY}\",\"secretAccessKey\":\
                 \"{SECRET_KEY}\",\"sessionToken\":\"t\",\"expiration\":4070908800000}}}}"
            );
            (200, answer)
        }
        _ => (401, format!("{{\"message\":\"{SECRET}\"}}")),
    });
    let oidc = Service::start(|asked| {
        assert!(asked.body.contains("refresh-1"), "{asked:?}");
        (
            200,
            "{\"accessToken\":\"fresh\",\"expiresIn\":28800,\"refreshToken\":\"refresh-2\"}".into(),
        )
    });
    let (portal_url, oidc_url) = (portal.url(), oidc.url());
    let variables = [
        ("AWS_PROFILE", "sso"),
        ("AWS_ENDPOINT_URL_SSO", portal_url.as_str()),
        ("AWS_ENDPOINT_URL_SSO_OIDC", oidc_url.as_str()),
    ];
    sources.file(SSO_CACHE, &sso_token("2099-01-01T00:00:00Z", RENEWABLE));
    sources.assert_good(&variables, &[], "SSO of profile \"sso\"");
    assert_eq!(oidc.asked().len(), 0);
    let asked = portal.asked();
    assert!(asked[0].line().contains("role_name=r") && asked[0].line().contains("123456789012"));
    sources.file(SSO_CACHE, &sso_token("2020-01-01T00:00:00Z", RENEWABLE));
    sources.assert_good(&variables, &[], "SSO of profile \"sso\"");
    assert_eq!(oidc.asked().len(), 1, "the token that was renewed is kept");
    let kept = std::fs::read_to_string(sources.bench.local(SSO_CACHE)).unwrap();
    assert!(kept.contains("fresh") && kept.contains("refresh-2"), "{kept}");

    let login = ["SSO of profile", "aws sso login"];
    sources.file(SSO_CACHE, &sso_token("2020-01-01T00:00:00Z", ""));
    sources.assert_bad(&variables, &login);
    sources.file(SSO_CACHE, SECRET);
    sources.assert_bad(&variables, &login);
    std::fs::remove_file(sources.bench.local(SSO_CACHE)).unwrap();
    sources.assert_bad(&variables, &login);
    sources.file(SSO_CACHE, &sso_token("2099-01-01T00:00:00Z", "").replace(SECRET, "revoked"));
    sources.assert_bad(&variables, &[login[0], login[1], "answers 401"]);
}

#[test]
fn a_container_gives_credentials_to_those_that_have_its_token() {
    let sources = Sources::new("");
    let container = Service::container(|| "2099-01-01T00:00:00Z".to_owned());
    let url = format!("{}/creds", container.url());
    sources.file("token", "container-token");
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "token"),
    ];
    sources.assert_good(&variables, &[], "the container's credential service");
    let asked = container.asked();
    assert_eq!(
        (asked[0].line(), asked[0].header("authorization")),
        ("GET /creds", "container-token")
    );
    let far = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/creds")];
    sources.assert_bad(&far, &["container", "loopback"]);
    let missing = [variables[0], ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "missing")];
    sources.assert_bad(&missing, &["container", "not found"]);
    for (status, cause) in [(404, "answers 404"), (500, "answers 500"), (200, "makes no sense")] {
        let refusing = Service::start(move |_| (status, format!("{{\"Code\":\"{SECRET}\"}}")));
        let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*refusing.url())];
        sources.assert_bad(&variables, &["container", cause]);
    }
}

fn machine_at(url: &str) -> [(&str, &str); 2] {
    [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)]
}

#[test]
fn a_machine_gives_credentials_by_its_second_protocol() {
    let sources = Sources::new("");
    let machine = Service::machine();
    sources.assert_good(&machine_at(&machine.url()), &[], "the machine's metadata service");
    assert_eq!(machine.asked()[0].line(), "PUT /latest/api/token");
    sources
        .assert_bad(&machine_at("http://127.0.0.1:1"), &["none were found", "AWS_ACCESS_KEY_ID"]);
    let without_role = Service::start(|asked| match asked.line() {
        "PUT /latest/api/token" => (200, "token".to_owned()),
        _ => (404, String::new()),
    });
    sources.assert_bad(&machine_at(&without_role.url()), &["none were found"]);
    let refusing = Service::start(|asked| match asked.line() {
        "PUT /latest/api/token" => (200, "token".to_owned()),
        line if line.ends_with("/") => (200, "role".to_owned()),
        _ => {
            (200, format!("{{\"Code\":\"AssumeRoleUnauthorizedAccess\",\"Message\":\"{SECRET}\"}}"))
        }
    });
    sources.assert_bad(&machine_at(&refusing.url()), &["the machine's metadata service fails"]);
}

#[test]
fn variables_of_a_providers_own_tools_are_for_it_alone() {
    let sources = Sources::new("");
    let rows = [
        ("oss", "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"),
        ("oss", "ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        ("tos", "TOS_ACCESS_KEY", "TOS_SECRET_KEY"),
    ];
    for (provider, key, secret) in rows {
        let told = |provider: &str, variables: &[(&str, &str)]| {
            let mut command = sources.program(variables);
            command.args(["doctor", "--cache-dir", "cache", "--provider", provider]);
            text(&command.output().unwrap().stdout)
        };
        let both = [(key, "k"), (secret, "s")];
        let line = format!("credentials from {key} with {secret}");
        assert!(told(provider, &both).contains(&line), "{}", told(provider, &both));
        for other in ["aws", "r2", if provider == "oss" { "tos" } else { "oss" }] {
            assert!(told(other, &both).contains("none were found"), "{}", told(other, &both));
        }
        let half = told(provider, &both[..1]);
        assert!(half.contains(&format!("{key} with {secret} is set up in part only")), "{half}");
    }
}

#[test]
fn the_endpoint_is_found_where_aws_tools_look() {
    let sources = Sources::new("");
    let endpoint = sources.bench.store.endpoint();
    let config = format!(
        "[profile all]\nendpoint_url = {endpoint}\n[profile s3]\nendpoint_url = http://127.0.0.1:1\n\
         services = x\n[services x]\ns3 =\n  endpoint_url = {endpoint}\n"
    );
    sources.file(".aws/config", &config);
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let doctor = |variables: &[(&str, &str)]| {
        let mut command = sources.program(&[&keys[..], variables].concat());
        command.args(["doctor", &format!("s3://{BUCKET}"), "--cache-dir", "cache"]);
        command.args(["--region", "us-east-1"]);
        text(&command.output().unwrap().stdout)
    };
    let nowhere = "http://127.0.0.1:1";
    for variables in [
        &[("AWS_ENDPOINT_URL", endpoint.as_str())][..],
        &[("AWS_ENDPOINT_URL", nowhere), ("AWS_ENDPOINT_URL_S3", endpoint.as_str())],
        &[("AWS_PROFILE", "all")],
        &[("AWS_PROFILE", "s3")],
    ] {
        let told = doctor(variables);
        assert!(told.contains(&format!("bucket {BUCKET} answers")), "{variables:?}: {told}");
    }
    // What is said to this program counts more.
    let mut command = sources.program(&[&keys[..], &[("AWS_ENDPOINT_URL", nowhere)]].concat());
    command.args(["doctor", &format!("s3://{BUCKET}"), "--endpoint-url", &endpoint]);
    let told = text(&command.args(["--cache-dir", "cache"]).output().unwrap().stdout);
    assert!(told.contains(&format!("bucket {BUCKET} answers")), "{told}");
    let output =
        sources.program(&[("AWS_ENDPOINT_URL", "ftp://x")]).arg("doctor").output().unwrap();
    assert!(text(&output.stderr).contains("AWS_ENDPOINT_URL:"), "{}", text(&output.stderr));
    let output =
        sources.program(&[("AWS_CA_BUNDLE", "missing.pem")]).arg("doctor").output().unwrap();
    assert!(text(&output.stderr).contains("AWS_CA_BUNDLE"), "{}", text(&output.stderr));
}

#[test]
fn a_mount_in_the_background_renews_its_credentials() {
    let sources = Sources::new("");
    let container = Service::container(|| {
        let end = SystemTime::now() + Duration::from_secs(4);
        humantime::format_rfc3339_seconds(end).to_string()
    });
    let mut command = sources.program(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url())]);
    command.args(["mount", &format!("s3://{BUCKET}"), "mnt", "--cache-dir", "cache"]);
    let output =
        command.args(["--endpoint-url", &sources.bench.store.endpoint()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mount_point = sources.bench.mount_point();
    assert!(is_mounted(&mount_point));
    let mut number = 0;
    wait_until("renewed", || {
        number += 1;
        std::fs::write(mount_point.join(format!("file{number}")), "content").unwrap();
        container.asked().len() >= 4
    });
    let ended = sources.bench.run(&["umount", &mount_point.display().to_string()]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    assert!(number > container.asked().len(), "not asked for each request");
}
