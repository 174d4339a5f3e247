//! Sums that are known of parts: of objects that this machine has completed.

use std::os::unix::fs::FileExt;

use super::*;
use crate::checked::checksum;
use crate::journal::{ContentPart, Record};
use crate::store::ObjectSum;
use crate::store::memory::Rule;

/// A cache that knows an object of so many parts of so many bytes.
fn with_parts(bench: &Bench, parts: u64, part_bytes: u64) -> (Arc<Cache>, u64) {
    let journal = bench.journal();
    let part = |nth: u64| {
        let crc = checksum(&content(ByteRange::at(nth * part_bytes, part_bytes)));
        ContentPart { len: part_bytes, fingerprint: None, crc: Some(crc) }
    };
    let parts: Vec<ContentPart> = (0..parts).map(part).collect();
    let len = parts.iter().map(|part| part.len).sum();
    let (key, etag) = (Key::from("a"), ETag::new("v1"));
    let time = crate::clock::wall();
    journal.append(Record::ContentKnown { key, etag, time, parts }).unwrap();
    let cache = Cache::open(bench.store(), Some(journal), bench.budget.clone(), bench.settings());
    (cache.unwrap(), len)
}

fn flip(bench: &Bench, times: usize) -> Rule {
    bench.store.on("GetObject").times(times).then(Fault::Flipped)
}

/// As a program reads that copies: from the first byte to the last, or to an error.
async fn copy(file: &Arc<CachedObject>) -> crate::store::Result<()> {
    let reader = Reader::new(file.clone());
    for offset in (0..file.len()).step_by(128 << 10) {
        let piece = match reader.read_now(offset, 128 * KIB) {
            Some(piece) => piece,
            None => reader.read(offset, 128 * KIB, soon()).await?,
        };
        let expected = content(ByteRange::at(offset, piece.as_ref().len() as u64));
        if piece.as_ref() != expected {
            // What counts is what it is told in the end.
            log::info!("other bytes at {offset}");
        }
    }
    Ok(())
}

