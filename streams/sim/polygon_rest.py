"""The REST side of simulated Polygon (Massive): last trades and quotes, snapshots, option contracts.

Source: massive.com/docs/rest. Times are nanoseconds for stocks and options, milliseconds for crypto
and currencies.
"""
from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

from .polygon_messages import conditions, exchange_id, number, sequence, split_exchange, tape_of
from .tape_events import Bar, Quote
from .tape_sim import Record
from .web import Request, Response

if TYPE_CHECKING:
    from .polygon import PolygonSim

_OPTION = re.compile(r"O:(?P<root>[A-Z]{1,6}?\d?)(?P<day>\d{6})(?P<side>[CP])(?P<strike>\d{8})")
_LOCALES = {"us/markets/stocks": "stock", "global/markets/crypto": "crypto",
            "global/markets/forex": "forex"}
_TYPES = {"stock": "stocks", "option": "options", "crypto": "crypto", "forex": "fx", "index": "indices",
          "future": "futures"}


class NotFound(Exception):
    """There is nothing of that name."""


class PolygonRest:
    """Answers requests from the tape and the market."""

    def __init__(self, sim: PolygonSim) -> None:
        self._sim = sim
        self._ids = itertools.count(1)
        self._endpoints: list[tuple[re.Pattern[str], Callable[..., Record]]] = [
            (re.compile(pattern), answer) for pattern, answer in (
                (r"/v3/reference/options/contracts/([^/]+)", self._contract),
                (r"/v3/reference/options/contracts", self._contracts),
                (r"/v2/last/trade/([^/]+)", self._last_trade),
                (r"/v2/last/nbbo/([^/]+)", self._last_quote),
                (r"/v3/trades/([^/]+)", self._trades),
                (r"/v3/quotes/([^/]+)", self._quotes),
                (r"/v1/last/crypto/([^/]+)/([^/]+)", self._last_crypto),
                (r"/v1/last_quote/currencies/([^/]+)/([^/]+)", self._last_currency),
                (r"/v2/snapshot/locale/(us/markets/stocks|global/markets/(?:crypto|forex))/tickers",
                 self._old_snapshots),
                (r"/v2/snapshot/locale/(us/markets/stocks|global/markets/(?:crypto|forex))"
                 r"/tickers/([^/]+)", self._old_snapshot),
                (r"/v2/snapshot/locale/global/markets/crypto/tickers/([^/]+)/book", self._book),
                (r"/v3/snapshot(?:/indices)?", self._snapshots),
                (r"/v3/snapshot/options/([^/]+)", self._chain),
                (r"/v3/snapshot/options/[^/]+/([^/]+)", self._option),
            )]

    def answer(self, request: Request, ago: int) -> Response:
        """The answer to a request, as it was ``ago`` events before. Threads: any."""
        ident = f"{next(self._ids):032x}"
        try:
            with self._sim.publishing, self._sim.market.lock:
                value = {"request_id": ident, "status": "OK", **self._answer(request, ago)}
        except NotFound as error:
            return Response.json({"request_id": ident, "status": "NOT_FOUND", "message": str(error)}, 404)
        return Response(200, json.dumps(value, separators=(",", ":")).encode("utf-8"))

    def _answer(self, request: Request, ago: int) -> Record:
        for pattern, answer in self._endpoints:
            match = pattern.fullmatch(request.path.rstrip("/"))
            if match is not None:
                try:
                    return answer(request, ago, *match.groups())
                except IndexError:
                    raise NotFound("Data not found.") from None
        raise NotFound("no such endpoint")

    # -- symbols -------------------------------------------------------------------------------------

    def _symbol(self, ticker: str) -> str:
        """The symbol of the streams for a ticker of REST (``X:BTCUSD`` for ``BTC-USD``)."""
        for symbol in self._sim.market.symbols:
            if ticker in (symbol, self._ticker(symbol)):
                return symbol
        raise NotFound("Ticker not found.")

    def _ticker(self, symbol: str) -> str:
        kind = self._sim.tape.kind(symbol)
        if kind == "crypto":
            return "X:" + split_exchange(symbol)[0].replace("-", "")
        return "C:" + symbol.replace("/", "") if kind == "forex" else symbol

    def _wanted(self, request: Request, names: str, kinds: tuple[str, ...]) -> list[str]:
        wanted = [name for name in request.query.get(names, "").split(",") if name]
        return [symbol for symbol in self._sim.market.symbols if self._sim.tape.kind(symbol) in kinds
                and (not wanted or self._ticker(symbol) in wanted)]

    # -- trades and quotes --------------------------------------------------------------------------------

    def _last_trade(self, request: Request, ago: int, ticker: str) -> Record:
        trade = self._sim.tape.last_trade(self._symbol(ticker), ago)
        kind = self._sim.tape.kind(trade.symbol)
        results: Record = {
            "T": ticker, "c": conditions(trade), "f": trade.time - 900, "i": str(trade.id),
            "p": number(trade.price), "q": sequence(trade.time), "r": 202, "s": number(trade.size),
            "t": trade.time, "x": 1 if kind not in ("stock", "option") else
            exchange_id(kind, trade.exchange), "y": trade.time - 1000}
        if kind == "stock":
            results["z"] = tape_of(trade.symbol)
        return {"results": results}

    def _last_quote(self, request: Request, ago: int, ticker: str) -> Record:
        quote = self._sim.tape.last_quote(self._symbol(ticker), ago)
        bid_size, ask_size = self._sizes(quote)
        return {"results": {
            "T": ticker, "p": number(quote.bid), "s": bid_size, "x": exchange_id("stock", quote.bid_exchange),
            "P": number(quote.ask), "S": ask_size, "X": exchange_id("stock", quote.ask_exchange),
            "q": sequence(quote.time), "t": quote.time, "y": quote.time - 1000,
            "z": tape_of(quote.symbol)}}

    def _sizes(self, quote: Quote) -> tuple[float | int, float | int]:
        lot = self._sim.quote_lot if self._sim.tape.kind(quote.symbol) == "stock" else 1
        return number(quote.bid_size / lot), number(quote.ask_size / lot)

    def _trades(self, request: Request, ago: int, ticker: str) -> Record:
        kept = self._sim.tape.trades(self._symbol(ticker))[::-1][ago:ago + _limit(request)]
        return {"results": [{
            "conditions": conditions(trade), "id": str(trade.id), "price": number(trade.price),
            "size": number(trade.size), "sequence_number": sequence(trade.time),
            "sip_timestamp": trade.time, "participant_timestamp": trade.time - 1000} for trade in kept]}

    def _quotes(self, request: Request, ago: int, ticker: str) -> Record:
        quote = self._sim.tape.last_quote(self._symbol(ticker), ago)
        bid_size, ask_size = self._sizes(quote)
        return {"results": [{
            "bid_price": number(quote.bid), "bid_size": bid_size, "ask_price": number(quote.ask),
            "ask_size": ask_size, "sequence_number": sequence(quote.time), "sip_timestamp": quote.time,
            "participant_timestamp": quote.time - 1000}]}

    def _last_crypto(self, request: Request, ago: int, base: str, quoted: str) -> Record:
        symbol = f"{base.upper()}-{quoted.upper()}"
        trade = self._sim.tape.last_trade(self._symbol(symbol), ago)
        return {"status": "success", "symbol": symbol, "last": {
            "conditions": [2 if trade.buyer else 1], "exchange": 1, "price": number(trade.price),
            "size": number(trade.size), "timestamp": trade.time // 1_000_000}}

    def _last_currency(self, request: Request, ago: int, base: str, quoted: str) -> Record:
        symbol = f"{base.upper()}/{quoted.upper()}"
        quote = self._sim.tape.last_quote(self._symbol(symbol), ago)
        return {"status": "success", "symbol": symbol, "last": {
            "ask": number(quote.ask), "bid": number(quote.bid), "exchange": 48,
            "timestamp": quote.time // 1_000_000}}

    # -- snapshots -------------------------------------------------------------------------------------------

    def _old_snapshots(self, request: Request, ago: int, locale: str) -> Record:
        symbols = self._wanted(request, "tickers", (_LOCALES[locale],))
        return {"count": len(symbols), "tickers": [self._old(symbol, ago) for symbol in symbols]}

    def _old_snapshot(self, request: Request, ago: int, locale: str, ticker: str) -> Record:
        symbol = self._symbol(ticker)
        if self._sim.tape.kind(symbol) != _LOCALES[locale]:
            raise NotFound("Ticker not found.")
        return {"ticker": self._old(symbol, ago)}

    def _old(self, symbol: str, ago: int) -> Record:
        tape = self._sim.tape
        kind = tape.kind(symbol)
        today, before = tape.day(symbol)
        quote = tape.last_quote(symbol, ago)
        change = today.close - before.close if today and before else Decimal(0)
        found: Record = {
            "ticker": self._ticker(symbol), "day": _old_bar(today), "prevDay": _old_bar(before),
            "min": _old_bar(None), "todaysChange": number(change),
            "todaysChangePerc": number(change / before.close * 100) if before else 0,
            "updated": quote.time}
        try:
            found["min"] = {**_old_bar(tape.last_bar(symbol)), "n": tape.last_bar(symbol).trades}
        except LookupError:                     # no minute is over yet
            pass
        if kind == "forex":
            return {**found, "lastQuote": {"a": number(quote.ask), "b": number(quote.bid), "x": 48,
                                           "t": quote.time // 1_000_000}}
        trade = tape.last_trade(symbol, ago)
        if kind == "crypto":
            return {**found, "lastTrade": {
                "c": [2 if trade.buyer else 1], "i": str(trade.id), "p": number(trade.price),
                "s": number(trade.size), "t": trade.time // 1_000_000, "x": 1}}
        bid_size, ask_size = self._sizes(quote)
        return {**found, "lastTrade": {
            "c": conditions(trade), "i": str(trade.id), "p": number(trade.price), "s": number(trade.size),
            "t": trade.time, "x": exchange_id(kind, trade.exchange)},
            "lastQuote": {"p": number(quote.bid), "s": bid_size, "P": number(quote.ask), "S": ask_size,
                          "t": quote.time}}

    def _book(self, request: Request, ago: int, ticker: str) -> Record:
        symbol = self._symbol(ticker)
        market = self._sim.market
        book = market.book(symbol, market[symbol].ids_ago(ago)[0])
        exchange = str(split_exchange(symbol)[1])
        bids, asks = ([{"p": number(price), "x": {exchange: number(size)}} for price, size in side]
                      for side in (book.bids, book.asks))
        return {"data": {
            "ticker": self._ticker(symbol), "bids": bids, "asks": asks,
            "bidCount": number(sum((size for _, size in book.bids), Decimal(0))),
            "askCount": number(sum((size for _, size in book.asks), Decimal(0))),
            "spread": number(book.asks[0][0] - book.bids[0][0]), "updated": market.clock() // 1_000_000}}

    def _snapshots(self, request: Request, ago: int) -> Record:
        kinds = ("index",) if request.path.rstrip("/").endswith("/indices") else tuple(_TYPES)
        found = [self._universal(symbol, ago) for symbol in self._wanted(request, "ticker.any_of", kinds)]
        known = {item["ticker"] for item in found}
        missing = [{"ticker": name, "error": "NOT_FOUND", "message": "Ticker not found."}
                   for name in request.query.get("ticker.any_of", "").split(",")
                   if name and name not in known]
        return {"results": [*found, *missing]}

    def _universal(self, symbol: str, ago: int) -> Record:
        tape = self._sim.tape
        kind = tape.kind(symbol)
        today, _ = tape.day(symbol)
        quote = tape.last_quote(symbol, ago)
        found: Record = {"ticker": self._ticker(symbol), "type": _TYPES[kind], "market_status": "open",
                         "session": {} if today is None else {
                             "open": number(today.open), "high": number(today.high),
                             "low": number(today.low), "close": number(today.close),
                             "volume": number(today.volume)}}
        if kind == "index":
            return {**found, "value": number((quote.bid + quote.ask) / 2), "last_updated": quote.time}
        bid_size, ask_size = self._sizes(quote)
        found["last_quote"] = {"bid": number(quote.bid), "bid_size": bid_size, "ask": number(quote.ask),
                               "ask_size": ask_size, "last_updated": quote.time, "timeframe": "REAL-TIME"}
        if kind == "forex":
            return found
        trade = tape.last_trade(symbol, ago)
        stamp = "sip_timestamp" if kind == "option" else "last_updated"
        found["last_trade"] = {"price": number(trade.price), "size": number(trade.size),
                               stamp: trade.time, "timeframe": "REAL-TIME"}
        if kind == "option":
            found["details"] = self._details(symbol)
        return found

    def _chain(self, request: Request, ago: int, root: str) -> Record:
        return {"results": [self._universal(symbol, ago) for symbol in self._options()
                            if self._details(symbol)["underlying_ticker"] == root]}

    def _option(self, request: Request, ago: int, ticker: str) -> Record:
        if ticker not in self._options():
            raise NotFound("Options contract not found.")
        return {"results": self._universal(ticker, ago)}

    # -- option contracts ----------------------------------------------------------------------------------

    def _options(self) -> list[str]:
        return [name for name in self._sim.market.symbols if self._sim.tape.kind(name) == "option"]

    def _contract(self, request: Request, ago: int, ticker: str) -> Record:
        if ticker not in self._options():
            raise NotFound("Options contract not found.")
        return {"results": {**self._details(ticker), "cfi": "OCASPS", "primary_exchange": "BATO"}}

    def _contracts(self, request: Request, ago: int) -> Record:
        root = request.query.get("underlying_ticker")
        found = [self._contract(request, ago, name)["results"] for name in self._options()]
        found = [item for item in found if root is None or item["underlying_ticker"] == root]
        return {"results": found[:_limit(request)]}

    @staticmethod
    def _details(ticker: str) -> Record:
        match = _OPTION.fullmatch(ticker)
        if match is None:
            raise NotFound("Options contract not found.")
        day = datetime.strptime(match["day"], "%y%m%d").replace(tzinfo=timezone.utc)
        return {"ticker": ticker, "underlying_ticker": match["root"],
                "contract_type": "call" if match["side"] == "C" else "put",
                "exercise_style": "american", "expiration_date": f"{day:%Y-%m-%d}",
                "shares_per_contract": 100, "strike_price": number(Decimal(match["strike"]).scaleb(-3))}


def _limit(request: Request) -> int:
    text = request.query.get("limit", "10")
    return int(text) if text.isdigit() else 10


def _old_bar(bar: Bar | None) -> Record:
    if bar is None:
        return {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "vw": 0}
    return {"o": number(bar.open), "h": number(bar.high), "l": number(bar.low), "c": number(bar.close),
            "v": number(bar.volume), "vw": number(bar.vwap)}
