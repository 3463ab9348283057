"""Pictures as lines of text: for pipes, files, and programs. Needs nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

import msgspec

from . import figures
from .board import Picture, Row, StreamRow

__all__ = ["JsonLines", "Lines", "columns", "summary"]


class Lines:
    """One line for each symbol, every time::

        12:00:01.250 binance BTC-USDT live bid 59999.99 x 0.5 ask 60000.01 x 1.2 spread 0.02 last ...
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._digits = figures.Digits()

    def show(self, picture: Picture) -> None:
        """Write it."""
        for row in picture.rows:
            self._out.write(self._line(picture, row) + "\n")
        self._out.flush()

    def _line(self, picture: Picture, row: Row) -> str:
        show, of = self._digits.show, (row.exchange, row.symbol)
        self._digits.learn(row.prices, *of, "price")
        words = [figures.clock(picture.now), row.exchange, row.symbol, row.status]
        for name, level in (("bid", row.bid), ("ask", row.ask)):
            if level is not None:
                words += [name, show(level[0], *of, "price"), "x", show(level[1], *of, "size")]
        if row.spread is not None:
            words += ["spread", show(row.spread, *of, "price")]
        if row.last is not None:
            words += ["last", show(row.last, *of, "price")]
        if row.last_update is not None:
            words += ["age", figures.age(row.age(picture.now)).replace(" ", "")]
        stream = picture.stream(row.stream)
        if stream is not None:
            words += [f"{figures.rate(stream.rate)}/s", f"gaps {stream.counts.get('gaps', 0)}",
                      f"resyncs {stream.counts.get('resyncs', 0)}"]
        if row.detail:
            words.append(f"({row.detail})")
        return " ".join(words)


class JsonLines:
    """One JSON object a line for each symbol, every time; see :meth:`Picture.record`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, picture: Picture) -> None:
        """Write it."""
        for row in picture.rows:
            self._out.write(encoded(picture.record(row)) + "\n")
        self._out.flush()


def encoded(value: Any) -> str:
    """JSON; exact decimals become numbers with all their digits."""
    return _encode(value).decode()


_encode = msgspec.json.Encoder(decimal_format="number").encode


def summary(picture: Picture, seconds: float) -> str:
    """What has happened in ``seconds``, a line for each stream."""
    table = [["stream", "state", "messages", "per s", "books", "gaps", "resyncs", "reconnects"]]
    for stream in picture.streams:
        messages, counts = stream.counts.get("messages", 0), stream.counts
        table.append([
            short(stream), stream.state, figures.count(messages), figures.rate(messages / max(seconds, 1e-3)),
            _books(picture, stream),
            *(figures.count(counts.get(name, 0)) for name in ("gaps", "resyncs", "reconnects"))])
    return columns(table, right=range(2, 8))


def _books(picture: Picture, stream: StreamRow) -> str:
    mine = [row for row in picture.rows if row.stream == stream.name]
    return f"{sum(row.last_update is not None for row in mine)} of {len(mine)}" if mine else ""


def short(stream: StreamRow) -> str:
    """The name of a stream without what all of them begin with."""
    return stream.name.removeprefix("streams-")


def columns(table: Sequence[Sequence[str]], right: Sequence[int] = (), gap: str = "  ") -> str:
    """Cells in aligned columns; the first row is the head."""
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell.rjust(width) if at in right else cell.ljust(width)
                 for at, (cell, width) in enumerate(zip(row, widths))]
        lines.append(gap.join(cells).rstrip())
    return "\n".join(lines)
