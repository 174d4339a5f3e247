//! Plain words: the subject of a sentence is a component, a caller, a user, not some person.

use std::collections::BTreeMap;
use std::path::Path;

use super::names::files;

/// What is not to be said. (Not in one piece, so that it is not found here.)
const UNSAID: [&str; 3] = [concat!("no", "body"), concat!("some", "body"), concat!("who", "ever")];

/// How often it is said yet, by top-level module or folder. To get less, never more.
const SAID: &[(&str, usize)] = &[("src/upload", 22)];

/// How many of these words a text has, none of them part of a name.
fn said(text: &str) -> usize {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| UNSAID.iter().any(|unsaid| word.eq_ignore_ascii_case(unsaid))).count()
}

#[test]
fn no_sentence_is_about_some_person() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for (below, extension) in [("src", "rs"), ("tests", "rs"), ("docs", "md"), ("README.md", "md")]
    {
        for (path, text) in files(below, extension) {
            let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            *found.entry(place(path)).or_default() += said(&text);
        }
    }
    let allowed =
        |place: &str| SAID.iter().find(|(of, _)| *of == place).map_or(0, |(_, most)| *most);
    let more: Vec<_> = found.iter().filter(|(place, said)| **said > allowed(place)).collect();
    assert!(more.is_empty(), "{UNSAID:?} are said more often than {SAID:?} allows: {more:?}");
}

/// `src/a/b.rs` and `src/a_tests.rs` are of `src/a`; what is elsewhere is of its folder.
fn place(path: &Path) -> String {
    let mut steps = path.iter().map(|step| step.to_str().unwrap());
    match (steps.next().unwrap(), steps.next()) {
        ("src", Some(module)) => {
            format!("src/{}", module.trim_end_matches(".rs").trim_end_matches("_tests"))
        }
        (folder, _) => folder.to_owned(),
    }
}

#[test]
fn words_are_found_in_sentences_and_not_in_names() {
    let [one, two, _] = UNSAID;
    assert_eq!(said(&format!("// {one} waits; is_{two}: {}'s", two.to_uppercase())), 2);
    assert_eq!(place(Path::new("src/budget_tests.rs")), "src/budget");
    assert_eq!(place(Path::new("src/vfs/file.rs")), "src/vfs");
    assert_eq!(place(Path::new("docs/decisions/stamps.md")), "docs");
}
