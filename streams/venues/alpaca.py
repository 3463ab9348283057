"""Alpaca Market Data: US stocks, crypto and options over WebSocket.

https://docs.alpaca.markets/docs/streaming-market-data. Three venues, because they are three feeds with
different symbols and channels: ``alpaca``, ``alpaca-crypto`` and ``alpaca-options``. Each endpoint
allows an account ONE connection, so nothing is ever sharded.

Symbols: stocks as listed (``BRK.B``), crypto ``BTC-USD`` or ``BTC/USD``, options in OCC form
(``SPXW240327P04925000``). A symbol ``*`` or ``NV*`` subscribes everything and filters here; see
:mod:`streams.tagged` for whose events they are.

There is no replay and no sequence number: what happens during a reconnect is lost, and gaps can not
be seen on the wire. A crypto book is therefore taken only from the venue's own reset (``r``) on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

import msgspec

from ..credentials import credential, scrubbed
from ..errors import ConfigurationError
from ..events import Bar, Imbalance, MarketStatus, News, PriceBand, Quote, Ticker, Trade, TradeCorrection
from ..symbols import SymbolStyle, check_pair
from ..tagged import Build, TaggedVenue
from ..timestamps import Rfc3339, msgpack_ns
from ..venue import BookSnapshot, Item, Limits, Notice, Ready, Reply, RestRequest, Route, Venue
from . import alpaca_messages as wire
from .alpaca_rest import Answers
from .alpaca_session import Ledger, judge

__all__ = ["AlpacaCryptoVenue", "AlpacaOptionsVenue", "AlpacaVenue"]

# Topics of each channel; corrections and cancels come with trades without being asked for.
TOPICS: Mapping[str, tuple[str, ...]] = {
    "trades": ("trades",), "quotes": ("quotes",), "ticker": ("trades", "quotes"),
    "bars:1m": ("bars", "updatedBars"), "bars:1d": ("dailyBars",), "statuses": ("statuses",),
    "lulds": ("lulds",), "imbalances": ("imbalances",), "book": ("orderbooks",), "news": ("news",),
}

LIMITS = Limits(
    # How many symbols is a matter of the plan: error 405 says when it is enough. One connection only.
    topics=1_000_000, batch=200, messages=(10, 1.0),
    # Reconnecting too fast is answered with HTTP 429; the numbers are not published.
    connects=(30, 60.0), rest=(200, 60.0), stale_after=120.0,
)


class Delta(NamedTuple):
    """Changes of a book; there are no sequence numbers. Time in ns."""

    bids: Sequence[Any]
    asks: Sequence[Any]
    time: int
    link: int = 0
    last: int = 0


class _Alpaca(TaggedVenue):
    """What the three have in common.

    Options: ``feed`` (see ``feeds``; the first is the default), ``auth`` (``"headers"`` of the handshake
    or a ``"message"`` after it), ``quote_lot``: what the sizes of quotes are multiplied with (100 where
    the feed counts round lots and shares are wanted; the vendor's pages say round lots, the SIPs
    have moved to shares).
    """

    url = "wss://stream.data.alpaca.markets"
    rest_url = "https://data.alpaca.markets"
    limits = LIMITS
    time_unit = 1
    sparse = frozenset({"trades", "bars", "statuses", "lulds", "imbalances", "news"})
    options = ("feed", "auth", "quote_lot")
    kinds = wire.KINDS
    key_env: ClassVar[tuple[str, ...]] = ("ALPACA_API_KEY", "APCA_API_KEY_ID")
    secret_env: ClassVar[tuple[str, ...]] = ("ALPACA_API_SECRET", "APCA_API_SECRET_KEY")
    feeds: ClassVar[Mapping[str, str]] = {}
    """Feed -> path of its endpoint."""
    binary: ClassVar[bool] = False

    def __init__(
        self, *, number: type[float] | type[Decimal] = float, depth: int | None = None,
        api_key: str | None = None, api_secret: str | None = None, feed: str | None = None,
        auth: str = "headers", quote_lot: float = 1, **options: Any,
    ) -> None:
        super().__init__(number=number, depth=depth, **options)
        self.feed = feed if feed is not None else next(iter(self.feeds))
        if self.feed not in self.feeds:
            raise ConfigurationError(
                f"{self.name} has no feed {self.feed!r}; its feeds: {', '.join(self.feeds)}")
        if auth not in ("headers", "message"):
            raise ConfigurationError(f"{self.name}: auth is 'headers' or 'message', not {auth!r}")
        if isinstance(quote_lot, bool) or not isinstance(quote_lot, (int, float)) or not 0 < quote_lot < 1e9:
            raise ConfigurationError(f"{self.name}: quote_lot is a number like 1 or 100, not {quote_lot!r}")
        self._key = credential(self.name, "api_key", api_key, self.key_env)
        self._secret = credential(self.name, "api_secret", api_secret, self.secret_env)
        self._auth = auth
        self._lot: Any = None if quote_lot == 1 else number(str(quote_lot))
        self._ready = False
        self._ledger = Ledger(self._frame)
        self._time: Any = msgpack_ns if self.binary else Rfc3339()
        self._whole: set[str] = set()       # symbols whose book has been sent whole on this connection
        self._answers = Answers(self.name, number, self._lot)
        messages = wire.msgpack_messages if self.binary else wire.json_messages
        self.speak(messages(number), wire.Head, self.binary)
        self.answer(wire.Success, self._success)
        self.answer(wire.Error, self._error)
        self.answer(wire.Subscription, self._listed)

    # -- questions ------------------------------------------------------------------------------

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See :meth:`Venue.topics`: ``trades:AAPL`` is channel ``trades`` of Alpaca's."""
        symbol = self.wire_symbol(channel, native)
        return tuple(f"{name}:{symbol}" for name in TOPICS[channel])

    def endpoint(self, channel: str) -> str:
        """See :meth:`Venue.endpoint`."""
        return self.feeds[self.feed]

    def headers(self) -> Mapping[str, str]:
        """See :meth:`Venue.headers`."""
        kind = {"Content-Type": "application/msgpack" if self.binary else "application/json"}
        return {**kind, **self._credentials()} if self._auth == "headers" else kind

    def _credentials(self) -> dict[str, str]:
        return {"APCA-API-KEY-ID": self._key, "APCA-API-SECRET-KEY": self._secret}

    # -- the conversation -------------------------------------------------------------------------

    def inherit(self, previous: Venue) -> None:
        """See :meth:`Venue.inherit`."""
        if isinstance(previous, _Alpaca):
            self._ledger.turned_away = previous._ledger.turned_away

    def opened(self, now: int) -> Sequence[Item]:
        """See :meth:`Venue.opened`: the venue speaks first, and says when the login is done."""
        return []

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See :meth:`Venue.subscribe`."""
        for topic in topics:
            channel, _, symbol = topic.partition(":")
            if channel == "orderbooks":     # its next reset starts it anew
                self._whole.discard(symbol)
        return self._ledger.subscribe(topics)

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See :meth:`Venue.unsubscribe`."""
        return self._ledger.unsubscribe(topics)

    def _frame(self, action: str, topics: Sequence[str]) -> bytes | str:
        request: dict[str, Any] = {"action": action}
        for topic in topics:
            channel, _, symbol = topic.partition(":")
            request.setdefault(channel, []).append(symbol)
        return self._encode(request)

    def _encode(self, request: Mapping[str, Any]) -> bytes | str:
        return msgspec.msgpack.encode(request) if self.binary else json.dumps(request, ensure_ascii=False)

    def _success(self, message: wire.Success, now: int, items: list[Item]) -> None:
        if message.text == "connected":
            if self._auth == "message":
                login = self._encode({"action": "auth", "key": self._key, "secret": self._secret})
                items.append((self.session, Reply(login, secret=True)))
        elif message.text == "authenticated":
            if not self._ready:
                items.append((self.session, Ready()))
            self._ready = True
            self._ledger.turned_away = 0
        else:
            items.append((self.session, Notice(f"alpaca: {self._clean(message.text)}")))

    def _error(self, message: wire.Error, now: int, items: list[Item]) -> None:
        signals = judge(self._ledger, message.code, self._clean(message.text))
        items.extend((self.session, signal) for signal in signals)

    def _listed(self, message: wire.Subscription, now: int, items: list[Item]) -> None:
        items.extend((self.session, signal) for signal in self._ledger.listed(message.topics()))

    def _clean(self, text: str) -> str:
        return scrubbed(text, self._key, self._secret)

    # -- events -----------------------------------------------------------------------------------

    def builds(self, route: Route) -> Mapping[type, Build]:
        """See :meth:`TaggedVenue.builds`."""
        tables: dict[str, Mapping[type, Build]] = {
            "trades": {wire.Trade: self._trade, wire.Correction: self._correction,
                       wire.Cancel: self._cancel},
            "quotes": {wire.Quote: self._quote},
            "ticker": {wire.Trade: self._ticker_of_trade, wire.Quote: self._ticker_of_quote},
            "bars:1m": {wire.Bar: self._bar, wire.UpdatedBar: self._updated_bar},
            "bars:1d": {wire.DailyBar: self._daily_bar},
            "statuses": {wire.Status: self._status},
            "lulds": {wire.Band: self._band},
            "imbalances": {wire.Imbalance: self._imbalance},
            "book": {wire.Book: self._book},
            "news": {wire.NewsItem: self._headline},
        }
        return tables[route.channel]

    def _trade(self, m: Any, symbol: str, now: int) -> Trade:
        return Trade(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            price=m.price, size=m.size, side=_SIDES.get(m.taker), id=str(m.id), market=m.market,
            conditions=_conditions(m.conditions))

    def _correction(self, m: Any, symbol: str, now: int) -> TradeCorrection:
        same = m.corrected == m.original or m.corrected == ""
        return TradeCorrection(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            id=str(m.original), market=m.market, price=m.price, size=m.size,
            corrected_id="" if same else str(m.corrected), conditions=_conditions(m.conditions))

    def _cancel(self, m: Any, symbol: str, now: int) -> TradeCorrection:
        return TradeCorrection(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            id=str(m.id), market=m.market)

    def _sides(self, m: Any) -> tuple[Any, Any, Any, Any]:
        """Bid, its size, ask, its size: a price of 0 means that there is none."""
        bid, ask, lot = m.bid or None, m.ask or None, self._lot
        bid_size = None if bid is None else m.bid_size
        ask_size = None if ask is None else m.ask_size
        if lot is not None:
            bid_size = None if bid_size is None else bid_size * lot
            ask_size = None if ask_size is None else ask_size * lot
        return bid, bid_size, ask, ask_size

    def _quote(self, m: Any, symbol: str, now: int) -> Quote:
        bid, bid_size, ask, ask_size = self._sides(m)
        return Quote(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size, bid_market=m.bid_market,
            ask_market=m.ask_market, conditions=_conditions(m.conditions))

    def _ticker_of_trade(self, m: Any, symbol: str, now: int) -> Ticker:
        ticker = msgspec.structs.replace(
            self._known(symbol), timestamp=self._time(m.time) or None, received=now,
            last=m.price, last_size=m.size)
        self.tickers[symbol] = ticker
        return ticker

    def _ticker_of_quote(self, m: Any, symbol: str, now: int) -> Ticker:
        bid, bid_size, ask, ask_size = self._sides(m)
        ticker = msgspec.structs.replace(
            self._known(symbol), timestamp=self._time(m.time) or None, received=now,
            bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)
        self.tickers[symbol] = ticker
        return ticker

    def _known(self, symbol: str) -> Ticker:
        return self.tickers.get(symbol) or Ticker(exchange=self.name, symbol=symbol)

    def _bar(self, m: Any, symbol: str, now: int, interval: str = "1m", closed: bool = True,
             revised: bool = False) -> Bar:
        start = self._time(m.time)
        return Bar(
            exchange=self.name, symbol=symbol, timestamp=start or None, received=now, interval=interval,
            start=start, open=m.open, high=m.high, low=m.low, close=m.close, volume=m.volume,
            vwap=m.vwap, trades=m.trades, closed=closed, revised=revised)

    def _updated_bar(self, m: Any, symbol: str, now: int) -> Bar:
        return self._bar(m, symbol, now, revised=True)

    def _daily_bar(self, m: Any, symbol: str, now: int) -> Bar:
        return self._bar(m, symbol, now, interval="1d", closed=False)

    def _status(self, m: Any, symbol: str, now: int) -> MarketStatus:
        return MarketStatus(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            code=m.code, message=m.text, reason_code=m.reason_code, reason=m.reason)

    def _band(self, m: Any, symbol: str, now: int) -> PriceBand:
        return PriceBand(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            limit_up=m.up, limit_down=m.down, indicator=m.indicator)

    def _imbalance(self, m: Any, symbol: str, now: int) -> Imbalance:
        return Imbalance(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.time) or None, received=now,
            price=m.price)

    def _headline(self, m: Any, symbol: str, now: int) -> News:
        return News(
            exchange=self.name, symbol=symbol, timestamp=self._time(m.updated_at or m.created_at) or None,
            received=now, id=str(m.id), headline=m.headline, summary=m.summary or "",
            author=m.author or "", url=m.url or "", content=m.content or "", symbols=m.symbols,
            source=m.source or "")

    def _book(self, m: Any, symbol: str, now: int) -> Delta | BookSnapshot | None:
        bids = [(level.price, level.size) for level in m.bids]
        asks = [(level.price, level.size) for level in m.asks]
        if m.whole:
            self._whole.add(m.symbol)
            return BookSnapshot(0, bids, asks, self._time(m.time))
        # Changes of a book that was never sent whole would make a wrong one.
        return Delta(bids, asks, self._time(m.time)) if m.symbol in self._whole else None

    # -- REST beside the stream -------------------------------------------------------------------

    def rest_headers(self) -> Mapping[str, str]:
        """See :meth:`Venue.rest_headers`."""
        return self._credentials()

    def _rest(self, path: str, symbol: str, **params: str) -> RestRequest | None:
        if "*" in symbol:
            return None
        return RestRequest(path, {"symbols": self.native(symbol), **params})


