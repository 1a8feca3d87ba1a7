"""One STUN binding request (RFC 8489), enough to say whether a server answers and which address it sees."""

from __future__ import annotations

import secrets
import socket
import struct

MAGIC = 0x2112A442
BINDING_REQUEST, BINDING_SUCCESS, XOR_MAPPED_ADDRESS = 0x0001, 0x0101, 0x0020
FIRST_WAIT_S = 0.5  # doubled at each try: a lost datagram is ordinary


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a `stun:host[:port]` URL; the port defaults to 3478."""
    rest = url.removeprefix("stun:").split("?")[0]
    host, _, port = rest.rpartition(":") if rest.rpartition(":")[2].isdecimal() else (rest, "", "3478")
    return host.strip("[]"), int(port)


def request(transaction: bytes) -> bytes:
    """A binding request without attributes; `transaction` is 12 random bytes."""
    return struct.pack("!HHI", BINDING_REQUEST, 0, MAGIC) + transaction


def mapped_address(answer: bytes, transaction: bytes) -> tuple[str, int] | None:
    """The address in the answer, None when it is not the answer to `transaction` or holds no IPv4 address."""
    if len(answer) < 20 or answer[8:20] != transaction:
        return None
    kind, length, magic = struct.unpack("!HHI", answer[:8])
    if kind != BINDING_SUCCESS or magic != MAGIC:
        return None
    body = answer[20 : 20 + length]
    while len(body) >= 4:
        name, size = struct.unpack("!HH", body[:4])
        value = body[4 : 4 + size]
        if name == XOR_MAPPED_ADDRESS and len(value) >= 8 and value[1] == 1:
            port, ip = struct.unpack("!HI", value[2:8])
            return socket.inet_ntoa(struct.pack("!I", ip ^ MAGIC)), port ^ (MAGIC >> 16)
        body = body[4 + (size + 3) // 4 * 4 :]
    return None


def ask(host: str, port: int, *, tries: int = 3) -> tuple[str, int]:
    """Our address as the server sees it.

    Raises OSError when the name does not resolve or no answer comes within about 3.5 s.
    """
    transaction = secrets.token_bytes(12)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))  # connected: only datagrams of this server are read
        for attempt in range(tries):
            sock.send(request(transaction))
            sock.settimeout(FIRST_WAIT_S * 2**attempt)
            try:
                found = mapped_address(sock.recv(2048), transaction)
            except TimeoutError:
                continue
            if found:
                return found
    raise TimeoutError(f"no answer from {host}:{port} over UDP")
