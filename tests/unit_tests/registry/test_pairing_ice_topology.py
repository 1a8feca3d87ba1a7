"""Pairing steps, ICE servers and TURN credentials, the topology."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from chatixia_langchain.errors import Busy
from chatixia_langchain.registry import pairing as pairing_module
from chatixia_langchain.registry.ice import CREDENTIAL_S, ice_servers_for, parse_ice_servers
from chatixia_langchain.registry.pairing import CODE_S, MAX_CODES, MAX_WRONG, Pairing, PairingError
from chatixia_langchain.registry.settings import RegistrySettings, SettingsError
from chatixia_langchain.registry.store import MemoryStore, SqliteStore
from chatixia_langchain.registry.topology import topology


def test_device_gets_in_by_code_and_consent() -> None:
    pairing = Pairing(MemoryStore())
    code = pairing.new_code(0)
    assert len(code) == 6
    assert code.isdigit()
    device = pairing.pair(code, "phone", 1)
    assert device.status == "pending"
    assert device.peer_id.startswith("agent-")
    approved, token = pairing.approve(device.id)
    assert token.startswith("dt_")
    assert len(token) == 35
    found = pairing.find(token)
    assert found is not None
    assert (found.peer_id, found.role) == (device.peer_id, "agent")
    assert pairing.has_peer(device.peer_id)
    assert set(approved.public()) == {"id", "peer_id", "agent_name", "status", "created_at"}
    pairing.revoke(device.id)
    assert pairing.find(token) is None
    assert not pairing.has_peer(device.peer_id)


def test_code_works_once_and_for_a_while() -> None:
    pairing = Pairing(MemoryStore())
    code = pairing.new_code(0)
    pairing.pair(code, "x", 1)
    for used, now in ((code, 2.0), (pairing.new_code(10), 10 + CODE_S)):
        with pytest.raises(PairingError, match="unknown, used or expired"):
            pairing.pair(used, "x", now)


def test_guessing_is_slowed_down() -> None:
    pairing = Pairing(MemoryStore())
    code = pairing.new_code(0)
    wrong = "000000" if code != "000000" else "000001"
    for _ in range(MAX_WRONG):
        with pytest.raises(PairingError, match="unknown"):
            pairing.pair(wrong, "x", 1)
    with pytest.raises(PairingError) as caught:
        pairing.pair(code, "x", 2)
    assert caught.value.code == "rate_limited"
    assert pairing.pair(code, "x", 62).status == "pending"


def test_steps_in_the_wrong_order_are_refused() -> None:
    pairing = Pairing(MemoryStore())
    device = pairing.pair(pairing.new_code(0), "x", 0)
    with pytest.raises(PairingError, match="pending, not approved"):
        pairing.revoke(device.id)
    pairing.reject(device.id)
    with pytest.raises(PairingError, match="rejected, not pending"):
        pairing.approve(device.id)
    with pytest.raises(PairingError, match="no such device"):
        pairing.approve("unknown")


def test_bounds_of_pairing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairing = Pairing(MemoryStore())
    codes = [pairing.new_code(0) for _ in range(MAX_CODES)]
    with pytest.raises(Busy):
        pairing.new_code(1)
    pairing.new_code(CODE_S)
    monkeypatch.setattr(pairing_module, "MAX_DEVICES", 0)
    with pytest.raises(Busy):
        pairing.pair(pairing.new_code(CODE_S), "x", CODE_S)
    assert len(set(codes)) == MAX_CODES


def test_restart_keeps_devices_and_the_file_holds_no_token(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "r.db")
    pairing = Pairing(store)
    _, token = pairing.approve(pairing.pair(pairing.new_code(0), "x", 0).id)
    assert Pairing(store).find(token) == pairing.find(token)
    assert all(token.encode() not in body for _, body in store.load("device"))
    store.close()


def test_ice_servers_are_read_from_urls_or_json() -> None:
    assert parse_ice_servers("") == []
    assert parse_ice_servers("stun:a:3478, turn:b") == [{"urls": ["stun:a:3478"]}, {"urls": ["turn:b"]}]
    text = '[{"urls":"stun:a"},{"urls":["turn:b"],"username":"u","credential":"c","x":1}]'
    assert parse_ice_servers(text) == [{"urls": ["stun:a"]}, {"urls": ["turn:b"], "username": "u", "credential": "c"}]


@pytest.mark.parametrize("text", ["a:3478", "http://a", "[5]", "[{}]", "[", '[{"urls":["x"]}]', '[{"urls":[]}]'])
def test_bad_ice_servers_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="ICE server"):
        parse_ice_servers(text)


def test_fault_does_not_quote_the_credential() -> None:
    with pytest.raises(ValueError, match="urls") as caught:
        parse_ice_servers('[{"urls": 5, "credential": "hunter2"}]')
    assert "hunter2" not in str(caught.value)


def test_turn_credential_is_the_peers_own_and_ends_soon() -> None:
    """H-23: a day's credential for anybody; ours names the peer and ends within ten minutes."""
    (server,) = ice_servers_for("a", servers=[], turn_urls=["turn:t:3478"], turn_secret="k", now=1000)
    assert server["username"] == f"{1000 + CREDENTIAL_S}:a"
    mac = hmac.new(b"k", server["username"].encode(), hashlib.sha1).digest()
    assert server["credential"] == base64.b64encode(mac).decode()
    assert CREDENTIAL_S <= 600


@pytest.mark.parametrize(
    ("env", "fault"),
    [
        ({"PORT": "http"}, "PORT 'http'"),
        ({"PORT": "70000"}, "70000"),
        ({"TURN_URL": "turn:x"}, "TURN_SECRET"),
        ({"TURN_URL": "x", "TURN_SECRET": "s"}, "TURN_URL 'x'"),
        ({"ICE_SERVERS": "nonsense"}, "nonsense"),
        ({"REGISTRY_SECRET": "short"}, "REGISTRY_SECRET"),
        ({"REGISTRY_SECRET_FILE": "/nonexistent/secret"}, "REGISTRY_SECRET_FILE"),
    ],
)
def test_wrong_setting_is_named(env: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        RegistrySettings.make(env)


def test_settings_precedence_and_secrecy(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("f" * 40 + "\n")
    assert RegistrySettings.make({}).port == 8080
    assert RegistrySettings.make({"PORT": "9"}).port == 9
    assert RegistrySettings.make({"PORT": "9"}, port=0).port == 0
    assert RegistrySettings.make({"SIGNALING_SECRET": "o" * 32}).token_secret.reveal() == "o" * 32
    made = RegistrySettings.make({"REGISTRY_SECRET_FILE": str(file)})
    assert made.token_secret.reveal() == "f" * 40
    assert "ffff" not in repr(made)


def test_topology_shows_what_was_reported() -> None:
    record = {"agent_id": "a", "peer_id": "a", "hostname": "h", "health": "active"}

    def link(peer: str, state: str) -> dict[str, object]:
        return {"peer": peer, "state": state, "path": None, "rtt_ms": None}

    shown = topology(
        [record], ["a", "b"], {"a": [link("b", "connecting"), link("c", "open")], "b": [link("a", "open")]}
    )
    assert shown["nodes"] == [
        {"id": "a", "online": True, "agent_id": "a", "hostname": "h", "health": "active"},
        {"id": "b", "online": True, "agent_id": ""},
    ]
    assert [(e["source"], e["target"], e["state"]) for e in shown["edges"]] == [("b", "a", "open"), ("a", "c", "open")]
    assert topology([], ["a", "b"], {}) == {
        "nodes": [{"id": p, "online": True, "agent_id": ""} for p in "ab"],
        "edges": [],
    }
