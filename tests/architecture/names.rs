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

/// A file of the code, with the modules that it is in and itself, from `src` on.
struct Module {
    steps: Vec<String>,
    text: String,
}

impl Module {
    fn of((file, text): (PathBuf, String)) -> Module {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let inside = file.strip_prefix(root).unwrap().with_extension("");
        let steps = inside.iter().map(|step| step.to_str().unwrap().to_owned()).collect();
        Module { steps, text }
    }

    /// Whether `steps` lead to it, or to one that it is in, from anywhere.
    fn is_below(&self, steps: &[&str]) -> bool {
        self.steps.windows(steps.len()).any(|found| found.iter().eq(steps))
    }

    /// Whether it defines `name`: a function, a type, a constant, an inline module, a field or a variant.
    fn defines(&self, name: &str) -> bool {
        let keywords = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];
        self.text.match_indices(name).any(|(at, _)| {
            let (before, after) = (&self.text[..at], &self.text[at + name.len()..]);
            let is_whole = |c: char| !c.is_alphanumeric() && c != '_';
            if !before.ends_with(is_whole) || !after.starts_with(is_whole) {
                return false;
            }
            let line = before.rsplit('\n').next().unwrap_or_default();
            let is_member = line.trim().is_empty() && after.starts_with([',', '(', ' ']);
            keywords.contains(&line.split_whitespace().last().unwrap_or_default())
                || is_of_type(name) && is_member
                || after.starts_with(": ")
        })
    }

    /// Whether it is where `of` is defined, or has methods.
    fn is_of(&self, of: &str) -> bool {
        let is_its = |line: &str| {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            line.starts_with("impl") && words.any(|word| word == of)
        };
        self.text.contains(of) && (self.defines(of) || self.text.lines().any(is_its))
    }
}

fn is_of_type(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

/// Whether the code has what a document calls so: `module::thing`, `Type::method`, a module by its path. Paths may begin
/// anywhere.
fn is_in_code(path: &str, code: &[Module]) -> bool {
    let steps: Vec<&str> = path.split("::").collect();
    let Some((name, above)) = steps.split_last() else { return false };
    let has = |module: &Module| match above.last() {
        Some(of) if is_of_type(of) => module.defines(name) && module.is_of(of),
        _ => module.is_below(above) && module.defines(name),
    };
    code.iter().any(|module| module.is_below(&steps) || has(module))
}

#[test]
fn what_documents_name_is_in_the_code() {
    let code: Vec<Module> = files("src", "rs").into_iter().map(Module::of).collect();
    let top: BTreeSet<&str> = code.iter().map(|module| module.steps[0].as_str()).collect();
    let mut wrong = Vec::new();
    for (document, text) in [files("docs", "md"), files("README.md", "md")].concat() {
        // Elsewhere what begins with no module of ours may be another project's.
        let is_ours = document.ends_with("docs/architecture.md");
        for (line, path) in quoted(&text) {
            let is_path = path.contains("::")
                && path.chars().all(|c| c.is_alphanumeric() || ":_".contains(c));
            let first = path.split("::").next().unwrap_or_default();
            if is_path && (is_ours || top.contains(first)) && !is_in_code(path, &code) {
                wrong.push(format!("{}:{line}: not in the code: {path}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn things_and_their_places_are_found_in_code() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/town/shop.rs");
    let text = "impl<T> Shop<T> {\n    pub async fn buy<R>() {}\n}\nenum Ware {\n    Bread,\n}\nfn buyer() {}\n";
    let code = [Module::of((file, text.to_owned()))];
    for (path, is_there) in [
        ("town::shop", true),
        ("shop::buyer", true),
        ("town::buyer", true),
        ("Shop::buy", true),
        ("town::shop::Ware", true),
        ("Ware::Bread", true),
        ("shop::bu", false),
        ("Shop::sell", false),
        ("Ware::Butter", false),
        ("village::buyer", false),
        ("town::village", false),
    ] {
        assert_eq!(is_in_code(path, &code), is_there, "{path}");
    }
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
