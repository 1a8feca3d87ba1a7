"""The client object of one agent: `Mesh`, and `LocalMesh` for a whole mesh on this machine.

- `mesh`: the public object; `sync` and `portal`: the same from other threads and loops; `local`: LocalMesh
- `core`: what all parts share: peers, pending requests, counters, the one timer, the tasks
- `engine`, `lifetime`: the parts put together, and the one task that owns them
- `requests`: ask, send, broadcast, answer
- `outgoing`: from the outbox to a transport; `receiver`: from a transport to the inbox; `frames`: the bytes
- `paths`: dialling, giving up, the mailbox; `directory`: what the registry is asked; `feed`: bounded queues
"""
