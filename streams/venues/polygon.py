"""Polygon / Massive (one company, renamed): US stocks, options, futures, indices, forex and crypto.

https://massive.com/docs/websocket. One *cluster* per market, chosen by ``market=``; the manager's name
``massive`` is an alias. An account has ONE connection per cluster, and a new one evicts the older:
two programs with one key would fight for ever, so an evicted one waits before it comes back, longer
each time.

Symbols: stocks and futures as listed (case matters: ``BACpB``), options ``O:SPY251219C00650000``, indices
``I:SPX``, forex ``EUR-USD`` or ``EUR/USD``, crypto ``BTC-USD``; the prefixes ``O: I: C: X:`` may be given or
left out. A symbol ``*`` or ``O:NVDA*`` subscribes everything and filters here; see
:mod:`streams.tagged` for whose events they are.

An order book (crypto) is that of ONE of the exchanges that the vendor collects from, chosen by
``exchange_id=`` (https://massive.com/docs/crypto/get_v3_reference_exchanges): books of several, merged,
would be crossed most of the time.

Unknown symbols are confirmed and then silent; there is no replay and no gap detection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from ..credentials import credential, scrubbed
from ..errors import AuthenticationFailed, ConfigurationError
from ..events import Bar, Imbalance, PriceBand, Quote, Ticker, Trade, Value
from ..numbers import check_levels
from ..symbols import SymbolStyle, check_pair, native_symbol
from ..tagged import Build, TaggedVenue
from ..timestamps import epoch_ns
from ..venue import (
    BookSnapshot, Failed, Item, Limits, Notice, Ready, Reconnect, Reply, RestRequest, Route, Signal, Venue,
)
from . import polygon_messages as wire
from .polygon_requests import Requests, said
from .polygon_rest import Answers

__all__ = ["PolygonVenue"]

_STOCKS: Mapping[str, tuple[str, ...]] = {
    "trades": ("T",), "quotes": ("Q",), "ticker": ("T", "Q"), "bars:1s": ("A",), "bars:1m": ("AM",),
}
_VALUES: Mapping[str, tuple[str, ...]] = {"fmv": ("FMV",), "values": ("LV",)}

# Market -> channel -> the vendor's channels. FMV and LV are on the business plans' hosts: give url=.
MARKETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "stocks": {**_STOCKS, **_VALUES, "lulds": ("LULD",), "imbalances": ("NOI",)},
    "options": {**_STOCKS, **_VALUES},
    "crypto": {"trades": ("XT",), "quotes": ("XQ",), "ticker": ("XT", "XQ"), "bars:1s": ("XAS",),
               "bars:1m": ("XA",), "book": ("XL2",), **_VALUES},
    "forex": {"quotes": ("C",), "ticker": ("C",), "bars:1s": ("CAS",), "bars:1m": ("CA",), **_VALUES},
    "indices": {"values": ("V",), "ticker": ("V",), "bars:1s": ("A",), "bars:1m": ("AM",)},
    "futures": _STOCKS,
}
CLUSTERS = (*MARKETS, *(f"futures/{exchange}" for exchange in ("cme", "cbot", "nymex", "comex")))
# What REST, and some messages, put before the symbols of a market.
PREFIXES: Mapping[str, str] = {"options": "O:", "indices": "I:", "forex": "C:", "crypto": "X:"}
FEEDS: Mapping[str, str] = {"realtime": "wss://socket.massive.com", "delayed": "wss://delayed.massive.com"}

EVICTED = 15.0      # seconds before a connection that a newer one has evicted is made again; times four ...
MOST = 2            # ... at most so often
PEACE = 600 * 10 ** 9       # nanoseconds that a connection lasted, after which nobody fights for the place


class PolygonVenue(TaggedVenue):
    """One cluster of Polygon's.

    Options: ``market`` (see above; of futures those of one exchange, too: ``futures/cme``), ``feed``
    (``realtime`` or ``delayed``), ``exchange_id`` (whose crypto book), ``quote_lot``: what the sizes of
    quotes are multiplied with (100 where the feed counts round lots and shares are wanted).
    """

    name = "polygon"
    aliases = ("massive",)
    channels = ("trades", "quotes", "ticker", "bars", "book", "lulds", "imbalances", "fmv", "values")
    intervals = {"1s": "A", "1m": "AM"}
    url = FEEDS["realtime"]
    rest_url = "https://api.massive.com"
    limits = Limits(
        topics=1_000_000, batch=500, messages=(10, 1.0), connects=(30, 60.0), rest=(100, 1.0),
        stale_after=120.0)
    symbol_style = SymbolStyle(verbatim=True)
    time_unit = 1
    sparse = frozenset({"trades", "bars", "lulds", "imbalances", "fmv", "values"})
    options = ("market", "feed", "exchange_id", "quote_lot")
    rule = "snapshots"
    kinds = wire.KINDS
    key_env: ClassVar[tuple[str, ...]] = ("POLYGON_API_KEY", "MASSIVE_API_KEY")
    secret_env: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, *, number: type[float] | type[Decimal] = float, depth: int | None = None,
        api_key: str | None = None, api_secret: str | None = None, market: str = "stocks",
        feed: str = "realtime", exchange_id: int | str | None = None, quote_lot: float = 1,
        **options: Any,
    ) -> None:
        super().__init__(number=number, depth=depth, **options)
        if market not in CLUSTERS:
            raise ConfigurationError(
                f"{self.name} has no market {market!r}; its markets: {', '.join(CLUSTERS)}")
        if feed not in FEEDS:
            raise ConfigurationError(f"{self.name} has no feed {feed!r}; its feeds: {', '.join(FEEDS)}")
        if isinstance(quote_lot, bool) or not isinstance(quote_lot, (int, float)) or not 0 < quote_lot < 1e9:
            raise ConfigurationError(f"{self.name}: quote_lot is a number like 1 or 100, not {quote_lot!r}")
        self.cluster = market
        self.market = market.partition("/")[0]
        self.signed = self.market == "futures"
        self.url = FEEDS[feed]  # type: ignore[misc]    # here the option chooses the host
        self._key = credential(self.name, "api_key", api_key, self.key_env)
        self._lot: Any = None if quote_lot == 1 else number(str(quote_lot))
        self._exchange_id = None if exchange_id is None else str(exchange_id)
        self._ready = False
        self._opened = 0            # when this connection was
        self._evictions = 0         # in a row
        if self.market == "indices":    # plans differ from one to the next: each is asked for alone
            self.limits = replace(self.limits, batch=1)     # type: ignore[misc]
        self._requests = Requests(self.spelled_topic)
        self._answers = Answers(self.name, number, self._lot)
        self.speak(wire.messages(number, self.signed), wire.Head)
        self.answer(wire.Status, self._status)

    # -- questions ------------------------------------------------------------------------------

    def check_channel(self, channel: str) -> None:
        """See :meth:`Venue.check_channel`; what there is depends on the market."""
        super().check_channel(channel)
        if channel not in MARKETS[self.market]:
            have = ", ".join(MARKETS[self.market])
            raise ConfigurationError(
                f"{self.name}, market={self.market!r}, has no channel {channel!r}; its channels: {have}")

    def native(self, symbol: str) -> str:
        """See :meth:`Venue.native`."""
        native = self.spelling(native_symbol(symbol, self.symbol_style, self.name))
        if self.market in ("crypto", "forex") and "*" not in native:
            check_pair(native, symbol, f"{self.name}, market={self.market!r}")
        return native

    def spelling(self, symbol: str) -> str:
        """One spelling for what users and messages write in several: ``EUR/USD``, ``O:...``, ``BTC-USD``."""
        prefix = PREFIXES.get(self.market, "")
        if self.market in ("options", "indices"):
            return symbol if symbol == "*" or symbol.startswith(prefix) else prefix + symbol
        if self.market == "crypto":
            return symbol.removeprefix(prefix).replace("/", "-").upper()
        if self.market == "forex":
            pair = symbol.removeprefix(prefix).replace("-", "/").upper()
            return f"{pair[:3]}/{pair[3:]}" if len(pair) == 6 and pair.isalpha() else pair
        return symbol

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See :meth:`Venue.topics`: ``T.AAPL`` as the vendor writes it."""
        if channel == "book" and self._exchange_id is None:
            raise ConfigurationError(
                f"{self.name}: channel 'book' needs exchange_id=..., the exchange whose book it is")
        symbol = self.wire_symbol(channel, native)
        return tuple(self.topic(name, symbol) for name in MARKETS[self.market][channel])

    def topic(self, channel: str, symbol: str) -> str:
        """See :meth:`TaggedVenue.topic`."""
        return f"{channel}.{symbol}"

    def spelled_topic(self, topic: str) -> str:
        """A topic as the vendor repeats it, in our spelling. Symbols may contain dots."""
        channel, _, symbol = topic.strip().partition(".")
        return self.topic(channel, self.spelling(symbol))

    def endpoint(self, channel: str) -> str:
        """See :meth:`Venue.endpoint`."""
        return f"/{self.cluster}"

    # -- the conversation -------------------------------------------------------------------------

    def opened(self, now: int) -> Sequence[Item]:
        """See :meth:`Venue.opened`: the vendor speaks first."""
        self._opened = now
        return []

    def inherit(self, previous: Venue) -> None:
        """See :meth:`Venue.inherit`."""
        assert isinstance(previous, PolygonVenue)
        self._evictions = previous._evictions

    def batches(self, topics: Sequence[str]) -> Iterator[Sequence[str]]:
        """See :meth:`Venue.batches`: what is asked for alone is a run of its own."""
        others, alone = self._requests.apart(topics)
        yield from super().batches(others)
        for topic in alone:
            yield [topic]

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See :meth:`Venue.subscribe`."""
        return self._requests.subscribe(topics)

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See :meth:`Venue.unsubscribe`."""
        return self._requests.unsubscribe(topics)

    def _status(self, message: wire.Status, now: int, items: list[Item]) -> None:
        if message.status in ("max_connections", "force_disconnect"):
            items.append((self.session, self._evicted(message, now)))
            return
        signal = self._judge(message.status, scrubbed(message.text, self._key))
        items.extend((self.session, one) for one in signal)

    def _evicted(self, message: wire.Status, now: int) -> Reconnect:
        """A newer connection has taken the place of this one, as another program with the same key makes."""
        if now - self._opened > PEACE:
            self._evictions = 0
        pause = EVICTED * 4.0 ** min(self._evictions, MOST)
        self._evictions += 1
        reason = f"polygon {message.status}: {scrubbed(message.text, self._key)}"
        return Reconnect(f"{reason} (does another program use this key?)", after=pause, planned=False)

    def _judge(self, status: str, text: str) -> Sequence[Signal]:
        """What a status means."""
        reason = f"polygon {scrubbed(status, self._key)}: {text}"
        if status == "connected":
            login = json.dumps({"action": "auth", "params": self._key})
            return [Reply(login, secret=True)]
        if status == "auth_success":
            fresh, self._ready = not self._ready, True
            return [Ready()] if fresh else []
        if status == "success":
            return self._requests.confirmed(text) or [Notice(reason)]
        if status == "auth_failed":
            return [Failed(AuthenticationFailed(reason))]
        if status == "auth_timeout":
            return [Reconnect(reason, after=1.0, planned=False)]
        if said(status, text, "not authorized"):
            if not self._ready:                 # nothing else has been asked for yet
                return [Failed(AuthenticationFailed(reason))]
            return self._requests.refused(reason)
        return [Notice(reason)]

    # -- events -----------------------------------------------------------------------------------

    def builds(self, route: Route) -> Mapping[type, Build]:
        """See :meth:`TaggedVenue.builds`."""
        ticker = route.channel == "ticker"
        return dict(self._build(channel, ticker) for channel in MARKETS[self.market][route.channel])

    def _build(self, channel: str, ticker: bool) -> tuple[type, Build]:
        """The type of the messages of one of the vendor's channels, and what to make of them."""
        of_trade = self._ticker_of_trade if ticker else self._trade
        of_quote = self._ticker_of_quote if ticker else self._quote
        builds: dict[str, tuple[type, Build]] = {
            "T": (wire.Trade, of_trade), "XT": (wire.CryptoTrade, of_trade),
            "Q": (wire.Quote, of_quote), "XQ": (wire.CryptoQuote, of_quote),
            "C": (wire.ForexQuote, of_quote),
            "V": (wire.IndexValue, self._ticker_of_value if ticker else self._value),
            "LV": (wire.LastValue, self._value), "FMV": (wire.FairValue, self._value),
            "A": (wire.Second, self._second), "AM": (wire.Minute, self._minute),
            "XAS": (wire.CryptoSecond, self._second), "XA": (wire.CryptoBar, self._minute),
            "CAS": (wire.ForexSecond, self._second), "CA": (wire.ForexBar, self._minute),
            "XL2": (wire.Book, self._book), "LULD": (wire.Band, self._band),
            "NOI": (wire.NetImbalance, self._imbalance),
        }
        return builds[channel]

    def _exactly(self, text: Any) -> Any:
        """A size that the vendor writes as text."""
        size = self.number(text)
        if not 0 <= size <= 1e300:
            raise ValueError(f"no size: {str(text)[:40]!r}")
        return size

    def _trade_size(self, m: Any) -> Any:
        fractional = getattr(m, "fractional", None)
        return m.size if fractional is None else self._exactly(fractional)

    def _trade(self, m: Any, symbol: str, now: int) -> Trade:
        codes = _codes(m.conditions)
        return Trade(
            exchange=self.name, symbol=symbol, timestamp=epoch_ns(m.time), received=now, price=m.price,
            size=self._trade_size(m), id=str(m.id), market=str(m.market), conditions=codes,
            side=_taker(codes) if self.market == "crypto" else None)

    def _sides(self, m: Any) -> tuple[Any, Any, Any, Any]:
        """Bid, its size, ask, its size: a price of 0 means that there is none, except on futures."""
        bid = m.bid if m.bid or self.signed else None
        ask = m.ask if m.ask or self.signed else None
        bid_size = None if bid is None else getattr(m, "bid_size", None)
        ask_size = None if ask is None else getattr(m, "ask_size", None)
        if self._lot is not None:
            bid_size = None if bid_size is None else bid_size * self._lot
            ask_size = None if ask_size is None else ask_size * self._lot
        return bid, bid_size, ask, ask_size

    def _quote(self, m: Any, symbol: str, now: int) -> Quote:
        bid, bid_size, ask, ask_size = self._sides(m)
        if type(m) is wire.Quote:
            bid_market, ask_market, sequence, codes = m.bid_market, m.ask_market, m.sequence, m.conditions
        else:
            bid_market, ask_market, sequence, codes = m.market, m.market, None, None
        return Quote(
            exchange=self.name, symbol=symbol, timestamp=epoch_ns(m.time), received=now, bid=bid,
            bid_size=bid_size, ask=ask, ask_size=ask_size, sequence=sequence,
            bid_market=str(bid_market), ask_market=str(ask_market), conditions=_codes(codes))

    def _ticker_of_trade(self, m: Any, symbol: str, now: int) -> Ticker:
        return self._ticker(symbol, m.time, now, last=m.price, last_size=self._trade_size(m))

    def _ticker_of_quote(self, m: Any, symbol: str, now: int) -> Ticker:
        bid, bid_size, ask, ask_size = self._sides(m)
        return self._ticker(symbol, m.time, now, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)

    def _ticker_of_value(self, m: Any, symbol: str, now: int) -> Ticker:
        return self._ticker(symbol, m.time, now, last=m.value)

    def _ticker(self, symbol: str, time: int, now: int, **changes: Any) -> Ticker:
        """The ticker so far, with these changes."""
        known = self.tickers.get(symbol) or Ticker(exchange=self.name, symbol=symbol)
        ticker = msgspec.structs.replace(known, timestamp=epoch_ns(time), received=now, **changes)
        self.tickers[symbol] = ticker
        return ticker

    def _second(self, m: Any, symbol: str, now: int) -> Bar:
        return self._bar(m, symbol, now, "1s")

    def _minute(self, m: Any, symbol: str, now: int) -> Bar:
        return self._bar(m, symbol, now, "1m")

    def _bar(self, m: Any, symbol: str, now: int, interval: str) -> Bar:
        volume, detail = m.volume, None if m.detail is None else self._exactly(m.detail)
        if self.market != "futures" and detail is not None:
            volume = detail                     # the same number, exactly
        return Bar(
            exchange=self.name, symbol=symbol, timestamp=epoch_ns(m.end or m.start), received=now,
            interval=interval, start=epoch_ns(m.start) or 0, open=m.open, high=m.high, low=m.low,
            close=m.close, volume=volume, quote_volume=detail if self.market == "futures" else None,
            vwap=m.vwap, trades=m.trades, closed=True)

    def _book(self, m: Any, symbol: str, now: int) -> BookSnapshot | None:
        if str(m.market) != self._exchange_id:
            return None                         # the same pair at another exchange
        if self._exact:
            check_levels(m.bids)
            check_levels(m.asks)
        return BookSnapshot(0, m.bids, m.asks, epoch_ns(m.time) or 0)

    def _band(self, m: Any, symbol: str, now: int) -> PriceBand:
        return PriceBand(
            exchange=self.name, symbol=symbol, timestamp=epoch_ns(m.time), received=now,
            limit_up=m.high, limit_down=m.low, indicator=",".join(_codes(m.indicators)))

    def _imbalance(self, m: Any, symbol: str, now: int) -> Imbalance:
        return Imbalance(
            exchange=self.name, symbol=symbol, timestamp=epoch_ns(m.time), received=now, price=m.price,
            paired=m.paired, imbalance=m.imbalance, auction=m.auction)

    def _value(self, m: Any, symbol: str, now: int) -> Value:
        return Value(
            exchange=self.name, symbol=symbol, timestamp=epoch_ns(m.time), received=now, value=m.value,
            kind=_VALUE_KINDS[type(m)])

    # -- REST beside the stream -------------------------------------------------------------------

    def rest_headers(self) -> Mapping[str, str]:
        """See :meth:`Venue.rest_headers`."""
        return {"Authorization": f"Bearer {self._key}"}

    def _rest(self, path: str, **params: str) -> RestRequest:
        return RestRequest(path, params)

    def _rest_symbol(self, symbol: str) -> str:
        """As REST writes it: ``X:BTCUSD``, ``C:EURUSD``; the others as they are."""
        native = self.native(symbol)
        if self.market in ("crypto", "forex"):
            return PREFIXES[self.market] + native.replace("-", "").replace("/", "")
        return native

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See :meth:`Venue.ticker_request`. Futures have none."""
        if self.market == "futures" or "*" in symbol:
            return None
        ticker = self._rest_symbol(symbol)
        if self.market in ("options", "indices"):
            return self._rest("/v3/snapshot", **{"ticker.any_of": ticker})
        place = "us" if self.market == "stocks" else "global"
        return self._rest(
            f"/v2/snapshot/locale/{place}/markets/{self.market}/tickers/{quote(ticker, safe=':')}")

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See :meth:`Venue.ticker_answer`."""
        if self.market in ("options", "indices"):
            return self._answers.unified(body, self._rest_symbol(symbol), symbol, now)
        return self._answers.single(body, symbol, now)

    def orderbook_request(self, symbol: str) -> RestRequest | None:
        """See :meth:`Venue.orderbook_request`: crypto only, and of one exchange."""
        if self.market != "crypto" or self._exchange_id is None or "*" in symbol:
            return None
        ticker = quote(self._rest_symbol(symbol), safe=":")
        return self._rest(f"/v2/snapshot/locale/global/markets/crypto/tickers/{ticker}/book")

    def orderbook_answer(self, symbol: str, body: bytes, now: int) -> BookSnapshot:
        """See :meth:`Venue.orderbook_answer`."""
        return self._answers.book(body, self._exchange_id or "", symbol)


_VALUE_KINDS: Mapping[type, str] = {
    wire.IndexValue: "index", wire.LastValue: "last", wire.FairValue: "fair"}


def _codes(codes: list[int] | int | None) -> tuple[str, ...]:
    if codes is None:
        return ()
    return tuple(map(str, codes)) if isinstance(codes, list) else (str(codes),)


def _taker(codes: tuple[str, ...]) -> Any:
    """Crypto trades say the taker's side among their conditions."""
    return "sell" if "1" in codes else "buy" if "2" in codes else None
