"""The classic loop: read a shared dict of order books and tickers whenever it has changed.

    python examples/polling.py binance BTC-USDT ETH-USDT huobi BTC-USDT
    python examples/polling.py --demo nasdaq-itch AAPL longpoll-xml BTC-USDT
    python examples/polling.py --demo --channels ticker alpaca AAPL polygon AAPL

It is the same code for every transport: only the names passed to start() differ.
"""
import argparse
import contextlib
import time

from streams import EXCHANGES, StreamManager
from streams.sim import Sandbox


def main():
    parser = arguments()
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox()) if options.demo else None
        market = stack.enter_context(StreamManager())           # stops its threads, whatever happens
        try:
            for exchange, symbols in by_exchange(options.names).items():
                where = sandbox.options(exchange, symbols) if sandbox else {}
                market.start(exchange, symbols, channels=options.channels, **where)
        except (ValueError, LookupError) as error:              # it says what would be right
            parser.error(str(error))
        market.wait_ready(timeout=10)
        poll(market.store, time.monotonic() + options.seconds)


def poll(store, until):
    seen = None
    while time.monotonic() < until:
        if store.last_update != seen:
            with store.lock:                                    # one consistent moment over all venues
                seen = store.last_update
                for exchange, books in store.orderbooks.items():
                    for symbol, book in books.items():
                        print(exchange, symbol, book["status"], book.best_bid, book.best_ask)
                for exchange, tickers in store.tickers.items():
                    for symbol, ticker in tickers.items():
                        print(exchange, symbol, "last", ticker.last, "bid", ticker.bid, "ask", ticker.ask)
        time.sleep(0.1)


def by_exchange(names):
    """binance BTC-USDT ETH-USDT huobi BTC-USDT -> {"binance": ["BTC-USDT", "ETH-USDT"], "huobi": [...]}"""
    symbols = {}
    for name in names:
        if name in EXCHANGES:
            latest = symbols.setdefault(name, [])
        elif symbols:
            latest.append(name)
        else:
            raise ValueError(f"{name!r} is no exchange; begin with one, like 'binance BTC-USDT'; there are: "
                             + ", ".join(EXCHANGES))
    for exchange, names in symbols.items():
        if not names:
            raise ValueError(f"{exchange} has no symbol behind it; name some, like '{exchange} BTC-USDT'")
    return symbols


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="EXCHANGE SYMBOL ...",
                        default=["binance", "BTC-USDT", "ETH-USDT", "huobi", "BTC-USDT"])
    parser.add_argument("--channels", type=lambda names: names.split(","), default=["book"])
    parser.add_argument("--demo", action="store_true", help="simulated venues on loopback")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; else until Ctrl-C")
    return parser


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
