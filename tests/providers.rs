//! Stores that run here beside the embedded one and SeaweedFS (`store_conformance`): moto, in which Amazon's answers are
//! written down. docs/providers.md says what is verified how.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use ratchetfs::internals::{
    Addressing, ByteRange, ETag, ErrorKind, Key, ListRequest, Precondition, Provider, S3Settings,
    S3Store, Store, StoredPart, WriteOptions,
};
use support::moto::Moto;
use support::mount::{Mount, noise, sh};

const BUCKET: &str = "test-bucket";

fn settings(moto: &Moto, provider: Provider) -> S3Settings {
    let mut settings = S3Settings::new(BUCKET);
    settings.endpoint_url = Some(moto.endpoint().to_owned());
    settings.region = Some("us-east-1".to_owned());
    settings.provider = provider;
    // Its host is an address, before which there is no room for the bucket.
    settings.addressing = Addressing::Path;
    settings.credentials = Some(support::credentials());
    settings
}

async fn read(store: &dyn Store, key: &Key, len: usize, etag: &ETag) -> Vec<u8> {
    let body = store.get(key, ByteRange::new(0, len as u64), etag).await.unwrap();
    let chunks: Vec<Bytes> = body.bytes.try_collect().await.unwrap();
    chunks.concat()
}

/// What Amazon's row says holds, as far as moto has it: checksums, conditions of writes and deletions, uploads.
#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_amazon_holds_at_moto() {
    let moto = Moto::start(BUCKET).await;
    for provider in [Provider::Aws, Provider::Other] {
        let store = S3Store::connect(settings(&moto, provider)).await.unwrap();
        let (key, options) =
            (Key::from(format!("{provider:?}/k").as_str()), WriteOptions::default());
        let put = async |bytes: Vec<u8>, precondition: Precondition| {
            store.put(&key, Bytes::from(bytes).into(), &options, &precondition).await
        };
        let old = put(noise(1000, 1), Precondition::None).await.unwrap();
        let new = put(noise(1000, 2), Precondition::None).await.unwrap();
        assert!(read(&store, &key, 1000, &new).await == noise(1000, 2));
        let stale = store.get(&key, ByteRange::new(0, 10), &old).await.err().unwrap();
        assert_eq!(stale.kind, ErrorKind::PreconditionFailed);
        let listing = ListRequest {
            prefix: Key::from(format!("{provider:?}/").as_str()),
            ..Default::default()
        };
        let listed = store.list(&listing).await.unwrap();
        assert_eq!(listed.objects.len(), 1);
        assert_eq!(listed.objects[0].etag, new);
        if provider == Provider::Aws {
            for precondition in [Precondition::Absent, Precondition::Matches(old.clone())] {
                let refused = put(noise(10, 3), precondition).await.unwrap_err();
                assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
            }
            let refused = store.delete(&key, Some(&old)).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::PreconditionFailed);
        }
        store.delete(&key, Some(&new)).await.unwrap();
        store.delete(&key, Some(&new)).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap_err().kind, ErrorKind::NotFound);

        let id = store.create_upload(&key, &options).await.unwrap().upload_id;
        let mut parts = Vec::new();
        for (number, len) in [(1, 5 << 20), (2, 100_000)] {
            let bytes = Bytes::from(noise(len, number as u64));
            let etag = store.upload_part(&key, &id, number, bytes.into()).await.unwrap();
            parts.push(StoredPart { number, etag, len: len as u64, crc: None });
        }
        let etag = store.complete_upload(&key, &id, &parts, &Precondition::None).await.unwrap();
        let whole = [noise(5 << 20, 1), noise(100_000, 2)].concat();
        assert!(read(&store, &key, whole.len(), &etag).await == whole);
    }
}

/// A mount of it: files of both kinds of upload, in directories, renamed, and removed.
#[test]
fn moto_is_mounted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let moto = runtime.block_on(Moto::start(BUCKET));
    let mut mount = Mount::new(moto.endpoint(), &format!("s3://{BUCKET}/prefix"), &[]);
    mount.mount();
    let (small, large) = (noise(10_000, 1), noise(20 << 20, 2));
    fs::create_dir(mount.at("d")).unwrap();
    fs::write(mount.at("d/small"), &small).unwrap();
    fs::write(mount.at("d/large"), &large).unwrap();
    sh(&mount.mount_point(), "mv d e && chmod 600 e/small && mv e/small e/other && ls e");
    mount.unmount();
    fs::remove_dir_all(mount.cache_dir()).unwrap();
    mount.mount();
    assert!(fs::read(mount.at("e/other")).unwrap() == small);
    assert!(fs::read(mount.at("e/large")).unwrap() == large);
    sh(&mount.mount_point(), "rm -r e && test ! -e e");
    mount.unmount();
}
