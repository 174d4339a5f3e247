//! The command line from outside: what is wrong is told in one line that names the cure, before
//! anything goes to the background.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use tempfile::TempDir;

/// Nothing of the machine's own configuration is seen, and nothing of it is touched.
struct House {
    dir: TempDir,
}

impl House {
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "run", "mnt", "full"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("full/x"), b"").unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        fs::write(dir.path().join("key"), [7; 32]).unwrap();
        House { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `@/` in `line` is the house's own directory.
    fn ratchetfs(&self, line: &str) -> Command {
        let line = line.replace("@/", &format!("{}/", self.dir.path().display()));
        let mut command = Command::cargo_bin("ratchetfs").unwrap();
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("RATCHETFS_") || text.starts_with("AWS_") {
                command.env_remove(&name);
            }
        }
        command
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .args(line.split(' ').filter(|word| !word.is_empty()))
            .timeout(std::time::Duration::from_secs(60));
        command
    }

    /// The one line on standard error.
    fn complaint(&self, line: &str) -> String {
        one_line_failure(line, &mut self.ratchetfs(line))
    }
}

fn one_line_failure(shown: &str, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{shown} was accepted: {told}");
    assert_eq!(told.lines().count(), 1, "{shown}: {told}");
    assert!(told.starts_with("ratchetfs: "), "{shown}: {told}");
    assert!(output.stdout.is_empty(), "{shown}");
    told
}

