//! A TCP proxy between a mount and its store, for what only a network can do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Network {
    Up,
    /// Nobody listens: connections are refused, open ones reset.
    Refused,
    /// Connections come to be, and no byte of an answer ever.
    Silent,
    /// Nothing answers, not even to a SYN.
    BlackHole,
}

/// Ends with the process; a test has few of them.
pub struct Proxy {
    pub port: u16,
    network: Arc<AtomicU8>,
    losing: Arc<Losing>,
}

/// The request whose answer is to be lost: what it begins with.
#[derive(Default)]
struct Losing {
    next: Mutex<Option<String>>,
    lost: AtomicU64,
}

impl Losing {
    fn is_meant(&self, bytes: &[u8]) -> bool {
        let is_meant = |text: &mut String| bytes.starts_with(text.as_bytes());
        self.next.lock().unwrap().take_if(is_meant).is_some()
    }
}

/// How often a thread looks whether the network has changed.
const EVERY: Duration = Duration::from_millis(5);

impl Proxy {
    /// In front of `http://HOST:PORT`.
    pub fn start(endpoint: &str) -> Proxy {
        let server: SocketAddr = endpoint.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = Arc::new(AtomicU8::new(Network::Up as u8));
        let losing = Arc::new(Losing::default());
        let (seen, loses) = (network.clone(), losing.clone());
        std::thread::spawn(move || serve(listener, server, &seen, &loses));
        Proxy { port, network, losing }
    }

    /// The next request that begins so is acted upon, and its connection ends in place of an answer.
    pub fn lose_answer_to(&self, request: &str) {
        *self.losing.next.lock().unwrap() = Some(request.to_owned());
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.losing.lost.load(Ordering::SeqCst)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Takes effect within some milliseconds.
    pub fn set(&self, network: Network) {
        self.network.store(network as u8, Ordering::SeqCst);
        std::thread::sleep(EVERY * 6);
    }
}

fn is(network: &AtomicU8, state: Network) -> bool {
    network.load(Ordering::SeqCst) == state as u8
}

fn serve(listener: TcpListener, server: SocketAddr, network: &Arc<AtomicU8>, losing: &Arc<Losing>) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    // Connections that fill the backlog of a listener that accepts nothing.
    let mut plugs: Vec<TcpStream> = Vec::new();
    loop {
        if is(network, Network::Refused) {
            listener = None;
            std::thread::sleep(EVERY);
            continue;
        }
        let open = listener.get_or_insert_with(|| TcpListener::bind(address).unwrap());
        open.set_nonblocking(true).unwrap();
        if is(network, Network::BlackHole) {
            if plugs.is_empty() {
                plugs = plug(open, address);
            }
            std::thread::sleep(EVERY);
            continue;
        }
        if !plugs.is_empty() {
            plugs.clear();
            listener = None;
            continue;
        }
        let Ok((client, _)) = open.accept() else {
            std::thread::sleep(EVERY);
            continue;
        };
        client.set_nonblocking(false).unwrap();
        let (network, losing) = (network.clone(), losing.clone());
        std::thread::spawn(move || {
            // Nothing of it goes on while the network is silent.
            let server = TcpStream::connect(server).unwrap();
            let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (other, lost) = (network.clone(), losing.clone());
            let loses = Arc::new(AtomicBool::new(false));
            let ends = loses.clone();
            std::thread::spawn(move || {
                copy(forth, back, &other, |_| {
                    let ends = ends.load(Ordering::SeqCst);
                    lost.lost.fetch_add(u64::from(ends), Ordering::SeqCst);
                    !ends
                });
            });
            copy(client, server, &network, |bytes| {
                loses.fetch_or(losing.is_meant(bytes), Ordering::SeqCst);
                true
            });
        });
    }
}

/// Makes the kernel drop every further SYN.
fn plug(listener: &TcpListener, address: SocketAddr) -> Vec<TcpStream> {
    // SAFETY: a listening socket that outlives the call; listen(2) again only changes its backlog.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    (0..8)
        .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok())
        .collect()
}

/// Until `goes_on` says no.
fn copy(
    mut from: TcpStream,
    mut to: TcpStream,
    network: &AtomicU8,
    goes_on: impl Fn(&[u8]) -> bool,
) {
    from.set_read_timeout(Some(EVERY)).unwrap();
    let mut bytes = vec![0; 64 << 10];
    loop {
        if is(network, Network::Refused) {
            break;
        }
        if !is(network, Network::Up) {
            std::thread::sleep(EVERY);
            continue;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) if !goes_on(&bytes[..count]) => break,
            Ok(count) if to.write_all(&bytes[..count]).is_ok() => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
