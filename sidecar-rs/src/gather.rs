//! Where a peer may reach us: addresses of our interfaces, and how a STUN server sees them.
//!
//! * [`local_addresses`]: what to bind; never the wildcard, never link-local, loopback only where it is allowed
//! * [`Stun`]: one Binding question from one socket, asked up to four times. Pure: packets and time are passed
//! * [`stun_servers`]: the addresses behind the configured `stun:` URLs (and `turn:` ones, which answer Binding too)

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::{IceConfig, IceServer, IceTransportPolicy};
use crate::sdp::is_usable;

/// Addresses bound for one connection, at most: each costs a socket and checks against every candidate of the peer.
const MAX_ADDRESSES: usize = 8;
/// STUN servers asked, at most; the second helps when the first is down.
const MAX_STUN_SERVERS: usize = 2;
/// Waits after each try; nobody is waiting for the answer, candidates trickle.
const STUN_WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_SUCCESS: [u8; 2] = [1, 1];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// Lists the addresses to bind, IPv4 first. Empty when the policy wants relays only.
pub(crate) fn local_addresses(config: &IceConfig) -> Vec<IpAddr> {
    if config.policy == IceTransportPolicy::Relay {
        return Vec::new();
    }
    if !config.bind.is_empty() {
        return config.bind.iter().copied().filter(|ip| !ip.is_unspecified()).take(MAX_ADDRESSES).collect();
    }
    let found = match if_addrs::get_if_addrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "cannot list the network interfaces");
            Vec::new()
        }
    };
    let mut ips: Vec<IpAddr> =
        found.iter().map(|i| i.ip()).filter(|ip| is_usable(*ip, config.allow_loopback)).collect();
    ips.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6(), *ip));
    ips.dedup();
    // 127.0.0.1 reaches whatever ::1 does.
    if ips.iter().any(|ip| ip.is_loopback() && ip.is_ipv4()) {
        ips.retain(|ip| !ip.is_loopback() || ip.is_ipv4());
    }
    if config.allow_loopback && ips.len() > MAX_ADDRESSES {
        let last = ips.len() - 1;
        ips.swap(MAX_ADDRESSES - 1, last); // loopback sorts last but was asked for
    }
    ips.truncate(MAX_ADDRESSES);
    ips
}

/// Resolves the STUN servers of a list. A name that does not resolve is left out, with a line in the log.
pub(crate) async fn stun_servers(servers: &[IceServer]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for url in servers.iter().flat_map(|s| &s.urls) {
        if found.len() >= MAX_STUN_SERVERS {
            break;
        }
        let Some(host) = stun_host(url) else { continue };
        match tokio::net::lookup_host(host.as_str()).await {
            Ok(addresses) => found.extend(addresses.take(1)),
            Err(error) => tracing::warn!(%host, %error, "STUN server not found"),
        }
    }
    found
}

/// Gives `host:port` of a server that answers Binding over UDP.
fn stun_host(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once(':')?;
    let (host, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !matches!(scheme, "stun" | "turn") || query.contains("transport=tcp") || host.contains('@') {
        return None;
    }
    let has_port = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').is_some_and(|(_, port)| port.starts_with(':')),
        None => host.contains(':'),
    };
    Some(if has_port { host.to_owned() } else { format!("{host}:3478") })
}

/// One question: how does this server see this socket?
#[derive(Clone, Debug)]
pub(crate) struct Stun {
    /// The socket that asks.
    pub(crate) local: SocketAddr,
    server: SocketAddr,
    transaction: [u8; 12],
    tries: usize,
    next: Option<Instant>,
}

impl Stun {
    /// Makes the question; `None` where it makes no sense: another address family, or a base that is not routed.
    pub(crate) fn new(now: Instant, local: SocketAddr, server: SocketAddr, transaction: [u8; 12]) -> Option<Self> {
        let sensible = local.is_ipv4() == server.is_ipv4() && (!local.ip().is_loopback() || server.ip().is_loopback());
        sensible.then_some(Self { local, server, transaction, tries: 0, next: Some(now) })
    }

