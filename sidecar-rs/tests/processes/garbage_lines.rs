//! A line that is no command costs an error and nothing else: too long, half, too deep, NUL, not JSON, not UTF-8.
//!
//! Fails when `Client::read` ends on a refused line, or when `Lines` keeps what it skips.

use tokio::io::AsyncWriteExt;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn each_is_answered_by_an_error_and_the_next_line_works() {
    let registry = Registry::start().await;
    let one = Sidecar::start(&registry, "one");
    let mut a = Agent::attach(&one).await;
    let before = one.rss_kib();
    let deep =
        format!(r#"{{"type":"broadcast","payload":{{"message":{{"a":{}{}}}}}}}"#, "[".repeat(5000), "]".repeat(5000));
    let long = format!(r#"{{"type":"broadcast","payload":{{"message":{{"a":"{}"}}}}}}"#, "x".repeat(1 << 20));
    let cases: [(&[u8], &str); 10] = [
        (long.as_bytes(), "line_too_long"),
        (deep.as_bytes(), "invalid_line"),
        (b"{\"type\":\"list_peers\",\0}", "invalid_line"),
        (b"\0\0\0\0", "invalid_line"),
        (b"\xff\xfe{}", "invalid_line"),
        (b"", "invalid_line"),
        (b"[1,2]", "invalid_line"),
        (b"{\"type\":\"fly\",\"payload\":{}}", "unknown_type"),
        (b"{\"type\":\"send\",\"payload\":{\"target_peer\":\"../x\",\"message\":{}}}", "invalid_line"),
        (b"{\"type\":\"broadcast\",\"payload\":{\"message\":{\"a\":\"\r\"}}}", "invalid_line"),
    ];
    for (line, code) in cases {
        a.write.write_all(line).await.expect("it reads");
        a.write.write_all(b"\n").await.expect("it reads");
        let error = a.next("error").await;
        assert_eq!(error["code"], code, "{}", String::from_utf8_lossy(&line[..line.len().min(80)]));
        a.say(r#"{"type":"list_peers","id":1}"#).await;
        assert_eq!(a.answer(1).await["type"], "peer_list");
    }
    a.say(r#"{"type":"hello","id":2,"payload":{"protocol":99}}"#).await;
    let refusal = a.answer(2).await;
    assert_eq!(refusal["payload"]["code"], "protocol_mismatch");
    let message = refusal["payload"]["message"].as_str().expect("a sentence");
    assert!(message.contains("99") && message.contains('1'), "{message}");
    // Half a line, then gone: the next client finds everything as before.
    a.write.write_all(b"{\"type\":\"list_pe").await.expect("it reads");
    drop(a);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut b = Agent::hello(&one).await;
    b.say(r#"{"type":"list_peers","id":1}"#).await;
    assert_eq!(b.answer(1).await["payload"]["peers"], serde_json::json!([]));
    assert!(one.rss_kib() < before + 4096, "garbage is not kept");
}
