"""Order books level by level, side by side: the asks above, the bids below, the last trades under them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..events import Level
from . import figures
from .board import DEPTH, TRADES, Picture, Row
from .drawing import Panel, RenderableType, Table, Text

__all__ = ["LADDER_WIDTH", "Ladders"]

LADDER_WIDTH = 38       # characters of the narrowest ladder, its border included
_MOST_WIDTH = 60
_FIXED = 3              # lines of a ladder that are neither levels nor trades: border, and the middle


class Size(NamedTuple):
    """Lines of one ladder: levels a side, and trades."""

    levels: int
    trades: int

    @property
    def lines(self) -> int:
        """All of them."""
        return 2 * self.levels + _FIXED + self.trades


def _rows(count: int, width: int) -> int:
    """How many ladders there are one above the other."""
    return -(-count // max(width // LADDER_WIDTH, 1))


def _beside(count: int, width: int) -> int:
    """How many ladders there are side by side: in each row as many, as far as that goes."""
    return -(-count // _rows(count, width))


def _trades_below(levels: int) -> int:
    return 0 if levels <= 3 else max(levels // 3, 1)


class Ladders:
    """Draws them.

    Args:
        styles: Of statuses.
        ascii: Use no other characters.
    """

    def __init__(self, styles: Mapping[str, str], ascii: bool) -> None:
        self._styles = styles
        self._bar = figures.ascii_bar if ascii else figures.bar
        self._digits = figures.Digits()
        self._most = Size(1, 0)         # that there ever was to show: what shrinks again makes nothing jump

    def fitting(self, picture: Picture, width: int, height: int) -> Size | None:
        """How high each ladder may be in that room; None when there is not enough for two levels a side, or
        for the one that there is where prices have no depth."""
        if not picture.rows:
            return None
        self._most = most = Size(
            min(max(self._most.levels, *(len(side) for row in picture.rows for side in (row.bids, row.asks))),
                DEPTH),
            min(max(self._most.trades, *(len(row.trades) for row in picture.rows)), TRADES))
        each = height // _rows(len(picture.rows), width)
        for levels in range(most.levels, min(most.levels, 2) - 1, -1):
            size = Size(levels, min(_trades_below(levels), most.trades))
            if size.lines <= each:
                spare = each - size.lines if levels == most.levels else 0
                return size._replace(trades=min(size.trades + spare, most.trades))
        return None

    def least_height(self, picture: Picture, width: int, levels: int) -> int:
        """Lines that all of them take with so many levels a side."""
        return _rows(len(picture.rows), width) * Size(levels, _trades_below(levels)).lines

    def drawn(self, picture: Picture, width: int, size: Size) -> tuple[RenderableType, int]:
        """All books of a picture, and how many lines they take."""
        beside = _beside(len(picture.rows), width)
        each = min(width // beside, _MOST_WIDTH)
        grid = Table.grid()
        for _ in range(beside):
            grid.add_column(width=each)
        panels = [self._panel(picture, row, each, size) for row in picture.rows]
        for at in range(0, len(panels), beside):
            grid.add_row(*panels[at:at + beside])
        return grid, _rows(len(panels), width) * size.lines

    def _panel(self, picture: Picture, row: Row, width: int, size: Size) -> RenderableType:
        if len(row.bids) <= 1 and len(row.asks) <= 1:       # beside deeper ones
            size = Size(1, size.lines - Size(1, 0).lines)
        status = Text(row.status, self._styles.get(row.status, ""))
        title = Text(f"{row.exchange} {row.symbol} ", "bold").append_text(status)
        stream = picture.stream(row.stream)
        facts = [figures.age(row.age(picture.now)), f"{figures.rate(stream.rate)}/s" if stream else ""]
        body = self._levels(row, width - 4, size.levels)
        if size.trades:
            body.append("\n").append_text(self._trades(row, width - 4, size.trades))
        return Panel(body, title=title, title_align="left", subtitle=" ".join(filter(None, facts)),
                     subtitle_align="right", border_style="dim", padding=(0, 1), width=width)

    def _levels(self, row: Row, width: int, levels: int) -> Text:
        asks, bids = row.asks[:levels], row.bids[:levels]
        if row.detail and not asks and not bids:
            return self._detail(row.detail, width, 2 * levels + 1)
        largest = max((float(size) for _, size in (*asks, *bids)), default=0.0)
        self._learn(row, (*asks, *bids))
        blank = Text("")
        lines = [blank] * (levels - len(asks))
        lines += [self._level(row, level, "red", largest, width) for level in reversed(asks)]
        lines.append(self._middle(row, width))
        lines += [self._level(row, level, "green", largest, width) for level in bids]
        lines += [blank] * (levels - len(bids))
        return Text("\n").join(lines)

    @staticmethod
    def _detail(detail: str, width: int, height: int) -> Text:
        """Why there are no prices, in the place of them."""
        said = textwrap.wrap(detail, width, max_lines=height, placeholder=" ...")
        return Text("\n".join(said + [""] * (height - len(said))), "yellow")

    def _learn(self, row: Row, levels: Sequence[Level]) -> None:
        """Look at all numbers first, so that all are shown with the same number of places."""
        trades = [(trade.price, trade.size) for trade in row.trades]
        for price, size in (*levels, *trades, (row.last, row.last_size), (row.spread, None)):
            self._digits.show(price, row.exchange, row.symbol, "price")
            self._digits.show(size, row.exchange, row.symbol, "size")

    def _level(self, row: Row, level: Level, colour: str, largest: float, width: int) -> Text:
        price = self._digits.show(level[0], row.exchange, row.symbol, "price")
        size = self._digits.show(level[1], row.exchange, row.symbol, "size")
        line = Text(f"{price:>12} ", colour, no_wrap=True).append(f"{size:>12} ", "default")
        room = width - len(line)
        if room > 0 and largest > 0:
            line.append(self._bar(float(level[1]) / largest, room), f"dim {colour}")
        return line

    def _middle(self, row: Row, width: int) -> Text:
        words = []
        if row.spread is not None:
            words.append(f"spread {self._digits.show(row.spread, row.exchange, row.symbol, 'price')}")
        if row.last is not None:
            words.append(f"last {self._digits.show(row.last, row.exchange, row.symbol, 'price')}")
        return Text("  ".join(words)[:width], "bold", no_wrap=True)

    def _trades(self, row: Row, width: int, count: int) -> Text:
        lines = []
        for trade in row.trades[:min(count, TRADES)]:
            price = self._digits.show(trade.price, row.exchange, row.symbol, "price")
            size = self._digits.show(trade.size, row.exchange, row.symbol, "size")
            text = f"{price:>12} {size:>12} {trade.side or '':4}"
            if width >= len(text) + 9:
                text += " " + figures.clock(trade.received)[:8]
            style = {"buy": "green", "sell": "red"}.get(trade.side or "", "")
            lines.append(Text(text[:width], f"dim {style}", no_wrap=True))
        lines += [Text("")] * (count - len(lines))
        return Text("\n").join(lines)
