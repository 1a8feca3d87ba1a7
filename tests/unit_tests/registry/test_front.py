"""Names and web pages: which requests may come in at all."""

from __future__ import annotations

import pytest

from chatixia_langchain.registry.front import fault, is_loopback

HOSTS, PAGES = frozenset({"mesh.example"}), frozenset({"https://dashboard.example"})


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "192.0.2.7:80", "localhost", "LOCALHOST:8080", "mesh.example:443"],
)
def test_addresses_and_names_of_ours_come_in(host: str) -> None:
    assert fault({b"host": host.encode()}, hosts=HOSTS, origins=()) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("", ":8080", "evil.example", "mesh.example.evil.example", "localhost.evil.example", "127.0.0.1.nip.example"),
        *("localhost:x", "localhost:99999", "me@localhost", "localhost/x", "[::1", "mesh.example:443:1", "ü.example"),
    ],
)
def test_a_name_that_is_not_ours_stays_out(host: str) -> None:
    """DNS rebinding: the browser believes that it speaks to the attacker's own server."""
    why = fault({b"host": host.encode("latin-1")}, hosts=HOSTS, origins=())
    assert "--allow-host" in why


def test_no_host_at_all_stays_out() -> None:
    assert "--allow-host" in fault({}, hosts=HOSTS, origins=())


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://localhost:8080", "https://mesh.example"]
)
def test_a_web_page_stays_out_unless_it_was_allowed(origin: str) -> None:
    headers = {b"host": b"localhost", b"origin": origin.encode()}
    assert "--allow-origin" in fault(headers, hosts=HOSTS, origins=PAGES)
    allowed = {b"host": b"localhost", b"origin": b"https://Dashboard.example"}
    assert fault(allowed, hosts=HOSTS, origins=PAGES) == ""


def test_loopback_is_what_no_other_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "mesh.example", "")))