#[test]
fn bad_input_is_one_line_that_names_the_cure() {
    let house = House::new();
    for (line, cure) in [
        ("", "ratchetfs --help"),
        ("mount", "required arguments"),
        ("mount bucket @/mnt", "write s3://BUCKET"),
        ("mount s3:// @/mnt", "cannot be a bucket's name"),
        // Nothing is sent without credentials, so no store has to listen there.
        (
            "mount s3://bucket @/mnt --endpoint-url http://127.0.0.1:9 --profile none",
            "there is no profile \"none\"",
        ),
        ("mount s3://bucket/a/../b @/mnt", "name plain ones"),
        ("mount s3://bucket @/missing", "mkdir -p"),
        ("mount s3://bucket @/file", "is a file"),
        ("mount s3://bucket @/full", "not empty"),
        ("mount s3://bucket /proc", "already a mount point"),
        ("mount s3://bucket @/mnt --cache-dir @/file/x", "--cache-dir"),
        ("mount s3://bucket @/mnt --cache-dir @/mnt/x", "outside of it"),
        ("mount s3://bucket @/mnt --embedded @/file/x", "--embedded"),
        ("mount s3://bucket @/mnt --embedded @/s --cache-dir @/s", "give each its own"),
        ("mount s3://bucket @/mnt --log-file @/file/x", "--log-file"),
        ("mount s3://bucket @/mnt --part-size 8Q", "8MiB"),
        ("mount s3://bucket @/mnt --part-size 4MiB", "5MiB or more"),
        ("mount s3://bucket @/mnt --part-size 6GiB", "5GiB or less"),
        (
            "mount s3://bucket @/mnt --part-size 1GiB --memory 64MiB",
            "lower the one or raise the other",
        ),
        ("mount s3://bucket @/mnt --memory 1MiB", "16MiB or more"),
        ("mount s3://bucket @/mnt --cache-size much", "8MiB"),
        ("mount s3://bucket @/mnt --concurrency 0", "1..=1024"),
        ("mount s3://bucket @/mnt --upload-limit 0", "would never end"),
        ("mount s3://bucket @/mnt --timeout soon", "30s"),
        ("mount s3://bucket @/mnt --timeout 0", "no time at all"),
        ("mount s3://bucket @/mnt --metadata-ttl x", "infinite"),
        ("mount s3://bucket @/mnt --file-mode 999", "octal"),
        ("mount s3://bucket @/mnt --endpoint-url host:9000", "https://HOST"),
        ("mount s3://bucket @/mnt --endpoint-url http://key:secret@host", "AWS_ACCESS_KEY_ID"),
        ("mount s3://bucket @/mnt --addressing dns", "auto, path or virtual"),
        ("mount s3://bucket @/mnt --provider acme", "auto, aws"),
        ("mount s3://bucket @/mnt --log-level loud", "--log-level"),
        ("mount s3://bucket @/mnt --no-sign-request --profile p", "drop one of them"),
        ("mount s3://bucket @/mnt --embedded @/s --endpoint-url http://h", "drop one of them"),
        ("mount s3://bucket @/mnt --embedded @/s --profile p", "drop one of them"),
        ("mount s3://bucket @/mnt --sse rot13", "AES256"),
        ("mount s3://bucket @/mnt --acl world", "bucket-owner-full-control"),
        ("mount s3://bucket @/mnt --storage-class a:b", "STANDARD_IA"),
        ("mount s3://bucket @/mnt --sse-kms-key-id k", "--sse aws:kms"),
        ("mount s3://bucket @/mnt --sse AES256 --sse-kms-key-id k", "--sse aws:kms"),
        ("mount s3://bucket @/mnt --sse aws:kms --sse-c-key-file @/key", "drop one of them"),
        ("mount s3://bucket @/mnt --sse-c-key-file @/missing", "readable file"),
        ("mount s3://bucket @/mnt --sse-c-key-file @/file", "openssl rand"),
        (
            "mount s3://bucket @/mnt --sse-c-key-file @/key --endpoint-url http://192.0.2.1",
            "https endpoint",
        ),
        ("mount s3://bucket @/mnt --tagging team", "'team=web&kind=page'"),
        ("mount s3://bucket @/mnt --tagging aws:a=b", "kept for AWS"),
        ("mount s3://bucket @/mnt --ca-bundle @/missing", "readable PEM file"),
        ("mount s3://bucket @/mnt --client-cert @/file", "--client-key"),
        ("mount s3://bucket @/mnt --client-key @/file", "--client-cert"),
        (
            "mount s3://bucket @/mnt --client-cert @/file --client-key @/missing",
            "readable PEM file",
        ),
        (
            "mount s3://bucket @/mnt --client-cert @/file --client-key @/file",
            "are no certificate and its key",
        ),
        ("mount s3://bucket @/mnt --config @/missing", "readable file"),
        ("mount s3://bucket @/mnt --part-sise 8MiB", "--part-size"),
        ("s3://bucket @/mnt -o nonsense", "--nonsense"),
        ("umount @/mnt", "nothing is mounted"),
        ("umount @/missing", "missing"),
        ("umount /proc", "use umount"),
        ("status @/mnt", "no live mount"),
        ("cache info @/mnt", "no live mount"),
        ("uploads abort", "--all"),
        ("cache clear", "--all"),
        ("frobnicate", "frobnicate"),
    ] {
        let told = house.complaint(line);
        assert!(told.contains(cure), "{line}: {told}");
    }
    assert!(!house.path("mnt/x").exists(), "a refused mount left something behind");
}

#[test]
fn no_secret_of_the_command_line_is_repeated() {
    let house = House::new();
    let told = house.complaint("mount s3://bucket @/mnt --endpoint-url http://key:hunter2@host");
    assert!(!told.contains("hunter2"), "{told}");
    let config = house.path("secret.toml");
    fs::write(&config, "aws_secret_access_key = \"hunter2\"\n").unwrap();
    let told = house.complaint("mount s3://bucket @/mnt --config @/secret.toml");
    assert!(told.contains("no option") && !told.contains("hunter2"), "{told}");
    fs::write(&config, "aws_secret_access_key = hunter2\n").unwrap();
    let told = house.complaint("mount s3://bucket @/mnt --config @/secret.toml");
    assert!(told.contains("not TOML") && !told.contains("hunter2"), "{told}");
}

#[test]
fn the_environment_is_read_and_a_flag_wins() {
    let house = House::new();
    let mut command = house.ratchetfs("mount s3://bucket @/mnt");
    let told = one_line_failure("environment", command.env("RATCHETFS_PART_SIZE", "1MiB"));
    assert!(told.contains("5MiB or more"), "{told}");
    let mut command = house.ratchetfs("mount s3://bucket @/missing --part-size 8MiB");
    let told = one_line_failure("flag", command.env("RATCHETFS_PART_SIZE", "1MiB"));
    assert!(told.contains("mkdir -p"), "{told}");
}

