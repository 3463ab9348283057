"""``python -m streams.sim``: a simulated venue, or a recording, in a process of its own."""
from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from . import (AlpacaSim, BinanceFuturesSim, BinanceSim, Fault, HuobiSim, KrakenSim,
               PolygonSim, ReplaySim)
from .simulation import MarketSim
from .venue import VenueServer

VENUES: dict[str, Callable[..., MarketSim]] = {
    "alpaca": AlpacaSim, "binance": BinanceSim, "binance-futures": BinanceFuturesSim,
    "huobi": HuobiSim, "htx": HuobiSim, "kraken": KrakenSim, "polygon": PolygonSim}
# What stands in symbols where `BTC-USDT` has a dash.
_SEPARATORS = {"alpaca": "/", "kraken": "/", "polygon": "-"}
_LOOK = 0.2         # seconds between two looks for a signal


def build_parser() -> argparse.ArgumentParser:
    """The command line. Threads: any."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.sim", description="A simulated venue on loopback. Prints one "
        "line with its addresses and runs until it is interrupted.")
    parser.add_argument("--exchange", choices=sorted(VENUES), help="which venue (with --replay: "
                        "only where the file does not say)")
    parser.add_argument("--replay", metavar="FILE", nargs="+",
                        help="serve a recording, several files one after the other")
    parser.add_argument("--speed", type=float,
                        help="of a replay: 1 as recorded (the default), 0 as fast as clients read")
    parser.add_argument("--skip-every", type=int, metavar="N",
                        help="of a replay: leave out every n-th book update")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--symbols", nargs="+", help="instead of a few usual ones; like BTC-USDT, or "
                        "as the venue spells them")
    parser.add_argument("--rate", type=float, default=50.0,
                        help="book updates per second and symbol")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--levels", type=int, default=1000, help="per side of each book")
    parser.add_argument("--seconds", type=float, help="end by itself")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[:OPTION=VALUE,...]",
                        help="for every new connection, or every snapshot; may be given again: "
                        + ", ".join(sorted(Fault.KINDS)))
    return parser


def build_server(options: argparse.Namespace) -> VenueServer:
    """The server that the command line asks for.

    Threads: any.

    Raises:
        ValueError: options that make no sense, or do not fit together.
        OSError: a recording that cannot be read.
    """
    if options.seconds is not None and not 0 <= options.seconds < math.inf:
        raise ValueError(f"--seconds {options.seconds:g}: expected 0 or more")
    if options.replay:
        speed = 1.0 if options.speed is None else options.speed
        return ReplaySim(options.replay, exchange=options.exchange, speed=speed,
                         skip_every=options.skip_every or 0, port=options.port)
    for name in ("speed", "skip_every"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for a recording: give --replay FILE")
    if not options.exchange:
        raise ValueError(f"--exchange is missing; there are: {', '.join(sorted(VENUES))}")
    given: dict[str, list[str]] = {}
    if options.symbols is not None:
        separator = _SEPARATORS.get(options.exchange, "")
        given["symbols"] = [symbol.replace("-", separator) for symbol in options.symbols]
    return VENUES[options.exchange](seed=options.seed, rate=options.rate, port=options.port,
                                    levels=options.levels, **given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM, or for ``--seconds``.

    Threads: the main thread, for the sake of signals.

    Returns:
        The exit code: 0, or 2 for a command line that makes no sense.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    # No Event: it has a lock inside, which this thread may hold when a signal strikes.
    ended: SimpleQueue[None] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.put(None))
    try:
        server = build_server(options)
        for fault in map(Fault.parse, options.fault):
            server.always(fault)
        server.start()
    except (ValueError, OSError) as error:
        print(f"python -m streams.sim: {error}", file=sys.stderr)
        return 2
    try:
        print(f"{server.name} {server.url} {server.rest_url}", flush=True)
        _wait(ended, options.seconds)
    finally:
        server.stop()
    return 0


def _wait(ended: SimpleQueue[None], seconds: float | None) -> None:
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            ended.get(timeout=min(left, _LOOK))     # Windows delivers signals only between waits
            return
        except Empty:
            pass


if __name__ == "__main__":
    sys.exit(main())
