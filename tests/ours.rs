//! What is ours and what is another client's: told by a mark, a record or a checksum, never by how alike they are.

#![cfg(feature = "embedded")]
// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::BUCKET;
use support::mount::{Bench, noise, wait_until};

const MIB: usize = 1 << 20;

fn raw(bench: &Bench) -> support::raw::Client {
    support::raw::Client::new(&bench.store.endpoint())
}

fn object(bench: &Bench, key: &str) -> Option<Vec<u8>> {
    let answer = bench.runtime.block_on(raw(bench).get(&format!("/{BUCKET}/{key}"), &[]));
    (answer.status == 200).then_some(answer.body)
}

/// As another client does, without any metadata.
fn put(bench: &Bench, key: &str, content: Vec<u8>) {
    let path = format!("/{BUCKET}/{key}");
    let answer = bench.runtime.block_on(raw(bench).put(&path, &[], content));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn requests(bench: &Bench, operation: Operation) -> u64 {
    bench.store.counters().requests(operation)
}

/// Renames, and is killed once the request that these faults are about has come so often.
fn killed_while_renaming(bench: &mut Bench, names: [&str; 2], faults: Vec<Rule>, copies: u64) {
    let before = requests(bench, Operation::CopyObject);
    bench.store.faults.set(faults);
    let [from, to] = names.map(|name| bench.at(name));
    let renaming = std::thread::spawn(move || std::fs::rename(from, to));
    wait_until("under way", || requests(bench, Operation::CopyObject) >= before + copies);
    bench.kill();
    assert!(renaming.join().unwrap().is_err());
    bench.store.faults.clear();
}

/// Another client's object has come under the new name in the meantime: as long as ours, and like it without
/// metadata.
#[test]
fn an_interrupted_rename_deletes_nothing_that_is_not_elsewhere() {
    let mut bench = Bench::unmounted(&["--concurrency", "1"]);
    for (key, seed) in [("d1/a", 1), ("d1/b", 2), ("from", 3)] {
        put(&bench, key, noise(4096, seed));
    }
    bench.mount();
    let stall = || vec![Rule::new(Fault::Stall).on(Operation::CopyObject).key_contains("/b")];
    killed_while_renaming(&mut bench, ["d1", "d2"], stall(), 2);
    put(&bench, "d2/b", noise(4096, 4));
    bench.mount();
    assert!(object(&bench, "d2/a").unwrap() == noise(4096, 1));
    assert!(object(&bench, "d1/a").is_none(), "it has its copy");
    assert!(object(&bench, "d2/b").unwrap() == noise(4096, 4), "overwritten");
    assert!(std::fs::read(bench.at("d1/b")).unwrap() == noise(4096, 2));
    assert!(bench.log().contains("d1/b stays"), "{}", bench.log());

    let stall = vec![Rule::new(Fault::Stall).on(Operation::CopyObject)];
    killed_while_renaming(&mut bench, ["from", "to"], stall, 1);
    put(&bench, "to", noise(4096, 5));
    bench.mount();
    assert!(std::fs::read(bench.at("from")).unwrap() == noise(4096, 3));
    assert!(object(&bench, "to").unwrap() == noise(4096, 5), "overwritten");
}

/// Its ETag is another one, and the answer with that has not come.
#[test]
fn a_copy_made_in_the_moment_of_the_kill_is_known_by_its_bytes() {
    let mut bench = Bench::start(&["--part-size", "5MiB", "--concurrency", "1"]);
    std::fs::create_dir(bench.at("d1")).unwrap();
    for (name, seed) in [("d1/f", 1), ("from", 2)] {
        std::fs::write(bench.at(name), noise(6 * MIB, seed)).unwrap();
    }
    for (names, copies) in [(["d1", "d2"], 3), (["from", "to"], 2)] {
        let lost = || Rule::new(Fault::LoseAnswer).on(Operation::CopyObject).times(1);
        let faults = vec![
            lost().key_contains(if copies == 3 { "d2/f" } else { "to" }),
            Rule::new(Fault::Stall).on(Operation::CopyObject).key_contains("f").skip(1),
            Rule::new(Fault::Stall).on(Operation::CopyObject).key_contains("to").skip(1),
        ];
        killed_while_renaming(&mut bench, names, faults, copies);
        bench.mount();
    }
    for (from, to, seed) in [("d1/f", "d2/f", 1), ("from", "to", 2)] {
        assert!(std::fs::read(bench.at(to)).unwrap() == noise(6 * MIB, seed), "{to}");
        assert!(object(&bench, from).is_none(), "{from} is left");
    }
}
