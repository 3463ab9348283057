"""Simulated Binance: spot and USD-M futures, written from the venue's documentation.

Spot: binance-spot-api-docs ``web-socket-streams.md`` and ``rest-api.md``. Futures: the USD-M
"websocket market streams" pages; update ids there come from one space shared by all symbols, so
that only ``pu`` tells whether two events follow each other.
"""
from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from functools import partial

from . import binance_rest as rest
from . import frames
from .binance_wire import BinanceWire
from .digits import Fixed, fixed
from .market import Instrument, Touch, Trade, Update
from .simulation import MarketSim
from .totals import CALENDAR, INTERVALS, Bar, Totals
from .trouble import Outgoing
from .web import Request, Response

_ORDER = ("trade", "aggTrade", "bookTicker", "depth", "partial", "kline", "ticker")


class Ledger:
    """What the venue knows of one symbol beside its book: texts, totals, merged updates."""

    def __init__(self, instrument: Instrument, places: tuple[int, int], moment: int,
                 last_tick: int) -> None:
        self.instrument = instrument
        self.price = Fixed(instrument.price_decimals, places[0])
        self.size = Fixed(instrument.size_decimals, places[1])
        self.value_places = instrument.price_decimals + instrument.size_decimals
        self.totals = Totals(moment, last_tick)
        self.topics: tuple[tuple[str, str, str], ...] = ()      # kind, argument, stream
        self.updates = 0
        self.merged: Update | None = None
        self.merged_from = 0            # the last id before what is merged

    def levels(self, levels: Iterable[tuple[int, int]]) -> str:
        """``["price","size"],...`` Threads: any."""
        price, size = self.price, self.size
        return ",".join([f'["{price[key]}","{size[lots]}"]' for key, lots in levels])