    /// Gives the time of the next try; `None` when it is answered or given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Gives the packet of the next try, when it is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<(SocketAddr, [u8; 20])> {
        if self.next.is_none_or(|at| at > now) {
            return None;
        }
        let Some(wait) = STUN_WAITS.get(self.tries) else {
            self.next = None;
            return None;
        };
        self.tries += 1;
        self.next = Some(now + *wait);
        let mut packet = [0; 20];
        packet[1] = 1;
        packet[4..8].copy_from_slice(&COOKIE);
        packet[8..].copy_from_slice(&self.transaction);
        Some((self.server, packet))
    }

    /// Reads a datagram that came to `local`. `Some` when it is our answer, with the address if it holds one.
    pub(crate) fn receive(&mut self, from: SocketAddr, packet: &[u8]) -> Option<Option<SocketAddr>> {
        let ours = from == self.server
            && self.next.is_some()
            && packet.get(4..8) == Some(&COOKIE)
            && packet.get(8..20) == Some(&self.transaction);
        if !ours {
            return None;
        }
        self.next = None;
        Some(packet.starts_with(&BINDING_SUCCESS).then(|| mapped_address(packet)).flatten())
    }
}

fn mapped_address(packet: &[u8]) -> Option<SocketAddr> {
    let mut at = 20;
    loop {
        let head = packet.get(at..at + 4)?;
        let (kind, len) = (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
        let value = packet.get(at + 4..at + 4 + len)?;
        if kind == XOR_MAPPED_ADDRESS {
            return unmask(value, packet.get(4..20)?);
        }
        at += 4 + len.next_multiple_of(4);
    }
}

fn unmask(value: &[u8], key: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([value.get(2)? ^ key[0], value.get(3)? ^ key[1]]);
    let bytes: Vec<u8> = value.get(4..)?.iter().zip(key).map(|(v, k)| v ^ k).collect();
    let ip = match value.get(1)? {
        1 => IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> (Stun, Instant, SocketAddr) {
        let (now, server) = (Instant::now(), "198.51.100.1:3478".parse().unwrap());
        (Stun::new(now, "192.0.2.1:5000".parse().unwrap(), server, [7; 12]).unwrap(), now, server)
    }

    fn answer() -> Vec<u8> {
        let mut p = vec![1, 1, 0, 12];
        p.extend(COOKIE);
        p.extend([7; 12]);
        p.extend([0, 0x20, 0, 8, 0, 1]);
        p.extend((40_000u16 ^ 0x2112).to_be_bytes());
        p.extend([203u8 ^ 0x21, 0x12, 113 ^ 0xa4, 9 ^ 0x42]);
        p
    }

    #[test]
    fn the_answer_is_read_once_and_only_from_the_server() {
        let (mut stun, now, server) = asked();
        assert!(stun.poll(now).is_some());
        assert_eq!(stun.receive("198.51.100.9:3478".parse().unwrap(), &answer()), None);
        assert_eq!(stun.receive(server, &answer()), Some(Some("203.0.113.9:40000".parse().unwrap())));
        assert_eq!(stun.receive(server, &answer()), None);
        assert_eq!(stun.deadline(), None);
    }

    #[test]
    fn a_silent_server_is_asked_four_times() {
        let (mut stun, _, _) = asked();
        let mut tries = 0;
        while let Some(at) = stun.deadline() {
            tries += usize::from(stun.poll(at).is_some());
        }
        assert_eq!(tries, 4);
    }

    #[test]
    fn no_answer_panics() {
        let whole = answer();
        for cut in 0..whole.len() {
            for flip in 0..whole.len() {
                let mut packet = whole[..cut].to_vec();
                if let Some(byte) = packet.get_mut(flip) {
                    *byte ^= 0xff;
                }
                let (mut stun, _, server) = asked();
                let _ = (stun.receive(server, &packet), packet.len() > 20 && mapped_address(&packet).is_some());
            }
        }
    }

    #[test]
    fn hosts_of_servers() {
        assert_eq!(stun_host("stun:a.example").as_deref(), Some("a.example:3478"));
        assert_eq!(stun_host("turn:a.example:99?transport=udp").as_deref(), Some("a.example:99"));
        assert_eq!(stun_host("stun:[2001:db8::1]").as_deref(), Some("[2001:db8::1]:3478"));
        assert_eq!(stun_host("turn:a?transport=tcp"), None);
        assert_eq!(stun_host("turns:a"), None);
    }
}
