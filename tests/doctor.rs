//! What `ratchetfs doctor` finds out of what a store allows, and that it leaves nothing behind.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use ratchetfs::embedded::{Fault, Operation, Rule};

use support::mount::Bench;
use support::{BUCKET, text};

/// Whether it is content, and what it says.
fn doctor(bench: &Bench, arguments: &[&str]) -> (bool, String) {
    let address = format!("s3://{BUCKET}/p");
    let mut command = bench.program();
    command.args(["doctor", &address]).args(bench.store_options()).args(arguments);
    let output = command.output().unwrap();
    let told = text(&output.stdout);
    assert!(!told.is_empty(), "{}", text(&output.stderr));
    (output.status.success(), told)
}

fn line<'a>(told: &'a str, part: &str) -> &'a str {
    told.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {told}"))
}

#[test]
fn every_right_is_looked_at_and_nothing_is_left() {
    let bench = Bench::unmounted(&[]);
    bench.bucket.put("p/file", "kept");
    let (_, told) = doctor(&bench, &[]);
    for action in [
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:ListMultipartUploadParts",
        "s3:AbortMultipartUpload",
    ] {
        assert!(line(&told, action).starts_with("ok    may "), "{told}");
    }
    assert_eq!(bench.bucket.keys(), ["p/file"]);
    assert_eq!(bench.bucket.uploads(), 0);
}

#[test]
fn a_right_that_is_missing_is_named_with_its_cure() {
    let bench = Bench::unmounted(&[]);
    for (operation, action, leaves) in [
        (Operation::PutObject, "s3:PutObject", None),
        (Operation::GetObject, "s3:GetObject", None),
        (Operation::CreateMultipartUpload, "s3:PutObject", None),
        (Operation::UploadPart, "s3:PutObject", None),
        (Operation::ListParts, "s3:ListMultipartUploadParts", None),
        (Operation::AbortMultipartUpload, "s3:AbortMultipartUpload", Some("an upload of this key")),
        (Operation::DeleteObject, "s3:DeleteObject", Some("this object")),
    ] {
        bench.store.faults.set(vec![Rule::new(Fault::denied()).on(operation)]);
        let (is_content, told) = doctor(&bench, &[]);
        assert!(!is_content, "{operation:?}: {told}");
        let refused: Vec<&str> = told.lines().filter(|line| line.contains("may not")).collect();
        assert_eq!(refused.len(), 1, "{operation:?}: {told}");
        let told = refused[0];
        assert!(told.starts_with("BAD ") && told.contains("AccessDenied"), "{told}");
        assert!(told.contains(&format!("grant {action} (")), "{told}");
        assert_eq!(told.contains("left behind"), leaves.is_some(), "{told}");
        if let Some(leaves) = leaves {
            assert!(
                told.contains(&format!("{leaves} is left behind: p/.ratchetfs-doctor-")),
                "{told}"
            );
        }
    }
    // What it could not take away is what it said.
    assert_eq!((bench.bucket.keys().len(), bench.bucket.uploads()), (1, 1));
}

#[test]
fn uploads_that_cannot_be_listed_stop_no_mount() {
    let bench = Bench::unmounted(&[]);
    let rule = Rule::new(Fault::denied()).on(Operation::ListMultipartUploads);
    bench.store.faults.set(vec![rule]);
    let (_, told) = doctor(&bench, &[]);
    assert!(line(&told, "may not list uploads").starts_with("note"), "{told}");
    assert!(!told.contains("BAD   may"), "{told}");
}

#[test]
fn a_read_only_mount_is_asked_for_less_and_writes_nothing() {
    let bench = Bench::unmounted(&[]);
    let writes = [Operation::PutObject, Operation::CreateMultipartUpload, Operation::DeleteObject];
    let denied =
        writes.iter().fold(Rule::new(Fault::denied()), |rule, operation| rule.on(*operation));
    let (_, told) = doctor(&bench, &["--read-only"]);
    assert!(line(&told, "no object to read yet").starts_with("note"), "{told}");
    bench.bucket.put("p/file", "kept");
    bench.store.faults.set(vec![denied]);
    let (_, told) = doctor(&bench, &["--read-only"]);
    assert!(line(&told, "s3:GetObject").starts_with("ok "), "{told}");
    assert!(!told.contains("may not"), "{told}");
    for operation in writes {
        let expected = u64::from(operation == Operation::PutObject);
        assert_eq!(bench.requests(operation), expected, "{operation:?}: but for the test's own");
    }
    bench.store.faults.set(vec![Rule::new(Fault::denied()).on(Operation::GetObject)]);
    let (is_content, told) = doctor(&bench, &["--read-only"]);
    assert!(!is_content && line(&told, "may not read").contains("grant s3:GetObject"), "{told}");
}

#[test]
fn a_policy_is_printed_alone() {
    let bench = Bench::unmounted(&[]);
    let print = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.splice(0..0, ["doctor", "--policy"]);
        let output = bench.run(&arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let told = print(&["s3://bucket/some/where", "--provider", "oss"]);
    assert_eq!(told["Statement"][2]["Resource"][0], "acs:oss:*:*:bucket/some/where/*");
    let all = print(&["s3://bucket"]).to_string();
    let less = print(&["s3://bucket", "--read-only"]).to_string();
    assert!(all.contains("PutObject") && !less.contains("PutObject"), "{less}");
    let refused = bench.run(&["doctor", "--policy"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("s3://BUCKET"));
}
