//! Tables of single steps, and two machines that talk through slow wires.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const C1: u64 = 0x11;

fn random() -> impl FnMut() -> u64 {
    let mut n = 0x10;
    move || {
        n += 1;
        n
    }
}

fn offer(connection: u64) -> Input {
    Input::Offer { connection: Some(ConnectionId::new(connection)), sdp: "o".into(), protocol: 1, restart: false }
}

fn answer(connection: u64) -> Input {
    Input::Answer { connection: Some(ConnectionId::new(connection)), sdp: "a".into(), protocol: 1 }
}

struct One {
    n: Negotiation,
    now: Instant,
    random: Box<dyn FnMut() -> u64>,
}

impl One {
    fn new(lower: bool) -> Self {
        Self { n: Negotiation::new(lower, 0), now: Instant::now(), random: Box::new(random()) }
    }

    fn on(&mut self, input: Input) -> Vec<Output> {
        self.n.handle(self.now, input, &mut *self.random)
    }

    fn after(&mut self, ms: u64) -> Vec<Output> {
        self.now += Duration::from_millis(ms);
        self.n.tick(self.now, &mut *self.random)
    }

    fn open_as_offerer(lower: bool) -> Self {
        let mut one = Self::new(lower);
        one.on(Input::Joined);
        one.on(Input::Dial { now: true });
        one.on(answer(C1));
        assert_eq!(one.on(Input::Opened(1)), [Output::Up { generation: 1, replaces: None }]);
        one
    }
}

#[test]
fn the_lower_id_keeps_its_offer_and_the_higher_answers() {
    let mut low = One::new(true);
    low.on(Input::Dial { now: true });
    assert_eq!(low.on(offer(0xff)), []);
    let mut high = One::new(false);
    high.on(Input::Dial { now: true });
    let out = high.on(offer(0xff));
    assert!(
        matches!(out[..], [Output::Abandon { generation: 1, .. }, Output::Accept { generation: 2, .. }]),
        "{out:?}"
    );
}

#[test]
fn an_answered_offer_gives_way_to_a_newer_one_of_the_peer() {
    let mut low = One::new(true);
    low.on(Input::Dial { now: true });
    low.on(answer(C1));
    assert!(matches!(low.on(offer(0xff))[..], [Output::Abandon { .. }, Output::Accept { generation: 2, .. }]));
}

#[test]
fn candidates_of_an_offer_that_is_still_on_its_way_are_kept() {
    let mut one = One::new(true);
    let candidate =
        |c: u64| Input::Candidate { connection: Some(ConnectionId::new(c)), candidate: format!("candidate of {c}") };
    for c in [7, 8, 7] {
        assert_eq!(one.on(candidate(c)), []);
    }
    let out = one.on(offer(7));
    assert_eq!(out.iter().filter(|o| matches!(o, Output::TakeCandidate { generation: 1, .. })).count(), 2);
    assert_eq!(one.n.early.len(), 1);
    for _ in 0..100 {
        one.on(candidate(9));
    }
    assert_eq!(one.n.early.len(), MAX_CANDIDATES);
}

#[test]
fn answers_and_candidates_of_another_connection_are_ignored_and_nameless_ones_mean_the_current() {
    let mut one = One::new(true);
    one.on(Input::Dial { now: true });
    assert_eq!(one.on(answer(0xbad)), []);
    let nameless = Input::Answer { connection: None, sdp: "a".into(), protocol: 0 };
    assert!(matches!(one.on(nameless)[..], [Output::TakeAnswer { generation: 1, protocol: 0, .. }]));
    assert_eq!(one.on(answer(C1)), [], "a second answer");
    let candidate = Input::Candidate { connection: None, candidate: "c".into() };
    assert!(matches!(one.on(candidate)[..], [Output::TakeCandidate { generation: 1, .. }]));
}

#[test]
fn a_new_offer_replaces_the_open_connection_only_once_it_opens() {
    let mut one = One::open_as_offerer(true);
    assert!(matches!(one.on(offer(0xff))[..], [Output::Accept { generation: 2, .. }]));
    assert_eq!(one.n.current(), Some(1));
    assert_eq!(one.on(offer(0xff)), [], "said twice");
    assert_eq!(one.on(Input::Opened(2)), [Output::Up { generation: 2, replaces: Some(1) }]);
    assert_eq!(one.on(Input::Ended(1, Reason::Closed)), [], "news of an old generation");
    assert_eq!(one.n.current(), Some(2));
}

