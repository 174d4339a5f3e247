//! The dependency direction and the house style, read off the sources.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/names.rs"]
mod names;
#[path = "architecture/types.rs"]
mod types;
#[path = "architecture/words.rs"]
mod words;

/// Each module may use those of the rows below its own. docs/architecture.md has the picture.
const ORDER: &[&[&str]] = &[
    &["cli"],
    &["mount"],
    &["fuse", "control", "embedded", "settings"],
    &["recovery"],
    &["vfs"],
    &["reader", "writer"],
    &["cache", "upload", "namespace", "outbox"],
    &["staging", "budget", "journal"],
    &["store"],
    &["part", "buffer", "checked"],
    &["range", "private", "cow", "progress", "seam", "secret", "supervise", "without"],
    &["disk"],
    &["lock"],
    &["clock", "random", "blocking"],
];

/// The longest a file may grow, in lines: beyond, it holds two things.
const LINES_MAX: usize = 600;

struct Source {
    path: PathBuf,
    /// The top-level module that the file belongs to.
    module: String,
    text: String,
}

impl Source {
    /// The names of the modules from the crate's root down to this file's.
    fn module_path(&self) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let inside = self.path.strip_prefix(root).unwrap().with_extension("");
        let steps = inside.iter().map(|step| step.to_str().unwrap().to_owned());
        steps.filter(|step| step != "mod").collect()
    }

    /// A file of tests alone.
    fn is_test(&self) -> bool {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = self.path.parent().is_some_and(|folder| folder.ends_with("tests"));
        folder || stem == "tests" || stem.ends_with("_tests")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let module = inside.iter().next().unwrap().to_str().unwrap();
                // `budget_tests.rs` belongs to `budget`.
                let module = module.trim_end_matches(".rs").trim_end_matches("_tests").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source { path, module, text });
            }
        }
    }
    sources
}

/// The top-level modules that `text` names by `crate::…`.
fn used_modules(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let ident = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut used = BTreeSet::new();
    for (place, matched) in code.match_indices("crate::") {
        let behind = &code[place + matched.len()..];
        match behind.strip_prefix('{') {
            None => {
                used.insert(ident(behind));
            }
            Some(group) => used.extend(first_steps(group).iter().map(|step| ident(step))),
        }
    }
    used.remove("");
    used
}

/// `a::{b, c}, d}…` → `a::{b, c}`, `d`.
fn first_steps(group: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut start = 0;
    let mut steps = Vec::new();
    for (place, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                steps.push(&group[start..place]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                steps.push(&group[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    steps
}

fn row_of(module: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&module))
}

/// What `module` uses against the order.
fn against_the_order(module: &str, text: &str) -> Vec<String> {
    let own_row = row_of(module);
    used_modules(text)
        .into_iter()
        .filter(|used| used != module)
        .filter(|used| match (own_row, row_of(used)) {
            (Some(own), Some(other)) => other <= own,
            _ => true,
        })
        .collect()
}

#[test]
fn no_module_uses_one_that_stands_above_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        if matches!(source.module.as_str(), "lib" | "main") {
            continue;
        }
        assert!(
            row_of(&source.module).is_some(),
            "{} has no place in ORDER: give it one, and draw it in docs/architecture.md",
            source.module
        );
        // A module's tests may drive it from above, as its users do.
        if source.is_test() {
            continue;
        }
        for used in against_the_order(&source.module, &source.text) {
            wrong.push(format!("{}: {} uses {used}", source.path.display(), source.module));
        }
    }
    assert!(wrong.is_empty(), "against the order:\n{}", wrong.join("\n"));
}

#[test]
fn an_import_against_the_order_is_found_in_every_form() {
    for text in [
        "use crate::vfs::Vfs;",
        "use crate::{range::ByteRange, vfs::{a, b}};",
        "fn f() { crate::vfs::g() }",
        "use crate::{\n    store::Key,\n    vfs,\n};",
    ] {
        assert_eq!(against_the_order("cache", text), ["vfs"], "{text}");
    }
    assert!(against_the_order("cache", "// crate::vfs\nuse crate::store::Key;").is_empty());
    assert_eq!(against_the_order("cache", "use crate::upload::Upload;"), ["upload"]);
    assert_eq!(against_the_order("cache", "use crate::unheard_of::X;"), ["unheard_of"]);
}

#[test]
fn every_file_of_tests_is_run() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mounts = fs::read_to_string(tests.join("mounts.rs")).unwrap();
    for file in fs::read_dir(&tests).unwrap() {
        let path = file.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_program = ["architecture", "cli", "mounts"].contains(&stem.as_str());
        if path.extension().is_some_and(|extension| extension == "rs") && !is_program {
            assert!(
                mounts.contains(&format!("\nmod {stem};")),
                "tests/mounts.rs does not name {stem}"
            );
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let shown = source.path.display();
        if lines > LINES_MAX {
            wrong.push(format!("{shown}: {lines} lines, more than {LINES_MAX}: split it"));
        }
        let name = source.path.file_name().unwrap().to_str().unwrap();
        let is_test = name == "tests.rs" || name.ends_with("_tests.rs");
        if !is_test && !source.text.starts_with("//!") {
            wrong.push(format!("{shown}: does not begin with what it is for (//!)"));
        }
        for unfinished in ["todo!(", "unimplemented!(", "dbg!("] {
            if source.text.contains(unfinished) {
                wrong.push(format!("{shown}: {unfinished}…)"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What was done to an object of the bucket is told in one place to all that remember something of it.
#[test]
fn what_becomes_of_objects_is_told_in_one_place() {
    let told = [
        ".forget_version(",
        ".rename_key(",
        ".object_moves(",
        ".object_moved(",
        ".object_gone(",
        "Record::AttributesSaved {",
        "catalog.put(",
        "catalog.moved(",
        "catalog.moved_below(",
        "catalog.deleted(",
        "catalog.directory_moved(",
        "catalog.directory_deleted(",
    ];
    let mut wrong = Vec::new();
    for source in sources().into_iter().filter(|source| source.module == "vfs") {
        let count = |told: &str| source.text.matches(told).count();
        // What a rename says of attributes that wait is said with all else that waits.
        let is = |path: &str| source.path.ends_with(path);
        if is("vfs/objects.rs") {
            continue;
        }
        let is_a_rename = is("vfs/ops/relocate.rs") || is("vfs/recover/attributes.rs");
        let allowed = if is_a_rename { "Record::AttributesSaved {" } else { "" };
        for told in told.iter().filter(|told| **told != allowed && count(told) > 0) {
            wrong.push(format!("{}: {told}…)", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "to be told by vfs/objects.rs:\n{}", wrong.join("\n"));
}

/// What is shown and logged is escaped where it is written (`cli::output`, `cli::logging`), so no other file writes there.
#[test]
fn terminals_are_written_to_in_one_place() {
    let ways = ["println!(", "print!(", "io::stdout", "io::stderr", "Target::Std", "dbg!("];
    let mut wrong = Vec::new();
    for source in sources().into_iter().filter(|source| !source.is_test()) {
        let is = |path: &str| source.path.ends_with(path);
        if is("cli/output.rs") || is("cli/logging.rs") {
            continue;
        }
        for way in ways.iter().filter(|way| source.text.contains(**way)) {
            wrong.push(format!("{}: {way}…", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "for cli/output.rs:\n{}", wrong.join("\n"));
}
