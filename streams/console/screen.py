"""Pictures on a terminal, by ``rich`` (the extra ``cli``).

What is shown depends on the room: columns are left out, the least important first, until the rest fits,
and rows that do not fit are counted in a last line. Nothing is said by colour alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from ..events import Level, Number
from . import figures
from .board import Picture, Row, StreamRow
from .drawing import Console, Group, Live, Padding, RenderableType, Table, Text, cell_len
from .ladders import LADDER_WIDTH, Ladders
from .lines import short
from .title import Title

__all__ = ["Screen"]

_GAP = 2                # blanks between two columns
_MOST_TREND = 40        # points of a trend
_NOTES = 12             # lines about what has happened, where there is room
_LEVELS_ONCE = 5        # levels a side of a single picture
_BESIDES = 5            # lines of a picture that are neither books nor streams

STYLES = {
    "live": "green", "syncing": "yellow", "connecting": "yellow", "stale": "bold yellow",
    "backoff": "bold yellow", "waiting": "dim", "paused": "cyan", "new": "dim", "stopped": "dim",
    "closed": "red", "failed": "bold red", "refused": "bold red",
}


@dataclass
class Column:
    """One column of a table. ``weight``: the lowest goes first where there is no room."""

    head: str
    weight: int
    cells: list[str | Text]
    right: bool = False

    @property
    def width(self) -> int:
        """Cells of the terminal it needs; some characters take two."""
        return max(cell_len(str(text)) for text in (self.head, *self.cells))


class Screen:
    """Takes over the terminal while entered, and shows one picture after the other.

    Args:
        out: The terminal.
        ladders: Show books level by level where there is room, else the best prices only.
        notes: What has happened lately, oldest first: ``(ns since the epoch, text)``.
        alternate: Use the terminal's other page, and leave what was there alone.

    Threads: one.
    """

    def __init__(self, out: TextIO, *, ladders: bool = False,
                 notes: Sequence[tuple[int, str]] | deque[tuple[int, str]] = (), alternate: bool = True,
                 console: Console | None = None) -> None:
        self._console = console or Console(file=out, highlight=False)
        self._alternate = alternate
        self._ascii = not self._console.encoding.startswith("utf")
        self._ladders = Ladders(STYLES, self._ascii) if ladders else None
        self._notes = notes
        self._digits = figures.Digits()
        self._trends: dict[tuple[str, str], deque[float]] = {}
        self._before: dict[tuple[str, str], Row] = {}
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        self._live = Live(console=self._console, screen=self._alternate, auto_refresh=False,
                          redirect_stdout=False, redirect_stderr=False)
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, picture: Picture, title: Title) -> None:
        """Draw a picture in place of the one before."""
        assert self._live is not None
        self._live.update(self.drawn(picture, title, self._console.height), refresh=True)
        self._before = {(row.exchange, row.symbol): row for row in picture.rows}

    def print(self, picture: Picture, title: Title) -> None:
        """Draw one picture where the cursor is, as high as it needs to be."""
        lines = len(picture.rows) if self._ladders is None else self._ladders.least_height(
            picture, self._console.width, _LEVELS_ONCE)
        self._console.print(self.drawn(picture, title, lines + len(picture.streams) + _BESIDES))

    def drawn(self, picture: Picture, title: Title, height: int) -> RenderableType:
        """A picture for so many lines."""
        width = self._console.width
        room = height - 2                                       # title and a blank line
        shown = max(min(len(picture.streams), room // 3), 1)
        room -= shown + 3
        books, used = self._books(picture, width, room)
        parts = [_headline(title, width), books, self._streams(picture, width, shown)]
        if room > used + 1 and self._notes:
            parts.append(self._noted(width, min(room - used - 1, _NOTES)))
        return Group(*parts)

    # -- books ---------------------------------------------------------------------------------------

    def _books(self, picture: Picture, width: int, room: int) -> tuple[RenderableType, int]:
        """The books, and how many lines they take."""
        if self._ladders is not None and width >= LADDER_WIDTH:
            size = self._ladders.fitting(picture, width, room)
            if size is not None:
                return self._ladders.drawn(picture, width, size)
        shown = picture.rows[:max(room - 3, 1)]
        return (_table(self._book_columns(picture, shown, width), width,
                       _more(len(picture.rows) - len(shown))), len(shown) + 3)

    def _book_columns(self, picture: Picture, rows: Sequence[Row], width: int) -> list[Column]:
        def cells(cell: Callable[[Row], str | Text]) -> list[str | Text]:
            return [cell(row) for row in rows]

        for row in rows:
            self._digits.learn(row.prices, row.exchange, row.symbol)
        columns = [
            Column("exchange", 100, cells(lambda row: row.exchange)),
            Column("symbol", 100, cells(lambda row: row.symbol)),
            Column("bid size", 30, cells(lambda row: self._size(row, row.bid)), right=True),
            Column("bid", 90, cells(lambda row: self._price(row, "bid")), right=True),
            Column("ask", 89, cells(lambda row: self._price(row, "ask")), right=True),
            Column("ask size", 30, cells(lambda row: self._size(row, row.ask)), right=True),
            Column("spread", 60, cells(lambda row: self._show(row, row.spread)), right=True),
            Column("last", 50, cells(self._last), right=True),
            Column("age", 70, cells(lambda row: figures.age(row.age(picture.now))), right=True),
            Column("status", 95, cells(lambda row: _status(row.status))),
        ]
        details = cells(lambda row: row.detail)
        if any(details):
            columns.append(Column("", 10, details))
        for row in picture.rows:
            self._remember(row)
        left = width - sum(column.width + _GAP for column in columns)
        if left >= 12 and not self._ascii:
            columns.append(Column("mid", 20, cells(
                lambda row: self._trend(row, min(left - _GAP, _MOST_TREND)))))
        return columns

    def _show(self, row: Row, number: Number | None) -> str:
        return self._digits.show(number, row.exchange, row.symbol)

    def _price(self, row: Row, side: str) -> Text:
        level = row.bid if side == "bid" else row.ask
        before = self._before.get((row.exchange, row.symbol))
        old = None if before is None else before.bid if side == "bid" else before.ask
        colour = "green" if side == "bid" else "red"
        changed = level is not None and old is not None and level[0] != old[0]
        return Text(self._show(row, level[0] if level else None), f"bold {colour}" if changed else colour)

    def _size(self, row: Row, level: Level | None) -> str:
        return self._digits.show(level[1] if level else None, row.exchange, row.symbol, "size")

    def _last(self, row: Row) -> Text:
        side = row.trades[0].side if row.trades else None
        return Text(self._show(row, row.last), {"buy": "green", "sell": "red"}.get(side or "", ""))

    def _remember(self, row: Row) -> None:
        if row.mid is not None:
            known = self._trends.setdefault((row.exchange, row.symbol), deque(maxlen=_MOST_TREND))
            known.append(float(row.mid))

    def _trend(self, row: Row, width: int) -> Text:
        return Text(figures.trend(list(self._trends.get((row.exchange, row.symbol), ())), width), "dim cyan")

    # -- streams and notes -----------------------------------------------------------------------------

    def _streams(self, picture: Picture, width: int, room: int) -> RenderableType:
        shown = picture.streams[:room]

        def cells(cell: Callable[[StreamRow], str | Text]) -> list[str | Text]:
            return [cell(stream) for stream in shown]

        def counter(name: str, weight: int) -> Column:
            return Column(name, weight, cells(lambda s: _alarming(s.counts.get(name, 0))), right=True)

        columns = [
            Column("stream", 100, cells(short)),
            Column("state", 90, cells(lambda s: _status(s.state))),
            Column("for", 40, cells(lambda s: figures.lasted(s.lasted)), right=True),
            Column("msg/s", 80, cells(lambda s: figures.rate(s.rate)), right=True),
            Column("messages", 30, cells(lambda s: figures.count(s.counts.get("messages", 0))), right=True),
            Column("age", 70, cells(lambda s: figures.age(s.age)), right=True),
            counter("gaps", 60), counter("resyncs", 60), counter("reconnects", 50), counter("malformed", 20),
        ]
        errors = cells(lambda s: s.error)
        if any(errors):
            room_left = width - sum(column.width + _GAP for column in columns) - _GAP
            columns.append(Column("last error", 10, [str(error)[:max(room_left, 10)] for error in errors]))
        return _table(columns, width, _more(len(picture.streams) - len(shown)))

    def _noted(self, width: int, room: int) -> RenderableType:
        notes = list(self._notes)[-room:]
        lines = [Text(f" {figures.clock(when)[:-4]}  {text}", "dim", no_wrap=True) for when, text in notes]
        for line in lines:
            line.truncate(width)
        return Text("\n").join(lines)


def _headline(title: Title, width: int) -> RenderableType:
    left, right = f" {title.name} ", f" {title.clock} "
    room = width - len(left) - len(right)
    subject = Text(f" {title.subject}")
    subject.truncate(max(room, 0), pad=True)
    line = Text(left, "bold reverse", no_wrap=True)
    line.append_text(subject)
    line.append(right[:max(width - len(left), 0)], "dim")
    return line


def _table(columns: Iterable[Column], width: int, more: str) -> RenderableType:
    kept = list(columns)
    while sum(column.width + _GAP for column in kept) > width and len(kept) > 2:
        kept.remove(min(kept, key=lambda column: column.weight))
    table = Table(box=None, padding=(0, _GAP - 1, 0, 1), pad_edge=True, header_style="dim",
                  title=None, caption=Text(more, "dim") if more else None, caption_justify="left")
    for column in kept:
        table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in kept)):
        # As they are: what is given as text would be looked through for marks like [bold].
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return Padding(table, (1, 0, 0, 0))


def _status(status: str) -> Text:
    return Text(status, STYLES.get(status, ""))


def _alarming(number: int) -> Text:
    return Text(figures.count(number), "yellow" if number else "dim")


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""
