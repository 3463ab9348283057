"""``streams watch``: one or many venues, live."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from ..manager import StreamManager
from .board import Board, Picture, Row
from .ending import Ending
from .live import View, follow, once
from .start import begin, from_network

__all__ = ["all_ended", "one_picture", "view_of", "watch"]


def watch(options: argparse.Namespace) -> int:
    """Run it. Returns the exit code: 0, or 1 when something has given no data, or has given up."""
    with Ending(options.seconds) as ending, ExitStack() as stack:
        market, board = begin(stack, options, from_network(stack, options))
        view = view_of("streams watch", options, lambda: _described(market, options.demo))
        if options.once:
            return one_picture(view, board, ending, options.timeout, lambda row: row.complete)
        picture = follow(view, board, ending, done=all_ended)
    failed = [stream for stream in picture.streams if stream.state == "failed"]
    for stream in failed:
        print(f"{stream.exchange} has given up: {stream.error}", file=sys.stderr)
    return 1 if failed else 0


def _described(market: StreamManager, simulated: bool) -> str:
    names = dict.fromkeys(stream["exchange"] for stream in market.status()["streams"])
    return ("simulated on loopback: " if simulated else "") + ", ".join(names)


def view_of(name: str, options: argparse.Namespace, subject: Callable[[], str]) -> View:
    """How the command line wants it shown."""
    return View(name, subject, json=getattr(options, "json", False), plain=options.plain, ladders=True,
                interval=options.interval, verbose=options.verbose)


def all_ended(picture: Picture) -> bool:
    """Whether no stream will give anything any more."""
    return bool(picture.streams) and all(stream.state in ("stopped", "failed") for stream in picture.streams)


def one_picture(view: View, board: Board, ending: Ending, timeout: float, good: Callable[[Row], bool],
                done: Callable[[Picture], bool] = lambda picture: picture.complete) -> int:
    """Show one, and say on stderr what did not come. Returns the exit code."""
    until = time.monotonic() + timeout
    picture = once(view, board, ending, until, done)
    # It need not have waited for so long: more will not come, or somebody wants an end.
    no_data = "no data" + (f" within {timeout:g} s" if time.monotonic() >= until else "")
    missing = [row for row in picture.rows if not good(row)]
    for row in missing:
        stream = picture.stream(row.stream)
        why = row.detail or (stream.error if stream else "")
        print(f"{row.exchange} {row.symbol}: {no_data}: {row.status}"
              f"{f' ({why})' if why else ''}", file=sys.stderr)
    if not picture.rows:
        print(no_data, file=sys.stderr)
    return 1 if missing or not picture.rows else 0
