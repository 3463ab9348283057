"""The REST side of simulated Binance.

Source: binance-spot-api-docs ``rest-api.md`` (general information, market data endpoints); for
futures the USD-M "market data endpoints" pages.
"""
from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .digits import fixed
from .market import Levels
from .web import Request, Response

if TYPE_CHECKING:
    from .binance import BinanceSim, Ledger

_MINUTE = 60.0
_BAN_AFTER = 10         # requests that go on after a 429 until it becomes a 418
_FUTURES_LIMITS = (5, 10, 20, 50, 100, 500, 1000)


class Weights:
    """Request weight in a rolling minute, one client address for all. Threads: any."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spent: deque[tuple[float, int]] = deque()
        self._refused = 0
        self._lock = threading.Lock()

    def used(self) -> int:
        """Weight of the last minute."""
        with self._lock:
            return self._used(time.monotonic())

    def _used(self, now: float) -> int:
        while self._spent and self._spent[0][0] <= now - _MINUTE:
            self._spent.popleft()
        return sum(weight for _, weight in self._spent)

    def spend(self, weight: int) -> Response | None:
        """Account for a request; the refusal if that is too much."""
        with self._lock:
            now = time.monotonic()
            if self._used(now) + weight <= self.limit:
                self._spent.append((now, weight))
                self._refused = 0
                return None
            self._refused += 1
            after = max(1, int(self._spent[0][0] + _MINUTE - now) + 1) if self._spent else 60
            banned = self._refused > _BAN_AFTER
        return Response.json(
            {"code": -1003, "msg": "Way too much request weight used; IP banned." if banned
             else "Too much request weight used."},
            418 if banned else 429, (("Retry-After", str(120 if banned else after)),))


class RestApi:
    """Answers requests from the market and the ledgers."""

    def __init__(self, sim: BinanceSim, ledger: Callable[[str], Ledger]) -> None:
        self._sim = sim
        self._ledger = ledger
        self._random = random.Random(0)
        self.prefix = "/fapi/v1" if sim.futures else "/api/v3"

    def answer(self, request: Request) -> Response:
        """Any request but the order book. Threads: any."""
        endpoints: dict[str, tuple[int, Callable[[Request], object]]] = {
            "/ping": (1, lambda request: {}),
            "/time": (1, lambda request: {"serverTime": self._now()}),
            "/exchangeInfo": (20, self._exchange_info),
            "/ticker/24hr": (2 if "symbol" in request.query else 80, self._day),
            "/ticker/bookTicker": (2 if "symbol" in request.query else 4, self._touch),
            "/trades": (25, self._trades),
        }
        found = endpoints.get(request.path[len(self.prefix):])
        if found is None or not request.path.startswith(self.prefix):
            return Response.json({"code": -1, "msg": f"no {request.path}"}, 404)
        weight, endpoint = found
        return self._spend(weight) or self._answered(endpoint, request)

    def depth(self, request: Request, updates_ago: int) -> Response:
        """The order book, at most ``updates_ago`` (or the simulator's lag) updates old.

        Threads: any.
        """
        try:
            symbol, limit = self._symbol(request), self._limit(request)
        except _BadRequest as error:
            return error.response
        return self._spend(self._depth_weight(limit)) or self._depth(symbol, limit, updates_ago)

    def _depth(self, symbol: str, limit: int, updates_ago: int) -> Response:
        sim = self._sim
        with sim.publishing, sim.market.lock:
            market = sim.market[symbol]
            if updates_ago:
                wanted = market.ids_ago(updates_ago)[0]
            else:
                wanted = self._random.randint(*market.ids_ago(sim.snapshot_lag))
            book = sim.market.book(symbol, wanted)
            ledger = self._ledger(symbol)
            bids = ledger.levels(book.bid_levels[:limit])
            asks = ledger.levels(book.ask_levels[:limit])
        times = f'"E":{self._now()},"T":{self._now()},' if sim.futures else ""
        body = (f'{{"lastUpdateId":{book.sequence},{times}"bids":[{bids}],"asks":[{asks}]}}')
        return Response(200, body.encode("ascii"), self._weight_header())

    def _answered(self, endpoint: Callable[[Request], object], request: Request) -> Response:
        try:
            with self._sim.publishing, self._sim.market.lock:
                value = endpoint(request)
        except _BadRequest as error:
            return error.response
        return Response(200, json.dumps(value, separators=(",", ":")).encode("ascii"),
                        self._weight_header())

    def _spend(self, weight: int) -> Response | None:
        return self._sim.weights.spend(weight)

    def _weight_header(self) -> tuple[tuple[str, str], ...]:
        return (("X-MBX-USED-WEIGHT-1M", str(self._sim.weights.used())),)

    def _now(self) -> int:
        return self._sim.market.clock() // 1_000_000

    def _symbol(self, request: Request) -> str:
        symbol = request.query.get("symbol", "")
        if not symbol:
            raise _BadRequest(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, "
                                     "or malformed.")
        if symbol not in self._sim.market.symbols:
            raise _BadRequest(-1121, "Invalid symbol.")
        return symbol

    def _symbols(self, request: Request) -> list[str]:
        if "symbol" in request.query:
            return [self._symbol(request)]
        if "symbols" in request.query:
            try:
                wanted = json.loads(request.query["symbols"])
            except ValueError:
                raise _BadRequest(-1101, "Illegal characters found in parameter "
                                         "'symbols'.") from None
            if any(symbol not in self._sim.market.symbols for symbol in wanted):
                raise _BadRequest(-1121, "Invalid symbol.")
            return list(wanted)
        return list(self._sim.market.symbols)

    def _limit(self, request: Request) -> int:
        futures = self._sim.futures
        text = request.query.get("limit", "500" if futures else "100")
        if not text.isdigit() or int(text) < 1 or futures and int(text) not in _FUTURES_LIMITS:
            raise _BadRequest(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(int(text), 5000)

    def _depth_weight(self, limit: int) -> int:
        steps = (((50, 2), (100, 5), (500, 10), (1000, 20)) if self._sim.futures
                 else ((100, 5), (500, 25), (1000, 50), (5000, 250)))
        return next(weight for most, weight in steps if limit <= most)

    def _exchange_info(self, request: Request) -> object:
        symbols = []
        for symbol in self._symbols(request):
            item = self._ledger(symbol).instrument
            entry: dict[str, object] = {
                "symbol": symbol, "status": "TRADING", "baseAsset": item.base,
                "quoteAsset": item.quote, "baseAssetPrecision": 8, "quoteAssetPrecision": 8}
            if self._sim.futures:
                entry |= {"pair": symbol, "contractType": "PERPETUAL", "marginAsset": item.quote,
                          "pricePrecision": item.price_decimals,
                          "quantityPrecision": item.size_decimals}
            else:
                entry |= {"isSpotTradingAllowed": True, "permissions": ["SPOT"]}
            entry["filters"] = [
                {"filterType": "PRICE_FILTER", "minPrice": f"{item.tick:f}",
                 "maxPrice": "1000000.00000000", "tickSize": f"{item.tick:f}"},
                {"filterType": "LOT_SIZE", "minQty": f"{item.lot:f}", "maxQty": "100000.00000000",
                 "stepSize": f"{item.lot:f}"}]
            symbols.append(entry)
        return {"timezone": "UTC", "serverTime": self._now(), "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
             "limit": self._sim.weights.limit}], "exchangeFilters": [], "symbols": symbols}

    def _day(self, request: Request) -> object:
        return self._one_or_all(request, self._day_of)

    def _day_of(self, symbol: str) -> dict[str, object]:
        ledger = self._ledger(symbol)
        fields: dict[str, object] = {"symbol": symbol}
        fields |= day_fields(ledger, *self._sim.market[symbol].top(1))
        if self._sim.futures:
            for name in ("prevClosePrice", "bidPrice", "bidQty", "askPrice", "askQty"):
                del fields[name]
        day = ledger.totals.day
        return fields | {"openTime": day.start, "closeTime": day.end, "firstId": day.first_id,
                         "lastId": day.last_id, "count": day.count}

    def _touch(self, request: Request) -> object:
        return self._one_or_all(request, self._touch_of)

    def _touch_of(self, symbol: str) -> dict[str, object]:
        market = self._sim.market[symbol]
        fields = day_fields(self._ledger(symbol), *market.top(1))
        answer: dict[str, object] = {"symbol": symbol}
        answer |= {name: fields[name] for name in ("bidPrice", "bidQty", "askPrice", "askQty")}
        if self._sim.futures:
            answer |= {"time": self._now(), "lastUpdateId": market.sequence}
        return answer

    def _one_or_all(self, request: Request, one: Callable[[str], object]) -> object:
        if "symbol" in request.query:
            return one(self._symbol(request))
        return [one(symbol) for symbol in self._symbols(request)]

    def _trades(self, request: Request) -> object:
        symbol = self._symbol(request)
        limit = request.query.get("limit", "500")
        if not limit.isdigit() or not 1 <= int(limit) <= 1000:
            raise _BadRequest(-1130, "Data sent for parameter 'limit' is not valid.")
        ledger = self._ledger(symbol)
        return [{"id": trade.id, "price": ledger.price[trade.tick], "qty": ledger.size[trade.lots],
                 "quoteQty": fixed(trade.tick * trade.lots, ledger.value_places),
                 "time": trade.time // 1_000_000, "isBuyerMaker": trade.seller_aggressed,
                 "isBestMatch": True}
                for trade in list(ledger.totals.recent)[-int(limit):]]


class _BadRequest(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.response = Response.json({"code": code, "msg": text}, 400)


def day_fields(ledger: Ledger, bids: Levels, asks: Levels) -> dict[str, str]:
    """The 24-hour figures under their REST names; the stream has them under single letters.

    Threads: while the market stands still.
    """
    day, price, size = ledger.totals.day, ledger.price, ledger.size
    last = ledger.totals.recent[-1] if ledger.totals.recent else None
    change = day.close - day.open
    decimals = ledger.instrument.price_decimals
    average = day.value // day.volume if day.volume else 0
    return {
        "priceChange": fixed(change, decimals),
        "priceChangePercent": fixed(change * 100_000 // day.open, 3),
        "weightedAvgPrice": price[average], "prevClosePrice": price[day.open],
        "lastPrice": price[day.close], "lastQty": size[last.lots if last else 0],
        "bidPrice": price[bids[0][0]], "bidQty": size[bids[0][1]],
        "askPrice": price[asks[0][0]], "askQty": size[asks[0][1]],
        "openPrice": price[day.open], "highPrice": price[day.high], "lowPrice": price[day.low],
        "volume": size[day.volume], "quoteVolume": fixed(day.value, ledger.value_places)}
