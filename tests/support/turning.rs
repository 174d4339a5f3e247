//! A network that turns one bit of the bodies that are sent to a store, or of those of the objects that come from it; or
//! the checksums that the store answers.
#![allow(clippy::disallowed_types)]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What PUTs carry.
    Up,
    /// What GETs of objects are answered with.
    Down,
    /// The CRC-32C that a PUT is answered with.
    Told,
    /// That of the object that a completion is answered with.
    Completed,
    /// The checksums of whole objects that answers tell, which become others: a store that lies.
    Whole,
}

/// Of which attempts to send a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Of the very first one alone.
    Once,
    /// Of the first one of each request.
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
    way: Way,
    turned: Turned,
    server: String,
    /// The request lines that came.
    seen: Mutex<HashSet<String>>,
    /// How many GETs of objects each connection has carried.
    gets: Mutex<Vec<u64>>,
    bits: AtomicU64,
}

/// What stands before a checksum, in a head and in the answer to a completion, in lower case.
const TOLD: &str = "x-amz-checksum-crc32c: ";
const COMPLETED: &str = "<checksumcrc32c>";

impl Turning {
    /// In front of `http://HOST:PORT`.
    pub fn start(endpoint: &str, way: Way, turned: Turned) -> Turning {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = endpoint.trim_start_matches("http://").to_owned();
        let (seen, gets, bits) = Default::default();
        let shared = Arc::new(Shared { way, turned, server, seen, gets, bits });
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

    /// How many GETs of objects each connection has carried, in the order in which they were opened.
    pub fn gets_by_connection(&self) -> Vec<u64> {
        self.shared.gets.lock().unwrap().clone()
    }

    /// Bits that were turned.
    pub fn bits(&self) -> u64 {
        self.shared.bits.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// One request after the other, as HTTP/1.1 has them without pipelining.
    fn pass(&self, client: TcpStream) {
        let server = TcpStream::connect(&self.server).unwrap();
        let connection = {
            let mut gets = self.gets.lock().unwrap();
            gets.push(0);
            gets.len() - 1
        };
        let mut requests = BufReader::new(client.try_clone().unwrap());
        let mut answers = BufReader::new(server.try_clone().unwrap());
        while self
            .pass_exchange(connection, &mut requests, &mut answers, (&client, &server))
            .is_some()
        {}
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    }

    fn pass_exchange(
        &self,
        connection: usize,
        requests: &mut impl BufRead,
        answers: &mut impl BufRead,
        (mut client, mut server): (&TcpStream, &TcpStream),
    ) -> Option<()> {
        let mut request = Message::read(requests, false)?;
        let line = request.first_line().to_owned();
        let method = line.split(' ').next().unwrap_or_default();
        if self.way == Way::Up && method == "PUT" {
            self.turn(&line, &mut request);
        }
        server.write_all(request.head.as_bytes()).ok()?;
        server.write_all(&request.body).ok()?;
        let mut answer = Message::read(answers, method == "HEAD")?;
        let is_object = method == "GET" && !line.contains('?');
        self.gets.lock().unwrap()[connection] += u64::from(is_object);
        if self.way == Way::Down && is_object && answer.first_line().contains(" 20") {
            self.turn(&format!("{line} {}", request.header("range")), &mut answer);
        }
        match (self.way, method) {
            (Way::Told, "PUT") => self.tell_another(&line, &mut answer.head, TOLD),
            (Way::Completed, "POST") => {
                let mut body = String::from_utf8(answer.body).unwrap();
                self.tell_another(&line, &mut body, COMPLETED);
                answer.body = body.into_bytes();
            }
            (Way::Whole, _) => self.lie(&mut answer),
            _ => {}
        }
        client.write_all(answer.head.as_bytes()).ok()?;
        client.write_all(&answer.body).ok()
    }

    /// Whether this is to be changed, which came with a request of this name.
    fn is_meant(&self, what: &str) -> bool {
        // Of an upload, whatever its id is.
        let what = what.split("uploadId").next().unwrap_or_default();
        self.seen.lock().unwrap().insert(what.to_owned()) || self.turned == Turned::All
    }

    /// Changes the checksum behind this word.
    fn tell_another(&self, what: &str, text: &mut String, word: &str) {
        let lower = text.to_ascii_lowercase();
        let Some(at) = lower.find(word).map(|at| at + word.len()) else { return };
        if self.is_meant(what) {
            let other = if text[at..].starts_with('A') { "B" } else { "A" };
            text.replace_range(at..=at, other);
            self.bits.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn lie(&self, answer: &mut Message) {
        let lied = |line: &str| match line.split_once(':') {
            Some((name, _)) if name.eq_ignore_ascii_case("x-amz-checksum-crc32c") => {
                self.bits.fetch_add(1, Ordering::SeqCst);
                format!("{name}: AAAAAA==")
            }
            Some((name, _)) if name.eq_ignore_ascii_case("x-amz-checksum-crc64nvme") => {
                self.bits.fetch_add(1, Ordering::SeqCst);
                format!("{name}: AAAAAAAAAAA=")
            }
            _ => line.to_owned(),
        };
        let lines: Vec<String> = answer.head.trim_end().lines().map(lied).collect();
        answer.head = lines.join("\r\n") + "\r\n\r\n";
    }

    fn turn(&self, what: &str, message: &mut Message) {
        let what = if self.turned == Turned::Once { "the first" } else { what };
        let is_first = self.seen.lock().unwrap().insert(what.to_owned());
        let middle = message.body.len() / 2;
        if let Some(byte) = message.body.get_mut(middle)
            && (is_first || self.turned == Turned::All)
        {
            *byte ^= 1;
            self.bits.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A request or an answer.
struct Message {
    /// With the empty line behind it.
    head: String,
    /// As it is sent: with the lengths of its chunks, where it comes in chunks.
    body: Vec<u8>,
}

impl Message {
    fn read(from: &mut impl BufRead, has_no_body: bool) -> Option<Message> {
        let mut message = Message { head: String::new(), body: Vec::new() };
        while !message.head.ends_with("\r\n\r\n") {
            from.read_line(&mut message.head).ok().filter(|count| *count > 0)?;
        }
        if has_no_body {
            return Some(message);
        }
        if message.header("transfer-encoding").contains("chunked") {
            message.read_chunks(from)?;
        } else if let Ok(length) = message.header("content-length").parse() {
            message.body = vec![0; length];
            from.read_exact(&mut message.body).ok()?;
        }
        Some(message)
    }

    fn read_chunks(&mut self, from: &mut impl BufRead) -> Option<()> {
        loop {
            let mut line = String::new();
            from.read_line(&mut line).ok()?;
            let length = u64::from_str_radix(line.trim(), 16).ok()?;
            self.body.extend(line.as_bytes());
            from.take(length + 2).read_to_end(&mut self.body).ok()?;
            if length == 0 {
                return Some(());
            }
        }
    }

    fn first_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    fn header(&self, name: &str) -> String {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_ascii_lowercase()).unwrap_or_default()
    }
}
