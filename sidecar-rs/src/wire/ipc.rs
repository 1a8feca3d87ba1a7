//! The lines between the agent and its sidecar.
//!
//! * in: [`Command`], by [`decode`]; a refusal keeps the id of the command, so that it can be answered
//! * out: [`answer`] and [`event`] append one line with its LF to a buffer; the key order is part of the contract
//!
//! Every body runs through here, so [`decode`] goes over a `send` line once, and [`event::message`] is five copies.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{PeerId, RequestId, json};
use crate::error::{Code, Failure};

pub mod answer;
pub mod event;

/// What an agent asks of its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Opens the conversation; answered with who we are and what we take.
    Hello {
        /// The client's protocol number.
        protocol: u32,
        /// Bytes of the longest line the client reads.
        max_line_bytes: Option<u64>,
    },
    /// Hands `message` to the peer's SCTP association.
    Send {
        /// Who gets it.
        target_peer: PeerId,
        /// One JSON object on one line; shares the memory of the line it came in.
        message: Bytes,
    },
    /// Hands `message` to every peer with an open channel.
    Broadcast {
        /// As in `Send`.
        message: Bytes,
    },
    /// Asks which peers have an open channel.
    ListPeers,
    /// Dials a peer and waits for the channel.
    Connect {
        /// Whom to dial.
        target_peer_id: PeerId,
    },
    /// Closes the channel to a peer and tells it so.
    Disconnect {
        /// Whom to leave.
        target_peer_id: PeerId,
    },
    /// Asks for the whole picture.
    Status,
}

/// A command and the id its answer must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Echoed in the answer; without one only failures and replies with a type of their own are sent.
    pub id: Option<RequestId>,
    /// What to do.
    pub command: Command,
}

/// A line that is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct Rejected {
    /// The id, when the line was whole enough to find it.
    pub id: Option<RequestId>,
    /// What was wrong.
    pub failure: Failure,
}

/// Reads one line, without its LF.
///
/// Unknown fields are ignored. Fails with `invalid_line`, `unknown_type` or `message_too_big`; the failure names the field.
pub fn decode(line: &Bytes) -> Result<Request, Rejected> {
    let text = json::text(line).map_err(|failure| Rejected { id: None, failure })?;
    read(line, text).map_err(|failure| Rejected { id: find_id(text), failure })
}

fn read(line: &Bytes, text: &str) -> Result<Request, Failure> {
    let frame: Frame<'_> = serde_json::from_str(text).map_err(|e| Failure::invalid(e.to_string()))?;
    json::check_line(text)?;
    let id = match frame.id {
        None => None,
        Some(raw) if raw.get() == "null" => None,
        Some(raw) => Some(RequestId::from_raw(raw).ok_or_else(|| {
            Failure::invalid("id must be a string of at most 64 characters or a whole number up to 2^53 - 1")
        })?),
    };
    let kind = frame.kind.ok_or_else(|| Failure::invalid("type is missing"))?;
    let command = match frame.payload {
        Payload::Send(p) => Command::Send { target_peer: p.target_peer, message: body(line, p.message)? },
        Payload::Raw(raw) => command(line, &kind, raw)?,
        Payload::None => command(line, &kind, "{}")?,
    };
    Ok(Request { id, command })
}

fn command(line: &Bytes, kind: &str, payload: &str) -> Result<Command, Failure> {
    Ok(match kind {
        // Here only when the payload stood before the type, or is missing.
        "send" => {
            let p: SendPayload<'_> = parse(payload)?;
            Command::Send { target_peer: p.target_peer, message: body(line, p.message)? }
        }
        "broadcast" => Command::Broadcast { message: body(line, parse::<BroadcastPayload<'_>>(payload)?.message)? },
        "hello" => {
            let p: HelloPayload = parse(payload)?;
            Command::Hello { protocol: p.protocol, max_line_bytes: p.max_line_bytes }
        }
        "connect" => Command::Connect { target_peer_id: parse::<TargetPayload>(payload)?.target_peer_id },
        "disconnect" => Command::Disconnect { target_peer_id: parse::<TargetPayload>(payload)?.target_peer_id },
        "list_peers" => parse::<EmptyPayload>(payload).map(|_| Command::ListPeers)?,
        "status" => parse::<EmptyPayload>(payload).map(|_| Command::Status)?,
        other => return Err(Failure::new(Code::UnknownType, format!("unknown type {other:?}"))),
    })
}

/// Reads a payload that must be an object; serde alone would also take an array for a struct.
fn parse<'a, T: Deserialize<'a>>(payload: &'a str) -> Result<T, Failure> {
    if !payload.starts_with('{') {
        return Err(Failure::invalid("payload must be an object"));
    }
    serde_json::from_str(payload).map_err(|e| Failure::invalid(format!("payload: {e}")))
}

fn body(line: &Bytes, raw: &RawValue) -> Result<Bytes, Failure> {
    let limit = super::limits::MAX_MESSAGE_BYTES;
    if raw.get().len() > limit {
        let size = raw.get().len();
        return Err(Failure::new(Code::MessageTooBig, format!("message of {size} bytes, limit {limit}")));
    }
    if !raw.get().starts_with('{') {
        return Err(Failure::invalid("message must be a JSON object"));
    }
    Ok(line.slice_ref(raw.get().as_bytes()))
}

/// Looks for a usable id in a line that was refused; a slow path.
fn find_id(text: &str) -> Option<RequestId> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    if !text.trim_start().starts_with('{') {
        return None;
    }
    RequestId::from_raw(serde_json::from_str::<OnlyId<'_>>(text).ok()?.id)
}

#[derive(Deserialize)]
struct SendPayload<'a> {
    target_peer: PeerId,
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Deserialize)]
struct BroadcastPayload<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Deserialize)]
struct HelloPayload {
    protocol: u32,
    max_line_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct TargetPayload {
    target_peer_id: PeerId,
}

#[derive(Deserialize)]
struct EmptyPayload {}

/// The top level of a line, read in one pass: a `send` whose type stands first is taken apart on the way.
struct Frame<'a> {
    kind: Option<Cow<'a, str>>,
    id: Option<&'a RawValue>,
    payload: Payload<'a>,
}

enum Payload<'a> {
    None,
    Raw(&'a str),
    Send(SendPayload<'a>),
}

impl<'de> Deserialize<'de> for Frame<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FrameVisitor)
    }
}

struct FrameVisitor;

impl<'de> Visitor<'de> for FrameVisitor {
    type Value = Frame<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Frame<'de>, M::Error> {
        let mut frame = Frame { kind: None, id: None, payload: Payload::None };
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                "type" if frame.kind.is_none() => frame.kind = Some(map.next_value::<Key<'de>>()?.0),
                "id" if frame.id.is_none() => frame.id = Some(map.next_value()?),
                "payload" if matches!(frame.payload, Payload::None) => {
                    frame.payload = match frame.kind.as_deref() {
                        Some("send") => Payload::Send(map.next_value::<Object<SendPayload<'de>>>()?.0),
                        _ => Payload::Raw(map.next_value::<&RawValue>()?.get()),
                    }
                }
                // Two readers could take different ones of them, so we take neither.
                "type" | "id" | "payload" => return Err(M::Error::custom(format!("{key} is there twice"))),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(frame)
    }
}

/// A string, borrowed unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A struct that may be written as an object only.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("payload to be an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Object<T>, M::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OnlyMap(std::marker::PhantomData))
    }
}
