"""Key files, tokens, and who may act as whom."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jwt
import pytest

from chatixia_langchain.registry.auth import TOKEN_TTL_S, Keyring, Tokens, Unauthorized, may_act_as
from chatixia_langchain.registry.key_file import KeyFile, init_keys
from chatixia_langchain.registry.keys import Identity, KeyFileError, digest, key_id, load_keys, too_open

SECRET = "s" * 32
NOW = 1_800_000_000.0
KEY = "key-of-a-123"
A = Identity("a", key_id=key_id(digest(KEY)))


def by_digest(keys: dict[str, Identity]) -> dict[str, Identity]:
    """What a file with these keys loads as."""
    return {digest(key): who for key, who in keys.items()}


def test_init_writes_random_keys_that_load(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    added = init_keys(path, ["planner", "researcher", "planner"])
    assert sorted((w.peer_id, w.role) for w in added.values()) == [
        ("admin", "admin"),
        ("planner", "agent"),
        ("researcher", "agent"),
    ]
    assert load_keys(path) == by_digest(added)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not too_open(path)
    assert all(len(key) > 40 for key in added)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["admin.key", "keys.json", "planner.key", "researcher.key"]
    for key, who in added.items():
        assert (tmp_path / f"{who.peer_id}.key").read_text() == f"{key}\n"
        assert stat.S_IMODE((tmp_path / f"{who.peer_id}.key").stat().st_mode) == 0o600
        assert key not in path.read_text(), "the registry's own file gives no key away"


def test_init_adds_to_a_file_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = init_keys(path, ["planner"])
    added = init_keys(path, ["planner", "writer"])
    assert [w.peer_id for w in added.values()] == ["writer"]
    assert load_keys(path) == by_digest({**before, **added})
    with pytest.raises(KeyFileError, match="--peer"):
        init_keys(path, ["planner"])


@pytest.mark.parametrize("name", ["", "a b", "../x", "registry", "x" * 65])
def test_init_refuses_a_bad_name_and_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="peer id"):
        init_keys(tmp_path / "keys.json", [name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must look like"),
        ('{"keys": []}', "must look like"),
        ('{"keys": {}}', "holds no key"),
        ('{"keys": {"short": {"peer_id": "a"}}}', "entry 1: a key has at least"),
        ('{"keys": {"long-enough-key": "a"}}', "entry 1: expected"),
        ('{"keys": {"long-enough-key": {"peer_id": "a b"}}}', "peer_id 'a b'"),
        ('{"keys": {"long-enough-key": {"peer_id": "a", "role": "root"}}}', "role 'root'"),
        ('{"keys": {"long-enough-key": {"peer_id": "a", "expires": "tomorrow"}}}', "expires 'tomorrow'"),
        ('{"keys": {"long-enough-key": {"peer_id": "a", "expires": "2027-01-31T00:00:00"}}}', "with a zone"),
        ('{"keys": {"long-enough-key": {"peer_id": "a", "expires": 7}}}', "expires 7"),
        ('{"keys": {"sha256:abc": {"peer_id": "a"}}}', "64 hexadecimal digits"),
    ],
)
def test_malformed_key_file_is_refused_by_name(tmp_path: Path, text: str, fault: str) -> None:
    """H-3: a missing or malformed file opened the door with a well-known key."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=fault) as caught:
        load_keys(path)
    assert "keys.json" in str(caught.value)
    assert "long-enough-key" not in str(caught.value)


def test_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="registry init --api-keys"):
        load_keys(tmp_path / "none.json")


