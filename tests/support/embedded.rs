//! The embedded store in the test's own process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ratchetfs::embedded::{Counters, Faults, Options, Server};

use super::{ACCESS_KEY, BUCKET, SECRET_KEY};

/// An embedded store with one bucket, [`BUCKET`]. Ends when dropped, and its directory with it.
pub struct Embedded {
    server: Server,
    pub faults: Arc<Faults>,
    dir: PathBuf,
    /// Removes the directory at the end; none where the test keeps it.
    temp: Option<tempfile::TempDir>,
}

impl Embedded {
    /// On a fresh directory.
    pub async fn start() -> Embedded {
        let temp = tempfile::tempdir().unwrap();
        let mut embedded = Embedded::start_in(temp.path()).await;
        embedded.temp = Some(temp);
        embedded
    }

    /// On a directory that outlives it.
    pub async fn start_in(dir: &Path) -> Embedded {
        let faults = Arc::new(Faults::default());
        let server = serve(dir, Arc::clone(&faults)).await;
        Embedded { server, faults, dir: dir.to_owned(), temp: None }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    pub fn counters(&self) -> &Counters {
        self.server.counters()
    }

    /// What its blobs take of the disk.
    pub fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;

        fn of(folder: &Path) -> u64 {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
            let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
                Ok(found) if found.is_dir() => of(&entry.path()),
                Ok(found) => found.blocks() * 512,
                // Removed meanwhile.
                Err(_) => 0,
            };
            entries.map(bytes).sum()
        }
        of(&self.dir)
    }

    /// Stops the server and starts it again on the same directory. The endpoint changes, the counters
    /// begin anew, the faults stay.
    pub async fn restart(self) -> Embedded {
        let Embedded { server, faults, dir, temp } = self;
        server.stop().await;
        let server = serve(&dir, Arc::clone(&faults)).await;
        Embedded { server, faults, dir, temp }
    }
}

async fn serve(dir: &Path, faults: Arc<Faults>) -> Server {
    let options = Options {
        dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        buckets: vec![BUCKET.to_owned()],
        faults,
    };
    Server::start(options).await.unwrap()
}
