"""The REST side of simulated Alpaca: latest values, snapshots, news, option contracts.

Source: docs.alpaca.markets, the reference of the market data API, and of ``/v2/options/contracts`` of
the trading API.
"""
from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

from .alpaca_messages import Writer
from .tape_events import BookChange, Event
from .tape_sim import Record
from .web import Request, Response

if TYPE_CHECKING:
    from .alpaca import AlpacaSim

_OPTION = re.compile(r"(?P<root>[A-Z]{1,6}?\d?)(?P<day>\d{6})(?P<side>[CP])(?P<strike>\d{8})")
_KINDS = {"/v2/stocks": "stock", "/v1beta1/options": "option"}
_CRYPTO = re.compile(r"/v1beta3/crypto/(us|us-1|eu-1)(?P<rest>/.*)")


class BadRequest(Exception):
    """A request is answered with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class AlpacaRest:
    """Answers requests from the tape and the market."""

    def __init__(self, sim: AlpacaSim) -> None:
        self._sim = sim
        self._writer = Writer(sim.tape, False, 0, sim.quote_lot)
        self._latest: dict[str, tuple[str, Callable[[str, int], Event]]] = {
            "trades": ("trade", self._trade), "quotes": ("quote", self._quote),
            "bars": ("bar", self._bar), "orderbooks": ("orderbook", self._book)}

    def answer(self, request: Request, ago: int) -> Response:
        """The answer to a request, as it was ``ago`` events before. Threads: any."""
        try:
            with self._sim.publishing, self._sim.market.lock:
                value = self._answer(request, ago)
        except BadRequest as error:
            return Response.json({"message": str(error)}, error.status)
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        budget = self._sim.rest_left()
        headers = () if budget is None else (
            ("X-RateLimit-Limit", str(budget[0])), ("X-RateLimit-Remaining", str(budget[1])))
        return Response(200, body, headers)

    def _answer(self, request: Request, ago: int) -> Record:
        path = request.path.rstrip("/")
        if path.startswith("/v2/options/contracts"):
            return self._contracts(request, path[len("/v2/options/contracts"):].strip("/"))
        if path == "/v1beta1/news":
            return self._news(request)
        crypto = _CRYPTO.fullmatch(path)
        if crypto is not None:
            return self._crypto(request, crypto["rest"].strip("/"), ago)
        for prefix, kind in _KINDS.items():
            if path.startswith(prefix + "/"):
                if request.query.get("feed") in self._sim.denied:
                    raise BadRequest(403, "subscription does not permit querying recent "
                                          f"{request.query['feed'].upper()} data")
                return self._listed(request, kind, path[len(prefix) + 1:], ago)
        raise BadRequest(404, "endpoint not found")

    def _listed(self, request: Request, kind: str, rest: str, ago: int) -> Record:
        """Stocks and options: ``snapshots``, ``trades/latest``, ``AAPL/trades/latest``, ..."""
        parts = rest.split("/")
        if parts == ["snapshots"]:
            found = {symbol: self._snapshot(symbol, kind, ago) for symbol in self._wanted(request, kind)}
            return found if kind == "stock" else {"snapshots": found, "next_page_token": None}
        if kind == "option" and parts[0] == "snapshots" and len(parts) == 2:
            chain = [name for name in self._traded(kind) if _root(name) == parts[1]]
            return {"snapshots": {name: self._snapshot(name, kind, ago) for name in chain},
                    "next_page_token": None}
        if len(parts) == 2 and parts[1] == "latest" and parts[0] in self._latest:
            return self._latest_of(parts[0], self._wanted(request, kind), ago)
        if kind == "stock" and len(parts) == 2 and parts[1] == "snapshot":
            return {"symbol": parts[0], **self._snapshot(self._one(parts[0], kind), kind, ago)}
        if kind == "stock" and len(parts) == 3 and parts[2] == "latest" and parts[1] in self._latest:
            name, make = self._latest[parts[1]]
            event = self._event(make, self._one(parts[0], kind), ago)
            if event is None:
                raise BadRequest(404, f"no {name} found for {parts[0]}")
            return {"symbol": parts[0], name: self._plain(event)}
        raise BadRequest(404, "endpoint not found")

    def _crypto(self, request: Request, rest: str, ago: int) -> Record:
        if rest == "snapshots":
            return {"snapshots": {symbol: self._snapshot(symbol, "crypto", ago)
                                  for symbol in self._wanted(request, "crypto")}}
        what, _, which = rest.partition("/")
        if what == "latest" and which in self._latest:
            return self._latest_of(which, self._wanted(request, "crypto"), ago)
        raise BadRequest(404, "endpoint not found")

    # -- symbols -------------------------------------------------------------------------------------

    def _traded(self, kind: str) -> list[str]:
        return [name for name in self._sim.market.symbols if self._sim.tape.kind(name) == kind]

    def _wanted(self, request: Request, kind: str) -> list[str]:
        names = [name for name in request.query.get("symbols", "").split(",") if name]
        if not names:
            raise BadRequest(400, "symbols is required")
        for name in names:
            if not re.fullmatch(r"[A-Z0-9./-]+", name):
                raise BadRequest(400, f"invalid symbol: {name}")
        traded = self._traded(kind)
        return [name for name in names if name in traded]   # unknown ones are left out

    def _one(self, name: str, kind: str) -> str:
        if name not in self._traded(kind):
            raise BadRequest(404, f"no snapshot found for {name}")
        return name

    # -- values --------------------------------------------------------------------------------------

    def _trade(self, symbol: str, ago: int) -> Event:
        return self._sim.tape.last_trade(symbol, ago)

    def _quote(self, symbol: str, ago: int) -> Event:
        return self._sim.tape.last_quote(symbol, ago)

    def _bar(self, symbol: str, ago: int) -> Event:
        return self._sim.tape.last_bar(symbol)

    def _book(self, symbol: str, ago: int) -> Event:
        market = self._sim.market
        book = market.book(symbol, market[symbol].ids_ago(ago)[0])
        return BookChange(symbol, market.clock(), tuple(book.bids), tuple(book.asks), False)

    @staticmethod
    def _event(make: Callable[[str, int], Event], symbol: str, ago: int) -> Event | None:
        try:
            return make(symbol, ago)
        except LookupError:         # there is none (yet)
            return None

    def _plain(self, event: Event) -> Record:
        record = self._writer.record(event)
        return {key: value for key, value in record.items() if key not in ("T", "S")}

    def _latest_of(self, which: str, symbols: list[str], ago: int) -> Record:
        make = self._latest[which][1]
        found = {symbol: self._event(make, symbol, ago) for symbol in symbols}
        return {which: {symbol: self._plain(event) for symbol, event in found.items()
                        if event is not None}}

    def _snapshot(self, symbol: str, kind: str, ago: int) -> Record:
        today, before = self._sim.tape.day(symbol)
        parts: dict[str, Event | None] = {
            "latestTrade": self._event(self._trade, symbol, ago),
            "latestQuote": self._event(self._quote, symbol, ago)}
        if kind != "option":
            minute = self._event(self._bar, symbol, ago)
            parts |= {"minuteBar": minute, "dailyBar": today, "prevDailyBar": before}
        return {name: self._plain(event) for name, event in parts.items() if event is not None}

    def _news(self, request: Request) -> Record:
        wanted = set(filter(None, request.query.get("symbols", "").split(",")))
        stories = [story for story in reversed(self._sim.tape.stories())
                   if not wanted or wanted & set(story.symbols)]
        limit = request.query.get("limit", "10")
        if not limit.isdigit():
            raise BadRequest(400, f"invalid limit: {limit}")
        return {"news": [self._plain(story) for story in stories[:int(limit)]], "next_page_token": None}

    # -- option contracts (trading API) ------------------------------------------------------------------

    def _contracts(self, request: Request, name: str) -> Record:
        if name:
            if name not in self._traded("option"):
                raise BadRequest(404, f"option contract not found for {name}")
            return self._contract(name)
        roots = set(filter(None, request.query.get("underlying_symbols", "").split(",")))
        found = [symbol for symbol in self._traded("option") if not roots or _root(symbol) in roots]
        return {"option_contracts": [self._contract(symbol) for symbol in found], "next_page_token": None}

    def _contract(self, symbol: str) -> Record:
        match = _OPTION.fullmatch(symbol)
        assert match is not None
        day = datetime.strptime(match["day"], "%y%m%d").replace(tzinfo=timezone.utc)
        strike = Decimal(match["strike"]).scaleb(-3).normalize()
        side = "call" if match["side"] == "C" else "put"
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, symbol)), "symbol": symbol,
            "name": f"{match['root']} {day:%b %d %Y} {strike:f} {side.title()}", "status": "active",
            "tradable": True, "expiration_date": f"{day:%Y-%m-%d}", "root_symbol": match["root"],
            "underlying_symbol": match["root"],
            "underlying_asset_id": str(uuid.uuid5(uuid.NAMESPACE_URL, match["root"])), "type": side,
            "style": "american", "strike_price": f"{strike:f}", "multiplier": "100", "size": "100",
            "open_interest": None, "open_interest_date": None,
            "close_price": str(self._sim.tape.last_trade(symbol).price), "close_price_date": None}


def _root(symbol: str) -> str:
    match = _OPTION.fullmatch(symbol)
    return match["root"] if match else ""
