//! What we take from a peer's session description and candidates before the engine sees them. Pure text work.
//!
//! Both are hostile input: the registry relays them and vouches for nothing. A description is refused as a whole when it asks
//! for media, names other hashes than SHA-256 or several certificates; candidates that could make us talk to ourselves or to
//! a neighbour's metadata service are left out.

use std::net::{IpAddr, SocketAddr};

use crate::wire::limits::{
    MAX_CANDIDATE_BYTES, MAX_CANDIDATES, MAX_MESSAGE_BYTES, MAX_SDP_BYTES, OLD_PEER_MAX_MESSAGE_BYTES,
};

/// Why a description or candidate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// Nothing there.
    #[error("the session description is empty")]
    Empty,
    /// Over the limit, with its size in bytes.
    #[error("the session description has {0} bytes, limit {MAX_SDP_BYTES}")]
    TooLong(usize),
    /// Audio, video, or anything else than one data section.
    #[error("the session description must have exactly one section, for data: found {0:?}")]
    Media(String),
    /// No certificate is named, so nobody could be recognised.
    #[error("the session description names no SHA-256 certificate fingerprint")]
    NoFingerprint,
    /// A hash we do not trust, or several certificates.
    #[error("the session description must name one SHA-256 fingerprint, found {0:?}")]
    Fingerprint(String),
    /// More candidates than we keep.
    #[error("more than {MAX_CANDIDATES} candidates")]
    TooManyCandidates,
    /// Over the limit, with its size in bytes.
    #[error("a candidate of {0} bytes, limit {MAX_CANDIDATE_BYTES}")]
    CandidateTooLong(usize),
}

/// A description that passed the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The text without the candidates we do not use.
    pub sdp: String,
    /// `sha-256 AB:CD:..` of the peer's certificate.
    pub fingerprint: String,
    /// Bytes of one message, both sides considered.
    pub max_message_bytes: usize,
    /// Candidates in the text.
    pub candidates: usize,
    /// ICE user name; another one for the same connection is an ICE restart.
    pub ufrag: String,
}

/// Checks a description. `loopback` allows candidates on this machine.
pub fn check(sdp: &str, loopback: bool) -> Result<Remote, SdpError> {
    if sdp.trim().is_empty() {
        return Err(SdpError::Empty);
    }
    if sdp.len() > MAX_SDP_BYTES {
        return Err(SdpError::TooLong(sdp.len()));
    }
    let mut remote = Remote {
        sdp: String::with_capacity(sdp.len()),
        fingerprint: String::new(),
        max_message_bytes: OLD_PEER_MAX_MESSAGE_BYTES,
        candidates: 0,
        ufrag: String::new(),
    };
    let mut sections = 0;
    for line in sdp.lines() {
        if let Some(section) = line.strip_prefix("m=") {
            sections += 1;
            if sections > 1 || !section.starts_with("application ") {
                return Err(SdpError::Media(section.chars().take(40).collect()));
            }
        } else if let Some(value) = line.strip_prefix("a=fingerprint:") {
            // Stock aiortc names its certificate by longer hashes too. One hash decides here, so only that one goes on.
            let Some(found) = fingerprint(value)? else { continue };
            if !remote.fingerprint.is_empty() && remote.fingerprint != found {
                return Err(SdpError::Fingerprint("several".into()));
            }
            remote.fingerprint = found;
        } else if let Some(value) = line.strip_prefix("a=max-message-size:") {
            remote.max_message_bytes = match value.trim().parse() {
                Ok(0) => MAX_MESSAGE_BYTES, // by RFC 8841: the peer takes any size
                Ok(size) => usize::min(size, MAX_MESSAGE_BYTES),
                Err(_) => OLD_PEER_MAX_MESSAGE_BYTES,
            };
        } else if let Some(value) = line.strip_prefix("a=ice-ufrag:") {
            remote.ufrag = value.trim().to_owned();
        } else if let Some(value) = line.strip_prefix("a=").filter(|v| v.starts_with("candidate:")) {
            remote.candidates += 1;
            if remote.candidates > MAX_CANDIDATES {
                return Err(SdpError::TooManyCandidates);
            }
            if candidate(value, loopback)?.is_none() {
                continue;
            }
        }
        remote.sdp.push_str(line);
        remote.sdp.push_str("\r\n");
    }
    match (sections, remote.fingerprint.is_empty()) {
        (0, _) => Err(SdpError::Media("none".into())),
        (_, true) => Err(SdpError::NoFingerprint),
        _ => Ok(remote),
    }
}

/// Checks a candidate line; `None` for one we do not use: TCP, a `.local` name (that peer turns up as peer-reflexive), or an
/// address that is not ours to talk to.
pub fn candidate(text: &str, loopback: bool) -> Result<Option<SocketAddr>, SdpError> {
    if text.len() > MAX_CANDIDATE_BYTES {
        return Err(SdpError::CandidateTooLong(text.len()));
    }
    let mut words = text.split_ascii_whitespace();
    let transport = words.nth(2).unwrap_or_default();
    let (ip, port) = (words.nth(1).unwrap_or_default(), words.next().unwrap_or_default());
    let (Ok(ip), Ok(port)) = (ip.parse::<IpAddr>(), port.parse::<u16>()) else { return Ok(None) };
    let usable = transport.eq_ignore_ascii_case("udp") && port != 0 && is_usable(ip, loopback);
    Ok(usable.then(|| SocketAddr::new(ip, port)))
}

