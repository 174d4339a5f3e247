use super::*;
use crate::clock::{self, Instant};
use crate::control::ControlError;
use crate::control::client::Client;
use crate::control::messages::{
    BucketUpload, CacheState, CacheVerdict, FileVerdict, KeyVersions, KnownUploads, LimitChanges,
    Process, StoredParts, Transfer, UndeletedKey, Upload, UploadName, VerifyDepth,
};
use crate::store::Rates;

use async_trait::async_trait;
use tokio::sync::Notify;

/// A mount with one upload in flight, drained once it is told so.
#[derive(Default)]
struct FakeMount {
    uploaded: Notify,
}

#[async_trait]
impl Control for FakeMount {
    async fn status(&self) -> MountStatus {
        let transfer = Transfer {
            key: "a".to_owned(),
            kind: TransferKind::Upload,
            bytes_done: 3,
            bytes_total: Some(8),
            parts_done: 0,
            parts_in_flight: 1,
            parts_resumed: 0,
        };
        MountStatus {
            process: Process { pid: 7, ..Process::default() },
            transfers: vec![transfer],
            pending_files: 1,
            pending_bytes: 5,
            ..Default::default()
        }
    }
    async fn drain(&self) -> Result<()> {
        self.uploaded.notified().await;
        Ok(())
    }
    async fn shutdown(&self, now: bool) -> Result<Option<String>> {
        if now { Ok(None) } else { Err(ControlError::Refused("busy".to_owned())) }
    }
    async fn uploads(&self) -> Result<Vec<Upload>> {
        Ok(Vec::new())
    }
    async fn resume_uploads(&self, _: &[String]) -> Result<Vec<Upload>> {
        Ok(Vec::new())
    }
    async fn abort_uploads(&self, names: &[String]) -> Result<Vec<Upload>> {
        Err(ControlError::Refused(format!("no upload {names:?}")))
    }
    async fn bucket_uploads(&self) -> Result<Vec<BucketUpload>> {
        Ok(Vec::new())
    }
    async fn bucket_upload_parts(&self, _: &[UploadName]) -> Result<Vec<Option<StoredParts>>> {
        Ok(Vec::new())
    }
    async fn end_bucket_uploads(&self, _: &[UploadName]) -> Result<()> {
        Ok(())
    }
    async fn known_uploads(&self) -> Result<KnownUploads> {
        Ok(KnownUploads::default())
    }
    async fn cache_info(&self) -> Result<CacheState> {
        Ok(CacheState { disk_bytes: 9, ..Default::default() })
    }
    async fn cache_verify(&self) -> Result<CacheVerdict> {
        Ok(CacheVerdict { checked_bytes: 9, damaged_bytes: 1 })
    }
    async fn verify(&self, path: &[u8], _: VerifyDepth) -> Result<FileVerdict> {
        Ok(FileVerdict { len: path.len() as u64, ..FileVerdict::default() })
    }
    async fn versions(&self, _: &[u8]) -> Result<KeyVersions> {
        Err(ControlError::Refused("no versions".to_owned()))
    }
    async fn undelete(&self, _: &[u8]) -> Result<UndeletedKey> {
        Err(ControlError::Refused("no versions".to_owned()))
    }
    async fn cache_clear(&self) -> Result<u64> {
        Ok(9)
    }
    async fn limit(&self, changes: LimitChanges) -> Result<Rates> {
        Ok(changes.apply(Rates::default()))
    }
}

struct Running {
    server: Server,
    mount: Arc<FakeMount>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mount = Arc::new(FakeMount::default());
    let _inside = runtime.enter();
    let server = Server::start_at(dir.path().join("x.sock"), mount.clone()).unwrap();
    drop(_inside);
    Running { server, mount, runtime, _dir: dir }
}

#[test]
fn one_conversation_asks_many_things() {
    let running = running();
    let mut client = Client::connect(&running.server.paths()[0]).unwrap();
    assert_eq!(client.status().unwrap().process.pid, 7);
    assert!(matches!(client.ask(&Request::CacheClear), Ok(Response::Cleared(9))));
    assert!(matches!(client.ask_patiently(&Request::CacheVerify), Ok(Response::Verified(_))));
    assert!(matches!(client.ask(&Request::Shutdown { now: true }), Ok(Response::Done)));
}

