"""What a message of the ITCH feed costs, beside ``struct.unpack`` plus dict work alone.

``python tests/venues/itch_cost.py [messages]`` prints CPU microseconds per message: a script, not a test,
because a shared machine's times decide nothing.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from streams.book import OrderBook
from streams.sequencing import BookKeeper, Clock
from streams.sim.itch_market import ItchMarket
from streams.transports.framing import LengthPrefixed
from streams.venues.itch import NasdaqItch

ACCEPTED = b"A" + b"SIM0000001" + b"%20d" % 1
BLOCK = 65536


def floor(packets: Sequence[bytes]) -> None:
    """The least that Python can do: unpack, a dict of orders, a dict of levels per side."""
    add = struct.Struct(">ccHHHIQcI8sI").unpack
    executed = struct.Struct(">ccHHHIQIQ").unpack
    executed_at = struct.Struct(">ccHHHIQIQcI").unpack
    cancel = struct.Struct(">ccHHHIQI").unpack
    delete = struct.Struct(">ccHHHIQ").unpack
    replace = struct.Struct(">ccHHHIQQII").unpack
    orders: dict[int, tuple[dict[int, int], int, int]] = {}
    sides: dict[tuple[int, bytes], dict[int, int]] = {}

    def reduce(ref: int, shares: int) -> None:
        levels, price, left = orders[ref]
        levels[price] -= shares
        if not levels[price]:
            del levels[price]
        if shares == left:
            del orders[ref]
        else:
            orders[ref] = levels, price, left - shares

    for raw in packets:
        code = raw[1]
        if code == 65 or code == 70:
            _, _, locate, _, _, _, ref, side, shares, _, price = add(raw[:37])
            levels = sides.setdefault((locate, side), {})
            orders[ref] = levels, price, shares
            levels[price] = levels.get(price, 0) + shares
        elif code == 68:
            ref = delete(raw)[-1]
            reduce(ref, orders[ref][2])
        elif code == 69:
            _, _, _, _, _, _, ref, shares, _ = executed(raw)
            reduce(ref, shares)
        elif code == 67:
            _, _, _, _, _, _, ref, shares, _, _, _ = executed_at(raw)
            reduce(ref, shares)
        elif code == 88:
            _, _, _, _, _, _, ref, shares = cancel(raw)
            reduce(ref, shares)
        elif code == 85:
            _, _, _, _, _, _, ref, new, shares, price = replace(raw)
            levels = orders[ref][0]
            reduce(ref, orders[ref][2])
            orders[new] = levels, price, shares
            levels[price] = levels.get(price, 0) + shares


def venue(packets: Sequence[bytes], symbols: Sequence[str], channels: Sequence[str] = ("book",),
          keepers: bool = False, together: int = 1500) -> None:
    """The venue as the stream drives it; ``keepers``: into real books. ``together``: so many messages are
    read at once (a block of 64 KiB holds about 1,500); 1: one by one, as when handlers listen."""
    pure = NasdaqItch(api_key="user", api_secret="password", date="2026-02-19")
    clock, lock = Clock(), threading.RLock()
    for symbol in symbols:
        for channel in channels:
            route = pure.route(symbol, channel)
            if channel == "book" and keepers:
                book = OrderBook("nasdaq-itch", symbol, lock, time_unit=1)
                keeper = BookKeeper(book, route, pure.rule, clock, _ignore, _ignore, _ignore)
                keeper.connected()
                route.apply = keeper.apply
            pure.add(route)
    pure.receive(ACCEPTED, 1)
    if together == 1:
        for raw in packets:
            for route, event in pure.receive(raw, 1):
                route.apply(event)
        return
    for at in range(0, len(packets), together):
        for route, event in pure.receive_many(packets[at:at + together], 1):
            route.apply(event)


def framing(stream: bytes) -> None:
    """The transport's share: cutting packets from blocks."""
    cut = LengthPrefixed(1 << 24).cut
    for at in range(0, len(stream), BLOCK):
        cut(stream[at:at + BLOCK])


def _ignore(*_: Any) -> None:
    """Nobody listens."""


def measure(work: Callable[..., None], *args: Any, **kwargs: Any) -> float:
    """CPU seconds, the best of three."""
    times = []
    for _ in range(3):
        before = time.process_time()
        work(*args, **kwargs)
        times.append(time.process_time() - before)
    return min(times)


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    market = ItchMarket(symbols=tuple(f"S{n}" for n in range(20)), seed=1, start=34_200 * 10**9)
    for _ in range(count):
        market.step()
    stream = b"".join(market.packets)
    packets = [packet[2:] for packet in market.packets]
    symbols = market.symbols
    base = measure(floor, packets)
    rows = (
        ("unpack and dicts alone", base),
        ("cutting packets from blocks", measure(framing, stream)),
        ("venue, nothing subscribed", measure(venue, packets, ())),
        ("venue, 1 book of 20", measure(venue, packets, symbols[:1])),
        ("venue, all 20 books", measure(venue, packets, symbols)),
        ("venue, all books and trades", measure(venue, packets, symbols, ("book", "trades"))),
        ("venue and store, all 20 books", measure(venue, packets, symbols, keepers=True)),
        ("... one message at a time", measure(venue, packets, symbols, keepers=True, together=1)),
    )
    for name, seconds in rows:
        print(f"{name:32} {seconds / len(packets) * 1e6:6.2f} us   {seconds / base:4.1f} x")


if __name__ == "__main__":
    main()
