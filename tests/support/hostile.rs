//! A server that answers whatever a test makes up, over plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What it makes of a request line (`GET /bucket?list-type=2 HTTP/1.1`) and the headers below it: status, headers and
/// body.
type Answer = dyn Fn(&str) -> (u16, String, Vec<u8>) + Send + Sync;

/// Ends with the process; a test has few of them.
pub struct Hostile {
    port: u16,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

impl Hostile {
    pub fn start(
        answer: impl Fn(&str) -> (u16, String, Vec<u8>) + Send + Sync + 'static,
    ) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, requests): (Arc<Answer>, _) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
        let counted = requests.clone();
        let connections = Arc::new(AtomicU64::new(0));
        let accepted = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (answer, counted) = (answer.clone(), counted.clone());
                std::thread::spawn(move || converse(stream, &*answer, &counted));
            }
        });
        Hostile { port, requests, connections }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn converse(stream: TcpStream, answer: &Answer, requests: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    stream.set_nodelay(true).ok()?;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).ok()?;
        requests.fetch_add(1, Ordering::SeqCst);
        let (status, headers, body) = answer(head.trim());
        let mut told = format!("HTTP/1.1 {status} X\r\n{headers}");
        if !headers.to_ascii_lowercase().contains("content-length") {
            told += &format!("content-length: {}\r\n", body.len());
        }
        stream.write_all(told.as_bytes()).ok()?;
        stream.write_all(b"\r\n").ok()?;
        if !head.starts_with("HEAD") {
            stream.write_all(&body).ok()?;
        }
    }
}