#[test]
fn a_file_below_home_is_read_and_the_environment_wins() {
    let house = House::new();
    let config = house.path("home/.config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("ratchetfs.toml"), "part-size = \"1MiB\"\n").unwrap();
    assert!(house.complaint("mount s3://bucket @/mnt").contains("5MiB or more"));
    let mut command = house.ratchetfs("mount s3://bucket @/missing");
    let told = one_line_failure("environment", command.env("RATCHETFS_PART_SIZE", "8MiB"));
    assert!(told.contains("mkdir -p"), "{told}");
}

#[test]
fn without_mounts_status_says_so_in_both_forms() {
    let house = House::new();
    let output = house.ratchetfs("status").output().unwrap();
    assert!(output.status.success());
    let told: serde_json::Value =
        serde_json::from_slice(&house.ratchetfs("status --json").output().unwrap().stdout).unwrap();
    assert!(told.is_array());
}

#[test]
fn help_shows_every_option_and_none_of_a_later_version() {
    let house = House::new();
    let output = house.ratchetfs("mount --help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for flag in
        ["--endpoint-url", "--embedded", "--cache-dir", "--part-size", "--read-only", "-f, "]
    {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(!help.contains("--metrics-listen"));
}

/// As on a full disk: a file can be made there, and nothing written.
#[test]
fn a_refused_cache_directory_is_left_as_it_was() {
    let house = House::new();
    let line = "mount s3://bucket @/mnt --endpoint-url http://127.0.0.1:9 --cache-dir @/full";
    let program = house.ratchetfs(line);
    let mut command = std::process::Command::new("bash");
    command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "bash"]);
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "accepted: {told}");
    assert!(told.contains("cannot be written") && told.contains("--cache-dir"), "{told}");
    let left: Vec<_> =
        fs::read_dir(house.path("full")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["x"]);
}

#[test]
fn an_empty_variable_is_none() {
    let house = House::new();
    for name in ["RATCHETFS_PART_SIZE", "RATCHETFS_READ_ONLY", "RATCHETFS_ENDPOINT_URL"] {
        let mut command = house.ratchetfs("mount s3://bucket @/missing");
        let told = one_line_failure(name, command.env(name, ""));
        assert!(told.contains("mkdir -p"), "{name}: {told}");
    }
}

#[test]
fn commands_that_need_nothing_of_a_wrong_file_do_without() {
    let house = House::new();
    fs::create_dir(house.path("home/.config")).unwrap();
    fs::write(house.path("home/.config/ratchetfs.toml"), "part-sise = 1\n").unwrap();
    let output = house.ratchetfs("status").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("part-sise") && told.contains("passed over"), "{told}");
    let output = house.ratchetfs("umount @/mnt").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("nothing is mounted"), "{told}");
    let told = house.complaint("mount s3://bucket @/mnt");
    assert!(told.contains("part-sise"), "{told}");
}

#[test]
fn a_configuration_file_of_another_user_is_refused() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let house = House::new();
    let config = house.path("other.toml");
    fs::write(&config, "part-size = \"8MiB\"\n").unwrap();
    let line = "mount s3://bucket @/missing --config @/other.toml";
    for mode in [0o644, 0o664] {
        fs::set_permissions(&config, fs::Permissions::from_mode(mode)).unwrap();
        assert!(house.complaint(line).contains("mkdir -p"), "{mode:o}");
    }
    fs::set_permissions(&config, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(house.complaint(line).contains("chmod o-w"));
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    // Only root can give a file away.
    if chown(&config, Some(65534), None).is_ok() {
        assert!(house.complaint(line).contains("belongs to user 65534"));
    }
}

#[test]
fn a_heuristic_that_there_is_not_is_refused() {
    let house = House::new();
    let mut command = house.ratchetfs("mount s3://bucket @/mnt");
    let told = one_line_failure("haste", command.env("RATCHETFS_WITHOUT", "hedging,haste"));
    assert!(told.contains("\"haste\" is none of hedging, readback"), "{told}");
}
