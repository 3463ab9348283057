"""``streams record`` and ``streams replay``: raw frames to a file, and books out of it again."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.request import pathname2url

from ..exchanges import EXCHANGES
from ..playback import read_recording
from ..record import Recorder
from . import figures
from .ending import Ending
from .lines import columns, summary
from .live import follow
from .start import Settings, begin, from_network
from .watch import all_ended, one_picture, view_of

__all__ = ["record", "replay"]

_PROGRESS_EVERY = 5.0       # seconds between two lines about a recording


def record(options: argparse.Namespace) -> int:
    """Run it. Returns the exit code: 0, or 1 when nothing was recorded, or something was lost."""
    with Ending(options.seconds) as ending, ExitStack() as stack:
        settings = from_network(stack, options)
        recorder = stack.enter_context(Recorder(options.output))
        with ExitStack() as inner:
            _, board = begin(inner, options, settings, recorder=recorder)
            view = view_of("streams record", options, lambda: _progress(recorder))
            if view.on_screen:
                follow(view, board, ending)
            else:
                while not ending.wait(options.interval or _PROGRESS_EVERY):
                    print(_progress(recorder), flush=True)
        recorder.close()
    print(_progress(recorder))
    status = recorder.status()
    return 0 if status["frames"] and not status["lost"] else 1


def _progress(recorder: Recorder) -> str:
    status = recorder.status()
    lost = f", {figures.count(status['lost'])} lost" if status["lost"] else ""
    return (f"{status['path']}: {figures.count(status['frames'])} frames, "
            f"{figures.count(status['bytes'] // 1024)} kB{lost}")


def replay(options: argparse.Namespace) -> int:
    """Run it. Returns the exit code: 0, or 1 when the recording has not given all that was asked for."""
    if not options.targets:
        print(_contents(options.file, list(_connections(options.file))))
        return 0
    next(read_recording(options.file), None)        # which refuses what is none
    with Ending(options.seconds) as ending, ExitStack() as stack:
        _, board = begin(stack, options, _from_file(options.file, options.speed))
        view = view_of("streams replay", options, lambda: os.path.basename(options.file))
        if options.once:
            return one_picture(view, board, ending, options.timeout,
                               lambda row: row.last_update is not None, all_ended)
        picture = follow(view, board, ending, done=all_ended)
        elapsed = ending.elapsed
    if not options.json:
        print(f"{elapsed:.1f} s\n{summary(picture, elapsed)}")
    return 0 if all(row.last_update is not None for row in picture.rows) else 1


@dataclass
class _Connection:
    """What a recording has of one connection; times in ns since the epoch."""

    name: str
    address: str = ""
    frames: int = 0
    answers: int = 0
    first: int | None = None
    last: int | None = None


def _connections(path: str) -> Iterator[_Connection]:
    found: dict[str, _Connection] = {}
    for entry in read_recording(path):
        if entry.kind == "header":
            continue
        connection = found.setdefault(entry.stream, _Connection(entry.stream))
        if entry.kind == "connect":
            connection.address = connection.address or entry.url
        connection.frames += entry.kind == "recv"
        connection.answers += entry.kind == "http"
        if entry.time is not None:
            connection.first = entry.time if connection.first is None else connection.first
            connection.last = entry.time
    yield from found.values()


def _contents(path: str, connections: Sequence[_Connection]) -> str:
    """A line for each connection."""
    if not connections:
        return f"{path}: nothing was recorded"
    table = [["connection", "frames", "REST", "lasted", "address"]]
    for each in connections:
        lasted = "" if each.first is None or each.last is None else figures.lasted(
            (each.last - each.first) / 1e9)
        table.append([each.name or "(unnamed)", figures.count(each.frames), figures.count(each.answers),
                      lasted, each.address])
    return (f"{columns(table, right=(1, 2, 3))}\n\nName what to rebuild from it:"
            f" streams replay {path} EXCHANGE SYMBOL ...")


def _from_file(path: str, speed: float) -> Settings:
    """Settings that have streams play the file."""
    url = f"replay://{pathname2url(os.path.abspath(path))}?speed={speed:g}"

    def settings(exchange: str, symbols: Sequence[str]) -> Mapping[str, Any]:
        venue = EXCHANGES[exchange].venue
        keys = {name: "replay" for name, variables in
                (("api_key", venue.key_env), ("api_secret", venue.secret_env)) if variables}
        return {"url": url, **keys}
    return settings
