//! One event as one line of JSON, both ways, such that what is written reads back to the same bytes.
//!
//! | field                                | export                        | import                    |
//! |--------------------------------------|-------------------------------|---------------------------|
//! | `stream`                             | always                        | required                  |
//! | `type`                               | always                        | default: empty            |
//! | `id`                                 | if there is one               | optional, a UUID          |
//! | `tags`                               | if there are any              | default: none             |
//! | `data`, `data_text`, `data_base64`   | one of them, unless empty     | at most one of them       |
//! | `metadata`, `metadata_text`, `metadata_base64` | likewise            | likewise                  |
//! | `expected`                           | never                         | `"any"` (default), `"no_stream"`, `"stream_exists"` or a version |
//! | `position`, `version`, `timestamp`   | always                        | ignored: the log gives new ones |
//!
//! Bytes that are a JSON text stand as that value, to the letter: numbers, spacing and the order and
//! repetition of keys are kept, because the text is passed through and never rebuilt. Other UTF-8
//! stands as a string under `…_text`, everything else as Base64 (RFC 4648, section 4) under
//! `…_base64`. A JSON text that begins or ends with white space, or has a line break in it, goes
//! under `…_text`: the first would not come back, and the second would break the line.
//!
//! Fields of other names are refused: a typo in `expected` must not switch the check off.

use std::borrow::Cow;
use std::fmt;

use annals::{EventRef, ExpectedVersion, Timestamp};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::de::{Deserializer, Error, IgnoredAny, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// An event as a line gives it.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) stream: Cow<'a, str>,
    pub(crate) event_type: Cow<'a, str>,
    pub(crate) id: Option<Uuid>,
    pub(crate) tags: Vec<Cow<'a, str>>,
    pub(crate) metadata: Cow<'a, [u8]>,
    pub(crate) data: Cow<'a, [u8]>,
    pub(crate) expected: ExpectedVersion,
}

/// Reads an event from `line`; the error says what is wrong with it.
pub(crate) fn parse(line: &[u8]) -> Result<Incoming<'_>, String> {
    // A derived `Deserialize` would also take an array for the fields in their order.
    if line.trim_ascii_start().first().is_some_and(|&byte| byte != b'{') {
        return Err("not a JSON object".into());
    }
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(|error| {
        // The line is the only one as far as the parser knows; its number would mislead.
        error.to_string().replace(" at line 1 column ", " at column ")
    })?;
    let id = fields
        .id
        .map(|id| Uuid::try_parse(&id).map_err(|error| format!("`id`: {error}")));
    Ok(Incoming {
        id: id.transpose()?,
        metadata: bytes(
            "metadata",
            fields.metadata,
            fields.metadata_text,
            fields.metadata_base64,
        )?,
        data: bytes("data", fields.data, fields.data_text, fields.data_base64)?,
        expected: fields.expected.map_or(ExpectedVersion::Any, |expected| expected.0),
        stream: fields.stream,
        event_type: fields.event_type,
        tags: fields.tags,
    })
}

/// Appends `event` as a line to `out`.
pub(crate) fn write(out: &mut Vec<u8>, event: &EventRef<'_>) -> serde_json::Result<()> {
    let (data, data_text, data_base64) = choose(event.data);
    let (metadata, metadata_text, metadata_base64) = choose(event.metadata);
    let outgoing = Outgoing {
        position: event.position.get(),
        stream: event.stream,
        version: event.version.get(),
        timestamp: rfc3339(event.timestamp),
        event_type: event.event_type,
        id: event.id.map(|id| id.to_string()),
        tags: event.tags.collect(),
        metadata,
        metadata_text,
        metadata_base64,
        data,
        data_text,
        data_base64,
    };
    serde_json::to_writer(&mut *out, &outgoing)?;
    out.push(b'\n');
    Ok(())
}

