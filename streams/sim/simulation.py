"""A venue whose data comes from a seeded market."""
from __future__ import annotations

import math
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from .market import Instrument, Market, Update
from .venue import VenueServer

_TICK = 0.002           # seconds: faster rates send several updates at once
_MAX_BACKLOG = 1.0      # seconds of updates that are made up for after a pause of the machine
_HIGH_WATER = 1 << 20   # bytes that may wait for a client before `advance` waits for it
_BATCH = 32             # updates between two flushes


class MarketSim(VenueServer):
    """A simulated venue; derive from it and write `emit` and the REST answers.

    Args:
        symbols: what is traded.
        seed: of the market.
        rate: book updates per second and symbol, made by a background thread; 0: none, the
            market moves when `advance` is called, and only then.
        port: 0 picks a free one.
        levels: levels per side of each book, at most.
        ssl_context: a server-side context makes it ``wss`` and ``https``.
        history: how many updates of each symbol the market remembers, at least.
        stream_lag: how many updates the stream is behind the market; snapshots are ahead of it.
        slow_every: topics that the venue pushes every second or so come with every n-th update.
        patience: how many seconds `advance` waits for a client whose buffer is full.
        clock: nanoseconds since the epoch; what the messages carry.
        send_limit: bytes that may wait for a client that does not read; beyond, it is dropped.

    Attributes:
        market: the oracle.
    """

    id_step = "one"

    def __init__(self, symbols: Iterable[str | Instrument], *, seed: int = 1,
                 rate: float = 50.0, port: int = 0, levels: int = 1000,
                 ssl_context: ssl.SSLContext | None = None, history: int = 100_000,
                 stream_lag: int = 0, slow_every: int = 10, patience: float = 5.0,
                 clock: Callable[[], int] = time.time_ns, send_limit: int = 16 << 20) -> None:
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate {rate}: expected updates per second, or 0 for none")
        if stream_lag < 0:
            raise ValueError(f"stream_lag {stream_lag}: expected 0 or more updates")
        if slow_every < 1:
            raise ValueError(f"slow_every {slow_every}: expected 1 or more updates")
        self.market = Market(symbols, seed, levels, history, self.id_step, clock)
        super().__init__(port=port, ssl_context=ssl_context, send_limit=send_limit)
        self.rate = rate
        self.stream_lag = stream_lag
        self.slow_every = slow_every
        self.patience = patience
        self._waiting: dict[str, deque[Update]] = {
            symbol: deque() for symbol in self.market.symbols}
        self._engine: threading.Thread | None = None
        for _ in range(3 * slow_every):         # so that a stale book can be asked for at once
            for symbol in self.market.symbols:
                self.observe(self.market.step(symbol))

    # -- to be written by venues ----------------------------------------------------------------

    def observe(self, update: Update) -> None:
        """The market moved: keep what messages will need (bars, totals). While `publishing`."""

    def emit(self, update: Update) -> None:
        """Publish what an update means to subscribers. While `publishing` is held."""
        raise NotImplementedError

    # -- the market's time ----------------------------------------------------------------------

    def start(self) -> None:
        """Listen, and let the market move."""
        was_stopped = self.stopping.is_set()
        super().start()
        if was_stopped and self.rate:
            self._engine = threading.Thread(target=self._run, name=f"sim-{self.name}-market",
                                            daemon=True)
            self._engine.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop the market, close everything."""
        deadline = time.monotonic() + timeout
        gone = super().stop(timeout)
        engine = self._engine
        if engine is not None and engine is not threading.current_thread():
            engine.join(max(0.0, deadline - time.monotonic()))
            gone = gone and not engine.is_alive()
        return gone

    def advance(self, n: int = 1, symbol: str | None = None) -> None:
        """Make ``n`` updates of every symbol (or of one) and send them to the subscribers.

        When a client cannot keep up, this waits for it, ``patience`` seconds at most.

        Threads: any; two at once take turns.

        Raises:
            LookupError: an unknown symbol.
            ValueError: a negative ``n``.
        """
        if n < 0:
            raise ValueError(f"advance {n}: expected 0 or more updates")
        symbols = self.market.symbols if symbol is None else (self.market.known(symbol),)
        done = 0
        while done < n:
            with self.publishing:
                for _ in range(min(_BATCH, n - done)):
                    self._move(symbols)
                    done += 1
                self.flush()
            self._give_way()

    def _move(self, symbols: Iterable[str]) -> None:
        for name in symbols:
            with self.market.lock:
                update = self.market.step(name)
                self.observe(update)
            waiting = self._waiting[name]
            waiting.append(update)
            if len(waiting) > self.stream_lag:
                self.emit(waiting.popleft())

    def _give_way(self) -> None:
        """Let clients read, and let those in who subscribe or ask for a snapshot."""
        deadline = time.monotonic() + self.patience
        while self.publishing.waiting or any(
                conn.peer.pending > _HIGH_WATER for conn in self.connections):
            if self.stopping.wait(0.0005) or time.monotonic() > deadline:
                return

    def _run(self) -> None:
        begun = time.monotonic()
        done = 0
        while not self.stopping.wait(max(_TICK, begun + (done + 1) / self.rate
                                         - time.monotonic())):
            due = int((time.monotonic() - begun) * self.rate)
            backlog = max(1, int(self.rate * _MAX_BACKLOG))
            if due - done > backlog:
                done = due - backlog
            with self.publishing:
                while done < due and not self.stopping.is_set():
                    self._move(self.market.symbols)
                    done += 1
                self.flush()
