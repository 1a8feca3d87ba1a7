//! The examples of `protocol/vectors` and the numbers of `protocol/*.json` hold here as they do in Python.
//!
//! Removing `json::check_line` from `ipc::decode` makes the depth and surrogate examples fail; any reordered field in an
//! `answer` or `event` type makes `what_the_sidecar_says_is_byte_for_byte_the_example` fail.

#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy.toml does not count as tests.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chatixia_sidecar::error::{Code, Failure};
use chatixia_sidecar::wire::ipc::{self, answer, event};
use chatixia_sidecar::wire::signaling::{self, Incoming, Link, Outgoing};
use chatixia_sidecar::wire::{PeerId, RequestId, json, limits};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Vector {
    name: String,
    direction: String,
    valid: bool,
    frame: Option<Box<RawValue>>,
    raw: Option<String>,
    raw_hex: Option<String>,
    raw_repeat: Option<Vec<(String, usize)>>,
    error: Option<String>,
    id: Option<Box<RawValue>>,
    sidecar: Option<String>,
}

impl Vector {
    fn bytes(&self) -> Bytes {
        if let Some(frame) = &self.frame {
            return frame.get().to_owned().into();
        }
        if let Some(raw) = &self.raw {
            return raw.clone().into();
        }
        if let Some(parts) = &self.raw_repeat {
            return parts.iter().map(|(text, times)| text.repeat(*times)).collect::<String>().into();
        }
        let hex = self.raw_hex.as_ref().expect("one of frame, raw, raw_hex, raw_repeat");
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }
}

fn protocol() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol")
}

fn vectors(file: &str, direction: &str, at_least: usize) -> Vec<Vector> {
    let text = std::fs::read_to_string(protocol().join("vectors").join(file)).unwrap();
    let all: Vec<Vector> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: HashSet<&str> = all.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "{file} names an example twice");
    let chosen: Vec<Vector> = all.into_iter().filter(|v| v.direction == direction).collect();
    assert!(chosen.len() >= at_least, "{file} has only {} examples {direction}", chosen.len());
    chosen
}

fn json_file(name: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(protocol().join(name)).unwrap()).unwrap()
}

#[test]
fn commands_are_taken_and_refused_as_the_examples_say() {
    for v in vectors("ipc.jsonl", "to_sidecar", 80) {
        match ipc::decode(&v.bytes()) {
            Ok(request) => {
                assert!(v.valid, "{} was taken", v.name);
                let Some(frame) = v.frame else { continue };
                let frame: Value = serde_json::from_str(frame.get()).unwrap();
                assert_eq!(request.id.map(|id| id.as_json().to_owned()), frame.get("id").map(Value::to_string));
                if let ipc::Command::Send { message, .. } | ipc::Command::Broadcast { message } = request.command {
                    let carried: Value = serde_json::from_slice(&message).unwrap();
                    assert_eq!(carried, frame["payload"]["message"], "{}", v.name);
                }
            }
            Err(rejected) => {
                assert!(!v.valid, "{} was refused: {rejected}", v.name);
                assert_eq!(Some(rejected.failure.code.as_str()), v.error.as_deref(), "{}: {rejected}", v.name);
                let id = rejected.id.as_ref().map(RequestId::as_json);
                assert_eq!(id, v.id.as_ref().map(|raw| raw.get()), "{}", v.name);
            }
        }
    }
}

#[test]
fn frames_of_the_registry_are_taken_and_refused_as_the_examples_say() {
    for v in vectors("signaling.jsonl", "from_registry", 40) {
        match signaling::decode(&v.bytes()) {
            Ok(_) => assert!(v.valid, "{} was taken", v.name),
            Err(failure) => {
                assert!(!v.valid, "{} was refused: {failure}", v.name);
                assert_eq!(Some(failure.code.as_str()), v.error.as_deref(), "{}: {failure}", v.name);
            }
        }
    }
}

