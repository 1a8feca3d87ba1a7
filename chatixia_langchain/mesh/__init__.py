"""The client object of one agent: `Mesh`, and `LocalMesh` for a whole mesh on this machine.

- `mesh`: the public object; `sync` and `portal`: the same from other threads and loops; `local`: LocalMesh
- `core`: what all parts share: peers, pending requests, counters, the one timer, the tasks
- `requests`: ask, send, broadcast, answer; `outgoing`: from the outbox to a transport; `receiver`: from a transport to the inbox
- `paths`: dialling, giving up, the mailbox; `directory`: peers, their cards and events; `frames`: the bytes; `feed`: bounded queues
"""
