"""The workload, identical for every system: the agent's handler on B, the metrics on A."""

from __future__ import annotations

import asyncio
import statistics
import time

import orjson
from systems.base import next_id

SMALL, LARGE = 200, 64 * 1024
RTT_WARMUP, RTT_N, RATE_N, BULK_BYTES = 300, 2000, 20_000, 64 << 20
CONC, CONC_N = 64, 6400


def make(kind: str, size: int) -> dict:
    msg = {"id": 1_000_000_000, "kind": kind, "n": 0, "text": ""}
    msg["text"] = "x" * (size - len(orjson.dumps(msg)))
    return msg


def encode(msg: dict) -> bytes:
    msg["id"] = 1_000_000_000 + next_id()
    return orjson.dumps(msg)


class Agent:
    """B's handler. Parses every message, as a real agent must."""

    def __init__(self):
        self.seen, self.first, self.last = 0, 0, 0

    def handle(self, data) -> bytes | None:
        msg = orjson.loads(data)
        kind = msg["kind"]
        if kind == "echo":
            return orjson.dumps(msg)
        if kind == "one":
            self.seen += 1
            self.last = time.monotonic_ns()
            return None
        if kind == "ack":  # one-way work on a request/response system
            self.seen += 1
            self.last = time.monotonic_ns()
            return orjson.dumps({"id": msg["id"]})
        if kind == "reset":
            self.seen = 0
        return orjson.dumps({"id": msg["id"], "seen": self.seen, "last": self.last})


def quantile(xs: list[float], q: float) -> float:
    xs = sorted(xs)
    return xs[min(len(xs) - 1, int(q * len(xs)))]


class Load:
    def __init__(self, client, system, cap_s: float):
        self.client, self.system, self.cap = client, system, cap_s

    async def ask(self, kind: str) -> dict:
        reply = await asyncio.wait_for(self.client.request(encode(make(kind, 100))), 20)
        return orjson.loads(reply)

    async def echo(self, msg) -> None:
        data = encode(msg)
        reply = orjson.loads(await self.client.request(data))
        if reply["id"] != msg["id"] or len(reply["text"]) != len(msg["text"]):
            raise RuntimeError("wrong echo")

    async def rtt(self) -> dict:
        msg, times = make("echo", SMALL), []
        end = time.monotonic() + self.cap / 3
        for _ in range(RTT_WARMUP):
            await self.echo(msg)
            if time.monotonic() > end:
                break
        end = time.monotonic() + self.cap * 2
        while len(times) < RTT_N and time.monotonic() < end:
            t = time.perf_counter_ns()
            await self.echo(msg)
            times.append((time.perf_counter_ns() - t) / 1000)
        return {"rtt_p50_us": statistics.median(times), "rtt_p99_us": quantile(times, 0.99), "rtt_n": len(times)}

    async def stream(self, size: int, total: int) -> tuple[int, float]:
        """Send up to `total` one-way messages; seconds until B had handled the last."""
        await self.ask("reset")
        client, sent, start = self.client, 0, time.monotonic_ns()
        end = time.monotonic() + self.cap
        if self.system.one_way:
            msg = make("one", size)
            while sent < total:
                await client.send(encode(msg))
                sent += 1
                if not sent & 31 and time.monotonic() > end:
                    break
            await client.flush()
        else:

            async def worker():
                nonlocal sent
                msg = make("ack", size)
                while sent < total and time.monotonic() < end:
                    sent += 1
                    await client.request(encode(msg))

            await asyncio.gather(*(worker() for _ in range(self.system.window)))
        stop = time.monotonic() + 20
        while True:
            got = await self.ask("seen")
            if got["seen"] >= sent:
                return sent, (got["last"] - start) / 1e9
            if time.monotonic() > stop:
                raise RuntimeError(f"lost messages: {got['seen']} of {sent} arrived")
            await asyncio.sleep(0.01)

    async def repeat(self, once) -> tuple[int, float]:
        """Up to 3 goes while they are short; the median go by speed."""
        goes, start = [], time.monotonic()
        while len(goes) < 3 and time.monotonic() - start < 1.5:
            goes.append(await once())
        return sorted(goes, key=lambda g: g[0] / g[1])[(len(goes) - 1) // 2]

    async def rate(self) -> dict:
        n, secs = await self.repeat(lambda: self.stream(SMALL, RATE_N))
        return {"rate_msg_s": n / secs, "rate_n": n}

    async def bulk(self) -> dict:
        if not self.system.bulk:
            return {}
        n, secs = await self.repeat(lambda: self.stream(LARGE, BULK_BYTES // LARGE))
        return {"bulk_mb_s": n * LARGE / 1e6 / secs, "bulk_n": n}

    async def conc(self) -> dict:
        n, secs = await self.repeat(self.burst)
        return {"conc_rt_s": n / secs, "conc_n": n}

    async def burst(self) -> tuple[int, float]:
        """CONC workers, each with one echo in flight."""
        done, end = 0, time.monotonic() + self.cap

        async def worker():
            nonlocal done
            msg = make("echo", SMALL)
            while done < CONC_N and time.monotonic() < end:
                await self.echo(msg)
                done += 1

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(CONC)))
        return done, time.perf_counter() - start