#[test]
fn bodies_are_carried_unless_they_could_harm_the_line() {
    for v in vectors("envelope.jsonl", "agent", 40) {
        let carried = json::check_message(&v.bytes());
        let expected = v.valid || v.sidecar.as_deref() == Some("carries");
        assert_eq!(carried.is_ok(), expected, "{}: {carried:?}", v.name);
    }
    for refused in ["{\"a\":1}\n", "{\n\"a\":1}", "{\"a\":\r1}", "", "{", "[]", "1", " {}", "{}}", "{} {}"] {
        assert!(json::check_message(refused.as_bytes()).is_err(), "{refused:?} was carried");
    }
    let at_limit = format!("{{\"a\":\"{}\"}}", "x".repeat(limits::MAX_MESSAGE_BYTES - 8));
    assert_eq!(at_limit.len(), limits::MAX_MESSAGE_BYTES);
    assert_eq!(json::check_message(at_limit.as_bytes()), Ok(()));
    let failure = json::check_message(format!("{at_limit} ").as_bytes()).unwrap_err();
    assert_eq!(failure.code, Code::MessageTooBig);
    let line = format!(r#"{{"type":"send","id":1,"payload":{{"target_peer":"b","message":{at_limit}}}}}"#);
    assert!(line.len() <= limits::MAX_LINE_BYTES, "a body at the limit fits a line");
    assert!(ipc::decode(&Bytes::from(line)).is_ok());
}

#[test]
fn what_the_sidecar_says_is_byte_for_byte_the_example() {
    for v in vectors("ipc.jsonl", "from_sidecar", 20).into_iter().filter(|v| v.valid) {
        let raw = v.frame.as_ref().expect("a valid answer is given as a frame").get();
        let mut out = Vec::new();
        say(&mut out, raw);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{raw}\n"), "{}", v.name);
    }
}

/// Says the same thing as the example through our own functions.
fn say(out: &mut Vec<u8>, raw: &str) {
    let frame: Value = serde_json::from_str(raw).unwrap();
    let id = frame.get("id").map(|id| RequestId::from_json(&id.to_string()).unwrap());
    let p = &frame["payload"];
    let peers = |value: &Value| -> Vec<PeerId> { serde_json::from_value(value.clone()).unwrap() };
    let peer = || -> PeerId { serde_json::from_value(p["peer_id"].clone()).unwrap() };
    let text = |key: &str| p[key].as_str().unwrap_or_default();
    let path = |value: &Value| -> Option<answer::Path> {
        (!value.is_null()).then(|| answer::Path {
            local: leak(&value["local"]),
            remote: leak(&value["remote"]),
            protocol: leak(&value["protocol"]),
        })
    };
    match frame["type"].as_str().unwrap() {
        "ok" if p.get("sent").is_some() => {
            let sent = peers(&p["sent"]);
            let failed: BTreeMap<PeerId, String> = serde_json::from_value(p["failed"].clone()).unwrap();
            let failed: Vec<(&PeerId, Code)> = failed.iter().map(|(peer, word)| (peer, code(word))).collect();
            answer::broadcast_ok(out, &id.unwrap(), &sent, failed);
        }
        "ok" => answer::ok(out, &id.unwrap()),
        "error" => answer::error(out, id.as_ref(), &Failure::new(code(text("code")), text("message"))),
        "peer_list" => answer::peer_list(out, id.as_ref(), &peers(&p["peers"])),
        "hello" => answer::hello(
            out,
            id.as_ref(),
            &answer::Hello {
                protocol: limits::PROTOCOL,
                version: text("version"),
                peer_id: text("peer_id"),
                fingerprint: text("fingerprint"),
                max_message_bytes: limits::MAX_MESSAGE_BYTES,
                max_line_bytes: limits::MAX_LINE_BYTES,
                window_bytes: limits::WINDOW_BYTES,
            },
        ),
        "status" => {
            let peers_status = p["peers"].as_object().unwrap().iter().map(|(name, s)| {
                let status = answer::PeerStatus {
                    state: leak(&s["state"]),
                    generation: s["generation"].as_u64().unwrap(),
                    connection: s["connection"].as_str().unwrap().to_owned(),
                    role: leak(&s["role"]),
                    protocol: 1,
                    fingerprint: s["fingerprint"].as_str().map(str::to_owned),
                    path: path(&s["path"]),
                    rtt_ms: s["rtt_ms"].as_f64(),
                    dtls: Some(leak(&s["dtls"])),
                    max_message_bytes: limits::MAX_MESSAGE_BYTES,
                    messages_sent: s["messages_sent"].as_u64().unwrap(),
                    messages_received: s["messages_received"].as_u64().unwrap(),
                    bytes_sent: s["bytes_sent"].as_u64().unwrap(),
                    bytes_received: s["bytes_received"].as_u64().unwrap(),
                };
                (name.parse().unwrap(), status)
            });
            let status = answer::Status {
                peer_id: text("peer_id"),
                version: text("version"),
                protocol: limits::PROTOCOL,
                fingerprint: text("fingerprint"),
                uptime_s: p["uptime_s"].as_u64().unwrap(),
                signaling: text("signaling"),
                online: peers(&p["online"]),
                peers: peers_status.collect(),
            };
            answer::status(out, id.as_ref(), &status);
        }
        "message" => {
            // The body is copied as it stands, so it is taken from the text of the example.
            #[derive(Deserialize)]
            struct Line<'a> {
                #[serde(borrow)]
                payload: Body<'a>,
            }
            #[derive(Deserialize)]
            struct Body<'a> {
                from_peer: PeerId,
                #[serde(borrow)]
                message: &'a RawValue,
            }
            let Line { payload } = serde_json::from_str(raw).unwrap();
            event::message(out, &payload.from_peer, payload.message.get().as_bytes());
        }
        "peer_connected" => {
            let opened = p.get("generation").map(|generation| event::Opened {
                generation: generation.as_u64().unwrap(),
                protocol: limits::PROTOCOL,
                fingerprint: p["fingerprint"].as_str().map(str::to_owned),
                max_message_bytes: limits::MAX_MESSAGE_BYTES,
                path: path(&p["path"]),
            });
            event::peer_connected(out, &peer(), opened.as_ref());
        }
        "peer_disconnected" => {
            let end = p.get("generation").map(|generation| (generation.as_u64().unwrap(), text("reason")));
            event::peer_disconnected(out, &peer(), end);
        }
        "peer_joined" => {
            let protocol = p["protocol"].as_u64().map(|n| u32::try_from(n).unwrap());
            event::peer_joined(out, &peer(), p["fingerprint"].as_str(), protocol);
        }
        "peer_left" => event::peer_left(out, &peer()),
        "signaling" => {
            let me: Option<PeerId> = text("peer_id").parse().ok();
            event::signaling(out, text("state"), me.as_ref(), p["reason"].as_str());
        }
        other => panic!("an example of type {other}, which nothing here says"),
    }
}