/// Says whether we would send to this address. Link-local ones hold the metadata services of clouds.
pub fn is_usable(ip: IpAddr, loopback: bool) -> bool {
    let ip = ip.to_canonical(); // `::ffff:127.0.0.1` is loopback too
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    };
    !link_local && !ip.is_unspecified() && !ip.is_multicast() && (loopback || !ip.is_loopback())
}

/// Reads `sha-256 AB:CD:..`; `None` for another hash.
fn fingerprint(value: &str) -> Result<Option<String>, SdpError> {
    let refused = || SdpError::Fingerprint(value.chars().take(20).collect());
    let (hash, hex) = value.trim().split_once(' ').ok_or_else(refused)?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return Ok(None);
    }
    let pairs: Vec<&str> = hex.trim().split(':').collect();
    let valid = pairs.len() == 32 && pairs.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    valid.then(|| Some(format!("sha-256 {}", hex.trim().to_ascii_uppercase()))).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sdp(extra: &str) -> String {
        let print = vec!["ab"; 32].join(":");
        format!(
            "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=fingerprint:sha-256 {print}\r\na=ice-ufrag:u\r\n{extra}"
        )
    }

    #[test]
    fn a_data_description_passes_and_its_numbers_are_read() {
        let r = check(&sdp("a=max-message-size:100000\r\n"), false).unwrap();
        assert_eq!((r.max_message_bytes, r.ufrag.as_str()), (100_000, "u"));
        assert!(r.fingerprint.starts_with("sha-256 AB:AB:"));
        assert_eq!(check(&sdp(""), false).unwrap().max_message_bytes, 65_535);
        assert_eq!(check(&sdp("a=max-message-size:0\r\n"), false).unwrap().max_message_bytes, 262_144);
        assert_eq!(check(&sdp("a=max-message-size:9999999\r\n"), false).unwrap().max_message_bytes, 262_144);
    }

    #[test]
    fn hostile_descriptions_are_refused_by_name() {
        let long = format!("a=x:{}\r\n", "y".repeat(17_000));
        let many = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n".repeat(33);
        let other = format!("a=fingerprint:sha-256 {}\r\n", vec!["cd"; 32].join(":"));
        assert!(matches!(check(&sdp(&long), false), Err(SdpError::TooLong(_))));
        assert_eq!(check(&sdp(&many), false), Err(SdpError::TooManyCandidates));
        assert!(matches!(check(&sdp(&other), false), Err(SdpError::Fingerprint(_))));
        assert!(matches!(check(&sdp("m=audio 9 RTP 0\r\n"), false), Err(SdpError::Media(_))));
        assert!(matches!(check(&sdp("a=fingerprint:sha-256 AB\r\n"), false), Err(SdpError::Fingerprint(_))));
        let weak = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=fingerprint:sha-1 AB\r\n";
        assert_eq!(check(weak, false), Err(SdpError::NoFingerprint));
        assert_eq!(check("v=0\r\nm=application 9 x y\r\n", false), Err(SdpError::NoFingerprint));
        assert_eq!(check("  ", false), Err(SdpError::Empty));
        assert!(matches!(check("v=0", false), Err(SdpError::Media(_))));
    }

    #[test]
    fn other_hashes_beside_sha_256_do_not_go_on() {
        let r = check(&sdp("a=fingerprint:sha-384 CD:EF\r\na=fingerprint:sha-1 AB\r\n"), false).unwrap();
        assert!(r.fingerprint.starts_with("sha-256 AB:AB:") && !r.sdp.contains("sha-384") && !r.sdp.contains("sha-1 "));
    }

    #[test]
    fn candidates_that_are_not_ours_to_talk_to_are_left_out() {
        let line = |ip: &str| format!("candidate:1 1 udp 2130706431 {ip} 5000 typ host");
        for ip in
            ["127.0.0.1", "::1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "fe80::1", "a.local", "::ffff:127.0.0.1"]
        {
            assert_eq!(candidate(&line(ip), false), Ok(None), "{ip}");
        }
        assert!(candidate(&line("127.0.0.1"), true).unwrap().is_some());
        assert!(candidate(&line("192.168.1.4"), false).unwrap().is_some());
        assert_eq!(candidate("candidate:1 1 tcp 1 192.0.2.1 9 typ host", false), Ok(None));
        assert!(candidate(&"x".repeat(600), false).is_err());
        let with = check(
            &sdp("a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\na=candidate:2 1 udp 1 192.0.2.1 9 typ host\r\n"),
            false,
        );
        let text = with.unwrap().sdp;
        assert!(!text.contains("127.0.0.1") && text.contains("192.0.2.1"));
    }
}
