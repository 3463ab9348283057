"""Fixtures for all tests, and what every test must leave behind: nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from streams import rest
from streams.exchanges import Binance, BinanceFutures, Huobi
from streams.sim import BinanceFuturesSim, BinanceSim, HuobiSim
from streams.stream import Stream

# A look-up that nobody waits for any longer ends by itself; a test that holds one releases it, and
# waits for its thread.
_HELPERS = ("streams-resolver-",)
_GRACE = 3.0
_FDS = "/proc/self/fd"

# A shell has what runs in its background ignore Ctrl-C, and programs started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(_HELPERS)}


def _sockets() -> int:
    """How many sockets this process has open; 0 where that cannot be told."""
    count = 0
    for name in os.listdir(_FDS) if os.path.isdir(_FDS) else ():
        with contextlib.suppress(OSError):
            count += os.readlink(f"{_FDS}/{name}").startswith("socket:")
    return count


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or an open socket behind."""
    threads, sockets = _threads(), _sockets()
    yield
    deadline = time.monotonic() + _GRACE
    for thread in _threads() - threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in _threads() - threads]
    if left:
        pytest.fail(f"threads left behind: {', '.join(sorted(left))}")
    if _sockets() > sockets:
        gc.collect()            # what nobody holds any more warns, and that is an error, too
        more = _sockets() - sockets
        if more > 0:
            pytest.fail(f"{more} sockets left open")


@pytest.fixture(autouse=True)
def unknown_to_all_venues() -> None:
    """Ports are used again: a venue of this test has not seen the last one's requests."""
    rest._shares.clear()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes everything in the end, the last opened first."""
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def serve(stack: contextlib.ExitStack) -> Callable[..., Any]:
    """``serve(BinanceSim, rate=0)``: a simulated venue that runs until the end of the test."""
    def begin(kind: Callable[..., Any] = BinanceSim, /, *args: Any, **options: Any) -> Any:
        return stack.enter_context(kind(*args, **options))
    return begin


KINDS = {BinanceSim: Binance, BinanceFuturesSim: BinanceFutures, HuobiSim: Huobi}


@pytest.fixture
def connect(stack: contextlib.ExitStack) -> Callable[..., Any]:
    """``connect(sim, ["BTC-USDT"], ...)``: a stream of the right kind, started, stopped in the end."""
    def begin(sim: Any, symbols: Sequence[str] | str = ("BTC-USDT",), channels: Any = ("book",), *,
              kind: type[Stream] | None = None, begin: bool = True, **options: Any) -> Stream:
        chosen = kind or KINDS[type(sim)]
        options = {"url": sim.url, "rest_url": sim.rest_url, **options}
        stream = chosen(symbols, channels, **options)
        stack.callback(lambda: stream.stop() or pytest.fail(f"{stream!r} did not stop"))
        if begin:
            stream.start()
        return stream
    return begin
