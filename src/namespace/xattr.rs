//! Extended attributes in one header, in s3fs's form: a percent-encoded JSON object from names to
//! Base64 values, `{"user.a":"YQ==","user.b":""}`. Pure.
//!
//! Names are bytes here as they are in Linux; `"` and `\` in them are escaped by a `\`. (s3fs does not
//! escape; it reads our header as long as no name has a quote, a comma or a backslash.)

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// What s3fs leaves as it is: letters, digits and these.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// The header's value.
pub fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let mut json = vec![b'{'];
    for (name, value) in xattrs {
        if json.len() > 1 {
            json.push(b',');
        }
        json.push(b'"');
        for byte in name {
            if matches!(byte, b'"' | b'\\') {
                json.push(b'\\');
            }
            json.push(*byte);
        }
        json.extend_from_slice(b"\":\"");
        json.extend_from_slice(STANDARD.encode(value).as_bytes());
        json.push(b'"');
    }
    json.push(b'}');
    percent_encode(&json, ENCODED).to_string()
}

/// `None` where the header is none of ours or s3fs's.
pub fn decode(header: &str) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let json: Vec<u8> = percent_decode_str(header.trim()).collect();
    let mut rest = json.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?.trim_ascii();
    let mut xattrs = BTreeMap::new();
    while !rest.is_empty() {
        let (name, behind) = quoted(rest)?;
        let behind = behind.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, behind) = quoted(behind)?;
        xattrs.insert(name, STANDARD.decode(value).ok()?);
        rest = behind.trim_ascii_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(b",")?.trim_ascii_start();
        }
    }
    Some(xattrs)
}

/// A string in quotes, unescaped, and what follows it.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let mut content = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((content, &text[at + 1..])),
            b'\\' => content.push(*bytes.next()?.1),
            _ => content.push(*byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_is_that_of_s3fs() {
        let xattrs = BTreeMap::from([(b"user.test".to_vec(), b"hello".to_vec())]);
        let header = "%7B%22user.test%22%3A%22aGVsbG8%3D%22%7D";
        assert_eq!(encode(&xattrs), header);
        assert_eq!(decode(header), Some(xattrs));
        assert_eq!(decode("%7B%7D"), Some(BTreeMap::new()));
    }

    #[test]
    fn what_is_no_such_header_is_left_alone() {
        for text in ["", "text", "{", "{\"a\"}", "{\"a\":\"%%%\"}", "{\"a\":\"YQ==\"x}", "{\"a:"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_names_and_values_round_trip(
            xattrs in prop::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..5)
        ) {
            prop_assert_eq!(decode(&encode(&xattrs)), Some(xattrs));
        }

        #[test]
        fn no_header_panics(text in ".*") {
            let _ = decode(&text);
        }
    }
}
