"""The sandbox: a simulation of every venue that has one, found by the manager's names."""

from __future__ import annotations

import pytest

from streams import StreamManager
from streams.console.targets import channels_of
from streams.exchanges import EXCHANGES
from streams.sim import Sandbox

from ..redis_server import needs_redis

SYMBOLS = {"alpaca": "TSLA", "alpaca-crypto": "BTC-USD", "alpaca-options": "AAPL261218C00200000",
           "polygon": "TSLA", "nasdaq-itch": "TSLA", "kraken": "ETH-USD"}


@pytest.mark.parametrize("exchange", Sandbox().exchanges)
def test_every_simulated_venue_serves_its_own_client(exchange: str) -> None:
    if exchange == "longpoll-xml":
        pytest.importorskip("defusedxml")
    if exchange == "redis":
        needs_redis()
    symbol = SYMBOLS.get(exchange, "LTC-USDT")
    with Sandbox() as sandbox, StreamManager() as market:
        options = sandbox.options(exchange, [symbol])
        market.start(exchange, symbol, channels_of(EXCHANGES[exchange], options, ())[:1], **options)
        market.wait_ready(timeout=10)
        seen = market.store.wait(timeout=10)
        assert market.store.wait(seen, timeout=10) != seen


def test_every_venue_with_a_public_address_can_be_simulated() -> None:
    public = {kind.venue.name for kind in EXCHANGES.values()
              if kind.venue.url and "127.0.0.1" not in kind.venue.url}
    assert public <= set(Sandbox().exchanges)


def test_a_venue_is_started_once_and_known_by_its_aliases() -> None:
    with Sandbox() as sandbox:
        assert sandbox.venue("htx") is sandbox.venue("huobi", ["LTC-USDT"])
        assert sandbox.options("massive") == {**sandbox.options("polygon"), "api_key": "KEY"}


def test_markets_differ_and_are_the_same_each_time() -> None:
    def books() -> list[object]:
        with Sandbox(rate=0) as sandbox:
            return [(book.bids, book.asks) for name in ("binance", "huobi")
                    for book in [sandbox.venue(name).market.book("BTCUSDT")]]

    first, again = books(), books()
    assert first == again
    assert first[0] != first[1]


def test_what_can_not_be_simulated_is_named() -> None:
    with Sandbox() as sandbox, pytest.raises(LookupError, match="'acme' can not be simulated; there are:"):
        sandbox.options("acme")
