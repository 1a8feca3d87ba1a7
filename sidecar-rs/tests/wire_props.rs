//! Whatever bytes come in, the decoders answer with a value or a refusal, and a body goes through unchanged.
//!
//! Writing a body through serde (`serde_json::Value`) instead of as it stands makes `a_body_goes_through_unchanged` fail.

#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy.toml does not count as tests.

use bytes::Bytes;
use chatixia_sidecar::wire::ipc::{self, answer, event};
use chatixia_sidecar::wire::{RequestId, json, signaling};
use proptest::prelude::*;
use serde_json::Value;

/// JSON of any shape, as text.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".*", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A line close to a real one, so that the decoders are taken beyond their first check.
fn near_miss() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just("send"),
        Just("broadcast"),
        Just("hello"),
        Just("status"),
        Just("offer"),
        Just("answer"),
        Just("ice_candidate"),
        Just("peer_list"),
        Just("error"),
        Just("?")
    ];
    (kind, any_json(), any_json(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(kind, id, payload, at, byte)| {
            let line = serde_json::json!({"type": kind, "id": id, "peer_id": "b", "payload": payload});
            let mut line = line.to_string().into_bytes();
            let at = at.index(line.len());
            line[at] = byte;
            line
        },
    )
}

proptest! {
    #[test]
    fn a_body_goes_through_unchanged(body in proptest::collection::btree_map(".*", any_json(), 0..5), peer in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}", id in any::<u32>()) {
        let body = serde_json::to_string(&body).unwrap().replacen('{', "{ ", 1);
        let line = format!(r#"{{"type":"send","id":{id},"payload":{{"target_peer":"{peer}","message":{body}}}}}"#);
        let request = ipc::decode(&Bytes::from(line)).unwrap();
        prop_assert_eq!(request.id, Some(RequestId::from(u64::from(id))));
        let ipc::Command::Send { target_peer, message } = request.command else { panic!("not a send") };
        prop_assert_eq!(target_peer.as_str(), peer.as_str());
        prop_assert_eq!(&message[..], body.as_bytes());
        prop_assert_eq!(json::check_message(&message), Ok(()));
        let mut out = Vec::new();
        event::message(&mut out, &target_peer, &message);
        let line = format!("{{\"type\":\"message\",\"payload\":{{\"from_peer\":\"{peer}\",\"message\":{body}}}}}\n");
        prop_assert_eq!(String::from_utf8(out).unwrap(), line);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ipc::decode(&Bytes::from(bytes.clone()));
        let _ = signaling::decode(&bytes);
        let _ = json::check_message(&bytes);
    }

    #[test]
    fn no_near_miss_panics_and_every_refusal_can_be_written(bytes in near_miss()) {
        let _ = signaling::decode(&bytes);
        let _ = json::check_message(&bytes);
        if let Err(rejected) = ipc::decode(&Bytes::from(bytes)) {
            let mut out = Vec::new();
            answer::error(&mut out, rejected.id.as_ref(), &rejected.failure);
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            serde_json::from_slice::<Value>(&out).unwrap();
        }
    }

    #[test]
    fn any_request_id_taken_is_echoed_as_it_came(raw in any_json()) {
        let raw = raw.to_string();
        if let Some(id) = RequestId::from_json(&raw) {
            prop_assert_eq!(id.as_json(), raw);
        }
    }
}
