"""``streams demo``: simulated venues on loopback, the real client threads, one table."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence

from ..errors import MissingDependency
from ..exchanges import EXCHANGES
from ..manager import StreamManager
from ..sim import Fault
from ..sim.sandbox import Sandbox
from .board import Board
from .ending import Ending
from .lines import summary
from .live import View, follow
from .targets import channels_of

__all__ = ["demo"]

log = logging.getLogger("streams.console")

_COINS = ("BTC-USDT", "ETH-USDT", "SOL-USDT")
_VENUES: Mapping[str, Sequence[str]] = {"binance": _COINS, "huobi": _COINS}
_ALL: Mapping[str, Sequence[str]] = {       # so few that a terminal of 24 lines shows them all
    "binance": _COINS[:2], "huobi": _COINS[:2], "alpaca": ("AAPL",), "polygon": ("AAPL",),
    "nasdaq-itch": ("AAPL",), "redis": ("BTC-USDT",), "longpoll-xml": ("BTC-USDT",),
}
_FAULT_EVERY = 4.0      # seconds
_FAULTS = (
    ("binance", Fault.SKIP, "leaves out an update"),
    ("huobi", Fault.DROP, "drops the connection"),
    ("binance", Fault.RESET, "resets the connection"),
    ("binance", Fault.GARBAGE, "sends a frame of nonsense"),
    ("huobi", Fault.MUTE, "goes mute: no data, no pongs, no close"),
)


def demo(options: argparse.Namespace) -> int:
    """Run it. Returns the exit code: 0, or 1 when a venue has given nothing in the time it was to run."""
    with Ending(options.seconds) as ending:
        with Sandbox(rate=options.rate) as sandbox, StreamManager() as market:
            targets = _start(market, sandbox, _ALL if options.all else _VENUES)
            trouble = _Trouble(sandbox) if options.faults else None
            what = ", ".join(targets) if len(targets) <= 3 else f"{len(targets)} venues"
            view = View("streams demo", lambda: f"simulated on loopback: {what}",
                        plain=options.plain, interval=options.interval, verbose=options.verbose)
            picture = follow(view, Board(market, targets), ending,
                             trouble.strike if trouble else lambda: None)
            elapsed = ending.elapsed
        print(f"{elapsed:.1f} s\n{summary(picture, elapsed)}")
    return 0 if ending.signalled or all(row.last_update is not None for row in picture.rows) else 1


def _start(market: StreamManager, sandbox: Sandbox,
           wanted: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Start all that can be started here. Returns which."""
    started: dict[str, Sequence[str]] = {}
    for exchange, symbols in wanted.items():
        try:
            options = sandbox.options(exchange, symbols)
            channels = channels_of(EXCHANGES[exchange], options, ())
            market.start(exchange, list(symbols), channels, **options)
        except (MissingDependency, LookupError) as missing:     # a package, or a program
            print(f"{exchange} is left out: {missing}", file=sys.stderr)
        else:
            started[exchange] = symbols
    return started


class _Trouble:
    """Has the simulated venues fail, one way after the other."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._next = time.monotonic() + _FAULT_EVERY
        self._done = 0

    def strike(self) -> None:
        """The next fault, if it is time."""
        if time.monotonic() >= self._next:
            self._next += _FAULT_EVERY
            exchange, fault, what = _FAULTS[self._done % len(_FAULTS)]
            self._done += 1
            log.warning("* the simulated %s %s", exchange, what)
            self._sandbox.venue(exchange).inject(fault)
