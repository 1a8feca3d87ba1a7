//! Names on the wire: cheap to clone, checked once when made, so that everything behind can trust them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

use super::limits::{MAX_ID_CHARS, PEER_ID_PATTERN};

/// Whole numbers beyond it do not survive every JSON reader.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The name of an agent in the mesh: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit. Ordered by bytes, which settles glare.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(Arc<str>);

/// Why a text is no peer id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a peer id (it must match {PEER_ID_PATTERN})")]
pub struct InvalidPeerId(String);

impl PeerId {
    /// Gives the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        let bytes = text.as_bytes();
        bytes.len() <= 64
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }
}

impl FromStr for PeerId {
    type Err = InvalidPeerId;

    fn from_str(text: &str) -> Result<Self, InvalidPeerId> {
        if Self::is_valid(text) {
            return Ok(Self(text.into()));
        }
        Err(InvalidPeerId(text.chars().take(80).collect()))
    }
}

// By `str`, so that a map of peers can be asked without making an id.
impl Borrow<str> for PeerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = PeerId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a peer id")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PeerId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The `id` of a command, kept as the JSON text it came as and echoed byte for byte.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes a string of at most 64 characters or a whole number up to 2^53 - 1; `None` for anything else.
    pub fn from_json(raw: &str) -> Option<Self> {
        let valid = if raw.starts_with('"') {
            // Six bytes is the longest escape, and a character may need two of them.
            raw.len() <= MAX_ID_CHARS * 12 + 2
                && serde_json::from_str::<String>(raw).is_ok_and(|text| text.chars().count() <= MAX_ID_CHARS)
        } else {
            raw.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= MAX_SAFE_INTEGER)
        };
        valid.then(|| Self(raw.into()))
    }

    /// Gives the JSON text, quotes included when it is a string.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    pub(super) fn from_raw(raw: &RawValue) -> Option<Self> {
        Self::from_json(raw.get())
    }
}

impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The offerer's name for one connection: 16 lower-case hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Makes the id from a random number.
    pub fn new(random: u64) -> Self {
        Self(random)
    }
}

impl FromStr for ConnectionId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(number) if hex => Ok(Self(number)),
            _ => Err("a connection is 16 lower-case hex digits"),
        }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Owned: a text with escapes cannot be borrowed, and this is not a hot path.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
