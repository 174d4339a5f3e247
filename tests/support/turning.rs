//! A network that turns one bit of the bodies that are sent to a store.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Of which attempts to send a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Of the first one of each PUT.
    First,
    /// Of each.
    All,
}

/// Ends with the process; a test has few of them.
pub struct Turning {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    turned: Turned,
    server: String,
    /// The request lines that came.
    seen: Mutex<HashSet<String>>,
    bits: AtomicU64,
}

impl Turning {
    /// In front of `http://HOST:PORT`.
    pub fn start(endpoint: &str, turned: Turned) -> Turning {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = endpoint.trim_start_matches("http://").to_owned();
        let (seen, bits) = Default::default();
        let shared = Arc::new(Shared { turned, server, seen, bits });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                std::thread::spawn(move || shared.pass(client));
            }
        });
        Turning { port, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bits that were turned.
    pub fn bits(&self) -> u64 {
        self.shared.bits.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn pass(&self, client: TcpStream) {
        let server = TcpStream::connect(&self.server).unwrap();
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let mut requests = BufReader::new(client);
        while self.pass_request(&mut requests, &server).is_some() {}
        let _ = server.shutdown(Shutdown::Both);
    }

    fn pass_request(
        &self,
        client: &mut BufReader<TcpStream>,
        mut server: &TcpStream,
    ) -> Option<()> {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let begin = head.len();
            client.read_line(&mut head).ok().filter(|count| *count > 0)?;
            let line = head[begin..].to_ascii_lowercase();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).ok()?;
        let line = head.lines().next().unwrap_or_default();
        if line.starts_with("PUT ") && length > 0 && self.is_turned(line) {
            body[length / 2] ^= 1;
            self.bits.fetch_add(1, Ordering::SeqCst);
        }
        server.write_all(head.as_bytes()).ok()?;
        server.write_all(&body).ok()
    }

    fn is_turned(&self, line: &str) -> bool {
        let is_first = self.seen.lock().unwrap().insert(line.to_owned());
        is_first || self.turned == Turned::All
    }
}