#[test]
fn silence_is_waited_out_then_restarted_then_given_up_and_dialled_anew() {
    let mut one = One::open_as_offerer(true);
    one.on(Input::Silent(1));
    assert_eq!(one.after(1_000), []);
    assert!(matches!(one.after(600)[..], [Output::Restart { generation: 1, .. }]));
    assert_eq!(one.after(1_000), [], "only once");
    assert_eq!(one.after(2_400), [Output::Down { generation: 1, reason: Reason::Timeout }]);
    let wait = one.n.deadline().expect("a retry") - one.now;
    assert!(wait <= Duration::from_millis(400), "{wait:?}");
    assert!(matches!(one.after(500)[..], [Output::Offer { generation: 2, .. }]));
}

#[test]
fn a_path_that_answers_again_is_left_alone() {
    let mut one = One::open_as_offerer(true);
    one.on(Input::Silent(1));
    one.after(1_600);
    one.on(Input::Heard(1));
    assert_eq!(one.n.deadline(), None);
    assert_eq!(one.after(60_000), []);
}

#[test]
fn a_stuck_connection_is_replaced_not_hoped_for() {
    let mut one = One::open_as_offerer(false);
    assert_eq!(one.on(Input::Ended(1, Reason::Stuck)), [Output::Down { generation: 1, reason: Reason::Stuck }]);
    assert!(matches!(one.after(1_000)[..], [Output::Offer { generation: 2, .. }]));
}

#[test]
fn the_answerer_lets_the_offerer_dial_first() {
    let mut one = One::new(true);
    one.on(offer(5));
    one.on(Input::Opened(1));
    one.on(Input::Ended(1, Reason::Timeout));
    assert_eq!(one.after(2_900), []);
    assert!(matches!(one.after(600)[..], [Output::Offer { .. }]));
}

#[test]
fn who_closed_or_was_left_or_is_offline_is_not_dialled_again() {
    let mut one = One::open_as_offerer(true);
    assert_eq!(one.on(Input::Ended(1, Reason::Closed)), [Output::Down { generation: 1, reason: Reason::Closed }]);
    assert_eq!(one.n.deadline(), None);
    let mut one = One::open_as_offerer(true);
    assert_eq!(one.on(Input::Leave(Reason::Local)), [Output::Down { generation: 1, reason: Reason::Local }]);
    assert_eq!(one.n.deadline(), None);
    let mut one = One::open_as_offerer(true);
    assert_eq!(one.on(Input::Left), [], "an open channel outlives the registry's word");
    one.on(Input::Silent(1));
    assert_eq!(
        one.after(1),
        [Output::Down { generation: 1, reason: Reason::Timeout }],
        "gone for the registry and for us"
    );
    assert_eq!(one.n.deadline(), None);
}

#[test]
fn a_handshake_that_takes_too_long_is_given_up_and_a_dead_peer_left_alone_in_the_end() {
    let mut one = One::new(true);
    one.on(Input::Joined);
    one.on(Input::Dial { now: true });
    let mut dials = 1;
    for _ in 0..2_000 {
        for output in one.after(1_000) {
            dials += u32::from(matches!(output, Output::Offer { .. }));
        }
    }
    assert_eq!(dials, MAX_FAILURES);
    assert!(matches!(one.on(Input::Dial { now: false })[..], [Output::Offer { .. }]), "news of it starts over");
}

#[test]
fn a_restart_offer_is_taken_by_the_answerer_of_that_connection_only() {
    let restart =
        |c: u64| Input::Offer { connection: Some(ConnectionId::new(c)), sdp: "r".into(), protocol: 1, restart: true };
    let mut one = One::new(true);
    one.on(offer(5));
    one.on(Input::Opened(1));
    assert!(matches!(one.on(restart(5))[..], [Output::AcceptRestart { generation: 1, .. }]));
    assert_eq!(one.on(restart(6)), []);
    assert_eq!(One::open_as_offerer(true).on(restart(C1)), []);
}

