//! Garbage on the sockets of an open connection, 10,000 datagrams: STUN-like, DTLS-like, large, empty. Nothing happens.
//!
//! Fails when a parser of the core panics on them and `Link::guarded` does not hold, or when `Port::receive` ends on an error.

use std::net::UdpSocket;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn nothing_happens() {
    let registry = Registry::start().await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    let ports = one.udp_ports();
    assert!(!ports.is_empty(), "no UDP port found");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut random = 1u64;
    for n in 0..10_000usize {
        let mut junk: Vec<u8> = (0..n % 1400)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 56) as u8
            })
            .collect();
        match (n % 5, junk.get_mut(..20)) {
            (0, Some(head)) => head[..8].copy_from_slice(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42]),
            (1, Some(head)) => head[..8].copy_from_slice(&[1, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42]),
            (2, Some(head)) => head[..5].copy_from_slice(&[22, 0xfe, 0xfd, 0, 0]),
            (3, Some(head)) => head[..5].copy_from_slice(&[23, 0xfe, 0xfd, 0, 1]),
            _ => {}
        }
        let _ = socket.send_to(&junk, ("127.0.0.1", ports[n % ports.len()]));
        if n % 500 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await; // so that the kernel does not drop them for us
        }
    }
    let _ = socket.send_to(&[23; 9000], ("127.0.0.1", ports[0]));
    for n in 0..100u64 {
        a.send("two", &format!("{{\"n\":{n}}}")).await;
        assert_eq!(b.next("message").await["message"]["n"], n);
        b.send("one", "{}").await;
        a.next("message").await;
    }
}
