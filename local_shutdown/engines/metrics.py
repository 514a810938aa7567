"""What a server says of itself: Prometheus text of vLLM (`/metrics`), read and summed up."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SAMPLE = re.compile(r"^vllm:(\w+?)(?:_total)?(?:\{.*\})?\s+([-+0-9.eE]+|[+-]?Inf|NaN)(?:\s+\d+)?$")
_NAMES = {
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "kv_cache_usage_perc": "kv_usage",
    "gpu_cache_usage_perc": "kv_usage",  # before 0.10
    "prefix_cache_queries": "prefix_queries",
    "gpu_prefix_cache_queries": "prefix_queries",
    "prefix_cache_hits": "prefix_hits",
    "gpu_prefix_cache_hits": "prefix_hits",
    "prompt_tokens": "prompt_tokens",
    "generation_tokens": "generation_tokens",
    "num_preemptions": "preemptions",
}
# vllm:cache_config_info{block_size="16",...,num_gpu_blocks="25416",...} 1.0
_CACHE_SIZE = re.compile(r"^vllm:cache_config_info\{(?P<labels>.*)\}", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a server, over all of its ranks; None where it does not say.

    Attributes:
        running, waiting: requests.
        kv_usage: share of the cache in use, 0 to 1, of the fullest rank.
        prefix_queries, prefix_hits: tokens looked up in the prefix cache, and found, so far.
        prompt_tokens, generation_tokens, preemptions: so far.
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None


def parse(text: str) -> Reading:
    """Read Prometheus text; lines of other metrics, and broken ones, are passed over."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        name = _NAMES.get(match.group(1)) if match else None
        if match is None or name is None:
            continue
        try:
            value = float(match.group(2))
        except ValueError:
            continue
        if value != value or value in (float("inf"), float("-inf")):
            continue
        if name == "kv_usage":
            found[name] = max(found.get(name, 0.0), value)
        else:
            found[name] = found.get(name, 0.0) + value
    return Reading(**found)


def cache_tokens(text: str) -> int | None:
    """Tokens that the cache holds, as the server says; None where it does not."""
    said = _CACHE_SIZE.search(text)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', said["labels"])) if said else {}
    try:
        return int(labels["num_gpu_blocks"]) * int(labels["block_size"]) or None
    except (KeyError, ValueError):
        return None


def merge(readings: Sequence[Reading]) -> Reading:
    """Several servers as one; a number that one of them does not give is unknown."""
    if len(readings) == 1:
        return readings[0]
    total: dict[str, float | None] = {}
    for name in Reading.__slots__:
        values = [getattr(reading, name) for reading in readings]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values) and bool(known)
        total[name] = (max(known) if name == "kv_usage" else sum(known)) if whole else None
    return Reading(**total)


@dataclass(slots=True)
class Series:
    """Readings of one server summed up as they come, in constant memory. A server that was started
    again counts from zero: its counters are taken up where they stood.

    Attributes:
        last: the newest reading, and when it came (monotonic seconds).
        moved_at: when a token was last known to have been computed.
        cache_tokens: tokens that its cache holds; None where it does not say.
    """

    last: Reading | None = None
    last_at: float = 0.0
    moved_at: float = 0.0
    cache_tokens: int | None = None
    _began: float = 0.0
    _count: int = 0
    _sums: dict[str, float] = field(default_factory=dict)
    _peaks: dict[str, float] = field(default_factory=dict)
    _grown: dict[str, float] = field(default_factory=dict)
    _steps: list[tuple[float, float]] = field(default_factory=list)

    def add(self, reading: Reading, now: float | None = None) -> None:
        """Take in one reading.

        Args:
            now: monotonic seconds.
        """
        now = time.monotonic() if now is None else now
        before, computed = self.last, self.tokens
        if before is None:
            self._began = now
        for name in ("running", "waiting", "kv_usage"):
            value = getattr(reading, name)
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._peaks[name] = max(self._peaks.get(name, 0.0), value)
        for name in (
            "prefix_queries",
            "prefix_hits",
            "prompt_tokens",
            "generation_tokens",
            "preemptions",
        ):
            value = getattr(reading, name)
            if value is None or before is None:
                continue
            old = getattr(before, name) or 0.0
            step = value - old if value >= old else value
            self._grown[name] = self._grown.get(name, 0.0) + step
        self._count += 1
        self.last, self.last_at = reading, now
        if self.tokens != computed:
            self.moved_at = now
        self._steps = [*self._steps[-7:], (now, self._grown.get("generation_tokens", 0.0))]

    def grown(self, name: str) -> float:
        """By how much a counter has grown while we watched."""
        return self._grown.get(name, 0.0)

    @property
    def tokens(self) -> float:
        """Tokens computed while we watched, of prompts and answers: grows while it works."""
        return self._grown.get("generation_tokens", 0.0) + self._grown.get("prompt_tokens", 0.0)

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens a second over the last few readings."""
        if len(self._steps) < 2:
            return None
        (first, low), (last, high) = self._steps[0], self._steps[-1]
        return (high - low) / (last - first) if last > first else None

    def summary(self) -> dict[str, Any]:
        """What run.json says; a number that was never given is None."""
        seconds = self.last_at - self._began

        def mean(name: str, digits: int) -> float | None:
            return round(self._sums[name] / self._count, digits) if name in self._sums else None

        def peak(name: str, digits: int) -> float | None:
            return round(self._peaks[name], digits) if name in self._peaks else None

        def rate(name: str) -> float | None:
            grown = self._grown.get(name)
            return round(grown / seconds, 1) if grown is not None and seconds > 0 else None

        queries, hits = self._grown.get("prefix_queries"), self._grown.get("prefix_hits")
        preempted = self._grown.get("preemptions")
        return {
            "readings": self._count,
            "requests_running_mean": mean("running", 1),
            "requests_running_peak": peak("running", 0),
            "requests_waiting_mean": mean("waiting", 1),
            "requests_waiting_peak": peak("waiting", 0),
            "kv_usage_mean": mean("kv_usage", 3),
            "kv_usage_peak": peak("kv_usage", 3),
            "prefix_hit_rate": round(hits / queries, 3) if queries and hits is not None else None,
            "prompt_tokens_per_s": rate("prompt_tokens"),
            "generation_tokens_per_s": rate("generation_tokens"),
            "preemptions": None if preempted is None else int(preempted),
        }


def summary(series: Sequence[Series]) -> dict[str, Any]:
    """Several servers of one model as one."""
    parts = [one.summary() for one in series if one.last is not None]
    if len(parts) == 1:
        return parts[0]
    total: dict[str, Any] = {}
    for name in parts[0] if parts else ():
        known = [part[name] for part in parts if part[name] is not None]
        if not known:
            total[name] = None
        elif name.startswith(("kv_usage", "prefix")):
            whole = max(known) if name.endswith("peak") else sum(known) / len(known)
            total[name] = round(whole, 3)
        else:
            total[name] = round(sum(known), 1)
    return total