/// Two machines, two wires with random delays: whatever the timing, both end on the same connection.
fn settle(delays: &[u8], both_dial: bool) -> (Option<ConnectionId>, Option<ConnectionId>) {
    let start = Instant::now();
    let mut ends = [Negotiation::new(true, 0), Negotiation::new(false, 0)];
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed
    };
    let mut delays = delays.iter().cycle();
    // (arrival, to, news), each wire first in first out as the registry is.
    let mut wires: [VecDeque<(u64, Input)>; 2] = [VecDeque::new(), VecDeque::new()];
    let mut started: [Vec<(ConnectionId, Generation)>; 2] = [vec![], vec![]];
    for at in 0..4_000u64 {
        let now = start + Duration::from_millis(at);
        for me in 0..2 {
            let mut inputs = vec![];
            if at == 0 && (both_dial || me == 0) {
                inputs.push(Input::Joined);
                inputs.push(Input::Dial { now: true });
            }
            while wires[me].front().is_some_and(|(due, _)| *due <= at) {
                inputs.extend(wires[me].pop_front().map(|(_, input)| input));
            }
            let mut outputs = ends[me].tick(now, &mut random);
            for input in inputs {
                outputs.extend(ends[me].handle(now, input, &mut random));
            }
            let mut k = 0;
            while k < outputs.len() {
                let due = at + 1 + u64::from(*delays.next().unwrap_or(&0));
                let due = due.max(wires[1 - me].back().map_or(0, |(d, _)| *d));
                match outputs[k].clone() {
                    Output::Offer { generation, connection } => {
                        started[me].push((connection, generation));
                        let sdp = String::new();
                        let offer = Input::Offer { connection: Some(connection), sdp, protocol: 1, restart: false };
                        wires[1 - me].push_back((due, offer));
                    }
                    Output::Accept { generation, connection, .. } => {
                        started[me].extend(connection.map(|c| (c, generation)));
                        wires[1 - me].push_back((due, Input::Answer { connection, sdp: String::new(), protocol: 1 }));
                    }
                    // The channel opens for both once the answer is there and the answerer still has the connection.
                    Output::TakeAnswer { generation, .. } => {
                        let name = started[me].iter().find(|(_, g)| *g == generation).map(|(c, _)| *c);
                        let theirs =
                            ends[1 - me].pending.as_ref().filter(|s| s.connection == name).map(|s| s.generation);
                        if let Some(theirs) = theirs {
                            outputs.extend(ends[me].handle(now, Input::Opened(generation), &mut random));
                            ends[1 - me].handle(now, Input::Opened(theirs), &mut random);
                        }
                    }
                    _ => {}
                }
                k += 1;
            }
        }
    }
    let [a, b] = ends;
    (a.open.and_then(|s| s.connection), b.open.and_then(|s| s.connection))
}

proptest! {
    #[test]
    fn both_sides_end_on_the_same_connection(delays in proptest::collection::vec(0u8..200, 1..12), both: bool) {
        let (a, b) = settle(&delays, both);
        prop_assert!(a.is_some() && a == b, "{a:?} {b:?}");
    }

    #[test]
    fn no_order_of_news_panics_or_makes_two_connections_open(steps in proptest::collection::vec((0u8..12, 0u64..4), 0..60)) {
        let mut one = One::new(true);
        let mut up: Option<Generation> = None;
        for (kind, n) in steps {
            let connection = Some(ConnectionId::new(n));
            let outputs = match kind {
                0 => one.on(Input::Dial { now: n > 1 }),
                1 => one.on(offer(n)),
                2 => one.on(answer(n)),
                3 => one.on(Input::Opened(n)),
                4 => one.on(Input::Silent(n)),
                5 => one.on(Input::Heard(n)),
                6 => one.on(Input::Ended(n, Reason::Failed)),
                7 => one.on(Input::Leave(Reason::Local)),
                8 => one.on(Input::Joined),
                9 => one.on(Input::Left),
                10 => one.on(Input::Candidate { connection, candidate: String::new() }),
                _ => one.after(n * 4_000),
            };
            for output in outputs {
                match output {
                    Output::Up { generation, replaces } => {
                        prop_assert_eq!(up, replaces);
                        up = Some(generation);
                    }
                    Output::Down { generation, .. } => {
                        prop_assert_eq!(up, Some(generation));
                        up = None;
                    }
                    Output::Abandon { generation, .. } => prop_assert!(up != Some(generation)),
                    _ => {}
                }
            }
        }
    }
}