class BinanceSim(MarketSim):
    """Simulated Binance spot.

    Args:
        symbols: upper case names such as ``BTCUSDT``.
        seed, rate, port, levels, ssl_context, history, stream_lag, slow_every, patience, clock,
        send_limit: see `MarketSim`.
        snapshot_lag: a snapshot is up to this many updates behind the stream, at any update id
            in between, in the middle of an event too.
        error_form: of control messages, ``"flat"`` as documented or ``"nested"`` as observed.
        message_limit, ping_interval, pong_timeout, lifetime: see `BinanceWire`.
        weight_limit: REST request weight per minute.

    Attributes:
        used_weight: REST weight of the last minute.
    """

    name = "binance"
    futures = False

    def __init__(self, symbols: Iterable[str | Instrument] = ("BTCUSDT", "ETHUSDT"), *,
                 seed: int = 1, rate: float = 50.0, port: int = 0, levels: int = 1000,
                 ssl_context: ssl.SSLContext | None = None, history: int = 100_000,
                 stream_lag: int = 0, snapshot_lag: int = 0, slow_every: int = 10,
                 patience: float = 5.0, clock: Callable[[], int] = time.time_ns,
                 send_limit: int = 16 << 20, error_form: str = "flat",
                 message_limit: int | None = 5, ping_interval: float = 20.0,
                 pong_timeout: float = 60.0, lifetime: float | None = None,
                 weight_limit: int | None = None) -> None:
        if snapshot_lag < 0:
            raise ValueError(f"snapshot_lag {snapshot_lag}: expected 0 or more updates")
        self._wire_options = {
            "error_form": error_form, "message_limit": message_limit,
            "ping_interval": ping_interval, "pong_timeout": pong_timeout, "lifetime": lifetime}
        self.snapshot_lag = snapshot_lag
        self.weights = rest.Weights(weight_limit or (2400 if self.futures else 6000))
        self._ledgers: dict[str, Ledger] = {}
        super().__init__(symbols, seed=seed, rate=rate, port=port, levels=levels,
                         ssl_context=ssl_context, history=history, stream_lag=stream_lag,
                         slow_every=slow_every, patience=patience, clock=clock,
                         send_limit=send_limit)
        self.api = rest.RestApi(self, self.ledger)

    def make_wire(self) -> BinanceWire:
        """Binance's control language."""
        return BinanceWire(self, futures=self.futures,
                           **self._wire_options)  # type: ignore[arg-type]

    @property
    def used_weight(self) -> int:
        """REST weight of the last minute. Threads: any."""
        return self.weights.used()

    def shutdown_notice(self, close_after: float | None = None) -> None:
        """Tell all clients that the server is about to go (``serverShutdown``).

        Args:
            close_after: seconds until the connections are closed; None leaves them open.

        Threads: any.
        """
        event = f'{{"e":"serverShutdown","E":{self.market.clock() // 1_000_000}}}'
        for conn in self.connections:
            if conn.variant[0]:
                conn.send(f'{{"stream":"!serverShutdown","data":{event}}}')
            else:
                conn.send(event)
            if close_after is not None:
                conn.after(close_after, partial(conn.close, 1001, "shutdown"))

    # -- REST -----------------------------------------------------------------------------------

    def wants_snapshot(self, request: Request) -> bool:
        """``/api/v3/depth``, ``/fapi/v1/depth``."""
        return request.path == self.api.prefix + "/depth"

    def snapshot(self, request: Request, updates_ago: int) -> Response:
        """The order book, possibly an old one."""
        return self.api.depth(request, updates_ago)

    def rest(self, request: Request) -> Response:
        """Everything else."""
        return self.api.answer(request)

    # -- streams --------------------------------------------------------------------------------

    def ledger(self, symbol: str) -> Ledger:
        """What the venue knows of a symbol beside its book. Threads: while `publishing`."""
        if symbol not in self._ledgers:
            market = self.market[symbol]
            item = market.instrument
            places = ((item.price_decimals, item.size_decimals) if self.futures else (8, 8))
            self._ledgers[symbol] = Ledger(item, places, self.market.clock() // 1_000_000,
                                           market.last_tick)
        return self._ledgers[symbol]

    def position(self, topic: str) -> int:
        """The update id that the stream of a symbol has come to."""
        symbol = topic.partition("@")[0].upper()
        return self.market[symbol].sequence if symbol in self.market.symbols else 0

    def topic_added(self, topic: str) -> None:
        """Note which streams of a symbol have to be made."""
        name, _, stream = topic.partition("@")
        if name != name.lower() or name.upper() not in self.market.symbols:
            return
        parsed = self._parse(stream)
        ledger = self.ledger(name.upper())
        if parsed is None or any(known[2] == topic for known in ledger.topics):
            return
        if parsed[0] == "kline":
            ledger.totals.watch(parsed[1], self.market.clock() // 1_000_000)
        ledger.topics = tuple(sorted((*ledger.topics, (*parsed, topic)),
                                     key=lambda item: _ORDER.index(item[0])))

    def _parse(self, stream: str) -> tuple[str, str] | None:
        """Kind and argument of what follows the first ``@``; None if there is no such stream."""
        name, _, speed = stream.partition("@")
        if name.startswith("kline_") and not speed:
            interval = name[len("kline_"):]
            known = interval in INTERVALS or interval in CALENDAR
            return ("kline", interval) if known and interval != "1y" else None
        if name.startswith("depth"):
            if speed not in (("", "100ms", "500ms") if self.futures else ("", "100ms")):
                return None
            if name == "depth":
                return "depth", speed
            return ("partial", name[5:]) if name[5:] in ("5", "10", "20") else None
        plain = ("aggTrade", "bookTicker", "ticker") + (() if self.futures else ("trade",))
        return (name, "") if name in plain and not speed else None

    def observe(self, update: Update) -> None:
        """Count trades and close bars."""
        ledger = self.ledger(update.symbol)
        moment = update.time // 1_000_000
        for bar in ledger.totals.observe(update.trades, moment):
            for kind, interval, topic in ledger.topics:
                if kind == "kline" and interval == bar.interval:
                    self._publish_bar(ledger, topic, bar, update, True)

    def emit(self, update: Update) -> None:
        """Publish one update on every stream of its symbol that somebody listens to."""
        ledger = self._ledgers[update.symbol]
        ledger.updates += 1
        slow = ledger.updates % self.slow_every == 0
        if ledger.merged is None:
            ledger.merged_from = update.previous
            ledger.merged = _copy(update)
        else:
            ledger.merged.merge(update)
        for kind, argument, topic in ledger.topics:
            if not self.subscribers(topic):
                ledger.topics = tuple(item for item in ledger.topics if item[2] != topic)
            elif kind == "depth" and argument == "100ms":
                self._publish_depth(ledger, topic, update, update.previous)
            elif kind == "bookTicker":
                for touch in update.touches:
                    self._publish_touch(ledger, topic, touch, update)
            elif kind in ("trade", "aggTrade"):
                for trade in update.trades:
                    self._publish_trade(ledger, topic, kind, trade)
            elif kind == "partial" and (slow or topic.endswith("@100ms")):
                self._publish_partial(ledger, topic, int(argument), update)
            elif not slow:
                continue
            elif kind == "depth":
                self._publish_depth(ledger, topic, ledger.merged, ledger.merged_from)
            elif kind == "kline":
                bar = ledger.totals.bars[argument]
                self._publish_bar(ledger, topic, bar, update, False)
            elif kind == "ticker":
                self._publish_ticker(ledger, topic, update)
        if slow:
            ledger.merged = None

    def _publish(self, topic: str, symbol: str, render: Callable[[int], str],
                 book: bool = False) -> None:
        """``render(unit)`` makes the payload; unit: nanoseconds per unit of time fields."""
        def outgoing(variant: tuple[object, ...]) -> Outgoing:
            text = render(1000 if variant[1] else 1_000_000)
            if variant[0]:
                text = f'{{"stream":"{topic}","data":{text}}}'
            return frames.TEXT, text.encode("ascii")
        self.publish(topic, symbol, outgoing, book)

    def _publish_depth(self, ledger: Ledger, topic: str, update: Update, before: int) -> None:
        bids = ledger.levels(sorted(update.bids.items()))
        asks = ledger.levels(sorted(update.asks.items()))

        def render(unit: int) -> str:
            moment = update.time // unit
            matched = f'"T":{moment},' if self.futures else ""
            chain = f'"pu":{before},' if self.futures else ""
            return (f'{{"e":"depthUpdate","E":{moment},{matched}"s":"{update.symbol}",'
                    f'"U":{update.first},"u":{update.last},{chain}"b":[{bids}],"a":[{asks}]}}')
        self._publish(topic, update.symbol, render, True)

    def _publish_touch(self, ledger: Ledger, topic: str, touch: Touch, update: Update) -> None:
        price, size = ledger.price, ledger.size
        top = (f'"s":"{update.symbol}","b":"{price[touch.bid]}","B":"{size[touch.bid_lots]}",'
               f'"a":"{price[touch.ask]}","A":"{size[touch.ask_lots]}"')

        def render(unit: int) -> str:
            if not self.futures:
                return f'{{"u":{touch.sequence},{top}}}'
            moment = update.time // unit
            return (f'{{"e":"bookTicker","u":{touch.sequence},{top},"T":{moment},'
                    f'"E":{moment}}}')
        self._publish(topic, update.symbol, render)

    def _publish_trade(self, ledger: Ledger, topic: str, kind: str, trade: Trade) -> None:
        maker = "true" if trade.seller_aggressed else "false"
        symbol = ledger.instrument.symbol
        traded = f'"p":"{ledger.price[trade.tick]}","q":"{ledger.size[trade.lots]}"'
        ignored = "" if self.futures else ',"M":true'

        def render(unit: int) -> str:
            moment = trade.time // unit
            if kind == "trade":
                return (f'{{"e":"trade","E":{moment},"s":"{symbol}","t":{trade.id},{traded},'
                        f'"T":{moment},"m":{maker}{ignored}}}')
            return (f'{{"e":"aggTrade","E":{moment},"s":"{symbol}","a":{trade.id - 500},{traded},'
                    f'"f":{trade.id},"l":{trade.id},"T":{moment},"m":{maker}{ignored}}}')
        self._publish(topic, symbol, render)

    def _publish_partial(self, ledger: Ledger, topic: str, count: int, update: Update) -> None:
        with self.market.lock:
            top = self.market[update.symbol].top(count)
            sequence = self.market[update.symbol].sequence
        bids, asks = (ledger.levels(side) for side in top)

        def render(unit: int) -> str:
            if not self.futures:
                return f'{{"lastUpdateId":{sequence},"bids":[{bids}],"asks":[{asks}]}}'
            moment = update.time // unit
            return (f'{{"e":"depthUpdate","E":{moment},"T":{moment},"s":"{update.symbol}",'
                    f'"U":{update.first},"u":{sequence},"pu":{update.previous},"b":[{bids}],'
                    f'"a":[{asks}]}}')
        self._publish(topic, update.symbol, render)

    def _publish_bar(self, ledger: Ledger, topic: str, bar: Bar, update: Update,
                     closed: bool) -> None:
        price, size, places = ledger.price, ledger.size, ledger.value_places

        def render(unit: int) -> str:
            scale = 1_000_000 // unit
            start, end = bar.start * scale, (bar.end + 1) * scale - 1
            return (f'{{"e":"kline","E":{update.time // unit},"s":"{update.symbol}","k":{{'
                    f'"t":{start},"T":{end},"s":"{update.symbol}","i":"{bar.interval}",'
                    f'"f":{bar.first_id},"L":{bar.last_id},"o":"{price[bar.open]}",'
                    f'"c":"{price[bar.close]}","h":"{price[bar.high]}","l":"{price[bar.low]}",'
                    f'"v":"{size[bar.volume]}","n":{bar.count},'
                    f'"x":{"true" if closed else "false"},"q":"{fixed(bar.value, places)}",'
                    f'"V":"{size[bar.bought_volume]}",'
                    f'"Q":"{fixed(bar.bought_value, places)}","B":"0"}}}}')
        self._publish(topic, update.symbol, render)

    def _publish_ticker(self, ledger: Ledger, topic: str, update: Update) -> None:
        day = ledger.totals.day
        with self.market.lock:
            bids, asks = self.market[update.symbol].top(1)
        fields = rest.day_fields(ledger, bids, asks)
        names = _TICKER_NAMES if self.futures else {**_TICKER_NAMES, **_TICKER_TOUCH}
        body = ",".join(f'"{short}":"{fields[long]}"' for short, long in names.items())

        def render(unit: int) -> str:
            scale = 1_000_000 // unit
            return (f'{{"e":"24hrTicker","E":{update.time // unit},"s":"{update.symbol}",{body},'
                    f'"O":{day.start * scale},"C":{day.end * scale},"F":{day.first_id},'
                    f'"L":{day.last_id},"n":{day.count}}}')
        self._publish(topic, update.symbol, render)


_TICKER_NAMES = {
    "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "c": "lastPrice",
    "Q": "lastQty", "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume",
    "q": "quoteVolume"}
_TICKER_TOUCH = {"x": "prevClosePrice", "b": "bidPrice", "B": "bidQty", "a": "askPrice",
                 "A": "askQty"}


def _copy(update: Update) -> Update:
    copy = Update(update.symbol, update.previous, update.time)
    copy.first = update.first
    copy.merge(update)
    return copy


class BinanceFuturesSim(BinanceSim):
    """Simulated Binance USD-M futures; arguments as `BinanceSim`.

    Streams are split by category (``/public``, ``/market``, ``/private``); a stream of the other
    category is acknowledged and stays silent, and the retired addresses ``/ws`` and ``/stream``
    only carry the public category.
    """

    name = "binance-futures"
    futures = True
    id_step = "shared"
