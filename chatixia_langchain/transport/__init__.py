"""How messages travel: one interface (`base`), and one file per technology that implements it.

- `memory`: peers in one process, for tests and `transport="memory"`;
- `sidecar` + `process`: the Rust sidecar over its Unix socket;
- `rtc`: aiortc in this process, the same wire as the sidecar;
- `mailbox`: the registry's HTTP task queue.
"""
