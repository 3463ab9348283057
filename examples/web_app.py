"""A web application that shows live books: streams in the background, plain requests in front.

    python examples/web_app.py --demo --port 8000        then open http://127.0.0.1:8000/
    gunicorn --chdir examples web_app:application        each worker has streams of its own

It is a WSGI application of the standard library; in Flask or Django the body of a view looks the same.
What matters is in market(): streams are started by the process that serves requests, when it is first
asked, because threads do not survive a fork.
"""
import argparse
import atexit
import functools
import json
import signal
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

from streams import NoData, StaleData, StreamManager
from streams.sim import Sandbox

BOOKS = {"binance": ["BTC-USDT", "ETH-USDT"], "huobi": ["BTC-USDT"]}
WHERE = {exchange: {} for exchange in BOOKS}            # --demo puts addresses on loopback here


_first = threading.Lock()           # of several requests at once, functools.cache would have each make one


def market():
    with _first:
        return _market()


@functools.cache
def _market():
    manager = StreamManager()
    atexit.register(manager.stop)
    for exchange, symbols in BOOKS.items():
        manager.start(exchange, symbols, **WHERE[exchange])
    return manager


def application(environ, start_response):
    """``/`` is how everything is, ``/binance/BTC-USDT`` one book that is no older than five seconds."""
    exchange, _, symbol = environ["PATH_INFO"].strip("/").partition("/")
    status, body = "200 OK", {}
    try:
        if exchange:
            book = market().store.orderbook(exchange, symbol, max_age=5)
            bids, asks = book.depth(5)
            body = {"bids": bids, "asks": asks, "age": book.age}
        else:
            body = {stream["exchange"]: {"state": stream["state"], "messages": stream["messages"]}
                    for stream in market().status()["streams"]}
    except StaleData as error:
        status, body = "503 Service Unavailable", {"error": str(error), "age": error.age}
    except NoData as error:
        status, body = "404 Not Found", {"error": str(error)}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        """No line for each request."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="simulated venues on loopback")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, help="how long; else until Ctrl-C")
    options = parser.parse_args()
    with Sandbox() as sandbox, make_server("127.0.0.1", options.port, application,
                                           handler_class=Quiet) as server:
        if options.demo:
            WHERE.update({exchange: sandbox.options(exchange) for exchange in BOOKS})
        # The server swallows exceptions during a request, KeyboardInterrupt among them, so it is asked to
        # end; by another thread, since shutdown() waits for the loop that this one runs.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        with market():
            print(f"http://127.0.0.1:{server.server_port}/", flush=True)
            if options.seconds is not None:
                timer = threading.Timer(options.seconds, server.shutdown)
                timer.daemon = True
                timer.start()
            server.serve_forever()


if __name__ == "__main__":
    main()