/// `timestamp` as RFC 3339 in UTC with microseconds; outside the years -9999 to 9999, which no clock
/// shows, as a plain count of microseconds.
pub(crate) fn rfc3339(timestamp: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(timestamp.as_micros()) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => timestamp.as_micros().to_string(),
    }
}

#[derive(Serialize)]
struct Outgoing<'a> {
    position: u64,
    stream: &'a str,
    version: u64,
    timestamp: String,
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// The form in which `bytes` come back as they are: a JSON value, a string, or Base64.
fn choose(bytes: &[u8]) -> (Option<&RawValue>, Option<&str>, Option<String>) {
    if bytes.is_empty() {
        return (None, None, None);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return (None, None, Some(BASE64_STANDARD.encode(bytes)));
    };
    match serde_json::from_str::<&RawValue>(text) {
        // The parser leaves out the white space around a value. Line breaks are possible between
        // its parts only: within strings they are escaped.
        Ok(value) if value.get() == text && !text.contains(['\n', '\r']) => (Some(value), None, None),
        _ => (None, Some(text), None),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tags: Vec<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata_text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data_text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    expected: Option<Expected>,
    #[serde(default, rename = "position")]
    _position: IgnoredAny,
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
    #[serde(default, rename = "timestamp")]
    _timestamp: IgnoredAny,
}

/// `null` is a JSON text of four bytes, not an absent one, which `Option` alone would make of it.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn bytes<'a>(
    name: &str,
    value: Option<&'a RawValue>,
    text: Option<Cow<'a, str>>,
    base64: Option<Cow<'a, str>>,
) -> Result<Cow<'a, [u8]>, String> {
    match (value, text, base64) {
        (None, None, None) => Ok(Cow::Borrowed(&[])),
        (Some(value), None, None) => Ok(Cow::Borrowed(value.get().as_bytes())),
        (None, Some(Cow::Borrowed(text)), None) => Ok(Cow::Borrowed(text.as_bytes())),
        (None, Some(Cow::Owned(text)), None) => Ok(Cow::Owned(text.into_bytes())),
        (None, None, Some(text)) => match BASE64_STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(error) => Err(format!("`{name}_base64`: {error}")),
        },
        _ => Err(format!("more than one of `{name}`, `{name}_text` and `{name}_base64`")),
    }
}

