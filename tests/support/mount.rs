//! Real mounts of the real program: FUSE, HTTP, processes that are killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ratchetfs::embedded::Operation;
use ratchetfs::internals::MountClient as Client;
use ratchetfs::internals::MountStatus;

use super::bucket::Bucket;
use super::proxy::Proxy;
use super::weed::Weed;
use super::{ACCESS_KEY, BUCKET, Embedded, SECRET_KEY, text};

/// A mount answers, or ends, within this; a loaded machine is given time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the kernel may call a mount busy that no test uses any more.
const BUSY_AT_MOST: Duration = Duration::from_secs(5);

/// An embedded store in this process and a mount of it.
pub struct Bench {
    // First, so that it ends before its store does.
    pub mount: Mount,
    pub runtime: tokio::runtime::Runtime,
    pub store: Embedded,
    pub bucket: Bucket,
}

impl Bench {
    /// A store and a mount with these options beside the necessary ones.
    pub fn start(options: &[&str]) -> Bench {
        let mut bench = Bench::unmounted(options);
        bench.mount();
        bench
    }

    pub fn unmounted(options: &[&str]) -> Bench {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(Embedded::start());
        let mount = Mount::new(&store.endpoint(), &format!("s3://{BUCKET}"), options);
        let bucket = Bucket::new(&store.endpoint(), BUCKET, &runtime);
        Bench { mount, runtime, store, bucket }
    }

    /// The store has no faults any more, for a new mount after kill -9 or for the one that has met them.
    pub fn end_faults(&mut self, is_killed: bool) {
        if is_killed {
            self.kill();
        }
        self.store.faults.clear();
        if is_killed {
            self.mount();
        }
    }

    /// How many requests of this operation have come.
    pub fn requests(&self, operation: Operation) -> u64 {
        self.store.counters().requests(operation)
    }

    /// See [`Bucket::assert_has`].
    pub fn assert_has(&self, name: &str, content: &[u8]) {
        self.bucket.assert_has(&self.mount, name, content);
    }

    pub fn bytes_in(&self) -> u64 {
        self.store.counters().bytes_in()
    }

    pub fn bytes_out(&self) -> u64 {
        self.store.counters().bytes_out()
    }
}

impl std::ops::Deref for Bench {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        &self.mount
    }
}

impl std::ops::DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Mount {
        &mut self.mount
    }
}

/// A fresh bucket of SeaweedFS and a mount of it, with a network between them that can be taken away.
pub struct WeedBench {
    pub mount: Mount,
    pub runtime: tokio::runtime::Runtime,
    pub bucket: Bucket,
    pub proxy: Proxy,
}

impl WeedBench {
    pub fn start(options: &[&str]) -> WeedBench {
        let mut bench = WeedBench::unmounted(options);
        bench.mount.mount();
        bench
    }

    pub fn unmounted(options: &[&str]) -> WeedBench {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let weed = runtime.block_on(Weed::shared());
        let name = runtime.block_on(weed.fresh_bucket());
        let proxy = Proxy::start(weed.endpoint());
        let mount = Mount::new(&proxy.endpoint(), &format!("s3://{name}"), options);
        let bucket = Bucket::new(weed.endpoint(), &name, &runtime);
        WeedBench { mount, runtime, bucket, proxy }
    }
}

impl std::ops::Deref for WeedBench {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        &self.mount
    }
}

impl std::ops::DerefMut for WeedBench {
    fn deref_mut(&mut self) -> &mut Mount {
        &mut self.mount
    }
}

