"""A market published on Redis: a real ``redis-server`` on loopback, and somebody who publishes on it.

On the channel ``book.BTC-USDT`` come changes of the book, numbered one by one, and now and then all of it::

    {"snapshot": true, "sequence": 41, "timestamp": 1760000000000000000, "bids": [[60000.1, 0.5], ...], ...}
    {"snapshot": false, "sequence": 42, "timestamp": ..., "bids": [[60000.1, 0.0]], "asks": []}

and on ``trades.BTC-USDT`` its trades (``symbol price size side id timestamp``). Times are nanoseconds since
the epoch.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from .market import Book, Market, Update

_TICK = 0.002           # seconds: faster rates make several updates at once
_PATIENCE = 10.0        # seconds that the server may take to start, or to answer
_ATTEMPTS = 3           # somebody else may take the free port first

# The server ends with whoever started it, however that ends: its standard input does, too.
_KEEPER = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
try:
    sys.stdin.buffer.read()
finally:
    server.kill()
    server.wait()
"""


class RedisSim:
    """The server, and the publisher.

    Args:
        symbols: what is traded, like ``BTC-USDT``.
        seed: of the market.
        rate: book updates per second and symbol, made by a background thread; 0: only those that
            `advance` makes.
        levels: levels per side of each book, at most.
        whole_every: updates of a symbol from one whole book to the next.
        history: how many updates of each symbol the oracle remembers, at least.
        clock: nanoseconds since the epoch.

    Attributes:
        market: the oracle; its symbols are written without a hyphen, its books are found by `book`.

    Raises:
        LookupError: there is no ``redis-server`` on the path.
    """

    name = "redis"

    def __init__(
        self, symbols: Iterable[str] = ("BTC-USDT", "ETH-USDT"), *, seed: int = 1, rate: float = 50.0,
        levels: int = 100, whole_every: int = 20, history: int = 100_000,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise LookupError("there is no redis-server on PATH")
        self._program = program
        self._names = {name: name.replace("-", "").upper() for name in symbols}
        self.market = Market(list(self._names.values()), seed, levels, history, "one", clock)
        self.rate = rate
        self.port = 0
        self._whole_every = whole_every
        self._clock = clock
        # By name: the ids of the market's updates, and the number of the last one as it was published.
        self._ids: dict[str, deque[int]] = {name: deque(maxlen=history) for name in self._names}
        self._numbers = dict.fromkeys(self._names, 0)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._wire: socket.socket | None = None
        self._answers = b""
        self._engine: threading.Thread | None = None

    def __enter__(self) -> RedisSim:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT``. Threads: any."""
        return f"redis://127.0.0.1:{self.port}"

    def book(self, name: str, number: int | None = None) -> Book:
        """The true book after the update that was published as ``number``, or now. Threads: any."""
        with self._lock:
            if number is None:
                return self.market.book(self._names[name])
            ids = self._ids[name]
            return self.market.book(self._names[name], ids[number - self._numbers[name] - 1])

    def start(self) -> None:
        """Start the server, and let the market move.

        Raises:
            OSError: the server does not start.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="streams-redis-")
        try:
            self._wire = self._launch()
        except BaseException:
            self.stop()
            raise
        self._stopping.clear()
        self.advance(0)
        if self.rate:
            self._engine = threading.Thread(target=self._run, name="sim-redis-market", daemon=True)
            self._engine.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop the market, and kill the server. Whether both are gone within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._stopping.set()
        if self._engine is not None:
            self._engine.join(timeout)
        if self._wire is not None:
            self._wire.close()
        gone = self._end_keeper(deadline)
        if self._folder is not None:
            self._folder.cleanup()
        return gone and not (self._engine is not None and self._engine.is_alive())

    def advance(self, n: int = 1) -> None:
        """Make ``n`` updates of every symbol and publish them; 0 publishes all books. Threads: any.

        Raises:
            OSError: the server is gone.
        """
        with self._lock:
            messages: list[tuple[str, dict[str, Any]]] = []
            for name in self._names:
                if not n:
                    messages.append(self._whole(name))
                for _ in range(n):
                    messages += self._move(name)
            self._publish(messages)

    # -- the market ------------------------------------------------------------------------------

    def _run(self) -> None:
        begun, done = time.monotonic(), 0
        # When the server is killed there is nothing more to do, and nobody to tell.
        with contextlib.suppress(OSError):
            while not self._stopping.wait(max(_TICK, begun + (done + 1) / self.rate - time.monotonic())):
                due = int((time.monotonic() - begun) * self.rate)
                done = max(done, due - int(self.rate) - 1)      # no more than a second is made up for
                if due > done:
                    self.advance(due - done)
                done = due

    def _move(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        update = self.market.step(self._names[name])
        self._ids[name].append(update.last)
        self._numbers[name] += 1
        instrument = self.market[self._names[name]].instrument
        messages = [(f"trades.{name}", {
            "symbol": name, "price": float(trade.tick * instrument.tick), "id": str(trade.id),
            "size": float(trade.lots * instrument.lot), "side": "sell" if trade.seller_aggressed else "buy",
            "timestamp": trade.time}) for trade in update.trades]
        messages.append(self._change(name, update))
        if self._numbers[name] % self._whole_every == 0:
            messages.append(self._whole(name))
        return messages

    def _change(self, name: str, update: Update) -> tuple[str, dict[str, Any]]:
        instrument = self.market[self._names[name]].instrument
        bids, asks = ([(abs(key) * instrument.tick, lots * instrument.lot) for key, lots in side.items()]
                      for side in (update.bids, update.asks))
        return self._book(name, False, update.time, bids, asks)

    def _whole(self, name: str) -> tuple[str, dict[str, Any]]:
        book = self.market.book(self._names[name])
        return self._book(name, True, self._clock(), book.bids, book.asks)

    def _book(self, name: str, whole: bool, moment: int, *sides: Iterable[tuple[Decimal, Decimal]],
              ) -> tuple[str, dict[str, Any]]:
        bids, asks = ([[float(price), float(size)] for price, size in side] for side in sides)
        return f"book.{name}", {"snapshot": whole, "sequence": self._numbers[name], "timestamp": moment,
                                "bids": bids, "asks": asks}

    # -- the server ------------------------------------------------------------------------------

    def _launch(self) -> socket.socket:
        """Start it; a connection to it."""
        assert self._folder is not None
        for attempt in range(_ATTEMPTS):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            apart: dict[str, Any] = {"start_new_session": True}     # Ctrl-C is for whoever started it
            if sys.platform == "win32":
                apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", _KEEPER, self._program, "--bind", "127.0.0.1", "--port",
                 str(self.port), "--save", "", "--appendonly", "no", "--dir", self._folder.name],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **apart)
            deadline = time.monotonic() + _PATIENCE / _ATTEMPTS
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    return socket.create_connection(("127.0.0.1", self.port), _PATIENCE)
                time.sleep(0.01)        # nothing tells when another process listens
            self._end_keeper(time.monotonic() + 1.0)
        raise OSError(f"{self._program} does not start")

    def _end_keeper(self, deadline: float) -> bool:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return True
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":
                keeper.kill()
            else:
                os.killpg(keeper.pid, signal.SIGKILL)       # the server, too
            keeper.wait()
            return False
        return True

    def _publish(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        assert self._wire is not None
        self._wire.sendall(b"".join(
            _command(b"PUBLISH", channel.encode(), json.dumps(message).encode())
            for channel, message in messages))
        answered = 0
        while answered < len(messages):
            data = self._wire.recv(65536)
            if not data:
                raise ConnectionError("the server is gone")
            self._answers += data
            *lines, self._answers = self._answers.split(b"\r\n")
            answered += len(lines)


def _command(*words: bytes) -> bytes:
    """A command as Redis takes it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
