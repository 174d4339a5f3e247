//! What a store calls one of its answers: its support finds the request by it.

use std::fmt;

/// The most of an id that is kept, in bytes. AWS's two have 16 and 76.
const BYTES_MAX: usize = 128;

/// The ids of one answer, separated by a blank. Printable ASCII: what a store made of other bytes is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Of the values of headers. `None` where there is none, or all are empty.
    pub fn new<'a>(ids: impl IntoIterator<Item = &'a [u8]>) -> Option<RequestId> {
        let mut told: Vec<String> = Vec::new();
        for id in ids {
            let id = id.trim_ascii();
            let id = id[..id.len().min(BYTES_MAX)].escape_ascii().to_string();
            if !id.is_empty() && !told.contains(&id) {
                told.push(id);
            }
        }
        (!told.is_empty()).then(|| RequestId(told.join(" ").into_boxed_str()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_bounded_and_a_line_stays_a_line() {
        let told = |ids: &[&[u8]]| RequestId::new(ids.iter().copied()).map(|id| id.to_string());
        assert_eq!(
            told(&[b" 4442587FB7D0A2F9 ", b"vlR7/Pnp="]).unwrap(),
            "4442587FB7D0A2F9 vlR7/Pnp="
        );
        assert_eq!(told(&[b"a\n\x1b[2J\xff"]).unwrap(), r"a\n\x1b[2J\xff");
        assert_eq!(told(&[b"same", b"", b"same"]).unwrap(), "same");
        assert_eq!(told(&[&[b'x'; 5000]]).unwrap().len(), BYTES_MAX);
        assert_eq!(told(&[b"", b" "]), None);
    }
}
