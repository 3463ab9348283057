"""Reading recorded feeds.

Two layouts: ``*.jsonl.gz`` with one object a line (``header``, ``connect``, ``send``, ``recv``,
``http``), and hftbacktest's collector, where a line is the receive time in nanoseconds and the
raw message, a REST snapshot among them being one bare JSON line.
"""
from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

_EXCHANGES = {"BINANCE_FUTURES": "binance-futures", "BINANCE_DELIVERY": "binance-futures",
              "BINANCE_US": "binance", "BINANCE_TR": "binance", "HUOBI_SWAP": "huobi"}


class Item(NamedTuple):
    """One WebSocket frame that came in, or one REST answer.

    Attributes:
        time: nanoseconds since the epoch, by the recorder's clock.
        url: of a REST answer; empty for a frame, and for an answer whose request is unknown.
        is_rest: True for a REST answer.
        data: the payload as it was on the wire.
    """

    time: int
    url: str
    is_rest: bool
    data: bytes


class Recording:
    """The frames and REST answers of one or several files, in their order.

    Args:
        paths: one file or several; they are taken one after the other.

    Attributes:
        exchange: what the files say, as a name of this package; empty if they do not.
        items: everything that came in.

    Raises:
        ValueError: a file in neither layout.
        OSError: a file that cannot be read.
    """

    def __init__(self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> None:
        several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if not several:
            raise ValueError("no recording was given")
        self.exchange = ""
        self.items: list[Item] = []
        for path in several:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                self.items.extend(self._read(os.fspath(path), lines))

    def _read(self, path: str, lines: IO[str]) -> Iterator[Item]:
        try:
            first = lines.readline()
            if first.startswith("{"):
                header = json.loads(first)
                name = str(header.get("exchange", ""))
                self.exchange = _EXCHANGES.get(name, name.lower().replace("_", "-"))
                yield from _objects(lines)
            else:
                yield _stamped(first)
                yield from map(_stamped, lines)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: no recording that this can read: {error!r}") from None


def _objects(lines: Iterable[str]) -> Iterator[Item]:
    for line in lines:
        entry = json.loads(line)
        if entry["t"] not in ("recv", "http"):
            continue
        data = (base64.b64decode(entry["b64"]) if "b64" in entry
                else entry["data"].encode("utf-8"))
        yield Item(int(entry["ts"] * 1e9), entry.get("url", ""), entry["t"] == "http", data)


def _stamped(line: str) -> Item:
    stamp, _, text = line.rstrip("\n").partition(" ")
    return Item(int(stamp), "", text.startswith('{"lastUpdateId"'), text.encode("utf-8"))
