//! What goes to a terminal: standard output and standard error, and nothing that a terminal would obey.

use std::borrow::Cow;
use std::io::{self, Write};

/// To standard output. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// One line to standard error.
pub fn complain(line: &str) {
    // Where standard error is closed there is nowhere left to complain to.
    let _ = writeln!(io::stderr().lock(), "ratchetfs: {}", one_line(line));
}

/// Whatever it quotes: names may hold line breaks, and what terminals obey.
pub fn one_line(text: &str) -> String {
    plain(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// One line that a terminal shows as it is: keys, messages of stores and what a mount answers may hold control
/// characters, which move the cursor, and marks that turn the direction of writing.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_obeyed(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain.into()
}

pub fn is_obeyed(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_terminal_obeys_is_escaped() {
        assert_eq!(plain("naïve/中"), "naïve/中");
        assert_eq!(plain("a\u{1b}[2J\u{202e}b"), r"a\u{1b}[2J\u{202e}b");
        assert_eq!(one_line("a\n b\t\u{7}"), r"a b \u{7}");
    }
}
