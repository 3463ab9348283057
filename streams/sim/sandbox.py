"""Simulated venues for whoever wants to try something: asked for by name, started when first needed.

::

    with Sandbox() as sandbox, StreamManager() as market:
        market.start("binance", ["BTC-USDT"], **sandbox.options("binance", ["BTC-USDT"]))

The demo, the examples (``--demo``) and the tests of the README get their venues here.
"""
from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from .alpaca import AlpacaSim
from .binance import BinanceFuturesSim, BinanceSim
from .huobi import HuobiSim
from .itch import ItchSim
from .kraken import KrakenSim
from .longpoll import LongPollSim
from .polygon import PolygonSim
from .redis import RedisSim

__all__ = ["Sandbox"]


class _Server(Protocol):
    """What every simulation is."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> bool: ...


class _Kind(NamedTuple):
    """How one venue is made.

    Attributes:
        make: ``make(symbols, seed, rate)``.
        symbols: what it trades besides the symbols that were asked for.
        spelled: what the simulation calls a symbol of the user's.
        options: what a client needs besides the address: the keys of a made-up account.
    """

    make: Callable[[list[str], int, float], _Server]
    symbols: tuple[str, ...]
    spelled: Callable[[str], str]
    options: Mapping[str, str] = {}


def _joined(symbol: str) -> str:
    return symbol.replace("-", "").upper()


def _slashed(symbol: str) -> str:
    return symbol.replace("-", "/").upper()


_COINS = ("BTC-USDT", "ETH-USDT", "SOL-USDT", "XRP-USDT")
_STOCKS = ("AAPL", "NVDA", "MSFT")
_ACCOUNT = {"api_key": "KEY", "api_secret": "SECRET"}

_KINDS: Mapping[str, _Kind] = {
    "binance": _Kind(lambda s, seed, rate: BinanceSim(s, seed=seed, rate=rate), _COINS, _joined),
    "binance-futures": _Kind(
        lambda s, seed, rate: BinanceFuturesSim(s, seed=seed, rate=rate), _COINS, _joined),
    "huobi": _Kind(lambda s, seed, rate: HuobiSim(s, seed=seed, rate=rate), _COINS, _joined),
    "kraken": _Kind(lambda s, seed, rate: KrakenSim(s, seed=seed, rate=rate), ("BTC-USD", "ETH-USD"),
                    _slashed),
    "alpaca": _Kind(lambda s, seed, rate: AlpacaSim(s, seed=seed, rate=rate), _STOCKS, str.upper, _ACCOUNT),
    "alpaca-crypto": _Kind(lambda s, seed, rate: AlpacaSim(s, seed=seed, rate=rate),
                           ("BTC-USD", "ETH-USD"), _slashed, _ACCOUNT),
    "alpaca-options": _Kind(lambda s, seed, rate: AlpacaSim(s, seed=seed, rate=rate),
                            ("NVDA261218C00200000", "NVDA261218P00180000"), str.upper, _ACCOUNT),
    "polygon": _Kind(
        lambda s, seed, rate: PolygonSim(s, seed=seed, rate=rate),
        (*_STOCKS, "O:NVDA261218C00200000", "O:NVDA261218P00180000", "BTC-USD", "EUR/USD", "I:SPX", "ESZ6"),
        str.upper, {"api_key": "KEY"}),
    # Its rate is of all messages, about one in three of which moves a visible price level.
    "nasdaq-itch": _Kind(lambda s, seed, rate: ItchSim(tuple(s), seed, rate=3 * rate * len(s)), _STOCKS,
                         str.upper, {"api_key": "user", "api_secret": "password"}),
    "longpoll-xml": _Kind(lambda s, seed, rate: LongPollSim(s, seed=seed, rate=rate), _COINS[:2], str.upper),
    "longpoll-json": _Kind(
        lambda s, seed, rate: LongPollSim(s, seed=seed, rate=rate, format="json"), _COINS[:2], str.upper),
    "redis": _Kind(lambda s, seed, rate: RedisSim(s, seed=seed, rate=rate), _COINS[:2], str),
}
_ALIASES = {"htx": "huobi", "massive": "polygon", "itch": "nasdaq-itch", "totalview": "nasdaq-itch"}


class Sandbox:
    """A context manager that owns simulated venues.

    Args:
        seed: of their markets.
        rate: book updates, quotes or trades per second and symbol.

    Threads: any, for everything.
    """

    def __init__(self, *, seed: int = 1, rate: float = 20.0) -> None:
        self._seed = seed
        self._rate = rate
        self._lock = threading.Lock()
        self._venues: dict[str, Any] = {}

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def exchanges(self) -> tuple[str, ...]:
        """Names of all that can be simulated."""
        return tuple(_KINDS)

    def venue(self, exchange: str, symbols: Iterable[str] = ()) -> Any:
        """The simulation of an exchange, by the name or alias the manager knows it by.

        Args:
            symbols: What it has to trade besides the usual ones; only of effect when it is started, the
                first time it is asked for. One with ``*`` in it adds nothing.

        Raises:
            LookupError: There is none of that exchange; for ``redis``: no ``redis-server`` on the path.
        """
        name = _ALIASES.get(exchange, exchange)
        if name not in _KINDS:
            raise LookupError(f"{exchange!r} can not be simulated; there are: {', '.join(_KINDS)}")
        with self._lock:
            if name not in self._venues:
                kind = _KINDS[name]
                wanted = dict.fromkeys(
                    kind.spelled(symbol) for symbol in (*symbols, *kind.symbols) if "*" not in symbol)
                # Not the same market everywhere, and the same each time.
                seed = self._seed + zlib.crc32(name.encode()) % 1000
                venue = kind.make(list(wanted), seed, self._rate)
                venue.start()
                self._venues[name] = venue
            return self._venues[name]

    def options(self, exchange: str, symbols: Iterable[str] = ()) -> dict[str, str]:
        """What ``StreamManager.start`` or a stream needs to find the simulation instead of the venue.

        Args:
            symbols: as for :meth:`venue`.

        Raises:
            LookupError: There is no simulation of that exchange.
        """
        venue = self.venue(exchange, symbols)
        options = {"url": venue.url, **_KINDS[_ALIASES.get(exchange, exchange)].options}
        if hasattr(venue, "rest_url"):
            options["rest_url"] = venue.rest_url
        return options

    def close(self) -> None:
        """Stop all of them."""
        with self._lock:
            venues, self._venues = list(self._venues.values()), {}
        for venue in venues:
            venue.stop()
