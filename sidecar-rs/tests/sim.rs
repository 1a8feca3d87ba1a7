//! Two connections over a simulated wire on a virtual clock: loss, reordering and outages without waiting for them.
//!
//! Fails when `Engine` reads a clock or a socket of its own, when `connection.rs` stops pinging (ICE timeouts), or when
//! `negotiation.rs` loses its give-up after a silent path.

mod sim_wire;

use std::time::Duration;

use chatixia_sidecar::negotiation::{Input, Negotiation, Output, Reason};
use sim_wire::{Sim, Wire};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A connection opens, and messages of every size arrive whole, in order, as text.
#[test]
fn messages_arrive_in_order() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    for n in 0..200 {
        sim.a.send(&format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(n * 1000)));
    }
    sim.run_until(ms(20_000), |s| s.b.received.len() == 200);
    for (n, message) in sim.b.received.iter().enumerate() {
        assert!(message.starts_with(format!("{{\"n\":{n},").as_bytes()), "message {n}");
        assert_eq!(message.len(), format!("{{\"n\":{n},\"pad\":\"\"}}").len() + n * 1000);
    }
    let (path, _) = sim.a.engine.path(sim.now);
    let path = path.expect("a path");
    assert_eq!((path.local, path.remote, path.protocol), ("host", "host", "udp"));
}

/// 25 ms each way, one datagram in a hundred lost, one in ten late: everything arrives, in order.
#[test]
fn loss_and_reordering_are_repaired() {
    let mut sim = Sim::new(Wire { delay: ms(25), loss_per_mille: 10, late_per_mille: 100, ..Wire::default() });
    sim.connect();
    for n in 0..2000 {
        sim.a.send(&format!("{{\"n\":{n}}}"));
    }
    sim.run_until(ms(120_000), |s| s.b.received.len() == 2000);
    let expected: Vec<Vec<u8>> = (0..2000).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
    assert!(sim.b.received == expected, "out of order or damaged");
}

/// A reader that takes nothing holds the sender back, and gets everything in the end.
#[test]
fn a_reader_that_waits_holds_the_sender_back() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    sim.b.reading = false;
    let body = format!("\"{}\"", "y".repeat(60_000));
    for _ in 0..500 {
        sim.a.send(&body);
    }
    sim.run_for(ms(3_000));
    assert!(sim.a.engine.outstanding() > 1 << 20, "the far window never closed");
    assert!(sim.b.received.is_empty());
    sim.b.reading = true;
    sim.run_until(ms(30_000), |s| s.b.received.len() == 500);
}

/// Closing is told to the peer at once, after everything that was sent before.
#[test]
fn a_clean_close_is_seen_at_once_and_loses_nothing() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    for n in 0..500 {
        sim.a.send(&format!("{n}"));
    }
    sim.run_until(ms(5_000), |s| s.a.engine.outstanding() == 0);
    sim.a.engine.close();
    sim.run_until(ms(100), |s| s.b.closed);
    assert_eq!(sim.b.received.len(), 500);
}

/// An outage of 6 s is noticed after 4 s and healed by itself, without a new connection.
#[test]
fn a_short_outage_is_waited_out() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    sim.wire.dead = true;
    sim.a.send("{\"n\":1}");
    sim.run_for(ms(6_000));
    assert!(sim.a.disconnected && sim.b.disconnected, "silence was not noticed");
    sim.wire.dead = false;
    sim.run_until(ms(10_000), |s| s.b.received.len() == 1 && !s.a.disconnected);
}

/// An outage of 60 s in the middle of a flood: the association would never recover (its retransmissions are used up), so
/// `negotiation` gives it up within 10 s and asks for a new connection; it is not silence.
#[test]
fn a_long_outage_asks_for_a_new_connection() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    let mut negotiation = Negotiation::new(true, 0);
    let mut serial = 0;
    let mut random = || {
        serial += 1;
        serial
    };
    let mut outputs = negotiation.handle(sim.now, Input::Joined, &mut random);
    outputs.extend(negotiation.handle(sim.now, Input::Dial { now: true }, &mut random));
    let answer = Input::Answer { connection: None, sdp: String::new(), protocol: 1 };
    outputs.extend(negotiation.handle(sim.now, answer, &mut random));
    outputs.extend(negotiation.handle(sim.now, Input::Opened(1), &mut random));
    assert!(outputs.contains(&Output::Up { generation: 1, replaces: None }));
    for n in 0..1000 {
        sim.a.send(&format!("{{\"n\":{n}}}"));
    }
    sim.wire.dead = true;
    let (start, mut silent, mut given_up, mut asked) = (sim.now, false, None, None);
    while sim.now < start + ms(60_000) {
        sim.run_for(ms(50));
        let mut outputs = Vec::new();
        if sim.a.disconnected != silent {
            silent = sim.a.disconnected;
            outputs = negotiation.handle(sim.now, if silent { Input::Silent(1) } else { Input::Heard(1) }, &mut random);
        }
        outputs.extend(negotiation.tick(sim.now, &mut random));
        for output in outputs {
            match output {
                Output::Down { generation: 1, reason: Reason::Timeout } => given_up = Some(sim.now - start),
                Output::Offer { generation: 2.., .. } => asked = asked.or(Some(sim.now - start)),
                _ => {}
            }
        }
    }
    assert!(given_up.is_some_and(|t| t < ms(10_000)), "given up after {given_up:?}");
    assert!(asked.is_some_and(|t| t < ms(11_000)), "asked for a new one after {asked:?}");
}

/// An ICE restart within one connection keeps the channel and what was sent.
#[test]
fn an_ice_restart_keeps_the_channel() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    sim.wire.dead = true;
    sim.a.send("{\"n\":1}");
    sim.run_for(ms(5_000));
    sim.wire.dead = false;
    sim.restart();
    sim.a.send("{\"n\":2}");
    sim.run_until(ms(10_000), |s| s.b.received.len() == 2);
}

/// Garbage on the socket does nothing to an open connection.
#[test]
fn garbage_datagrams_do_nothing() {
    let mut sim = Sim::new(Wire { delay: ms(1), ..Wire::default() });
    sim.connect();
    for n in 0..10_000u32 {
        let first = [0u8, 1, 20, 22, 23, 63, 64, 128, 255][n as usize % 9];
        let mut junk: Vec<u8> = (0..n % 300).map(|i| (n.wrapping_mul(2_654_435_761) >> (i % 24)) as u8).collect();
        if let Some(byte) = junk.first_mut() {
            *byte = first;
        }
        sim.inject(&junk);
    }
    sim.a.send("{\"n\":1}");
    sim.run_until(ms(5_000), |s| s.b.received.len() == 1);
}