struct Expected(ExpectedVersion);

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Expected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"`expected` to be "any", "no_stream", "stream_exists" or a version"#)
            }

            fn visit_u64<E: Error>(self, version: u64) -> Result<Expected, E> {
                Ok(Expected(ExpectedVersion::exact(version)))
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Expected, E> {
                Ok(Expected(match word {
                    "any" => ExpectedVersion::Any,
                    "no_stream" => ExpectedVersion::NoStream,
                    "stream_exists" => ExpectedVersion::StreamExists,
                    other => return Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals::{Position, Tags, Version};

    fn event<'a>(data: &'a [u8], metadata: &'a [u8]) -> EventRef<'a> {
        EventRef {
            position: Position::new(7),
            version: Version::new(3),
            timestamp: Timestamp::from_micros(1_700_000_000_000_001),
            stream: "a \"b\"\n\u{1}ü",
            id: Some(Uuid::from_u128(5)),
            event_type: "T",
            tags: Tags::default(),
            metadata,
            data,
        }
    }

    #[test]
    fn every_payload_comes_back_to_the_byte_and_its_form_is_the_most_readable_one() {
        let cases: [(&[u8], &str); 24] = [
            (b"", ""),
            (b"null", "data"),
            (b"{}", "data"),
            (b"{\"a\":1,\"a\":2, \"b\" :\t[1 , 2]}", "data"),
            (b"123456789012345678901234567890.00e-5", "data"),
            (b"1e999", "data"),
            (b"-0", "data"),
            (b"\"text \\u00e9 \\ud800\"", "data"),
            (b"\"a\\/b\"", "data"),
            (b"true", "data"),
            (b" 1", "data_text"),
            (b"1 ", "data_text"),
            (b"{}\n", "data_text"),
            (b"{\n}", "data_text"),
            (b"{\r}", "data_text"),
            (b"1 2", "data_text"),
            (b"01", "data_text"),
            (b"NaN", "data_text"),
            (b"plain \\ \"text\"\r\n\0", "data_text"),
            ("\u{feff}{}".as_bytes(), "data_text"),
            ("ünï \u{2028}".as_bytes(), "data_text"),
            (b"\xff", "data_base64"),
            (b"{\"a\":\"\xff\"}", "data_base64"),
            (b"\xed\xa0\x80", "data_base64"),
        ];
        for (bytes, form) in cases {
            let mut line = Vec::new();
            write(&mut line, &event(bytes, bytes)).unwrap();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            let text = String::from_utf8(line.clone()).unwrap();
            for candidate in ["data", "data_text", "data_base64"] {
                let found = text.contains(&format!("\"{candidate}\":"));
                assert_eq!(found, candidate == form, "{text}");
            }
            let back = parse(&line).unwrap();
            assert_eq!((&*back.data, &*back.metadata), (bytes, bytes), "{text}");
            assert_eq!((&*back.stream, &*back.event_type), ("a \"b\"\n\u{1}ü", "T"));
            assert_eq!(back.id, Some(Uuid::from_u128(5)));
            assert_eq!(back.expected, ExpectedVersion::Any);
        }
    }

    #[test]
    fn deep_nesting_is_no_stack_overflow() {
        let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        let mut line = Vec::new();
        write(&mut line, &event(&deep, b"")).unwrap();
        assert_eq!(*parse(&line).unwrap().data, deep);
        let hostile = [br#"{"stream":"s","position":"#.to_vec(), deep, b"}".to_vec()].concat();
        drop(parse(&hostile));
    }

    #[test]
    fn expectations_are_words_or_versions() {
        let cases = [
            ("\"any\"", Some(ExpectedVersion::Any)),
            ("null", Some(ExpectedVersion::Any)),
            ("\"no_stream\"", Some(ExpectedVersion::NoStream)),
            ("\"stream_exists\"", Some(ExpectedVersion::StreamExists)),
            ("12", Some(ExpectedVersion::exact(12))),
            ("-1", None),
            ("1.5", None),
            ("\"Any\"", None),
            ("[]", None),
        ];
        for (text, expected) in cases {
            let line = format!(r#"{{"stream":"s","expected":{text}}}"#);
            assert_eq!(
                parse(line.as_bytes()).ok().map(|event| event.expected),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn a_bad_line_says_what_is_wrong() {
        let cases: [(&[u8], &str); 12] = [
            (b"", "EOF"),
            (br#"["s","T"]"#, "not a JSON object"),
            (b"{}", "missing field `stream`"),
            (br#"{"stream":1}"#, "invalid type"),
            (br#"{"stream":"s","expcted":1}"#, "unknown field `expcted`"),
            (br#"{"stream":"s","stream":"t"}"#, "duplicate field `stream`"),
            (br#"{"stream":"s","data":1,"data_text":"1"}"#, "more than one of `data`"),
            (br#"{"stream":"s","data_base64":"*"}"#, "`data_base64`"),
            (br#"{"stream":"s","id":"12"}"#, "`id`"),
            (br#"{"stream":"s","data":}"#, "column"),
            (br#"{"stream":"s"} x"#, "trailing"),
            (b"{\"stream\":\"\xff\"}", "unicode"),
        ];
        for (line, what) in cases {
            let message = parse(line).unwrap_err();
            assert!(message.contains(what), "{message}");
            assert!(!message.contains("at line"), "{message}");
        }
    }

    #[test]
    fn timestamps_have_microseconds() {
        let text = |micros| rfc3339(Timestamp::from_micros(micros));
        assert_eq!(text(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(1_700_000_000_000_001), "2023-11-14T22:13:20.000001Z");
        assert_eq!(text(i64::MAX), i64::MAX.to_string());
    }
}
