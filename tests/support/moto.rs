//! moto's S3 for tests: the `moto_server` program (`pip install moto[server]`), a process for each test, killed when the
//! test ends, in whatever way it does.
#![allow(clippy::disallowed_types)]

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::raw::Client;

/// Python takes seconds to begin; a loaded machine is given time.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running moto.
pub struct Moto {
    endpoint: String,
    process: Child,
}

impl Moto {
    /// One with a bucket of this name. It dies with the thread that starts it.
    ///
    /// Panics where it is not installed: a suite that skips it would not be the suite.
    pub async fn start(bucket: &str) -> Moto {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe, and touches nothing but the child it runs in.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("cannot run moto_server ({error}); install it with: scripts/setup test")
        });
        let moto = Moto { endpoint: format!("http://127.0.0.1:{port}"), process };
        let begun = Instant::now();
        let client = Client::new(&moto.endpoint);
        loop {
            let made = client.send(http::Method::PUT, &format!("/{bucket}"), &[], "").await;
            if made.is_ok_and(|answer| answer.status == 200) {
                return moto;
            }
            assert!(begun.elapsed() < START_TIMEOUT, "moto does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).ok();
    }
}