/// A mount by the program, which can be killed and mounted again over the same cache.
pub struct Mount {
    /// Holds the mount point `mnt`, the cache `cache`, and whatever a test puts there.
    pub dir: tempfile::TempDir,
    endpoint: String,
    address: String,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Mount {
    /// Of `s3://BUCKET[/PREFIX]` at an endpoint; not mounted yet.
    pub fn new(endpoint: &str, address: &str, options: &[&str]) -> Mount {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        Mount {
            dir,
            endpoint: endpoint.to_owned(),
            address: address.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            environment: Vec::new(),
            process: None,
        }
    }

    /// The options from the next mount on.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// One more option, from the next mount on.
    pub fn option(&mut self, option: &str) {
        self.options.push(option.to_owned());
    }

    /// A variable of the environment, from the next mount on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// From the next mount on, a debug build has the faults that [`Mount::put_fault`] puts into it.
    pub fn obey_faults(&mut self) {
        let faults = self.local("faults").display().to_string();
        self.set_env("RATCHETFS_TEST_FAULTS", &faults);
    }

    /// `hang POINT`, `panic POINT` (see src/seam.rs), or nothing.
    pub fn put_fault(&self, fault: &str) {
        // At once, or a reader would see half of it.
        std::fs::write(self.local("fault"), fault).unwrap();
        std::fs::rename(self.local("fault"), self.local("faults")).unwrap();
    }

    /// A path inside the mount.
    pub fn at(&self, path: &str) -> PathBuf {
        self.mount_point().join(path)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A path on the local disk.
    pub fn local(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Mounts, in the foreground, and waits until the mount answers.
    pub fn mount(&mut self) {
        assert!(self.process.is_none(), "mounted already");
        let log = std::fs::File::create(self.local("mount.log")).unwrap();
        let mut command = self.program();
        command.args(["mount", &self.address]).arg(self.mount_point());
        command.args(["--foreground"]).args(self.store_options());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.options).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while self.status().is_none() {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                panic!("the mount ended with {status}: {}", self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "no answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The program with this bench's credentials and no other settings of this machine.
    pub fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ratchetfs"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("RATCHETFS_") || text.starts_with("AWS_") {
                command.env_remove(&name);
            }
        }
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_REGION", "us-east-1")
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn store_options(&self) -> Vec<String> {
        let cache = self.cache_dir().display().to_string();
        vec!["--endpoint-url".into(), self.endpoint.clone(), "--cache-dir".into(), cache]
    }

    /// Waits for the end of a mount that was made otherwise than by [`Mount::mount`].
    pub fn wait_until_gone(&self) {
        wait_until("unmounted", || !is_mounted(&self.mount_point()) && self.status().is_none());
    }

    /// Runs a command of the program and returns what it says.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.program().args(arguments).output().unwrap()
    }

    /// Tries all that was interrupted once more.
    pub fn resume(&self) {
        let resumed = self.run(&["uploads", "resume", &self.mount_point().display().to_string()]);
        assert!(resumed.status.success(), "{resumed:?}");
    }

    /// Waits until all that was closed is in the bucket.
    pub fn drained(&self) {
        self.wait_for("drained", |status| status.pending_files == 0);
    }

    pub fn assert_nothing_interrupted(&self) {
        let listed = self.run(&["uploads", "list", &self.mount_point().display().to_string()]);
        assert_eq!(text(&listed.stdout), "no interrupted uploads\n");
    }

    /// How the mount says it is; `None` while it does not answer.
    pub fn status(&self) -> Option<MountStatus> {
        Client::of_mount(&self.mount_point())?.status().ok()
    }

    /// kill -9, in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("mounted");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// The machine loses power: of the journal there is what was synced. (All else that is on the disk is
    /// there; it is the order of things that this is about.)
    pub fn lose_power(&mut self) {
        let journal = self.status().expect("mounted").journal;
        self.kill();
        let synced = journal.bytes - journal.unsynced_bytes;
        let path = sh(&self.cache_dir(), "find . -name journal");
        let path = self.cache_dir().join(path.trim());
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(synced).unwrap();
    }

    /// kill -9 by another thread, after a while; [`Mount::kill`] must follow.
    pub fn kill_after(&self, pause: Duration) -> std::thread::JoinHandle<()> {
        let process = self.process.as_ref().expect("mounted").id() as libc::pid_t;
        std::thread::spawn(move || {
            std::thread::sleep(pause);
            // SAFETY: a signal to a child that was not waited for yet: the number is still its own.
            unsafe { libc::kill(process, libc::SIGKILL) };
        })
    }

    /// An orderly unmount from outside. What other tests of this process start has the files that it has open, from its
    /// fork to its exec: for so long the kernel calls the mount busy.
    pub fn unmount(&mut self) {
        let begun = Instant::now();
        loop {
            let asked = Command::new("fusermount3").arg("-u").arg(self.mount_point()).output();
            let asked = asked.unwrap();
            let told = String::from_utf8_lossy(&asked.stderr).into_owned();
            if asked.status.success() {
                break;
            }
            assert!(told.contains("busy") && begun.elapsed() < BUSY_AT_MOST, "{told}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.gone();
    }

    /// The mount has been ended by a command of the program: waits for its process.
    pub fn gone(&mut self) {
        let mut process = self.process.take().expect("mounted");
        let begun = Instant::now();
        while process.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.local("mount.log")).unwrap_or_default()
    }

    /// Waits until `met` holds of the status.
    pub fn wait_for(&self, what: &str, met: impl Fn(&MountStatus) -> bool) -> MountStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.status()
                && met(&status)
            {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        // The mount point must be free before the directory can go.
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = Command::new("umount").arg("-l").arg(self.mount_point()).output();
    }
}

/// The one line with which a command failed.
pub fn refusal(output: &Output) -> String {
    let told = text(&output.stderr);
    assert!(!output.status.success(), "accepted: {}", text(&output.stdout));
    assert_eq!(told.lines().count(), 1, "{told}");
    told
}

/// Waits for what must come.
pub fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the kernel has a mount there, dead or alive.
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Runs a program to its end; fails the test unless it succeeds.
pub fn sh(directory: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{script}: {}: {text}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that compress to nothing and repeat nowhere, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
