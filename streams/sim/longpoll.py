"""A made-up feed over long-polled HTTP, in XML or JSON.

``GET /feed?symbols=BTC-USDT,ETH-USDT&channels=book,trades&cursor=C&hold=20&fresh=ETH-USDT`` answers with
everything that happened after cursor C, first of all with whole books of the ``fresh`` symbols::

    <feed cursor="1.42">
      <book symbol="ETH-USDT" sequence="2000000007" time="..."><bid price="2499.99" size="1.2"/>...</book>
      <update symbol="BTC-USDT" first="1000000003" last="1000000005" time="...">...<ask .../></update>
      <trade symbol="BTC-USDT" id="7" price="60000.00" size="0.00314" side="buy" time="..."/>
    </feed>

(in JSON ``{"cursor": ..., "book": [...], "update": [...], "trade": [...]}`` with levels as pairs). While
there is nothing, the answer is held for ``hold`` seconds; then it is 204. Without a cursor the feed
begins now, with whole books; with one that the server does not know, likewise, and ``reset`` is set.
Times are milliseconds since the epoch.

``GET /state?symbols=...`` answers with whole books and an ``ETag``; asked again with ``If-None-Match`` it is
held until something has changed, or 304.
"""
from __future__ import annotations

import gzip
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .faults import Fault
from .longpoll_wire import PollFault, Told, render, spoilt
from .market import Book, Instrument, Market, Trade, Update
from .peer import Peer, PeerGone
from .web import Request, Response, WebServer

__all__ = ["LongPollSim", "PollFault"]

_TICK = 0.002           # seconds: faster rates make several updates at once
_MOST_HOLD = 60.0       # seconds
_PACKED_FROM = 200      # bytes; shorter answers are not worth packing


class Entry(NamedTuple):
    """Something that happened."""

    at: int
    channel: str
    symbol: str
    what: Update | Trade


