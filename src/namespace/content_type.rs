//! What kind of content a file's name tells of: new objects say so, for browsers and other tools. Pure.

use std::path::Path;

/// The content type that goes with the extension of a file's name; `None` where nothing is known of it.
pub fn of_name(name: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(name).ok()?;
    mime_guess::from_path(Path::new(text)).first_raw()
}

/// The content type that a file of this type has under another name, where that is another. A type that was not told
/// by the old name (another tool has given it) stays, and so does any where the new name tells nothing.
pub fn renamed(known: Option<&str>, from: &[u8], to: &[u8]) -> Option<&'static str> {
    let wanted = of_name(to)?;
    let follows_names = known.is_none() || known == of_name(from);
    (follows_names && known != Some(wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_of_types() {
        for (name, told) in [
            ("index.html", Some("text/html")),
            ("A.JPG", Some("image/jpeg")),
            ("style.min.css", Some("text/css")),
            ("archive.tar.gz", Some("application/gzip")),
            ("README", None),
            (".index.html.a8sK2p", None),
            (".html", None),
            ("caf\u{e9}.json", Some("application/json")),
        ] {
            assert_eq!(of_name(name.as_bytes()), told, "{name}");
        }
        assert_eq!(of_name(b"\xff.html"), None);
    }

    #[test]
    fn a_type_that_the_name_told_follows_the_name() {
        let html = Some("text/html");
        for (known, from, to, becomes) in [
            (None, ".index.html.a8sK2p", "index.html", html),
            (Some("text/plain"), "a.txt", "b.html", html),
            (html, "a.html", "b.html", None),
            (html, "a.html", "a.bak", None),
            (Some("application/json"), "a.txt", "b.html", None),
            (None, "a", "b", None),
        ] {
            assert_eq!(renamed(known, from.as_bytes(), to.as_bytes()), becomes, "{from} {to}");
        }
    }
}
