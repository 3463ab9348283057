"""Simulated Kraken spot market data, WebSocket API v2, written from the venue's documentation.

There are no sequence numbers: every book message carries the CRC32 of the ten best levels after it,
and a level that is pushed beyond the subscribed depth is not reported as gone.
"""
from __future__ import annotations

import dataclasses
import ssl
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable

from . import frames
from .connection import Connection
from .digits import Fixed, fixed
from .kraken_wire import KrakenWire, Refused, rfc3339
from .market import Instrument, Levels, SymbolMarket, Update
from .simulation import MarketSim
from .totals import Bar, Totals
from .trouble import Outgoing
from .web import Request, Response

_INTERVALS = {1: "1m", 5: "5m", 15: "15m", 30: "30m", 60: "1h", 240: "4h", 1440: "1d", 10080: "1w"}
_DEPTHS = (10, 25, 100, 500, 1000)
_SIZE_PLACES = 8
_COVERED = 10               # levels of each side that a checksum covers, whatever the depth


class Desk:
    """What the venue knows of one symbol, and how it writes it. Threads: the market's lock is held.

    Attributes:
        views: the best levels as the subscribers of each depth have them.
    """

    def __init__(self, market: SymbolMarket, now: int) -> None:
        item = market.instrument
        self.market = market
        self.name = item.symbol
        self.views: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
        self.totals = Totals(now // 1_000_000, market.last_tick)
        self.price = Fixed(item.price_decimals, item.price_decimals)
        self.size = Fixed(item.size_decimals, _SIZE_PLACES)

    def view(self, depth: int) -> tuple[dict[int, int], dict[int, int]]:
        """Take a new view of the best levels."""
        bids, asks = self.market.top(depth)
        self.views[depth] = dict(bids), dict(asks)
        return self.views[depth]

    def book(self, depth: int, update: Update | None, spoiled: Callable[[str], bool]) -> str | None:
        """All of a view (without an update), or what has changed in it; None when nothing has.
        ``spoiled(kind)`` says whether its checksum is to be wrong."""
        before = self.views.get(depth, ({}, {})) if update is not None else ({}, {})
        now = self.view(depth)
        gone = (update.bids, update.asks) if update is not None else ({}, {})
        bids, asks = (_changed(*sides) for sides in zip(before, now, gone))
        if update is not None and not bids and not asks:
            return None
        checksum = zlib.crc32(self._covered(now[1]) + self._covered(now[0]))
        checksum ^= spoiled("snapshot" if update is None else "update")
        when = update.time if update is not None else time.time_ns()
        return (f'{{"symbol":"{self.name}","bids":[{self._levels(bids)}],"asks":[{self._levels(asks)}],'
                f'"checksum":{checksum},"timestamp":"{rfc3339(when)}"}}')

    def _covered(self, side: dict[int, int]) -> bytes:
        best = list(side.items())[:_COVERED]
        return "".join(part.replace(".", "").lstrip("0") for key, lots in best
                       for part in (self.price[key], self.size[lots])).encode("ascii")

    def _levels(self, levels: Iterable[tuple[int, int]]) -> str:
        return ",".join(f'{{"price":{self.price[key]},"qty":{self.size[lots]}}}' for key, lots in levels)

    def trades(self, update: Update) -> str:
        """Records of ``trade``."""
        return ",".join(
            f'{{"symbol":"{self.name}","side":"{"sell" if trade.seller_aggressed else "buy"}",'
            f'"price":{self.price[trade.tick]},"qty":{self.size[trade.lots]},"ord_type":"limit",'
            f'"trade_id":{trade.id},"timestamp":"{rfc3339(trade.time)}"}}' for trade in update.trades)

    def ticker(self, now: int) -> str:
        """The record of ``ticker``."""
        (bid,), (ask,) = self.market.top(1)
        day, price, size = self.totals.day, self.price, self.size
        return (f'{{"symbol":"{self.name}","bid":{price[bid[0]]},"bid_qty":{size[bid[1]]},'
                f'"ask":{price[ask[0]]},"ask_qty":{size[ask[1]]},"last":{price[day.close]},'
                f'"volume":{size[day.volume]},"vwap":{price[_mean(day)]},"low":{price[day.low]},'
                f'"high":{price[day.high]},"change":0.0,"change_pct":0.0,"timestamp":"{rfc3339(now)}"}}')

    def bar(self, minutes: int) -> str:
        """The record of ``ohlc``."""
        bar, price = self.totals.bars[_INTERVALS[minutes]], self.price
        return (f'{{"symbol":"{self.name}","open":{price[bar.open]},"high":{price[bar.high]},'
                f'"low":{price[bar.low]},"close":{price[bar.close]},"trades":{bar.count},'
                f'"volume":{self.size[bar.volume]},"vwap":{price[_mean(bar)]},'
                f'"interval_begin":"{rfc3339(bar.start * 1_000_000, 9)}","interval":{minutes},'
                f'"timestamp":"{rfc3339((bar.end + 1) * 1_000_000)}"}}')

    def rest_ticker(self) -> dict[str, object]:
        """The result of ``Ticker``."""
        (bid,), (ask,) = self.market.top(1)
        day, price, size = self.totals.day, self.price, self.size
        last = self.totals.recent[-1].lots if self.totals.recent else 0
        return {"a": [price[ask[0]], "1", size[ask[1]]], "b": [price[bid[0]], "1", size[bid[1]]],
                "c": [price[day.close], size[last]], "v": [size[day.volume]] * 2,
                "p": [price[_mean(day)]] * 2, "t": [day.count] * 2, "l": [price[day.low]] * 2,
                "h": [price[day.high]] * 2, "o": price[day.open]}

    def rest_book(self, count: int) -> dict[str, object]:
        """The result of ``Depth``."""
        now = int(time.time())

        def written(levels: Levels) -> list[list[object]]:
            return [[self.price[key], fixed(lots, self.market.instrument.size_decimals), now]
                    for key, lots in levels]
        bids, asks = self.market.top(count)
        return {"bids": written(bids), "asks": written(asks)}


class KrakenSim(MarketSim):
    """Simulated Kraken spot.

    Args:
        symbols: names such as ``BTC/USD``.
        seed, rate, port, levels, ssl_context, history, slow_every, patience, clock, send_limit:
        see `MarketSim`.
        heartbeat: seconds between heartbeats to a client with a subscription.
    """

    name = "kraken"

    def __init__(self, symbols: Iterable[str | Instrument] = ("BTC/USD", "ETH/USD"), *, seed: int = 1,
                 rate: float = 50.0, port: int = 0, levels: int = 1000,
                 ssl_context: ssl.SSLContext | None = None, history: int = 100_000,
                 slow_every: int = 10, patience: float = 5.0,
                 clock: Callable[[], int] = time.time_ns, send_limit: int = 16 << 20,
                 heartbeat: float = 1.0) -> None:
        self._heartbeat = heartbeat
        self._desks: dict[str, Desk] = {}
        self._spoiled: Counter[tuple[str, str]] = Counter()
        super().__init__(map(_instrument, symbols), seed=seed, rate=rate, port=port, levels=levels,
                         ssl_context=ssl_context, history=history, slow_every=slow_every,
                         patience=patience, clock=clock, send_limit=send_limit)

    def make_wire(self) -> KrakenWire:
        """Kraken's control language."""
        return KrakenWire(self, check=self._check_topic, subscribed=self._subscribed,
                          heartbeat=self._heartbeat)

    def spoil(self, symbol: str, count: int = 1, kind: str = "update") -> None:
        """The next ``count`` book messages of a symbol (``update`` or ``snapshot``) carry a wrong
        checksum. Threads: any."""
        with self.publishing:
            self._spoiled[self.market.known(symbol), kind] += count

    def _takes_spoiled(self, symbol: str, kind: str) -> bool:
        if not self._spoiled[symbol, kind]:
            return False
        self._spoiled[symbol, kind] -= 1
        return True

    # -- topics: ("book", depth), ("ohlc", minutes), ("ticker", trigger), ("trade", "") ----------

    def _check_topic(self, channel: str, argument: object, name: str) -> None:
        if name not in self.market.symbols:
            raise Refused(f"Currency pair not supported {name}", name)
        if channel == "book" and argument not in _DEPTHS:
            raise Refused("Subscription depth not supported")
        if channel == "ohlc" and argument not in _INTERVALS:
            raise Refused("Subscription ohlc interval not supported")
        if channel == "ticker" and argument not in ("bbo", "trades"):
            raise Refused("Event trigger not supported")

    def _subscribed(self, conn: Connection, topic: str, snapshot: bool) -> None:
        channel, argument, symbol = self._parse(topic)
        with self.market.lock:
            desk = self._desk(symbol)
            if channel == "ohlc":
                desk.totals.watch(_INTERVALS[int(argument)], self.market.clock() // 1_000_000)
            if not snapshot or channel == "trade":
                return
            if channel == "book":
                record = desk.book(int(argument), None, lambda kind: self._takes_spoiled(symbol, kind))
            else:
                bar = channel == "ohlc"
                record = desk.bar(int(argument)) if bar else desk.ticker(self.market.clock())
        self.tell(conn, topic, symbol, _message(channel, "snapshot", record or ""))

    def _parse(self, topic: str) -> tuple[str, str, str]:
        head, _, name = topic.partition(":")
        channel, _, argument = head.partition("-")
        return channel, argument, name

    def _desk(self, symbol: str) -> Desk:
        if symbol not in self._desks:
            self._desks[symbol] = Desk(self.market[symbol], self.market.clock())
        return self._desks[symbol]

    def observe(self, update: Update) -> None:
        """Count trades."""
        self._desk(update.symbol).totals.observe(update.trades, update.time // 1_000_000)

    def emit(self, update: Update) -> None:
        """Publish one update in every topic of its symbol."""
        desk = self._desks[update.symbol]
        for topic in self.topics():
            channel, argument, symbol = self._parse(topic)
            if symbol != update.symbol:
                continue
            with self.market.lock:
                record = self._record(desk, channel, argument, update)
            if record:
                message = _message(channel, "update", record)
                self.publish(topic, symbol, lambda variant: message, channel == "book")

    def _record(self, desk: Desk, channel: str, argument: str, update: Update) -> str | None:
        if channel == "book":
            return desk.book(int(argument), update, lambda kind: self._takes_spoiled(update.symbol, kind))
        if channel == "ticker":
            due = update.touches if argument == "bbo" else update.trades
            return desk.ticker(update.time) if due else None
        if not update.trades:
            return None
        return desk.trades(update) if channel == "trade" else desk.bar(int(argument))

    # -- REST -------------------------------------------------------------------------------------

    def rest(self, request: Request) -> Response:
        """``Ticker`` and ``Depth``."""
        pair = request.query.get("pair", "").replace("/", "").upper()
        symbol = next((name for name in self.market.symbols if name.replace("/", "") == pair), None)
        if request.path not in ("/0/public/Ticker", "/0/public/Depth"):
            return Response.json({"error": ["EGeneral:Unknown method"]}, 404)
        if symbol is None:
            return Response.json({"error": ["EQuery:Unknown asset pair"]})
        with self.market.lock:
            desk = self._desk(symbol)
            result = (desk.rest_ticker() if request.path.endswith("Ticker")
                      else desk.rest_book(int(request.query.get("count", "100"))))
        return Response.json({"error": [], "result": {f"X{pair}": result}})


def _instrument(symbol: str | Instrument) -> Instrument:
    """The usual steps of a coin, under the name that this venue gives the pair."""
    if isinstance(symbol, Instrument):
        return symbol
    base, slash, quote = symbol.upper().partition("/")
    if not (slash and base.isalnum() and quote.isalnum()):
        raise ValueError(f"symbol {symbol!r}: expected something like 'BTC/USD'")
    return dataclasses.replace(Instrument.named(f"{base}USDT"), symbol=f"{base}/{quote}", quote=quote)


def _changed(before: dict[int, int], now: dict[int, int], update: dict[int, int]) -> Levels:
    """What subscribers are told: never that a level was pushed out of their view."""
    gone = [(key, 0) for key in before if key not in now and update.get(key) == 0]
    return gone + [(key, lots) for key, lots in now.items() if before.get(key) != lots]


def _mean(bar: Bar) -> int:
    return bar.value // bar.volume if bar.volume else bar.close


def _message(channel: str, kind: str, records: str) -> Outgoing:
    return frames.TEXT, f'{{"channel":"{channel}","type":"{kind}","data":[{records}]}}'.encode("ascii")
