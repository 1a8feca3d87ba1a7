"""How messages travel: one interface (`base`), and one file per technology that implements it.

- `memory`: peers in one process, for tests and `transport="memory"`;
- `sidecar`: the Rust sidecar; `process` runs it, `ipc_link` touches its socket, `ipc_session` knows what is open;
- `rtc`: aiortc in this process, the same wire as the sidecar; `rtc_connection` names aiortc, `rtc_negotiation` decides,
  `signaling` is its WebSocket;
- `mailbox`: the registry's HTTP task queue; `registry_api` is the one HTTP client;
- `choose` picks one.
"""
