//! Plain words: the subject of a sentence is a component, a caller, a user, not some person.

use super::names::files;

/// What is not to be said. (Not in one piece, so that it is not found here.)
const UNSAID: [&str; 3] = [concat!("no", "body"), concat!("some", "body"), concat!("who", "ever")];

/// How many of these words a text has, none of them part of a name.
fn said(text: &str) -> usize {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| UNSAID.iter().any(|unsaid| word.eq_ignore_ascii_case(unsaid))).count()
}

#[test]
fn no_sentence_is_about_some_person() {
    let mut found = Vec::new();
    for (below, extension) in [("src", "rs"), ("tests", "rs"), ("docs", "md"), ("README.md", "md")]
    {
        let texts = files(below, extension).into_iter();
        found.extend(texts.filter(|(_, text)| said(text) > 0).map(|(path, _)| path));
    }
    assert!(found.is_empty(), "one of {UNSAID:?} is said in {found:#?}");
}

#[test]
fn words_are_found_in_sentences_and_not_in_names() {
    let [one, two, _] = UNSAID;
    assert_eq!(said(&format!("// {one} waits; is_{two}: {}'s", two.to_uppercase())), 2);
}
