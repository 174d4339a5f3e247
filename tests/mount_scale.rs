//! How long a mount takes to answer, and what memory it needs, over a cache directory that remembers a great
//! deal. `scripts/measure-mount` prints the figures of an optimised build.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::time::{Duration, Instant, SystemTime};

use ratchetfs::internals::AttributeCache;
use ratchetfs::internals::ByteRange;
use ratchetfs::internals::PartPlan;
use ratchetfs::internals::{Attributes, Kind};
use ratchetfs::internals::{ETag, Key, UploadId};
use ratchetfs::internals::{Fingerprint, Identity, Journal, Record};
use support::BUCKET;
use support::mount::Bench;

const MIB: u64 = 1 << 20;
const ETAG: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// Parts that the store has of 100 interrupted uploads.
fn parts(journal: &Journal, count: u64) {
    for draft in 0..100 {
        let draft_id = journal.next_draft_id();
        let mut records = vec![
            Record::DraftBegun {
                draft: draft_id,
                key: Key::from(format!("backup/2026/archive-{draft}.tar").as_str()),
                plan: PartPlan::new(5 * MIB, false),
                base: None,
                options: 0,
                time: SystemTime::now(),
            },
            Record::UploadBegun {
                draft: draft_id,
                upload_id: UploadId(format!("{draft:032}")),
                metadata: Default::default(),
                content_type: None,
            },
        ];
        records.extend((0..count / 100).map(|number| Record::PartStored {
            draft: draft_id,
            number: number as u32 + 1,
            len: 5 * MIB,
            etag: ETag::new(ETAG),
            fingerprint: Some(Fingerprint([number as u8; 32])),
            unsealed: false,
        }));
        records.chunks(1000).for_each(|some| journal.append_all(some).unwrap());
    }
}

fn object_begun(journal: &Journal, name: u64, len: u64) -> (u64, Record) {
    let object = journal.next_object_id();
    let key = Key::from(format!("photos/2026/{:03}/img_{name:07}.jpg", name / 1000).as_str());
    (object, Record::ObjectBegun { object, key, etag: ETag::new(ETAG), len })
}

/// Ranges of 100 objects on the disk.
fn ranges(journal: &Journal, count: u64) {
    for name in 0..100 {
        let (object, begun) = object_begun(journal, name, count * MIB);
        let mut records = vec![begun];
        records.extend((0..count / 100).map(|at| Record::RangeResident {
            object,
            range: ByteRange::at(at * MIB, MIB),
            crc: 7,
        }));
        records.chunks(1000).for_each(|some| journal.append_all(some).unwrap());
    }
}

/// Objects with one range each.
fn objects(journal: &Journal, count: u64) {
    let mut records = Vec::new();
    for name in 0..count {
        let (object, begun) = object_begun(journal, name, 3 * MIB);
        let range = ByteRange::new(0, 3 * MIB);
        records.extend([begun, Record::RangeResident { object, range, crc: 7 }]);
        if records.len() >= 1000 {
            journal.append_all(&records).unwrap();
            records.clear();
        }
    }
    journal.append_all(&records).unwrap();
}

/// Objects whose attributes were seen.
fn attributes(folder: &std::path::Path, identity: &Identity, count: u64) {
    let (cache, _) = AttributeCache::open(folder, identity, count as usize).unwrap();
    let now = SystemTime::now();
    for name in 0..count {
        let key = Key::from(format!("photos/2026/{:03}/img_{name:07}.jpg", name / 1000).as_str());
        let attributes = Attributes::new(Kind::File, 0o644, 1000, 1000, now);
        cache.put(&key, &ETag::new(ETAG), Some(now), &attributes);
    }
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
#[ignore = "measures; scripts/measure-mount runs it"]
fn a_mount_over_a_million_of_each_answers_soon() {
    let count = std::env::var("MOUNT_SCALE").ok().and_then(|text| text.parse().ok());
    let count: u64 = count.unwrap_or(1_000_000);
    type Fill = fn(&Journal, u64);
    let kinds: [(&str, Option<Fill>, bool); 6] = [
        ("nothing", None, false),
        ("parts in 100 uploads", Some(parts), false),
        ("ranges in 100 objects", Some(ranges), false),
        ("objects with a range each", Some(objects), false),
        ("attributes", None, true),
        (
            "parts, ranges, attributes",
            Some(|journal, count| {
                parts(journal, count);
                ranges(journal, count);
            }),
            true,
        ),
    ];
    for (label, fill, with_attributes) in kinds {
        let mut bench = Bench::unmounted(&["--cache-size", "100TiB"]);
        let identity = Identity {
            endpoint: bench.store.endpoint(),
            bucket: BUCKET.to_owned(),
            prefix: Key::default(),
        };
        let folder = identity.folder(&bench.cache_dir());
        let (journal, _) = Journal::open(&folder, &identity).unwrap();
        if let Some(fill) = fill {
            fill(&journal, count);
        }
        if with_attributes {
            attributes(&folder, &identity, count);
        }
        let bytes = journal.bytes();
        drop(journal);
        for options in [vec!["--cache-size", "100TiB"], vec!["--offline"]] {
            bench.set_options(&options);
            let begun = Instant::now();
            bench.mount();
            std::fs::metadata(bench.mount_point()).unwrap();
            let took = begun.elapsed();
            let pid = bench.status().unwrap().process.pid;
            println!(
                "{label:<26} {:<12} journal {:>4} MiB  answers after {:>5.2} s  peak {:>4} MiB",
                options[0],
                bytes / MIB,
                took.as_secs_f64(),
                resident_mib(pid),
            );
            assert!(took < Duration::from_secs(60));
            bench.kill();
        }
    }
}
