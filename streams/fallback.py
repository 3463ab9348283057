"""Fresh data or none: the stream's while it is fresh, else by REST, else from the next provider.

Everything that is handed out has been looked at: values that are not positive, a bid above the
ask, a price far from those of the last minute are refused, counted, and the next source is asked.
Threads: any, for everything; calls may block on the network, so never from a stream's own thread.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from decimal import Decimal
from typing import Any, TypeVar, Union

import msgspec

from .book import BookView
from .checks import check_name, check_positive, check_seconds
from .errors import ConfigurationError, NoData, StaleData, StreamsError
from .events import AHEAD, Number, Ticker
from .forking import tell_after_fork
from .metrics import Guarded, Metrics
from .rest import Rest
from .store import Store
from .venue import Venue

__all__ = ["DEFAULT_TTL", "Fallback", "Provider"]

Answer = Union[Ticker, BookView]
Provider = Callable[[str, str], Union[Ticker, BookView, Number, None]]
A = TypeVar("A", Ticker, BookView)

DEFAULT_TTL = {"ticker": 10.0, "book": 5.0}     # seconds
REST_PATIENCE = 5.0                             # seconds one REST call may take, waiting included
SETTLED = 2.0           # seconds after a fall-back until the stream is relied on anew, if it is fresh then

_STREAM = 0             # its rank among the sources; the providers have those from 1 on, in their order


class _Trust:
    """How far the stream is relied on, by those who ask for data of about the same age."""

    __slots__ = ("fell_back_at",)

    def __init__(self) -> None:
        self.fell_back_at: float | None = None      # when it was last not fresh; None: it is relied on


class _Pending(Future[Any]):
    """An answer that somebody is getting. ``owner``: the thread that does."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = threading.get_ident()


class _Key:
    """What is remembered of one kind of data of one symbol."""

    __slots__ = ("users", "cached", "pending", "trust", "prices")

    def __init__(self) -> None:
        self.users = 0                      # calls that are under way
        self.cached: Any = None             # the last answer that did not come from the stream
        self.pending: _Pending | None = None
        self.trust: dict[int, _Trust] = {}  # who asks for a tenth of a second is not who asks for ten
        # Of good answers: (kind, rank of the source) -> (when, price).
        self.prices: dict[tuple[str, int], deque[tuple[float, float]]] = {}

    def trust_at(self, age: float) -> _Trust:
        """That of callers who ask for this age, give or take a factor of two."""
        return self.trust.setdefault(math.frexp(age)[1], _Trust())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return self.users <= 0 and not self.prices and self.cached is None and self.pending is None


