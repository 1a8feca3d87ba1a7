//! The registry goes and comes back: open channels carry on as if nothing had happened, and a new peer joins afterwards.
//!
//! Fails when `Mesh::signaling_state` closes anything, or `peer_list` dials peers that are open.

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::{Manner, Registry};
use crate::sidecar::Sidecar;

#[tokio::test]
async fn open_channels_carry_on() {
    let registry = Registry::start().await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    let address = registry.address;
    registry.stop().await;
    drop(registry);
    assert_eq!(a.next("signaling").await["state"], "connecting");
    for n in 0..50 {
        a.send("two", &format!("{{\"n\":{n}}}")).await;
        assert_eq!(b.next("message").await["message"]["n"], n);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let registry = Registry::at(address, Manner::default()).await;
    while a.next("signaling").await["state"] != "connected" {}
    while b.next("signaling").await["state"] != "connected" {}
    let three = Sidecar::start(&registry, "three");
    let mut c = Agent::hello(&three).await;
    let mut open =
        [c.next("peer_connected").await["peer_id"].clone(), c.next("peer_connected").await["peer_id"].clone()];
    open.sort_by_key(std::string::ToString::to_string);
    assert_eq!(open, ["one", "two"]);
    a.say(r#"{"type":"status","id":2}"#).await;
    assert_eq!(a.answer(2).await["payload"]["peers"]["two"]["generation"], 1, "the old channel is still the one");
    let between: Vec<_> = registry.seen("offer").iter().map(|f| f["peer_id"].clone()).collect();
    assert!(between.iter().all(|from| from == "three"), "only the newcomer offers: {between:?}");
}