_SIDES: Mapping[str, Any] = {"B": "buy", "S": "sell"}


def _conditions(codes: list[str] | str | None) -> tuple[str, ...]:
    if not codes:
        return ()
    return (codes,) if isinstance(codes, str) else tuple(codes)


class AlpacaVenue(_Alpaca):
    """US stocks, and news (on an endpoint of its own)."""

    name = "alpaca"
    channels = ("trades", "quotes", "ticker", "bars", "statuses", "lulds", "imbalances", "news")
    intervals = {"1m": "bars", "1d": "dailyBars"}
    symbol_style = SymbolStyle("-")
    feeds = {"iex": "/v2/iex", "sip": "/v2/sip", "delayed_sip": "/v2/delayed_sip", "test": "/v2/test",
             "overnight": "/v1beta1/overnight", "boats": "/v1beta1/boats"}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answer(wire.NewsItem, self._news)

    def endpoint(self, channel: str) -> str:
        """See :meth:`Venue.endpoint`."""
        return "/v1beta1/news" if channel == "news" else super().endpoint(channel)

    def _news(self, m: Any, now: int, items: list[Item]) -> None:
        """One event, for the first subscribed symbol that it names, else for a wildcard."""
        of = self.audience(wire.NewsItem).of
        hearers = [hearer for symbol in m.symbols or ("",) for hearer in of(symbol)]
        hearers.sort(key=lambda hearer: hearer.route.native.endswith("*"))
        for route, build, symbol in hearers[:1]:
            items.append((route, build(m, symbol or route.symbol, now)))

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See :meth:`Venue.ticker_request`. The test feed has no REST."""
        if self.feed == "test":
            return None
        return self._rest("/v2/stocks/snapshots", symbol, feed=self.feed)

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See :meth:`Venue.ticker_answer`."""
        return self._answers.ticker(body, False, self.native(symbol), symbol, now)