class LongPollSim(WebServer):
    """The server.

    Args:
        symbols: what is traded, like ``BTC-USDT``.
        seed: of the market.
        rate: book updates per second and symbol, made by a background thread; 0: only those that
            `advance` makes.
        format: ``xml`` or ``json``.
        port: 0 picks a free one.
        levels: levels per side of each book, at most.
        memory: how many entries the feed can go back.
        key: what ``Authorization: Bearer`` must carry; None: nothing.
        ssl_context: a server-side context makes it ``https``.
        history: how many updates of each symbol the market remembers, at least.
        clock: nanoseconds since the epoch.

    Attributes:
        market: the oracle; its symbols are written without a hyphen, see `name_of`.
        requests: the last 10,000 requests.
        held: how many requests are held now.
        struck: how often each fault has struck, by name.
    """

    name = "longpoll"

    def __init__(
        self, symbols: Iterable[str] = ("BTC-USDT", "ETH-USDT"), *, seed: int = 1, rate: float = 50.0,
        format: str = "xml", port: int = 0, levels: int = 100, memory: int = 10_000,
        key: str | None = None, ssl_context: ssl.SSLContext | None = None, history: int = 100_000,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if format not in ("xml", "json"):
            raise ValueError(f"format {format!r}: expected 'xml' or 'json'")
        if rate < 0:
            raise ValueError(f"rate {rate}: expected updates per second, or 0 for none")
        super().__init__(port=port, ssl_context=ssl_context)
        self.names = tuple(symbols)
        self._market_names = {name: name.replace("-", "").upper() for name in self.names}
        self.market = Market(list(self._market_names.values()), seed, levels, history, "one", clock)
        self.rate = rate
        self.format = format
        self.key = key
        self.requests: deque[Request] = deque(maxlen=10_000)
        self.struck: Counter[str] = Counter()
        self._clock = clock
        self._log: deque[Entry] = deque(maxlen=memory)
        self._at = 0
        self._life = 1
        self._plans: deque[Fault | None] = deque()
        self._skips = 0
        self._lock = threading.RLock()
        self._held: set[Peer] = set()
        self._engine: threading.Thread | None = None

    # -- the outside ----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``. Threads: any."""
        return self.rest_url

    @property
    def held(self) -> int:
        """How many requests are held now. Threads: any."""
        return len(self._held)

    def book(self, name: str, sequence: int | None = None) -> Book:
        """The true book, see `Market.book`. Threads: any."""
        return self.market.book(self._market_names[name], sequence)

    def advance(self, n: int = 1, symbol: str | None = None) -> None:
        """Make ``n`` updates of every symbol, or of one. Threads: any."""
        with self._lock:
            for _ in range(n):
                for name in self.names if symbol is None else (symbol,):
                    self._move(name)
            held = list(self._held)
        for peer in held:
            peer.wake()
        self.notify()

    def plan(self, *faults: Fault | None) -> None:
        """One entry for each of the next requests, in order; None is a healthy one. Threads: any."""
        with self._lock:
            for fault in faults:
                if fault is not None and fault.name == "skip":
                    self._skips += 1
                else:
                    self._plans.append(fault)

    def clear_faults(self) -> None:
        """Forget all plans. Threads: any."""
        with self._lock:
            self._plans.clear()
            self._skips = 0

    def restart(self, forget: bool = False) -> None:
        """Stop, closing all connections, and start again on the same port; with ``forget`` without
        any memory of what was, so that no cursor is known any more. Threads: any but its own."""
        self.stop()
        if forget:
            with self._lock:
                self._log.clear()
                self._life += 1
        self.start()

    def start(self) -> None:
        """Listen, and let the market move."""
        was_stopped = self.stopping.is_set()
        super().start()
        if was_stopped and self.rate:
            self._engine = threading.Thread(target=self._run, name="sim-longpoll-market", daemon=True)
            self._engine.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop the market, close everything."""
        deadline = time.monotonic() + timeout
        gone = super().stop(timeout)
        if self._engine is not None:
            self._engine.join(max(0.0, deadline - time.monotonic()))
            gone = gone and not self._engine.is_alive()
        return gone

    # -- the market ------------------------------------------------------------------------------

    def _run(self) -> None:
        begun = time.monotonic()
        done = 0
        while not self.stopping.wait(max(_TICK, begun + (done + 1) / self.rate - time.monotonic())):
            due = int((time.monotonic() - begun) * self.rate)
            done = max(done, due - int(self.rate) - 1)      # no more than a second is made up for
            self.advance(due - done)
            done = due

    def _move(self, name: str) -> None:
        update = self.market.step(self._market_names[name])
        for trade in update.trades:
            self._note("trades", name, trade)
        if self._skips:
            self._skips -= 1
            self.struck["skip"] += 1
        elif update.bids or update.asks:
            self._note("book", name, update)

    def _note(self, channel: str, name: str, what: Update | Trade) -> None:
        self._at += 1
        self._log.append(Entry(self._at, channel, name, what))

    # -- requests ----------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Answer one request, held if need be."""
        with self._lock:
            self.requests.append(request)
            fault = self._plans.popleft() if self._plans else None
            if fault is not None:
                self.struck[fault.name] += 1
        self.notify()
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return _text(401, "who are you?")
        if fault is None or fault.name in ("half", "stall", "drip"):
            return self._spoil(fault, request, self._answer(request))
        return self._fail(fault, request)

    def _answer(self, request: Request) -> Response:
        if request.method != "GET" or request.path not in ("/feed", "/state"):
            return _text(404, "there are GET /feed and GET /state")
        names = [name for name in request.query.get("symbols", "").split(",") if name]
        unknown = [name for name in names if name not in self._market_names]
        if unknown or not names:
            return _text(404, f"unknown symbols: {', '.join(unknown) or 'none asked for'}")
        try:
            hold = min(float(request.query.get("hold", "20")), _MOST_HOLD)
        except ValueError:
            return _text(400, "hold must be a number of seconds")
        deadline = time.monotonic() + hold
        find = self._state if request.path == "/state" else self._feed
        with self._holding(request.peer):
            while True:
                answer = find(request, names)
                if answer is not None:
                    return self._packed(request, answer)
                left = deadline - time.monotonic()
                if left <= 0:
                    return Response(304 if request.path == "/state" else 204)
                if request.peer.recv(left) == b"":
                    raise PeerGone("the client did not wait")

    def _holding(self, peer: Peer) -> _Holding:
        return _Holding(self, peer)

    def _feed(self, request: Request, names: list[str]) -> Response | None:
        channels = request.query.get("channels", "book,trades").split(",")
        fresh = [name for name in request.query.get("fresh", "").split(",") if name in names]
        with self._lock:
            at, reset = self._position(request.query.get("cursor"))
            if at is None:
                at = self._at
                fresh = names if "book" in channels else []
            entries = []
            for entry in reversed(self._log):
                if entry.at <= at:
                    break
                if entry.symbol in names and entry.channel in channels:
                    entries.append((entry.symbol, self._instrument(entry.symbol), entry.what))
            if not entries and not fresh and not reset and request.query.get("cursor"):
                return None
            return self._told(f"{self._life}.{self._at}", fresh, entries[::-1], reset)

    def _position(self, cursor: str | None) -> tuple[int | None, bool]:
        """(after which entry, whether that had to be given up)."""
        if not cursor:
            return None, False
        life, _, at = cursor.partition(".")
        oldest = self._log[0].at if self._log else self._at + 1
        if life != str(self._life) or not at.isdigit() or not oldest - 1 <= int(at) <= self._at:
            return None, True
        return int(at), False

    def _state(self, request: Request, names: list[str]) -> Response | None:
        with self._lock:
            tag = '"' + "-".join(str(self.book(name).sequence) for name in names) + '"'
            if request.headers.get("if-none-match") == tag:
                return None
            answer = self._told("", names, [])
        return Response(200, answer.body, (("ETag", tag),), answer.content_type)

    def _told(
        self, cursor: str, whole: list[str], events: list[tuple[str, Instrument, Update | Trade]],
        reset: bool = False,
    ) -> Response:
        books = [(name, self.book(name)) for name in whole]
        return render(Told(cursor, reset, self._clock() // 1_000_000, books, events), self.format)

    def _instrument(self, name: str) -> Instrument:
        return self.market[self._market_names[name]].instrument

    def _packed(self, request: Request, answer: Response) -> Response:
        if len(answer.body) < _PACKED_FROM or "gzip" not in request.headers.get("accept-encoding", ""):
            return answer
        return Response(
            answer.status, gzip.compress(answer.body, 1), (*answer.headers, ("Content-Encoding", "gzip")),
            answer.content_type)

    # -- what goes wrong -------------------------------------------------------------------------

    def _spoil(self, fault: Fault | None, request: Request, answer: Response) -> Response:
        if fault is None:
            return answer
        wire, peer = answer.encode(request.method), request.peer
        if fault.name == "drip":
            pause = fault.number("seconds") / len(wire)
            for at in range(len(wire)):
                peer.send(wire[at:at + 1])
                if peer.recv(pause, read=False) == b"":
                    break
            raise PeerGone("dripped")
        peer.send(wire[:len(wire) - len(answer.body) // 2 - 1])
        if fault.name == "stall":
            peer.wait_gone()
        raise PeerGone(fault.name)

    def _fail(self, fault: Fault, request: Request) -> Response:
        name, peer = fault.name, request.peer
        if name == "hang":
            peer.wait_gone()
            raise PeerGone(name)
        if name in ("drop", "reset"):
            peer.end("drop" if name == "drop" else "reset")
            raise PeerGone(name)
        if name == "later":
            after = fault.text("retry_after")
            return Response(int(fault.number("status")), b"", (("Retry-After", after),) if after else ())
        if name == "status":
            status = int(fault.number("status"))
            where = (("Location", "/elsewhere"),) if status in (301, 302) else ()
            return Response(status, b"no", where, "text/plain")
        with self._lock:
            cursor = f"{self._life}.{self._at}"
        return spoilt(fault, self.format, self.names[0], cursor)


class _Holding:
    """While a request is held."""

    def __init__(self, sim: LongPollSim, peer: Peer) -> None:
        self._sim = sim
        self._peer = peer

    def __enter__(self) -> None:
        with self._sim._lock:
            self._sim._held.add(self._peer)
        self._sim.notify()

    def __exit__(self, *exc_info: object) -> None:
        with self._sim._lock:
            self._sim._held.discard(self._peer)
        self._sim.notify()


def _text(status: int, text: str) -> Response:
    return Response(status, text.encode(), (), "text/plain")
