//! The names of tests: short, and written in full wherever the documents tell which test holds a promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// In characters.
const LENGTH_MAX: usize = 60;

/// All files below a folder of the repository, or the file itself.
pub(super) fn files(below: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let mut paths = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// The functions of `text` that an attribute makes a test.
fn tests(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= ["#[test]", "#[tokio::test"].iter().any(|attribute| line.starts_with(attribute));
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(function) = function.filter(|_| is_test) {
            found.push(function.split(['(', '<']).next().unwrap_or_default());
            is_test = false;
        }
    }
    found
}

/// What a document has in backticks.
fn quoted(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.flat_map(|(number, line)| {
        line.split('`').skip(1).step_by(2).map(move |it| (number + 1, it))
    })
}

/// Of what a document has in backticks, that which is neither a name in full (of a test, or of another thing in the
/// sources), nor none at all.
fn is_unknown(quoted: &str, words: &BTreeSet<&str>) -> bool {
    let is_short = quoted.contains('…') && quoted.chars().all(|c| is_of_name(c) || c == '…');
    let is_long = quoted.matches('_').count() >= 2 && quoted.chars().all(is_of_name);
    is_short || is_long && !words.contains(quoted)
}

#[test]
fn tests_have_short_names_that_documents_write_in_full() {
    let code = [files("src", "rs"), files("tests", "rs")].concat();
    let mut wrong = Vec::new();
    let mut words = BTreeSet::new();
    for (path, text) in &code {
        words.extend(text.split(|c| !is_of_name(c)));
        let long = tests(text).into_iter().filter(|name| name.len() > LENGTH_MAX);
        wrong.extend(
            long.map(|name| format!("{}: {name}: {} characters", path.display(), name.len())),
        );
    }
    for (path, text) in [files("docs", "md"), files("README.md", "md")].concat() {
        let unknown = quoted(&text).filter(|(_, it)| is_unknown(it, &words));
        wrong.extend(
            unknown.map(|(line, it)| format!("{}:{line}: no such test: {it}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_of_tests_are_found() {
    let text = "#[test]\n// Why.\n#[ignore]\nfn one() {}\nfn none() {}\n#[tokio::test(flavor)]\nasync fn two() {}\n";
    assert_eq!(tests(text), ["one", "two"]);
    let words = BTreeSet::from(["a_test_of_this"]);
    for (quoted, unknown) in [
        ("a_test_of_this", false),
        ("a_test_of_that", true),
        ("a_test_…", true),
        ("user_id=", false),
        ("mode=…", false),
        ("vfs", false),
    ] {
        assert_eq!(is_unknown(quoted, &words), unknown, "{quoted}");
    }
    assert_eq!(quoted("a `b` c\n`d` `e`").collect::<Vec<_>>(), [(1, "b"), (2, "d"), (2, "e")]);
}