class AlpacaCryptoVenue(_Alpaca):
    """Crypto pairs, at Alpaca itself (``us``) or at Kraken (``us-1``, ``eu-1``). The venue's books begin
    with a reset; until one has come, changes are ignored."""

    name = "alpaca-crypto"
    channels = ("book", "trades", "quotes", "ticker", "bars")
    intervals = {"1m": "bars", "1d": "dailyBars"}
    symbol_style = SymbolStyle("/")
    limits = replace(LIMITS, stale_after=60.0)
    rule = "unsequenced"
    feeds = {"us": "/v1beta3/crypto/us", "us-1": "/v1beta3/crypto/us-1", "eu-1": "/v1beta3/crypto/eu-1"}

    def native(self, symbol: str) -> str:
        """See :meth:`Venue.native`."""
        native = super().native(symbol)
        if "*" not in native:
            check_pair(native, symbol, self.name)
        return native

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See :meth:`Venue.ticker_request`."""
        return self._rest(f"{self.feeds[self.feed]}/snapshots", symbol)

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See :meth:`Venue.ticker_answer`."""
        return self._answers.ticker(body, True, self.native(symbol), symbol, now)

    def orderbook_request(self, symbol: str) -> RestRequest | None:
        """See :meth:`Venue.orderbook_request`."""
        return self._rest(f"{self.feeds[self.feed]}/latest/orderbooks", symbol)

    def orderbook_answer(self, symbol: str, body: bytes, now: int) -> BookSnapshot:
        """See :meth:`Venue.orderbook_answer`."""
        return self._answers.book(body, self.native(symbol))


class AlpacaOptionsVenue(_Alpaca):
    """US options. This feed speaks MessagePack only (else error 412), and allows no wildcard for
    quotes (413)."""

    name = "alpaca-options"
    channels = ("trades", "quotes", "ticker")
    symbol_style = SymbolStyle("-")
    limits = replace(LIMITS, stale_after=300.0)
    feeds = {"indicative": "/v1beta1/indicative", "opra": "/v1beta1/opra"}
    binary = True

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See :meth:`Venue.topics`."""
        if "*" in native and channel != "trades":
            raise ConfigurationError(
                f"{self.name}: the venue allows wildcards like {native!r} for trades only")
        return super().topics(channel, native)

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See :meth:`Venue.ticker_request`."""
        return self._rest("/v1beta1/options/snapshots", symbol, feed=self.feed)

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See :meth:`Venue.ticker_answer`."""
        return self._answers.ticker(body, True, self.native(symbol), symbol, now)
