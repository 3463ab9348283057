"""Drives the ITCH venue and the simulator's market in lockstep: after every message the client's book of
the stock concerned must equal the true one.

``python tests/venues/itch_lockstep.py [messages]`` does it for a million messages (about half a minute).
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from streams.events import Trade
from streams.sim.itch_market import ItchMarket
from streams.venue import BookSnapshot, Item, Malformed, Reconnect, Reply
from streams.venues.itch import NasdaqItch

DATE = "2026-02-19"
START = 34_200 * 10**9      # 9:30


class Client:
    """Books kept from what venue instances say, connection after connection.

    Attributes:
        books: Symbol -> (bids, asks), price -> size.
        last: Symbol -> sequence number of the book.
        signals: What came that was no market data.
        trades: By symbol.
    """

    def __init__(self, symbols: Iterable[str], *, channels: Iterable[str] = ("book",),
                 **options: Any) -> None:
        self.symbols = list(symbols)
        self.channels = list(channels)
        self.options = {"date": DATE, "api_key": "user", "api_secret": "password", **options}
        self.books: dict[str, tuple[dict[Any, Any], dict[Any, Any]]] = {s: ({}, {}) for s in self.symbols}
        self.last: dict[str, int] = {}
        self.signals: list[Any] = []
        self.trades: dict[str, list[Trade]] = {}
        self.others: list[Any] = []
        self.venue: NasdaqItch | None = None
        self.request = b""

    def connect(self) -> tuple[str, int]:
        """A new connection, which inherits from the last; what it asks for."""
        previous, self.venue = self.venue, NasdaqItch(**self.options)
        if previous is not None:
            self.venue.inherit(previous)
        for symbol in self.symbols:
            for channel in self.channels:
                self.venue.add(self.venue.route(symbol, channel))
        self.last.clear()
        (_, reply), = self.venue.opened(1)
        assert isinstance(reply, Reply) and isinstance(reply.frame, bytes)
        self.request = reply.frame
        return reply.frame[17:27].decode().strip(), int(reply.frame[27:47])

    def login(self, session: str = "SIM0000001") -> int:
        """`connect`, and be accepted; the number of the message that comes next."""
        _, number = self.connect()
        self.feed(accepted(session, number))
        return number

    def feed(self, packet: bytes, now: int = 1) -> list[Item]:
        """One packet into the venue, and what it says into the books."""
        assert self.venue is not None
        return self._take(list(self.venue.receive(packet, now)))

    def feed_many(self, packets: Sequence[bytes], now: int = 1) -> list[Item]:
        """Several packets, read at once."""
        assert self.venue is not None
        return self._take(list(self.venue.receive_many(packets, now)))

    def _take(self, items: list[Item]) -> list[Item]:
        assert self.venue is not None
        for route, event in items:
            if route is self.venue.session:
                self.signals.append(event)
            elif route.channel == "book":
                self._apply(route.symbol, event)
            elif isinstance(event, Trade):
                self.trades.setdefault(route.symbol, []).append(event)
            else:
                self.others.append(event)
        return items

    def taken(self, kind: type) -> list[Any]:
        """The signals of a kind so far, which are forgotten."""
        found = [signal for signal in self.signals if type(signal) is kind]
        self.signals = [signal for signal in self.signals if type(signal) is not kind]
        return found

    def _apply(self, symbol: str, event: Any) -> None:
        sides = self.books[symbol]
        if isinstance(event, BookSnapshot):
            sides[0].clear()
            sides[1].clear()
        else:                                       # the rule "chained", by hand
            assert event.link == self.last[symbol], (symbol, event, self.last[symbol])
            assert event.last > event.link
        self.last[symbol] = event.last
        for levels, changes in zip(sides, (event.bids, event.asks)):
            for price, size in changes:
                if size:
                    levels[price] = size
                else:
                    levels.pop(price, None)         # perhaps it came and went in one read


def accepted(session: str, number: int) -> bytes:
    """A login accepted packet, without its length."""
    return b"A" + f"{session:>10}{number:>20}".encode()


def compare(client: Client, market: ItchMarket, symbol: str, number: type[Any] = float) -> None:
    """Raise AssertionError unless the client's book is the true one."""
    for mine, truth in zip(client.books[symbol], market.levels(symbol)):
        if number is float:
            assert mine == {price / 10_000: size for price, size in truth.items()}, symbol
        else:
            assert mine == {Decimal(price) / 10_000: size for price, size in truth.items()}, symbol


def run(messages: int, *, seed: int = 1, reconnect: float = 0.0, number: type[Any] = float,
        symbols: tuple[str, ...] = ("AAPL", "MSFT", "NVDA"), watched: int = 3, **options: Any) -> Client:
    """``messages`` in lockstep, each followed by a reconnect with probability ``reconnect``."""
    market = ItchMarket(symbols, seed, start=START)
    dice = random.Random(seed)
    client = Client(symbols[:watched], number=number, **options)
    sent = client.login() - 1
    packets = market.packets
    for _ in range(messages):
        symbol = market.step()
        while sent < len(packets):
            client.feed(packets[sent][2:])
            sent += 1
        if symbol in client.books:
            compare(client, market, symbol, number)
        if reconnect and dice.random() < reconnect:
            sent = client.login() - 1
            assert sent == len(packets), "the session was not resumed at the next message"
    client.feed(b"H")
    for symbol in client.symbols:
        compare(client, market, symbol, number)
        assert client.books[symbol][0]
    assert not client.taken(Malformed) and not client.taken(Reconnect)
    return client


def main() -> None:
    """Half a million each way."""
    half = (int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000) // 2
    for seed, number, options in ((1, float, {}), (2, Decimal, {"keep": "subscribed"})):
        begin = time.monotonic()
        run(half, seed=seed, number=number, reconnect=0.001, **options)
        print(f"{half} messages, seed {seed}, {number.__name__}, {options or 'keep=all'}: every book right "
              f"at every number, in {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
