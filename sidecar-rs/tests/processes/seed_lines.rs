//! The seed's lines, typed by hand into two sidecars: what comes back, byte for byte, for a client that says no hello.
//!
//! Fails when `event::message`, `peer_connected` or `peer_disconnected` change a byte, or when `Mesh::announce` uses the long form.

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn the_three_events_and_the_list_are_exact() {
    let registry = Registry::start().await;
    let one = Sidecar::start(&registry, "one");
    let mut a = Agent::attach(&one).await;
    let two = Sidecar::start(&registry, "two");
    let mut b = Agent::attach(&two).await;
    assert_eq!(a.line().await, r#"{"type":"peer_connected","payload":{"peer_id":"two"}}"#);
    assert_eq!(b.line().await, r#"{"type":"peer_connected","payload":{"peer_id":"one"}}"#);

    a.say(
        r#"{"type":"send","payload":{"target_peer":"two","message":{"type":"ping","text":"h\u00e4, ä","n":[1, 2]}}}"#,
    )
    .await;
    let carried =
        r#"{"type":"message","payload":{"from_peer":"one","message":{"type":"ping","text":"h\u00e4, ä","n":[1, 2]}}}"#;
    assert_eq!(b.line().await, carried, "the body is carried as it came, spaces and escapes included");

    b.say(r#"{"type":"broadcast","payload":{"message":{"to":"all"}}}"#).await;
    assert_eq!(a.line().await, r#"{"type":"message","payload":{"from_peer":"two","message":{"to":"all"}}}"#);

    a.say(r#"{"type":"list_peers","payload":{}}"#).await;
    assert_eq!(a.line().await, r#"{"type":"peer_list","payload":{"peers":["two"]}}"#);
    a.say(r#"{"type":"list_peers","id":"x","payload":{}}"#).await;
    assert_eq!(a.line().await, r#"{"type":"peer_list","id":"x","payload":{"peers":["two"]}}"#);

    a.say(r#"{"type":"send","payload":{"target_peer":"nobody","message":{}}}"#).await;
    let refused = r#"{"type":"error","payload":{"code":"peer_unreachable","message":"no open channel to nobody","retryable":true,"executed":"no"}}"#;
    assert_eq!(a.line().await, refused);
    a.say(r#"{"type":"send","id":5,"payload":{"target_peer":"two","message":{"last":true}}}"#).await;
    assert_eq!(a.line().await, r#"{"type":"ok","id":5,"payload":{}}"#);
    assert_eq!(b.line().await, r#"{"type":"message","payload":{"from_peer":"one","message":{"last":true}}}"#);

    b.say(r#"{"type":"disconnect","id":6,"payload":{"target_peer_id":"one"}}"#).await;
    assert_eq!(b.line().await, r#"{"type":"peer_disconnected","payload":{"peer_id":"one"}}"#);
    assert_eq!(b.line().await, r#"{"type":"ok","id":6,"payload":{}}"#);
    assert_eq!(a.line().await, r#"{"type":"peer_disconnected","payload":{"peer_id":"two"}}"#);
}
