//! Whose credentials a mount uses, where it looks for them, and that nothing of them is repeated.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use ratchetfs::embedded::{Fault, Operation, Rule};

use support::mount::{Bench, is_mounted, sh, wait_until};
use support::services::Service;
use support::{ACCESS_KEY, BUCKET, SECRET_KEY, text};

/// The program without any credentials, in the bench's directory.
fn bare(bench: &Bench) -> Command {
    let mut command = bench.program();
    command.current_dir(bench.dir.path());
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

fn mount_arguments(bench: &Bench) -> Vec<String> {
    let endpoint = bench.store.endpoint();
    let address = format!("s3://{BUCKET}");
    ["mount", &address, "mnt", "--cache-dir", "cache", "--endpoint-url", &endpoint]
        .map(str::to_owned)
        .to_vec()
}

fn unmount(bench: &Bench) {
    let ended = bench.run(&["umount", &bench.mount_point().display().to_string()]);
    assert!(ended.status.success(), "{}", text(&ended.stderr));
}

fn assert_mounts(bench: &Bench, what: &str, output: &Output) {
    assert!(output.status.success(), "{what}: {}", text(&output.stderr));
    assert!(is_mounted(&bench.mount_point()), "{what}");
    unmount(bench);
}

fn helper(bench: &Bench, script: &str) {
    let path = bench.local("helper");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn helper_that_knows(bench: &Bench) {
    let answer = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\"}}"
    );
    helper(bench, &format!("echo '{answer}'"));
}

#[test]
fn nothing_that_a_credential_helper_says_is_repeated() {
    let bench = Bench::unmounted(&[]);
    const SECRET: &str = "hunter2-is-a-secret";
    std::fs::write(bench.local("config"), "[default]\ncredential_process = ./helper\n").unwrap();
    let rows = [
        (format!("echo {SECRET} >&2; exit 3"), "exit status: 3"),
        (format!("echo '{{\"Version\":\"{SECRET}\"}}'"), "makes no sense"),
        (format!("echo '{{\"Version\":1,\"AccessKeyId\":{{\"{SECRET}\":1}}}}'"), "makes no sense"),
        (format!("echo {SECRET}"), "makes no sense"),
    ];
    for (script, cause) in rows {
        helper(&bench, &script);
        for options in [&["--foreground"][..], &["--foreground", "--log-level", "trace"], &[]] {
            let mut command = bare(&bench);
            command.env("AWS_CONFIG_FILE", "config").args(mount_arguments(&bench));
            let output = command.args(options).output().unwrap();
            let log = std::fs::read(bench.local("cache/ratchetfs.log")).unwrap_or_default();
            let said = text(&output.stderr) + &text(&output.stdout) + &text(&log);
            assert!(!output.status.success(), "{script}");
            assert!(!said.contains(SECRET), "{script}: {said}");
            assert!(
                said.contains("credential_process of profile") && said.contains(cause),
                "{said}"
            );
        }
    }
    // Nor what is malformed in a file.
    let broken = format!("[default]\naws_access_key_id = a\naws_secret_access_key {SECRET}\n");
    std::fs::write(bench.local("keys"), broken).unwrap();
    let mut command = bare(&bench);
    command.env("AWS_SHARED_CREDENTIALS_FILE", "keys").args(mount_arguments(&bench));
    let said = text(&command.arg("--foreground").output().unwrap().stderr);
    assert!(!said.contains(SECRET) && said.contains("key pair of profile"), "{said}");
}

#[test]
fn relative_paths_mean_where_the_command_was_given() {
    let bench = Bench::unmounted(&[]);
    let keys = format!(
        "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    std::fs::write(bench.local("keys"), keys).unwrap();
    std::fs::write(bench.local("config"), "[default]\ncredential_process = ./helper\n").unwrap();
    helper_that_knows(&bench);
    for (variable, file) in [("AWS_SHARED_CREDENTIALS_FILE", "keys"), ("AWS_CONFIG_FILE", "config")]
    {
        let mut command = bare(&bench);
        command.env(variable, file).args(mount_arguments(&bench));
        let output = command.args(["--log-file", "own.log"]).output().unwrap();
        assert_mounts(&bench, variable, &output);
        assert!(bench.local("own.log").exists());
    }
    let system = "/etc/ssl/certs/ca-certificates.crt";
    if std::fs::copy(system, bench.local("ca.pem")).is_ok() {
        let mut command = bare(&bench);
        command.env("AWS_SHARED_CREDENTIALS_FILE", "keys").args(mount_arguments(&bench));
        let output = command.args(["--ca-bundle", "ca.pem"]).output().unwrap();
        assert_mounts(&bench, "--ca-bundle", &output);
    }
}

#[test]
fn an_identity_that_fails_is_not_replaced_by_the_machines() {
    let bench = Bench::unmounted(&[]);
    let service = Service::machine().url();
    let mount = |variables: &[(&str, &str)]| {
        let mut command = bare(&bench);
        command.env("AWS_EC2_METADATA_DISABLED", "false");
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service);
        command.envs(variables.iter().copied()).args(mount_arguments(&bench));
        command.output().unwrap()
    };
    assert_mounts(
        &bench,
        "the machine's own",
        &mount(&[("AWS_PROFILE", ""), ("AWS_ROLE_ARN", "")]),
    );

    let config = "[default]\nregion = us-east-1\n[profile role]\nrole_arn = arn:aws:iam::1:role/x\n\
                  source_profile = default\n[profile sso]\nsso_session = s\nsso_account_id = 1\n\
                  [profile half]\naws_access_key_id = a\n[profile helped]\n\
                  credential_process = ./missing-helper\n[profile plain]\nregion = us-east-1\n";
    std::fs::write(bench.local("config"), config).unwrap();
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x");
    let of = |profile| [("AWS_CONFIG_FILE", "config"), ("AWS_PROFILE", profile)];
    assert_mounts(&bench, "a profile without an identity", &mount(&of("plain")));
    for (variables, cause) in [
        (&[role, ("AWS_WEB_IDENTITY_TOKEN_FILE", "missing")][..], "web identity"),
        (&[("AWS_WEB_IDENTITY_TOKEN_FILE", "config")], "in part only"),
        (&[("AWS_ACCESS_KEY_ID", "a")], "in part only"),
        (&[("AWS_SHARED_CREDENTIALS_FILE", "missing")], "AWS_SHARED_CREDENTIALS_FILE"),
        (&[("AWS_CONFIG_FILE", "missing")], "AWS_CONFIG_FILE"),
        (&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/")], "container"),
        (&of("absent"), "there is no profile"),
        (&of("role"), "role_arn"),
        (&of("sso"), "sso-session named"),
        (&of("half"), "missing aws_secret_access_key"),
        (&of("helped"), "credential_process"),
    ] {
        let output = mount(variables);
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{variables:?} was passed over");
        assert!(said.contains(cause), "{variables:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let left = sh(bench.dir.path(), "cat cache/ratchetfs.log");
    assert!(!left.contains(SECRET_KEY), "{left}");
}

/// A program that may leave a core dump as long as it likes, in this directory.
fn may_dump(program: &Command, dir: &Path) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -c unlimited && exec \"$@\"", "bash"]);
    command.arg(program.get_program()).args(program.get_args()).current_dir(dir);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Whether a mount that is aborted leaves a core dump.
fn mount_dumps(switch: &str) -> bool {
    let bench = Bench::unmounted(&[]);
    let mut program = bench.program();
    program.args(mount_arguments(&bench)).arg("--foreground").env("RATCHETFS_CORE_DUMPS", switch);
    let mut mount = may_dump(&program, bench.dir.path()).spawn().unwrap();
    wait_until("mounted", || bench.status().is_some());
    // SAFETY: a signal to a child that has not been waited for: the number is still its own.
    assert_eq!(unsafe { libc::kill(mount.id() as i32, libc::SIGABRT) }, 0);
    let ended = mount.wait().unwrap();
    assert_eq!(ended.signal(), Some(libc::SIGABRT));
    ended.core_dumped()
}

#[test]
fn a_mount_that_crashes_leaves_no_core_dump() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Command::new("sh");
    program.args(["-c", "kill -ABRT $$"]);
    // A machine may take no dump of any program.
    let takes_dumps = may_dump(&program, dir.path()).status().unwrap().core_dumped();
    assert!(!mount_dumps(""));
    assert_eq!(mount_dumps("1"), takes_dumps);
}

#[test]
fn nothing_of_the_credentials_is_left_on_the_disk() {
    let mut bench = Bench::unmounted(&["--write-back", "--log-level", "trace"]);
    bench.mount();
    // Staged, cached, and in the bucket.
    std::fs::write(bench.at("file"), vec![7; 6 << 20]).unwrap();
    bench.drained();
    std::fs::read(bench.at("file")).unwrap();
    let busy = Rule::new(Fault::slow_down()).on(Operation::PutObject).key_contains("waits");
    bench.store.faults.set(vec![busy]);
    std::fs::write(bench.at("waits"), "closed, and not in the store").unwrap();
    bench.kill();
    let found = |text: &str| sh(bench.dir.path(), &format!("grep -rlaF '{text}' . || true"));
    for secret in [SECRET_KEY, ACCESS_KEY] {
        assert_eq!(found(secret), "", "{secret}");
    }
    // A thief has what the user had: contents and names.
    assert!(!found("closed, and not in the store").is_empty());
}
