"""A service that ends well: Ctrl-C and SIGTERM stop the threads, and the exit code says which it was.

    python examples/shutdown.py [--demo] [--seconds 5]

Leaving the ``with`` block stops everything, so all there is to do is to leave it: Ctrl-C raises
KeyboardInterrupt by itself, and a handler makes SystemExit of SIGTERM. No thread has to be asked, joined or
told about signals.
"""
import argparse
import signal
import sys
import threading
import time

from streams import StreamManager
from streams.sim import Sandbox


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="simulated venues on loopback")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; else until a signal")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        with Sandbox() as sandbox, StreamManager() as market:
            for exchange in ("binance", "huobi"):
                where = sandbox.options(exchange) if options.demo else {}
                market.start(exchange, ["BTC-USDT"], **where)
            market.wait_ready(timeout=10)
            print("running", flush=True)
            work(market, began + options.seconds)
            asked = time.monotonic()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        print(f"ended after {time.monotonic() - began:.1f} s, threads left: {others or 'none'}", flush=True)
    print(f"stopping took {time.monotonic() - asked:.3f} s")


def work(market, until):
    while time.monotonic() < until:
        for exchange in ("binance", "huobi"):
            print(exchange, market.store.orderbooks[exchange]["BTC-USDT"].mid, flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