fn bytes_are_right(file: &[u8]) -> bool {
    file == content(ByteRange::new(0, file.len() as u64))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_a_get_brings_is_compared_before_it_is_shown() {
    for disk in [0, 100 * MIB] {
        let bench = Bench::new(64 * MIB, disk);
        // No more than memory keeps, or others may have to come again too.
        let (cache, len) = with_parts(&bench, 3, 5 * MIB);
        let file = object(&cache, "a", len);
        let turned = flip(&bench, 1);
        let piece = file.read(ByteRange::new(0, len), soon()).await.unwrap();
        assert!(bytes_are_right(piece.as_ref()), "{disk}");
        assert_eq!(turned.left(), 0);
        let gets = bench.gets();
        assert_eq!(gets.len(), 4, "cut at the parts, one of them once more: {gets:?}");
        assert!(gets.iter().all(|get| get.len() == 5 * MIB), "{gets:?}");
        assert_eq!(file.proven(), "yes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_wrong_each_time_is_an_error_and_not_kept() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let (cache, len) = with_parts(&bench, 2, 5 * MIB);
    let file = object(&cache, "a", len);
    let turned = flip(&bench, usize::MAX);
    let range = ByteRange::new(0, 5 * MIB);
    for _ in 0..2 {
        let error = file.read(range, soon()).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    }
    assert_eq!(bench.gets(), [range; 4], "twice each");
    cache.settle().await;
    assert_eq!(file.cached_ranges(), [], "nothing of it is kept");
    assert_eq!(file.proven(), "no");
    turned.lift();
    let piece = file.read(range, soon()).await.unwrap();
    assert!(bytes_are_right(piece.as_ref()));
    assert_eq!(file.proven(), "partly");
}

/// A part of three GETs.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_longer_than_a_get_is_compared_when_all_of_it_is_here() {
    for disk in [0, 200 * MIB] {
        let bench = Bench::new(128 * MIB, disk);
        let (cache, len) = with_parts(&bench, 2, 20 * MIB);
        copy(&object(&cache, "a", len)).await.unwrap();
        assert_eq!(object(&cache, "a", len).proven(), "yes");
        assert_eq!(bench.bytes_sent(), len, "no byte is read again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_what_turns_out_wrong_hears_of_it() {
    for disk in [0, 200 * MIB] {
        let bench = Bench::new(128 * MIB, disk);
        let (cache, len) = with_parts(&bench, 1, 20 * MIB);
        let mut misled = cache.misled_readers().unwrap();
        let file = object(&cache, "a", len);
        let turned = flip(&bench, 1);
        let error = copy(&file).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        assert_eq!(turned.left(), 0);
        assert_eq!(misled.recv().await, Some(Key::from("a")), "the kernel is told");
        // Whatever it reads.
        assert!(file.read(ByteRange::new(0, 1), soon()).await.is_err());
        assert!(file.read_now(ByteRange::new(0, 1)).is_none());
        drop(file);
        let file = object(&cache, "a", len);
        let piece = file.read(ByteRange::new(0, len), soon()).await.unwrap();
        assert!(bytes_are_right(piece.as_ref()));
        assert_eq!(file.proven(), "yes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_and_wrong_each_time_is_never_read_to_its_end() {
    let bench = Bench::new(128 * MIB, 200 * MIB);
    let (cache, len) = with_parts(&bench, 1, 20 * MIB);
    let turned = flip(&bench, usize::MAX);
    assert!(copy(&object(&cache, "a", len)).await.is_err());
    cache.settle().await;
    let file = object(&cache, "a", len);
    assert_eq!(file.cached_ranges(), [], "nothing of it is kept");
    // Nor is a piece of it shown, which could not be compared by itself.
    assert!(file.read(ByteRange::at(MIB, 1), soon()).await.is_err());
    turned.lift();
    copy(&file).await.unwrap();
    assert_eq!(file.proven(), "yes");
}

/// Readers side by side: those that get all of it get it right.
#[tokio::test(flavor = "multi_thread")]
async fn no_reader_among_many_takes_wrong_bytes_for_right_ones() {
    for (parts, part_bytes) in [(4, 5 * MIB), (1, 20 * MIB)] {
        let bench = Bench::new(128 * MIB, 200 * MIB);
        let (cache, len) = with_parts(&bench, parts, part_bytes);
        let turned = flip(&bench, 3);
        let readers = (0..8).map(|_| {
            let file = object(&cache, "a", len);
            tokio::spawn(async move {
                let reader = Reader::new(file);
                let mut copied = Vec::new();
                for offset in (0..len).step_by(128 << 10) {
                    match reader.read(offset, 128 * KIB, soon()).await {
                        Ok(piece) => copied.extend_from_slice(piece.as_ref()),
                        Err(error) => return assert_eq!(error.kind, ErrorKind::Corrupt),
                    }
                }
                assert!(bytes_are_right(&copied), "it was not told");
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
        turned.lift();
        // What came for one of them may only now be found wrong.
        let read_anew = async || {
            let file = object(&cache, "a", len);
            file.read(ByteRange::new(0, len), soon()).await
        };
        let mut read = read_anew().await;
        for _ in 0..3 {
            match read {
                Err(error) if error.kind == ErrorKind::Corrupt => read = read_anew().await,
                _ => break,
            }
        }
        assert!(bytes_are_right(read.unwrap().as_ref()));
    }
}

/// Of a part that was proven, some is evicted and comes again.
/// Some bytes of an object, to be sent on: right, or an error; and nothing is read more often than it must be.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_on_is_proven_before() {
    let range = ByteRange::at(3 * MIB + 5, 77);
    for disk in [0, 200 * MIB] {
        for (part_bytes, read_before, times) in
            [(5, false, 0), (5, true, 1), (20, false, 1), (20, true, 1), (20, true, usize::MAX)]
        {
            let bench = Bench::new(128 * MIB, disk);
            let (cache, len) = with_parts(&bench, 2, part_bytes * MIB);
            let file = object(&cache, "a", len);
            let turned = flip(&bench, times);
            if read_before {
                file.read(ByteRange::at(range.start(), 1), soon()).await.ok();
            }
            let what = format!("{disk} {part_bytes} {read_before} {times}");
            match file.read_proven(range, soon()).await {
                Ok(piece) => assert!(piece.as_ref() == content(range), "{what}"),
                Err(error) => {
                    assert!(times > 0 && error.kind == ErrorKind::Corrupt, "{what}: {error}");
                    turned.lift();
                    drop(file);
                    let file = object(&cache, "a", len);
                    let piece = file.read_proven(range, soon()).await.unwrap();
                    assert!(piece.as_ref() == content(range), "{what}");
                }
            }
            if times == 0 {
                assert_eq!(bench.bytes_sent(), part_bytes * MIB, "{what}");
            }
        }
    }
}

/// What an earlier mount has left on the disk proves nothing by itself where the sum is of 64 bits: it is compared with the store.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_disk_is_proven_before_it_is_sent_on() {
    for is_wrong in [false, true] {
        let bench = Bench::new(64 * MIB, 200 * MIB);
        let len = 20 * MIB;
        let whole = ByteRange::new(0, len);
        let turned = flip(&bench, usize::from(is_wrong));
        let before = bench.mount();
        object(&before, "a", len).read(whole, soon()).await.unwrap();
        on_disk(&before, "a", len).await;
        drop(before);
        assert_eq!(turned.left(), 0);
        let cache = remount(&bench).await;
        let file = object(&cache, "a", len);
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content(whole));
        file.core().promise_whole(Some(ObjectSum::Crc64Nvme(sum)));
        let sent = bench.bytes_sent();
        let right = file.read_proven(ByteRange::at(len - 9, 9), soon()).await;
        if is_wrong {
            assert_eq!(right.err().unwrap().kind, ErrorKind::Corrupt);
        } else {
            assert!(right.unwrap().as_ref() == content(ByteRange::at(len - 9, 9)));
            // Once for all of it.
            file.read_proven(ByteRange::at(5, 9), soon()).await.unwrap();
            assert_eq!(bench.bytes_sent() - sent, len);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_is_compared_with_what_was_proven() {
    let bench = Bench::new(128 * MIB, 0);
    let (cache, len) = with_parts(&bench, 1, 20 * MIB);
    let file = object(&cache, "a", len);
    let get = |range| file.read(range, soon());
    let ranges = ByteRange::new(0, len).pieces(4 * MIB).collect::<Vec<_>>();
    for range in &ranges {
        get(*range).await.unwrap();
    }
    assert_eq!(file.proven(), "yes");
    cache.clear().await;
    let turned = flip(&bench, 1);
    let piece = get(ranges[1]).await.unwrap();
    assert!(piece.as_ref() == content(ranges[1]));
    assert_eq!(turned.left(), 0);
    assert_eq!(bench.gets()[ranges.len()..], [ranges[1]; 2]);
}

/// Held back from readers, but not from the disk: a kill loses no more of it than before.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_is_on_the_disk_already() {
    let bench = Bench::new(64 * MIB, 100 * MIB);
    let tap = bench.hold_back(4 * MIB);
    let (cache, len) = with_parts(&bench, 1, 8 * MIB);
    let file = object(&cache, "a", len);
    let (_interests, _) = file.want(ByteRange::new(0, len), len, Urgency::Ahead);
    eventually("half of it is on the disk", || cache.stats().disk.bytes >= 4 * MIB).await;
    assert!(file.read_now(ByteRange::new(0, 1)).is_none(), "it was not compared");
    tap.let_out(u64::MAX);
    let piece = file.read(ByteRange::new(0, len), soon()).await.unwrap();
    assert!(bytes_are_right(piece.as_ref()));
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_tells_the_disk_from_the_store() {
    let bench = Bench::new(128 * MIB, 200 * MIB);
    let (cache, len) = with_parts(&bench, 4, 5 * MIB);
    read_all(&cache, "a", len).await;
    on_disk(&cache, "a", len).await;
    let file = object(&cache, "a", len);
    let verdict = file.verify(Depth::Cached).await.unwrap();
    assert_eq!((verdict.proven, verdict.read_from_store), (len, 0), "{verdict:?}");
    assert_eq!(verdict.read_from_disk, len);
    let turned = flip(&bench, usize::MAX);
    let verdict = file.verify(Depth::Full).await.unwrap();
    assert_eq!(verdict.damaged.len(), 1, "{verdict:?}");
    assert_eq!(verdict.damaged[0].place, Place::Store);
    turned.lift();
    let path = bench.files().pop().unwrap();
    // In place: a file that is cut for a moment may be found so.
    let on_disk = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    on_disk.read_exact_at(&mut byte, 7 * MIB).unwrap();
    on_disk.write_all_at(&[byte[0] ^ 1], 7 * MIB).unwrap();
    let verdict = file.verify(Depth::AsNeeded).await.unwrap();
    assert_eq!(verdict.damaged.len(), 1, "{verdict:?}");
    assert_eq!(verdict.damaged[0].place, Place::Cache);
    assert_eq!((verdict.read_from_store, verdict.proven), (len, len));
    let verdict = file.verify(Depth::Cached).await.unwrap();
    assert!(verdict.damaged.is_empty() && verdict.proven == 15 * MIB, "{verdict:?}");
}
