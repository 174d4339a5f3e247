//! The HTTP client of a store: the certificates that it trusts and shows, the proxy it goes through, the addresses it
//! connects to, the connections it keeps.
//!
//! - TLS is rustls, with the authorities that the system trusts (or `SSL_CERT_FILE`) and those of `--ca-bundle`;
//! - proxies are the environment's (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), but never for a store on this
//!   machine: another machine's 127.0.0.1 is another store;
//! - a connection is kept and used again; a new one goes to any of the addresses that the store's name has.
//!
//! Retries: none, but for the other addresses of a name where one does not accept. Cancellation, timeouts: see
//! [`super::exchange`].

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Identity};

use super::endpoint;
use super::exchange::chain;
use super::settings::{ClientCertificate, S3Settings};
use super::trust;
use crate::random;
use crate::store::{ErrorKind, Result, StoreError};

/// The client for the store of these settings.
pub fn client(settings: &S3Settings) -> Result<Client> {
    let names = Addresses::new(|name| Box::pin(look_up(name)));
    let builder = builder(settings)?.dns_resolver(Arc::new(names));
    builder.build().map_err(|err| unusable(format!("no HTTP client: {}", chain(&err))))
}

fn builder(settings: &S3Settings) -> Result<ClientBuilder> {
    let connections = &settings.connections;
    let mut builder = Client::builder()
        .http1_only()
        // Following a redirect would send a signature made for another host.
        .redirect(Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(connections.connect_timeout)
        // Sent bytes that stay unacknowledged for that long end the connection.
        .tcp_user_timeout(connections.request_timeout)
        .pool_max_idle_per_host(connections.pool_size)
        .user_agent(concat!("ratchetfs/", env!("CARGO_PKG_VERSION")));
    if endpoint::is_on_this_machine(settings) {
        builder = builder.no_proxy();
    }
    builder = trust::with_bundle(builder, connections.ca_bundle.as_deref())?;
    if let Some(certificate) = &connections.client_certificate {
        builder = builder.identity(identity(certificate)?);
    }
    Ok(builder)
}

/// What the client shows to a store that asks for a certificate. Neither file is quoted: one is a secret.
fn identity(certificate: &ClientCertificate) -> Result<Identity> {
    let read = |flag: &str, file: &Path| {
        read(file).map_err(|why| unusable(format!("{flag} {}: {why}", file.display())))
    };
    let mut pem = zeroize::Zeroizing::new(read("--client-key", &certificate.key)?);
    pem.push(b'\n');
    pem.extend(read("--client-cert", &certificate.certificate)?);
    Identity::from_pem(&pem).map_err(|_| {
        unusable(format!(
            "--client-cert {} and --client-key {} are no certificate and its key; give both in PEM, the key \
             without a passphrase",
            certificate.certificate.display(),
            certificate.key.display()
        ))
    })
}

#[allow(clippy::disallowed_methods, reason = "the machine's configuration")]
fn read(file: &Path) -> std::result::Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|err| err.to_string())
}

fn unusable(message: String) -> StoreError {
    StoreError::new(ErrorKind::Invalid, "Connect", message)
}

type LookUp = dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync;

/// The addresses of a name, any of them first: requests are spread over all, and the next one is tried where one does
/// not accept a connection. The system's order may be the same each time, and then one server has all the work.
struct Addresses {
    look_up: Arc<LookUp>,
}

impl Addresses {
    fn new(
        look_up: impl Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>>
        + Send
        + Sync
        + 'static,
    ) -> Addresses {
        Addresses { look_up: Arc::new(look_up) }
    }
}

impl Resolve for Addresses {
    fn resolve(&self, name: Name) -> Resolving {
        let looking_up = (self.look_up)(name.as_str().to_owned());
        Box::pin(async move {
            let addresses: Addrs = Box::new(spread(looking_up.await?, random::unit()).into_iter());
            Ok(addresses)
        })
    }
}

async fn look_up(name: String) -> std::io::Result<Vec<SocketAddr>> {
    // The port is the URL's.
    Ok(tokio::net::lookup_host((name, 0)).await?.collect())
}

/// Begins somewhere, `place` from 0 to 1, and goes round; in each family by itself, since which of IPv4 and IPv6 comes
/// first is what the system knows best.
fn spread(addresses: Vec<SocketAddr>, place: f64) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    for family in [&mut first, &mut second] {
        let count = family.len();
        family.rotate_left(((place * count as f64) as usize).min(count));
    }
    first.append(&mut second);
    first
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_gone_round_in_each_family() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let all = parse(&["[::1]:0", "1.1.1.1:0", "[::2]:0", "2.2.2.2:0"]);
        let expected = parse(&["[::1]:0", "[::2]:0", "1.1.1.1:0", "2.2.2.2:0"]);
        assert_eq!(spread(all.clone(), 0.0), expected);
        let expected = parse(&["[::2]:0", "[::1]:0", "2.2.2.2:0", "1.1.1.1:0"]);
        assert_eq!(spread(all, 0.999), expected);
        assert_eq!(spread(Vec::new(), 0.5), []);
    }

    /// Answers every request with its own address, a connection each.
    async fn serve(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = listener.local_addr().unwrap().ip().to_string();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{told}",
                    told.len()
                );
                stream.write_all(answer.as_bytes()).await
            });
        }
    }

    #[tokio::test]
    async fn requests_are_spread_over_addresses_and_a_dead_one_costs_none() {
        let hosts: Vec<Ipv4Addr> = (2..=4).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
        let first = TcpListener::bind((hosts[0], 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        // Nothing listens at the third.
        let second = TcpListener::bind((hosts[1], port)).await.unwrap();
        tokio::spawn(serve(first));
        tokio::spawn(serve(second));
        let found: Vec<SocketAddr> = hosts.iter().map(|host| (*host, 0).into()).collect();
        let names = Addresses::new(move |name| {
            assert_eq!(name, "store.test");
            let found = found.clone();
            Box::pin(async move { Ok(found) })
        });
        let builder = builder(&S3Settings::new("b")).unwrap().no_proxy();
        let client = builder.dns_resolver(Arc::new(names)).build().unwrap();
        let mut answers: HashMap<String, u32> = HashMap::new();
        for _ in 0..60 {
            let answer = client.get(format!("http://store.test:{port}/")).send().await.unwrap();
            *answers.entry(answer.text().await.unwrap()).or_default() += 1;
        }
        // Half of them each, and those of the dead one to its neighbour; fewer than five are one in a million.
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert!(answers.values().all(|count| *count >= 5), "{answers:?}");
    }

    #[test]
    fn a_certificate_that_is_none_is_refused_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut settings = S3Settings::new("b");
        let key =
            file("key.pem", "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n");
        let certificate = file("cert.pem", "hunter2");
        settings.connections.client_certificate = Some(ClientCertificate { certificate, key });
        let told = client(&settings).unwrap_err().to_string();
        assert!(told.contains("--client-key") && !told.contains("hunter2"), "{told}");
        let key = dir.path().join("missing");
        settings.connections.client_certificate.as_mut().unwrap().key = key;
        let told = client(&settings).unwrap_err().to_string();
        assert!(told.contains("--client-key") && told.contains("missing"), "{told}");
    }
}
