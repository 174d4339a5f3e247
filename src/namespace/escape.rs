//! Names are bytes, keys are UTF-8: how a name that is not UTF-8 becomes a key, and comes back byte for byte.
//! Pure.
//!
//! S3 defines keys as UTF-8, and servers that are sent other bytes refuse them or fail. So a byte that is not
//! part of a character is written as `‛` (U+201B) and two hexadecimal digits in upper case: the name `a\xFF` is
//! the key `a‛FF`, as rclone writes it. All other names are their own keys, but for those in which `‛`
//! stands before what looks like such a byte (`80` to `FF`), or before a byte that is none of a
//! character: there each `‛` is doubled.
//!
//! Of `‛` times n before two digits, an even n is thus n / 2 quotes and the digits, an odd one (n - 1) / 2 quotes
//! and the byte: each name has one key, and no two the same. Keys that no name has (`‛C3‛A9`, which would
//! be the character é, or bytes that are not UTF-8) cannot be shown.

use std::borrow::Cow;

const QUOTE: &[u8] = "\u{201b}".as_bytes();

/// The key's segment of a name.
pub fn to_segment(name: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(name);
    if text.is_ok() && !has_quote(name) {
        return Cow::Borrowed(name);
    }
    let mut segment = Vec::with_capacity(name.len() + 16);
    let mut quotes = 0;
    let quote = |segment: &mut Vec<u8>, times: usize| {
        segment.extend(QUOTE.iter().copied().cycle().take(QUOTE.len() * times));
    };
    for chunk in name.utf8_chunks() {
        let mut rest = chunk.valid().as_bytes();
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix(QUOTE) {
                (rest, quotes) = (behind, quotes + 1);
                continue;
            }
            let doubled = byte_of(rest).is_some();
            quote(&mut segment, if doubled { 2 * quotes } else { quotes });
            quotes = 0;
            segment.push(rest[0]);
            rest = &rest[1..];
        }
        for byte in chunk.invalid() {
            quote(&mut segment, 2 * quotes + 1);
            quotes = 0;
            segment.extend_from_slice(format!("{byte:02X}").as_bytes());
        }
    }
    quote(&mut segment, quotes);
    Cow::Owned(segment)
}

/// The name that has this segment; `None` where no name does.
pub fn to_name(segment: &[u8]) -> Option<Cow<'_, [u8]>> {
    std::str::from_utf8(segment).ok()?;
    if !has_quote(segment) {
        return Some(Cow::Borrowed(segment));
    }
    let mut name = Vec::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(first) = rest.first() {
        let mut quotes = 0;
        while let Some(behind) = rest.strip_prefix(QUOTE) {
            (rest, quotes) = (behind, quotes + 1);
        }
        let byte = byte_of(rest);
        let kept = if byte.is_some() { quotes / 2 } else { quotes };
        name.extend(QUOTE.iter().copied().cycle().take(QUOTE.len() * kept));
        match byte.filter(|_| quotes % 2 == 1) {
            Some(byte) => {
                name.push(byte);
                rest = &rest[2..];
            }
            None if quotes == 0 => {
                name.push(*first);
                rest = &rest[1..];
            }
            // What follows the quotes is as it is.
            None => {
                let plain = rest.len().min(1);
                name.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
            }
        }
    }
    (*to_segment(&name) == *segment).then_some(Cow::Owned(name))
}

fn has_quote(bytes: &[u8]) -> bool {
    bytes.windows(QUOTE.len()).any(|window| window == QUOTE)
}

/// The byte from 0x80 up that the first two digits mean.
fn byte_of(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let byte = digit(*bytes.first()?)? << 4 | digit(*bytes.get(1)?)?;
    (byte >= 0x80).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_name_has_its_segment_and_comes_back() {
        let table: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            ("é ‛ ‛‛ ‛7F ‛ff ‛".as_bytes(), "é ‛ ‛‛ ‛7F ‛ff ‛"),
            (b"a\xffb", "a‛FFb"),
            (b"\xe9t\xe9", "‛E9t‛E9"),
            (b"cut \xe2\x82", "cut ‛E2‛82"),
            (b"\xffFF", "‛FFFF"),
            ("‛FF".as_bytes(), "‛‛FF"),
            ("‛‛80".as_bytes(), "‛‛‛‛80"),
            (b"\xe2\x80\x9b\xff", "‛‛‛FF"),
        ];
        for (name, segment) in table {
            assert_eq!(*to_segment(name), *segment.as_bytes(), "{segment}");
            assert_eq!(to_name(segment.as_bytes()).as_deref(), Some(*name), "{segment}");
        }
    }

    #[test]
    fn segments_that_no_name_has_are_told() {
        for segment in ["‛C3‛A9", "‛E2‛80‛9B"] {
            assert_eq!(to_name(segment.as_bytes()), None, "{segment}");
        }
        assert_eq!(to_name(b"a\xff"), None);
    }

    /// Names of the pieces that matter.
    fn names() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(QUOTE.to_vec()),
            prop::sample::select(vec!["8", "F", "0", "A", "f", "é"])
                .prop_map(|text| text.as_bytes().to_vec()),
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(vec![0x80u8, 0xff, 0xe2, 0x9b, 0xc3, 0xa9])
                .prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn any_bytes_come_back(name in names()) {
            let segment = to_segment(&name).into_owned();
            prop_assert!(std::str::from_utf8(&segment).is_ok());
            let back = to_name(&segment);
            prop_assert_eq!(back.as_deref(), Some(name.as_slice()));
        }

        #[test]
        fn what_is_shown_is_found_again(segment in names()) {
            if let Some(name) = to_name(&segment) {
                prop_assert_eq!(&*to_segment(&name), segment.as_slice());
            }
        }
    }
}
