//! What goes to a terminal: standard output and standard error, and nothing that a terminal would obey. No other file
//! but [`super::logging`] writes there (`tests/architecture.rs` holds that), so no caller has to think of it.

use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Write};

/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What a terminal obeys, but for line breaks and tabs, of which text is made.
fn is_no_text(c: char) -> bool {
    is_obeyed(c) && !matches!(c, '\n' | '\t')
}

/// Text to standard output. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    write(&escaped(text, is_no_text))
}

/// As [`print`], in the place of all that the terminal shows.
pub fn print_anew(text: &str) -> io::Result<()> {
    write(CLEAR)?;
    print(text)
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// Asks on the terminal; all but `y` and `yes` is a no. `None` where there is no terminal to ask on.
pub fn confirm(question: &str) -> io::Result<Option<bool>> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(None);
    }
    let mut err = io::stderr().lock();
    write!(err, "{} [y/N] ", one_line(question))?;
    err.flush()?;
    let mut said = String::new();
    io::stdin().lock().read_line(&mut said)?;
    Ok(Some(matches!(said.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

/// One line to standard error.
pub fn complain(line: &str) {
    // Where standard error is closed there is nowhere left to complain to.
    let _ = writeln!(io::stderr().lock(), "ratchetfs: {}", one_line(line));
}

/// A panic's message may quote what it failed over: it is one line too, in place of the library's raw text. What it was
/// about is told in the log by where it ends.
pub fn tell_panics_as_lines() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        complain(&format!("a fault in this program: {panic}"));
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            trace.to_string().lines().for_each(complain);
        }
    }));
}

/// Whatever it quotes: names may hold line breaks, and what terminals obey.
pub fn one_line(text: &str) -> String {
    plain(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// One line that a terminal shows as it is: keys, messages of stores and what a mount answers may hold control
/// characters, which move the cursor, and marks that turn the direction of writing.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

fn escaped(text: &str, is_meant: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_meant) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_meant(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
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
        assert_eq!(escaped("a\n\tb\u{1b}c\n", is_no_text), "a\n\tb\\u{1b}c\n");
    }
}
