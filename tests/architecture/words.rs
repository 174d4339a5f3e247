//! Plain words: the subject of a sentence is a component, a caller, a user, not some person.

use super::names::files;

/// What is not to be said. (Not in one piece, so that it is not found here.)
const UNSAID: [&str; 8] = [
    concat!("no", "body"),
    concat!("some", "body"),
    concat!("wh", "oever"),
    concat!("some", "one"),
    concat!("every", "one"),
    concat!("h", "e"),
    concat!("h", "im"),
    concat!("hims", "elf"),
];

/// Pronouns of users, who are named shortly before; a program or a component is called by its name.
const OF_USERS: [&str; 4] =
    [concat!("wh", "o"), concat!("wh", "om"), concat!("Wh", "o"), concat!("Wh", "om")];

/// How many words may be between a user and the pronoun.
const BETWEEN_MAX: usize = 2;

/// The words of a text, names in one piece.
fn words(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty()).collect()
}

/// What a text says that it is not to: words of [`UNSAID`], none of them part of a name; and of [`OF_USERS`], in names of
/// functions too, where no user is meant.
fn said(text: &str) -> Vec<String> {
    let words = words(text);
    let is_unsaid = |at: usize| {
        let before = &words[at.saturating_sub(BETWEEN_MAX + 1)..at];
        let is_of_users = before.iter().any(|word| matches!(*word, "user" | "users"));
        UNSAID.iter().any(|unsaid| words[at].eq_ignore_ascii_case(unsaid))
            || !is_of_users && words[at].split('_').any(|part| OF_USERS.contains(&part))
    };
    let found = (0..words.len()).filter(|at| is_unsaid(*at));
    found.map(|at| words[at.saturating_sub(BETWEEN_MAX)..=at].join(" ")).collect()
}

#[test]
fn no_sentence_is_about_some_person() {
    let mut found = Vec::new();
    for (below, extension) in [
        ("src", "rs"),
        ("tests", "rs"),
        ("docs", "md"),
        ("README.md", "md"),
        ("CHANGELOG.md", "md"),
    ] {
        for (path, text) in files(below, extension) {
            found.extend(said(&text).iter().map(|said| format!("{}: {said}", path.display())));
        }
    }
    assert!(found.is_empty(), "said of a person:\n{}", found.join("\n"));
}

#[test]
fn words_are_found_in_sentences_and_not_in_names() {
    let [one, two, ..] = UNSAID;
    let found = said(&format!("// {one} waits; is_{two}: {}'s", two.to_uppercase()));
    assert_eq!(found, [one.to_owned(), format!("waits is_{two} {}", two.to_uppercase())]);
}

#[test]
fn pronouns_of_users_are_not_for_programs() {
    let [subject, object, ..] = OF_USERS;
    let of_users = format!(
        "the user {subject} asks; to user {{owner}}, {subject} may; users for {object} it is"
    );
    assert_eq!(said(&of_users), [""; 0]);
    let of_programs = format!("a caller {subject} asks; fn {subject}_waits; of_those_{subject}");
    assert_eq!(said(&of_programs).len(), 3);
}
