//! A bucket as another client sees it.

use http::Method;
use tokio::runtime::{Handle, Runtime};

use super::mount::Mount;
use super::raw::{Answer, Client};

/// Requests to one bucket, each answered before the next.
pub struct Bucket {
    client: Client,
    name: String,
    runtime: Handle,
}

impl Bucket {
    pub fn new(endpoint: &str, name: &str, runtime: &Runtime) -> Bucket {
        let client = Client::new(endpoint);
        Bucket { client, name: name.to_owned(), runtime: runtime.handle().clone() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `target` is a key, a query or both, percent-encoded.
    pub fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let target = format!("/{}/{target}", self.name);
        self.runtime.block_on(self.client.send(method, &target, headers, body)).unwrap()
    }

    /// An object's bytes, `None` where there is none.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.send(Method::GET, key, &[], "");
        (answer.status == 200).then_some(answer.body)
    }

    /// What a HEAD says of an object.
    pub fn header(&self, key: &str, name: &str) -> String {
        let head = self.send(Method::HEAD, key, &[], "");
        assert_eq!(head.status, 200, "{key}");
        head.header(name)
    }

    /// Without any metadata, as most clients do.
    pub fn put(&self, key: &str, content: impl Into<Vec<u8>>) {
        self.put_with(key, &[], content);
    }

    pub fn put_with(&self, key: &str, headers: &[(&str, &str)], content: impl Into<Vec<u8>>) {
        let answer = self.send(Method::PUT, key, headers, content);
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
    }

    /// As an upload of one part: copies of it have other ETags.
    pub fn put_as_part(&self, key: &str, content: impl Into<Vec<u8>>) {
        let path = format!("/{}/{key}", self.name);
        let made = self.runtime.block_on(async {
            let id = self.client.begin(&path).await;
            let tag = self.client.part(&path, &id, 1, content).await;
            self.client.complete(&path, &id, &[], &[(1, &tag)]).await
        });
        assert_eq!(made.status, 200, "{}", made.text());
    }

    pub fn delete(&self, key: &str) {
        assert_eq!(self.send(Method::DELETE, key, &[], "").status, 204, "{key}");
    }

    /// All of them, which one page must hold.
    pub fn keys(&self) -> Vec<String> {
        let listed = self.send(Method::GET, "?list-type=2", &[], "").text();
        assert!(listed.contains("<IsTruncated>false"), "{listed}");
        let keys = listed.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap());
        keys.map(str::to_owned).collect()
    }

    /// The keys but for markers of directories.
    pub fn files(&self) -> Vec<String> {
        self.keys().into_iter().filter(|key| !key.ends_with('/')).collect()
    }

    /// How many uploads have begun and not ended.
    pub fn uploads(&self) -> usize {
        self.send(Method::GET, "?uploads", &[], "").text().matches("<Upload>").count()
    }

    /// A file has this content, on a mount and in the bucket.
    pub fn assert_has(&self, mount: &Mount, name: &str, content: &[u8]) {
        let found = std::fs::read(mount.at(name)).unwrap();
        assert!(found == content, "{name}: {} bytes for {}", found.len(), content.len());
        let stored = self.object(name).unwrap_or_else(|| panic!("{name} is not in the bucket"));
        assert!(stored == content, "{name} in the bucket: {} bytes", stored.len());
    }
}
