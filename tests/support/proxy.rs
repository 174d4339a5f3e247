//! A TCP proxy between a mount and its store, for what only a network can do.
#![allow(clippy::disallowed_types)]

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
    /// No process listens: connections are refused, open ones reset.
    Refused,
    /// Connections come to be, and no byte of an answer ever.
    Silent,
    /// Nothing answers, not even to a SYN.
    BlackHole,
}

/// What becomes of requests to PUT an object (no part, no copy) whose key holds a text.
#[derive(Clone, Copy, Debug)]
pub enum Put {
    /// Answered 503, and never sent.
    Refused,
    /// Sent so much later.
    Late(Duration),
}

/// Ends with the process; a test has few of them.
pub struct Proxy {
    pub port: u16,
    network: Arc<AtomicU8>,
    rules: Arc<Rules>,
    moved: Arc<Moved>,
}

/// Bytes that were handed to the server and to the client.
#[derive(Default)]
pub struct Moved {
    up: AtomicU64,
    down: AtomicU64,
}

impl Moved {
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// What the kernel may hold of an answer, in bytes: what was handed over is nearly what has come.
const SEND_BUFFER: usize = 32 << 10;

/// What is done to single requests, which are told by how they begin.
#[derive(Default)]
struct Rules {
    /// The request whose answer is to be lost.
    losing: Mutex<Option<String>>,
    lost: AtomicU64,
    puts: Mutex<Vec<(String, Put)>>,
}

impl Rules {
    fn loses(&self, bytes: &[u8]) -> bool {
        let is_meant = |text: &mut String| bytes.starts_with(text.as_bytes());
        self.losing.lock().unwrap().take_if(is_meant).is_some()
    }

    fn put(&self, bytes: &[u8]) -> Option<Put> {
        let text = String::from_utf8_lossy(bytes.strip_prefix(b"PUT ")?);
        let target = text.split(' ').next()?;
        let is_object = !target.contains('?') && !text.contains("\r\nx-amz-copy-source:");
        let puts = self.puts.lock().unwrap();
        let found = puts.iter().find(|(part, _)| is_object && target.contains(part));
        found.map(|(_, put)| *put)
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
        let rules = Arc::new(Rules::default());
        let moved = Arc::new(Moved::default());
        let (seen, kept, counted) = (network.clone(), rules.clone(), moved.clone());
        std::thread::spawn(move || serve(listener, server, &seen, &kept, &counted));
        Proxy { port, network, rules, moved }
    }

    pub fn moved(&self) -> &Moved {
        &self.moved
    }

    /// The next request that begins so is acted upon, and its connection ends in place of an answer.
    pub fn lose_answer_to(&self, request: &str) {
        *self.rules.losing.lock().unwrap() = Some(request.to_owned());
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.rules.lost.load(Ordering::SeqCst)
    }

    /// From the next request on; the first rule whose text its target holds.
    pub fn set_puts(&self, rules: &[(&str, Put)]) {
        let rules = rules.iter().map(|(text, put)| ((*text).to_owned(), *put));
        *self.rules.puts.lock().unwrap() = rules.collect();
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

fn serve(
    listener: TcpListener,
    server: SocketAddr,
    network: &Arc<AtomicU8>,
    rules: &Arc<Rules>,
    moved: &Arc<Moved>,
) {
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
        let (network, rules, moved) = (network.clone(), rules.clone(), moved.clone());
        std::thread::spawn(move || connect(client, server, &network, &rules, &moved));
    }
}

/// Both directions of one connection, until either ends.
fn connect(
    client: TcpStream,
    server: SocketAddr,
    network: &Arc<AtomicU8>,
    rules: &Arc<Rules>,
    moved: &Arc<Moved>,
) {
    socket2::SockRef::from(&client).set_send_buffer_size(SEND_BUFFER).unwrap();
    // Nothing of it goes on while the network is silent.
    let server = TcpStream::connect(server).unwrap();
    let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (other, counted, all) = (network.clone(), rules.clone(), moved.clone());
    let loses = Arc::new(AtomicBool::new(false));
    let ends = loses.clone();
    std::thread::spawn(move || {
        copy(forth, back, &other, &all.down, |_| {
            let ends = ends.load(Ordering::SeqCst);
            counted.lost.fetch_add(u64::from(ends), Ordering::SeqCst);
            !ends
        });
    });
    let asks = client.try_clone().unwrap();
    copy(client, server, network, &moved.up, |bytes| {
        loses.fetch_or(rules.loses(bytes), Ordering::SeqCst);
        match rules.put(bytes) {
            Some(Put::Refused) => {
                refuse(&asks, bytes);
                false
            }
            Some(Put::Late(pause)) => {
                std::thread::sleep(pause);
                true
            }
            None => true,
        }
    });
}

/// Reads the request to its end, as else its client might not get to the answer.
fn refuse(mut client: &TcpStream, begun: &[u8]) {
    const ANSWER: &str =
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let head =
        begun.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(begun.len(), |at| at + 4);
    let text = String::from_utf8_lossy(&begun[..head]).to_lowercase();
    let length =
        text.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next());
    let mut missing = length
        .map_or(0, |length| length.parse::<usize>().unwrap())
        .saturating_sub(begun.len() - head);
    let mut bytes = [0; 64 << 10];
    while missing > 0 {
        match client.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => missing = missing.saturating_sub(count),
            Err(error) if is_late(&error) => {}
            Err(_) => return,
        }
    }
    let _ = client.write_all(ANSWER.as_bytes());
}

/// Nothing came within [`EVERY`].
fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
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
    moved: &AtomicU64,
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
            Ok(count) if to.write_all(&bytes[..count]).is_ok() => {
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if is_late(&error) => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
