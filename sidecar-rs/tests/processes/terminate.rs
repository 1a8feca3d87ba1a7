//! SIGTERM: the peers hear of it at once, the socket file goes, the process ends with 0 within 2 s, messages already sent arrive.
//!
//! Fails when `supervisor::run` leaves out `mesh.close()` (peer waits for silence) or `Socket`'s drop (file stays).

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn peers_are_told_and_nothing_is_left() {
    let registry = Registry::start().await;
    let (mut one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    for n in 0..2000u64 {
        a.send("two", &format!("{{\"n\":{n}}}")).await;
    }
    a.say(r#"{"type":"list_peers","id":1}"#).await;
    a.answer(1).await; // all lines before it were taken
    one.signal(libc::SIGTERM);
    for n in 0..2000u64 {
        assert_eq!(b.next("message").await["message"]["n"], n);
    }
    let gone = b.next("peer_disconnected").await;
    assert_eq!((gone["peer_id"].as_str(), gone["reason"].as_str()), (Some("one"), Some("closed")));
    let status = one.wait(Duration::from_secs(2)).await.expect("it ends within 2 s");
    assert_eq!(status.code(), Some(0));
    assert!(!one.socket.exists(), "the socket file is gone");
    assert_eq!(a.next("peer_disconnected").await["reason"], "local");
    for _ in 0..100 {
        if !registry.is_online("one") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the registry did not see it leave");
}

#[tokio::test]
async fn it_ends_as_well_while_the_agent_does_not_read_and_the_registry_is_gone() {
    let registry = Registry::start().await;
    let (mut one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::attach(&one).await, Agent::attach(&two).await);
    a.wait_open("two").await;
    b.wait_open("one").await;
    registry.stop().await;
    let pad = "x".repeat(50_000);
    for _ in 0..40 {
        b.send("one", &format!("{{\"pad\":\"{pad}\"}}")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    one.signal(libc::SIGINT);
    let status = one.wait(Duration::from_secs(2)).await.expect("it ends within 2 s");
    assert_eq!(status.code(), Some(0));
}
