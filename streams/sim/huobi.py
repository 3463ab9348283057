"""Simulated Huobi/HTX spot market data, written from the venue's documentation.

Sequence numbers of ``mbp`` go on in arbitrary steps; an update names its own number and the one
of the update before it in the same topic, which is what a refresh has to meet.
"""
from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterable

from .connection import Connection
from .faults import Fault
from .huobi_desk import Desk, View
from .huobi_wire import HuobiWire, Refused, pack
from .market import Instrument, Update
from .simulation import MarketSim
from .trouble import Outgoing
from .web import Request, Response

_PERIODS = {"1min": "1m", "5min": "5m", "15min": "15m", "30min": "30m", "60min": "1h",
            "4hour": "4h", "1day": "1d", "1week": "1w", "1mon": "1M", "1year": "1y"}
_TOPIC = re.compile(
    r"market\.(?P<symbol>[a-z0-9]+)\.(?:"
    r"depth\.step(?P<step>[0-5])|mbp\.(?P<mbp>5|20|150|400)|mbp\.refresh\.(?P<refresh>5|10|20)"
    r"|kline\.(?P<kline>\w+)|(?P<plain>bbo|trade\.detail|detail|ticker))")


class HuobiSim(MarketSim):
    """Simulated Huobi/HTX spot.

    Args:
        symbols: names such as ``BTCUSDT``; the venue writes them in lower case.
        seed, rate, port, levels, ssl_context, history, slow_every, patience, clock, send_limit:
        see `MarketSim`.
        ping_interval, missed_pongs, answers_frames: see `HuobiWire`.
        stale_refresh: how many answers to ``req`` of ``mbp`` come too old at first, on each
            connection and topic.
        fast_symbols: the symbols that ``mbp.5`` and ``mbp.20`` exist for; None: all.
    """

    name = "huobi"
    id_step = "jumps"

    def __init__(self, symbols: Iterable[str | Instrument] = ("BTCUSDT", "ETHUSDT"), *,
                 seed: int = 1, rate: float = 50.0, port: int = 0, levels: int = 1000,
                 ssl_context: ssl.SSLContext | None = None, history: int = 100_000,
                 slow_every: int = 10, patience: float = 5.0,
                 clock: Callable[[], int] = time.time_ns, send_limit: int = 16 << 20,
                 ping_interval: float = 5.0, missed_pongs: int = 2, answers_frames: bool = True,
                 stale_refresh: int = 0, fast_symbols: Iterable[str] | None = None) -> None:
        self._heartbeat = ping_interval, missed_pongs, answers_frames
        self.stale_refresh = stale_refresh
        self.fast_symbols = None if fast_symbols is None else {
            symbol.upper() for symbol in fast_symbols}
        self._desks: dict[str, Desk] = {}
        self._stale: dict[tuple[int, str], tuple[int, int]] = {}    # answers left, sequence
        super().__init__(symbols, seed=seed, rate=rate, port=port, levels=levels,
                         ssl_context=ssl_context, history=history, slow_every=slow_every,
                         patience=patience, clock=clock, send_limit=send_limit)

    def make_wire(self) -> HuobiWire:
        """Huobi's control language."""
        return HuobiWire(self, paths=("/ws", "/feed"), check=self._check_topic,
                         request=self._answer_req, subscribed=self._subscribed,
                         ping_interval=self._heartbeat[0], missed_pongs=self._heartbeat[1],
                         answers_frames=self._heartbeat[2])

    # -- topics ---------------------------------------------------------------------------------

    def _parse(self, topic: str) -> tuple[str, str, str] | None:
        """Symbol (upper case), kind and argument; None if there is no such topic."""
        match = _TOPIC.fullmatch(topic)
        if match is None or match["symbol"].upper() not in self.market.symbols:
            return None
        symbol = match["symbol"].upper()
        for kind in ("step", "mbp", "refresh", "kline"):
            if match[kind] is not None:
                known = kind != "kline" or match[kind] in _PERIODS
                return (symbol, kind, match[kind]) if known else None
        return symbol, match["plain"], ""

    def _check_topic(self, topic: str, path: str) -> None:
        parsed = self._parse(topic)
        if parsed is None or (parsed[1] == "mbp") != (path == "/feed"):
            raise Refused(f"invalid topic {topic}")
        symbol, kind, argument = parsed
        if kind == "mbp" and argument in ("5", "20") and self.fast_symbols is not None:
            if symbol not in self.fast_symbols:
                raise Refused(f"invalid mbp.{argument}.symbol {symbol.lower()}")

    def _subscribed(self, conn: Connection, topic: str) -> None:
        parsed = self._parse(topic)
        assert parsed is not None
        symbol, kind, argument = parsed
        with self.market.lock:
            desk = self._desk(symbol)
            if kind == "mbp":
                desk.views.setdefault(int(argument), desk.view(int(argument)))
                self._stale[conn.id, topic] = self.stale_refresh, desk.market.sequence
            elif kind == "trade.detail" and desk.totals.recent:
                old = [desk.totals.recent[-1]]      # the venue begins with a trade that is old
                self.tell(conn, topic, symbol, self._message(topic, old[0].time,
                                                             desk.trades(old)))

    def topic_added(self, topic: str) -> None:
        """Note which topics of a symbol have to be made."""
        parsed = self._parse(topic)
        assert parsed is not None
        symbol, kind, argument = parsed
        with self.market.lock:
            desk = self._desk(symbol)
            if kind == "kline":
                desk.totals.watch(_PERIODS[argument], self.market.clock() // 1_000_000)
            if all(known[2] != topic for known in desk.topics):
                desk.topics = (*desk.topics, (kind, argument, topic))

    def position(self, topic: str) -> int:
        """The sequence number that a topic has come to."""
        parsed = self._parse(topic)
        if parsed is None:
            return 0
        symbol, kind, argument = parsed
        with self.market.lock:
            desk = self._desk(symbol)
            return desk.view(int(argument)).sequence if kind == "mbp" else desk.market.sequence

    def _desk(self, symbol: str) -> Desk:
        if symbol not in self._desks:
            self._desks[symbol] = Desk(self.market[symbol], self.market.clock)
        return self._desks[symbol]

    def observe(self, update: Update) -> None:
        """Count trades."""
        self._desk(update.symbol).totals.observe(update.trades, update.time // 1_000_000)

    def emit(self, update: Update) -> None:
        """Publish one update in every topic of its symbol that somebody listens to."""
        desk = self._desks[update.symbol]
        desk.updates += 1
        for kind, argument, topic in desk.topics:
            if not self.subscribers(topic):
                desk.topics = tuple(item for item in desk.topics if item[2] != topic)
                if kind == "mbp":
                    desk.views.pop(int(argument), None)
                continue
            with self.market.lock:
                ticks = self._ticks(desk, kind, argument, update)
            for tick in ticks:
                message = self._message(topic, update.time, tick)
                self.publish(topic, update.symbol, lambda variant: message,
                             kind in ("mbp", "step"))

    def _ticks(self, desk: Desk, kind: str, argument: str, update: Update) -> list[str]:
        """The ``tick`` parts of what a topic has to say about an update."""
        if kind == "mbp":
            changed = desk.mbp(int(argument))
            return [] if changed is None else [changed]
        if kind == "step":
            return [desk.step(int(argument))]
        if kind == "refresh":
            return [desk.top(int(argument))]
        if kind == "bbo":
            return desk.touches(update)
        if kind == "trade.detail":
            return [desk.trades(update.trades)] if update.trades else []
        if desk.updates % self.slow_every:
            return []
        if kind == "kline":
            return [desk.bar(desk.totals.bars[_PERIODS[argument]])]
        return [desk.detail() if kind == "detail" else desk.ticker()]

    @staticmethod
    def _message(topic: str, moment: int, tick: str) -> Outgoing:
        return pack(f'{{"ch":"{topic}","ts":{moment // 1_000_000},"tick":{tick}}}')

    # -- req ------------------------------------------------------------------------------------

    def _answer_req(self, conn: Connection, topic: str) -> str | None:
        parsed = self._parse(topic)
        assert parsed is not None
        symbol, kind, argument = parsed
        if kind not in ("mbp", "step"):
            raise Refused(f"invalid req {topic}")
        with self.publishing, self.market.lock:
            desk = self._desk(symbol)
            if kind == "step":
                return desk.step(int(argument))
            fault = self.plans.take("snapshot")
            if fault is not None:
                self.plans.count(fault)
            if fault is not None and fault.name != "snapshot_stale":
                return self._broken_refresh(fault)
            left, subscribed_at = self._stale.get((conn.id, topic), (0, 0))
            if fault is not None:
                old = desk.market.ids_ago(int(fault.number("updates")))[0]
            elif left:
                self._stale[conn.id, topic] = left - 1, subscribed_at
                old = subscribed_at - 1
            else:
                return desk.refresh(desk.view(int(argument)))
            book, count = self.market.book(symbol, old), int(argument)
            return desk.refresh(View(book.sequence, book.bid_levels[:count],
                                     book.ask_levels[:count]))

    @staticmethod
    def _broken_refresh(fault: Fault) -> str | None:
        if fault.name == "snapshot_hang":
            return None
        if fault.name == "snapshot_garbage":
            return '{"seqNum":null,"bids":[["x",{}]]}'
        if fault.name == "snapshot_500":
            raise Refused("system error", "system-error")
        raise Refused("too many requests", "too-many-request")

    def on_close(self, conn: Connection) -> None:
        """Forget the client."""
        super().on_close(conn)
        for key in [key for key in self._stale.copy() if key[0] == conn.id]:
            self._stale.pop(key, None)

    # -- REST -----------------------------------------------------------------------------------

    def wants_snapshot(self, request: Request) -> bool:
        """``/market/depth``."""
        return request.path == "/market/depth"

    def snapshot(self, request: Request, updates_ago: int) -> Response:
        """The order book as ``depth.stepN`` has it; an old one for the fault of that kind."""
        symbol = request.query.get("symbol", "").upper()
        kind = request.query.get("type", "step0")
        if symbol not in self.market.symbols:
            return _error("invalid-parameter", "invalid symbol")
        if not re.fullmatch("step[0-5]", kind):
            return _error("invalid-parameter", "invalid type")
        with self.market.lock:
            desk = self._desk(symbol)
            if updates_ago:
                old = self.market.book(symbol, desk.market.ids_ago(updates_ago)[0])
                tick = desk.refresh(View(old.sequence, old.bid_levels[:150],
                                         old.ask_levels[:150])).replace("seqNum", "version")
            else:
                tick = desk.step(int(kind[-1]))
        return self._answer(f"market.{symbol.lower()}.depth.{kind}", tick)

    def rest(self, request: Request) -> Response:
        """The other requests."""
        if request.path == "/v1/common/symbols":
            return Response.json({"status": "ok", "data": [
                self._describe(self.market[symbol].instrument) for symbol in self.market.symbols]})
        if request.path == "/v1/common/timestamp":
            return Response.json({"status": "ok", "data": self.market.clock() // 1_000_000})
        if request.path != "/market/detail/merged":
            return Response.json({"status": "error", "err-code": "not-found"}, 404)
        symbol = request.query.get("symbol", "").upper()
        if symbol not in self.market.symbols:
            return _error("invalid-parameter", "invalid symbol")
        with self.market.lock:
            tick = self._desk(symbol).merged()
        return self._answer(f"market.{symbol.lower()}.detail.merged", tick)

    def broken_snapshot(self, fault: Fault) -> Response:
        """The venue's own error where it is not one of HTTP."""
        if fault.name == "snapshot_garbage":
            return Response(200, b'{"ch":"market.btcusdt.depth.step0","tick":{"bids":[[1.0')
        if fault.name == "snapshot_500":
            return _error("system-error", "system error", 500)
        return super().broken_snapshot(fault)

    def _answer(self, topic: str, tick: str) -> Response:
        return Response(200, (f'{{"ch":"{topic}","status":"ok",'
                              f'"ts":{self.market.clock() // 1_000_000},'
                              f'"tick":{tick}}}').encode("ascii"))

    @staticmethod
    def _describe(item: Instrument) -> dict[str, object]:
        return {"base-currency": item.base.lower(), "quote-currency": item.quote.lower(),
                "price-precision": item.price_decimals, "amount-precision": item.size_decimals,
                "symbol-partition": "main", "symbol": item.symbol.lower(), "state": "online",
                "value-precision": 8, "api-trading": "enabled"}


def _error(code: str, text: str, status: int = 200) -> Response:
    return Response.json({"status": "error", "err-code": code, "err-msg": text,
                          "ts": time.time_ns() // 1_000_000}, status)
