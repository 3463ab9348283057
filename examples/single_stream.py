"""One venue without a manager: a stream is a thread, started and stopped like any other.

    python examples/single_stream.py [--demo] [--seconds 5] [SYMBOL ...]
"""
import argparse
import contextlib
import time

import streams
from streams.sim import Sandbox


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", default=["BTC-USDT"])
    parser.add_argument("--demo", action="store_true", help="a simulated venue on loopback")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; else until Ctrl-C")
    options = parser.parse_args()
    with Sandbox() as sandbox:
        store = streams.Store()
        try:
            where = sandbox.options("binance", options.symbols) if options.demo else {}
            binance = streams.Binance(options.symbols, ["book", "trades"], store=store, **where)
        except ValueError as error:                 # a symbol; it says what would be right
            parser.error(str(error))
        binance.start()
        try:
            show(store, time.monotonic() + options.seconds)
        finally:
            stopped = binance.stop()
    status = binance.status()
    print(f"stopped: {stopped}; {status['messages']} messages, {status['gaps']} gaps, "
          f"{status['reconnects']} reconnects; state {status['state']}")


def show(store, until):
    while time.monotonic() < until:
        for symbol, book in store.orderbooks.get("binance", {}).items():
            bids, asks = book.depth(3)              # both sides of one moment
            print(symbol, book["status"], "bids", *bids, "asks", *asks)
        time.sleep(0.5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
