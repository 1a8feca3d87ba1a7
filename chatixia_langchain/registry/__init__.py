"""The registry: introduces peers to each other, keeps the directory and the mailbox. Never sees a direct conversation.

- `auth`, `keys`, `pairing`: who a caller is;
- `signaling`, `directory`, `tasks`, `topology`, `ice`: the rules, pure, with time passed in;
- `store`: where state survives a restart; `state`: all of it in one object;
- `guard`, `routes_*`, `sockets`, `app`, `server`: the skin of FastAPI and uvicorn (extra `registry`).
"""
