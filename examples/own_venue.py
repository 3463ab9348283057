"""A source of one's own: a made-up binary protocol over TCP. With ``--demo`` its server runs along.

Messages have two bytes of length in front. ``S`` + symbol subscribes, ``A`` + symbol confirms it, and
``T`` + symbol, price (1/10000), size and time (ns) is a trade; symbols are eight bytes of ASCII.
"""
import argparse
import struct
import time

from streams import Stream, Trade
from streams.venue import Acked, Limits, Malformed, Venue

TRADE = struct.Struct(">c8sqIq")


class AcmeVenue(Venue):
    name, url, carrier = "acme", "tcp://127.0.0.1:7000", "tcp"
    channels = ("trades",)
    limits = Limits(topics=500, batch=1, messages=(1000, 1.0))

    def transport_options(self):
        return {"framing": "length", "width": 2}

    def topics(self, channel, native):
        return (native,)

    def subscribe(self, topics):
        return [b"S" + topic.encode().ljust(8) for topic in topics]

    def unsubscribe(self, topics):
        return [b"U" + topic.encode().ljust(8) for topic in topics]

    def receive(self, raw, now):
        if raw[:1] == b"A":
            return [(self.session, Acked([raw[1:].decode("ascii", "replace").strip()]))]
        if raw[:1] != b"T" or len(raw) != TRADE.size:
            return [(self.session, Malformed(f"{len(raw)} bytes of kind {raw[:1]!r}"))]
        _, symbol, price, size, when = TRADE.unpack(raw)
        route = self.routes.get(("trades", symbol.decode("ascii", "replace").strip()))
        return [] if route is None else [(route, Trade(
            exchange=self.name, symbol=route.symbol, timestamp=when, received=now, price=price / 1e4,
            size=size))]


class Acme(Stream):
    venue = AcmeVenue


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="its server runs along")
    if parser.parse_args().demo:
        import own_venue_server
        own_venue_server.start(port=7000)
    acme = Acme(["ACME"], ["trades"])
    acme.on(r"acme\.trades\..+", lambda trade: print(trade.symbol, trade.price, trade.size))
    acme.start()
    time.sleep(5)
    acme.stop()
