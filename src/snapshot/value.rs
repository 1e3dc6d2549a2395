//! Any `serde` type as the body of a snapshot, through `bincode` 2.0.1 (its standard configuration).
//!
//! `bincode` does not describe what it encodes. A value whose type has changed since is mostly refused, for
//! it ends too early or leaves bytes over, but it may also be decoded as something else: who changes a type
//! in a way that keeps its length gives it another codec tag, or a number of its own in the value.

use std::fmt;

use bincode::config;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The codec tag of what [`encode_value`] makes: `BNC2`.
pub(crate) const CODEC_BINCODE: u32 = u32::from_le_bytes(*b"BNC2");

/// The longest encoded value, whatever limit a caller asks for.
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 20;

/// How many bytes `bincode` counts against its limit, at most, for one that it reads: a `u128` counts as 16
/// though a small one takes a single byte.
const COUNTED_PER_BYTE: usize = 16;

/// Values up to this length are decoded within a limit of [`VALUE_BYTES_MAX`], so that a wrong length
/// in them takes no more memory than that. Only those above it need a limit that is higher.
const SMALL_BYTES_MAX: usize = VALUE_BYTES_MAX / COUNTED_PER_BYTE;

/// Bytes that are not a value of the type asked for: its shape has changed, or it is larger than allowed.
/// To the caller that is as if there were no snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable(String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the snapshot does not decode: {}", self.0)
    }
}

impl std::error::Error for Undecodable {}

/// Encodes `value` in at most `limit` bytes, and never more than [`VALUE_BYTES_MAX`].
///
/// # Errors
/// [`Error::TooLarge`] with the size it would have; [`Error::InvalidArgument`] if the type cannot be encoded.
pub(crate) fn encode_value<T: Serialize + ?Sized>(value: &T, limit: usize) -> Result<Vec<u8>> {
    let mut out = Bounded {
        bytes: Vec::new(),
        size: 0,
        max: limit.min(VALUE_BYTES_MAX),
    };
    bincode::serde::encode_into_writer(value, &mut out, config::standard())
        .map_err(|e| Error::InvalidArgument(format!("the value of a snapshot cannot be encoded: {e}")))?;
    if out.size > out.max as u64 {
        return Err(Error::TooLarge {
            what: "the value of a snapshot",
            size: out.size,
            max: out.max as u64,
        });
    }
    Ok(out.bytes)
}

/// Decodes what [`encode_value`] made of a value of the same type: at most `limit` bytes, all of them used.
///
/// Memory and time are bounded by the bytes, unless `T` holds a sequence of elements that are encoded in no
/// bytes at all (`Vec<()>`): its length stands in the bytes, and nothing limits it.
pub(crate) fn decode_value<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, Undecodable> {
    let max = limit.min(VALUE_BYTES_MAX);
    if bytes.len() > max {
        return Err(Undecodable(format!("{} bytes, at most {max}", bytes.len())));
    }
    let standard = config::standard();
    let decoded = if bytes.len() <= SMALL_BYTES_MAX {
        bincode::serde::decode_from_slice(bytes, standard.with_limit::<VALUE_BYTES_MAX>())
    } else {
        const LIMIT: usize = VALUE_BYTES_MAX * COUNTED_PER_BYTE;
        bincode::serde::decode_from_slice(bytes, standard.with_limit::<LIMIT>())
    };
    let (value, used) = decoded.map_err(|e| Undecodable(e.to_string()))?;
    if used < bytes.len() {
        return Err(Undecodable(format!("{} bytes are left over", bytes.len() - used)));
    }
    Ok(value)
}

/// Keeps what fits `max` and counts the rest.
struct Bounded {
    bytes: Vec<u8>,
    size: u64,
    max: usize,
}