fn code(word: &str) -> Code {
    *Code::ALL.iter().find(|code| code.as_str() == word).expect("a word of errors.json")
}

fn leak(value: &Value) -> &'static str {
    value.as_str().unwrap().to_owned().leak()
}

#[test]
fn what_we_tell_the_registry_is_byte_for_byte_the_example() {
    for v in vectors("signaling.jsonl", "to_registry", 12) {
        // What is not valid is for the registry to refuse.
        if !v.valid || v.name.starts_with("old_") {
            continue; // What old sidecars say, we do not.
        }
        let raw = v.frame.as_ref().expect("a frame").get();
        let frame: Value = serde_json::from_str(raw).unwrap();
        let me: PeerId = serde_json::from_value(frame["peer_id"].clone()).unwrap();
        let p = &frame["payload"];
        let outgoing = match frame["type"].as_str().unwrap() {
            "register" => Outgoing::Register {
                fingerprint: p["fingerprint"].as_str().unwrap().to_owned(),
                generation: p["generation"].as_u64().unwrap(),
            },
            "heartbeat" => Outgoing::Heartbeat,
            "topology" => Outgoing::Topology(p["links"].as_array().unwrap().iter().map(link).collect()),
            _ => {
                let Ok(Incoming::Signal { signal, .. }) = signaling::decode(raw.as_bytes()) else { panic!("{raw}") };
                Outgoing::Signal { to: serde_json::from_value(frame["target_id"].clone()).unwrap(), signal }
            }
        };
        assert_eq!(outgoing.encode(&me), raw, "{}", v.name);
        let only_new = ["end_of_candidates", "topology", "topology_without_links"].contains(&v.name.as_str());
        assert_eq!(outgoing.needs_protocol_1(), only_new, "{}", v.name);
    }
}

fn link(value: &Value) -> Link {
    let path = &value["path"];
    Link {
        peer: serde_json::from_value(value["peer"].clone()).unwrap(),
        state: leak(&value["state"]),
        path: (!path.is_null()).then(|| answer::Path {
            local: leak(&path["local"]),
            remote: leak(&path["remote"]),
            protocol: leak(&path["protocol"]),
        }),
        rtt_ms: value["rtt_ms"].as_f64(),
    }
}

#[test]
fn error_codes_are_those_of_the_contract() {
    let ours: BTreeMap<String, (bool, String)> =
        Code::ALL.iter().map(|c| (c.as_str().to_owned(), (c.retryable(), c.executed().as_str().to_owned()))).collect();
    let theirs: BTreeMap<String, (bool, String)> = json_file("errors.json")
        .into_iter()
        .map(|(word, row)| (word, (row["retryable"].as_bool().unwrap(), row["executed"].as_str().unwrap().to_owned())))
        .collect();
    assert_eq!(ours, theirs);
}

#[test]
fn limits_are_those_of_the_contract() {
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap();
    let number = |n: usize| Value::from(n);
    let ours = BTreeMap::from([
        ("protocol", Value::from(limits::PROTOCOL)),
        ("max_message_bytes", number(limits::MAX_MESSAGE_BYTES)),
        ("max_line_bytes", number(limits::MAX_LINE_BYTES)),
        ("max_json_depth", number(limits::MAX_JSON_DEPTH)),
        ("window_bytes", number(limits::WINDOW_BYTES)),
        ("old_peer_max_message_bytes", number(limits::OLD_PEER_MAX_MESSAGE_BYTES)),
        ("max_id_chars", number(limits::MAX_ID_CHARS)),
        ("max_signal_bytes", number(limits::MAX_SIGNAL_BYTES)),
        ("max_sdp_bytes", number(limits::MAX_SDP_BYTES)),
        ("max_candidate_bytes", number(limits::MAX_CANDIDATE_BYTES)),
        ("max_candidates", number(limits::MAX_CANDIDATES)),
        ("max_peers", number(limits::MAX_PEERS)),
        ("max_pending_handshakes", number(limits::MAX_PENDING_HANDSHAKES)),
        ("handshake_timeout_ms", Value::from(ms(limits::HANDSHAKE_TIMEOUT))),
        ("heartbeat_ms", Value::from(ms(limits::HEARTBEAT))),
        ("peer_id_pattern", Value::from(limits::PEER_ID_PATTERN)),
        ("message_id_pattern", Value::from(limits::MESSAGE_ID_PATTERN)),
    ]);
    let theirs = json_file("limits.json");
    let ours: BTreeMap<String, Value> = ours.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    assert_eq!(ours, theirs);
}