#[test]
fn a_refusal_arrives_with_its_reason() {
    let running = running();
    let mut client = Client::connect(&running.server.paths()[0]).unwrap();
    let refused = client.ask(&Request::Shutdown { now: false });
    assert!(matches!(refused, Err(ControlError::Refused(why)) if why == "busy"));
}

#[test]
fn a_drain_tells_how_far_it_is_and_ends() {
    let running = running();
    let mut client = Client::connect(&running.server.paths()[0]).unwrap();
    let mut heard = Vec::new();
    client
        .drain(|progress| {
            heard.push(progress);
            running.mount.uploaded.notify_one();
        })
        .unwrap();
    assert_eq!(heard[0], DrainProgress { files_left: 1, bytes_done: 3, bytes_total: 8 });
}

#[test]
fn a_mount_that_hangs_is_named_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    // Connections are taken by the kernel, and never read.
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let begun = Instant::now();
    let silent = client.status_within(Duration::from_millis(1500)).unwrap_err().to_string();
    assert!(begun.elapsed() < Duration::from_secs(20));
    let process = std::process::id();
    assert!(silent.contains(&format!("process {process} has not answered for 1 s")), "{silent}");
}

#[test]
fn garbage_is_refused_and_the_conversation_goes_on() {
    use std::io::{BufRead, Write};
    let running = running();
    let mut stream = std::os::unix::net::UnixStream::connect(&running.server.paths()[0]).unwrap();
    stream.write_all(b"{nonsense\n\"status\"\n").unwrap();
    let mut lines = std::io::BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().contains("refused"));
    assert!(lines.next().unwrap().unwrap().contains("\"pid\":7"));
}

#[test]
fn only_the_owner_may_ask_and_nothing_stays_behind() {
    let running = running();
    let path = running.server.paths().remove(0);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(running.server);
    assert!(!path.exists());
    drop(running.runtime);
    assert!(matches!(Client::connect(&path), Err(ControlError::Unreachable(_))));
}

/// A listener at `x.sock` of a new directory, and what it says to all that ask.
fn impostor(say: impl Fn(std::os::unix::net::UnixStream) + Send + 'static) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("x.sock")).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| say(stream.unwrap())));
    dir
}

#[test]
fn answers_that_trickle_or_never_end_are_not_listened_to() {
    use std::io::Write;
    let trickle = impostor(|mut stream| {
        while stream.write_all(b"x").is_ok() {
            clock::block_for(Duration::from_millis(100));
        }
    });
    let mut client = Client::connect(&trickle.path().join("x.sock")).unwrap();
    let begun = Instant::now();
    let refused = client.status_within(Duration::from_millis(1500)).unwrap_err();
    assert!(matches!(refused, ControlError::Silent { .. }), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let flood = impostor(|mut stream| while stream.write_all(&[b'x'; 1 << 20]).is_ok() {});
    let mut client = Client::connect(&flood.path().join("x.sock")).unwrap();
    let refused = client.ask_patiently(&Request::CacheInfo).unwrap_err().to_string();
    assert!(refused.contains("without an end"), "{refused}");
}

#[test]
fn a_socket_whose_queue_is_full_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    let listening =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listening.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listening.listen(0).unwrap();
    let _first = Client::connect(&path).unwrap();
    let begun = Instant::now();
    assert!(Client::connect(&path).is_err());
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_directory_that_others_may_write_to_is_not_believed() {
    let running = running();
    let path = running.server.paths().remove(0);
    let dir = path.parent().unwrap();
    for mode in [0o777, 0o770] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Client::connect(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod go-w"), "{refused}");
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    Client::connect(&path).unwrap();
}

#[test]
fn a_socket_that_was_taken_away_is_there_again() {
    let running = running();
    let path = running.server.paths().remove(0);
    std::fs::remove_file(&path).unwrap();
    let begun = Instant::now();
    while Client::connect(&path).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        clock::block_for(Duration::from_millis(20));
    }
    assert_eq!(Client::connect(&path).unwrap().status().unwrap().process.pid, 7);
}

#[test]
fn a_mount_that_ends_leaves_the_socket_of_its_successor() {
    let running = running();
    let path = running.server.paths().remove(0);
    let inside = running.runtime.enter();
    let next = Server::start_at(path.clone(), running.mount.clone()).unwrap();
    drop(inside);
    drop(running.server);
    assert_eq!(Client::connect(&path).unwrap().status().unwrap().process.pid, 7);
    drop(next);
    assert!(!path.exists());
}
