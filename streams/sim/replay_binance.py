"""Replaying Binance: spot and its sister venues, USD-M and COIN-M futures."""
from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from . import frames
from .binance_wire import BinanceWire
from .replay_dialect import Dialect, Frame, Truth
from .trouble import Outgoing
from .web import Request, Response

if TYPE_CHECKING:
    from .venue import VenueServer

_COMBINED = re.compile(rb'\{"stream":"([^"]+)","data":(.*)\}\s*', re.DOTALL)
_LAST_ID = re.compile(rb'"u":(\d+)')
_QUOTES = ("usdt", "busd", "usdc", "btc", "eth", "bnb", "usd", "eur", "brl")

_Side = dict[Decimal, tuple[str, str]]


class BinanceTruth(Truth):
    """The book, with prices and sizes as the venue wrote them."""

    def __init__(self, futures: bool) -> None:
        self._futures = futures
        self._bids: _Side = {}
        self._asks: _Side = {}

    def begin(self, snapshot: bytes) -> None:
        """Take a recorded REST answer."""
        book = json.loads(snapshot)
        self.sequence = int(book["lastUpdateId"])
        self._bids, self._asks = {}, {}
        _change(self._bids, book["bids"])
        _change(self._asks, book["asks"])
        self.is_known = True

    def apply(self, payload: bytes) -> None:
        """Apply a recorded ``depthUpdate``.

        On futures the one that ends with the snapshot's own id counts: the documents drop what
        ends before it, and some of its changes may be later than the snapshot.
        """
        last = self.last_id(payload)
        if last < self.sequence or last == self.sequence and not self._futures:
            return
        event = json.loads(payload)
        self.sequence = int(event["u"])
        _change(self._bids, event["b"])
        _change(self._asks, event["a"])

    def last_id(self, payload: bytes) -> int:
        """``u`` of a recorded ``depthUpdate``."""
        found = _LAST_ID.search(payload)
        return int(found[1]) if found else 0

    def body(self, limit: int | None) -> bytes:
        """``lastUpdateId``, ``bids`` and ``asks``."""
        book: dict[str, object] = {"lastUpdateId": self.sequence}
        if self._futures:
            book |= {"E": time.time_ns() // 1_000_000, "T": time.time_ns() // 1_000_000}
        book |= {"bids": _sorted(self._bids, True)[:limit],
                 "asks": _sorted(self._asks, False)[:limit]}
        return json.dumps(book, separators=(",", ":")).encode("ascii")


def _change(side: _Side, levels: Iterable[list[str]]) -> None:
    for price, size in levels:
        if float(size):
            side[Decimal(price)] = price, size
        else:
            side.pop(Decimal(price), None)


def _sorted(side: _Side, descending: bool) -> list[tuple[str, str]]:
    return [side[price] for price in sorted(side, reverse=descending)]


class BinanceDialect(Dialect):
    """Combined-stream recordings, served combined or raw."""

    def __init__(self, exchange: str) -> None:
        self.exchange = exchange
        self._futures = exchange == "binance-futures"

    def wire(self, server: VenueServer) -> BinanceWire:
        """Binance's control language, without limits that real clients of the time kept."""
        return BinanceWire(server, futures=self._futures, error_form="flat", message_limit=5,
                           ping_interval=20.0, pong_timeout=60.0, lifetime=None)

    def parse(self, data: bytes) -> Frame | None:
        """One ``{"stream":...,"data":...}``."""
        match = _COMBINED.fullmatch(data)
        if match is None:
            return None
        lane = self.lane_of(match[1].decode("utf-8"))
        symbol, _, kind = lane.partition("@")
        return Frame(lane, symbol, kind == "depth", match[2])

    def lane_of(self, topic: str) -> str:
        """Diff depth is served at the recorded speed, whatever speed a client asks for."""
        symbol, _, kind = topic.partition("@")
        return f"{symbol}@depth" if kind.partition("@")[0] == "depth" else topic

    def message(self, topic: str, payload: bytes, variant: tuple[object, ...]) -> Outgoing:
        """Wrapped with the client's own stream name where it wants that."""
        if variant[0]:
            payload = b'{"stream":"%b","data":%b}' % (topic.encode("utf-8"), payload)
        return frames.TEXT, payload

    def truth(self) -> BinanceTruth:
        """Diff depth needs a book."""
        return BinanceTruth(self._futures)

    def no_symbol(self) -> Response:
        """As the venue says it."""
        return Response.json({"code": -1121, "msg": "Invalid symbol."}, 400)

    def rest(self, request: Request, symbols: Iterable[str]) -> Response:
        """``exchangeInfo`` of the recorded symbols, where it was not recorded."""
        if request.path.endswith("/ping"):
            return Response.json({})
        if request.path.endswith("/time"):
            return Response.json({"serverTime": time.time_ns() // 1_000_000})
        if not request.path.endswith("/exchangeInfo"):
            return super().rest(request, symbols)
        return Response.json({"timezone": "UTC", "serverTime": time.time_ns() // 1_000_000,
                              "rateLimits": [], "exchangeFilters": [],
                              "symbols": [_describe(symbol) for symbol in symbols]})


def _describe(symbol: str) -> dict[str, object]:
    pair = symbol.partition("_")[0]
    quote = next((quote for quote in _QUOTES if pair.endswith(quote)), pair[-3:])
    return {"symbol": symbol.upper(), "status": "TRADING",
            "baseAsset": pair[:-len(quote)].upper(), "quoteAsset": quote.upper(), "filters": []}