class Fallback:
    """Answers for :meth:`StreamManager.ticker` and :meth:`StreamManager.orderbook`.

    Args:
        store: Of the streams.
        side: Gives ``(venue, rest)`` of an exchange.
        metrics: Where refused values are counted.
        providers: In order of preference, after the stream: ``"rest"``, or callables
            ``(exchange, symbol) -> Ticker | BookView | number | None``.
        ttl: Seconds data counts as fresh, per ``ticker`` and ``book``.
        max_jump: Largest believable change, in per cent, against the median price that the same source, and
            those preferred to it, have given in the last ``window`` seconds.
    """

    def __init__(
        self, store: Store, side: Callable[[str], tuple[Venue, Rest]], metrics: Metrics, *,
        providers: Sequence[str | Provider] = ("rest",), ttl: Mapping[str, float] | None = None,
        max_jump: float = 20.0, window: float = 60.0,
    ) -> None:
        _check_ttl({} if ttl is None else ttl)
        _check_providers(providers)
        check_seconds("window", window)
        check_positive("max_jump", max_jump, "per cent")
        self.refused = 0
        self._store = store
        self._side = side
        self._metrics = Guarded(metrics)
        self._providers = tuple(providers)
        self._ttl = {**DEFAULT_TTL, **(ttl or {})}
        self._max_jump = max_jump
        self._window = window
        self._keys: dict[tuple[str, str, str], _Key] = {}
        self._lock = threading.Lock()
        self._waits: dict[int, _Pending] = {}       # thread -> what it waits for
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. What others were getting does not come here."""
        self._lock, self._waits = threading.Lock(), {}
        for key in self._keys.values():
            key.pending, key.users = None, 0

    def ticker(self, exchange: str, symbol: str, max_age: float | None = None) -> Ticker:
        """A ticker no older than ``max_age`` seconds (None: the ttl).

        Raises:
            StaleData: No source has a fresh and plausible one; the message says what each had.
            ConfigurationError: The exchange can have no such symbol.
        """
        return self._get("ticker", exchange, symbol, max_age, self._store.ticker, self._rest_ticker, Ticker)

    def orderbook(self, exchange: str, symbol: str, max_age: float | None = None) -> BookView:
        """An order book, likewise."""
        return self._get("book", exchange, symbol, max_age, self._store.orderbook, self._rest_book, BookView)

    # -- which source ---------------------------------------------------------------------------

    def _get(self, kind: str, exchange: str, symbol: str, max_age: float | None,
             read: Callable[[str, str, float], A], rest: Callable[[str, str], A], shape: type[A]) -> A:
        age = self._ttl[kind] if max_age is None else max_age
        check_name("symbol", symbol, "BTC-USDT")
        check_seconds("max_age", age)
        name = kind, exchange, symbol
        if name not in self._keys:
            self._check_symbol(exchange, symbol)
        with self._lock:
            key = self._keys.setdefault(name, _Key())
            key.users += 1
        try:
            return self._answer(key, kind, exchange, symbol, age, read, rest, shape)
        finally:
            with self._lock:
                key.users -= 1
                if key.empty and self._keys.get(name) is key:       # any text may be asked for
                    del self._keys[name]

    def _check_symbol(self, exchange: str, symbol: str) -> None:
        """Raises ConfigurationError for what can be no symbol there. A stream of the user's own may have
        another opinion, or the venue be unknown: then there is nothing to say against it."""
        if any(symbol in table.get(exchange, {}) for table in (self._store.tickers, self._store.orderbooks)):
            return
        try:
            venue, _ = self._side(exchange)
        except StreamsError:
            return
        venue.native(symbol)

    def _answer(self, key: _Key, kind: str, exchange: str, symbol: str, age: float,
                read: Callable[[str, str, float], A], rest: Callable[[str, str], A], shape: type[A]) -> A:
        limit = _Limit(age)
        why: list[str] = []
        streamed = self._streamed(key, exchange, symbol, age, read, why)
        if self._rely_on_stream(key.trust_at(age), streamed is not None):
            assert streamed is not None
            return streamed
        answer = self._ask_once(key, exchange, symbol, limit, rest, shape, why)
        if answer is None and streamed is not None:
            # Not settled yet, but better than nothing; that took a while, so what is there now is asked for.
            answer = self._streamed(key, exchange, symbol, age, read, why)
        if answer is not None:
            return answer
        raise StaleData(f"{exchange} {symbol}: no fresh {kind}; {'; '.join(why)}")

    def _streamed(self, key: _Key, exchange: str, symbol: str, age: float,
                  read: Callable[[str, str, float], A], why: list[str]) -> A | None:
        try:
            return self._believable(key, read(exchange, symbol, age), exchange, _STREAM)
        except StreamsError as error:
            why.append(f"stream: {error}")
            return None

    def _rely_on_stream(self, trust: _Trust, fresh: bool) -> bool:
        """Whether the stream answers; not for a while after a fall-back. However seldom it is asked: who has
        fresh data in hand must not wait for a REST that hangs."""
        now = time.monotonic()
        with self._lock:
            if not fresh:
                trust.fell_back_at = now
                return False
            if trust.fell_back_at is not None and now - trust.fell_back_at < SETTLED:
                return False
            trust.fell_back_at = None
            return True

    def _ask_once(self, key: _Key, exchange: str, symbol: str, limit: _Limit,
                  rest: Callable[[str, str], A], shape: type[A], why: list[str]) -> A | None:
        """What is kept, if it is fresh; else ask the providers. Those who come meanwhile wait for the same
        answer; but not if that may wait for them: a provider may ask the manager for something else, or read
        the store, which the caller may hold."""
        me, mine, answer = threading.get_ident(), _Pending(), None
        try:
            while True:
                with self._lock:
                    if key.cached is not None and not limit.broken_by(key.cached):
                        return key.cached  # type: ignore[no-any-return]
                    others = key.pending
                    if others is None:
                        key.pending = mine
                    elif self._waits_for(others, me):
                        why.append("it is asked for in order to answer itself")
                        return None
                    elif self._store.lock.mine:
                        why.append("another thread is getting it, and store.lock is held here")
                        return None
                    else:
                        self._waits[me] = others
                if others is None:
                    answer = self._ask(key, exchange, symbol, limit, rest, shape, why)
                    return answer
                given, reasons = others.result()
                with self._lock:
                    del self._waits[me]
                if given is None or not limit.broken_by(given):     # else they were content with less
                    why.extend(reasons)
                    return given  # type: ignore[no-any-return]
        finally:                                # Ctrl-C may come anywhere, and nobody shall wait for ever
            try:
                with self._lock:
                    self._waits.pop(me, None)
                    if key.pending is mine:
                        key.pending = None
                    if answer is not None:
                        key.cached = answer
            finally:
                mine.set_result((answer, list(why)))

    def _waits_for(self, pending: _Pending | None, thread: int) -> bool:
        """Whether an answer can not come before ``thread`` has gone on. Holding the lock."""
        while pending is not None and pending.owner != thread:
            pending = self._waits.get(pending.owner)
        return pending is not None

    def _ask(self, key: _Key, exchange: str, symbol: str, limit: _Limit, rest: Callable[[str, str], A],
             shape: type[A], why: list[str]) -> A | None:
        for rank, provider in enumerate(self._providers, _STREAM + 1):
            name = provider if isinstance(provider, str) else getattr(provider, "__name__", repr(provider))
            try:
                given = rest(exchange, symbol) if isinstance(provider, str) else provider(exchange, symbol)
                answer = _shaped(given, shape, exchange, symbol, name)
                wrong = "nothing" if answer is None else limit.broken_by(answer)
                if answer is not None and not wrong:
                    return self._believable(key, answer, exchange, rank)
                why.append(f"{name}: {wrong}")
            except Exception as error:          # a provider is the user's code
                why.append(f"{name}: {error}")
        return None

    # -- is it plausible --------------------------------------------------------------------------

    def _believable(self, key: _Key, answer: A, exchange: str, rank: int) -> A:
        """``answer`` of the source with that rank, if it can be true. Raises StaleData otherwise."""
        kind, price, wrong = _look_at(answer)
        with self._lock:
            wrong = wrong or self._outlier(key, kind, price, rank)
            self.refused += bool(wrong)
        if wrong:
            self._metrics.inc("implausible", exchange=exchange)
            raise StaleData(f"not plausible: {wrong}")
        return answer

    def _outlier(self, key: _Key, kind: str, price: float, rank: int) -> str:
        """What is wrong with a price, compared with those of its kind; else it is remembered. Holding the
        lock.

        What only stands in for a source has no say in whether that one is right: it would be asked in its
        place, again and again, and thereby be proved right for ever. So a source that has jumped is believed
        at the latest when its own prices of before, and those preferred to it, are too old to count.
        """
        now = time.monotonic()
        known = [value for (of, better), prices in key.prices.items() if of == kind and better <= rank
                 for when, value in prices if when >= now - self._window]
        if known:
            usual = sorted(known)[len(known) // 2]
            jump = abs(price - usual) / usual * 100
            if jump > self._max_jump:
                return f"{price:g} is {jump:.0f} % away from the {usual:g} of the last {self._window:g} s"
        key.prices.setdefault((kind, rank), deque(maxlen=100)).append((now, price))
        return ""

    # -- REST -----------------------------------------------------------------------------------------

    def _rest_ticker(self, exchange: str, symbol: str) -> Ticker:
        venue, rest = self._side(exchange)
        request = venue.ticker_request(symbol)
        if request is None:
            raise NoData(f"{exchange} has no ticker by REST")
        return venue.ticker_answer(symbol, rest.get(request, REST_PATIENCE), time.time_ns())

    def _rest_book(self, exchange: str, symbol: str) -> BookView:
        venue, rest = self._side(exchange)
        request = venue.orderbook_request(symbol)
        if request is None:
            raise NoData(f"{exchange} has no order book by REST")
        body = rest.get(request, REST_PATIENCE)
        now = time.time_ns()
        book = venue.orderbook_answer(symbol, body, now)
        return BookView(
            exchange, symbol, tuple(sorted((level for level in book.bids if level[1]), reverse=True)),
            tuple(sorted(level for level in book.asks if level[1])), last_update=now,
            timestamp=book.time * venue.time_unit or None, status="live", sequence=book.last or None,
            source="rest")


def _check_ttl(ttl: Any) -> None:
    if not isinstance(ttl, Mapping):
        raise ConfigurationError(f"ttl={ttl!r}: give seconds by channel, like {{'ticker': 10.0}}")
    for name, seconds in ttl.items():
        if name not in DEFAULT_TTL:
            raise ConfigurationError(f"ttl has no {name!r}; it has: {', '.join(DEFAULT_TTL)}")
        check_seconds(f"ttl of {name}", seconds)


def _check_providers(providers: Any) -> None:
    if not isinstance(providers, (list, tuple)):
        raise ConfigurationError(f"providers={providers!r}: give a list, like ['rest']")
    for provider in providers:
        if provider != "rest" and not callable(provider):
            raise ConfigurationError(f"provider {provider!r}: give 'rest' or a callable")


def _shaped(given: Any, shape: type[A], exchange: str, symbol: str, name: str) -> A | None:
    """What a provider gave, as a ticker or a book; None when it has none."""
    if isinstance(given, (int, float, Decimal)) and not isinstance(given, bool) and shape is Ticker:
        given = Ticker(exchange=exchange, symbol=symbol, received=time.time_ns(), last=given)
    if isinstance(given, Ticker) and given.source == "stream":
        given = msgspec.structs.replace(given, source=name, received=given.received or time.time_ns())
    if isinstance(given, BookView) and given.source == "stream":
        given = copy.copy(given)
        given.source = name
    if given is not None and not isinstance(given, shape):
        raise ConfigurationError(f"a provider gives a {shape.__name__}, not {type(given).__name__}")
    return given


class _Limit:
    """How old an answer may be: ``age`` seconds, or it must have come since the question was asked."""

    def __init__(self, age: float) -> None:
        self._age = age
        self._asked = time.time_ns()

    def broken_by(self, answer: Answer) -> str:
        """What is wrong with the age of an answer; "" when nothing is."""
        stamp = answer.received if isinstance(answer, Ticker) else answer["last_update"]
        if stamp is None:
            return "it does not say how old it is"
        age = (time.time_ns() - stamp) / 1e9
        if age < -AHEAD:
            return f"its stamp is {-age:.3f} s ahead of the clock"
        return "" if age <= self._age or stamp >= self._asked else f"it is {age:.1f} s old"


def _look_at(answer: Answer) -> tuple[str, float, str]:
    """``(kind of price, price, what is wrong with it)``."""
    if isinstance(answer, Ticker):
        bid, ask, last = answer.bid, answer.ask, answer.last
    else:
        (bid, ask), last = ((side[0] if side else None) for side in answer.touch), None
    for value in (bid, ask, last):
        if value is not None and not (math.isfinite(value) and 0 < value < Decimal("1e300")):
            return "", 0.0, f"a price of {value}"
    if bid is not None and ask is not None and bid > ask:
        return "", 0.0, f"crossed: bid {bid} above ask {ask}"
    if last is not None:
        return "last", float(last), ""
    if bid is not None and ask is not None:
        return "mid", (float(bid) + float(ask)) / 2, ""
    if bid is not None:
        return "bid", float(bid), ""
    return ("", 0.0, "no price at all") if ask is None else ("ask", float(ask), "")
