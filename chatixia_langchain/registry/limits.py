"""How often: token buckets by caller. Pure: the time is an argument, in seconds.

A bucket holds `burst` tokens and gains `per_s` of them a second; each call takes one. `take` refuses when there is
none; `delay` gives one on credit and says how long to wait for it, which loses nothing and slows the caller down.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_BUCKETS: Final = 10_000  # callers remembered; the one not heard of for longest is forgotten, and starts full


class Buckets:
    """One token bucket for each key, made on first use."""

    def __init__(self, *, per_s: float, burst: float, limit: int = MAX_BUCKETS) -> None:
        self._per_s, self._burst, self._limit = per_s, burst, limit
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when there were that many

    def take(self, key: str, now: float) -> bool:
        """Take a token of `key`; False, and none taken, when there is none."""
        tokens = self._tokens(key, now)
        if tokens < 1:
            return False
        self._keep(key, tokens - 1, now)
        return True

    def delay(self, key: str, now: float) -> float:
        """Take a token of `key`, on credit if need be; returns the seconds until it is paid for."""
        tokens = self._tokens(key, now) - 1
        self._keep(key, tokens, now)
        return max(0.0, -tokens / self._per_s)

    def _tokens(self, key: str, now: float) -> float:
        tokens, since = self._buckets.get(key, (self._burst, now))
        return min(self._burst, tokens + max(0.0, now - since) * self._per_s)

    def _keep(self, key: str, tokens: float, now: float) -> None:
        self._buckets[key] = (tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
