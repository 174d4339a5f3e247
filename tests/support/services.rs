//! Stand-ins of the services that give credentials (STS, SSO, ECS, IMDS), over plain HTTP on loopback.
#![allow(clippy::disallowed_types)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{ACCESS_KEY, SECRET_KEY};

/// A request as it came: its first line and its headers, and its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub head: String,
    pub body: String,
}

impl Asked {
    /// Method and path, with the query.
    pub fn line(&self) -> &str {
        self.head.split(" HTTP/").next().unwrap_or_default()
    }

    /// A header by its name in lower case; empty where it is not sent.
    pub fn header(&self, name: &str) -> &str {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut found = headers.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value.trim())
    }
}

type Answer = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

/// Ends with the process.
pub struct Service {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Service {
    pub fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, asked): (Arc<Answer>, Arc<Mutex<Vec<Asked>>>) =
            (Arc::new(answer), Arc::default());
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, kept) = (answer.clone(), kept.clone());
                std::thread::spawn(move || converse(stream, &*answer, &kept));
            }
        });
        Service { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn only(&self) -> Asked {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].clone()
    }

    /// STS: AssumeRole and AssumeRoleWithWebIdentity, with keys that are good.
    pub fn sts() -> Service {
        Service::start(|asked| {
            let action = if asked.body.contains("Action=AssumeRoleWithWebIdentity&") {
                "AssumeRoleWithWebIdentity"
            } else {
                "AssumeRole"
            };
            let credentials = format!(
                "<Credentials><AccessKeyId>{ACCESS_KEY}</AccessKeyId>\
                 <SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>t</SessionToken>\
                 <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
            );
            let user = "<AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId>\
                        <Arn>arn:aws:sts::123456789012:assumed-role/x/x</Arn></AssumedRoleUser>";
            let answer = format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <{action}Result>{user}{credentials}</{action}Result></{action}Response>"
            );
            (200, answer)
        })
    }

    /// The service of a container, with keys that are good until `expiration`.
    pub fn container(expiration: impl Fn() -> String + Send + Sync + 'static) -> Service {
        Service::start(move |_| (200, keys(&expiration())))
    }

    /// A machine's metadata service: IMDSv2 only.
    pub fn machine() -> Service {
        Service::start(|asked| match asked.line() {
            "PUT /latest/api/token" => (200, "imds-token".to_owned()),
            _ if asked.header("x-aws-ec2-metadata-token") != "imds-token" => (401, String::new()),
            line if line.ends_with("/security-credentials/") => (200, "role".to_owned()),
            line if line.ends_with("/security-credentials/role") => {
                (200, keys("2099-01-01T00:00:00Z"))
            }
            _ => (404, String::new()),
        })
    }
}

fn keys(expiration: &str) -> String {
    format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{ACCESS_KEY}\",\
         \"SecretAccessKey\":\"{SECRET_KEY}\",\"Token\":\"t\",\
         \"LastUpdated\":\"2020-01-01T00:00:00Z\",\"Expiration\":\"{expiration}\"}}"
    )
}

fn converse(stream: TcpStream, answer: &Answer, kept: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let asked = Asked { head, body: String::from_utf8_lossy(&body).into_owned() };
        let (status, told) = answer(&asked);
        kept.lock().unwrap().push(asked);
        let token = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
        let head = format!("HTTP/1.1 {status} X\r\n{token}content-length: {}\r\n\r\n", told.len());
        stream.write_all((head + &told).as_bytes()).ok()?;
    }
}
