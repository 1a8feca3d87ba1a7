"""The original protocol typed by hand: no ids, no hello; events compared character for character."""

from __future__ import annotations

import json
import time

from .conftest import Machine, Typist, until


def connected(machine: Machine) -> tuple[Typist, Typist]:
    """Two people at two sidecars that have found each other."""
    machine.start_registry()
    machine.start_sidecar("peer-abc")
    abc = machine.typist("peer-abc")
    machine.start_sidecar("peer-xyz")
    assert abc.read() == '{"type":"peer_connected","payload":{"peer_id":"peer-xyz"}}'
    xyz = machine.typist("peer-xyz")

    def listed() -> bool:
        xyz.type('{"type": "list_peers", "payload": {}}')
        line = xyz.read()
        while '"peer_list"' not in line:
            line = xyz.read()
        return line == '{"type":"peer_list","payload":{"peers":["peer-abc"]}}'

    until(listed)
    return abc, xyz


def test_the_three_commands_and_the_three_events(machine: Machine) -> None:
    """The seed's lines as they stand in the text, spacing included, do what the text says."""
    abc, xyz = connected(machine)

    abc.type('{"type": "send",       "payload": {"target_peer": "peer-xyz", "message": {"hello": [1, 2.50, "é"]}}}')
    assert xyz.read() == '{"type":"message","payload":{"from_peer":"peer-abc","message":{"hello": [1, 2.50, "é"]}}}'

    xyz.type('{"type": "broadcast",  "payload": {"message": {"to": "all"}}}')
    assert abc.read() == '{"type":"message","payload":{"from_peer":"peer-xyz","message":{"to": "all"}}}'

    abc.type('{"type": "list_peers", "payload": {}}')
    assert abc.read() == '{"type":"peer_list","payload":{"peers":["peer-xyz"]}}'

    machine.procs["peer-xyz"].terminate()
    assert machine.procs["peer-xyz"].wait(2) == 0
    assert abc.read() == '{"type":"peer_disconnected","payload":{"peer_id":"peer-xyz"}}'


def test_failures_are_errors_not_silence(machine: Machine) -> None:
    """What the old sidecar only logged is answered, and the connection lives on."""
    abc, xyz = connected(machine)
    bad = [
        ('{"type":"send","payload":{"target_peer":"nobody","message":{}}}', "peer_unreachable"),
        ('{"type":"dance","payload":{}}', "unknown_type"),
        ("not json", "invalid_line"),
        ('{"type":"send","payload":{"message":{}}}', "invalid_line"),
        ("[" * 5000, "invalid_line"),
        (
            '{"type":"send","payload":{"target_peer":"peer-xyz","message":{"x":"' + "a" * (1 << 20) + '"}}}',
            "line_too_long",
        ),
        (b'{"type":"list_peers\x00"}', None),
    ]
    for line, code in bad:
        abc.type(line)
        event = json.loads(abc.read())
        assert event["type"] == "error", event
        assert code is None or event["payload"]["code"] == code
        assert event["payload"]["message"]
    abc.type('{"type":"send","payload":{"target_peer":"peer-xyz","message":{"still":"here"}}}')
    assert json.loads(xyz.read())["payload"]["message"] == {"still": "here"}


def test_ids_are_answered_once_with_the_same_id(machine: Machine) -> None:
    abc, _xyz = connected(machine)
    abc.type('{"type":"send","id":"s-1","payload":{"target_peer":"peer-xyz","message":{}}}')
    assert abc.read() == '{"type":"ok","id":"s-1","payload":{}}'
    abc.type('{"type":"send","id":7,"payload":{"target_peer":"nobody","message":{}}}')
    answer = json.loads(abc.read())
    assert (answer["type"], answer["id"], answer["payload"]["code"]) == ("error", 7, "peer_unreachable")


def test_the_next_agent_carries_on_and_a_second_one_is_refused(machine: Machine) -> None:
    abc, xyz = connected(machine)
    second = machine.typist("peer-abc")
    assert json.loads(second.read())["payload"]["code"] == "busy"
    abc.leave()
    xyz.type('{"type":"send","payload":{"target_peer":"peer-abc","message":{"waited":true}}}')
    time.sleep(0.5)  # a person is not faster, and the sidecar must first see that the other one left
    again = machine.typist("peer-abc")
    assert again.read() == '{"type":"message","payload":{"from_peer":"peer-xyz","message":{"waited":true}}}'


def test_registry_killed_and_back(machine: Machine) -> None:
    """Open channels outlive the registry, and a newcomer joins once it is back on the same address."""
    abc, xyz = connected(machine)
    port = int(machine.url.rsplit(":", 1)[1])
    machine.procs["registry"].kill()
    machine.procs["registry"].wait()
    for n in range(20):
        abc.type('{"type":"send","payload":{"target_peer":"peer-xyz","message":{"n":%d}}}' % n)
        assert json.loads(xyz.read())["payload"]["message"] == {"n": n}
    machine.procs["registry"].stdout.close()
    machine.start_registry(port)
    machine.start_sidecar("peer-new")
    for person in (abc, xyz):
        line = person.read(40)
        assert line == '{"type":"peer_connected","payload":{"peer_id":"peer-new"}}', "only the newcomer connects anew"