impl Writer for Bounded {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.size += bytes.len() as u64;
        if self.size <= self.max as u64 {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Account {
        owner: String,
        balance: i64,
        entries: BTreeMap<u32, Option<String>>,
    }

    fn account() -> Account {
        Account {
            owner: "ada".into(),
            balance: -12,
            entries: [(1, None), (2, Some("rent".into()))].into(),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = encode_value(&account(), usize::MAX).unwrap();
        assert_eq!(decode_value(&bytes, usize::MAX), Ok(account()));
    }

    /// The bytes are those of bincode's standard configuration; files are read by later releases.
    #[test]
    fn the_encoding_is_fixed() {
        let bytes = encode_value(&account(), usize::MAX).unwrap();
        assert_eq!(bytes, b"\x03ada\x17\x02\x01\x00\x02\x01\x04rent");
        assert_eq!(CODEC_BINCODE.to_le_bytes(), *b"BNC2");
    }

    #[test]
    fn the_limit_holds_on_both_sides() {
        let bytes = encode_value(&account(), usize::MAX).unwrap();
        assert_eq!(encode_value(&account(), bytes.len()).unwrap(), bytes);
        let refused = encode_value(&account(), bytes.len() - 1);
        assert!(
            matches!(refused, Err(Error::TooLarge { size, max, .. })
                if size == bytes.len() as u64 && max == size - 1),
            "{refused:?}"
        );
        assert_eq!(decode_value(&bytes, bytes.len()), Ok(account()));
        assert!(decode_value::<Account>(&bytes, bytes.len() - 1).is_err());

        let large = "x".repeat(VALUE_BYTES_MAX);
        let refused = encode_value(&large, usize::MAX);
        assert!(matches!(refused, Err(Error::TooLarge { max, .. }) if max == 64 << 20));
        let most = encode_value(&large[5..], usize::MAX).unwrap();
        assert_eq!(most.len(), VALUE_BYTES_MAX);
        assert!(decode_value::<String>(&most, usize::MAX).is_ok_and(|most| most == large[5..]));
        assert!(decode_value::<String>(&[&most[..], b"x"].concat(), usize::MAX).is_err());
    }

    /// Whatever was encoded within the limit is decoded, though `bincode` counts more bytes than it reads.
    #[test]
    fn all_that_fits_the_limit_comes_back() {
        for len in [SMALL_BYTES_MAX - 5, SMALL_BYTES_MAX + 5] {
            let wide = vec![1u128; len];
            let bytes = encode_value(&wide, usize::MAX).unwrap();
            assert!(decode_value::<Vec<u128>>(&bytes, usize::MAX).is_ok_and(|back| back == wide));
        }
    }

    #[test]
    fn a_length_from_the_bytes_takes_no_memory_before_it_is_checked() {
        // A string, and then a list, of 2^63 elements.
        let endless = [&[253][..], &(1u64 << 63).to_le_bytes(), &[1; 8]].concat();
        assert!(decode_value::<String>(&endless, usize::MAX).is_err());
        assert!(decode_value::<Vec<u64>>(&endless, usize::MAX).is_err());
        assert!(decode_value::<BTreeMap<u64, u64>>(&endless, usize::MAX).is_err());
    }

    #[test]
    fn another_shape_does_not_decode() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct WithLimit {
            owner: String,
            balance: i64,
            entries: BTreeMap<u32, Option<String>>,
            limit: u64,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct WithoutEntries {
            owner: String,
            balance: i64,
        }
        let bytes = encode_value(&account(), usize::MAX).unwrap();
        assert!(decode_value::<WithLimit>(&bytes, usize::MAX).is_err(), "a field more");
        let left_over = decode_value::<WithoutEntries>(&bytes, usize::MAX).unwrap_err();
        assert!(left_over.to_string().contains("left over"), "{left_over}");
        for len in 0..bytes.len() {
            assert!(
                decode_value::<Account>(&bytes[..len], usize::MAX).is_err(),
                "cut at {len}"
            );
        }
        assert!(decode_value::<serde::de::IgnoredAny>(&bytes, usize::MAX).is_err());
    }

    #[test]
    fn a_value_that_cannot_be_encoded_is_the_callers_to_fix() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("not this one"))
            }
        }
        let refused = encode_value(&Refuses, usize::MAX);
        assert!(matches!(&refused, Err(Error::InvalidArgument(why)) if why.contains("not this one")));
    }
}
