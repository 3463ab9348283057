"""Trades of all NVDA options, and a REST look-up of each contract that trades, while the stream goes on.

    python examples/options_lookup.py --demo            a burst on a simulated venue
    POLYGON_API_KEY=... python examples/options_lookup.py --seconds 60

The handler only notes the trade, and hands what takes long to market.submit(): a few worker threads call
REST through market.rest(), which knows the venue's address, key, limit and time-outs.
"""
import argparse
import collections
import contextlib
import threading
import time

from streams import StreamManager
from streams.sim import Sandbox

CONTRACTS = [f"O:NVDA261218{side}{strike:05}000" for side in "CP" for strike in range(150, 250, 10)]


class Contracts:
    """What is known of every contract that has traded."""

    def __init__(self, market):
        self.market = market
        self.trades = collections.Counter()
        self.details = {}
        self.failures = {}
        self.longest_silence = 0.0
        self._last = None
        self._lock = threading.Lock()

    def on_trade(self, trade):
        """Called for every trade, in the handler's own thread."""
        now = time.monotonic()
        with self._lock:
            self.longest_silence = max(self.longest_silence, now - (self._last or now))
            self._last = now
            self.trades[trade.symbol] += 1
            new = self.trades[trade.symbol] == 1
        if new:
            self.market.submit(self.look_up, trade.symbol)

    def look_up(self, symbol):
        """Called in a worker thread; takes as long as it takes."""
        try:
            answer = self.market.rest("polygon").get(f"/v3/reference/options/contracts/{symbol}")
            answer.raise_for_status()
            found = answer.json()["results"]
        except Exception as error:
            with self._lock:
                self.failures[symbol] = error
            return
        with self._lock:
            self.details[symbol] = found
            print(f"{symbol}: {found['contract_type']}, strike {found['strike_price']}, expires "
                  f"{found['expiration_date']}; {self.trades[symbol]} trades so far", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="a simulated venue on loopback, with a burst")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with Sandbox() as sandbox, StreamManager() as market:
        where = sandbox.options("polygon", CONTRACTS) if options.demo else {}
        contracts = Contracts(market)
        market.on(r"polygon\.trades\.O:NVDA.*", contracts.on_trade, maxsize=10_000)
        try:
            market.start("polygon", ["O:NVDA*"], channels=["trades"], market="options", **where)
        except ValueError as error:                 # no key; it says where one is looked for
            parser.error(str(error))
        if options.demo:
            burst(sandbox.venue("polygon"), market)
        time.sleep(options.seconds)
        lost = sum(handler["dropped"] for handler in market.status()["handlers"])
    print(f"{sum(contracts.trades.values())} trades of {len(contracts.trades)} contracts, {lost} lost; "
          f"{len(contracts.details)} looked up, {len(contracts.failures)} look-ups failed; "
          f"at most {contracts.longest_silence:.3f} s between two trades")


def burst(venue, market):
    """Two thousand trades at once, at a venue whose REST answers take a tenth of a second."""
    venue.rest_delay = 0.1
    while not all(topic["state"] == "live" for stream in market.status()["streams"]
                  for topic in stream["subscriptions"].values()):
        time.sleep(0.01)
    venue.burst("O:NVDA*", 2000)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
