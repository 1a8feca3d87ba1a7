//! `status` and `topology` say what is true: the path taken, who offered, what went through.
//!
//! Fails when `picture.rs` leaves out a field or `topology` is not sent when links change.

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn the_picture_is_true() {
    let registry = Registry::start().await;
    let one = Sidecar::start(&registry, "one");
    let mut a = Agent::hello(&one).await;
    while a.next("signaling").await["state"] != "connected" {}
    let two = Sidecar::start(&registry, "two");
    let mut b = Agent::hello(&two).await;
    a.connected("two").await;
    b.connected("one").await;
    a.send("two", "{\"n\":1}").await;
    b.next("message").await;
    b.say(r#"{"type":"status","id":1}"#).await;
    let status = b.answer(1).await["payload"].clone();
    assert_eq!((status["peer_id"].as_str(), status["signaling"].as_str()), (Some("two"), Some("connected")));
    assert_eq!(status["online"], serde_json::json!(["one"]));
    let peer = &status["peers"]["one"];
    assert_eq!((peer["state"].as_str(), peer["role"].as_str()), (Some("open"), Some("offerer")), "the newcomer offers");
    assert_eq!(peer["path"], serde_json::json!({"local": "host", "remote": "host", "protocol": "udp"}));
    assert_eq!((peer["dtls"].as_str(), peer["max_message_bytes"].as_u64()), (Some("DTLS 1.2"), Some(262_144)));
    assert_eq!((peer["messages_received"].as_u64(), peer["bytes_received"].as_u64()), (Some(1), Some(7)));
    assert!(peer["fingerprint"].as_str().expect("one").starts_with("sha-256 "));
    assert_eq!(peer["connection"].as_str().expect("one").len(), 16);
    for _ in 0..100 {
        if registry.seen("topology").iter().any(|f| f["peer_id"] == "two" && f["payload"]["links"][0]["peer"] == "one")
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no topology frame: {:?}", registry.seen("topology"));
}
