"""What is on the wire: limits, ids, and the frames of IPC, signaling and envelope. Pure: no I/O here.

`protocol/README.md` at the root of the project is the contract; the vectors beside it are read by our tests and by
the sidecar's.
"""
