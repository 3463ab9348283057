"""The sections of the benchmark: each measures one thing and returns its figures as plain data."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .harness import (
    ROOT, Rows, environment, finished, installed, median, redis, rounds, run, started, venue,
)

__all__ = ["OFTEN", "SECTIONS", "Plan"]

OFTEN = 3       # times as many repetitions of what is short, and depends on which core the kernel chooses

Figures = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        repetitions: Of everything; the medians count.
        scale: 1.0 for the full benchmark, less for a quick look.
        free_threaded: An interpreter without the GIL that has the packages, or None.
    """

    repetitions: int
    scale: float
    free_threaded: str | None

    def of(self, count: int) -> int:
        """So many messages, scaled."""
        return int(count * self.scale)

    @property
    def often(self) -> int:
        """Repetitions of what varies most."""
        return OFTEN * self.repetitions

    @property
    def most_often(self) -> int:
        """Repetitions of what is judged by its p99: two of one and the same client differ by a tenth."""
        return 2 * self.often

    @property
    def pythons(self) -> dict[str, str]:
        """Interpreters by what is said of them."""
        pythons = {"gil": sys.executable}
        if self.free_threaded:
            pythons["free-threaded"] = self.free_threaded
        return pythons


def _say(what: str) -> None:
    print(f"  {what} ...", file=sys.stderr, flush=True)


def _others(names: dict[str, str]) -> list[str]:
    """Those of the other clients that are installed."""
    return [name for name, module in names.items() if installed(module)]


# -- what a message costs ------------------------------------------------------------------------------

_CASES = {"10+10 levels": (10, "book"), "2+2 levels": (2, "book"),
          "10+10 levels, best bid and ask read at every update": (10, "best")}
_SLOW = ("websocket-client", "websocket-client, bytes")


