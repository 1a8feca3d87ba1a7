"""The client object of one agent: `Mesh`, and `LocalMesh` for a whole mesh on this machine.

- `mesh`: the public object; `sync` and `portal`: the same from other threads and loops; `local`: LocalMesh
- `core`: what all parts share: peers, pending requests, counters, the one timer, the tasks
- `engine`, `lifetime`: the parts put together, and the one task that owns them
- `requests`: ask, send, broadcast; `fanout`: one question to many; `answers`: the other side
- `stream`, `chunk_sender`: a reply that is read while it is written, and its other side
- `context`, `budget`, `trace`: what goes down a tree of requests, and what comes back up
- `outgoing`: from the outbox to a transport; `receiver`: from a transport to the inbox; `frames`: the bytes
- `paths`: dialling, giving up, the mailbox; `directory`: what the registry is asked; `feed`: bounded queues
"""
