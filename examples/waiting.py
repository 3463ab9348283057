"""Waiting instead of polling: wake up when something has changed, and see how quickly that was.

    python examples/waiting.py [--demo] [--seconds 5] [EXCHANGE] [SYMBOL ...]
"""
import argparse
import contextlib
import statistics
import time

from streams import StreamManager
from streams.sim import Sandbox


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exchange", nargs="?", default="binance")
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", default=["BTC-USDT", "ETH-USDT"])
    parser.add_argument("--demo", action="store_true", help="a simulated venue on loopback")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; else until Ctrl-C")
    options = parser.parse_args()
    with Sandbox() as sandbox, StreamManager() as market:
        try:
            where = sandbox.options(options.exchange, options.symbols) if options.demo else {}
            market.start(options.exchange, options.symbols, **where)
        except (ValueError, LookupError) as error:  # it says what would be right
            parser.error(str(error))
        market.wait_ready(timeout=10)
        books = market.store.orderbooks[options.exchange]
        with contextlib.suppress(KeyboardInterrupt):
            watch(market.store, books, time.monotonic() + options.seconds)


def watch(store, books, until):
    seen, shown, delays = None, {}, []
    while time.monotonic() < until:
        stamp = store.wait(seen, timeout=1)         # what was seen last, when the time ran out
        if stamp == seen:
            print("nothing for a second")
            continue
        seen = stamp
        delays.append((time.time_ns() - stamp) / 1e6)
        for symbol, book in books.items():
            if shown.get(symbol) != book["last_update"]:
                shown[symbol] = book["last_update"]
                print(symbol, book["status"], book.best_bid, book.best_ask)
    print(f"woken {len(delays)} times, {statistics.median(delays or [0]):.3f} ms after the update (median)")


if __name__ == "__main__":
    main()