def cost(plan: Plan) -> Figures:
    """Processor time per message, and messages a second flat out."""
    contenders = ["floor", "streams", *_others({
        "picows": "picows", "aiohttp": "aiohttp", "websockets": "websockets",
        "websocket-client, bytes": "websocket", "websocket-client": "websocket"})]
    figures = {}
    for title, (levels, mode) in _CASES.items():
        _say(title)
        messages = plan.of(100_000)
        with venue(messages=messages, levels=levels) as port:
            rows = rounds(contenders, plan.repetitions, lambda name: run(
                "clients.py", name, port, messages // 5 if name in _SLOW else messages, mode))
        figures[title] = _against(rows, "floor", "cpu_us", "per_second")
    return figures


def _against(rows: Rows, floor: str, *keys: str) -> Figures:
    """Medians of each contender, and the ratio of the first figure to the floor's."""
    base = median(rows[floor], keys[0])
    return {name: {**{key: median(results, key) for key in keys}, "ratio": median(results, keys[0]) / base}
            for name, results in rows.items()}


# -- from the wire to the reader -----------------------------------------------------------------------

_OURS = ("streams, inline handler", "streams, store.wait", "streams, queued handler")
_SWITCHES = (0.005, 0.001, 0.0005, 0.0001)


def latency(plan: Plan) -> Figures:
    """From the venue's write to the reader, at 1,000 messages a second."""
    others = _others({"picows": "picows", "aiohttp": "aiohttp", "websockets": "websockets",
                      "websocket-client": "websocket"})
    messages = plan.of(4000)            # of which the slowest 38 make the p99
    figures: Figures = {}
    with venue(messages=messages, levels=10, rate=1000) as port:
        for kind, python in plan.pythons.items():
            others_too = kind == "gil"
            clients = ["floor", *_OURS, *(others if others_too else ())]
            busy = [name for name in clients if name != "streams, store.wait"]   # the main thread is busy

            def one(name: str, load: str, switch: float) -> Figures:
                return run("latency.py", name, port, messages, load, switch, python=python)

            _say(f"{kind}, idle")
            times = plan.most_often if others_too else plan.often
            idle = rounds(clients, times, lambda name: one(name, "idle", 0))
            figures[kind] = {"idle": _against(idle, "floor", "p50", "p99", "max"), "busy": {}}
            for switch in _SWITCHES if kind == "gil" else _SWITCHES[:1]:
                _say(f"{kind}, busy main thread, switch interval {switch * 1e3:g} ms")
                rows = rounds(busy, plan.repetitions, lambda name: one(name, "busy", switch))
                figures[kind]["busy"][f"{switch * 1e3:g} ms"] = _against(
                    rows, "floor", "p50", "p99", "max", "turns_per_second")
    return figures


# -- several streams, readers beside them --------------------------------------------------------------


def parallel(plan: Plan) -> Figures:
    """Two streams flat out against one, and what threads of the floor make of it."""
    messages = plan.of(150_000)
    figures: Figures = {}
    with venue(messages=messages, levels=10) as one, venue(messages=messages, levels=10, symbols=2) as two:
        ports = {"1": one, "2": two}
        for kind, python in plan.pythons.items():
            _say(kind)
            names = [f"{who} {count}" for who in ("streams", "floor") for count in ports]
            rows = rounds(names, plan.often, lambda name: run(
                "parallel.py", ports[name[-1]], name[-1], messages,
                "none" if name.startswith("streams") else "floor", python=python))
            figures[kind] = {who: _two_against_one(rows[f"{who} 1"], rows[f"{who} 2"])
                             for who in ("streams", "floor")}
    return figures


def _two_against_one(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> Figures:
    figures: Figures = {count: {key: median(results, key) for key in ("per_second", "cpu_us")}
                        for count, results in (("1", one), ("2", two))}
    # The second is what two threads cost each other, without what else runs on the machine.
    return {**figures, "throughput": median(two, "per_second") / median(one, "per_second"),
            "cpu": median(one, "cpu_us") / median(two, "cpu_us")}


def readers(plan: Plan) -> Figures:
    """A reader in a tight loop beside a stream flat out, against a thread that only computes."""
    messages = plan.of(100_000)
    kinds = ("none", "spin", "touch", "depth", "view", "lock")
    figures: Figures = {}
    with venue(messages=messages, levels=10) as port:
        for kind, python in plan.pythons.items():
            _say(kind)
            rows = rounds(kinds, plan.often, lambda reader: run(
                "parallel.py", port, 1, messages, reader, python=python))
            base = median(rows["spin"], "per_second"), median(rows["spin"], "cpu_us")
            figures[kind] = {reader: {
                "per_second": median(results, "per_second"), "cpu_us": median(results, "cpu_us"),
                "reads_per_second": median(results, "turns_per_second"),
                "throughput": median(results, "per_second") / base[0],
                "cpu": median(results, "cpu_us") / base[1]} for reader, results in rows.items()}
    return figures


# Levels a side of an update. Of a whole exchange, in the recorded feeds, 25 symbols of Binance send 1 to 17
# levels an update, 5 on average (both sides together); only its busiest send 30 or more.
_SIZES = (10, 3)


def many(plan: Plan) -> Figures:
    """1,500 books at 15,000 messages a second in one process."""
    messages = max(plan.of(150), 50)
    contenders = {"floor": sys.executable, **plan.pythons, "polled": sys.executable}
    figures: Figures = {}
    for levels in _SIZES:
        _say(f"{levels}+{levels} levels")
        with venue(messages=messages, levels=levels, symbols=1500, rate=10) as port:
            rows = rounds(contenders, plan.repetitions, lambda kind: run(
                "many.py", kind if kind in ("floor", "polled") else "streams", port, 1500, messages,
                python=contenders[kind]))
        figures[f"{levels}+{levels} levels"] = {
            kind: {key: median(results, key) for key in results[0]} for kind, results in rows.items()}
    return figures


# -- without a network ---------------------------------------------------------------------------------


def reads(plan: Plan) -> Figures:
    """The cost of reads, and the weight of a book."""
    return {kind: run("reads.py", python=python) for kind, python in plan.pythons.items()}


_OPTIONAL = ("redis", "prometheus_client", "rich", "defusedxml", "pandas", "zstandard", "python_socks",
             "exchange_calendars", "requests", "websocket")


def imports(plan: Plan) -> Figures:
    """Seconds that ``import streams`` takes, and which optional packages it brings in."""
    figures = {}
    for kind, python in plan.pythons.items():
        taken = {code: statistics.median(_import_time(python, code) for _ in range(4 * plan.repetitions + 1))
                 for code in ("pass", "import streams")}
        code = f"import streams, sys; print(*[m for m in {_OPTIONAL} if m in sys.modules])"
        done = subprocess.run([python, "-c", code], env=environment(), stdout=subprocess.PIPE, check=True)
        figures[kind] = {"seconds": taken["import streams"] - taken["pass"],
                         "imported": done.stdout.decode().split()}
    return figures


def _import_time(python: str, code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([python, "-c", code], env=environment(), check=True)
    return time.perf_counter() - begun


def itch(plan: Plan) -> Figures:
    """Nasdaq ITCH: what a message costs."""
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "venues" / "itch_cost.py"),
                           str(plan.of(300_000))], env=environment(), stdout=subprocess.PIPE, check=True)
    found = re.findall(r"^(.+?) +([\d.]+) us +([\d.]+) x$", done.stdout.decode(), re.MULTILINE)
    return {name: {"cpu_us": float(taken), "ratio": float(ratio)} for name, taken, ratio in found}


def fan_out(plan: Plan) -> Figures:
    """Events through Redis, from one process to another: at 100,000 a second, and flat out."""
    if not shutil.which("redis-server") or not installed("redis"):
        return {}
    events = max(plan.of(500_000), 100_000)
    rates = {"100,000 events/s": 100_000, "flat out": 0}
    rows = rounds(rates, plan.repetitions, lambda name: _through_redis(events, rates[name]))
    return {name: {"lost": sum(row["lost"] for row in results),
                   **{key: median(results, key) for key in results[0] if key != "lost"}}
            for name, results in rows.items()}


def _through_redis(events: int, rate: int) -> Figures:
    with redis() as url, started("fan_out.py", "read", url) as reader:
        sent = run("fan_out.py", "collect", url, events, rate)
        got = finished(reader)
    wanted, there = sent.pop("last"), got.pop("last")
    lost = sent["dropped"] + sum(last - there.get(symbol, 0) for symbol, last in wanted.items())
    return {**sent, **got, "lost": lost}


SECTIONS: dict[str, Callable[[Plan], Figures]] = {
    "cost": cost, "latency": latency, "parallel": parallel, "readers": readers, "many": many,
    "reads": reads, "imports": imports, "itch": itch, "fan_out": fan_out,
}
