//! Escapes that keep a line a line: `\\`, `\t`, `\n`, `\r`, and `\xHH` for a byte that has no place in
//! a line of text. [`unescape`] gives back the same bytes for whatever was escaped.

use std::borrow::Cow;

/// Appends `payload` to `out`. Backslash, tab, newline, carriage return and bytes that are not UTF-8
/// are escaped; everything else stands as it is.
pub(crate) fn payload(out: &mut Vec<u8>, payload: &[u8]) {
    escape(out, payload, |_| false);
}

/// Appends the name of a stream to `out`, escaped like a payload and with control characters escaped
/// as well: a name is looked at, and must not steer the terminal.
pub(crate) fn name(out: &mut Vec<u8>, name: &str) {
    escape(out, name.as_bytes(), char::is_control);
}

fn escape(out: &mut Vec<u8>, bytes: &[u8], also: impl Fn(char) -> bool) {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        let special = |c: char| matches!(c, '\\' | '\t' | '\n' | '\r') || also(c);
        while let Some((at, c)) = rest.char_indices().find(|&(_, c)| special(c)) {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            match c {
                '\\' => out.extend_from_slice(br"\\"),
                '\t' => out.extend_from_slice(br"\t"),
                '\n' => out.extend_from_slice(br"\n"),
                '\r' => out.extend_from_slice(br"\r"),
                other => hex(out, other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.extend_from_slice(rest.as_bytes());
        hex(out, chunk.invalid());
    }
}

/// Appends each byte as `\xHH`.
pub(crate) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
        out.extend_from_slice(&[b'\\', b'x', high, low]);
    }
}

/// Takes the escapes out of `text`; the error says which one is wrong.
pub(crate) fn unescape(text: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let Some(first) = text.iter().position(|&byte| byte == b'\\') else {
        return Ok(Cow::Borrowed(text));
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut next = Some(first);
    while let Some(at) = next {
        bytes.extend_from_slice(&rest[..at]);
        let (byte, len) = match &rest[at + 1..] {
            [b'\\', ..] => (b'\\', 2),
            [b't', ..] => (b'\t', 2),
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b'x', high, low, ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => return Err(r"bad escape: \x without two hexadecimal digits".into()),
            },
            [b'x', ..] => return Err(r"bad escape: \x without two hexadecimal digits".into()),
            [other, ..] => return Err(format!("bad escape: \\{}", other.escape_ascii())),
            [] => return Err("bad escape: a backslash at the end".into()),
        };
        bytes.push(byte);
        rest = &rest[at + len..];
        next = rest.iter().position(|&byte| byte == b'\\');
    }
    bytes.extend_from_slice(rest);
    Ok(Cow::Owned(bytes))
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_one_field_of_utf8_and_comes_back_the_same() {
        let all: Vec<u8> = (0..=255).collect();
        let cases: [&[u8]; 6] = [
            b"",
            b"plain",
            b"\\\t\n\r",
            b"\\x41",
            "gr\u{fc}n \u{85}".as_bytes(),
            &all,
        ];
        for bytes in cases {
            let mut text = Vec::new();
            payload(&mut text, bytes);
            assert!(std::str::from_utf8(&text).is_ok());
            assert!(!text.iter().any(|byte| b"\t\n\r".contains(byte)));
            assert_eq!(unescape(&text).unwrap(), bytes);
        }
    }

    #[test]
    fn only_what_must_be_is_escaped() {
        let cases: [(&[u8], &str); 4] = [
            (b"a\tb\nc\rd\\e", r"a\tb\nc\rd\\e"),
            (b"\xff\xc3(", r"\xff\xc3("),
            ("\u{1b}ü\0".as_bytes(), "\u{1b}ü\0"),
            (b"", ""),
        ];
        for (bytes, text) in cases {
            let mut out = Vec::new();
            payload(&mut out, bytes);
            assert_eq!(out, text.as_bytes());
        }
        let mut out = Vec::new();
        name(&mut out, "\u{1b}ü\u{85}\t");
        assert_eq!(out, r"\x1bü\xc2\x85\t".as_bytes());
    }

    #[test]
    fn a_bad_escape_is_refused() {
        for text in [r"\", r"a\", r"\q", r"\x", r"\x1", r"\xg0", r"\x0g", r"\u0041"] {
            assert!(unescape(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(*unescape(br"\xFf\xaB").unwrap(), [0xff, 0xab]);
    }
}
