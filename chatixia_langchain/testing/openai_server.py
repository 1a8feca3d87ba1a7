"""`OpenAIServer`: a local OpenAI-compatible server (`/v1/chat/completions`, JSON and SSE) that follows a rule.

    with OpenAIServer(rule) as server:
        client = AsyncOpenAI(base_url=server.url, api_key="offline")

The rule gets the request's body and returns the assistant message. Tool-call arguments are streamed in fragments, as
the real service does, and the token counts in a chunk of their own when they are asked for. What goes wrong with the
next requests is put into queues, one entry per request:

- `fail_next`: HTTP statuses to answer with, 429 or 500 say (the client may retry after 1 ms)
- `cut_next`: after how many events of a stream the connection is cut; a whole answer is cut in its middle
- `finish_next`: other reasons to finish, "length" say

Loopback only, one thread per request, no other state than `requests`.
"""

from __future__ import annotations

import json
import socket
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
    """A server that speaks OpenAI's protocol and follows a rule, on 127.0.0.1.

    Setup:
        Nothing; behind a proxy, `NO_PROXY=127.0.0.1`.

    Instantiation:
        `OpenAIServer(rule)`, a rule from the body of a request to the assistant's message. `delay_s`: seconds before
        each token; a whole answer takes as long as its tokens together.

    Invocation:
        From `with` or `start()` to `close()`, at a free port; `url` ends in `/v1`. `requests` has the bodies that came.

    Within an agent:
        `ChatLoop(AsyncOpenAI(base_url=server.url, api_key="offline"), model_name="any")`, or `ChatOpenAI` alike.
    """

    def __init__(self, rule: Rule = echo, *, delay_s: float = 0.0) -> None:
        self.rule = rule
        self.delay_s = delay_s
        self.fail_next: deque[int] = deque()
        self.cut_next: deque[int] = deque()
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
            cut = owner.cut_next.popleft() if owner.cut_next else None
            (self._stream if body.get("stream") else self._whole)(body, message, finish, cut)

    def _whole(self, body: Body, message: Body, finish: str, cut: int | None) -> None:
        time.sleep(self.server_rule.delay_s * len(_deltas(message)))
        choice = {"index": 0, "message": message, "finish_reason": finish}
        answer = {**_head(body), "object": "chat.completion", "choices": [choice], "usage": _USAGE}
        self._json(200, answer, cut=cut is not None)

    def _stream(self, body: Body, message: Body, finish: str, cut: int | None) -> None:
        self._begin(200, "text/event-stream")
        self.send_header("transfer-encoding", "chunked")  # so that a client can tell a cut from an end
        self.end_headers()
        for sent, delta in enumerate(_deltas(message)):
            if sent == cut:
                self._cut()
                return
            time.sleep(self.server_rule.delay_s)
            self._event(_chunk(body, [{"index": 0, "delta": delta, "finish_reason": None}]))
        self._event(_chunk(body, [{"index": 0, "delta": {}, "finish_reason": finish}]))
        if (body.get("stream_options") or {}).get("include_usage"):
            self._event(_chunk(body, [], usage=_USAGE))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        # A kept connection would belong to the loop of one test, while clients are shared by many.
        self.send_header("connection", "close")

    def _cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, status: int, answer: Body, *, cut: bool = False) -> None:
        data = json.dumps(answer).encode()
        self._begin(status, "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._cut()


def _head(body: Body) -> Body:
    return {"id": "chatcmpl-local", "created": int(time.time()), "model": body.get("model", "local")}


def _chunk(body: Body, choices: list[Body], **more: Any) -> str:
    return json.dumps({**_head(body), "object": "chat.completion.chunk", "choices": choices, **more})


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
