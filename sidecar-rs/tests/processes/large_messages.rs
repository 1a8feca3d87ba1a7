//! Bodies up to the limit pass both ways unchanged; one byte more is refused and nothing is lost.
//!
//! Fails when `connection.rs` announces another size than `MAX_MESSAGE_BYTES`, or `ipc.rs` cuts lines at 64 KiB.

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

const LIMIT: usize = 262_144;

#[tokio::test]
async fn up_to_the_limit_and_no_further() {
    let registry = Registry::start().await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    for size in [1_000, 65_535, 65_536, 65_537, 131_072, LIMIT - 1, LIMIT] {
        let body = format!("{{\"pad\":\"{}\"}}", "y".repeat(size - 10));
        assert_eq!(body.len(), size);
        a.send("two", &body).await;
        let line = b.line().await;
        assert!(line == format!(r#"{{"type":"message","payload":{{"from_peer":"one","message":{body}}}}}"#), "{size}");
    }
    let body = format!("{{\"pad\":\"{}\"}}", "y".repeat(LIMIT - 9));
    a.say(&format!(r#"{{"type":"send","id":8,"payload":{{"target_peer":"two","message":{body}}}}}"#)).await;
    assert_eq!(a.answer(8).await["payload"]["code"], "message_too_big");
    a.send("two", "{\"n\":1}").await;
    assert_eq!(b.next("message").await["message"]["n"], 1);
}