def test_role_defaults_to_agent(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": {"ak_dev_001": {"peer_id": "a"}}}))
    assert load_keys(path) == {digest("ak_dev_001"): A}


def test_keyring_finds_whole_keys_alone() -> None:
    ring = Keyring({digest(KEY): A})
    assert ring.find(KEY, NOW) == A
    others = ("key-of-a-12", "key-of-a-1234", "", "KEY-OF-A-123", digest(KEY))
    assert [ring.find(k, NOW) for k in others] == [None] * 5, "the hash that the file shows opens nothing"
    assert ring.has_peer("a")
    assert not ring.has_peer("b")


def test_token_carries_the_claims_of_the_mesh() -> None:
    claims = jwt.decode(Tokens(SECRET).issue(A, 1000.9), options={"verify_signature": False})
    jti = claims.pop("jti")
    assert len(jti) == 32
    assert claims == {
        "sub": "a",
        "role": "agent",
        "key": A.key_id,
        "iat": 1000,
        "exp": 1000 + TOKEN_TTL_S,
        "aud": "chatixia-mesh",
        "iss": "chatixia-registry",
    }


def test_token_ends_without_leeway() -> None:
    tokens = Tokens(SECRET)
    token = tokens.issue(A, 1000)
    assert tokens.check(token, 1000 + TOKEN_TTL_S - 1) == A
    with pytest.raises(Unauthorized, match="expired"):
        tokens.check(token, 1000 + TOKEN_TTL_S)


def test_foreign_tokens_are_refused() -> None:
    """Another secret, another audience or issuer, no signature, a missing claim, another algorithm."""
    tokens = Tokens(SECRET)
    good = {
        "sub": "a",
        "role": "agent",
        "key": A.key_id,
        "iat": 0,
        "exp": 99,
        "aud": "chatixia-mesh",
        "iss": "chatixia-registry",
        "jti": "1",
    }
    assert tokens.check(jwt.encode(good, SECRET, "HS256"), 1) == A
    bad = [
        jwt.encode(good, "t" * 32, "HS256"),
        jwt.encode(good, "", "none"),
        jwt.encode(good, SECRET * 2, "HS512"),
        jwt.encode({**good, "aud": "other"}, SECRET, "HS256"),
        jwt.encode({**good, "iss": "other"}, SECRET, "HS256"),
        jwt.encode({**good, "role": "root"}, SECRET, "HS256"),
        jwt.encode({k: v for k, v in good.items() if k != "exp"}, SECRET, "HS256"),
        jwt.encode({k: v for k, v in good.items() if k != "jti"}, SECRET, "HS256"),
        jwt.encode({k: v for k, v in good.items() if k != "key"}, SECRET, "HS256"),
        "",
        "a.b.c",
        "é",
    ]
    for token in bad:
        with pytest.raises(Unauthorized):
            tokens.check(token, 1)


def test_secret_is_random_unless_given_and_never_short() -> None:
    with pytest.raises(Unauthorized):
        Tokens().check(Tokens().issue(A, 0), 1)
    with pytest.raises(ValueError, match="at least 32"):
        Tokens("short")


@pytest.mark.parametrize(
    ("peer", "agent", "owner", "reserved", "allowed"),
    [
        ("a", "a", None, True, True),
        ("a", "a", "mallory", True, True),
        ("a-sidecar", "a", None, True, True),
        ("a", "anything", "a", False, True),
        ("a", "later-a-peer", "a", True, False),
        ("a", "b", None, False, False),
        ("a", "b", "b", True, False),
        ("a", "a-sidecar", None, True, False),
        ("-sidecar", "", None, False, False),
    ],
)
def test_who_may_act_as_whom(peer: str, agent: str, owner: str | None, reserved: bool, allowed: bool) -> None:
    assert may_act_as(Identity(peer), agent, owner=owner, is_reserved=reserved) is allowed


def test_admin_manages_others_but_does_not_speak_for_them() -> None:
    assert not may_act_as(Identity("root", "admin"), "b", owner="b", is_reserved=True)


def test_keys_added_to_the_file_work_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = init_keys(path, ["a"])
    ring = Keyring(load_keys(path), changed=KeyFile(path).changed)
    (key,) = init_keys(path, ["b"])
    assert ring.has_peer("b"), "its name is taken before it says the first word"
    assert ring.find(key, NOW) == Identity("b")
    path.write_text("{ half a file")
    assert ring.find("unknown-key", NOW) is None
    assert all(ring.find(k, NOW) == who for k, who in first.items())


def test_a_key_that_left_the_file_ends_with_its_tokens(tmp_path: Path) -> None:
    """Rotation: both keys work while both are there; taking the old one out ends it, and it alone."""
    path = tmp_path / "keys.json"
    (old,) = [k for k, who in init_keys(path, ["a"]).items() if who == A]
    ring = Keyring(load_keys(path), changed=KeyFile(path).changed)
    document = json.loads(path.read_text())
    document["keys"][digest("a-new-key-for-a")] = {"peer_id": "a"}
    path.write_text(json.dumps(document))
    was, new = ring.find(old, NOW), ring.find("a-new-key-for-a", NOW)
    assert was is not None
    assert new is not None
    assert was.key_id != new.key_id
    del document["keys"][digest(old)]
    path.write_text(json.dumps(document))
    ring.refresh()
    assert ring.find(old, NOW) is None
    assert not ring.has_key(was.key_id, NOW)
    assert ring.find("a-new-key-for-a", NOW) == A
    assert ring.has_key(new.key_id, NOW)


def test_a_key_ends_when_it_says(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": {KEY: {"peer_id": "a", "expires": "2027-01-31T01:00:00+01:00"}}}))
    ring = Keyring(load_keys(path))
    end = 1_801_353_600.0  # 2027-01-31T00:00:00Z
    assert ring.find(KEY, end - 1) == A
    assert ring.has_key(A.key_id, end - 1)
    assert ring.find(KEY, end) is None
    assert not ring.has_key(A.key_id, end)


def test_adding_a_peer_turns_keys_in_plain_text_into_hashes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"note": "ours", "keys": {KEY: {"peer_id": "a", "expires": "2027-01-31T00:00:00Z"}}}))
    before = load_keys(path)
    init_keys(path, ["b"])
    assert KEY not in path.read_text()
    assert json.loads(path.read_text())["note"] == "ours"
    after = load_keys(path)
    assert {d: after[d] for d in before} == before
    assert after[digest(KEY)].until == before[digest(KEY)].until
