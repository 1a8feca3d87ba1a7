"""`OpenAIServer`: a local OpenAI-compatible server (`/v1/chat/completions`, JSON and SSE) that follows a rule.

    with OpenAIServer(rule) as server:
        client = AsyncOpenAI(base_url=server.url, api_key="offline")

The rule gets the request's body and returns the assistant message; `fail_next` holds HTTP statuses to answer with
first. Tool-call arguments are streamed in fragments, as the real service does. Loopback only, one thread per request,
no state but `requests`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Body = dict[str, Any]
Rule = Callable[[Body], Body]

REQUESTS_KEPT = 256  # the oldest are forgotten
MAX_BODY_BYTES = 8 << 20  # more than any test sends; a wrong Content-Length must not fill the memory
_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def echo(body: Body) -> Body:
    """Answer with the last message's text."""
    return {"role": "assistant", "content": f"echo: {body['messages'][-1]['content']}"}


class OpenAIServer:
    """A server on 127.0.0.1 at a free port, from `with` or `start()` to `close()`. `url` ends in `/v1`."""

    def __init__(self, rule: Rule = echo, *, delay_s: float = 0.0) -> None:
        self.rule = rule
        self.delay_s = delay_s
        self.fail_next: deque[int] = deque()
        self.finish_next: deque[str] = deque()
        self.requests: deque[Body] = deque(maxlen=REQUESTS_KEPT)
        owner = self

        class Handler(_Handler):
            server_rule = owner

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), daemon=True, name="openai-server"
        )

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def start(self) -> OpenAIServer:
        """Begin to serve; returns self."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop serving and free the port. Idempotent."""
        if self._thread.is_alive():  # `shutdown` waits for a loop that must be running
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()

    def __enter__(self) -> OpenAIServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away while it was served is no fault of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_rule: OpenAIServer

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the access log is nobody's business in a test."""

    def do_POST(self) -> None:
        """Answer one chat completion request."""
        size = int(self.headers.get("content-length") or 0)
        if not 0 < size <= MAX_BODY_BYTES:
            self._json(413, {"error": {"message": "bad content-length", "type": "invalid_request_error"}})
            return
        try:
            body = json.loads(self.rfile.read(size))
            if not isinstance(body, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as exc:
            why = f"the body is no JSON object: {exc}"
            self._json(400, {"error": {"message": why, "type": "invalid_request_error"}})
            return
        owner = self.server_rule
        owner.requests.append(body)
        if not self.path.endswith("/chat/completions"):
            self._json(404, {"error": {"message": f"no such path {self.path}", "type": "invalid_request_error"}})
        elif owner.fail_next:
            self._json(owner.fail_next.popleft(), {"error": {"message": "injected", "type": "server_error"}})
        else:
            message = owner.rule(body)
            finish = owner.finish_next.popleft() if owner.finish_next else None
            finish = finish or ("tool_calls" if message.get("tool_calls") else "stop")
            (self._stream if body.get("stream") else self._whole)(body, message, finish)

    def _whole(self, body: Body, message: Body, finish: str) -> None:
        choice = {"index": 0, "message": message, "finish_reason": finish}
        self._json(200, {**_head(body), "object": "chat.completion", "choices": [choice], "usage": _USAGE})

    def _stream(self, body: Body, message: Body, finish: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for delta in _deltas(message):
            time.sleep(self.server_rule.delay_s)
            self._event(body, [{"index": 0, "delta": delta, "finish_reason": None}])
        self._event(body, [{"index": 0, "delta": {}, "finish_reason": finish}])
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event(body, [], usage=_USAGE)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: Body, choices: list[Body], **more: Any) -> None:
        chunk = {**_head(body), "object": "chat.completion.chunk", "choices": choices, **more}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, status: int, answer: Body) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)


def _head(body: Body) -> Body:
    return {"id": "chatcmpl-local", "created": int(time.time()), "model": body.get("model", "local")}


def _deltas(message: Body) -> list[Body]:
    deltas: list[Body] = [{"role": "assistant", "content": None}]
    for index, call in enumerate(message.get("tool_calls") or []):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        deltas.append(
            {
                "tool_calls": [
                    {"index": index, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
                ]
            }
        )
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": arguments[at : at + 7]}}]}
            for at in range(0, len(arguments), 7)
        ]
    if message.get("refusal"):
        deltas.append({"refusal": message["refusal"]})
    words = (message.get("content") or "").split(" ")
    deltas += [
        {"content": w if n == len(words) - 1 else w + " "} for n, w in enumerate(words) if message.get("content")
    ]
    return deltas
